"""The graph: walk and edges by definition, both engines alike, and what must not break it."""

import heapq
import threading

import numpy as np
import pytest

import pqlib
from pqlib.indexes import GraphIndex
from pqlib.indexes.kernels import portable_graph

ENGINES = ("native", "portable")


@pytest.fixture(scope="module")
def ds():
    return pqlib.load_dataset("photo-sift", n_train=3000, n_test=60)


@pytest.fixture(scope="module")
def index(ds):
    return (
        GraphIndex(ds.d, 16, 64, ef_construction=40, engine="portable")
        .train(ds.train)
        .add(ds.train)
    )


def walk_by_definition(codes, edges, starts, query, ef):
    """Algorithm 2 of the HNSW paper with two heaps, on whole squared distances of codes."""

    def far(node):
        return int(((codes[node].astype(int) - query.astype(int)) ** 2).sum())

    seen = set(starts)
    ahead = [(far(node), node) for node in seen]
    heapq.heapify(ahead)
    found = [(-gap, -node) for gap, node in ahead]
    heapq.heapify(found)
    while len(found) > ef:
        heapq.heappop(found)
    while ahead:
        gap, node = heapq.heappop(ahead)
        if len(found) == ef and gap > -found[0][0]:
            break
        for other in edges[node][edges[node] >= 0].tolist():
            if other in seen:
                continue
            seen.add(other)
            gap = far(other)
            if len(found) < ef or gap < -found[0][0]:
                heapq.heappush(ahead, (gap, other))
                heapq.heappush(found, (-gap, -other))
                if len(found) > ef:
                    heapq.heappop(found)
    return sorted((-gap, -node) for gap, node in found), len(seen)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ef", [1, 10, 40])
def test_a_walk_is_the_papers(index, ds, engine, ef):
    searched = GraphIndex(ds.d, 16, 64, ef_construction=40, engine=engine)
    loops = searched._loops
    index._built()
    codes, edges = index._codes, index._edges
    rng = np.random.default_rng(ef)
    queries = rng.integers(-60, 60, (20, 64)).astype(np.int8)
    starts = rng.integers(0, len(codes), (20, 2)).astype(np.int32)
    keys, scored, hops = loops.walk(codes, index._halves, edges, starts, queries, np.arange(20), ef)
    signed = codes.astype(np.int16) - 128
    same = 0
    for i in range(20):
        expected, seen = walk_by_definition(signed, edges, starts[i].tolist(), queries[i], ef)
        found = (keys[i][keys[i] != -1] & 0xFFFFFFFF).tolist()
        gaps = ((signed[found].astype(int) - queries[i].astype(int)) ** 2).sum(axis=1).tolist()
        # Halved norms are rounded, so that distances that differ by one may change places.
        same += np.allclose(gaps, [gap for gap, _ in expected], atol=2) and scored[i] == seen
        assert hops[i] >= min(ef, len(found))
    assert same >= 18


def test_an_edge_is_to_no_node_that_is_nearer_to_another_end(index):
    codes = index.edges is not None and index._codes.astype(int)
    checked = 0
    for node in range(0, len(codes), 50):
        ends = index.edges[node][index.edges[node] >= 0]
        assert len(set(ends.tolist())) == len(ends)
        assert node not in ends
        if len(ends) == 16:  # pruned at least once, when it had been full
            checked += 1
    assert checked
    pairs = [(10, 1), (12, 2), (20, 3)]
    line = np.array([[0] * 64, [10] + [0] * 63, [12] + [0] * 63, [0, 20] + [0] * 62], np.uint8)
    found = [(int(((line[i] - line[0].astype(int)) ** 2).sum()), i) for _, i in pairs]
    # 2 lies behind 1; 3 in another direction.
    assert portable_graph._prune(line, 0, found, 5) == [1, 3]
    assert portable_graph._prune(line, 0, found, 1) == [1]


@pytest.mark.parametrize("rerank", ["uint8", "float32", None])
@pytest.mark.parametrize("rotation", ["pca", None])
def test_both_engines_build_and_find_the_same(ds, rerank, rotation):
    built = [
        GraphIndex(
            ds.d, 8, None, rotation, rerank, ef_construction=20, engine=engine, max_train=1000
        ).train(ds.train[:1500]).add(ds.train[:700]).add(ds.train[700:1500])
        for engine in ENGINES
    ]  # fmt: skip
    assert np.array_equal(built[0].edges, built[1].edges)
    results = [index.search(ds.test, 5, 20, 10) for index in built]
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_array_equal(results[0][0], results[1][0])
    costs = [index.search_cost(ds.test, 5, 20, 10) for index in built]
    for stage, counted in costs[0].items():
        np.testing.assert_array_equal(counted, costs[1][stage], err_msg=stage)


def test_threads_build_the_same_graph(ds, monkeypatch):
    graphs = []
    for threads in (1, 3):
        monkeypatch.setattr("faiss.omp_get_max_threads", lambda n=threads: n)
        graphs.append(GraphIndex(ds.d, 8, 32).train(ds.train).add(ds.train).edges)
    assert np.array_equal(*graphs)


