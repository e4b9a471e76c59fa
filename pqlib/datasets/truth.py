"""Exact nearest neighbours: computed in blocks, cached, and checked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
from faiss.contrib.exhaustive_search import knn_ground_truth
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib import _checks, _metric
from pqlib._blocks import blocks
from pqlib._file import IndexFile, array_section, write
from pqlib._types import FloatMatrix

IdMatrix = NDArray[np.int64]

NEIGHBORS = 100
"""Neighbours of a ground truth, as in ann-benchmarks; fewer when the base is smaller."""

KIND = "exact neighbours"
"""Of a file that holds them, with checksums."""

# float32 search may misplace near ties; this many more candidates are re-ranked in float64.
SPARE = 28
BASE_BLOCK = 1 << 27
"""Bytes of base vectors compared at a time."""


def exact_neighbors(
    base: FloatMatrix,
    queries: FloatMatrix,
    k: int = NEIGHBORS,
    progress: bool = True,
    metric: str = "l2",
) -> tuple[IdMatrix, FloatMatrix]:
    """Return the ``k`` nearest base vectors of each query, or the most similar ones.

    Candidates come from float32 search over blocks of the base; they are ranked by float64
    distances, ties by id. Where rounding may have cost a candidate, they are searched again
    without the step that loses digits.

    Parameters
    ----------
    base : (n, d) float32, may be a memory map
    queries : (nq, d) float32
    k : neighbours; n when the base has fewer
    metric : "l2", "cosine" or "ip". The cosine with a zero vector is 0

    Returns
    -------
    neighbors : (nq, k) int64
    distances : (nq, k) float32, plain L2, ascending; of "cosine" and "ip" similarities, descending

    Raises
    ------
    ValueError
        When there is no such metric.
    """
    if _checks.choice("metric", metric, _metric.METRICS) != "l2":
        return _most_similar(base, queries, min(k, len(base)), progress, metric)
    n, d = base.shape
    k = min(k, n)
    kept = min(n, k + SPARE)
    near, ids = _candidates(base, queries, kept, progress)
    neighbors, squared = ranked(base, queries, ids, k)
    # What was not kept is no nearer than the last that was, up to the error of |q|^2 - 2qx + |x|^2
    # in float32 sums of d terms.
    reach = np.sqrt(_squared_norms(queries)) + np.sqrt(_squared_norms(base).max())
    error = (d + 4) * 2.0**-24 * reach**2
    doubtful = np.flatnonzero((squared[:, -1] > near[:, -1] - error) & (kept < n))
    if len(doubtful):
        # From this threshold on, of queries or of queries times dimensions by version (faiss pull
        # request 5022), faiss expands the square for BLAS. Below, it subtracts first: slower, and
        # right also far from the origin.
        threshold = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = int(np.iinfo(np.int32).max)
        try:
            _, ids = _candidates(base, queries[doubtful], kept, progress)
        finally:
            faiss.cvar.distance_compute_blas_threshold = threshold
        neighbors[doubtful], squared[doubtful] = ranked(base, queries[doubtful], ids, k)
    return neighbors, np.sqrt(squared).astype(np.float32)


def _most_similar(
    base: FloatMatrix, queries: FloatMatrix, k: int, progress: bool, metric: str
) -> tuple[IdMatrix, FloatMatrix]:
    """Return what ``exact_neighbors`` does, for "cosine" and "ip"."""
    n, d = base.shape
    kept = min(n, k + SPARE)
    if metric == "cosine":
        queries = _metric.unit(queries)
    near, ids = _candidates(base, queries, kept, progress, metric)
    neighbors, found = ranked(base, queries, ids, k, metric)
    # What was not kept is no more similar than the last that was, up to the error of float32 sums.
    longest = 1.0 if metric == "cosine" else float(_metric.norms(base).max())
    error = (d + 4) * 2.0**-24 * _metric.norms(queries) * longest
    doubtful = np.flatnonzero((found[:, -1] < near[:, -1] + error) & (kept < n))
    for rows in blocks(len(doubtful), 16 * n, BASE_BLOCK):
        # All of the base in float64: of ties as many as there are, and in the order of their ids.
        some = doubtful[rows]
        every = np.broadcast_to(np.arange(n), (len(some), n))
        neighbors[some], found[some] = ranked(base, queries[some], every, k, metric)
    return neighbors, found.astype(np.float32)


def _candidates(
    base: FloatMatrix, queries: FloatMatrix, kept: int, progress: bool, metric: str = "l2"
) -> tuple[FloatMatrix, IdMatrix]:
    """Return the ``kept`` nearest by float32: squared distances or similarities, and ids."""
    n, d = base.shape
    quiet = None if progress and float(n) * d * len(queries) > 1e11 else True
    parts = list(blocks(n, 4 * d, BASE_BLOCK))
    bar = tqdm(parts, desc="exact neighbours", leave=False, disable=quiet)
    inside = (_metric.unit(base[part]) if metric == "cosine" else base[part] for part in bar)
    compared = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    return knn_ground_truth(queries, inside, kept, compared, ngpu=0)


def ranked(
    base: FloatMatrix, queries: FloatMatrix, candidates: IdMatrix, k: int, metric: str = "l2"
) -> tuple[IdMatrix, NDArray[np.float64]]:
    """Return the ``k`` nearest candidates of each query, ties by id, and squared distances.

    Of "cosine" and "ip" the most similar ones, and similarities.
    """
    ids = np.sort(candidates, axis=1)
    if metric != "l2":
        found = similarities(base, queries, ids, metric)
        order = np.argsort(-found, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(ids, order, 1), np.take_along_axis(found, order, 1)
    squared = _squared_distances(base, queries, ids)
    # ids ascend, so a stable sort by distance leaves ties in the order of their ids.
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(squared, order, 1)


def _squared_distances(
    base: FloatMatrix, queries: FloatMatrix, ids: IdMatrix
) -> NDArray[np.float64]:
    """Return the squared distance of each query (nq, d) to the listed vectors, (nq, k)."""
    squared = np.empty(ids.shape)
    for rows in blocks(len(ids), 8 * base.shape[1] * ids.shape[1], 1 << 26):
        gap = base[ids[rows]].astype(np.float64)
        gap -= queries[rows, None, :]
        squared[rows] = np.einsum("qkd,qkd->qk", gap, gap)
    return squared


def similarities(
    base: FloatMatrix, queries: FloatMatrix, ids: IdMatrix, metric: str
) -> NDArray[np.float64]:
    """Return the similarity of each query (nq, d) to the listed vectors, (nq, k), in float64.

    The cosine with a zero vector is 0.
    """
    found = np.empty(ids.shape)
    for rows, columns in _cells(ids.shape, 8 * base.shape[1]):
        vectors = base[ids[rows, columns]].astype(np.float64)
        its = queries[rows].astype(np.float64)
        products = np.einsum("qkd,qd->qk", vectors, its)
        if metric == "cosine":
            lengths = np.sqrt(np.einsum("qkd,qkd->qk", vectors, vectors))
            lengths *= np.linalg.norm(its, axis=1)[:, None]
            products /= np.where(lengths > 0, lengths, 1)
        found[rows, columns] = products
    return found


def _cells(shape: tuple[int, ...], nbytes: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of the cells of a matrix, which take ``nbytes`` each."""
    for columns in blocks(shape[1], nbytes, 1 << 26):
        width = len(range(*columns.indices(shape[1])))
        for rows in blocks(shape[0], nbytes * width, 1 << 26):
            yield rows, columns


