import threading

import faiss
import numpy as np
import pytest
from conftest import from_disk_and_in_parts
from oracle import exact_neighbors, probe, search, squared

import pqlib

D = 16


def make(base, **options):
    options = dict(n_inner=20, n_outer=5, m=4, nbits=5, seed=3) | options
    return pqlib.MultiLevelPQ(base.shape[1], **options).train(base).add(base)


@pytest.mark.parametrize("codebooks", ["shared", "per-cluster"])
@pytest.mark.parametrize(
    ("nprobe", "nprobe_outer"), [(1, None), (5, None), (4, 2), (20, 5), (9, 1)]
)
def test_search_is_what_the_definition_says(clustered, codebooks, nprobe, nprobe_outer):
    base, queries = clustered
    index = make(base, codebooks=codebooks)
    distances, ids = index.search(queries, 10, nprobe, nprobe_outer)
    scale = 1e-5 * float((queries**2).sum(axis=1).max())
    cost = index.search_cost(queries, 10, nprobe, nprobe_outer)
    for q, query in enumerate(queries):
        wanted, exact = search(query, index, 10, nprobe, nprobe_outer or 5)
        found = ids[q][ids[q] >= 0]
        assert len(found) == len(wanted)
        assert distances[q, : len(wanted)] == pytest.approx(exact, rel=1e-4, abs=scale)
        # Ids up to ties: the two may order equal estimates differently.
        clear = exact < exact[-1] - 2 * scale if len(exact) else exact > 0
        assert set(wanted[clear]) <= set(found)
        lists = probe(query, index.clustering, nprobe, nprobe_outer or 5)
        sizes = index.list_sizes[lists]
        assert cost["codes"][q] == sizes.sum()
        tables = (sizes > 0).sum() if codebooks == "per-cluster" else min(1, (sizes > 0).sum())
        assert cost["tables"][q] == tables * 32


@pytest.mark.parametrize("codebooks", ["shared", "per-cluster"])
def test_stored_codes_are_the_residuals_codes(clustered, codebooks):
    base, _ = clustered
    index = make(base, codebooks=codebooks)
    home = squared(base, index.clustering.inner).argmin(axis=1)
    seen = 0
    for c in range(20):
        positions, codes = index.list_content(c)
        assert (home[positions] == c).all()
        residuals = base[positions] - index.clustering.inner[c]
        if len(positions):
            assert (codes == index.quantizer(c).encode(residuals)).all()
        seen += len(positions)
    assert seen == index.ntotal == 2000


@pytest.mark.parametrize("codebooks", ["shared", "per-cluster"])
@pytest.mark.parametrize("nprobe_outer", [None, 2])
@pytest.mark.parametrize("nbits", [5, 8])
def test_few_queries_get_what_a_batch_gives(clustered, codebooks, nprobe_outer, nbits):
    base, queries = clustered
    # With 8 bits some clusters are too small for codebooks of their own.
    index = make(base, codebooks=codebooks, nbits=nbits, n_inner=8, rerank="uint8")
    for options in (dict(rerank=False), dict(rerank_factor=3)):
        many = index.search(np.tile(queries, (20, 1)), 10, 3, nprobe_outer, **options)
        for some in (slice(0, 1), slice(4, 7)):
            few = index.search(queries[some], 10, 3, nprobe_outer, **options)
            assert few[0] == pytest.approx(many[0][some], rel=1e-4, abs=1)
            assert (few[1] == many[1][some]).mean() > 0.9


def test_one_query_leaves_the_number_of_threads_alone(clustered):
    base, queries = clustered
    index = make(base)
    before = faiss.omp_get_max_threads()
    index.search(queries[:1])
    assert faiss.omp_get_max_threads() == before


def test_flat_shared_search_is_faiss_ivfpq(clustered):
    base, queries = clustered
    index = make(base, codebooks="shared", nbits=8)
    quantizer = faiss.IndexFlatL2(D)
    quantizer.add(np.ascontiguousarray(index.clustering.inner))
    other = faiss.IndexIVFPQ(quantizer, D, 20, 4, 8)
    faiss.copy_array_to_vector(index.quantizer(0).codebooks.ravel(), other.pq.centroids)
    other.is_trained = True
    other.add(base)
    other.nprobe = 6
    distances, ids = index.search(queries, 10, nprobe=6)
    expected, expected_ids = other.search(queries, 10)
    assert distances == pytest.approx(expected, rel=1e-4, abs=1)
    same = np.mean([len(np.intersect1d(a, b)) for a, b in zip(ids, expected_ids, strict=True)])
    assert same >= 9.9


