"""What MultiLevelPQ means: it stores and returns what the oracle does with the same centroids.

Where float32 cannot tell two distances apart the oracle's choice is one of several: there the
distance that was reached is compared, everywhere else the choice itself.
"""

import itertools

import faiss
import h5py
import numpy as np
import oracle
import pytest
from conftest import REPEATABLE, file_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import squared

import pqlib
from pqlib.clustering import from_centroids
from pqlib.quantizers import ProductQuantizer

PROFILE = settings(REPEATABLE, max_examples=15)
ROUNDING = 1e-6  # of float32 sums, as a share of the squared norms that go into them


# Comparing ---------------------------------------------------------------------------------


def norms(x):
    return (np.asarray(x, np.float64) ** 2).sum(axis=-1)


def slack(x, y):
    """What two squared distances of rows of x and y may differ by in float32."""
    return ROUNDING * (norms(x).max(initial=0) + norms(y).max(initial=0))


def check_lists(index, base):
    """The lists hold what the oracle puts there. Return it, and the share of tied vectors.

    Ties in the oracle returned are settled as in the index.
    """
    held = oracle.read(index, base)
    ideal = oracle.Method(held.inner, held.outer, held.codebooks, base, held.shared)
    every = np.concatenate([index.list_content(c)[0] for c in range(index.n_inner)])
    assert (np.sort(every) == np.arange(len(base))).all()

    moved = held.inner_to_outer != ideal.inner_to_outer
    reached = squared(held.inner, held.outer)
    gap = reached[np.arange(len(reached)), held.inner_to_outer] - reached.min(axis=1)
    assert (gap[moved] <= slack(held.inner, held.outer)).all()

    moved = held.assignment != ideal.assignment
    used = held.inner[held.assignment]
    gap = norms(base - used.astype(np.float64)) - squared(base, held.inner).min(axis=1)
    assert (gap[moved] <= ROUNDING * (norms(base) + norms(used))[moved]).all()

    numbers = held.encode(base, held.assignment)
    changed = numbers != held.numbers
    gap = held.errors(base, held.assignment, held.numbers)
    gap -= held.errors(base, held.assignment, numbers)
    scale = norms(held.residuals(base, held.assignment))
    for c in np.unique(held.assignment):
        rows = held.assignment == c
        scale[rows] += norms(held.codebooks[c]).max(axis=1)
    assert (np.abs(gap[changed]) <= ROUNDING * scale[changed]).all()

    # Byte by byte, the unused bits of the last one as well.
    for c in range(index.n_inner):
        positions, codes = index.list_content(c)
        assert codes.shape[1] == -(-index.m * index.nbits // 8)
        assert (codes == oracle.pack(held.numbers[positions], index.nbits)).all()
        clear = ~changed[positions].any(axis=1)
        wanted = oracle.pack(numbers[positions], index.nbits)
        assert (codes[clear] == wanted[clear]).all()
    tied = moved | changed.any(axis=1)
    return held, tied.mean()


def choices(distances, n, tolerance):
    """All sets of the n smallest that rounding allows, as arrays of numbers."""
    bound = np.sort(distances)[n - 1]
    sure = np.flatnonzero(distances < bound - tolerance)
    open_ = np.flatnonzero(np.abs(distances - bound) <= tolerance)
    for more in itertools.combinations(open_, n - len(sure)):
        yield np.concatenate([sure, np.array(more, np.int64)])


def reachable(method, query, nprobe_outer):
    """The sets of inner clusters that may be ranked, one for each way to settle ties."""
    distances = squared(query[None], method.outer)[0]
    for outer in choices(distances, nprobe_outer, slack(query, method.outer)):
        yield np.flatnonzero(np.isin(method.inner_to_outer, outer))


def check_probe(method, query, keys, nprobe, nprobe_outer):
    """The probed lists are the oracle's. Return whether they are so without a tie."""
    if set(keys) == set(oracle.probe(query, method, nprobe, nprobe_outer)):
        return True
    distances = squared(query[None], method.inner)[0]
    tolerance = slack(query, method.inner[keys])
    for members in reachable(method, query, nprobe_outer):
        left = np.setdiff1d(members, keys)
        if (
            len(keys) == min(nprobe, len(members))
            and set(keys) <= set(members)
            and distances[keys].max(initial=0) <= distances[left].min(initial=np.inf) + tolerance
        ):
            return False
    pytest.fail(f"probed {keys}, which are not the nearest")


def check_found(distances, ids, k, positions, values, sure, tolerance):
    """One query's row is the k smallest of ``values``: of all ``sure`` ones, and any others.

    positions, values, sure: (n,), the candidates, their distances, and whether they must be
    looked at.
    """
    n = int((ids >= 0).sum())
    assert (ids[n:] == -1).all()
    assert np.isinf(distances[n:]).all()
    distances, ids = distances[:n].astype(np.float64), ids[:n]
    assert (np.diff(distances) >= 0).all()
    assert len(set(ids)) == n
    where = {int(p): i for i, p in enumerate(positions)}
    assert set(map(int, ids)) <= set(where)
    found = np.array([where[int(i)] for i in ids], np.int64)
    near = 1e-4 * values + tolerance
    assert (np.abs(distances - values[found]) <= near[found]).all()
    at_best, at_worst = np.sort(values)[:n], np.sort(values[sure])[:n]
    assert (distances >= at_best - near.max(initial=0)).all()
    assert (distances[: len(at_worst)] <= at_worst * (1 + 1e-4) + tolerance).all()
    if n:
        clear = sure & (values < distances[-1] - near)
        assert set(positions[clear]) <= set(ids)


def check_search(index, method, queries, k, nprobe, nprobe_outer=None, factor=4, rerank=True):
    """Results and counts are the oracle's. Return the share of queries probed without ties."""
    found = index.search(queries, k, nprobe, nprobe_outer, factor, rerank)
    counted = index.search_cost(queries, k, nprobe, nprobe_outer, factor, rerank)
    assert found[0].shape == found[1].shape == (len(queries), k)
    assert (found[0].dtype, found[1].dtype) == (np.float32, np.int64)
    nprobe_outer = nprobe_outer or index.n_outer
    keys = index.clustering.probe(queries, nprobe, nprobe_outer)[1]
    use_store = rerank and index.rerank is not None
    candidates = min(len(method.base), factor * k) if use_store else 0
    n_clear = 0
    for q, query in enumerate(queries):
        lists = keys[q][keys[q] >= 0]
        clear = check_probe(method, query, lists, nprobe, nprobe_outer)
        n_clear += clear
        positions, values = method.adc(query, lists)
        scanned = method.base[positions]
        tolerance = slack(query, np.vstack([scanned, method.inner[method.assignment[positions]]]))
        sure = np.ones(len(positions), bool)
        if use_store:
            estimates, values = values, squared(query[None], scanned)[0]
            if len(positions) > candidates:
                bound = np.sort(estimates)[candidates - 1]
                rounding = 1e-4 * bound + tolerance
                sure = estimates < bound - rounding
                maybe = estimates <= bound + rounding
                positions, values, sure = positions[maybe], values[maybe], sure[maybe]
        expected = min(k, len(positions))
        assert (found[1][q] >= 0).sum() == expected
        check_found(found[0][q], found[1][q], k, positions, values, sure, tolerance)

        sizes = {len(members) for members in reachable(method, query, nprobe_outer)}
        assert counted["inner"][q] in sizes
        cost = method.probe_cost(query, nprobe_outer) | method.scan_cost(lists, candidates)
        cost["inner"] = counted["inner"][q]
        assert {stage: count[q] for stage, count in counted.items()} == cost
    return n_clear / len(queries)


def build(base, clustering=None, stored=None, **options):
    """An index trained on base, holding ``stored`` or base."""
    index = pqlib.MultiLevelPQ(base.shape[1], **options).train(base, clustering)
    return index.add(base if stored is None else stored)


def check_batch_sizes(index, method, queries, k, nprobe, nprobe_outer, factor):
    """A query's result does not depend on how many others come with it."""
    parameters = k, nprobe, nprobe_outer, factor
    check_search(index, method, queries, *parameters)
    expected, expected_ids = index.search(queries, *parameters)
    there, tolerance = expected_ids >= 0, slack(queries, method.base)
    parts = {25 * len(queries): np.arange(25 * len(queries)) % len(queries)}
    parts |= {size: np.arange(5, 5 + size) for size in (1, 2, 3)}
    for size, rows in parts.items():
        if size <= 3:
            check_search(index, method, queries[rows], *parameters)
        distances, ids = index.search(queries[rows], *parameters)
        found = there[rows]
        assert ((ids >= 0) == found).all()
        wanted = expected[rows][found]
        assert distances[found] == pytest.approx(wanted, rel=1e-4, abs=tolerance)
        assert (ids[found] == expected_ids[rows][found]).mean() > 0.9


# Given data --------------------------------------------------------------------------------


def normal(n, d):
    """Points around ten centres, of unequal weight."""
    rng = np.random.default_rng(5)
    centers = rng.normal(size=(10, d)) * 3
    chosen = rng.choice(10, size=n, p=np.arange(1, 11) / 55)
    return (centers[chosen] + rng.normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize("codebooks", ["shared", "per-cluster"])
@pytest.mark.parametrize(
    ("n", "d", "m", "nbits", "store"),
    [
        (900, 12, 3, 4, None),  # 12 bits: half a byte of the code is not used
        (900, 12, 12, 4, "float32"),
        (900, 12, 4, 5, "float32"),
        (2500, 12, 1, 8, None),
        (2500, 12, 6, 8, "float32"),
        (4500, 12, 2, 12, "float32"),
        (900, 1, 1, 4, "float32"),
        (2500, 1, 1, 8, None),
    ],
)
def test_normal_data(codebooks, n, d, m, nbits, store):
    data = normal(n + 12, d)
    base, queries = data[:n], data[n:]
    index = build(
        base, stored=base[:800], n_inner=9, n_outer=4, m=m, nbits=nbits, codebooks=codebooks,
        rerank=store,
    )  # fmt: skip
    sizes = np.bincount(squared(base, index.clustering.inner).argmin(axis=1), minlength=9)
    own = np.flatnonzero(sizes >= 1 << nbits) if codebooks == "per-cluster" else []
    assert index.n_shared_clusters == 9 - len(own)
    assert len({id(index.quantizer(c)) for c in range(9)}) == len(own) + (len(own) < 9)
    method, tied = check_lists(index, base[:800])
    assert tied < 0.01
    for nprobe, nprobe_outer in [(1, None), (4, None), (3, 2), (9, 1), (9, 4)]:
        for rerank in (True, False):
            clear = check_search(
                index, method, queries, 10, nprobe, nprobe_outer, factor=3, rerank=rerank
            )
            assert clear == 1
    check_batch_sizes(index, method, queries, k=10, nprobe=4, nprobe_outer=3, factor=4)

    # Without a tie settled after the index: everything by the oracle alone.
    alone = oracle.Method(method.inner, method.outer, method.codebooks, base[:800])
    distances = index.search(queries, 10, nprobe=4, nprobe_outer=2, rerank_factor=3)[0]
    for query, found in zip(queries, distances, strict=True):
        wanted = alone.search(query, 10, 4, 2, None if store is None else 30)[1]
        assert found[found < np.inf] == pytest.approx(wanted, rel=1e-4, abs=slack(query, base))


def test_large_codebooks_of_a_cluster_of_its_own():
    data = normal(4700, 6)
    data[:300] += 100
    clustering = from_centroids(np.array([[0.0] * 6, [100.0] * 6], "f4"), np.zeros((1, 6), "f4"))
    index = build(data, clustering, data[:600], n_inner=2, n_outer=1, m=2, nbits=12,
                  rerank="float32")  # fmt: skip
    assert index.n_shared_clusters == 1
    method, tied = check_lists(index, data[:600])
    assert tied < 0.01
    for rerank, nprobe in itertools.product((True, False), (1, 2)):
        check_search(index, method, data[292:304], 7, nprobe, rerank=rerank)


def real(name, photo_sift):
    if name == "photo-sift":
        return photo_sift.train[::13], photo_sift.test[::25]
    with h5py.File(file_or_skip(name)) as held:
        return held["train"][:1500], held["test"][:20]


@pytest.mark.parametrize(
    ("name", "codebooks", "m", "nbits", "store"),
    [
        ("photo-sift", "shared", 16, 8, "uint8"),
        ("photo-sift", "per-cluster", 32, 4, "uint8"),
        ("photo-sift", "per-cluster", 8, 6, None),
        ("fashion-mnist", "shared", 49, 5, "uint8"),
        ("fashion-mnist", "per-cluster", 8, 4, "float32"),
        ("fashion-mnist", "per-cluster", 196, 4, None),
    ],
)
def test_real_data(name, codebooks, m, nbits, store, photo_sift):
    base, queries = real(name, photo_sift)
    index = build(
        base, stored=base[:700], n_inner=14, n_outer=4, m=m, nbits=nbits, codebooks=codebooks,
        rerank=store,
    )  # fmt: skip
    method, tied = check_lists(index, base[:700])
    # Centroids of whole numbers lie on a grid: exact ties are rare, and do occur.
    assert tied < 0.05
    for nprobe, nprobe_outer, rerank in [(1, None, True), (5, None, False), (5, 2, True)]:
        clear = check_search(index, method, queries, 10, nprobe, nprobe_outer, 5, rerank)
        assert clear >= 0.95
    check_batch_sizes(index, method, queries, k=10, nprobe=5, nprobe_outer=2, factor=5)


def few_values(n, d):
    return np.random.default_rng(3).integers(0, 2, size=(n, d)).astype(np.float32)


def far_apart(d):
    """300 vectors near the origin and one far away."""
    return np.vstack([normal(300, d), np.full((1, d), 60, np.float32)])


@pytest.mark.parametrize("codebooks", ["shared", "per-cluster"])
@pytest.mark.parametrize("store", [None, "uint8"])
@pytest.mark.parametrize(
    ("base", "n_inner", "n_outer", "m"),
    [
        (np.full((40, 4), 7, np.float32), 3, 2, 2),
        (np.zeros((40, 4), np.float32), 5, 5, 4),
        (few_values(200, 3), 6, 3, 3),
        (few_values(200, 3), 20, 6, 1),  # more clusters than different vectors
        (np.repeat(np.arange(5, dtype=np.float32), 20)[:, None], 4, 2, 1),
        (few_values(60, 8) * 200, 1, 1, 4),
        (few_values(60, 8) * 200, 6, 6, 4),
        (few_values(60, 8) * 200, 6, 1, 8),
    ],
)
def test_degenerate_data(base, n_inner, n_outer, m, store, codebooks):
    index = build(
        base, n_inner=n_inner, n_outer=n_outer, m=m, nbits=4, codebooks=codebooks, rerank=store
    )
    method, _ = check_lists(index, base)
    queries = np.vstack([base[:4], base[-2:] + 0.25, base[:1] + 3])
    for nprobe, nprobe_outer, k in itertools.product(
        {1, 1 + n_inner // 2, n_inner}, {1, n_outer}, (1, 7, len(base))
    ):
        for part in (queries, queries[:1]):
            check_search(index, method, part, k, nprobe, nprobe_outer, factor=2)


@pytest.mark.parametrize("codebooks", ["shared", "per-cluster"])
@pytest.mark.parametrize("store", [None, "float32"])
@pytest.mark.parametrize("d", [1, 4])
def test_empty_lists_and_lists_of_one(d, store, codebooks):
    base = far_apart(d)
    near = pqlib.two_level_kmeans(base[:300], 4, 2).inner
    # Inner cluster 4 holds one vector, 5 and 6 none; outer cluster 2 owns these two alone.
    inner = np.vstack([near, base[-1:], *(np.full((1, d), v, np.float32) for v in (-90, -95))])
    outer = np.vstack([near[:1], base[-1:], np.full((1, d), -92, np.float32)])
    clustering = from_centroids(np.ascontiguousarray(inner), np.ascontiguousarray(outer))
    index = build(base, clustering, n_inner=7, n_outer=3, nbits=4, codebooks=codebooks,
                  rerank=store)  # fmt: skip
    method, _ = check_lists(index, base)
    assert list(index.list_sizes[4:]) == [1, 0, 0]
    assert list(method.inner_to_outer) == [0, 0, 0, 0, 1, 2, 2]
    queries = np.vstack([base[:6], base[-1:], np.full((2, d), -91, np.float32)])
    for nprobe, nprobe_outer, k in itertools.product((1, 2, 3, 7), (1, 2, 3), (1, 5, 301)):
        check_search(index, method, queries, k, nprobe, nprobe_outer, factor=1)
        check_search(index, method, queries[-3:-1], k, nprobe, nprobe_outer, factor=1)
    distances, ids = index.search(queries, 5, nprobe=1)
    assert list(ids[6]) == [300, -1, -1, -1, -1]
    assert (ids[7:] == -1).all()
    assert np.isinf(distances[7:]).all()


# Drawn data --------------------------------------------------------------------------------


@st.composite
def cases(draw, **fixed):
    """An index, its base and queries, and parameters of a search."""
    pick = lambda name, strategy: fixed[name] if name in fixed else draw(strategy)  # noqa: E731
    d = draw(st.integers(1, 12))
    m = draw(st.sampled_from([v for v in range(1, d + 1) if d % v == 0]))
    nbits = draw(st.sampled_from([4, 4, 5]))
    n = draw(st.integers(1 << nbits, 150))
    n_inner = draw(st.integers(1, 8))
    n_outer = draw(st.integers(1, n_inner))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = draw(st.sampled_from([0, 2, 5, 256]))
    nq = draw(st.integers(1, 9))
    if values:
        x = rng.integers(0, values, size=(n + nq, d)).astype(np.float32)
    else:
        x = (rng.normal(size=(n + nq, d)) * draw(st.sampled_from([0.01, 1, 100]))).astype("f4")
    store = pick("store", st.sampled_from([None, "float32", "uint8" if values else "float32"]))
    options = dict(
        n_inner=n_inner,
        n_outer=n_outer,
        m=m,
        nbits=nbits,
        codebooks=draw(st.sampled_from(["shared", "per-cluster"])),
        rerank=store,
        seed=draw(st.integers(0, 9)),
    )
    search = dict(
        k=draw(st.integers(1, n)),
        nprobe=draw(st.integers(1, n_inner)),
        nprobe_outer=draw(st.integers(1, n_outer)),
        factor=draw(st.integers(1, 5)),
    )
    return x[:n], x[n:], options, search


@PROFILE
@given(cases())
def test_any_search_is_the_oracles(case):
    base, queries, options, search = case
    index = build(base, **options)
    method, _ = check_lists(index, base)
    check_search(index, method, queries, **search)
    check_search(index, method, queries[:1], **search)


@PROFILE
@given(cases())
def test_all_outer_clusters_are_flat_probing(case):
    base, queries, options, search = case
    index = build(base, **options)
    k, nprobe, factor = search["k"], search["nprobe"], search["factor"]
    flat = index.search(queries, k, nprobe, None, factor)
    nested = index.search(queries, k, nprobe, index.n_outer, factor)
    for a, b in zip(flat, nested, strict=True):
        assert (a == b).all()
    # Not by definition alone: ranking below the outer level finds the same lists.
    ranked = faiss.SearchParametersIVF(nprobe=index.n_outer)
    below = index.clustering.nested.search(queries, nprobe, params=ranked)[1]
    method = oracle.read(index, base)
    for query, keys in zip(queries, below, strict=True):
        check_probe(method, query, keys, nprobe, index.n_outer)


@PROFILE
@given(cases(store="float32"))
def test_everything_reranked_is_brute_force(case):
    base, queries, options, search = case
    k, n = search["k"], len(base)
    index = build(base, **options)
    distances, ids = index.search(queries, k, index.n_inner, index.n_outer, -(-n // k))
    exact = squared(queries, base)
    for q in range(len(queries)):
        check_found(distances[q], ids[q], k, np.arange(n), exact[q], np.ones(n, bool),
                    slack(queries, base))  # fmt: skip
    assert (ids >= 0).all()


def right(ids, exact, k):
    """Right ones among ids (nq, k): no farther than the k-th neighbour, for each query."""
    bound = np.sort(exact, axis=1)[:, k - 1 : k] * (1 + 1e-5)
    reached = np.take_along_axis(exact, np.maximum(ids, 0), 1)
    return ((reached <= bound) & (ids >= 0)).sum(axis=1)


@PROFILE
@given(cases(store="float32"))
def test_recall_does_not_fall_with_nprobe_when_everything_is_reranked(case):
    base, queries, options, search = case
    k, n = search["k"], len(base)
    index, exact = build(base, **options), squared(queries, base)
    before = np.zeros(len(queries))
    for nprobe in range(1, index.n_inner + 1):
        ids = index.search(queries, k, nprobe, search["nprobe_outer"], -(-n // k))[1]
        now = right(ids, exact, k)
        assert (now >= before).all()
        before = now
    if search["nprobe_outer"] == index.n_outer:
        assert (before == k).all()


@PROFILE
@given(cases(), st.booleans())
def test_counts_are_the_oracles(case, rerank):
    base, queries, options, search = case
    index = build(base, **options)
    method = oracle.read(index, base)
    nprobe, nprobe_outer, k = search["nprobe"], search["nprobe_outer"], search["k"]
    counted = index.search_cost(queries, k, nprobe, nprobe_outer, search["factor"], rerank)
    candidates = min(len(base), k * search["factor"]) * (rerank and index.rerank is not None)
    for q, query in enumerate(queries):
        ways = []
        for members in reachable(method, query, nprobe_outer):
            distances = squared(query[None], method.inner[members])[0]
            n, tolerance = min(nprobe, len(members)), slack(query, method.inner[members])
            for kept in choices(distances, n, tolerance) if n else [np.empty(0, np.int64)]:
                outer = 0 if nprobe_outer == index.n_outer else index.n_outer
                way = {"outer": outer, "inner": len(members)}
                ways.append(way | method.scan_cost(members[kept], candidates))
        plain = oracle.probe(query, method, nprobe, nprobe_outer)
        by_itself = method.probe_cost(query, nprobe_outer) | method.scan_cost(plain, candidates)
        assert by_itself in ways
        assert {stage: count[q] for stage, count in counted.items()} in ways


@PROFILE
@given(cases(), st.lists(st.integers(1, 149), max_size=3))
def test_adding_in_batches_is_adding_at_once(case, cuts):
    base, queries, options, search = case
    whole = build(base, **options)
    parts = pqlib.MultiLevelPQ(base.shape[1], **options).train(base)
    bounds = [0, *sorted({cut for cut in cuts if cut < len(base)}), len(base)]
    for start, stop in itertools.pairwise(bounds):
        parts.add(base[start:stop])
    assert parts.ntotal == len(base)
    equal = True
    for c in range(whole.n_inner):
        for a, b in zip(whole.list_content(c), parts.list_content(c), strict=True):
            equal &= a.shape == b.shape and bool((a == b).all())
    if not equal:  # vectors at equal distances, told apart by how a block is multiplied
        assert check_lists(parts, base)[1] > 0 or check_lists(whole, base)[1] > 0
        return
    k, nprobe, nprobe_outer, factor = (search[s] for s in ("k", "nprobe", "nprobe_outer", "factor"))
    for a, b in zip(
        whole.search(queries, k, nprobe, nprobe_outer, factor),
        parts.search(queries, k, nprobe, nprobe_outer, factor),
        strict=True,
    ):
        assert (a == b).all()


# Where recall falls ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "query", "swept", "fixed", "of_query", "of_all"),
    [
        # Estimates alone: from the third list on, codes of farther vectors seem nearer.
        (132, 26, "nprobe", {"rerank": False}, [4, 4, 2, 2, 2, 2], [152, 148]),
        # They push right ones out of a re-ranking list of ten just as well.
        (83, 2, "nprobe", {"rerank_factor": 2}, [5, 3, 3, 3, 3, 3], [187, 186]),
        # Everything scanned is re-ranked: the second outer cluster owns an inner centroid that is
        # nearer, its list is scanned instead of the one that held all five, and it holds none.
        (24, 30, "nprobe_outer", {"nprobe": 1, "rerank_factor": 40}, [5, 0, 0], None),
        (62, 29, "nprobe_outer", {"nprobe": 2, "rerank_factor": 40}, [3, 4, 2], [193, 190]),
    ],
)
def test_recall_falls_where_monotonicity_is_not_promised(
    seed, query, swept, fixed, of_query, of_all
):
    x = np.random.default_rng(seed).integers(0, 100, size=(240, 4)).astype(np.float32)
    base, queries, k = x[:200], x[200:], 5
    index = build(base, n_inner=6, n_outer=3, m=2, nbits=4, codebooks="shared", rerank="uint8")
    method, exact = oracle.read(index, base), squared(queries, base)
    found, by_definition = [], []
    for value in range(1, len(of_query) + 1):
        options = {"nprobe": 1, "nprobe_outer": 3} | fixed | {swept: value}
        found.append(right(index.search(queries, k, **options)[1], exact, k))
        candidates = None if "rerank" in fixed else k * fixed["rerank_factor"]
        nprobe, nprobe_outer = options["nprobe"], options["nprobe_outer"]
        ids = method.search(queries[query], k, nprobe, nprobe_outer, candidates)[0]
        by_definition.append(right(ids[None], exact[query : query + 1], k)[0])
    assert [row[query] for row in found] == of_query == by_definition
    sums = [row.sum() for row in found]
    assert of_all is None or of_all in [[a, b] for a, b in itertools.pairwise(sums)]
    assert max(a - b for a, b in itertools.pairwise(of_query)) > 0


# Against faiss -----------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "nbits"), [(16, 8), (32, 4)])
def test_shared_codebooks_are_ivfpq(photo_sift, m, nbits):
    base, n_inner = photo_sift.train, 100
    index = build(base[:8000], stored=base, n_inner=n_inner, n_outer=10, m=m, nbits=nbits,
                  codebooks="shared")  # fmt: skip
    flat = faiss.IndexFlatL2(128)
    flat.add(np.ascontiguousarray(index.clustering.inner))
    other = faiss.IndexIVFPQ(flat, 128, n_inner, m, nbits)
    faiss.copy_array_to_vector(index.quantizer(0).codebooks.ravel(), other.pq.centroids)
    other.is_trained = True
    other.precompute_table()
    other.add(base)

    method, tied = oracle.read(index), 0
    other_codes = np.zeros(len(base), bool)
    for c in range(n_inner):
        positions, codes = index.list_content(c)
        n = other.invlists.list_size(c)
        theirs = faiss.rev_swig_ptr(other.invlists.get_codes(c), n * other.code_size)
        assert (faiss.rev_swig_ptr(other.invlists.get_ids(c), n) == positions).all()
        theirs = theirs.reshape(n, -1)
        differ = (theirs != codes).any(axis=1)
        rows, lists = base[positions[differ]], np.full(differ.sum(), c)
        errors = [
            method.errors(rows, lists, oracle.unpack(of[differ], m, nbits))
            for of in (codes, theirs)
        ]
        tolerance = ROUNDING * norms(method.residuals(rows, lists))
        assert (np.abs(errors[0] - errors[1]) <= tolerance).all()
        tied += differ.sum()
        other_codes[positions[differ]] = True
    assert tied <= 0.001 * len(base)

    for other.nprobe in (1, 10):
        distances, ids = index.search(photo_sift.test, 10, nprobe=other.nprobe)
        expected, expected_ids = other.search(photo_sift.test, 10)
        assert (ids == expected_ids).mean() >= 0.999
        scale = slack(photo_sift.test, base)
        # Of two codes at the same distance from a vector, each is at another one from a query.
        there = (ids >= 0) & ~other_codes[ids] & ~other_codes[expected_ids]
        assert distances[there] == pytest.approx(expected[there], rel=1e-4, abs=scale)


def quantization_error(x, codebooks):
    """Mean squared error of x (n, d) under the nearest centroids of codebooks (m, ksub, d/m)."""
    x = x.astype(np.float64).reshape(len(x), len(codebooks), -1)
    total = 0
    for j, centroids in enumerate(codebooks.astype(np.float64)):
        nearest = (norms(centroids) - 2 * x[:, j] @ centroids.T).min(axis=1)
        total += (norms(x[:, j]) + nearest).mean()
    return total


@pytest.mark.parametrize(("m", "nbits"), [(4, 4), (16, 4), (8, 6), (4, 8), (16, 8)])
def test_codebooks_are_as_good_as_those_of_faiss(photo_sift, m, nbits):
    x = photo_sift.train[: min(6000, 256 << nbits)]  # neither of the two samples among so many
    clustering = pqlib.two_level_kmeans(x, 40, 6)
    x = x - clustering.inner[clustering.assign(x)]
    ours, theirs = [], []
    for seed in range(3):
        quantizer = ProductQuantizer(128, m, nbits, seed=seed).train(x)
        other = faiss.ProductQuantizer(128, m, nbits)
        assert other.cp.niter == pqlib.quantizers.PQ_ITERATIONS == 25
        other.cp.seed, other.cp.min_points_per_centroid = seed, 1
        other.train(x)
        ours.append(quantization_error(x, quantizer.codebooks))
        codebooks = faiss.vector_to_array(other.centroids).reshape(quantizer.codebooks.shape)
        theirs.append(quantization_error(x, codebooks))
        decoded = quantizer.decode(quantizer.encode(x))
        assert ours[-1] == pytest.approx(norms(x - decoded.astype(np.float64)).mean(), rel=1e-5)
    assert 0 < np.mean(ours) <= 1.01 * np.mean(theirs)