def _squared_norms(x: FloatMatrix) -> NDArray[np.float64]:
    """Return the squared norms of the rows of ``x``, (n,)."""
    squared = np.empty(len(x))
    for rows in blocks(len(x), 4 * x.shape[1], BASE_BLOCK):
        squared[rows] = np.einsum("ij,ij->i", x[rows], x[rows])
    return squared


def cached_neighbors(
    base: FloatMatrix,
    queries: FloatMatrix,
    folder: Path,
    key: str,
    progress: bool = True,
    metric: str = "l2",
) -> tuple[IdMatrix, FloatMatrix]:
    """Return ``exact_neighbors`` of a subset, computed once and kept in ``folder``.

    A cache file that is broken or of other shapes is computed anew; a folder that cannot be
    written only costs computing again next time.
    """
    path = folder / (f"{key}.neighbors" if metric == "l2" else f"{key}-{metric}.neighbors")
    shape = (len(queries), min(NEIGHBORS, len(base)))
    with contextlib.suppress(OSError, ValueError):
        held = IndexFile(path)
        neighbors = held.read("neighbors", "<i8", shape)
        distances = held.read("distances", "<f4", shape)
        if held.kind == KIND and neighbors.min() >= 0 and neighbors.max() < len(base):
            return neighbors, distances
    neighbors, distances = exact_neighbors(base, queries, progress=progress, metric=metric)
    sections = [array_section("neighbors", neighbors), array_section("distances", distances)]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write(path, KIND, {}, sections)
    return neighbors, distances


def disagreement(
    base: FloatMatrix,
    queries: FloatMatrix,
    neighbors: IdMatrix,
    distances: FloatMatrix,
    rounding: float = 2e-6,
) -> str:
    """Compare the ground truth of four queries with exact search; return what is wrong, in words.

    Equal distances may stand in any order, and rounding of either side is allowed for:
    ``rounding`` times the squared norms, float32's by default. Empty when nothing is wrong.
    """
    rows = np.unique(np.linspace(0, len(queries) - 1, 4).astype(int))
    queries, neighbors = queries[rows], neighbors[rows]
    exact = exact_neighbors(base, queries, neighbors.shape[1], progress=False)[1].astype(np.float64)
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)[:, None]
    # Who computed them as |q|^2 - 2qx + |x|^2 in float32 erred, in the squared distance, by some
    # 1e-6 of the squared norms; |x| is at most |q| plus the distance.
    tolerance = 2e-4 * exact**2 + rounding * (norms**2 + (norms + exact) ** 2)
    listed = np.sqrt(_squared_distances(base, queries, neighbors))
    for what, values in (
        ("the listed neighbours lie", listed),
        ("it says", distances[rows].astype(np.float64)),
    ):
        values = np.sort(values, axis=1)
        wrong = np.argwhere(np.abs(values**2 - exact**2) > tolerance)
        if len(wrong):
            row, place = wrong[0]
            return (
                f"query {rows[row]}: neighbour {place + 1} is at distance "
                f"{exact[row, place]:.6g}, but {what} at {values[row, place]:.6g}"
            )
    return ""
