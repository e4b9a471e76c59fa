"""The loops of CascadeIndex: both engines do what their docstrings say, to the bit, everywhere."""

import functools
import hashlib
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPEATABLE
from hypothesis import given, settings
from hypothesis import strategies as st

from pqlib.indexes import kernels
from pqlib.indexes.kernels import layout, portable

PROFILE = settings(REPEATABLE, max_examples=40)
STORES = {
    "bytes": (np.uint8, np.uint8),
    "bytes, float queries": (np.uint8, np.float32),
    "floats": (np.float32, np.float32),
    "none": (None, np.float32),
}
"""Types of the whole vectors and of the queries that are compared with them."""
UNTOUCHED = -7


@pytest.fixture(scope="session")
def native():
    pytest.importorskip("numba")
    return kernels.engine("native")


# Inputs, and what comes out ------------------------------------------------------------------


@dataclass
class Case:
    """Lists, centroids and queries, as CascadeIndex hands them to the loops."""

    codes: np.ndarray  # (n, components) int8
    starts: np.ndarray
    centroids: np.ndarray  # (lists, components) int8
    queries: np.ndarray  # (nq, components) int8
    store: np.ndarray
    vectors: np.ndarray
    nprobe: int = 1
    candidates: int = 10
    k: int = 5
    margin: float = -1.0
    enough: int = 512
    part: tuple = (0, None)
    order: np.ndarray | None = None

    def __post_init__(self):
        if self.order is None:
            self.order = np.arange(len(self.queries))
        whole = self.queries.astype(np.int64)
        self.offsets = ((whole**2).sum(1) + 1) // 2 + 128 * whole.sum(1)
        self.offsets = self.offsets.astype(np.int32)
        first, last = self.part
        self.part = first, len(self.queries) if last is None else last


def some(rng, low, high, shape, dtype):
    return rng.integers(low, high + 1, size=shape).astype(dtype)


def make(seed, sizes, components=20, d=25, store="bytes", nq=9, values=127, **options):
    """A case of lists of the given sizes; ``values``: components are -values..values."""
    rng = np.random.default_rng(seed)
    n, lists = int(np.sum(sizes)), len(sizes)
    stored, asked = STORES[store]
    if stored == np.float32:
        base, vectors = (rng.normal(size=(m, d)).astype(np.float32) for m in (n, nq))
    else:
        high = 255 if values > 1 else 1  # few values make equal distances as well
        base, vectors = some(rng, 0, high, (n, d), np.uint8), some(rng, 0, high, (nq, d), asked)
        if store == "bytes, float queries":
            vectors += np.float32(0.3)
    if stored is None:
        base = np.empty((0, d), np.uint8)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    draw = lambda m: some(rng, -values, values, (m, components), np.int8)  # noqa: E731
    return Case(
        draw(n), starts, draw(lists), draw(nq), base, vectors, order=rng.permutation(nq), **options
    )


def run(engine, case):
    """Both stages of an engine: lists, scores, keys, scanned."""
    lists = np.full((len(case.queries), case.nprobe), UNTOUCHED, np.int32)
    scores = np.full_like(lists, UNTOUCHED)
    coarse = layout.pack(case.centroids, np.array([0, len(case.centroids)], np.int64))
    everything = 0, len(case.queries)
    engine.route(coarse.codes, coarse.half_norms, np.int32(coarse.shift), len(case.centroids),
                 case.queries, case.nprobe, *everything, lists, scores)  # fmt: skip
    return lists, scores, *scan(engine, case, lists, scores)


def scan(engine, case, lists, scores):
    keys = np.full((len(case.queries), case.k), UNTOUCHED, np.int64)
    scanned = np.full(len(case.queries), UNTOUCHED, np.int64)
    blocks = layout.pack(case.codes, case.starts)
    engine.search(
        blocks.codes, blocks.half_norms, np.int32(blocks.shift), blocks.block_starts, blocks.starts,
        case.store, case.store.shape[1], case.order, *case.part, lists, scores, case.offsets,
        case.queries, case.vectors, case.candidates, case.k, case.margin, case.enough, keys, scanned
    )  # fmt: skip
    return keys, scanned


