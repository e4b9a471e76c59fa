"""Scanning lists that have codebooks of their own, each list once for all its queries."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np

from pqlib._threads import one_thread, one_thread_each
from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.indexes.blocks import ranking_bytes
from pqlib.indexes.lists import content, search_lists
from pqlib.quantizers import CodebookQuantizer, Quantizer, RaBitQuantizer
from pqlib.quantizers.base import BLOCK

SCAN_ROWS = 256  # queries whose residuals and tables are made at once: they stay in cache
FEW = 4  # below so many queries for a list, a matrix product costs more than it saves


def scan_for_one(
    xq: FloatMatrix,
    coarse: FloatMatrix,
    keys: IdArray,
    k: int,
    scanner: Callable[[int], faiss.IndexIVFPQ],
) -> Found:
    """Return the ``k`` best codes of the lists that a single query (1, d) probes.

    Reading the codebooks of its lists from memory is most of the work, 4 * d * 2**nbits bytes
    each. One thread does it: a second one would wait for the same memory. Arguments and result
    as for ``scan_lists``.
    """
    nprobe = keys.shape[1]
    distances = np.empty((nprobe, k), np.float32)
    positions = np.full((nprobe, k), -1, np.int64)
    query, params = faiss.swig_ptr(xq), faiss.IVFPQSearchParameters()
    params.nprobe = 1

    for i, key in enumerate(keys[0].tolist()):
        if key < 0:
            break  # there are no more lists
        rest = map(faiss.swig_ptr, (keys[0, i:], coarse[0, i:], distances[i], positions[i]))
        scanner(key).search_preassigned_c(1, query, k, *rest, False, params)
    distances[positions < 0] = np.inf  # faiss pads with the largest float
    if nprobe > 1:
        best = np.argsort(distances.ravel(), kind="stable")[:k]
        distances, positions = distances.ravel()[best], positions.ravel()[best]
    return distances.reshape(1, k), positions.reshape(1, k)


def scan_bytes(nq: int, nprobe: int, longest: int, quantizer: Quantizer, tables: bool) -> int:
    """Return the most bytes that ``scan_lists`` takes besides its results.

    ``longest``: entries of the longest list; ``tables``: whether codes of ``quantizer`` are
    scanned by tables, rather than decoded.
    """
    d, code_bytes = quantizer.d, quantizer.code_bytes
    threads = faiss.omp_get_max_threads()
    if tables:
        m, nbits = quantizer.m, quantizer.nbits  # type: ignore[attr-defined]
        # Tables are of float32, one for each of the queries at once; codebooks may be copied.
        each = min(nq, SCAN_ROWS) * (4 * d + (4 * m << nbits)) + (8 * d << nbits)
        return threads * each + 40 * nq * nprobe
    decoded, rows = min(longest, BLOCK), min(nq, 16 * SCAN_ROWS)
    # Decoding takes whole vectors a few times over; comparing them, faiss's block of products.
    each = rows * 8 * d + decoded * (16 * d + 64 * code_bytes)
    each += ranking_bytes(rows, decoded, 0, d)
    if isinstance(quantizer, RaBitQuantizer):
        each += 2 * longest * code_bytes  # an index of the list's codes
    elif isinstance(quantizer, CodebookQuantizer):
        each += rows * (4 * quantizer.m << quantizer.nbits)  # tables, where it takes any
    return threads * each + 40 * nq * nprobe


def scan_lists(
    xq: FloatMatrix,
    coarse: FloatMatrix,
    keys: IdArray,
    k: int,
    lists: faiss.InvertedLists,
    centroids: FloatMatrix,
    quantizer: Callable[[int], Quantizer],
    scanner: Callable[[int], faiss.IndexIVFPQ] | None,
) -> Found:
    """Return the ``k`` best codes of the probed lists by ADC.

    A list's codebooks and codes are read once for all queries that probe it and stay in cache,
    its tables are one matrix product, and no Python loop runs over queries or codes.

    Parameters
    ----------
    xq : (nq, d) float32
    coarse, keys : (nq, nprobe) squared distances to the probed centroids, and their numbers, -1
        for none
    k : codes wanted
    lists : hold positions and codes
    centroids : (n_inner, d) float32, what is subtracted from the queries of a list
    quantizer : returns the quantizer of a list
    scanner : returns faiss's index over all lists with the codebooks of one. None: faiss cannot
        scan the codes, and the quantizer's ``scan`` does it

    Returns
    -------
    distances : (nq, k) float32, ascending, inf where there are fewer
    positions : (nq, k) int64, -1 where there are fewer
    """
    if len(xq) == 1 and scanner is not None:
        return scan_for_one(xq, coarse, keys, k, scanner)
    nprobe = keys.shape[1]
    distances = np.full((nprobe, len(xq), k), np.inf, np.float32)
    positions = np.full((nprobe, len(xq), k), -1, np.int64)
    flat = keys.ravel()
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(len(centroids) + 1))

    def scan_list(c: int) -> None:
        list_ids, codes = content(lists, c)
        if len(list_ids) == 0:
            return
        pairs = order[bounds[c] : bounds[c + 1]]
        if len(pairs) < FEW and scanner is not None:
            query, probe = np.divmod(pairs, nprobe)
            there = (coarse[query, probe, None], keys[query, probe, None])
            params = faiss.IVFPQSearchParameters()
            found = search_lists(scanner(c), xq[query], k, *there, params)
            distances[probe, query], positions[probe, query] = found
            return
        kept = min(k, len(list_ids))
        codec, centroid = quantizer(c), centroids[c]
        # Other quantizers decode the list at each call.
        rows = SCAN_ROWS if scanner is not None else 16 * SCAN_ROWS
        buffer = np.empty((min(rows, len(pairs)), xq.shape[1]), np.float32)
        for start in range(0, len(pairs), rows):
            query, probe = np.divmod(pairs[start : start + rows], nprobe)
            residuals = buffer[: len(query)]
            # Row numbers are in range; "clip" spares take() a copy of its output.
            np.take(xq, query, axis=0, out=residuals, mode="clip")
            residuals -= centroid
            dis, local = codec.scan_unchecked(residuals, codes, kept)
            distances[probe, query, :kept] = dis
            positions[probe, query, :kept] = np.where(local < 0, -1, list_ids[local])

    probed = np.flatnonzero(np.diff(bounds)).tolist()
    if len(flat) < 64:
        # Waking threads would take longer than the work does.
        with one_thread():
            for c in probed:
                scan_list(c)
    else:
        with one_thread_each() as pool:
            list(pool.map(scan_list, probed))
    distances, positions = faiss.merge_knn_results(distances, positions)
    distances[positions < 0] = np.inf  # faiss pads with the largest float
    return distances, positions
