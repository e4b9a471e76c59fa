"""To and from faiss's IndexIVFPQ, as far as both can express an index."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib.clustering import TwoLevelClustering, from_centroids, kmeans

FloatMatrix = NDArray[np.float32]
IdArray = NDArray[np.int64]
Codes = NDArray[np.uint8]


def ivfpq(
    centroids: FloatMatrix,
    codebooks: NDArray[np.float32],
    lists: Iterable[tuple[int, IdArray, Codes]],
) -> faiss.IndexIVFPQ:
    """Return a trained ``IndexIVFPQ`` that owns copies of everything.

    Parameters
    ----------
    centroids : (n_inner, d) float32
    codebooks : (m, 2**nbits, d/m) float32
    lists : number, ids (n,) int64 and codes (n, code_bytes) uint8 of each inverted list
    """
    n_inner, d = centroids.shape
    m, ksub, _ = codebooks.shape
    coarse = faiss.IndexFlatL2(d)
    coarse.add(centroids)
    ivf = faiss.IndexIVFPQ(coarse, d, n_inner, m, ksub.bit_length() - 1)
    faiss.copy_array_to_vector(codebooks.ravel(), ivf.pq.centroids)
    ivf.is_trained = True
    ivf.use_precomputed_table = 0  # faiss's default: it decides by the tables' size
    ivf.precompute_table()
    for c, ids, codes in lists:
        _append(ivf.invlists, c, ids, codes)
        ivf.ntotal += len(ids)
    return ivf


def _append(lists: faiss.InvertedLists, c: int, ids: IdArray, codes: Codes) -> None:
    if len(ids):
        ids, codes = np.ascontiguousarray(ids), np.ascontiguousarray(codes)
        lists.add_entries(c, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))


def content(
    ivf: Any,
) -> tuple[FloatMatrix, NDArray[np.float32], faiss.ArrayInvertedLists, IdArray | None]:
    """Take an ``IndexIVFPQ`` apart.

    Returns
    -------
    centroids : (n_inner, d) float32
    codebooks : (m, 2**nbits, d/m) float32
    lists : codes with positions 0..n-1, copied
    ids : (n,) int64, the id at each position; None where they are the positions themselves

    Raises
    ------
    ValueError
        When it is no trained IndexIVFPQ of residuals with squared L2 distances and a flat coarse
        quantizer.
    """
    what = type(ivf).__name__
    if type(ivf) is not faiss.IndexIVFPQ:
        raise ValueError(
            f"ivf is of type {what}: expected faiss.IndexIVFPQ. Of an index that was read, pass "
            "faiss.downcast_index(index); indexes of other kinds cannot be taken over."
        )
    coarse = faiss.downcast_index(ivf.quantizer)
    for holds, expected in (
        (ivf.is_trained, "a trained index"),
        (ivf.metric_type == faiss.METRIC_L2, "metric_type METRIC_L2"),
        (ivf.by_residual, "codes of residuals (by_residual=True)"),
        (isinstance(coarse, faiss.IndexFlat), "a flat coarse quantizer"),
        (4 <= ivf.pq.nbits <= 16, "4 to 16 bits a sub-quantizer"),
    ):
        if not holds:
            raise ValueError(f"ivf does not fit: expected {expected}. Build it so in faiss.")
    centroids = coarse.reconstruct_n(0, ivf.nlist)
    pq = ivf.pq
    codebooks = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)
    invlists = ivf.invlists
    sizes = [invlists.list_size(c) for c in range(ivf.nlist)]
    all_ids = np.concatenate(
        [np.empty(0, np.int64)]
        + [
            np.array(faiss.rev_swig_ptr(invlists.get_ids(c), size))
            for c, size in enumerate(sizes)
            if size
        ]
    )
    numbered = np.array_equal(np.sort(all_ids), np.arange(len(all_ids)))
    positions = all_ids if numbered else np.arange(len(all_ids))
    lists = faiss.ArrayInvertedLists(ivf.nlist, pq.code_size)
    start = 0
    for c, size in enumerate(sizes):
        if size:
            codes = np.array(faiss.rev_swig_ptr(invlists.get_codes(c), size * pq.code_size))
            _append(lists, c, positions[start : start + size], codes)
            start += size
    return centroids, codebooks, lists, None if numbered else all_ids


def clustering(centroids: FloatMatrix, n_outer: int) -> TwoLevelClustering:
    """Return a two-level clustering of given inner centroids (n_inner, d)."""
    return from_centroids(centroids, kmeans(centroids, n_outer).centroids)
