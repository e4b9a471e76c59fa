"""CascadeIndex: what it finds is what its docstrings define, however it is filled and called."""

import dataclasses
import sys
import threading

import faiss
import numpy as np
import pytest
from conftest import REPEATABLE, assert_damage_is_found, from_disk_and_in_parts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import exact_neighbors, squared

import pqlib
from pqlib import _file as format
from pqlib.indexes import kernels
from pqlib.indexes.cascade import CascadeIndex, SearchSettings
from pqlib.indexes.packed import neighbours_side_by_side
from pqlib.indexes.rotation import principal_axes

D = 16
PROFILE = settings(
    REPEATABLE,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
ENGINES = ("native", "portable")


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param == "native":
        pytest.importorskip("numba")
    return request.param


@pytest.fixture(autouse=True)
def threads():
    """What sets the number of threads: to one at first, which so little data is trained best by."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield faiss.omp_set_num_threads
    faiss.omp_set_num_threads(before)


def make(base, ids=None, **options):
    options = dict(n_lists=20, components=12, seed=3) | options
    return CascadeIndex(base.shape[1], **options).train(base).add(base, ids)


def same(one, other):
    return all((a == b).all() for a, b in zip(one, other, strict=True))


# The method by its definition ----------------------------------------------------------------


def quantized(index, x):
    """Codes of vectors, in the index's scale."""
    rotated = x if index.rotation is None else x @ index._turn.axes
    center = index._turn.center[: rotated.shape[1]]
    return np.clip(np.rint((rotated - center) * index._scale), -127, 127).astype(np.int64)


def halves(codes):
    """Half the squared norms in 16 bits, as multiples of the least power of two that suffices."""
    half = (codes**2).sum(1) / 2
    unit = 1
    while half.max() > 65535 * unit:
        unit *= 2
    return np.rint(half / unit) * unit


class Method:
    """What an index has learnt, and a search step by step: rotate, route, scan, re-rank."""

    def __init__(self, index, base):
        self.index, self.base = index, np.asarray(base, np.float64)
        self.codes = quantized(index, base)
        width = index._centroids.shape[1]
        self.coarse = np.clip(np.rint(index._centroids * index._scale), -127, 127).astype(np.int64)
        # Lists are those of the nearest centroids; float32 decides between equally near ones.
        rotated = (base.astype(np.float64) @ index._turn.axes - index._turn.center)[:, :width]
        distances = squared(rotated, index._centroids)
        sizes = index.list_sizes
        self.home = np.empty(len(base), np.int64)
        self.home[index._packed._order] = np.repeat(np.arange(index.n_lists), sizes)
        reached = distances[np.arange(len(base)), self.home]
        slack = 1e-5 * (distances.max() + (rotated**2).sum(1).max()) + 1e-30
        assert (reached <= distances.min(axis=1) + slack).all()
        self.place = np.empty(len(base), np.int64)  # by list, and in it in the order of adding
        self.place[np.lexsort((np.arange(len(base)), self.home))] = np.arange(len(base))
        self.half, self.coarse_half = halves(self.codes), halves(self.coarse)

    def search(self, xq, k, nprobe, candidates, margin):
        """For each query the ids scanned, in order, the candidates, and what ranks those."""
        queries = quantized(self.index, xq)
        for query, whole in zip(queries, np.asarray(xq, np.float64), strict=True):
            to_lists = self.coarse_half - self.coarse[:, : len(query)] @ query
            lists = np.argsort(to_lists, kind="stable")[:nprobe]
            half_distances = self.half - self.codes @ query + (query @ query + 1) // 2
            scanned, reach = np.empty(0, np.int64), np.inf
            for j in lists:
                if to_lists[j] - to_lists[lists[0]] > reach:
                    break
                before = len(scanned)
                scanned = np.concatenate([scanned, np.flatnonzero(self.home == j)])
                if margin is not None and before < max(512, 8 * candidates) <= len(scanned):
                    last = np.sort(half_distances[scanned])[min(candidates, len(scanned)) - 1]
                    reach = margin * last
            best = np.argsort(half_distances[scanned], kind="stable")[:candidates]
            kept = scanned[best]
            if self.index.rerank is None:
                rank = np.maximum(2 * half_distances[kept] / float(self.index._scale) ** 2, 0)
                order = np.lexsort((self.place[kept], half_distances[kept]))
            else:
                rank = ((self.base[kept] - whole) ** 2).sum(1)
                order = np.lexsort((self.place[kept], rank))
            yield scanned, kept[order][:k], rank[order][:k], set(kept)


def whole_numbers(x):
    return bool((x == np.rint(x)).all())


def check(index, base, xq, k, nprobe, candidates, margin=None):
    """The index's answers and counts are the definition's. Return how many were found."""
    distances, ids = index.search(xq, k, nprobe, candidates, -1 if margin is None else margin)
    cost = index.search_cost(xq, k, nprobe, candidates, -1 if margin is None else margin)
    assert distances.dtype == np.float32
    assert ids.dtype == np.int64
    assert distances.shape == ids.shape == (len(xq), k)
    exact_order = index.rerank is None or (whole_numbers(base) and whole_numbers(xq))
    found = 0
    wanted = Method(index, base).search(xq, k, nprobe, min(candidates, len(base)), margin)
    for q, (scanned, best, rank, kept) in enumerate(wanted):
        n = len(best)
        assert (ids[q, n:] == -1).all()
        assert np.isinf(distances[q, n:]).all()
        got, reached = ids[q, :n], distances[q, :n]
        assert len(set(got)) == n
        assert set(got) <= kept
        assert (np.diff(reached) >= 0).all()
        if exact_order:
            assert (got == best).all()
            assert (reached == rank.astype(np.float32)).all()
        else:
            true = squared(xq[q : q + 1], base[got])[0]
            assert reached == pytest.approx(true, rel=1e-5, abs=1e-30)
            assert reached == pytest.approx(rank, rel=1e-5, abs=1e-30)
        assert cost["inner"][q] == index.n_lists
        assert cost["codes"][q] == len(scanned)
        reranked = 0 if index.rerank is None else min(len(scanned), candidates)
        assert cost["vectors"][q] == reranked
        found += n
    return found


SEARCHES = [
    dict(k=10, nprobe=1, candidates=10),
    dict(k=10, nprobe=5, candidates=50),
    dict(k=10, nprobe=20, candidates=2000),
    dict(k=300, nprobe=2, candidates=400),
    dict(k=1, nprobe=20, candidates=1, margin=0.0),
    dict(k=5, nprobe=20, candidates=30, margin=0.2),
    dict(k=5, nprobe=20, candidates=60, margin=1.0),
    dict(k=5, nprobe=20, candidates=150, margin=0.1),
]


@pytest.mark.parametrize("rerank", ["uint8", "float32", None])
@pytest.mark.parametrize(("rotation", "components"), [("pca", 12), ("pca", 5), (None, 16)])
def test_search_is_what_the_definition_says(clustered, engine, rotation, components, rerank):
    base, queries = clustered
    index = make(base, rotation=rotation, components=components, rerank=rerank, engine=engine)
    assert (index._packed.content()[0].unpack()[:, :components].any(axis=0)).all()
    for search in SEARCHES:
        assert check(index, base, queries, **search) > 0
        if rerank is not None:
            check(index, base, queries[:20] + np.float32(0.37), **search)


@st.composite
def cases(draw):
    d = draw(st.sampled_from([1, 2, 3, 4, 7, 16, 25, 33]))
    n = draw(st.integers(1, 400))
    n_lists = draw(st.integers(1, min(n, 30)))
    values = draw(st.sampled_from([1, 2, 3, 256, 0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    nq = draw(st.integers(1, 20))
    if values:
        x = rng.integers(0, values, size=(n + nq, d)).astype(np.float32)
    else:
        x = (rng.normal(size=(n + nq, d)) * draw(st.sampled_from([1e-6, 1, 1e6]))).astype("f4")
    rotation = draw(st.sampled_from(["pca", None]))
    options = dict(
        n_lists=n_lists,
        components=d if rotation is None else draw(st.integers(1, d)),
        rotation=rotation,
        rerank=draw(st.sampled_from(["uint8" if values else "float32", "float32", None])),
        engine=draw(st.sampled_from(["portable", None])),
    )
    k = draw(st.integers(1, n))
    search = dict(
        k=k,
        nprobe=draw(st.integers(1, n_lists)),
        candidates=draw(st.integers(k, 2 * n)),
        margin=draw(st.sampled_from([None, 0.0, 0.3])),
    )
    return x[:n], x[n:], options, search


@PROFILE
@given(cases())
def test_any_search_is_what_the_definition_says(case):
    base, queries, options, search = case
    check(make(base, **options), base, queries, **search)


@PROFILE
@given(cases())
def test_everything_reranked_is_brute_force(case):
    base, queries, options, search = case
    options["rerank"] = options["rerank"] or "float32"
    index = make(base, **options)
    k, n = search["k"], len(base)
    distances, ids = index.search(queries, k, index.n_lists, n, -1)
    every = squared(queries, base)
    assert distances == pytest.approx(np.sort(every, axis=1)[:, :k], rel=1e-5, abs=1e-30)
    assert distances == pytest.approx(np.take_along_axis(every, ids, 1), rel=1e-5, abs=1e-30)
    assert all(len(set(row)) == k for row in ids)


@pytest.mark.parametrize("rerank", ["uint8", "float32"])
def test_neighbours_of_whole_numbers_are_exact(clustered, engine, rerank):
    base, queries = clustered
    index = make(base, rerank=rerank, engine=engine)
    distances, ids = index.search(queries, 10, nprobe=20, candidates=2000)
    expected, _ = exact_neighbors(base, queries, 10)
    every = squared(queries, base)
    assert (distances == np.take_along_axis(every, expected, 1)).all()
    assert (distances == np.take_along_axis(every, ids, 1)).all()
    clear = (np.diff(np.sort(every, axis=1)[:, :11]) > 0).all(axis=1)
    assert clear.any()
    assert (ids[clear] == expected[clear]).all()


def test_codes_alone_rank_almost_like_distances(clustered, engine):
    base, queries = clustered
    index = make(base, components=16, rerank=None, engine=engine)
    distances, ids = index.search(queries, 10, nprobe=20)
    expected, _ = exact_neighbors(base, queries, 10)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids, expected, strict=True)]) > 9
    every = np.take_along_axis(squared(queries, base), ids, 1)
    assert distances == pytest.approx(every, rel=0.1, abs=200)
    assert index.memory()["vectors"] == 0


def test_recall_does_not_fall_with_nprobe_when_everything_is_reranked(clustered):
    base, queries = clustered
    index, every = make(base), squared(queries, base)
    bound = np.sort(every, axis=1)[:, 9:10]
    before = np.zeros(len(queries))
    for nprobe in range(1, 21):
        ids = index.search(queries, 10, nprobe, 2000)[1]
        reached = np.take_along_axis(every, np.maximum(ids, 0), 1)
        now = ((reached <= bound) & (ids >= 0)).sum(axis=1)
        assert (now >= before).all()
        before = now
    assert (before == 10).all()


def test_a_margin_scans_less_and_a_wide_one_everything(clustered, engine):
    base, queries = clustered
    index = make(base, engine=engine)
    count = lambda m: index.search_cost(queries, 5, 20, 20, m)["codes"]  # noqa: E731
    whole = count(-1)
    assert (whole == 2000).all()
    before = np.zeros(len(queries))
    for margin in (0.0, 0.1, 0.5, 1, 2, 5):
        now = count(margin)
        assert (before <= now).all()
        assert (now <= whole).all()
        before = now
    assert count(0.5).mean() < 0.7 * whole.mean()
    assert (count(1e9) == whole).all()
    assert same(index.search(queries, 5, 20, 20, 1e9), index.search(queries, 5, 20, 20))
    # Before there are enough candidates nothing is left out.
    assert (count(0.0) >= 512).all()


def test_settings_are_what_a_search_does_that_says_nothing(clustered):
    base, queries = clustered
    index = make(base)
    assert index.settings == SearchSettings(1, 50, None)
    assert CascadeIndex(D, 256, 12).settings.nprobe == 8
    assert same(index.search(queries), index.search(queries, 10, 1, 50))
    index.settings = SearchSettings(9, 30, 0.3)
    assert same(index.search(queries, 5), index.search(queries, 5, 9, 30, 0.3))
    assert same(index.search_cost(queries).values(),
                index.search_cost(queries, 10, 9, 30, 0.3).values())  # fmt: skip
    assert not same(index.search_cost(queries).values(),
                    index.search_cost(queries, margin=-1).values())  # fmt: skip
    # More wanted than there are candidates by default: as many candidates.
    assert same(index.search(queries, 100), index.search(queries, 100, 9, 100, 0.3))
    text = index.describe()
    for words in ("nprobe=9", "candidates=30", "margin=0.3", "20 lists", "12 components", "uint8"):
        assert words in text


# Engines -------------------------------------------------------------------------------------


def test_the_engine_is_chosen_and_told(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    assert CascadeIndex(D, 20, 12).engine == "native"
    assert CascadeIndex(D, 20, 12, engine="portable").engine == "portable"
    assert "portable (NumPy" in CascadeIndex(D, 20, 12, engine="portable").describe()
    assert "native (Numba" in CascadeIndex(D, 20, 12, engine="native").describe()
    monkeypatch.setenv(kernels.VARIABLE, "portable")
    assert CascadeIndex(D, 20, 12).engine == "portable"
    assert CascadeIndex(D, 20, 12, engine="native").engine == "native"
    with pytest.raises(ValueError, match="engine='fast'.*native, portable"):
        CascadeIndex(D, 20, 12, engine="fast")
    monkeypatch.setenv(kernels.VARIABLE, "fast")
    with pytest.raises(ValueError, match="'fast'.*native, portable"):
        CascadeIndex(D, 20, 12)


def test_without_numba_it_works_the_same(clustered, monkeypatch):
    base, queries = clustered
    expected = make(base).search(queries, 10, 5)
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, f"{kernels.__name__}.native", raising=False)
    index = make(base)
    assert index.engine == "portable"
    assert same(index.search(queries, 10, 5), expected)
    with pytest.raises(ImportError, match=r"pqlib\[fast\]"):
        CascadeIndex(D, 20, 12, engine="native")


# Filling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rerank", ["uint8", "float32", None])
@pytest.mark.parametrize("searched_between", [False, True])
def test_adding_in_steps_is_adding_at_once(clustered, rerank, searched_between):
    base, queries = clustered
    # Without a rotation nothing is rounded, whatever the size of a block.
    options = dict(rotation=None, components=D, rerank=rerank)
    whole = make(base, **options)
    parts = CascadeIndex(D, 20, seed=3, **options).train(base)
    for start, stop in ((0, 1), (1, 16), (16, 700), (700, 701), (701, 2000)):
        parts.add(base[start:stop])
        assert parts.ntotal == stop
        if searched_between:
            distances, ids = parts.search(queries[:5], 1, nprobe=20, candidates=stop)
            if rerank:
                assert (distances[:, 0] == squared(queries[:5], base[:stop]).min(1)).all()
            assert (ids < stop).all()
            assert parts.list_sizes.sum() == stop
    for search in SEARCHES:
        assert same(parts.search(queries, **search), whole.search(queries, **search))
    assert parts.memory() == whole.memory()
    assert (parts.list_sizes == whole.list_sizes).all()


@pytest.mark.parametrize("rerank", ["uint8", "float32", None])
def test_the_arrays_given_stay_the_callers(clustered, rerank):
    """Neither are they written to, nor does it matter what becomes of them."""
    base, queries = clustered
    expected = make(base, rerank=rerank).search(queries, 10, 5)
    mine, asked = base.copy(), queries.copy()
    index = CascadeIndex(D, 20, 12, rerank=rerank, seed=3).train(mine).add(mine)
    assert (mine == base).all()
    mine[:] = 0
    assert same(index.search(asked, 10, 5), expected)
    assert (asked == queries).all()
    buffer = np.empty((500, D), np.float32)

    def blocks():
        for start in range(0, 2000, 500):
            buffer[:] = base[start : start + 500]
            yield buffer

    reused = CascadeIndex(D, 20, 12, rerank=rerank, seed=3).train(base).add(blocks())
    got, wanted = reused.search(queries, 10, 20, 2000), index.search(queries, 10, 20, 2000)
    assert got[0] == pytest.approx(wanted[0], rel=1e-3)
    frozen = base.copy()
    frozen.flags.writeable = False
    assert same(make(frozen, rerank=rerank).search(frozen[:20], 5), index.search(base[:20], 5))


@pytest.mark.parametrize("rerank", ["uint8", None])
def test_external_ids(clustered, rerank):
    base, queries = clustered
    plain = make(base, rerank=rerank)
    names = 10**12 + 7 * np.arange(2000)[::-1]
    named = make(base, names, rerank=rerank)
    for options in (dict(nprobe=3), dict(nprobe=1, k=300)):
        distances, ids = plain.search(queries, **options)
        again, found = named.search(queries, **options)
        assert (again == distances).all()
        assert (np.where(ids < 0, -1, names[ids]) == found).all()
    assert (ids < 0).any()
    assert named.memory()["ids"] == plain.memory()["ids"] + 8 * 2000
    # Half of them named, the others by position.
    mixed = CascadeIndex(D, 20, 12, rerank=rerank, seed=3).train(base)
    mixed.add(base[:1000], names[:1000]).add(base[1000:])
    own = np.concatenate([names[:1000], np.arange(1000, 2000)])
    nearest = mixed.search(base[::97], 1, 20, 2000)[1][:, 0]
    assert set(nearest.tolist()) <= set(own.tolist())
    if rerank:
        rows = [own.tolist().index(name) for name in nearest.tolist()]
        assert (base[rows] == base[::97]).all()


@pytest.mark.parametrize("offset", [None, 10**12])
def test_a_base_in_blocks_is_added_like_a_whole_one(clustered, offset, tmp_path, monkeypatch):
    base, queries = clustered
    ids = None if offset is None else offset + np.arange(2000)
    build = lambda: CascadeIndex(D, 20, D, rotation=None, seed=3).train(base)  # noqa: E731
    expected = build().add(base, ids).search(queries, 10, 3)
    monkeypatch.setattr("pqlib.indexes.base.rows_per_block", lambda *_: 300)
    monkeypatch.setattr("pqlib.indexes.byte_index.rows_per_block", lambda *_: 130)
    for index in (*from_disk_and_in_parts(build, base, ids, tmp_path), build().add(base, ids)):
        assert same(index.search(queries, 10, 3), expected)


def test_other_number_types_and_layouts_are_accepted(clustered):
    base, queries = clustered
    index = make(base)
    expected = index.search(queries, 5, 4)
    wide = np.zeros((len(queries), 2 * D), np.float32)
    wide[:, ::2] = queries
    frozen = queries.copy()
    frozen.flags.writeable = False
    shifted = np.frombuffer(b"x" + queries.tobytes(), np.uint8)[1:].view(np.float32)
    for other in (queries.astype(np.uint8), queries.astype(np.float64), np.asfortranarray(queries),
                  wide[:, ::2], frozen, shifted.reshape(queries.shape)):  # fmt: skip
        assert same(index.search(other, 5, 4), expected)


def test_a_trained_index_is_the_same_for_the_same_seed(clustered, tmp_path):
    base, _ = clustered
    for name in "ab":
        make(base, max_train=500).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_axes_are_those_of_largest_variance():
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    deviations = 2.0 ** -np.arange(10)
    x = (rng.normal(size=(5000, 10)) * deviations @ mixing.T + 5).astype(np.float32)
    axes = principal_axes(x, x.mean(axis=0, dtype=np.float64), 4)
    assert axes.shape == (10, 4)
    assert axes.T @ axes == pytest.approx(np.eye(4), abs=1e-5)
    assert (x @ axes).std(axis=0) == pytest.approx(deviations[:4], rel=0.05)
    assert (np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0) > 0).all()


