"""Every router in pqlib/indexes/routers/ does what the interface promises."""

import numpy as np
import pytest
from oracle import exact_neighbors, squared

import pqlib
from pqlib.indexes.routers import Router

D, LISTS = 16, 20


@pytest.fixture(scope="module", params=Router.kinds.values(), ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def clustering(clustered):
    return pqlib.two_level_kmeans(clustered[0], LISTS, 5)


@pytest.mark.parametrize("nprobe", [1, 7, LISTS])
def test_lists_are_visited_once_and_their_distances_are_right(kind, clustering, clustered, nprobe):
    queries = clustered[1]
    router = kind().over(clustering)
    distances, lists = router.probe(queries, *router.check(nprobe)[:1])
    assert distances.shape == lists.shape == (len(queries), nprobe)
    assert distances.dtype == np.float32
    assert lists.dtype == np.int64
    every = squared(queries, clustering.inner)
    for near, row, true in zip(distances, lists, every, strict=True):
        n = int((row >= 0).sum())
        assert (row[n:] == -1).all()
        assert np.isinf(near[n:]).all()
        assert len(set(row[:n])) == n
        assert n == 0 or row.max() < LISTS
        assert near[:n] == pytest.approx(true[row[:n]], rel=1e-4, abs=1)
        if router.ranks_all():
            assert near == pytest.approx(np.sort(true)[:nprobe], rel=1e-4, abs=1)
    again = kind().over(clustering).probe(queries, nprobe)
    np.testing.assert_array_equal(again[1], lists)


def test_cost_and_memory_are_counted(kind, clustering, clustered):
    router = kind().over(clustering)
    cost = router.cost(clustered[1], 3)
    assert cost
    for counts in cost.values():
        assert counts.dtype == np.int64
        assert counts.shape == (50,)
        assert (counts >= 0).all()
    assert all(isinstance(held, int) and held >= 0 for held in router.memory().values())
    assert router.working_bytes(10, 3) <= router.working_bytes(20, 3)


INDEXES = {
    "k-means": (pqlib.KMeansIndex, {}),
    "shared": (pqlib.MultiLevelPQ, dict(m=4, nbits=4, codebooks="shared")),
    "per cluster": (pqlib.MultiLevelPQ, dict(m=4, nbits=4, rerank="uint8")),
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_uses_saves_and_loads_it(kind, name, clustered, tmp_path):
    base, queries = clustered
    make, options = INDEXES[name]
    mine = kind()
    index = make(D, LISTS, 5, router=mine, **options).train(base).add(base)
    assert type(index.router) is kind
    found = index.search(queries, 10, nprobe=4)
    # Scanned are the lists that the router names.
    lists = index.router.probe(queries, 4)[1]
    home = index.clustering.assign(base)
    for ids, row in zip(found[1], lists, strict=True):
        assert set(home[ids[ids >= 0]]) <= set(row)
    cost = index.search_cost(queries, 10, nprobe=4)
    sizes = np.where(lists >= 0, index.list_sizes[lists], 0).sum(axis=1)
    assert (cost["codes" if "codes" in cost else "vectors"] == sizes).all()
    limited = index.search(queries, 10, nprobe=4, max_memory=64 << 20)
    assert (limited[1] == found[1]).mean() > 0.99
    index.save(tmp_path / "index")
    for mmap in (False, True):
        loaded = pqlib.load_index(tmp_path / "index", mmap=mmap)
        assert loaded.router.parameters() == mine.parameters()
        assert loaded.memory() == index.memory()
        for one, other in zip(loaded.search(queries, 10, nprobe=4), found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_all_lists_visited_is_brute_force(kind, clustered):
    base, queries = clustered
    index = pqlib.KMeansIndex(D, LISTS, 5, router=kind()).train(base).add(base)
    lists = index.router.probe(queries, LISTS)[1]
    whole = (lists >= 0).all(axis=1)
    distances, ids = index.search(queries, 10, nprobe=LISTS)
    expected, plain = exact_neighbors(base, queries, 10)
    assert distances[whole] == pytest.approx(plain[whole] ** 2, rel=1e-4, abs=1e-2)
    assert (np.sort(ids[whole]) == np.sort(expected[whole])).mean() > 0.99


def test_the_default_router_is_not_written(clustered, tmp_path):
    """So that files of before there were routers and files of today are the same."""
    index = pqlib.KMeansIndex(D, LISTS, 5).train(clustered[0])
    assert "router" not in index._parameters()
    assert type(index.router).__name__ == "TwoLevelRouter"


@pytest.mark.parametrize(
    ("call", "words", "error"),
    [
        (
            lambda x: pqlib.KMeansIndex(D, 4, 2, router="flat"),
            "router='flat'.*TwoLevel",
            ValueError,
        ),
        (lambda x: pqlib.indexes.routers.router_of({"kind": "No"}), "'No'.*FlatRouter", ValueError),
        (lambda x: Router.kinds["FlatRouter"]().probe(x, 1), "call train", ValueError),
        (lambda x: filled(x).search(x, nprobe_outer=2), "nprobe_outer=2.*FlatRouter", TypeError),
        (lambda x: filled(x).search(x, nprobe=5), "nprobe=5.*1..4", ValueError),
        (lambda x: filled(x).search_cost(x, ef=9), "ef=9.*FlatRouter", TypeError),
    ],
)
def test_errors_name_the_argument(clustered, call, words, error):
    with pytest.raises(error, match=words):
        call(clustered[0])


def filled(x):
    return pqlib.KMeansIndex(D, 4, 2, router=Router.kinds["FlatRouter"]()).train(x).add(x)
