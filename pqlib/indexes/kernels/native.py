"""The hot loops compiled by Numba for the processor they run on.

Three of them say in LLVM's own terms what a compiler does not find by itself: 16 dot products of
bytes at a time, a comparison of 16 numbers that gives a bit mask, and the squared distance of two
vectors of bytes. Where the processor has AVX-512 VNNI, four products and their sum are one
instruction; elsewhere LLVM makes of the same description what the processor has. All are exact
integer arithmetic, so that the results are the same everywhere.

Threads work on different queries and share nothing that is written, so no function here starts
any.
"""

from __future__ import annotations

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

if numba.config.DISABLE_JIT:
    raise ImportError("Numba is told not to compile, by NUMBA_DISABLE_JIT")

NAME = "native"
VERSION = f"Numba {numba.__version__}"
VNNI = (
    "+avx512vnni" in numba.config.CPU_FEATURES.split(",")
    if numba.config.CPU_FEATURES is not None
    else bool(numba.config.ENABLE_AVX and llvm.get_host_cpu_features().get("avx512vnni"))
)
"""Whether the processor multiplies and adds four bytes in one step, 16 times at once."""

INT1, INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOAT = ir.FloatType()
LANES = 16
LARGEST = np.int32(2**31 - 1)
AHEAD = 3  # candidates whose vectors are fetched before they are needed
SPARE = 240  # candidates beyond those wanted, before the worst are dropped


def _vector(element, length):
    return ir.VectorType(element, length)


def _splat(builder, scalar, length):
    vector = _vector(scalar.type, length)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, INT32(0))
    zeros = ir.Constant(_vector(INT32, length), [0] * length)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _pick(builder, vector, places):
    mask = ir.Constant(_vector(INT32, len(places)), list(places))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def _pointer(context, builder, kind, array, offset=None):
    """Return the address of an array's data, ``offset`` bytes on."""
    data = context.make_array(kind)(context, builder, array).data
    start = builder.bitcast(data, INT8.as_pointer())
    return start if offset is None else builder.gep(start, [offset])


def _load(builder, pointer, vector, align=1):
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=align)


def _add_pairs(builder, total, x, y):
    """Return ``total`` (n / 2 int32) plus products of ``x`` and ``y`` (n int16), in pairs."""
    n = x.type.count
    wide = _vector(INT32, n // 2)
    products = []
    for first in (0, 1):
        places = range(first, n, 2)
        products.append(
            builder.mul(
                builder.sext(_pick(builder, x, places), wide),
                builder.sext(_pick(builder, y, places), wide),
            )
        )
    return builder.add(total, builder.add(*products))


def _vnni(builder, name, total, x, y):
    vector = _vector(INT32, LANES)
    kind = ir.FunctionType(vector, [vector] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512.{name}.512")
    return builder.call(function, [total, builder.bitcast(x, vector), builder.bitcast(y, vector)])


def _zero(vector):
    return ir.Constant(vector, [0] * vector.count)


def _mask(builder, relation, numbers, bound):
    """Return a bit mask of the 16 numbers (int32) that are in a relation to ``bound``."""
    found = builder.icmp_signed(relation, numbers, _splat(builder, bound, LANES))
    return builder.zext(builder.bitcast(found, INT16), INT32)


def _store(builder, scores, target):
    builder.store(scores, builder.bitcast(target, scores.type.as_pointer()), align=4)


def _sum(builder, vector, add):
    """Return the sum of all lanes, halves added to halves."""
    n = vector.type.count
    while n > 1:
        n //= 2
        vector = add(_pick(builder, vector, range(n)), _pick(builder, vector, range(n, 2 * n)))
    return builder.extract_element(vector, INT32(0))


def _block_scores(builder, codes, groups, query, halves, shift):
    """Return 16 scores: half of a code's squared norm less its dot product with the query."""
    total_type = _vector(INT32, LANES if VNNI else 2 * LANES)
    total = cgutils.alloca_once(builder, total_type)
    builder.store(_zero(total_type), total)
    with cgutils.for_range(builder, groups) as loop:
        offset = builder.mul(loop.index, INT64(64))
        code = _load(builder, builder.gep(codes, [offset]), _vector(INT8, 64))
        four = builder.load(builder.gep(query, [loop.index]), align=1)
        every = _splat(builder, four, LANES)
        if VNNI:
            added = _vnni(builder, "vpdpbusd", builder.load(total), code, every)
        else:
            added = _add_pairs(
                builder,
                builder.load(total),
                builder.zext(code, _vector(INT16, 64)),
                builder.sext(builder.bitcast(every, _vector(INT8, 64)), _vector(INT16, 64)),
            )
        builder.store(added, total)
    dots = builder.load(total)
    if not VNNI:
        dots = builder.add(
            _pick(builder, dots, range(0, 2 * LANES, 2)),
            _pick(builder, dots, range(1, 2 * LANES, 2)),
        )
    half = builder.zext(_load(builder, halves, _vector(INT16, LANES)), _vector(INT32, LANES))
    return builder.sub(builder.shl(half, _splat(builder, shift, LANES)), dots)


def _scores_of(context, builder, signature, arguments):
    """Return the scores of the block that the first arguments of an intrinsic name."""
    kinds = signature.args
    codes, block, groups, query, query_offset, halves, shift = arguments[:7]
    start = builder.mul(builder.mul(block, groups), INT64(64))
    return _block_scores(
        builder,
        _pointer(context, builder, kinds[0], codes, start),
        groups,
        builder.bitcast(
            _pointer(context, builder, kinds[3], query, query_offset), INT32.as_pointer()
        ),
        _pointer(context, builder, kinds[5], halves, builder.mul(block, INT64(2 * LANES))),
        shift,
    )


@intrinsic
def write_scores(typing, codes, block, groups, query, query_offset, halves, shift, out, at):
    """Write the 16 scores of a block to ``out[at:at + 16]``."""
    signature = types.void(
        codes, types.intp, types.intp, query, types.intp, halves, types.int32, out, types.intp
    )

    def generate(context, builder, signature, arguments):
        scores = _scores_of(context, builder, signature, arguments)
        offset = builder.mul(arguments[8], INT64(4))
        target = _pointer(context, builder, signature.args[7], arguments[7], offset)
        _store(builder, scores, target)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def better_scores(typing, codes, block, groups, query, query_offset, halves, shift, bound, out):
    """Return a bit mask of a block's scores below ``bound``; write all 16 to ``out``."""
    signature = types.uint32(
        codes, types.intp, types.intp, query, types.intp, halves, types.int32, types.int32, out
    )

    def generate(context, builder, signature, arguments):
        scores = _scores_of(context, builder, signature, arguments)
        target = _pointer(context, builder, signature.args[8], arguments[8])
        _store(builder, scores, target)
        return _mask(builder, "<", scores, arguments[7])

    return signature, generate


@intrinsic
def mask_up_to(typing, numbers, at, bound):
    """Return a bit mask of ``numbers[at:at + 16]`` (int32) that are not above ``bound``."""
    signature = types.uint32(numbers, types.intp, types.int32)

    def generate(context, builder, signature, arguments):
        offset = builder.mul(arguments[1], INT64(4))
        source = _pointer(context, builder, signature.args[0], arguments[0], offset)
        found = _load(builder, source, _vector(INT32, LANES), align=4)
        return _mask(builder, "<=", found, arguments[2])

    return signature, generate


@intrinsic
def first_bit(typing, mask):
    """Return the place of the lowest bit of a mask that is not zero."""
    signature = types.uint32(types.uint32)

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], INT1(0))

    return signature, generate


