"""To and from faiss's IndexIVFPQ, as far as both can express an index."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from faiss.contrib.inspect_tools import get_flat_data, get_invlist, get_pq_centroids
from numpy.typing import NDArray

from pqlib._types import FloatMatrix, IdArray
from pqlib.indexes.lists import append


def to_ivfpq(index: Any) -> faiss.IndexIVFPQ:
    """Return the ``IndexIVFPQ`` of a ``MultiLevelPQ``; see its ``to_faiss``."""
    if index.metric != "l2":
        raise ValueError(
            f"to_faiss of an index with metric={index.metric!r}: expected 'l2', since vectors are "
            "scaled or widened inside, which faiss knows nothing of. Build it with metric='l2'."
        )
    if index.codec is not None:
        raise ValueError(
            f"codec={index.codec!r}: expected none, IndexIVFPQ has product codes of residuals. "
            "Build the index with m, nbits and codebooks='shared' to export it."
        )
    if index.codebooks != "shared":
        raise ValueError(
            f"codebooks={index.codebooks!r}: faiss's IndexIVFPQ has one set of codebooks for "
            "all lists. Build the index with codebooks='shared' to export it."
        )
    centroids, codebooks = index.clustering.inner, index.quantizer(0).codebooks
    n_inner, d = centroids.shape
    m, ksub, _ = codebooks.shape
    coarse = faiss.IndexFlatL2(d)
    coarse.add(centroids)
    ivf = faiss.IndexIVFPQ(coarse, d, n_inner, m, ksub.bit_length() - 1)
    faiss.copy_array_to_vector(codebooks.ravel(), ivf.pq.centroids)
    ivf.is_trained = True
    ivf.use_precomputed_table = 0  # faiss's default: it decides by the tables' size
    ivf.precompute_table()
    for c in range(n_inner):
        positions, codes = index.list_content(c)
        append(ivf.invlists, np.full(len(positions), c), index._to_ids(positions), codes)
    ivf.ntotal = index.ntotal
    return ivf


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
    if type(ivf) is not faiss.IndexIVFPQ:
        raise ValueError(
            f"ivf is of type {type(ivf).__name__}: expected faiss.IndexIVFPQ. Of an index that was "
            "read, pass faiss.downcast_index(index); indexes of other kinds cannot be taken over."
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
    parts = [get_invlist(ivf.invlists, c) for c in range(ivf.nlist)]
    ids = np.concatenate([part[0] for part in parts])
    codes = np.concatenate([part[1] for part in parts])
    numbered = np.array_equal(np.sort(ids), np.arange(len(ids)))
    positions = ids if numbered else np.arange(len(ids))
    homes = np.repeat(np.arange(ivf.nlist), [len(part[0]) for part in parts])
    lists = faiss.ArrayInvertedLists(ivf.nlist, ivf.pq.code_size)
    append(lists, homes, positions, codes)
    return get_flat_data(coarse), get_pq_centroids(ivf.pq), lists, None if numbered else ids