def halves(codes):
    """Half the squared norms as they are kept: whole multiples of the least sufficient 2**shift."""
    half = (codes.astype(np.int64) ** 2).sum(1) / 2
    shift = 0
    while len(half) and half.max() > 65535 * 2**shift:
        shift += 1
    return np.rint(half / 2**shift).astype(np.int64) * 2**shift


def score(codes, query):
    """Half norm less the dot product of the query and the codes kept as c + 128."""
    return halves(codes) - (codes.astype(np.int64) + 128) @ query.astype(np.int64)


def by_definition(case):
    """What ``run`` must return, one query and one list at a time; keys as (rank, position)."""
    nq = len(case.queries)
    lists, scores = (np.empty((nq, case.nprobe), np.int64) for _ in range(2))
    for q, query in enumerate(case.queries):
        coarse = score(case.centroids, query)
        lists[q] = np.argsort(coarse, kind="stable")[: case.nprobe]
        scores[q] = coarse[lists[q]]
    found, scanned = {}, {}
    for q in case.order[case.part[0] : case.part[1]]:
        every = score(case.codes, case.queries[q])
        met, reach = np.empty(0, np.int64), np.inf
        for t, j in enumerate(lists[q]):
            if t and scores[q, t] > reach:
                break
            before = len(met)
            met = np.concatenate([met, np.arange(case.starts[j], case.starts[j + 1])])
            if before < case.enough <= len(met) and case.margin >= 0:
                last = np.sort(every[met])[min(case.candidates, len(met)) - 1]
                reach = scores[q, 0] + case.margin * (last + int(case.offsets[q]))
        scanned[q] = len(met)
        kept = met[np.argsort(every[met], kind="stable")[: case.candidates]]
        rank = every[kept]
        if len(case.store):
            gap = case.store[kept].astype(np.float64) - case.vectors[q].astype(np.float64)
            rank = (gap**2).sum(1)
        best = np.lexsort((kept, rank))[: case.k]
        found[q] = rank[best], kept[best], rank, kept
    return lists, scores, found, scanned


def check(case, result):
    lists, scores, keys, scanned = result
    wanted_lists, wanted_scores, found, wanted_scanned = by_definition(case)
    assert (lists == wanted_lists).all()
    assert (scores == wanted_scores).all()
    outside = np.setdiff1d(np.arange(len(keys)), list(found))
    assert (keys[outside] == UNTOUCHED).all()
    assert (scanned[outside] == UNTOUCHED).all()
    for q, (rank, places, every, kept) in found.items():
        assert scanned[q] == wanted_scanned[q]
        n = len(rank)
        assert (keys[q, n:] == -1).all()
        at, bits = keys[q, :n] & 0xFFFFFFFF, (keys[q, :n] >> 32).astype(np.int32)
        if case.vectors.dtype == np.uint8 or not len(case.store):
            assert (bits == rank).all()
            assert (at == places).all()
        else:  # float32 may order what is as good as equal otherwise
            assert bits.view(np.float32) == pytest.approx(rank, rel=1e-5, abs=1e-5)
            true = dict(zip(kept, every, strict=True))
            assert len(set(at)) == n
            assert bits.view(np.float32) == pytest.approx([true[p] for p in at], rel=1e-5, abs=1e-5)


def equal(one, other):
    return all(a.dtype == b.dtype and (a == b).all() for a, b in zip(one, other, strict=True))


SIZES = {
    "no vectors in most": [0, 0, 3, 0, 0, 1, 0],
    "around a block": [0, 1, 15, 16, 17, 31, 32, 33],
    "one of one": [1],
    "one long": [1000],
    "long and short": [1000, 0, 1, 700, 17, 1000, 16, 15, 300],
    "many": [7] * 100,
}
OPTIONS = {
    "one list": dict(nprobe=1),
    "all lists": dict(nprobe=10**6),
    "more wanted than there is": dict(nprobe=2, candidates=5000, k=2000, enough=5000),
    "long results": dict(nprobe=10**6, candidates=300, k=200),
    "soon enough": dict(nprobe=10**6, candidates=10, k=10, enough=10),
    "enough at a list's end": dict(nprobe=10**6, candidates=20, k=3, enough=1000),
    "one past a list's end": dict(nprobe=10**6, candidates=20, k=3, enough=1001),
    "margin of zero": dict(nprobe=10**6, candidates=20, margin=0.0, enough=20),
    "narrow margin": dict(nprobe=10**6, candidates=20, margin=0.1, enough=40),
    "wide margin": dict(nprobe=10**6, candidates=20, margin=1.5, enough=512),
    "margin, and all kept": dict(nprobe=10**6, candidates=1000, margin=0.3, enough=1000),
    "some of the queries": dict(nprobe=3, part=(2, 6)),
    "none of the queries": dict(nprobe=3, part=(4, 4)),
}


