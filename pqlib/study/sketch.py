"""The first draft's search, kept as a method to measure against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pqlib.indexes import MultiLevelPQ

FloatMatrix = NDArray[np.float32]
IdArray = NDArray[np.int64]

TIE_TOLERANCE = 1e-5  # of a squared distance, which both searches sum in float32


def sketch_search(index: MultiLevelPQ, k: int, xq: FloatMatrix) -> tuple[FloatMatrix, IdArray]:
    """Search as the first draft did: one list a query, a Python loop over its codes.

    The only loop over codes in this package: it is what is measured.

    Parameters
    ----------
    index : filled, without ids of its own
    k : neighbours
    xq : (nq, d) float32

    Returns
    -------
    distances : (nq, k) float32, squared L2, ascending; inf where the list holds fewer
    ids : (nq, k) int64, -1 where the list holds fewer
    """
    distances = np.full((len(xq), k), np.inf, np.float32)
    ids = np.full((len(xq), k), -1, np.int64)
    for row, query in enumerate(xq):
        cluster = int(index.clustering.probe(query[None], 1)[1][0, 0])
        positions, codes = index.list_content(cluster)
        if len(positions) == 0:
            continue
        quantizer = index.quantizer(cluster)
        table = quantizer.distance_table((query - index.clustering.inner[cluster])[None])[0]
        sums = []
        for code in quantizer.unpack(codes):
            sums.append(sum(table[j][code[j]] for j in range(quantizer.m)))
        best = np.argsort(sums, kind="stable")[:k]
        distances[row, : len(best)] = np.array(sums)[best]
        ids[row, : len(best)] = positions[best]
    return distances, ids


def check_same_answers(index: MultiLevelPQ, xq: FloatMatrix, ids: IdArray, other: IdArray) -> None:
    """Raise RuntimeError where ``ids`` and ``other`` (nq, k) differ by more than ties.

    Ids that only one of the two has must lie as far from the query as the last of the other,
    by the codes, in float64.
    """
    for query, one, two in zip(xq, ids, other, strict=True):
        found = [set(map(int, row[row >= 0])) for row in (one, two)]
        differing = found[0] ^ found[1]
        same = len(found[0]) == len(found[1])
        if differing and same:
            members = np.array(sorted(found[0] | found[1]))
            gap = index.reconstruct(members).astype(np.float64) - query
            distance = dict(zip(members.tolist(), (gap**2).sum(axis=1), strict=True))
            last = max(distance[i] for i in found[0])
            residual = index.clustering.probe(query[None], 1)[0][0, 0]
            allowed = TIE_TOLERANCE * max(last, float(residual))
            same = all(abs(distance[i] - last) <= allowed for i in differing)
        if not same:
            raise RuntimeError(
                "the sketch's search and the index with per-cluster codebooks found different "
                f"neighbours of a query: {sorted(found[1])} and {sorted(found[0])}. One of the "
                "two is wrong, and their times cannot be compared."
            )
