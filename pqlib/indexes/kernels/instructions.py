"""What the compiled loops say in LLVM's own terms, since a compiler does not find it by itself.

16 dot products of bytes at a time, a comparison of 16 numbers that gives a bit mask, and the
squared distance of two rows. Where the processor has AVX-512 VNNI, four products and their sum are
one instruction; elsewhere LLVM makes of the same description what the processor has. All but the
distances of float32 are exact integer arithmetic, and those add up in a fixed order, so that the
results are the same everywhere.

Numba keeps what it compiled of ``native`` until *that* file changes: after a change here, touch it.
"""

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

VNNI = (
    "+avx512vnni" in numba.config.CPU_FEATURES.split(",")
    if numba.config.CPU_FEATURES is not None
    else bool(numba.config.ENABLE_AVX and llvm.get_host_cpu_features().get("avx512vnni"))
)
"""Whether the processor multiplies and adds four bytes in one step, 16 times at once."""

INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT = ir.FloatType()
LANES = 16


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


def _pointer(context, builder, kind, array, offset):
    """Return the address of an array's data, ``offset`` bytes on."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(builder.bitcast(data, INT8.as_pointer()), [offset])


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


def _add_bytes(builder, total, code, signed):
    """Return ``total`` plus products of 64 bytes with 64 signed ones, in fours or in pairs."""
    if VNNI:
        return _vnni(builder, "vpdpbusd", total, code, signed)
    wide = _vector(INT16, 64)
    return _add_pairs(builder, total, builder.zext(code, wide), builder.sext(signed, wide))


def _call(builder, name, result, arguments):
    """Call LLVM's own function of this name."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _vnni(builder, name, *vectors):
    kind = _vector(INT32, LANES)
    sixteen = [builder.bitcast(vector, kind) for vector in vectors]
    return _call(builder, f"llvm.x86.avx512.{name}.512", kind, sixteen)


def _zero(vector):
    return ir.Constant(vector, [0] * vector.count)


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
        every = builder.bitcast(every, _vector(INT8, 64))
        builder.store(_add_bytes(builder, builder.load(total), code, every), total)
    dots = builder.load(total)
    if not VNNI:
        dots = builder.add(
            _pick(builder, dots, range(0, 2 * LANES, 2)),
            _pick(builder, dots, range(1, 2 * LANES, 2)),
        )
    half = builder.zext(_load(builder, halves, _vector(INT16, LANES)), _vector(INT32, LANES))
    return builder.sub(builder.shl(half, _splat(builder, shift, LANES)), dots)


@intrinsic
def write_scores(typing, codes, block, groups, query, query_offset, halves, shift, out, at):
    """Write the 16 scores of a block to ``out[at:at + 16]``."""
    signature = types.void(
        codes, types.intp, types.intp, query, types.intp, halves, types.int32, out, types.intp
    )

    def generate(context, builder, signature, arguments):
        codes, block, groups, query, query_offset, halves, shift, out, at = arguments

        def address(place, array, offset):
            return _pointer(context, builder, signature.args[place], array, offset)

        codes = address(0, codes, builder.mul(builder.mul(block, groups), INT64(64)))
        query = builder.bitcast(address(3, query, query_offset), INT32.as_pointer())
        halves = address(5, halves, builder.mul(block, INT64(2 * LANES)))
        scores = _block_scores(builder, codes, groups, query, halves, shift)
        target = address(7, out, builder.mul(at, INT64(4)))
        builder.store(scores, builder.bitcast(target, scores.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def mask_up_to(typing, numbers, at, bound):
    """Return a bit mask of ``numbers[at:at + 16]`` (int32) that are not above ``bound``."""
    signature = types.uint32(numbers, types.intp, types.int32)

    def generate(context, builder, signature, arguments):
        offset = builder.mul(arguments[1], INT64(4))
        source = _pointer(context, builder, signature.args[0], arguments[0], offset)
        found = _load(builder, source, _vector(INT32, LANES), align=4)
        better = builder.icmp_signed("<=", found, _splat(builder, arguments[2], LANES))
        return builder.zext(builder.bitcast(better, INT16), INT32)

    return signature, generate


@intrinsic
def fetch(typing, array, offset):
    """Ask the processor to bring the bytes at ``offset`` into its cache."""
    signature = types.void(array, types.intp)

    def generate(context, builder, signature, arguments):
        source = _pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        places = [source, INT32(0), INT32(3), INT32(1)]  # to read; in all caches; data
        _call(builder, "llvm.prefetch.p0i8", ir.VoidType(), places)
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


@intrinsic
def row_dot(typing, codes, row, width, query, offset):
    """Return the dot product of a row of bytes with ``width`` signed bytes from ``offset`` on.

    ``width`` is a multiple of 64.
    """
    signature = types.int32(codes, types.intp, types.intp, query, types.intp)

    def generate(context, builder, signature, arguments):
        codes, row, width, query, offset = arguments
        source = _pointer(context, builder, signature.args[0], codes, builder.mul(row, width))
        asked = _pointer(context, builder, signature.args[3], query, offset)
        lanes = _vector(INT32, LANES if VNNI else 2 * LANES)
        total = cgutils.alloca_once(builder, lanes)
        builder.store(_zero(lanes), total)
        with cgutils.for_range(builder, builder.sdiv(width, INT64(64))) as loop:
            at = builder.mul(loop.index, INT64(64))
            code = _load(builder, builder.gep(source, [at]), _vector(INT8, 64))
            signed = _load(builder, builder.gep(asked, [at]), _vector(INT8, 64))
            builder.store(_add_bytes(builder, builder.load(total), code, signed), total)
        return _sum(builder, builder.load(total), builder.add)

    return signature, generate
