"""Exact nearest neighbours: computed in blocks, cached, and checked."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

FloatMatrix = NDArray[np.float32]
IdMatrix = NDArray[np.int64]

NEIGHBORS = 100
"""Neighbours of a ground truth, as in ann-benchmarks; fewer when the base is smaller."""

# float32 search may misplace near ties; this many more candidates are re-ranked in float64.
SPARE = 28
BASE_BLOCK = 1 << 27
"""Bytes of base vectors compared at a time."""


def exact_neighbors(
    base: FloatMatrix, queries: FloatMatrix, k: int = NEIGHBORS, progress: bool = True
) -> tuple[IdMatrix, FloatMatrix]:
    """Return the ``k`` nearest base vectors of each query.

    Candidates come from float32 search over blocks of the base; they are ranked by float64
    distances, ties by id.

    Parameters
    ----------
    base : (n, d) float32, may be a memory map
    queries : (nq, d) float32
    k : neighbours; n when the base has fewer

    Returns
    -------
    neighbors : (nq, k) int64
    distances : (nq, k) float32, plain L2, ascending
    """
    n, d = base.shape
    k = min(k, n)
    kept = min(n, k + SPARE)
    heap = faiss.ResultHeap(len(queries), kept)
    step = max(1, BASE_BLOCK // (4 * d))
    work = float(n) * d * len(queries)
    starts = range(0, n, step)
    quiet = None if progress and work > 1e11 else True
    for start in tqdm(starts, desc="exact neighbours", leave=False, disable=quiet):
        block = np.ascontiguousarray(base[start : start + step], np.float32)
        distances, ids = faiss.knn(queries, block, min(kept, len(block)))
        heap.add_result(distances, ids + start)
    heap.finalize()
    neighbors = np.empty((len(queries), k), np.int64)
    exact = np.empty((len(queries), k), np.float32)
    rows = max(1, (1 << 26) // (8 * d * kept))
    for start in range(0, len(queries), rows):
        ids = np.sort(heap.I[start : start + rows], axis=1)
        gap = base[ids.ravel()].reshape(*ids.shape, d).astype(np.float64)
        gap -= queries[start : start + rows, None, :]
        squared = np.einsum("qkd,qkd->qk", gap, gap)
        # ids ascend, so a stable sort by distance leaves ties in the order of their ids.
        order = np.argsort(squared, axis=1, kind="stable")[:, :k]
        neighbors[start : start + rows] = np.take_along_axis(ids, order, 1)
        exact[start : start + rows] = np.sqrt(np.take_along_axis(squared, order, 1))
    return neighbors, exact


def cached_neighbors(
    base: FloatMatrix, queries: FloatMatrix, folder: Path, key: str, progress: bool = True
) -> tuple[IdMatrix, FloatMatrix]:
    """Return ``exact_neighbors`` of a subset, computed once and kept in ``folder``.

    A cache file that is broken or of other shapes is computed anew; a folder that cannot be
    written only costs computing again next time.
    """
    path = folder / f"{key}.npz"
    shape = (len(queries), min(NEIGHBORS, len(base)))
    try:
        with np.load(path, allow_pickle=False) as held:
            neighbors, distances = held["neighbors"], held["distances"]
        if neighbors.shape == distances.shape == shape and neighbors.max() < len(base):
            return neighbors.astype(np.int64), distances.astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    neighbors, distances = exact_neighbors(base, queries, progress=progress)
    partial = folder / f".{key}.{os.getpid()}.npz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(partial, neighbors=neighbors, distances=distances)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
    return neighbors, distances


def disagreement(
    base: FloatMatrix,
    queries: FloatMatrix,
    neighbors: IdMatrix,
    distances: FloatMatrix,
    sample: int = 4,
) -> str:
    """Check the ground truth of a few queries against exact search.

    Equal distances may stand in any order, and float32 rounding of either side is allowed for.

    Returns
    -------
    What is wrong, in words; empty when nothing is.
    """
    rows = np.unique(np.linspace(0, len(queries) - 1, sample).astype(int))
    k = neighbors.shape[1]
    _, exact = exact_neighbors(base, queries[rows], k, progress=False)
    scale = np.sqrt((queries[rows].astype(np.float64) ** 2).sum(axis=1))[:, None]
    # Squared float32 distances err by about 1e-7 of the squared norms.
    tolerance = 1e-4 * exact + 1e-3 * scale
    gap = base[neighbors[rows].ravel()].reshape(len(rows), k, -1).astype(np.float64)
    gap -= queries[rows][:, None, :]
    listed = np.sqrt((gap**2).sum(axis=2))
    for row, query in enumerate(rows):
        for what, values in (("the listed neighbours lie", listed), ("it says", distances[rows])):
            wrong = np.abs(np.sort(values[row]) - exact[row]) > tolerance[row]
            if wrong.any():
                place = int(wrong.argmax())
                return (
                    f"query {query}: neighbour {place + 1} is at distance "
                    f"{exact[row, place]:.6g}, but {what} at {np.sort(values[row])[place]:.6g}"
                )
    return ""
