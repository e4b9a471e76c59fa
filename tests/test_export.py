"""Results in ann-benchmarks' layout, read back and scored as it describes."""

import dataclasses
import re

import h5py
import numpy as np
import pytest

import pqlib
from pqlib.study import export
from pqlib.study.export import export_ann_benchmarks

QUERIES = 60


@pytest.fixture(scope="module")
def run(photo_sift):
    """Arguments of an export: a search that misses some."""
    ds = photo_sift
    index = pqlib.KMeansIndex(ds.d, 100, 10).train(ds.train[:8000]).add(ds.train)
    _, ids = index.search(ds.test[:QUERIES], 10, nprobe=1)
    return {
        "algorithm": "KMeansIndex",
        "arguments": {"nprobe": np.int64(1), "n_inner": 100, "rate": -0.5},
        "ids": ids,
        "k": 10,
        "seconds": 0.3,
        "build_s": 2.5,
        "index_bytes": 4096,
    }


def read(path):
    with h5py.File(path, "r") as file:
        return dict(file.attrs), {name: part[...] for name, part in file.items()}


def scored(path, true_distances):
    """Recall of a result file: its distances up to the k-th true one and 1e-3, over k."""
    attributes, parts = read(path)
    k = int(attributes["count"])
    right = 0
    for found, listed in zip(parts["distances"], true_distances, strict=False):
        right += sum(float(d) <= float(listed[k - 1]) + 1e-3 for d in found[:k])
    return right / (k * len(parts["distances"]))


def test_layout(tmp_path, photo_sift, run):
    path = export_ann_benchmarks(tmp_path / "results", photo_sift, **run, repeats=3)
    name = "n_inner_100_nprobe_1_rate_0_5.hdf5"
    wanted = tmp_path / "results" / "photo-sift" / "10" / "KMeansIndex-batch" / name
    assert path == wanted
    attributes, parts = read(path)
    assert attributes == {
        "algo": "KMeansIndex",
        "batch_mode": True,
        "best_search_time": pytest.approx(0.3 / QUERIES),
        "build_time": 2.5,
        "candidates": 10,
        "count": 10,
        "dataset": "photo-sift",
        "distance": "euclidean",
        "expect_extra": False,
        "index_size": 4,
        "name": "KMeansIndex(nprobe=1, n_inner=100, rate=-0.5)",
        "run_count": 3,
    }
    assert attributes["batch_mode"].dtype == attributes["expect_extra"].dtype == bool
    assert {name: (part.dtype, part.shape) for name, part in parts.items()} == {
        "times": (np.float32, (QUERIES,)),
        "neighbors": (np.int32, (QUERIES, 10)),
        "distances": (np.float32, (QUERIES, 10)),
    }
    assert parts["times"] == pytest.approx(np.full(QUERIES, 0.005))
    assert (parts["neighbors"] == run["ids"]).all()
    gap = photo_sift.train[run["ids"]].astype(np.float64) - photo_sift.test[:QUERIES, None]
    assert (parts["distances"] == np.linalg.norm(gap, axis=2).astype(np.float32)).all()


@pytest.mark.parametrize("k", [1, 10])
def test_their_recall_is_ours(tmp_path, photo_sift, run, k):
    path = export_ann_benchmarks(tmp_path, photo_sift, **(run | {"k": k}))
    ours = pqlib.recall_at_k(run["ids"], photo_sift, k)
    assert scored(path, photo_sift.distances) == pytest.approx(ours, abs=1e-12)
    assert 0.1 < ours < 0.95


def test_their_recall_is_ours_by_their_slack_where_vectors_are_small(tmp_path, as_dataset, run):
    rng = np.random.default_rng(2)
    ds = as_dataset(*(rng.random((n, 3), dtype=np.float32) / 10 for n in (3000, QUERIES)))
    ids = np.array([rng.permutation(row[:20])[:10] for row in ds.neighbors])
    path = export_ann_benchmarks(tmp_path, ds, **(run | {"ids": ids}))
    ours = pqlib.recall_at_k(ids, ds, 10, epsilon=1e-3)
    assert scored(path, ds.distances) == pytest.approx(ours, abs=1e-12)
    assert ours > pqlib.recall_at_k(ids, ds, 10) + 0.05


def test_what_was_not_found_comes_last(tmp_path, photo_sift, run):
    ids = np.array([[-1, 7, -1, 9], [5, -1, 6, 8]])
    path = export_ann_benchmarks(tmp_path, photo_sift, **(run | {"ids": ids, "k": 6}))
    attributes, parts = read(path)
    assert parts["neighbors"].tolist() == [[7, 9, -1, -1, -1, -1], [5, 6, 8, -1, -1, -1]]
    assert np.isinf(parts["distances"]).tolist() == (parts["neighbors"] < 0).tolist()
    assert attributes["candidates"] == 2.5


def test_similarities_are_refused(tmp_path, photo_sift, run):
    with pytest.raises(ValueError, match="ds.metric='ip': expected 'l2'"):
        export_ann_benchmarks(tmp_path, dataclasses.replace(photo_sift, metric="ip"), **run)


