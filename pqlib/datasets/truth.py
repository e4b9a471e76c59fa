"""Exact nearest neighbours: computed in blocks, cached, and checked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib._file import IndexFile, array_section, write

FloatMatrix = NDArray[np.float32]
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
    base: FloatMatrix, queries: FloatMatrix, k: int = NEIGHBORS, progress: bool = True
) -> tuple[IdMatrix, FloatMatrix]:
    """Return the ``k`` nearest base vectors of each query.

    Candidates come from float32 search over blocks of the base; they are ranked by float64
    distances, ties by id. Where rounding may have cost a candidate, they are searched again
    without the step that loses digits.

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
    near, ids = _candidates(base, queries, kept, progress)
    neighbors, squared = _ranked(base, queries, ids, k)
    # What was not kept is no nearer than the last that was, up to the error of |q|^2 - 2qx + |x|^2
    # in float32 sums of d terms.
    reach = np.sqrt(_squares(queries)) + np.sqrt(_squares(base).max())
    error = (d + 4) * 2.0**-24 * reach**2
    doubtful = np.flatnonzero((squared[:, -1] > near[:, -1] - error) & (kept < n))
    if len(doubtful):
        with _direct_differences():
            _, ids = _candidates(base, queries[doubtful], kept, progress)
        neighbors[doubtful], squared[doubtful] = _ranked(base, queries[doubtful], ids, k)
    return neighbors, np.sqrt(squared).astype(np.float32)


def _candidates(
    base: FloatMatrix, queries: FloatMatrix, kept: int, progress: bool
) -> tuple[FloatMatrix, IdMatrix]:
    """Return the ``kept`` nearest by float32: squared distances, ascending, and ids."""
    n, d = base.shape
    heap = faiss.ResultHeap(len(queries), kept)
    step = max(1, BASE_BLOCK // (4 * d))
    work = float(n) * d * len(queries)
    quiet = None if progress and work > 1e11 else True
    for start in tqdm(range(0, n, step), desc="exact neighbours", leave=False, disable=quiet):
        block = np.ascontiguousarray(base[start : start + step], np.float32)
        distances, ids = faiss.knn(queries, block, min(kept, len(block)))
        heap.add_result(distances, ids + start)
    heap.finalize()
    return heap.D, heap.I


def _ranked(
    base: FloatMatrix, queries: FloatMatrix, candidates: IdMatrix, k: int
) -> tuple[IdMatrix, NDArray[np.float64]]:
    """Return the ``k`` nearest candidates of each query and their squared distances."""
    kept, d = candidates.shape[1], base.shape[1]
    neighbors = np.empty((len(queries), k), np.int64)
    nearest = np.empty((len(queries), k), np.float64)
    rows = max(1, (1 << 26) // (8 * d * kept))
    for start in range(0, len(queries), rows):
        ids = np.sort(candidates[start : start + rows], axis=1)
        gap = base[ids.ravel()].reshape(*ids.shape, d).astype(np.float64)
        gap -= queries[start : start + rows, None, :]
        squared = np.einsum("qkd,qkd->qk", gap, gap)
        # ids ascend, so a stable sort by distance leaves ties in the order of their ids.
        order = np.argsort(squared, axis=1, kind="stable")[:, :k]
        neighbors[start : start + rows] = np.take_along_axis(ids, order, 1)
        nearest[start : start + rows] = np.take_along_axis(squared, order, 1)
    return neighbors, nearest


def _squares(x: FloatMatrix) -> NDArray[np.float64]:
    """Return the squared norms of the rows of ``x``, (n,)."""
    step = max(1, BASE_BLOCK // (4 * x.shape[1]))
    result = np.empty(len(x), np.float64)
    for start in range(0, len(x), step):
        block = x[start : start + step]
        result[start : start + step] = np.einsum("ij,ij->i", block, block)
    return result


@contextmanager
def _direct_differences() -> Iterator[None]:
    """Let faiss subtract before it squares: slower, and right also far from the origin.

    Its other way, |q|^2 - 2qx + |x|^2 through BLAS, is taken from a threshold on: of queries, or
    of queries times dimensions (faiss pull request 5022), by version.
    """
    threshold = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = int(np.iinfo(np.int32).max)
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = threshold


def cached_neighbors(
    base: FloatMatrix, queries: FloatMatrix, folder: Path, key: str, progress: bool = True
) -> tuple[IdMatrix, FloatMatrix]:
    """Return ``exact_neighbors`` of a subset, computed once and kept in ``folder``.

    A cache file that is broken or of other shapes is computed anew; a folder that cannot be
    written only costs computing again next time.
    """
    path = folder / f"{key}.neighbors"
    shape = (len(queries), min(NEIGHBORS, len(base)))
    try:
        held = IndexFile(path)
        neighbors = held.read("neighbors", "<i8", shape)
        distances = held.read("distances", "<f4", shape)
        if held.kind == KIND and neighbors.min() >= 0 and neighbors.max() < len(base):
            return neighbors, distances
    except (OSError, ValueError):
        pass
    neighbors, distances = exact_neighbors(base, queries, progress=progress)
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
    sample: int = 4,
    rounding: float = 2e-6,
) -> str:
    """Check the ground truth of a few queries against exact search.

    Equal distances may stand in any order, and rounding of either side is allowed for:
    ``rounding`` times the squared norms, float32's by default.

    Returns
    -------
    What is wrong, in words; empty when nothing is.
    """
    rows = np.unique(np.linspace(0, len(queries) - 1, sample).astype(int))
    k = neighbors.shape[1]
    exact = exact_neighbors(base, queries[rows], k, progress=False)[1].astype(np.float64)
    norms = np.sqrt((queries[rows].astype(np.float64) ** 2).sum(axis=1))[:, None]
    # Who computed them as |q|^2 - 2qx + |x|^2 in float32 erred, in the squared distance, by some
    # 1e-6 of the squared norms; |x| is at most |q| plus the distance.
    tolerance = 2e-4 * exact**2 + rounding * (norms**2 + (norms + exact) ** 2)
    gap = base[neighbors[rows].ravel()].reshape(len(rows), k, -1).astype(np.float64)
    gap -= queries[rows][:, None, :]
    listed = np.sqrt((gap**2).sum(axis=2))
    distances = distances.astype(np.float64)
    for row, query in enumerate(rows):
        for what, values in (("the listed neighbours lie", listed), ("it says", distances[rows])):
            wrong = np.abs(np.sort(values[row]) ** 2 - exact[row] ** 2) > tolerance[row]
            if wrong.any():
                place = int(wrong.argmax())
                return (
                    f"query {query}: neighbour {place + 1} is at distance "
                    f"{exact[row, place]:.6g}, but {what} at {np.sort(values[row])[place]:.6g}"
                )
    return ""