@intrinsic
def fetch(typing, array, offset):
    """Ask the processor to bring the bytes at ``offset`` into its cache."""
    signature = types.void(array, types.intp)

    def generate(context, builder, signature, arguments):
        source = _pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        kind = ir.FunctionType(ir.VoidType(), [INT8.as_pointer(), INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [source, INT32(0), INT32(3), INT32(1)])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def distance_bits(typing, store, row, queries, query, d):
    """Return the squared distance of two rows as an int32 that orders as distances do.

    Rows of bytes: the distance itself. Rows of float32, one or both: the bits of the float32
    distance, summed up in 16 lanes that are then added, halves to halves, and the rest after them.
    """
    signature = types.int32(store, types.intp, queries, types.intp, types.intp)
    whole = store.dtype == types.uint8 and queries.dtype == types.uint8

    def generate(context, builder, signature, arguments):
        d = arguments[4]
        kinds = (signature.args[0], signature.args[2])
        sizes = [1 if kind.dtype == types.uint8 else 4 for kind in kinds]
        sources = [
            _pointer(context, builder, kind, array, builder.mul(builder.mul(place, d), INT64(size)))
            for kind, array, place, size in zip(
                kinds, arguments[0:3:2], arguments[1:4:2], sizes, strict=True
            )
        ]
        step = 32 if whole else LANES

        def difference(index, length):
            """Return x - y of ``length`` components from ``index`` on; 0: of that one."""
            values = []
            for source, size in zip(sources, sizes, strict=True):
                at = builder.gep(source, [builder.mul(index, INT64(size))])
                stored = INT8 if size == 1 else FLOAT
                kind = INT32 if whole else FLOAT
                if length:
                    stored = _vector(stored, length)
                    kind = _vector(INT16 if whole else FLOAT, length)
                value = _load(builder, at, stored)
                if size == 1:
                    value = builder.zext(value, kind) if whole else builder.uitofp(value, kind)
                values.append(value)
            return (builder.sub if whole else builder.fsub)(*values)

        lanes = _vector(INT32 if whole else FLOAT, LANES)
        total = cgutils.alloca_once(builder, lanes)
        builder.store(_zero(lanes), total)
        steps = builder.sdiv(d, INT64(step))
        with cgutils.for_range(builder, steps) as loop:
            e = difference(builder.mul(loop.index, INT64(step)), step)
            if not whole:
                added = builder.fadd(builder.load(total), builder.fmul(e, e))
            elif VNNI:
                added = _vnni(builder, "vpdpwssd", builder.load(total), e, e)
            else:
                added = _add_pairs(builder, builder.load(total), e, e)
            builder.store(added, total)
        add = builder.add if whole else builder.fadd
        result = cgutils.alloca_once(builder, lanes.element)
        builder.store(_sum(builder, builder.load(total), add), result)
        first = builder.mul(steps, INT64(step))
        with cgutils.for_range_slice(builder, first, d, INT64(1)) as (index, _):
            e = difference(index, 0)
            square = (builder.mul if whole else builder.fmul)(e, e)
            builder.store(add(builder.load(result), square), result)
        found = builder.load(result)
        return found if whole else builder.bitcast(found, INT32)

    return signature, generate


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
            i = at + np.int64(first_bit(mask))
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
        kept_now = 0
        for i in range(kept):
            if scores[i] == worst:
                if equal == 0:
                    continue
                equal -= 1
            scores[kept_now] = scores[i]
            places[kept_now] = places[i]
            kept_now += 1
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
                    mask = better_scores(
                        codes, block, groups, queries, q, halves, shift, bound, block_scores
                    )
                    if used < LANES:
                        mask &= np.uint32((1 << used) - 1)
                    while mask:
                        i = np.int64(first_bit(mask))
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