def test_lists_are_in_an_order_of_nearness():
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(60, 5)).astype(np.float32)
    order = neighbours_side_by_side(centroids)
    assert (np.sort(order) == np.arange(60)).all()
    assert order[0] == centroids[:, 0].argmin()
    every = squared(centroids, centroids)
    for i in range(59):
        assert every[order[i], order[i + 1]] == every[order[i], order[i + 1 :]].min()


# Calling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rerank", ["uint8", "float32", None])
def test_a_query_gets_the_same_alone_and_in_any_company(clustered, engine, rerank):
    base, queries = clustered
    index = make(base, rotation=None, components=D, rerank=rerank, engine=engine)
    search = dict(k=10, nprobe=4, candidates=30, margin=0.5)
    distances, ids = index.search(queries, **search)
    for q in range(0, len(queries), 7):
        alone = index.search(queries[q : q + 1], **search)
        assert same(alone, (distances[q : q + 1], ids[q : q + 1]))
    order = np.random.default_rng(0).permutation(len(queries))
    assert same(index.search(queries[order], **search), (distances[order], ids[order]))
    many = index.search(np.tile(queries, (20, 1)), **search)
    assert same(many, (np.tile(distances, (20, 1)), np.tile(ids, (20, 1))))
    # With a rotation rounding may differ; where all is re-ranked nothing comes of it.
    if rerank:
        index = make(base, rerank=rerank, engine=engine)
        whole = index.search(queries, 10, 20, 2000)
        for q in range(0, len(queries), 7):
            alone = index.search(queries[q : q + 1], 10, 20, 2000)
            assert same(alone, (whole[0][q : q + 1], whole[1][q : q + 1]))