def options_for(sizes, options):
    n = int(np.sum(sizes))
    options = dict(options)
    options["nprobe"] = min(options["nprobe"], len(sizes))
    options["k"] = max(1, min(options.get("k", 5), n))
    return options


@pytest.mark.parametrize("values", [1, 127])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_both_engines_find_what_is_defined(native, sizes, options, values):
    chosen = options_for(SIZES[sizes], OPTIONS[options])
    for i, store in enumerate(STORES):
        case = make(i, SIZES[sizes], store=store, values=values, **chosen)
        result = run(portable, case)
        check(case, result)
        assert equal(run(native, case), result)


@pytest.mark.parametrize("components", [4, 8, 12, 60, 64, 100, 200])
@pytest.mark.parametrize("d", [1, 15, 16, 25, 31, 32, 33, 100, 784])
def test_any_dimension(native, d, components):
    for store in STORES:
        case = make(d, [40, 5, 80], components, d, store, nprobe=2, candidates=30)
        result = run(portable, case)
        check(case, result)
        assert equal(run(native, case), result)


@pytest.mark.parametrize("store", STORES)
def test_all_codes_equal(native, store):
    """Of equal ones the first met are kept, across lists, blocks and the dropping of the worst."""
    case = make(3, [1000, 16, 1000], store=store, nprobe=3, candidates=50, k=50, enough=512)
    case = replace(case, codes=np.zeros_like(case.codes) + np.int8(5))
    result = run(portable, case)
    check(case, result)
    assert equal(run(native, case), result)


