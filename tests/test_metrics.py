"""metric="cosine" and "ip": every index against faiss.IndexFlatIP, ground truth and recall."""

import dataclasses
import functools

import faiss
import h5py
import numpy as np
import pytest

import pqlib
from pqlib import evaluation
from pqlib import quantizers as q
from pqlib.datasets import exact_neighbors
from pqlib.indexes import metric as spaces
from pqlib.indexes.routers.flat import FlatRouter

D, N, K = 12, 900, 10
METRICS = ("cosine", "ip")
ALL = dict(nprobe=15, rerank_factor=N)
QUICK = dict(beam=1, encode_beam=1, progressive=False)
CODECS = {
    "PQ": lambda: q.ProductQuantizer(D, 4, 4),
    "PRQ": lambda: q.ProductResidualQuantizer(D, 4, 4, splits=2, **QUICK),
    "RVQ": lambda: q.ResidualQuantizer(D, 5, 4, **QUICK),
    "RaBitQ": lambda: q.RaBitQuantizer(D),
}


def multilevel(**how):
    how = {"codebooks": "shared", **how}
    return lambda m: pqlib.MultiLevelPQ(D, 15, 3, rerank="float32", metric=m, **how)


EXACT = {
    "brute force": (lambda m: pqlib.BruteForce(D, metric=m), {}),
    "k-means": (lambda m: pqlib.KMeansIndex(D, 15, 3, metric=m), dict(nprobe=15)),
    "k-means, routed flat": (
        lambda m: pqlib.KMeansIndex(D, 15, 3, router=FlatRouter(), metric=m),
        dict(nprobe=15),
    ),
    "shared": (multilevel(m=4, nbits=4), ALL),
    "per cluster": (multilevel(m=3, nbits=4, codebooks="per-cluster"), ALL),
    **{f"codec {name}": (multilevel(codec=make()), ALL) for name, make in CODECS.items()},
    "codes of vectors": (multilevel(codec=q.ScalarQuantizer(D, 8), code_of="vectors"), ALL),
    "cascade": (
        lambda m: pqlib.CascadeIndex(D, n_lists=15, rerank="float32", metric=m),
        dict(nprobe=15, candidates=N),
    ),
    "cascade, not rotated": (
        lambda m: pqlib.CascadeIndex(D, 15, rotation=None, rerank="float32", metric=m),
        dict(nprobe=15, candidates=N),
    ),
    "graph": (
        lambda m: pqlib.GraphIndex(D, 16, rerank="float32", metric=m),
        dict(ef=N, candidates=N),
    ),
}


# One of each class; what they share needs no more.
KINDS = {name: EXACT[name] for name in ("brute force", "k-means", "shared", "graph", "cascade")}