def test_the_number_of_threads_changes_nothing(clustered, engine, threads):
    base, queries = clustered
    many = np.tile(queries, (5, 1))
    index = make(base, rotation=None, components=D, engine=engine)
    results = []
    for n in (1, 2, 3, 1):
        threads(n)
        found = index.search(many, 10, 5, 40, 0.5)
        cost = index.search_cost(many, 10, 5, 40, 0.5)
        results.append([*found, *cost.values()])
        assert faiss.omp_get_max_threads() == n
        for few in (1, 16, 17):
            assert same(index.search(many[:few], 10, 5, 40, 0.5), (found[0][:few], found[1][:few]))
    assert all(same(results[0], other) for other in results[1:])


@pytest.mark.parametrize("fresh", [False, True])
def test_many_threads_search_at_once(clustered, engine, fresh):
    """With parameters of their own; of a fresh index the first search puts the lists in order."""
    base, queries = clustered
    settings = [dict(k=10, nprobe=p, candidates=c) for p, c in ((1, 10), (7, 50), (20, 200))]
    many = np.tile(queries, (2, 1))
    other = make(base, engine=engine)
    expected = [other.search(many, **s) for s in settings]
    index = make(base, engine=engine) if fresh else other
    wrong, start = [], threading.Barrier(6)

    def work(number):
        faiss.omp_set_num_threads(1 + number % 3)  # of this thread alone
        start.wait()
        for i in range(6):
            which = (number + i) % 3
            try:
                if not same(index.search(many, **settings[which]), expected[which]):
                    wrong.append(which)
            except Exception as problem:
                wrong.append(problem)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


