"""The loops of ``GraphIndex`` compiled by Numba; ``portable_graph`` says what each computes."""

import numpy as np
from numba import njit

from pqlib.indexes.kernels.instructions import distance_bits, fetch, row_dot

LOW = np.int64(0xFFFFFFFF)
EXPANDED = np.int64(1)


@njit(nogil=True, cache=True)
def _insert_key(beam, size, ef, key):
    """Put a key where it belongs in ``beam[:size]``, of at most ``ef``; return size and place."""
    if size < ef:
        size += 1
    at = size - 1
    while at > 0 and beam[at - 1] > key:
        beam[at] = beam[at - 1]
        at -= 1
    beam[at] = key
    return size, at


@njit(nogil=True, cache=True)
def _walk_one(codes, halves, edges, near, n_near, queries, offset, ef, beam, seen):
    """Fill ``beam`` with what one query meets; return how many, scores computed and hops."""
    width, degree = codes.shape[1], edges.shape[1]
    one = np.uint64(1)
    seen[:] = 0
    m = 0
    for i in range(n_near):
        node = np.int64(near[i])
        word, bit = node >> 6, one << np.uint64(node & 63)
        if not seen[word] & bit:
            seen[word] |= bit
            near[m] = near[i]
            m += 1
    size, first, scored, hops = 0, 0, 0, 0
    while True:
        for i in range(m):
            node = np.int64(near[i])
            score = halves[node] - row_dot(codes, node, width, queries, offset)
            if size < ef or score < (beam[size - 1] >> 32):
                key = (np.int64(score) << 32) | (node << 1)
                size, at = _insert_key(beam, size, ef, key)
                first = min(first, at)
        scored += m
        while first < size and beam[first] & EXPANDED:
            first += 1
        if first == size:
            return size, scored, hops
        node = (beam[first] & LOW) >> 1
        beam[first] |= EXPANDED
        hops += 1
        m = 0
        for i in range(degree):
            other = np.int64(edges[node, i])
            if other < 0:
                break
            word, bit = other >> 6, one << np.uint64(other & 63)
            if seen[word] & bit:
                continue
            seen[word] |= bit
            near[m] = other
            m += 1
            for byte in range(0, width, 64):
                fetch(codes, other * width + byte)
        if first + 1 < size and not beam[first + 1] & EXPANDED:
            # Likely the next to be expanded.
            row = ((beam[first + 1] & LOW) >> 1) * degree * 4
            for byte in range(0, degree * 4, 64):
                fetch(edges, row + byte)


@njit(nogil=True, cache=True)
def walk(codes, halves, edges, starts, queries, order, first, last, ef, keys_out, scored, hops):
    """See ``portable_graph.walk``."""
    width = codes.shape[1]
    seen = np.empty((codes.shape[0] + 63) // 64, np.uint64)
    beam = np.empty(ef, np.int64)
    near = np.empty(edges.shape[1] + starts.shape[1], np.int32)
    for at in range(first, last):
        query = order[at]
        near[: starts.shape[1]] = starts[query]
        size, scored[query], hops[query] = _walk_one(
            codes, halves, edges, near, starts.shape[1], queries, query * width, ef, beam, seen
        )
        for i in range(size):
            keys_out[query, i] = ((beam[i] >> 32) << 32) | ((beam[i] & LOW) >> 1)
        for i in range(size, ef):
            keys_out[query, i] = -1


@njit(nogil=True, cache=True)
def finish(keys, first, last, firsts, store, d, vectors, kept, k, keys_out):
    """See ``portable_graph.finish``."""
    row_bytes = d * store.itemsize
    exact = store.shape[0] > 0
    by_node = store.shape[0] == firsts.shape[0] - 1
    found, rows = np.empty(kept, np.int64), np.empty(kept, np.int64)
    for query in range(first, last):
        m = 0
        for i in range(keys.shape[1]):
            if m == kept or keys[query, i] == -1:
                break
            node = keys[query, i] & LOW
            for place in range(firsts[node], min(firsts[node + 1], firsts[node] + kept - m)):
                found[m] = ((keys[query, i] >> 32) << 32) | place
                rows[m] = node if by_node else place
                if exact:
                    for byte in range(0, row_bytes, 64):
                        fetch(store, rows[m] * row_bytes + byte)
                m += 1
        if exact:
            for i in range(m):
                bits = distance_bits(store, rows[i], vectors, query, d)
                found[i] = (np.int64(bits) << 32) | (found[i] & LOW)
        found[:m].sort()
        for i in range(min(m, k)):
            keys_out[query, i] = found[i]
        for i in range(m, k):
            keys_out[query, i] = -1


# Building --------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _prune(codes, node, found, m, degree, out):
    """Write to ``out`` which of ``found[:m]`` become edges of ``node``; return how many."""
    width = codes.shape[1]
    kept = 0
    for i in range(m):
        other, far = found[i] & LOW, found[i] >> 32
        if other == node or (i and other == found[i - 1] & LOW):
            continue
        clear = True
        for j in range(kept):
            gap = distance_bits(codes, other, codes, np.int64(out[j]), width)
            if gap < far or gap == 0:
                clear = False
                break
        if clear:
            out[kept] = other
            kept += 1
            if kept == degree:
                break
    return kept


@njit(nogil=True, cache=True)
def insert(codes, halves, edges, starts, nodes, first, last, ef):
    """See ``portable_graph.insert``."""
    width, degree = codes.shape[1], edges.shape[1]
    seen = np.empty((codes.shape[0] + 63) // 64, np.uint64)
    beam, out = np.empty(ef, np.int64), np.empty(degree, np.int32)
    near = np.empty(degree + starts.shape[1], np.int32)
    signed = np.empty((1, width), np.int8)
    for at in range(first, last):
        node = nodes[at]
        for j in range(width):
            signed[0, j] = np.int8(np.int32(codes[node, j]) - 128)
        near[: starts.shape[1]] = starts[at]
        size, _, _ = _walk_one(
            codes, halves, edges, near, starts.shape[1], signed, 0, ef, beam, seen
        )
        for i in range(size):
            other = (beam[i] & LOW) >> 1
            gap = np.int64(distance_bits(codes, other, codes, node, width))
            beam[i] = (gap << 32) | other
        beam[:size].sort()
        kept = _prune(codes, node, beam, size, degree, out)
        edges[node, :kept] = out[:kept]
        edges[node, kept:] = -1


@njit(nogil=True, cache=True)
def join(codes, edges, targets, bounds, sources, first, last):
    """See ``portable_graph.join``."""
    width, degree = codes.shape[1], edges.shape[1]
    out = np.empty(degree, np.int32)
    for at in range(first, last):
        node = targets[at]
        m = 0
        found = np.empty(degree + bounds[at + 1] - bounds[at], np.int64)
        for i in range(degree):
            if edges[node, i] < 0:
                break
            found[m] = edges[node, i]
            m += 1
        for i in range(bounds[at], bounds[at + 1]):
            found[m] = sources[i]
            m += 1
        for i in range(m):
            other = found[i]
            gap = np.int64(distance_bits(codes, other, codes, node, width))
            found[i] = (gap << 32) | other
        found[:m].sort()
        different = 0
        for i in range(m):
            if i == 0 or found[i] != found[i - 1]:
                found[different] = found[i]
                different += 1
        if different <= degree:
            for i in range(different):
                out[i] = found[i] & LOW
            kept = different
        else:
            kept = _prune(codes, node, found, different, degree, out)
        edges[node, :kept] = out[:kept]
        edges[node, kept:] = -1