def test_single_queries_and_counted_work(tmp_path, photo_sift, run):
    seconds = np.linspace(1e-4, 3e-4, QUERIES)
    given = run | {"seconds": seconds, "arguments": [100, {"nprobe": 1}]}
    path = export_ann_benchmarks(
        tmp_path, photo_sift, **given, batch=False, repeats=2, distance_computations=600
    )
    assert path.parent.name == "KMeansIndex"
    assert path.name == "100_nprobe_1.hdf5"
    attributes, parts = read(path)
    assert not attributes["batch_mode"]
    assert attributes["best_search_time"] == pytest.approx(2e-4)
    assert parts["times"] == pytest.approx(seconds)
    assert attributes["name"] == 'KMeansIndex(100, {"nprobe": 1})'
    # Its metric divides by runs and queries.
    assert attributes["dist_comps"] / (attributes["run_count"] * QUERIES) == 10


def test_names_of_data_sets(tmp_path, photo_sift, run):
    info = pqlib.datasets.REGISTRY["fashion-mnist"]
    whole = dataclasses.replace(info, n_train=photo_sift.n)
    like = dataclasses.replace(photo_sift, name="fashion-mnist", info=whole)

    def name(ds, **more):
        return export_ann_benchmarks(tmp_path, ds, **run, **more).parents[2].name

    assert name(like) == "fashion-mnist-784-euclidean"
    assert name(dataclasses.replace(like, info=info)) == "fashion-mnist-40000-of-60000"
    skipping = dataclasses.replace(like, note="1 queries left out: zero, without an angle")
    assert name(skipping) == "fashion-mnist-40000-of-40000"
    assert name(dataclasses.replace(photo_sift, info=None, name="mine")) == "mine"
    assert name(photo_sift, dataset="other") == "other"


def test_angular_distances_are_those_of_ann_benchmarks(tmp_path, run):
    rng = np.random.default_rng(1)
    base = rng.normal(size=(400, 8)).astype(np.float32)
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    cosine = (base @ queries.T).astype(np.float64).T
    cosine /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(base, axis=1)
    order = np.argsort(-cosine, axis=1)[:, :100]
    true = (1 - np.take_along_axis(cosine, order, 1)).astype(np.float32)
    source = tmp_path / "made-8-angular.hdf5"
    with h5py.File(source, "w") as file:
        for part, values in zip(
            ("train", "test", "neighbors", "distances"), (base, queries, order, true), strict=True
        ):
            file[part] = values
        file.attrs["distance"] = "angular"
    ds = pqlib.load_dataset(source)
    ids = np.array([rng.permutation(row[:14])[:10] for row in order])
    path = export_ann_benchmarks(tmp_path, ds, **(run | {"ids": ids}))
    attributes, parts = read(path)
    assert attributes["distance"] == "angular"
    wanted = 1 - np.take_along_axis(cosine, ids, 1)
    assert parts["distances"] == pytest.approx(wanted, abs=1e-6)
    theirs, ours = scored(path, true), pqlib.recall_at_k(ids, ds, 10)
    assert ours <= theirs <= ours + 0.05
    found_none = export_ann_benchmarks(tmp_path, ds, **(run | {"ids": np.array([[-1]])}))
    assert np.isinf(read(found_none)[1]["distances"]).all()


def test_whole_or_not_at_all(tmp_path, photo_sift, run, monkeypatch):
    path = export_ann_benchmarks(tmp_path, photo_sift, **run)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(export.os, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            export_ann_benchmarks(tmp_path, photo_sift, **(run | {"seconds": 9.0}))
    with monkeypatch.context() as patch:
        patch.setattr(h5py.File, "create_dataset", fail)
        with pytest.raises(OSError, match="no space"):
            export_ann_benchmarks(tmp_path, photo_sift, **(run | {"seconds": 9.0}))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    export_ann_benchmarks(tmp_path, photo_sift, **(run | {"seconds": 9.0}))
    assert read(path)[0]["best_search_time"] == pytest.approx(9 / QUERIES)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"algorithm": "a/b"}, "algorithm='a/b'"),
        ({"algorithm": ""}, "algorithm=''"),
        ({"dataset": ".."}, "dataset='..'"),
        ({"arguments": {}}, "arguments={}"),
        ({"arguments": "nprobe"}, "arguments='nprobe'"),
        ({"arguments": {"index": object()}}, "JSON"),
        ({"ids": np.zeros((2, 3))}, "ids has dtype float64"),
        ({"ids": np.array([[1, 2, 40_000]])}, "ids holds 40000"),
        ({"ids": np.array([[1, 2], [3, 3]])}, r"ids\[1\] holds 3 more than once"),
        ({"k": 0}, "k=0"),
        ({"k": 101}, "k=101"),
        ({"seconds": 0}, "seconds=0"),
        ({"seconds": np.ones(3)}, f"each of the {QUERIES} queries"),
        ({"seconds": -np.ones(QUERIES)}, "seconds="),
        ({"seconds": "fast"}, "seconds='fast'"),
        ({"batch": False}, "batch=False"),
        ({"build_s": -1.0}, "build_s=-1.0"),
        ({"build_s": np.inf}, "build_s=inf"),
        ({"index_bytes": None}, "index_bytes=None"),
        ({"repeats": 0}, "repeats=0"),
        ({"distance_computations": -1}, "distance_computations=-1"),
    ],
)
def test_errors_name_the_argument_and_leave_nothing(tmp_path, photo_sift, run, changed, words):
    with pytest.raises(ValueError, match=words if "\\" in words else re.escape(words)):
        export_ann_benchmarks(tmp_path, photo_sift, **(run | changed))
    assert list(tmp_path.iterdir()) == []