def test_the_best_last_and_the_best_first(native):
    """Bounds become tighter with each code, or never again: buffers fill up, or stay empty."""
    n = 3000
    ramp = np.repeat(np.linspace(-127, 127, n).astype(np.int8)[:, None], 8, axis=1)
    for codes in (ramp, np.ascontiguousarray(ramp[::-1])):
        for candidates in (1, 5, 64, 65, 500):
            case = make(0, [n // 2, n // 2], 8, nprobe=2, candidates=candidates, k=1, enough=512)
            queries = np.stack([np.full(8, v, np.int8) for v in (-127, -1, 0, 1, 127)])
            case = replace(case, codes=codes, queries=queries, order=np.arange(5),
                           vectors=case.vectors[:5], part=(0, 5), enough=max(512, candidates),
                           k=candidates)  # fmt: skip
            result = run(portable, case)
            check(case, result)
            assert equal(run(native, case), result)


def test_extremes_do_not_overflow(native):
    from pqlib.indexes.kernels.layout import LARGEST_D

    store = np.stack([np.zeros(LARGEST_D, np.uint8), np.full(LARGEST_D, 255, np.uint8)])
    case = make(0, [2], 4, LARGEST_D, nq=2, candidates=2, k=2)
    case = replace(case, store=store, vectors=store)
    for engine in (portable, native):
        bits = run(engine, case)[2] >> 32
        assert (bits == [0, 255**2 * LARGEST_D]).all()
    # Codes and queries at the ends of their range, of more components than bytes have rows.
    for components in (1032, 1036, 4000):
        ends = np.where(np.arange(components) % 2, 127, -127).astype(np.int8)
        full = np.full(components, 127, np.int8)
        codes = np.stack([ends, -ends, full, -full, np.zeros_like(full)] * 4)
        case = make(1, [17, 3], components, nq=5, store="none", nprobe=2, candidates=20, k=20)
        case = replace(case, codes=codes, queries=codes[:5], centroids=codes[2:4])
        result = run(portable, case)
        check(case, result)
        assert equal(run(native, case), result)


@st.composite
def cases(draw):
    sizes = draw(
        st.lists(st.one_of(st.sampled_from([0, 1, 15, 16, 17]), st.integers(0, 400)), min_size=1,
                 max_size=40).filter(sum)
    )  # fmt: skip
    nq = draw(st.integers(1, 6))
    candidates = draw(st.one_of(st.integers(1, 40), st.integers(1, 2 * sum(sizes))))
    first = draw(st.integers(0, nq))
    return make(
        draw(st.integers(0, 2**32 - 1)),
        sizes,
        4 * draw(st.integers(1, 50)),
        draw(st.integers(1, 130)),
        draw(st.sampled_from(list(STORES))),
        nq,
        draw(st.sampled_from([0, 1, 3, 127])),
        nprobe=draw(st.integers(1, len(sizes))),
        candidates=candidates,
        k=draw(st.integers(1, candidates)),
        margin=draw(st.sampled_from([-1.0, 0.0, 0.01, 0.3, 1.0, 100.0])),
        enough=candidates + draw(st.one_of(st.integers(0, 20), st.integers(0, 2000))),
        part=(first, draw(st.integers(first, nq))),
    )


@PROFILE
@given(cases())
def test_portable_is_what_is_defined(case):
    check(case, run(portable, case))


@PROFILE
@given(case=cases())
def test_native_is_portable(native, case):
    assert equal(run(native, case), run(portable, case))


# Preparing queries ---------------------------------------------------------------------------


def prepare(engine, x, center, scale, first, last):
    codes, offsets = np.full(x.shape, 3, np.int8), np.full(len(x), 3, np.int32)
    engine.quantize(x, center, np.float32(scale), first, last, codes, offsets)
    out = np.full(x.shape, 3, np.uint8)
    return codes, offsets, out, np.array([engine.to_bytes(x, first, last, out)])


def quantized(x, center, scale):
    steps = np.rint((x - center) * np.float32(scale))
    return np.clip(steps, -127, 127).astype(np.int64)


@PROFILE
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    width=st.integers(1, 70),
    size=st.sampled_from([1e-30, 1e-6, 1.0, 200.0, 1e6, 1e30]),
    whole=st.booleans(),
    part=st.booleans(),
)
def test_queries_are_prepared_alike(native, seed, n, width, size, whole, part):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, width)) * size).astype(np.float32)
    if whole:
        x = rng.integers(0, 256, size=x.shape).astype(np.float32)
    center = x.mean(axis=0)
    scale = np.float32(127 / max(1e-30, np.abs(x - center).max() * rng.choice([0.5, 1, 3])))
    first, last = (1, n - 1) if part and n > 2 else (0, n)
    one, other = (prepare(engine, x, center, scale, first, last) for engine in (portable, native))
    assert equal(one, other)
    codes, offsets, out, good = one
    wanted = quantized(x, center, scale)[first:last]
    assert (codes[first:last] == wanted).all()
    assert (offsets[first:last] == ((wanted**2).sum(1) + 1) // 2 + 128 * wanted.sum(1)).all()
    rows = x[first:last]
    assert good[0] == ((rows >= 0) & (rows <= 255) & (rows == np.trunc(rows))).all()
    if good[0]:
        assert (out[first:last] == rows).all()
    for written in (codes, offsets, out):
        assert (written[:first] == 3).all()
        assert (written[last:] == 3).all()


@pytest.mark.parametrize("wrong", [-1.0, 256.0, 0.5, 254.99998, 255.00002, 1e-30, 1e30, -1e30])
@pytest.mark.parametrize("at", [(0, 0), (4, 16), (8, 32)])
def test_one_component_that_is_no_byte_is_noticed(native, wrong, at):
    x = np.random.default_rng(0).integers(0, 256, size=(9, 33)).astype(np.float32)
    x[1, 2] = -0.0
    for engine in (portable, native):
        out = np.empty(x.shape, np.uint8)
        assert engine.to_bytes(x, 0, 9, out)
        assert (out == x).all()
        spoiled = x.copy()
        spoiled[at] = wrong
        assert not engine.to_bytes(spoiled, 0, 9, out)
        # Rows outside the range do not count.
        assert engine.to_bytes(spoiled, at[0] + 1, 9, out)


def test_halves_round_to_even_and_ends_are_clipped(native):
    x = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.4, 127.5, 1e9, -1e9, -127.6]], np.float32)
    for engine in (portable, native):
        codes = prepare(engine, x, np.zeros(11, np.float32), 1, 0, 1)[0]
        assert codes.tolist() == [[0, 2, 2, 0, -2, 126, 127, 127, 127, -127, -127]]


