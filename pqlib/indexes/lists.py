"""faiss's inverted lists: filling them, looking into them, letting faiss scan them."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from pqlib._types import Codes, FloatMatrix, Found, IdArray


def rows_by_list(homes: IdArray, n_lists: int) -> tuple[IdArray, IdArray]:
    """Return ``order`` (n,) and ``bounds`` (n_lists + 1,) of rows grouped by their list.

    ``order[bounds[c]:bounds[c + 1]]`` are the rows whose ``homes`` (n,) is c, ascending.
    """
    order = np.argsort(homes, kind="stable")
    return order, np.searchsorted(homes[order], np.arange(n_lists + 1))


def checked_homes(assignment: Any, n: int, n_lists: int) -> IdArray:
    """Return the list of each of ``n`` vectors, (n,) int64, or raise ValueError."""
    array = np.asarray(assignment)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"assignment has shape {array.shape} and dtype {array.dtype}: expected ({n},) "
            "whole numbers, the inner cluster of each vector, such as clustering.assign(x)."
        )
    if n and not 0 <= array.min() <= array.max() < n_lists:
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"assignment holds {wrong}: expected inner clusters, 0..{n_lists - 1}.")
    return array.astype(np.int64, copy=False)


def append(lists: faiss.InvertedLists, homes: IdArray, positions: IdArray, codes: Codes) -> None:
    """Append ``codes`` (n, code bytes) of vectors at ``positions`` (n,) to the lists ``homes``."""
    order, bounds = rows_by_list(homes, lists.nlist)
    for c in np.flatnonzero(np.diff(bounds)):
        rows = order[bounds[c] : bounds[c + 1]]
        # One call for each list, so that its storage grows to exactly what it holds.
        its_positions, its_codes = positions[rows], np.ascontiguousarray(codes[rows])
        lists.add_entries(
            int(c), len(rows), faiss.swig_ptr(its_positions), faiss.swig_ptr(its_codes)
        )


def content(lists: faiss.InvertedLists, c: int) -> tuple[IdArray, Codes]:
    """Return positions (n,) and codes (n, code bytes) of list ``c``: views of its memory.

    ``faiss.contrib.inspect_tools.get_invlist`` returns copies, which a scan has no time for.
    """
    n, width = lists.list_size(c), lists.code_size
    if n == 0:
        return np.empty(0, np.int64), np.empty((0, width), np.uint8)
    positions = faiss.rev_swig_ptr(lists.get_ids(c), n)
    return positions, faiss.rev_swig_ptr(lists.get_codes(c), n * width).reshape(n, width)


def search_lists(
    ivf: faiss.IndexIVF,
    xq: FloatMatrix,
    k: int,
    coarse: FloatMatrix,
    keys: IdArray,
    params: faiss.SearchParametersIVF,
) -> Found:
    """Let faiss scan the lists ``keys`` (nq, nprobe) of ``ivf`` for each query.

    faiss's Python wrapper takes nprobe from the index alone, which two threads could not set
    differently; its C++ method takes it from ``params``.
    """
    xq, keys = np.ascontiguousarray(xq), np.ascontiguousarray(keys)
    coarse = np.ascontiguousarray(coarse)
    params.nprobe = keys.shape[1]
    # Mode 3 shares the queries out among threads. With the default 0 only faiss's ``search`` does
    # so, around its call of this method, which alone uses a single thread.
    ivf.parallel_mode = 3
    distances = np.empty((len(xq), k), np.float32)
    positions = np.empty((len(xq), k), np.int64)
    query, *rest = map(faiss.swig_ptr, (xq, keys, coarse, distances, positions))
    ivf.search_preassigned_c(len(xq), query, k, *rest, False, params)
    distances[positions < 0] = np.inf
    return distances, positions


def search_flat(ivf: faiss.IndexIVF, xq: FloatMatrix, k: int, nprobe: int) -> Found:
    """Let faiss rank all centroids of ``ivf`` and scan the ``nprobe`` nearest lists."""
    params = faiss.IVFPQSearchParameters(nprobe=nprobe)
    distances, positions = ivf.search(np.ascontiguousarray(xq), k, params=params)
    distances[positions < 0] = np.inf
    return distances, positions