@pytest.mark.parametrize("store", ["float32", "uint8"])
@pytest.mark.parametrize("codebooks", ["shared", "per-cluster"])
def test_everything_probed_and_reranked_is_brute_force(clustered, store, codebooks):
    base, queries = clustered
    index = make(base, codebooks=codebooks, rerank=store)
    distances, ids = index.search(queries, 10, nprobe=20, nprobe_outer=5, rerank_factor=200)
    expected, plain = exact_neighbors(base, queries, 10)
    assert distances == pytest.approx(plain**2, rel=1e-5)
    assert (ids == expected).all()
    assert (index.search_cost(queries, 10, 20, 5, 200)["rerank"] == 2000).all()


def test_reranking_improves_and_can_be_left_out(clustered, as_dataset):
    base, queries = clustered
    ds = as_dataset(base, queries)
    index, plain = make(base, rerank="uint8"), make(base)
    estimated = index.search(queries, 10, 8, rerank=False)
    for a, b in zip(estimated, plain.search(queries, 10, 8), strict=True):
        assert (a == b).all()
    better = pqlib.recall_at_k(index.search(queries, 10, 8, rerank_factor=10)[1], ds, 10)
    assert better > pqlib.recall_at_k(estimated[1], ds, 10) + 0.05


def test_recall_grows_with_nprobe_when_all_candidates_are_reranked(clustered, as_dataset):
    base, queries = clustered
    ds, index = as_dataset(base, queries), make(base, rerank="float32")
    from pqlib.evaluation import query_recall

    before = np.zeros(len(queries))
    for nprobe in range(1, 21):
        ids = index.search(queries, 10, nprobe, nprobe_outer=3, rerank_factor=200)[1]
        now = query_recall(ids, ds, 10)
        assert (now >= before).all()
        before = now


def test_small_clusters_use_the_shared_codebooks_and_say_so():
    rng = np.random.default_rng(0)
    base = np.vstack(
        [rng.normal(0, 1, (500, 8)), rng.normal(50, 1, (20, 8)), [[500.0] * 8]]
    ).astype(np.float32)
    index = pqlib.MultiLevelPQ(8, 3, 1, m=4, nbits=6).train(base).add(base)
    sizes = index.list_sizes
    assert index.n_shared_clusters == (sizes < 64).sum() > 0
    assert f"{index.n_shared_clusters} with fewer than 64 training residuals" in index.describe()
    small, large = sizes.argmin(), sizes.argmax()
    assert index.quantizer(small) is not index.quantizer(large)
    _, ids = index.search(base[-1:], 10, nprobe=1)
    assert (ids[0] >= 0).sum() == min(10, sizes[index.clustering.assign(base[-1:])[0]])


@pytest.mark.parametrize("codebooks", ["shared", "per-cluster"])
def test_results_are_padded(codebooks):
    base = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    index = pqlib.MultiLevelPQ(4, 30, 5, m=2, nbits=4, codebooks=codebooks, rerank="float32")
    index.train(base).add(base)
    for rerank in (True, False):
        distances, ids = index.search(base[:9], 40, nprobe=2, nprobe_outer=1, rerank=rerank)
        missing = ids < 0
        assert missing.any()
        assert (~missing).any()
        assert np.isinf(distances[missing]).all()
        assert np.isfinite(distances[~missing]).all()
        assert (np.diff(np.where(missing, np.float32(3e38), distances), axis=1) >= 0).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda: pqlib.BruteForce(D),
        lambda: pqlib.KMeansIndex(D, 20, 5),
        lambda: pqlib.MultiLevelPQ(D, 20, 5, m=4, nbits=5),
        lambda: pqlib.MultiLevelPQ(D, 20, 5, m=4, nbits=5, codebooks="shared", rerank="uint8"),
    ],
)
def test_adding_in_batches_and_with_ids(clustered, build):
    base, queries = clustered
    whole = build().train(base).add(base)
    parts = build().train(base).add(base[:700], ids=np.arange(700)).add(base[700:])
    assert parts.ntotal == 2000
    named = build().train(base).add(base, ids=10**12 + np.arange(2000))
    for a, b, c in zip(
        whole.search(queries, 5), parts.search(queries, 5), named.search(queries, 5), strict=True
    ):
        assert a == pytest.approx(b)
        if a.dtype == np.int64:
            assert (np.where(a < 0, -1, a + 10**12) == c).all()
    assert named.memory()["ids"] > whole.memory()["ids"]