# Files ---------------------------------------------------------------------------------------

BUILD = {
    "pca, bytes": dict(),
    "no rotation, floats": dict(rotation=None, components=D, rerank="float32"),
    "codes alone": dict(rerank=None, components=7),
    "portable": dict(engine="portable"),
}


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("offset", [None, 10**12])
@pytest.mark.parametrize("name", BUILD)
def test_a_loaded_index_answers_the_same(clustered, name, offset, mmap, tmp_path):
    base, queries = clustered
    index = make(base, None if offset is None else offset + np.arange(2000)[::-1], **BUILD[name])
    index.settings = SearchSettings(4, 33, 0.5 if offset else None)
    index.save(tmp_path / "index é")
    other = pqlib.load_index(tmp_path / "index é", mmap=mmap)
    assert type(other) is CascadeIndex
    assert other.ntotal == 2000
    assert other.settings == index.settings
    for attribute in ("n_lists", "components", "rotation", "rerank", "max_train", "seed", "d"):
        assert getattr(other, attribute) == getattr(index, attribute)
    for some in (queries, queries[:1], queries + np.float32(0.25)):
        assert same(index.search(some, 5), other.search(some, 5))
        assert same(index.search(some, 300, 1), other.search(some, 300, 1))
        assert same(index.search_cost(some).values(), other.search_cost(some).values())
    assert other.memory() == index.memory()
    assert (other.list_sizes == index.list_sizes).all()
    again = pqlib.load_index(tmp_path / "index é", mmap=mmap)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "index é").read_bytes()
    if mmap:
        with pytest.raises(ValueError, match="mmap=False"):
            other.add(base)
    else:
        index.add(base[:300])
        other.add(base[:300])
        assert same(index.search(queries, 10, 5), other.search(queries, 10, 5))
        assert other.ntotal == 2300


