"""The hot loops compiled by Numba for the processor they run on.

Threads work on different queries and share nothing that is written, so no function here starts
any.
"""

import numba
import numpy as np
from numba import njit
from numba.cpython.unsafe.numbers import trailing_zeros

from pqlib.indexes.kernels.instructions import (
    LANES,
    VNNI,
    distance_bits,
    fetch,
    mask_up_to,
    write_scores,
)

if numba.config.DISABLE_JIT:
    raise ImportError("Numba is told not to compile, by NUMBA_DISABLE_JIT")

__all__ = ["NAME", "VERSION", "VNNI", "quantize", "route", "search", "to_bytes"]

NAME = "native"
VERSION = f"Numba {numba.__version__}"
LARGEST = np.int32(2**31 - 1)
AHEAD = 3  # candidates whose vectors are fetched before they are needed
SPARE = 240  # candidates beyond those wanted, before the worst are dropped


# Selection -----------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def kth_smallest(numbers, n, k):
    """Return the k-th smallest of ``numbers[:n]`` (int32), by bisection of their values.

    It counts in straight lines, about 20 times over, which vector instructions do faster than any
    comparison sort moves things about.
    """
    low, high = numbers[0], numbers[0]
    for i in range(n):
        low = min(low, numbers[i])
        high = max(high, numbers[i])
    least, most = np.int64(low), np.int64(high)
    while least < most:
        middle = np.int32((least + most) >> 1)
        count = np.int32(0)
        for i in range(n):
            count += np.int32(numbers[i] <= middle)
        if count >= k:
            most = np.int64(middle)
        else:
            least = np.int64(middle) + 1
    return np.int32(least)


@njit(nogil=True, cache=True)
def keep_best(scores, places, n, k):
    """Move the k smallest of ``scores[:n]`` to the front, in their order; return the largest.

    Of equal ones the earlier are kept. ``scores`` has room for 16 more, which are written to.
    """
    worst = kth_smallest(scores, n, k)
    for i in range(n, n + LANES):
        scores[i] = LARGEST
    kept = 0
    for at in range(0, n, LANES):
        mask = mask_up_to(scores, at, worst)
        while mask:
            i = at + np.int64(trailing_zeros(mask))
            mask &= mask - np.uint32(1)
            if i < n:
                scores[kept] = scores[i]
                places[kept] = places[i]
                kept += 1
    if kept > k:
        below = 0
        for i in range(kept):
            below += np.int64(scores[i] < worst)
        equal = k - below
        front = 0
        for i in range(kept):
            if scores[i] == worst:
                if equal == 0:
                    continue
                equal -= 1
            scores[front] = scores[i]
            places[front] = places[i]
            front += 1
    return worst


@njit(nogil=True, cache=True)
def partition(keys, n, k):
    """Move the k smallest of ``keys[:n]`` (int64) to the front, in no order (Hoare)."""
    low, high, target = 0, n - 1, k - 1
    while low < high:
        x, y, z = keys[low], keys[(low + high) >> 1], keys[high]
        pivot = max(min(x, y), min(max(x, y), z))
        i, j = low, high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            break


@njit(nogil=True, cache=True)
def sort(keys, n):
    """Sort ``keys[:n]``, few of them by insertion."""
    if n > 64:
        keys[:n].sort()
        return
    for i in range(1, n):
        key = keys[i]
        j = i - 1
        while j >= 0 and keys[j] > key:
            keys[j + 1] = keys[j]
            j -= 1
        keys[j + 1] = key


@njit(nogil=True, cache=True)
def smallest_sorted(keys, n, k):
    """Bring the k smallest of ``keys[:n]`` to the front, sorted; k may exceed n."""
    if n > k:
        partition(keys, n, k)
    m = min(n, k)
    sort(keys, m)
    return m


# The two stages ------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def route(codes, halves, shift, n_lists, queries, nprobe, first, last, lists, scores):
    """See ``portable.route``; of the queries ``first`` to ``last``."""
    groups = codes.shape[1]
    blocks = codes.shape[0]
    numbers = np.empty(blocks * LANES + LANES, np.int32)
    places = np.empty(blocks * LANES + LANES, np.int32)
    keys = np.empty(nprobe, np.int64)
    for query in range(first, last):
        q = query * groups * 4
        for block in range(blocks):
            at = block * LANES
            write_scores(codes, block, groups, queries, q, halves, shift, numbers, at)
        for i in range(n_lists):
            places[i] = i
        if nprobe < n_lists:
            keep_best(numbers, places, n_lists, nprobe)
        for i in range(nprobe):
            keys[i] = (np.int64(numbers[i]) << 32) | np.int64(places[i])
        sort(keys, nprobe)
        for i in range(nprobe):
            lists[query, i] = keys[i] & 0xFFFFFFFF
            scores[query, i] = keys[i] >> 32


