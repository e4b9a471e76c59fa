"""The hot loops in NumPy: what ``native`` computes, in arrays of all queries at a time.

Their docstrings are those of both. Types are in them, as in ``native``, which Numba types.
Products of whole numbers below 2**24 are exact in float32, so the fast matrix product of floats
serves for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib.indexes.kernels.layout import LANES, ZERO

NAME = "portable"
VERSION = f"NumPy {np.__version__}"
EXACT = 2**24  # float32 adds whole numbers up to here without rounding
BLOCK_ROWS = 256
"""Queries whose candidates are kept in memory at a time."""


def working_bytes(n_lists: int, nprobe: int, longest: int, width: int) -> int:
    """Return the most bytes that a thread takes: whole lists and their scores, in arrays."""
    return 48 * BLOCK_ROWS * n_lists + 10 * longest * width + 64 * nprobe * longest


def _dots(queries: NDArray[np.int8], rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return dot products (nq, n) of whole numbers, exactly."""
    exact: Any = np.float32 if queries.shape[1] * 127 * 128 < EXACT else np.float64
    signed = (rows.astype(np.int16) - ZERO).astype(exact)
    products = queries.astype(exact) @ signed.T
    return products.astype(np.int64) + ZERO * queries.sum(1, dtype=np.int64)[:, None]


def _scores(codes, halves, shift, queries):
    """Return half norm less dot product of each query with each lane of some blocks, int32."""
    rows = codes.transpose(0, 2, 1, 3).reshape(codes.shape[0] * LANES, queries.shape[1])
    scores = (halves.astype(np.int64) << shift)[None] - _dots(queries, rows)
    return scores.astype(np.int32)


def route(
    codes, halves, shift, n_lists, queries, nprobe, first, last, lists, scores
):  # fmt: skip
    """Find the lists that each query probes.

    Parameters
    ----------
    codes, halves, shift : the centroids' codes, as ``layout.Blocks`` holds them
    n_lists : how many centroids there are
    queries : (nq, components) int8
    nprobe : lists wanted of each query
    first, last : the queries that are worked on
    lists : (nq, nprobe) int32, written: the lists of best score, best first; of equal scores the
        one of lower number
    scores : (nq, nprobe) int32, written: half of the centroid's squared norm less the dot
        product of query and centroid as bytes, which differs from half the squared distance by a
        number of the query's own
    """
    for start in range(first, last, BLOCK_ROWS):
        rows = slice(start, min(last, start + BLOCK_ROWS))
        found = _scores(codes, halves, shift, queries[rows])[:, :n_lists]
        best = np.argsort(found, axis=1, kind="stable")[:, :nprobe]
        lists[rows] = best
        scores[rows] = np.take_along_axis(found, best, 1)


def search(
    codes, halves, shift, block_starts, starts, store, d,
    order, first, last, lists, list_scores, offsets, queries, vectors,
    candidates, k, margin, enough, keys_out, scanned,
):  # fmt: skip
    """Scan the codes of the probed lists, and re-rank the best of them.

    Parameters
    ----------
    codes, halves, shift, block_starts, starts : see ``layout.Blocks``
    store : (n, d) whole vectors by position, or (0, d): none, so that scores rank
    order : the queries in the order in which they are worked on, ``first`` to ``last`` of them
    lists, list_scores : (nq, nprobe), what ``route`` wrote
    offsets : (nq,) what a score lacks to half a squared distance, see there
    queries : (nq, components) int8
    vectors : (nq, d) the queries themselves
    candidates : codes of best score that are kept of each query, the first met of equal ones
    k : neighbours wanted
    margin : a list is probed only while its score exceeds that of the nearest list by no more
        than ``margin`` times half the squared distance (by codes) of the last candidate, as
        known when at least ``enough`` codes had been scanned; below 0: all lists are probed
    enough : see there; no less than ``candidates``
    keys_out : (nq, k) int64, written: score or distance in the upper 32 bits, position in the
        lower ones, ascending; -1 where fewer are found
    scanned : (nq,) int64, written: codes scanned
    """
    for query in order[first:last]:
        q = queries[query : query + 1]
        score_parts: list[NDArray[np.int32]] = []
        place_parts: list[NDArray[np.int64]] = []
        met, reach = 0, np.inf
        for t, j in enumerate(lists[query]):
            if t > 0 and float(list_scores[query, t]) > reach:
                break
            before, size = met, int(starts[j + 1] - starts[j])
            blocks = slice(block_starts[j], block_starts[j + 1])
            lanes = slice(block_starts[j] * LANES, block_starts[j + 1] * LANES)
            score_parts.append(_scores(codes[blocks], halves[lanes], shift, q)[0, :size])
            place_parts.append(np.arange(starts[j], starts[j + 1]))
            met += size
            if before < enough <= met and margin >= 0:
                known = np.concatenate(score_parts)
                last_kept = min(candidates, len(known)) - 1
                bound = np.partition(known, last_kept)[last_kept]
                reach = float(list_scores[query, 0]) + float(margin) * (
                    float(bound) + float(offsets[query])
                )
        scanned[query] = met
        scores, places = np.concatenate(score_parts), np.concatenate(place_parts)
        best = np.argsort(scores, kind="stable")[:candidates]
        scores, places = scores[best], places[best]
        if len(store):
            scores = distance_bits(store[places], vectors[query], d)
        keys = np.sort((scores.astype(np.int64) << 32) | places)[:k]
        keys_out[query, : len(keys)] = keys
        keys_out[query, len(keys) :] = -1


def distance_bits(rows, query, d):
    """Return squared distances (n,) as int32 that order as distances do.

    Of bytes the distances themselves; else the bits of float32 distances, added up in 16 lanes,
    then the lanes, halves to halves, then the components left over.
    """
    if rows.dtype == np.uint8 and query.dtype == np.uint8:
        difference = rows.astype(np.int32) - query.astype(np.int32)
        return (difference**2).sum(axis=1, dtype=np.int32)
    squares = (rows.astype(np.float32) - query.astype(np.float32)) ** 2
    whole = d // LANES * LANES
    lanes = np.zeros((len(rows), LANES), np.float32)
    for start in range(0, whole, LANES):
        lanes += squares[:, start : start + LANES]
    n = LANES
    while n > 1:
        n //= 2
        lanes = lanes[:, :n] + lanes[:, n:]
    total = lanes[:, 0]
    for i in range(whole, d):
        total = total + squares[:, i]
    return np.ascontiguousarray(total).view(np.int32)


def to_bytes(x: NDArray[np.float32], first: int, last: int, out: NDArray[np.uint8]) -> bool:
    """Write rows ``first`` to ``last`` of ``x`` as bytes; return whether nothing was lost."""
    rows = x[first:last]
    out[first:last] = np.clip(rows, 0, 255)
    return bool((out[first:last] == rows).all())


def quantize(y, center, scale, first, last, out, offsets):
    """Write rotated vectors as bytes, and what their scores lack to half a squared distance.

    Parameters
    ----------
    y : (n, components) float32
    center : (components,) float32, taken from each
    scale : bytes of one unit of length
    first, last : the rows that are worked on
    out : (n, components) int8, -127..127, written
    offsets : (n,) int32, written: half the squared norm of a row of ``out``, and what the codes'
        being kept as c + 128 takes from a score
    """
    rows = np.clip(np.rint((y[first:last] - center) * scale), -127, 127)
    out[first:last] = rows
    whole = out[first:last].astype(np.int32)
    offsets[first:last] = ((whole**2).sum(1) + 1) // 2 + ZERO * whole.sum(1)