def test_exported_to_faiss_it_answers_the_same(clustered, tmp_path):
    base, queries = clustered
    index = pqlib.MultiLevelPQ(D, 20, 5, m=4, nbits=5, codebooks="shared").train(base)
    index.add(base, 7 * np.arange(2000))
    faiss.write_index(index.to_faiss(), str(tmp_path / "index"))
    other = faiss.read_index(str(tmp_path / "index"))
    other.nprobe = 4
    assert other.ntotal == 2000
    distances, ids = index.search(queries, 10, 4)
    expected, expected_ids = other.search(queries, 10)
    assert distances == pytest.approx(expected, rel=1e-4, abs=1)
    assert (ids == expected_ids).mean() > 0.99
    with pytest.raises(ValueError, match="codebooks='per-cluster'.*shared"):
        make(base).to_faiss()
    with pytest.raises(ValueError, match="train"):
        pqlib.MultiLevelPQ(D, codebooks="shared").to_faiss()


@pytest.mark.parametrize("offset", [None, 10**12])
def test_a_base_in_blocks_is_added_like_a_whole_one(clustered, offset, tmp_path, monkeypatch):
    base, queries = clustered
    ids = None if offset is None else offset + np.arange(2000)
    make_empty = lambda: pqlib.MultiLevelPQ(D, 20, 5, m=4, nbits=5, rerank="uint8").train(base)  # noqa: E731
    expected = make_empty().add(base, ids).search(queries, 10, 3)
    monkeypatch.setattr("pqlib.indexes.base.rows_per_block", lambda *_: 300)
    for index in from_disk_and_in_parts(make_empty, base, ids, tmp_path):
        for a, b in zip(index.search(queries, 10, 3), expected, strict=True):
            assert (a == b).all()
    for wrong in (ids[:-1], np.append(ids, 5)) if offset else ():
        for whole in (base, iter([base[:500], base[500:]])):
            with pytest.raises(ValueError, match="ids has"):
                make_empty().add(whole, wrong)


@pytest.mark.parametrize("codebooks", ["shared", "per-cluster"])
@pytest.mark.parametrize("offset", [None, 10**12])
def test_reconstruct_decodes_what_was_added(clustered, codebooks, offset):
    base, _ = clustered
    index = pqlib.MultiLevelPQ(D, 20, 5, m=4, nbits=5, codebooks=codebooks).train(base)
    # In descending order, so that ids and positions differ.
    names = None if offset is None else offset + np.arange(2000)[::-1]
    index.add(base, names)
    home = index.clustering.assign(base)
    expected = index.decode(index.encode(base, home), home)
    rows = np.array([7, 1999, 7, 0, 450])
    assert (index.reconstruct(rows if names is None else names[rows]) == expected[rows]).all()
    assert index.reconstruct(np.empty(0, int)).shape == (0, D)
    for wrong in ([5, -1], [10**13], [[1]], [1.5]):
        with pytest.raises(ValueError, match="ids"):
            index.reconstruct(wrong)


def test_other_number_types_and_layouts_are_accepted(clustered):
    base, queries = clustered
    index = make(base)
    expected = index.search(queries, 5)
    for given in (queries.astype(np.uint8), queries.astype(np.float64), np.asfortranarray(queries)):
        for a, b in zip(index.search(given, 5), expected, strict=True):
            assert (a == b).all()