@pytest.mark.parametrize("rotation", ["pca", None])
def test_recall_grows_with_ef_and_distances_are_exact(ds, rotation):
    index = GraphIndex(ds.d, 24, None, rotation).train(ds.train).add(ds.train)
    found = [index.search(ds.test, 10, ef) for ef in (10, 40, 200)]
    recalls = [pqlib.recall_at_k(ids, ds, 10) for _, ids in found]
    assert recalls[0] < recalls[1] <= recalls[2]
    assert recalls[2] > 0.99
    distances, ids = found[2]
    exact = ((ds.test[:, None] - ds.train[ids]) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances, exact, rtol=1e-5)
    cost = index.search_cost(ds.test, 10, 40, 20)
    assert (cost["codes"] < ds.n // 2).all()
    assert (cost["vectors"] == 20).all()


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_other_metrics_return_similarities(ds, metric):
    x = ds.train * np.random.default_rng(0).uniform(0.8, 1.2, (ds.n, 1)).astype(np.float32)
    index = GraphIndex(ds.d, 24, rerank="float32", metric=metric).train(x).add(x)
    values, ids = index.search(ds.test, 10, 200, 100)
    base, asked = (
        (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, ds.test))
        if metric == "cosine"
        else (x, ds.test)
    )
    exact = np.sort(asked @ base.T, axis=1)[:, ::-1][:, :10]
    assert (values >= exact[:, -1:] * (1 - 1e-5)).mean() > 0.95
    np.testing.assert_allclose(values[:, 0], (asked * base[ids[:, 0]]).sum(axis=1), rtol=1e-4)


def test_ten_thousand_duplicates_share_a_node(ds):
    x = np.concatenate([np.repeat(ds.train[:1], 10_000, axis=0), ds.train[1:500]])
    index = GraphIndex(ds.d, 8, 32).train(x).add(x)
    assert len(index.edges) <= 500
    distances, ids = index.search(ds.train[:1], 1000, 1000)
    assert (distances == 0).all()
    assert len(set(ids[0].tolist())) == 1000
    distances, ids = index.search(ds.train[7:8], 3)
    assert ids[0, 0] == 10_006
    assert distances[0, 0] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_one_vector_and_all_of_few(ds, engine):
    index = GraphIndex(ds.d, 4, 16, engine=engine).train(ds.train).add(ds.train[:1])
    distances, ids = index.search(ds.train[:2], 1)
    assert ids.tolist() == [[0], [0]]
    assert distances[0, 0] == 0
    index = GraphIndex(ds.d, 4, 16, engine=engine).train(ds.train).add(ds.train[:30])
    ids = index.search(ds.train[:5], 30)[1]
    assert all(sorted(row) == list(range(30)) for row in ids.tolist())


def test_islands_are_connected(ds):
    """Clusters so far apart that no node of one is among the nearest of another."""
    rng = np.random.default_rng(3)
    centers = 30 * rng.normal(size=(40, 32))
    x = np.concatenate([rng.normal(size=(150, 32)) + center for center in centers])
    x = x.astype(np.float32)
    index = GraphIndex(32, 4, rerank="float32", ef_construction=10).train(x[:16]).add(x)
    edges = index.edges
    assert len(edges) > 5000
    reached, ahead = set(), [int(index._entries.min())]
    while ahead:
        node = ahead.pop()
        if node not in reached:
            reached.add(node)
            ahead += edges[node][edges[node] >= 0].tolist()
    assert len(reached) == len(edges)


def test_ids_files_and_mapping(ds, tmp_path):
    ids = np.arange(ds.n) * 7 + 3
    for rotation, rerank in (("pca", "uint8"), (None, "uint8"), ("pca", "float32"), ("pca", None)):
        index = GraphIndex(ds.d, 12, None, rotation, rerank).train(ds.train).add(ds.train, ids)
        index.settings = type(index.settings)(50, 30)
        path = tmp_path / f"{rotation}{rerank}.pqlib"
        index.save(path)
        expected = index.search(ds.test, 10)
        for mmap in (False, True):
            other = pqlib.load_index(path, mmap=mmap)
            assert other.settings == index.settings
            assert other.memory() == index.memory()
            found = other.search(ds.test, 10)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])
        assert set(expected[1].ravel().tolist()) <= set(ids.tolist())
        other = pqlib.load_index(path).add(ds.train[:5], np.arange(5))
        assert other.search(ds.train[:1], 2)[0].tolist()[0][1] < 1 or rerank is None
    assert "edges each" in index.describe()


def test_searching_from_several_threads_builds_once(ds):
    index = GraphIndex(ds.d, 8, 32).train(ds.train).add(ds.train)
    found = [None] * 4

    def search(i):
        found[i] = index.search(ds.test, 5)[1]

    threads = [threading.Thread(target=search, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[0], other) for other in found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"degree": 1}, "degree=1"),
        ({"components": 200}, "components=200"),
        ({"rotation": None, "components": 5}, "without a rotation"),
        ({"rotation": "random"}, "rotation='random'"),
        ({"rerank": "float16"}, "rerank='float16'"),
        ({"ef_construction": 0}, "ef_construction=0"),
        ({"metric": "ip"}, "rerank"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        GraphIndex(128, **arguments)


def test_bad_searches_are_named(index, ds):
    with pytest.raises(ValueError, match="ef=5"):
        index.search(ds.test, 10, 5)
    with pytest.raises(ValueError, match="candidates=50"):
        index.search(ds.test, 10, 20, 50)
    with pytest.raises(ValueError, match="before train"):
        GraphIndex(ds.d).add(ds.train)
    bad = ds.test.copy()
    bad[3, 5] = np.nan
    with pytest.raises(ValueError, match="xq"):
        index.search(bad, 10)