@njit(nogil=True, cache=True)
def search(
    codes, halves, shift, block_starts, starts, store, d,
    order, first, last, lists, list_scores, offsets, queries, vectors,
    candidates, k, margin, enough, keys_out, scanned,
):  # fmt: skip
    """See ``portable.search``; of the queries ``order[first:last]``."""
    groups = codes.shape[1]
    nprobe = lists.shape[1]
    longest = 0
    for j in range(starts.shape[0] - 1):
        longest = max(longest, block_starts[j + 1] - block_starts[j])
    room = max(enough, candidates + SPARE) + (longest + 2) * LANES
    scores = np.empty(room, np.int32)
    places = np.empty(room, np.int32)
    block_scores = np.empty(LANES, np.int32)
    keys = np.empty(candidates, np.int64)
    exact = store.shape[0] > 0
    row_bytes = d * store.itemsize
    for at in range(first, last):
        query = order[at]
        q = query * groups * 4
        n, met = 0, 0
        bounded = False
        bound = LARGEST
        reach = np.float64(np.inf)
        for t in range(nprobe):
            j = lists[query, t]
            if t > 0 and np.float64(list_scores[query, t]) > reach:
                break
            size = starts[j + 1] - starts[j]
            met += size
            for block in range(block_starts[j], block_starts[j + 1]):
                position = starts[j] + (block - block_starts[j]) * LANES
                used = starts[j + 1] - position
                if not bounded:
                    write_scores(codes, block, groups, queries, q, halves, shift, scores, n)
                    for i in range(LANES):
                        places[n + i] = position + i
                    n += min(LANES, used)
                else:
                    write_scores(codes, block, groups, queries, q, halves, shift, block_scores, 0)
                    mask = mask_up_to(block_scores, 0, bound - 1)
                    if used < LANES:
                        mask &= np.uint32((1 << used) - 1)
                    while mask:
                        i = np.int64(trailing_zeros(mask))
                        mask &= mask - np.uint32(1)
                        scores[n] = block_scores[i]
                        places[n] = position + i
                        n += 1
                    if n > candidates + SPARE:
                        bound = keep_best(scores, places, n, candidates)
                        n = candidates
            if not bounded:
                if n >= enough:
                    if n > candidates:
                        bound = keep_best(scores, places, n, candidates)
                    else:
                        bound = kth_smallest(scores, n, n)
                    n = min(n, candidates)
                    bounded = True
                    if margin >= 0:
                        reach = np.float64(list_scores[query, 0]) + np.float64(margin) * (
                            np.float64(bound) + np.float64(offsets[query])
                        )
            elif n >= candidates + 32:
                bound = keep_best(scores, places, n, candidates)
                n = candidates
        if n > candidates:
            keep_best(scores, places, n, candidates)
            n = candidates
        scanned[query] = met
        if exact:
            for i in range(min(n, AHEAD)):
                for byte in range(0, row_bytes, 64):
                    fetch(store, np.int64(places[i]) * row_bytes + byte)
            for i in range(n):
                if i + AHEAD < n:
                    for byte in range(0, row_bytes, 64):
                        fetch(store, np.int64(places[i + AHEAD]) * row_bytes + byte)
                bits = distance_bits(store, np.int64(places[i]), vectors, query, d)
                keys[i] = (np.int64(bits) << 32) | np.int64(places[i])
        else:
            for i in range(n):
                keys[i] = (np.int64(scores[i]) << 32) | np.int64(places[i])
        m = smallest_sorted(keys, n, k)
        for i in range(m):
            keys_out[query, i] = keys[i]
        for i in range(m, k):
            keys_out[query, i] = -1


# Preparing queries ---------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def to_bytes(x, first, last, out):
    """See ``portable.to_bytes``."""
    good = True
    for i in range(first, last):
        wrong = 0
        for j in range(x.shape[1]):
            byte = np.uint8(np.int32(min(max(x[i, j], np.float32(0)), np.float32(255))))
            out[i, j] = byte
            wrong += np.int32(np.float32(byte) != x[i, j])
        good = good and wrong == 0
    return good


@njit(nogil=True, cache=True)
def quantize(y, center, scale, first, last, out, offsets):
    """See ``portable.quantize``."""
    low, high = np.float32(-127), np.float32(127)
    for i in range(first, last):
        total, squares = np.int32(0), np.int32(0)
        for j in range(y.shape[1]):
            value = np.rint((y[i, j] - center[j]) * scale)
            component = np.int32(min(max(value, low), high))
            out[i, j] = np.int8(component)
            total += component
            squares += component * component
        offsets[i] = (squares + 1) // 2 + 128 * total