def test_kmeans_index_is_exact_in_the_probed_lists(clustered):
    base, queries = clustered
    index = pqlib.KMeansIndex(D, 20, 5).train(base).add(base)
    distances, ids = index.search(queries, 10, nprobe=20)
    expected, plain = exact_neighbors(base, queries, 10)
    assert distances == pytest.approx(plain**2, rel=1e-4, abs=1e-2)
    assert (np.sort(ids) == np.sort(expected)).mean() > 0.99
    home = index.clustering.assign(base)
    _, ids = index.search(queries, 10, nprobe=3, nprobe_outer=2)
    for q, query in enumerate(queries):
        lists = probe(query, index.clustering, 3, 2)
        inside = np.flatnonzero(np.isin(home, lists))
        nearest = np.sort(squared(query[None], base[inside])[0])[:10]
        found = np.sort(squared(query[None], base[ids[q][ids[q] >= 0]])[0])
        assert found == pytest.approx(nearest)
    assert (index.search_cost(queries, 10, 20)["vectors"] == 2000).all()


def test_brute_force_is_exact_and_copies_unless_told(clustered):
    base, queries = clustered
    mine = base.copy()
    copying, sharing = pqlib.BruteForce(D).add(mine), pqlib.BruteForce(D, copy=False).add(mine)
    assert (copying.search(queries, 10)[1] == exact_neighbors(base, queries, 10)[0]).mean() > 0.99
    mine[:] = 0
    assert copying.search(queries, 1)[0].max() < sharing.search(queries, 1)[0].min()


def test_float32_store_copies_unless_told(clustered):
    base, queries = clustered
    for copy in (True, False):
        mine = base.copy()
        index = make(mine, rerank="float32", copy=copy)
        before = index.search(queries, 1, 20)[0]
        mine += 1000
        assert (index.search(queries, 1, 20)[0] > before + 1e5).all() == (not copy)


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("store", ["float32", "uint8"])
def test_the_store_grows_by_batches_and_leaves_the_given_arrays_alone(clustered, copy, store):
    base, queries = clustered
    batches = [part.copy() for part in np.array_split(base, 5)]
    whole = make(base, rerank=store).search(queries, 10, 20)
    index = pqlib.MultiLevelPQ(D, 20, 5, m=4, nbits=5, seed=3, rerank=store, copy=copy).train(base)
    for batch in batches:
        index.add(batch)
    for a, b in zip(index.search(queries, 10, 20), whole, strict=True):
        assert (a == b).all()
    assert (np.concatenate(batches) == base).all()
    assert index.memory()["re-ranking store"] == base.size * (4 if store == "float32" else 1)


def test_memory_counts_every_part(clustered):
    base, _ = clustered
    shared = make(base, codebooks="shared", rerank="uint8").memory()
    assert shared["codes"] == 2000 * 3  # 4 numbers of 5 bits
    assert shared["codebooks"] == 32 * D * 4
    assert shared["re-ranking store"] == 2000 * D
    assert shared["precomputed tables"] == 20 * 4 * 32 * 4
    local = make(base)
    own = 20 - local.n_shared_clusters
    assert local.memory()["codebooks"] == (own + (own < 20)) * 32 * D * 4
    assert local.memory_bytes == sum(local.memory().values())
    assert local.bytes_per_vector == local.memory_bytes / 2000