def drawn(seed=0):
    """Base and queries: norms over a factor of 20, zeros, duplicates, negative products only."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(N, D)) * np.exp(rng.normal(0, 0.6, (N, 1))) * 0.2
    base[:, 0] = np.abs(base[:, 0]) + 0.01
    base[[3, 400]] = 0
    base[500:520] = base[100:120]
    base[520:525] = 2 * base[100:105]  # the same angle
    xq = rng.normal(size=(30, D)) * np.exp(rng.normal(0, 1, (30, 1)))
    xq[4] = 0
    xq[5] = 0
    xq[5, 0] = -3  # all products are below zero, or zero with zero vectors
    return base.astype(np.float32), xq.astype(np.float32)


@functools.cache
def built(name, metric):
    """An index of the base; nothing may change it."""
    base, _ = drawn()
    return EXACT[name][0](metric).train(base).add(base)


def similarities(base, xq, metric):
    """All of them in float64, (nq, n)."""
    base, xq = base.astype(np.float64), xq.astype(np.float64)
    if metric == "cosine":
        norms = [np.linalg.norm(x, axis=1, keepdims=True) for x in (base, xq)]
        base, xq = (x / np.where(n, n, 1) for x, n in zip((base, xq), norms, strict=True))
    return xq @ base.T


def by_faiss(base, xq, metric, k=K):
    """Values and ids of ``IndexFlatIP``, over normalized vectors for cosine."""
    base, xq = base.copy(), xq.copy()
    if metric == "cosine":
        faiss.normalize_L2(base)
        faiss.normalize_L2(xq)
    flat = faiss.IndexFlatIP(base.shape[1])
    flat.add(base)
    return flat.search(xq, k)


def check(found, base, xq, metric):
    """Values are faiss's to 1e-5, ids have these values: they are faiss's up to ties."""
    values, ids = found
    expected, theirs = by_faiss(base, xq, metric, values.shape[1])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    assert (np.diff(values, axis=1) <= 0).all()
    exact = similarities(base, xq, metric)
    np.testing.assert_allclose(np.take_along_axis(exact, ids, 1), expected, rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in ids.tolist())
    # Where the k-th stands clear of its neighbours, the ids are the same ones.
    ranked = -np.sort(-exact, axis=1)
    clear = ranked[:, values.shape[1] - 1] - ranked[:, values.shape[1]] > 1e-4
    assert clear.sum() > 10
    assert (np.sort(ids, axis=1) == np.sort(theirs, axis=1))[clear].all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", EXACT)
def test_answers_are_those_of_faiss(name, metric, tmp_path):
    base, xq = drawn()
    before = base.copy(), xq.copy()
    how, index = EXACT[name][1], built(name, metric)
    found = index.search(xq, K, **how)
    check(found, base, xq, metric)
    assert (base == before[0]).all()
    assert (xq == before[1]).all()
    for i in (0, 4, 5, 29):
        check_one = index.search(xq[i : i + 1], K, **how)[0]
        np.testing.assert_allclose(check_one[0], found[0][i], rtol=1e-5, atol=1e-5)
    assert f"metric={metric!r}" in index.describe() or f"by {metric}" in index.describe()
    index.save(tmp_path / "index")
    for mmap in (False, True):
        loaded = pqlib.load_index(tmp_path / "index", mmap=mmap)
        assert (loaded.metric, loaded.d) == (metric, D)
        for a, b in zip(loaded.search(xq, K, **how), found, strict=True):
            assert np.array_equal(a, b)
        assert loaded.describe() == index.describe()
    # More of the same, where they fit; and in little memory.
    loaded = pqlib.load_index(tmp_path / "index").add(base[:50])
    assert loaded.ntotal == N + 50
    with pytest.raises(ValueError, match="expected at least") as refused:
        index.search(xq, K, **how, max_memory=1)
    least = int(str(refused.value).split("at least ")[1].split(" ")[0].replace(",", ""))
    values = index.search(xq, K, **how, max_memory=least + 2000)[0]
    np.testing.assert_allclose(values, found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_missing_comes_last(metric):
    base, xq = drawn()
    for make in (EXACT["k-means"][0], EXACT["shared"][0], EXACT["per cluster"][0],
                 EXACT["cascade"][0]):  # fmt: skip
        index = make(metric).train(base).add(base[:40])
        values, ids = index.search(xq, 40, nprobe=1)
        assert (ids[:, -1] == -1).any()
        assert (np.isneginf(values) == (ids == -1)).all()
        assert not np.isnan(values).any()


@pytest.mark.parametrize("metric", METRICS)
def test_the_rule_for_zero_vectors(metric):
    base, xq = drawn()
    for make, how in KINDS.values():
        index = make(metric).train(base).add(base[:60])
        values, ids = index.search(xq[4:6], 60, **how | ({"candidates": 60} if "candidates" in how
                                                          else {}))  # fmt: skip
        np.testing.assert_allclose(values[0], 0, atol=1e-6)  # a zero query
        place = ids[1].tolist().index(3)  # a zero vector
        assert values[1, place] == pytest.approx(0, abs=1e-5)
        assert place == 0  # all others have negative products with this query


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["shared", "per cluster", *(f"codec {c}" for c in CODECS)])
def test_codes_alone(name, metric):
    """Without re-ranking, values are those of the decoded vectors, up to their norms."""
    base, xq = drawn()
    index = built(name, metric)
    values, ids = index.search(xq, K, nprobe=15, rerank=False)
    assert (np.diff(values, axis=1) <= 0).all()
    homes = index.clustering.assign(index.space.base(base))
    codes = index.encode(base, homes)
    assert codes.shape == (N, index.code_bytes)
    decoded = index.decode(codes, homes)
    assert decoded.shape == base.shape
    np.testing.assert_allclose(index.reconstruct([7, 900 - 1]), decoded[[7, 899]], atol=1e-5)
    truth = base if metric == "ip" else spaces.unit(base)
    assert ((decoded - truth) ** 2).sum() < 0.6 * ((truth - truth.mean(axis=0)) ** 2).sum()
    exact = similarities(base, xq, metric)
    wanted = -np.sort(-exact, axis=1)[:, :K]
    got = np.take_along_axis(exact, ids, 1)
    assert got[:4].sum() > 0.5 * wanted[:4].sum()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e3, 1e16])
def test_any_scale(metric, scale):
    base, xq = drawn()
    base = (base.astype(np.float64) * scale).astype(np.float32)
    for name in ("brute force", "k-means", "cascade"):
        make, how = EXACT[name]
        if name != "brute force" and metric == "ip" and scale == 1e-25:
            continue  # squared distances of such vectors are below what float32 holds
        values, _ = make(metric).train(base).add(base).search(xq, K, **how)
        exact = -np.sort(-similarities(base, xq, metric), axis=1)[:, :K]
        reach = scale * 20 if metric == "ip" else 1
        np.testing.assert_allclose(values, exact, rtol=1e-5, atol=1e-5 * reach)


def test_norms_above_those_trained_with():
    base, xq = drawn()
    longest = float(np.linalg.norm(base.astype(np.float64), axis=1).max())
    for name, (make, how) in KINDS.items():
        index = make("ip").train(base).add(base)
        beyond = np.zeros((3, D), np.float32)
        beyond[1, 2] = longest * spaces.SLACK * 1.0001
        if name == "brute force":
            index.add(beyond)
            continue
        with pytest.raises(ValueError, match=r"xb\[1\] has norm .*Train a new index with"):
            index.add(beyond)
        assert index.ntotal == N
        beyond[1, 2] = longest * spaces.SLACK * 0.9999
        index.add(beyond)
        check(index.search(xq, K, **how), np.concatenate([base, beyond]), xq, "ip")


@pytest.mark.parametrize("metric", METRICS)
def test_only_zero_vectors(metric):
    zeros, xq = np.zeros((40, D), np.float32), drawn()[1]
    index = pqlib.KMeansIndex(D, 1, 1, metric=metric).train(zeros).add(zeros)
    values, _ = index.search(xq, 5)
    np.testing.assert_allclose(values, 0, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_refused(metric):
    base, xq = drawn()
    for make in (
        lambda: pqlib.MultiLevelPQ(D, rerank="uint8", metric=metric),
        lambda: pqlib.CascadeIndex(D, metric=metric),
    ):
        with pytest.raises(ValueError, match=r"rerank='uint8' with metric=.*'float32'"):
            make()
    with pytest.raises(ValueError, match="metric='dot': expected one of"):
        pqlib.KMeansIndex(D, metric="dot")
    index = built("shared", metric)
    with pytest.raises(ValueError, match="expected 'l2'"):
        index.to_faiss()
    with pytest.raises(ValueError, match="dimension 13: expected d=12"):
        index.search(np.zeros((1, 13), np.float32))
    with pytest.raises(ValueError, match=r"m=5: expected a divisor of d=12"):
        pqlib.MultiLevelPQ(D, m=5, metric=metric)
    with pytest.raises(ValueError, match="codec has d=13: expected d=12"):
        pqlib.MultiLevelPQ(D, codec=q.RaBitQuantizer(13), metric=metric)
    bad = xq.copy()
    bad[2, 3] = np.nan
    for name, (_, how) in KINDS.items():
        with pytest.raises(ValueError, match=r"xq\[2, 3\] is nan"):
            built(name, metric).search(bad, K, **how)


def test_files_of_l2_name_no_metric(tmp_path):
    base, _ = drawn()
    index = pqlib.KMeansIndex(D, 15, 3).train(base).add(base)
    assert "metric" not in index._parameters()
    index.save(tmp_path / "index")
    assert pqlib.load_index(tmp_path / "index").metric == "l2"


def test_a_hostile_largest_norm(tmp_path):
    base, _ = drawn()
    index = pqlib.KMeansIndex(D, 15, 3, metric="ip").train(base).add(base)
    for wrong in (np.nan, -1.0, 0.0, np.inf, 1e300):
        index.space.largest = wrong
        index.save(tmp_path / "index")
        with pytest.raises(ValueError, match="its largest norm is"):
            pqlib.load_index(tmp_path / "index")


@pytest.mark.parametrize("metric", METRICS)
def test_copy_false_leaves_the_array_alone(metric):
    base, xq = drawn()
    base = spaces.unit(base) * 3
    before = base.copy()
    for index in (
        pqlib.BruteForce(D, copy=False, metric=metric),
        pqlib.MultiLevelPQ(D, 15, 3, nbits=4, rerank="float32", copy=False, metric=metric),
    ):
        index.train(base).add(base).add(base[:9])
        assert index.search(xq, K)[0].shape == (30, K)
        assert (base == before).all()


@pytest.mark.parametrize("metric", METRICS)
def test_counts_ids_profile_and_memory(metric):
    base, xq = drawn()
    for name, (make, how) in KINDS.items():
        index = make(metric).train(base).add(base, ids=1000 + np.arange(N))
        assert index.search(xq, K, **how)[1].min() >= 1000
        probes = {key: value for key, value in how.items() if key != "rerank_factor"}
        cost = index.search_cost(xq, K, **probes)
        assert all(counts.shape == (30,) for counts in cost.values()), name
        assert index.memory_bytes > 0
    seconds = index.profile(xq, K, repeats=1)
    assert min(seconds.values()) >= 0
    two = built("k-means", metric)
    other = pqlib.two_level_kmeans(two.space.base(base), 15, 5, seed=0)
    assert other.d == two.width
    # Memory counts what is held: the added components too.
    assert two.memory()["vectors"] == 4 * N * (D + 1)


# Ground truth and recall ---------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", [0, 1])
def test_ground_truth_in_float64(metric, seed):
    base, xq = drawn(seed)
    neighbors, found = exact_neighbors(base, xq, 50, False, metric)
    exact = similarities(base, xq, metric)
    np.testing.assert_allclose(found, -np.sort(-exact, axis=1)[:, :50], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(np.take_along_axis(exact, neighbors, 1), found, rtol=1e-6, atol=1e-7)
    # Ties by id: the zero query, and duplicates.
    assert neighbors[4].tolist() == list(range(50))
    for row in neighbors.tolist():
        for twin in range(100, 120):
            if twin in row and twin + 400 in row:
                assert row.index(twin) < row.index(twin + 400)
    ds = pqlib.Dataset.of(base, xq, metric)
    assert (ds.neighbors[:, :50] == neighbors).all()
    assert {"cosine": "cosine similarity", "ip": "inner product"}[metric] in ds.describe()


def plain_recall(ids, base, xq, metric, k):
    exact = similarities(base, xq, metric)
    total = 0.0
    for row, values in zip(ids, exact, strict=True):
        kth = np.sort(values)[-k]
        good = {i for i in row[:k].tolist() if i >= 0 and values[i] >= kth - 1e-9}
        total += len(good) / k
    return total / len(ids)


@pytest.mark.parametrize("metric", METRICS)
def test_recall_against_its_definition(metric):
    base, xq = drawn()
    ds = pqlib.Dataset.of(base, xq, metric)
    rng = np.random.default_rng(0)
    ids = np.array([rng.permutation(row[:20])[:K] for row in ds.neighbors])
    ids[0, :3] = -1
    ids[1, 1] = ids[1, 0]
    ids[5] = rng.choice(N, K, replace=False)
    for k in (1, 5, K):
        ours = pqlib.recall_at_k(ids, ds, k)
        assert ours == pytest.approx(plain_recall(ids, base, xq, metric, k), abs=1e-12)
        assert k == 1 or 0.05 < ours < 0.95
    first = evaluation.query_recall(ids, ds, 1)
    assert pqlib.one_recall_at(ids, ds, K) >= first.mean()
    # The order of similarities is the other way round: the least similar are wrong.
    worst = np.argsort(similarities(base, xq, metric), axis=1)[:, :K]
    assert evaluation.query_recall(worst, ds, K)[[0, 1, 2, 3]].max() == 0
    # The zero query has all vectors for neighbours.
    anyone = rng.choice(N, (30, K))
    anyone[4] = np.arange(890, 900)
    assert evaluation.query_recall(anyone, ds, K)[4] == 1
    values = evaluation.returned_distances(ids, ds)
    assert np.isneginf(values[0, :3]).all()
    exact = np.take_along_axis(similarities(base, xq, metric), ids, 1)
    np.testing.assert_allclose(values[1:], exact[1:], rtol=1e-6, atol=1e-7)
    for refused in (
        lambda: evaluation.relative_distance_error(ids, ds, K),
        lambda: evaluation.relative_contrast(ds),
    ):
        with pytest.raises(ValueError, match="expected 'l2'"):
            refused()


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_has_full_recall(metric):
    base, xq = drawn(3)
    ds = pqlib.Dataset.of(base, xq, metric)
    for name in ("brute force", "k-means", "cascade"):
        make, how = EXACT[name]
        ids = make(metric).train(base).add(base).search(xq, K, **how)[1]
        assert pqlib.recall_at_k(ids, ds, K) == 1


def write(path, base, xq, distance, truth=None):
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = distance
        file["train"], file["test"] = base, xq
        if truth is not None:
            file["neighbors"], file["distances"] = truth
    return path


def test_files(tmp_path, monkeypatch):
    monkeypatch.setenv("PQLIB_CACHE", str(tmp_path / "cache"))
    base, xq = drawn()
    keep, asked = np.linalg.norm(base, axis=1) > 0, np.linalg.norm(xq, axis=1) > 0
    full, queries = base[keep], xq[asked]
    neighbors, cosines = exact_neighbors(full, queries, 100, False, "cosine")
    angular = (neighbors, 1 - cosines)
    path = write(tmp_path / "a.hdf5", full, queries, "angular", angular)
    with monkeypatch.context() as patch:
        patch.setattr(pqlib.datasets.truth, "cached_neighbors", None)  # its neighbours serve
        ds = pqlib.load_dataset(path, metric="cosine")
    assert ds.metric == "cosine"
    assert (ds.train == full).all()
    np.testing.assert_allclose(ds.distances, cosines, atol=1e-6)
    for metric in ("ip", "l2"):
        ds = pqlib.load_dataset(path, metric=metric)
        assert (ds.train == full).all()
        assert (ds.neighbors == exact_neighbors(full, queries, 100, False, metric)[0]).all()
        assert "angular" in ds.note
        assert "computed here" in ds.note
    assert pqlib.load_dataset(path).metric == "l2"
    assert pqlib.load_dataset(path).note.startswith("angular: all vectors scaled")
    # Zero vectors are kept, and a cached truth is of its metric.
    path = write(tmp_path / "zeros.hdf5", base, xq, "euclidean")
    for _ in range(2):
        for metric in ("cosine", "ip", "l2"):
            ds = pqlib.load_dataset(path, metric=metric)
            assert ds.n == N
            assert np.array_equal(ds.neighbors, exact_neighbors(base, xq, 100, False, metric)[0])
    assert len(list((tmp_path / "cache" / "ground-truth").glob("*.neighbors"))) == 5
    path = write(tmp_path / "wrong.hdf5", full, queries, "angular", (neighbors[::-1], angular[1]))
    with pytest.raises(ValueError, match=r"not that of its vectors.*cosine similarity"):
        pqlib.load_dataset(path, metric="cosine")
    with pytest.raises(ValueError, match="metric='dot': expected one of"):
        pqlib.load_dataset(path, metric="dot")
    path = write(tmp_path / "dot.hdf5", full, queries, "dot", exact_neighbors(
        full, queries, 100, False, "ip"))  # fmt: skip
    assert pqlib.load_dataset(path, metric="ip").note == ""
    with pytest.raises(ValueError, match="metric='ip'"):
        pqlib.load_dataset(path)


def test_a_data_set_of_arrays():
    base, xq = drawn()
    ds = pqlib.Dataset.of(base, xq)
    assert (ds.metric, ds.name, ds.n, ds.nq, ds.d) == ("l2", "arrays", N, 30, D)
    assert (ds.neighbors == exact_neighbors(base, xq, 100, False)[0]).all()
    assert dataclasses.replace(ds, name="x").describe().startswith("x\n")
    with pytest.raises(ValueError, match="test has vectors of dimension 11"):
        pqlib.Dataset.of(base, xq[:, :11])