# Layout --------------------------------------------------------------------------------------


@PROFILE
@given(
    st.lists(st.one_of(st.sampled_from([0, 1, 15, 16, 17]), st.integers(0, 60)), min_size=1),
    st.integers(1, 12),
    st.sampled_from([0, 1, 127]),
    st.integers(0, 2**32 - 1),
)
def test_what_is_packed_can_be_unpacked(sizes, groups, values, seed):
    codes = some(np.random.default_rng(seed), -values, values, (sum(sizes), 4 * groups), np.int8)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    blocks = layout.pack(codes, starts)
    back = blocks.unpack()
    assert back.dtype == np.int8
    assert back.shape == codes.shape
    assert (back == codes).all()
    assert blocks.components == 4 * groups
    assert (np.diff(blocks.block_starts) == [-(-s // 16) for s in sizes]).all()
    assert blocks.codes.shape == (blocks.block_starts[-1], groups, 16, 4)
    assert blocks.nbytes == blocks.codes.nbytes + blocks.half_norms.nbytes
    if sum(sizes):
        assert blocks.codes.ctypes.data % 64 == blocks.half_norms.ctypes.data % 64 == 0
    # One by one: list j's code i is lane i % 16 of the list's block i // 16.
    slots = blocks.slots()
    assert len(slots) == len(codes)
    for j, size in enumerate(sizes):
        for i in range(size):
            slot = 16 * (blocks.block_starts[j] + i // 16) + i % 16
            assert slots[starts[j] + i] == slot
            lane = blocks.codes[slot // 16, :, slot % 16].ravel()
            assert (lane == codes[starts[j] + i].astype(int) + 128).all()
    unused = np.setdiff1d(np.arange(16 * blocks.block_starts[-1]), slots)
    assert (blocks.codes.transpose(0, 2, 1, 3).reshape(-1, 4 * groups)[unused] == 128).all()
    assert (blocks.half_norms[unused] == 0).all()
    kept = blocks.half_norms[slots].astype(np.int64) << blocks.shift
    assert (kept == halves(codes)).all()


@pytest.mark.parametrize(
    ("components", "shift"), [(4, 0), (8, 0), (12, 1), (16, 1), (20, 2), (784, 7), (4000, 9)]
)
def test_large_norms_are_kept_in_two_bytes(components, shift):
    codes = np.full((3, components), 127, np.int8)
    codes[1] = 0
    codes[2] = 64
    blocks = layout.pack(codes, np.array([0, 3], np.int64))
    exact = (codes.astype(np.float64) ** 2).sum(1) / 2
    assert blocks.shift == shift
    kept = blocks.half_norms[:3].astype(np.int64) << shift
    assert np.abs(kept - exact).max() <= 2**shift / 2


def test_the_largest_norm_that_needs_no_shift():
    # Halves of 65535 and 65535.5: the latter would round to 65536, which is no uint16.
    for last, shift in ((0, 0), (1, 1)):
        codes = np.array([[127] * 8 + [44, 10, 1, 1, last, 0, 0, 0]], np.int8)
        half = (codes.astype(np.int64) ** 2).sum() / 2
        assert half == 65535 + last / 2
        blocks = layout.pack(codes, np.array([0, 1], np.int64))
        assert blocks.shift == shift
        assert abs((int(blocks.half_norms[0]) << shift) - half) <= 2**shift / 2


def test_no_codes_at_all():
    blocks = layout.pack(np.empty((0, 8), np.int8), np.zeros(4, np.int64))
    assert blocks.unpack().shape == (0, 8)
    assert blocks.nbytes == 0
    assert blocks.block_starts.tolist() == [0, 0, 0, 0]


# Other processors ----------------------------------------------------------------------------

PROCESSORS = {
    "Haswell": (
        {
            "NUMBA_CPU_NAME": "haswell",
            "NUMBA_CPU_FEATURES": "+avx2,+fma,+ssse3,+sse4.1,+sse4.2,+popcnt,+bmi",
        },
        ("bytes",),
    ),
    "the first with 64 bits": (
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        ("floats",),
    ),
    "AVX switched off": ({"NUMBA_ENABLE_AVX": "0"}, ("bytes",)),
}
"""How to make Numba compile for them, and what is computed there: compiling takes its time."""


@functools.cache
def digest(engine, stores):
    """A number of what an engine computes of many cases."""
    total = hashlib.sha256()
    for seed in range(3):
        for store in stores:
            for values in (1, 127):
                for options in ("long results", "narrow margin"):
                    sizes = SIZES["long and short"]
                    chosen = options_for(sizes, OPTIONS[options])
                    case = make(seed, sizes, 20 + 24 * seed, 25 + 75 * seed, store, values=values,
                                **chosen)  # fmt: skip
                    for array in run(engine, case):
                        total.update(array.tobytes())
        x = (np.random.default_rng(seed).normal(size=(50, 33)) * 90 + 90).astype(np.float32)
        for array in prepare(engine, x, x.mean(axis=0), 0.5, 0, 50):
            total.update(array.tobytes())
    return total.hexdigest()


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="names of x86 processors"
)
def test_compiled_for_another_processor_the_results_are_the_same(native, cache):
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    code = (
        "import sys, test_kernels, pqlib.indexes.kernels.native as native; "
        "print(native.VNNI, test_kernels.digest(native, tuple(sys.argv[1:])))"
    )
    # What is compiled is kept for as long as the sources stay the same.
    sources = sorted(Path(kernels.__file__).parent.glob("*.py"))
    version = hashlib.sha256(b"".join(map(Path.read_bytes, sources))).hexdigest()[:16]
    compiled = cache.mkdir(f"kernels {version}")
    running = {}
    for number, (name, (variables, stores)) in enumerate(PROCESSORS.items()):
        if name == "Haswell" and not all(features.get(f) for f in ("avx2", "fma", "bmi")):
            continue
        running[name] = subprocess.Popen(
            [sys.executable, "-c", code, *stores],
            env=os.environ | variables | {"NUMBA_CACHE_DIR": str(compiled / str(number))},
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    outputs = {name: process.communicate() for name, process in running.items()}
    for name, process in running.items():
        out, err = outputs[name]
        expected = digest(portable, PROCESSORS[name][1])
        assert digest(native, PROCESSORS[name][1]) == expected
        assert process.returncode == 0, f"{name}: {err[-500:]}"
        assert out.split() == ["False", expected], name


# Which engine --------------------------------------------------------------------------------


def test_the_engine_that_is_asked_for(native, monkeypatch):
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    assert kernels.engine() is native
    assert kernels.engine("portable") is portable
    monkeypatch.setenv(kernels.VARIABLE, "portable")
    assert kernels.engine() is portable
    assert kernels.engine("native") is native
    monkeypatch.setenv(kernels.VARIABLE, "")
    assert kernels.engine() is native


def test_an_engine_that_does_not_exist(monkeypatch):
    for wrong in ("fast", "", "Native", 3):
        with pytest.raises(ValueError, match="engine=.*native, portable"):
            kernels.engine(wrong)
    monkeypatch.setenv(kernels.VARIABLE, "fast")
    with pytest.raises(ValueError, match="'fast'.*native, portable"):
        kernels.engine()
    assert kernels.engine("portable") is portable


def test_without_numba(monkeypatch):
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, f"{kernels.__name__}.native", raising=False)
    assert kernels.engine() is portable
    with pytest.raises(ImportError, match=r"pqlib\[fast\].*engine='portable'"):
        kernels.engine("native")
    monkeypatch.setenv(kernels.VARIABLE, "native")
    with pytest.raises(ImportError, match=r"pqlib\[fast\].*engine='portable'"):
        kernels.engine()