def test_threads_search_with_their_own_parameters(clustered):
    base, queries = clustered
    index = make(base, codebooks="shared")
    expected = {p: index.search(queries, 10, nprobe=p)[1] for p in (1, 7)}
    wrong = []

    def work(nprobe):
        for _ in range(30):
            if not (index.search(queries, 10, nprobe=nprobe)[1] == expected[nprobe]).all():
                wrong.append(nprobe)

    threads = [threading.Thread(target=work, args=(p,)) for p in (1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def with_nan(x):
    x = x.copy()
    x[3, 2] = np.nan
    return x


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: pqlib.MultiLevelPQ(D, m=3), "m=3.*1, 2, 4, 8, 16"),
        (lambda x: pqlib.MultiLevelPQ(D, nbits=20), "nbits=20"),
        (lambda x: pqlib.MultiLevelPQ(D, codebooks="own"), "codebooks='own'"),
        (lambda x: pqlib.MultiLevelPQ(D, rerank="float64"), "rerank='float64'"),
        (lambda x: pqlib.MultiLevelPQ(D, n_inner=5, n_outer=6), "n_outer=6"),
        (lambda x: pqlib.MultiLevelPQ(0), "d=0"),
        (lambda x: pqlib.MultiLevelPQ(D).train(x[:50]), "n_inner=100"),
        (lambda x: pqlib.MultiLevelPQ(D, 4, 2, nbits=12).train(x), "2\\*\\*nbits = 4096"),
        (lambda x: pqlib.MultiLevelPQ(D, 4, 2).add(x), "add before train"),
        (lambda x: pqlib.MultiLevelPQ(D, 4, 2).search(x), "search before add"),
        (lambda x: pqlib.MultiLevelPQ(D, 4, 2).train(x).search(x), "search before add"),
        (lambda x: pqlib.KMeansIndex(D, 4, 2).search(x), "search before add"),
        (lambda x: pqlib.BruteForce(D).search(x), "search before add"),
        (lambda x: make(x).search(x[:, :8]), "d=16"),
        (lambda x: make(x).search(x[0]), "matrix"),
        (lambda x: make(x).search(with_nan(x)), "xq\\[3, 2\\] is nan"),
        (lambda x: make(x).add(with_nan(x)), "xb\\[3, 2\\] is nan"),
        (lambda x: make(with_nan(x)), "xt\\[3, 2\\] is nan"),
        (lambda x: make(x).search(x[:0]), "at least one vector"),
        (lambda x: make(x).search(x, k=0), "k=0"),
        (lambda x: make(x).search(x, k=2001), "k=2001"),
        (lambda x: make(x).search(x, nprobe=21), "nprobe=21"),
        (lambda x: make(x).search(x, nprobe=0), "nprobe=0"),
        (lambda x: make(x).search(x, nprobe_outer=6), "nprobe_outer=6"),
        (lambda x: make(x).search(x, rerank_factor=0), "rerank_factor=0"),
        (lambda x: make(x + 0.5, rerank="uint8"), "whole numbers 0..255"),
        (lambda x: make(x + 200, rerank="uint8"), "whole numbers 0..255"),
        (lambda x: make(x).add(x, ids=[1, 2]), "ids"),
        (lambda x: make(x).add(x, ids=-np.arange(2000)), "ids"),
        (lambda x: make(x).train(x), "train after add"),
        (lambda x: pqlib.MultiLevelPQ(D, 4, 2).encode(x, np.zeros(2000, int)), "before train"),
        (lambda x: make(x).encode(x[:, :8], np.zeros(2000, int)), "d=16"),
        (lambda x: make(x).encode(x, np.zeros(1999, int)), "assignment has shape \\(1999,\\)"),
        (lambda x: make(x).encode(x, np.zeros(2000)), "assignment.*float64"),
        (lambda x: make(x).encode(x, np.full(2000, 20)), "assignment holds 20"),
        (lambda x: make(x).decode(np.zeros((1, 3), np.uint8), np.array([-1])), "holds -1"),
        (lambda x: make(x).decode(np.zeros((1, 2), np.uint8), np.array([1])), "codes.*\\(n, 3\\)"),
        (lambda x: make(x).quantizer(20), "cluster=20"),
        (lambda x: pqlib.default_sizes(-3), "n=-3"),
        (
            lambda x: pqlib.MultiLevelPQ(D, 4, 2).train(x, pqlib.two_level_kmeans(x, 5, 2)),
            "clustering",
        ),
    ],
)
def test_errors_name_the_argument(clustered, call, words):
    with pytest.raises(ValueError, match=words):
        call(clustered[0])


def test_every_index_describes_itself(clustered):
    base, _ = clustered
    for index, words in (
        (pqlib.BruteForce(D), "BruteForce(d=16)"),
        (pqlib.KMeansIndex(D, 20, 5), "n_inner=20"),
        (pqlib.MultiLevelPQ(D, 20, 5, m=4, nbits=4), "m=4, nbits=4"),
        (pqlib.CascadeIndex(D, 4), "4 lists"),
    ):
        assert words in index.describe()
        text = index.train(base).add(base).describe()
        assert words in text
        assert "2,000" in text
        for part, held in index.memory().items():
            assert not held or (part in text and f"{held:,}" in text)


def test_a_refused_add_changes_nothing(clustered):
    base, queries = clustered
    index = make(base, rerank="uint8")
    before = index.search(queries, 10)
    with pytest.raises(ValueError, match="whole numbers"):
        index.add(base + 0.5)
    assert index.ntotal == 2000
    assert index.list_sizes.sum() == 2000
    for a, b in zip(before, index.search(queries, 10), strict=True):
        assert (a == b).all()