def test_mapped_parts_are_not_copied(clustered, tmp_path):
    base, queries = clustered
    make(base).save(tmp_path / "index")
    index = pqlib.load_index(tmp_path / "index", mmap=True)
    index.search(queries)
    for array in (
        index._packed.content()[0].codes,
        index._packed.content()[0].half_norms,
        index._packed._whole,
        index._packed._order,
    ):
        while not isinstance(array, np.memmap) and isinstance(array.base, np.ndarray):
            array = array.base
        assert isinstance(array, np.memmap)
    assert set(index.mappable) <= set(index.memory())


def test_an_index_without_vectors_can_be_saved_and_filled_later(clustered, tmp_path):
    base, queries = clustered
    for options in BUILD.values():
        options = dict(n_lists=20, components=12, seed=3) | options
        empty = CascadeIndex(D, **options).train(base)
        empty.save(tmp_path / "empty")
        for mmap in (False, True):
            other = pqlib.load_index(tmp_path / "empty", mmap)
            assert other.ntotal == 0
            with pytest.raises(ValueError, match="search before add"):
                other.search(queries)
        other = pqlib.load_index(tmp_path / "empty").add(base)
        assert same(other.search(queries, 5), empty.add(base).search(queries, 5))
    with pytest.raises(ValueError, match="save before train"):
        CascadeIndex(D, 20, 12).save(tmp_path / "none")


def test_damage_is_found(clustered, tmp_path):
    base, _ = clustered
    path = tmp_path / "index"
    make(base, np.arange(2000)).save(path)
    sections = format.IndexFile(path)._sections
    assert {"codes", "half_norms", "vectors", "order", "ids"} <= set(sections)
    assert_damage_is_found(path)


# Memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rerank", ["uint8", "float32", None])
@pytest.mark.parametrize("named", [False, True])
def test_memory_is_what_is_held_and_what_is_saved(rerank, named, tmp_path):
    base = np.random.default_rng(0).integers(0, 256, size=(20_000, 32)).astype(np.float32)
    index = CascadeIndex(32, 16, 32, rerank=rerank, max_train=2000).train(base)
    index.add(base, 5 + np.arange(20_000) if named else None)
    parts = index.memory()
    assert set(parts) == {"centroids", "rotation", "codes", "ids", "vectors"}
    assert sum(parts.values()) == index.memory_bytes
    assert index.bytes_per_vector * 20_000 == pytest.approx(sum(parts.values()))
    assert parts["vectors"] == base.size * {"uint8": 1, "float32": 4, None: 0}[rerank]
    assert parts["ids"] == 20_000 * (4 + 8 * named)
    lanes = 16 * (-(-index.list_sizes // 16)).sum()
    assert parts["codes"] == lanes * (32 + 2) + 2 * 17 * 8
    index.save(tmp_path / "index")
    assert (tmp_path / "index").stat().st_size == pytest.approx(index.memory_bytes, rel=0.02)


def test_memory_before_there_are_vectors(clustered):
    assert CascadeIndex(D, 20, 12).memory() == {}
    index = CascadeIndex(D, 20, 12).train(clustered[0])
    assert set(index.memory()) == {"centroids", "rotation"}
    assert "0 vectors" in index.describe()


# Unusual data --------------------------------------------------------------------------------


def normal(n, d, size=1.0):
    return (np.random.default_rng(0).normal(size=(n, d)) * size).astype(np.float32)


DATA = {
    "all the same": np.full((300, 8), 7, np.float32),
    "all zero": np.zeros((300, 8), np.float32),
    "duplicates": np.repeat(np.arange(30, dtype=np.float32), 10)[:, None] * np.ones(8, np.float32),
    "one component": np.random.default_rng(0).integers(0, 256, (300, 1)).astype(np.float32),
    "one component, two values": (np.arange(300)[:, None] % 2).astype(np.float32),
    "one component of three": normal(300, 3) * np.array([0, 1, 0], np.float32),
    "large": normal(300, 8, 1e6),
    "small": normal(300, 8, 1e-6),
    "far from zero": normal(300, 8) + np.float32(1e4),
    "one far away": np.vstack([normal(299, 8), np.full((1, 8), 1e6, np.float32)]),
    "one vector": normal(1, 8),
}


@pytest.mark.parametrize("n_lists", [1, 17])
@pytest.mark.parametrize("name", DATA)
def test_unusual_data(name, n_lists, engine):
    base = DATA[name]
    d, n = base.shape[1], len(base)
    whole = (base == np.rint(base)).all() and base.min() >= 0 and base.max() < 256
    n_lists = min(n_lists, n)
    for rotation, components in {("pca", max(1, d // 2)), ("pca", d), (None, d)}:
        for rerank in ("float32", None, *(["uint8"] if whole else [])):
            index = make(base, n_lists=n_lists, rotation=rotation, components=components,
                         rerank=rerank, engine=engine)  # fmt: skip
            assert index.list_sizes.sum() == n
            distances, ids = index.search(base[:40], min(5, n), n_lists, n)
            assert (ids >= 0).all()
            assert np.isfinite(distances).all()
            assert (np.diff(distances) >= 0).all()
            if rerank:
                every = squared(base[:40], base)
                assert (distances[:, 0] == 0).all()
                assert distances == pytest.approx(
                    np.sort(every, axis=1)[:, : min(5, n)], rel=1e-4, abs=1e-30
                )
                assert distances == pytest.approx(
                    np.take_along_axis(every, ids, 1), rel=1e-4, abs=1e-30
                )
            for margin in (None, 0.0):
                if name != "far from zero":  # there, rounding of products is all there is
                    check(index, base, base[:5], 1, 1, 1, margin)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_unit_of_length_does_not_matter(size):
    x = normal(2100, 24)
    base, queries = x[:2000] * np.float32(size), x[2000:] * np.float32(size)
    index = make(base, rerank="float32", components=16)
    expected, _ = exact_neighbors(base, queries, 10)
    ids = index.search(queries, 10, 20, 150)[1]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids, expected, strict=True)]) > 9


# Wrong input ---------------------------------------------------------------------------------


def spoiled(x, value):
    x = x.copy()
    x[3, 2] = value
    return x


def set_up(x, **chosen):
    index = make(x)
    index.settings = dataclasses.replace(index.settings, **chosen)
    return index


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: CascadeIndex(0), "d=0"),
        (lambda x: CascadeIndex(D, components=17), "components=17.*1..16"),
        (lambda x: CascadeIndex(D, components=0), "components=0"),
        (lambda x: CascadeIndex(D, 0, 8), "n_lists=0"),
        (lambda x: CascadeIndex(D, 4, 8, rotation=None), "components=8 without.*d=16.*'pca'"),
        (lambda x: CascadeIndex(D, 4, 8, rotation="opq"), "rotation='opq'"),
        (lambda x: CascadeIndex(D, 4, 8, rerank="int8"), "rerank='int8'"),
        (lambda x: CascadeIndex(40_000, 4, 8), "d=40000.*float32"),
        (lambda x: CascadeIndex(D, 4, 8, max_train=0), "max_train=0"),
        (lambda x: CascadeIndex(D, 4, 8, seed=-1), "seed=-1"),
        (lambda x: make(x[:19]), "n_lists=20"),
        (lambda x: make(x, max_train=19), "max_train=19.*n_lists=20"),
        (lambda x: make(x[:, :8], components=8).train(x), "train after add"),
        (lambda x: CascadeIndex(8, 4, 8).train(x), "d=8"),
        (lambda x: CascadeIndex(D, 4, 8).add(x), "add before train"),
        (lambda x: CascadeIndex(D, 4, 8).search(x), "search before add"),
        (lambda x: CascadeIndex(D, 4, 8).train(x).search(x), "search before add"),
        (lambda x: CascadeIndex(D, 4, 8).train(x).search_cost(x), "search before add"),
        (lambda x: CascadeIndex(D, 4, 8).list_sizes, "before add"),
        (lambda x: make(x).train(x), "train after add"),
        (lambda x: make(spoiled(x, 0.5)), "xb\\[3, 2\\] is 0.5.*float32"),
        (lambda x: make(spoiled(x, 256)), "xb\\[3, 2\\] is 256"),
        (lambda x: make(spoiled(x, -1)), "xb\\[3, 2\\] is -1"),
        (lambda x: make(spoiled(x, np.nan)), "xt\\[3, 2\\] is nan"),
        (lambda x: make(x).add(spoiled(x, np.inf)), "xb\\[3, 2\\] is inf"),
        (lambda x: make(x).add(x, ids=[1, 2]), "ids"),
        (lambda x: make(x).add(x, ids=-np.arange(2000)), "ids"),
        (lambda x: make(x).add(x[:, :8]), "d=16"),
        (lambda x: make(x).search(x[:, :8]), "d=16"),
        (lambda x: make(x).search(x[0]), "matrix"),
        (lambda x: make(x).search(x[:0]), "at least one vector"),
        (lambda x: make(x).search(x, k=0), "k=0"),
        (lambda x: make(x).search(x, k=2001), "k=2001.*2000"),
        (lambda x: make(x).search(x, k=True), "k=True"),
        (lambda x: make(x).search(x, k=10, candidates=9), "candidates=9.*k=10"),
        (lambda x: make(x).search(x, candidates=20.0), "candidates=20.0"),
        (lambda x: make(x).search(x, nprobe=0), "nprobe=0"),
        (lambda x: make(x).search(x, nprobe=21), "nprobe=21.*1..20"),
        (lambda x: make(x).search(x, margin=np.nan), "margin=nan"),
        (lambda x: make(x).search(x, margin=np.inf), "margin=inf"),
        (lambda x: make(x).search_cost(x, nprobe=21), "nprobe=21"),
        (lambda x: set_up(x, nprobe=21).search(x), "nprobe=21"),
        (lambda x: set_up(x, candidates=20.5).search(x), "candidates"),
        (lambda x: set_up(x, margin=np.nan).search(x), "margin=nan"),
    ],
)
def test_errors_name_the_argument(clustered, call, words):
    with pytest.raises(ValueError, match=words):
        call(clustered[0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", BUILD)
def test_queries_that_are_not_finite_are_refused(clustered, options, value):
    base, queries = clustered
    index = make(base, **BUILD[options])
    for some in (queries, queries[:4]):
        for call in (index.search, index.search_cost):
            with pytest.raises(ValueError, match=rf"xq\[3, 2\] is {value}"):
                call(spoiled(some, value))


@pytest.mark.parametrize("options", BUILD)
def test_queries_far_outside_get_an_answer(clustered, options):
    base, _ = clustered
    index = make(base, **BUILD[options])
    for far in (1e6, 1e15, 1e30, 3e38):
        query = np.full((3, D), far, np.float32)
        query[1] *= -1
        query[2, ::2] *= -1
        with np.errstate(all="ignore"):
            distances, ids = index.search(query, 5, 20, 2000)
        assert (ids >= 0).all()
        assert not np.isnan(distances).any()
        assert all(len(set(row)) == 5 for row in ids)


def test_a_refused_add_changes_nothing(clustered):
    base, queries = clustered
    index = make(base)
    before = index.search(queries, 10)
    for wrong in (base + 0.5, spoiled(base, np.nan)):
        with pytest.raises(ValueError, match="xb"):
            index.add(wrong)
    assert index.ntotal == index.list_sizes.sum() == 2000
    assert same(before, index.search(queries, 10))
