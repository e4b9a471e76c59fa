import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import faiss
import h5py
import numpy as np
import pytest
from conftest import file_or_skip
from oracle import exact_neighbors

import pqlib
from pqlib.datasets import REGISTRY, files, locate, registry, truth

RNG = np.random.default_rng(5)
BASE = RNG.integers(0, 256, (400, 12)).astype(np.float32)
QUERIES = RNG.integers(0, 256, (30, 12)).astype(np.float32)
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(registry.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(registry.DATA_VARIABLE, raising=False)


def write(path, base=BASE, queries=QUERIES, dtype="f4", distance="euclidean", **parts):
    neighbors, distances = exact_neighbors(base, queries, 100)
    content = {
        # HDF5 converts what a test put in as float64 itself.
        "train": base.astype(dtype),
        "test": queries.astype(dtype),
        "neighbors": neighbors.astype("i4"),
        "distances": distances.astype("f4"),
    } | parts
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if values is not None:
                file[name] = values
        file.attrs["distance"] = distance
    return path


def same_truth(ds, base, queries):
    neighbors, distances = exact_neighbors(base, queries, min(100, len(base)))
    assert (ds.neighbors == neighbors).all()
    assert ds.distances == pytest.approx(distances, rel=1e-6)


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "f2", "i2"])
def test_hdf5_of_any_number_type(tmp_path, dtype):
    ds = pqlib.load_dataset(write(tmp_path / "mine-12-euclidean.hdf5", dtype=dtype))
    assert ds.name == "mine"
    assert ds.train.dtype == ds.test.dtype == np.float32
    assert (ds.train == BASE).all()
    assert ds.train.flags.c_contiguous
    assert ds.whole_numbers
    assert (ds.n, ds.d, ds.nq) == (400, 12, 30)
    assert ds.metric == "l2"
    assert ds.note == ""
    same_truth(ds, BASE, QUERIES)


def test_subset_reads_its_rows_only_and_has_its_own_truth(tmp_path, monkeypatch):
    path = write(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file["train"][399] = np.nan
    ds = pqlib.load_dataset(path, n_train=200, n_test=7)
    assert (ds.train == BASE[:200]).all()
    assert (ds.test == QUERIES[:7]).all()
    same_truth(ds, BASE[:200], QUERIES[:7])
    assert "computed here" in ds.note
    # Once only: the second time it comes from the cache.
    monkeypatch.setattr(truth, "exact_neighbors", None)
    again = pqlib.load_dataset(path, n_train=200, n_test=7)
    assert (again.neighbors == ds.neighbors).all()


def test_broken_truth_cache_is_computed_anew(tmp_path):
    path = write(tmp_path / "a.hdf5")
    pqlib.load_dataset(path, n_train=200)
    (kept,) = (tmp_path / "cache" / "ground-truth").iterdir()
    for damage in (b"", b"PK\x03\x04 nonsense", kept.read_bytes()[:500]):
        kept.write_bytes(damage)
        same_truth(pqlib.load_dataset(path, n_train=200), BASE[:200], QUERIES)


def test_fewer_queries_keep_the_files_truth(tmp_path):
    ds = pqlib.load_dataset(write(tmp_path / "a.hdf5"), n_test=5)
    assert "computed" not in ds.note
    same_truth(ds, BASE, QUERIES[:5])


def test_small_base_has_fewer_neighbours(tmp_path):
    ds = pqlib.load_dataset(write(tmp_path / "a.hdf5"), n_train=40)
    assert ds.neighbors.shape == (30, 40)
    same_truth(ds, BASE[:40], QUERIES)


def test_file_without_truth_gets_one(tmp_path):
    ds = pqlib.load_dataset(write(tmp_path / "a.hdf5", neighbors=None, distances=None))
    same_truth(ds, BASE, QUERIES)
    assert "computed here" in ds.note


def test_angular_sets_are_normalized_and_say_so(tmp_path):
    base, queries = BASE + 1, QUERIES + 1
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base, queries)]
    neighbors, distances = exact_neighbors(*unit, 100)
    path = write(
        tmp_path / "a.hdf5", base, queries, distance="angular",
        neighbors=neighbors, distances=(distances**2 / 2).astype("f4"),
    )  # fmt: skip
    ds = pqlib.load_dataset(path)
    assert np.linalg.norm(ds.train, axis=1) == pytest.approx(np.ones(400), abs=1e-6)
    assert ds.distances == pytest.approx(distances, abs=1e-5)
    assert (ds.neighbors == neighbors).mean() > 0.99
    assert ds.metric == "l2"
    assert "angular" in ds.note
    assert "angular" in ds.describe()


@pytest.mark.parametrize("listed", [False, True])
def test_zero_vectors_of_angular_sets_are_left_out(tmp_path, listed, monkeypatch):
    # nytimes-256-angular holds some hundred; its own truth was made with their NaN angles.
    monkeypatch.setattr(files, "BLOCK_BYTES", 8 * 12 * 7)
    base, queries = BASE + 1, QUERIES + 1
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base, queries)]
    places = [0, 3, 3, 200, 400]
    old_rows = np.flatnonzero(np.insert(np.ones(400), places, 0))
    neighbors, distances = exact_neighbors(*unit, 100)
    neighbors = np.insert(old_rows[neighbors], 4, 7, axis=0)
    distances = np.insert(distances**2 / 2, 4, np.nan, axis=0)
    if listed:
        neighbors[9, 99] = 0
    path = write(
        tmp_path / "a.hdf5", np.insert(base, places, 0, axis=0), np.insert(queries, 4, 0, axis=0),
        distance="angular", neighbors=neighbors, distances=distances,
    )  # fmt: skip
    ds = pqlib.load_dataset(path)
    assert ds.train == pytest.approx(unit[0], abs=1e-6)
    assert ds.test == pytest.approx(unit[1], abs=1e-6)
    assert ds.train.flags.c_contiguous
    same = exact_neighbors(ds.train, ds.test, 100)
    assert (ds.neighbors == same[0]).all()
    assert ds.distances == pytest.approx(same[1], abs=1e-6)
    assert "5 base vectors left out" in ds.note
    assert "1 queries left out" in ds.note
    assert ("computed here" in ds.note) == listed


def test_wrong_truth_of_angular_sets_is_found(tmp_path):
    path = write(
        tmp_path / "a.hdf5", BASE + 1, QUERIES + 1,
        distance="angular", neighbors=np.tile(np.arange(100), (30, 1)),
    )  # fmt: skip
    with pytest.raises(ValueError, match="ground truth is not that of its vectors"):
        pqlib.load_dataset(path)


def test_registered_files_keep_their_names_as_paths(tmp_path):
    for name in ("glove-25", "glove-50"):
        path = write(tmp_path / REGISTRY[name].file, BASE + 1, QUERIES + 1, neighbors=None,
                     distances=None, distance="angular")  # fmt: skip
        ds = pqlib.load_dataset(path)
        assert ds.name == name
        assert (ds.title, ds.licence) == (REGISTRY[name].title, REGISTRY[name].licence)


def vecs(x, width):
    head = np.full((len(x), 1), x.shape[1], "<i4").view("u1")
    return np.hstack([head, x.astype(width).view("u1").reshape(len(x), -1)]).tobytes()


def binary(x, width):
    return np.array(x.shape, "<u4").tobytes() + x.astype(width).tobytes()


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        (".fvecs", lambda x: vecs(x, "<f4")),
        (".bvecs", lambda x: vecs(x, "u1")),
        (".fbin", lambda x: binary(x, "<f4")),
        (".u8bin", lambda x: binary(x, "u1")),
    ],
)
def test_plain_formats(tmp_path, ending, pack):
    (tmp_path / f"my_base{ending}").write_bytes(pack(BASE))
    (tmp_path / f"my_query{ending}").write_bytes(pack(QUERIES))
    ds = pqlib.load_dataset(tmp_path / f"my_base{ending}")
    assert (ds.train == BASE).all()
    assert (ds.test == QUERIES).all()
    assert f"my_query{ending}" in ds.note
    same_truth(ds, BASE, QUERIES)
    for damage in (pack(BASE)[:-3], b"\xff" * 50, b"", b"\0" * 40):
        (tmp_path / f"bad{ending}").write_bytes(damage)
        with pytest.raises(ValueError, match=f"bad{ending}"):
            pqlib.load_dataset(tmp_path / f"bad{ending}")


def test_npy_holds_out_queries(tmp_path):
    np.save(tmp_path / "all.npy", BASE)
    ds = pqlib.load_dataset(tmp_path / "all.npy", n_test=25)
    assert (ds.n, ds.nq) == (375, 25)
    assert "held out" in ds.note
    rows = {row.tobytes() for row in ds.train}
    assert not rows & {row.tobytes() for row in ds.test}
    assert rows | {row.tobytes() for row in ds.test} == {row.tobytes() for row in BASE}
    same_truth(ds, ds.train, ds.test)
    whole = pqlib.load_dataset(tmp_path / "all.npy")
    assert whole.nq == 40
    # Rows past n_train are not looked at.
    (last,) = np.flatnonzero((whole.train[-1] == BASE).all(axis=1))
    damaged = BASE.copy()
    damaged[last, 1] = np.nan
    np.save(tmp_path / "all.npy", damaged)
    assert (pqlib.load_dataset(tmp_path / "all.npy", n_train=359).train == whole.train[:-1]).all()
    with pytest.raises(ValueError, match=f"vector {last} holds NaN"):
        pqlib.load_dataset(tmp_path / "all.npy")
    for wrong in (0, 400, False):
        with pytest.raises(ValueError, match="n_test"):
            pqlib.load_dataset(tmp_path / "all.npy", n_test=wrong)
    with pytest.raises(ValueError, match=r"n_train=361.*1\.\.360"):
        pqlib.load_dataset(tmp_path / "all.npy", n_train=361)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"objects\.npy"):
        pqlib.load_dataset(tmp_path / "objects.npy")


def test_holding_out_takes_no_second_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 1 << 16)
    np.save(tmp_path / "all.npy", np.ones((20_000, 64), np.float32))
    tracemalloc.start()
    content = files.open_plain(tmp_path / "all.npy", None, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * (content.train.nbytes + content.test.nbytes)


def test_vecs_of_unlike_dimensions(tmp_path):
    damaged = bytearray(vecs(BASE, "<f4"))
    damaged[52 * 300 : 52 * 300 + 4] = b"\x05\0\0\0"
    (tmp_path / "a_base.fvecs").write_bytes(damaged)
    (tmp_path / "a_query.fvecs").write_bytes(vecs(QUERIES, "<f4"))
    assert (pqlib.load_dataset(tmp_path / "a_base.fvecs", n_train=300).train == BASE[:300]).all()
    with pytest.raises(ValueError, match=r"a_base.*not all vectors have dimension 12"):
        pqlib.load_dataset(tmp_path / "a_base.fvecs")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"train": None}, "no 'train'"),
        ({"distances": None}, "only one of"),
        ({"train": BASE[:, :5]}, "dimension 5"),
        ({"train": BASE[:0]}, "empty"),
        ({"train": BASE[0]}, "no matrix"),
        ({"neighbors": np.zeros((30, 99), int)}, "neighbors"),
        ({"neighbors": np.full((30, 100), 400)}, "vector 400 of 400"),
        ({"neighbors": np.full((30, 100), -1)}, "vector -1 of 400"),
        ({"neighbors": np.zeros((30, 100), int)}, "ground truth is not that of its vectors"),
        ({"distances": np.full((30, 100), np.nan)}, "NaN"),
        ({"distances": np.tile(np.arange(100.0)[::-1], (30, 1))}, "do not ascend"),
        ({"distances": 1.001 * exact_neighbors(BASE, QUERIES, 100)[1]}, "but it says at"),
        ({"train": np.where(BASE[3, 2] == BASE, np.nan, BASE)}, "NaN or infinity"),
        ({"train": np.where(BASE[3, 2] == BASE, np.float64(1e300), BASE.astype("f8"))}, "infinity"),
        ({"distance": "hamming"}, "hamming"),
    ],
)
def test_damaged_files(tmp_path, parts, words):
    path = write(tmp_path / "bad.hdf5", **parts)
    with pytest.raises(ValueError, match=words) as problem:
        pqlib.load_dataset(path)
    assert "bad.hdf5" in str(problem.value)


def test_links_out_of_the_file_are_refused(tmp_path):
    write(tmp_path / "other.hdf5")
    path = write(tmp_path / "bad.hdf5", train=None)
    with h5py.File(path, "a") as file:
        file["train"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "train")
    with pytest.raises(ValueError, match="link out of the file"):
        pqlib.load_dataset(path)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("fashion-mnits", ValueError, "Did you mean fashion-mnist"),
        ("zzz", ValueError, "photo-sift"),
        ("nowhere.hdf5", FileNotFoundError, r"nowhere\.hdf5"),
        ("nowhere/at/all", FileNotFoundError, "nowhere/at/all"),
        (".", FileNotFoundError, "a folder"),
        ("", ValueError, "dataset=''.*photo-sift"),
        (None, ValueError, "dataset=None"),
        (5, ValueError, "dataset=5"),
        ("~nobody-of-that-name/x.hdf5", FileNotFoundError, "home folder"),
    ],
)
def test_wrong_names(name, error, words):
    with pytest.raises(error, match=words):
        pqlib.load_dataset(name)


def test_a_name_stays_one_beside_a_folder_called_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo-sift").mkdir()
    assert pqlib.load_dataset("photo-sift", n_train=100, n_test=3).name == "photo-sift"


def test_unknown_ending(tmp_path):
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"\.csv.*\.hdf5"):
        pqlib.load_dataset(tmp_path / "x.csv")
    (tmp_path / "x.hdf5").write_text("1,2")
    with pytest.raises(ValueError, match="cannot be opened"):
        pqlib.load_dataset(tmp_path / "x.hdf5")


@pytest.mark.parametrize("wrong", [0, -1, 40_001, 1.5, True, "7"])
def test_wrong_numbers(wrong):
    with pytest.raises(ValueError, match="n_train"):
        pqlib.load_dataset("photo-sift", n_train=wrong)
    with pytest.raises(ValueError, match="n_test"):
        pqlib.load_dataset("photo-sift", n_test=wrong)


def test_where_files_are_looked_for(tmp_path, monkeypatch):
    assert locate("sift") is None
    info = REGISTRY["sift"]
    assert locate("photo-sift").is_file()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / info.file).write_bytes(b"c")
    assert locate("sift-128-euclidean") == tmp_path / "cache" / info.file
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / info.file).write_bytes(b"d")
    folders = os.pathsep.join(str(tmp_path / n) for n in ("empty", "full"))
    monkeypatch.setenv(registry.DATA_VARIABLE, folders)
    assert locate("sift") == tmp_path / "full" / info.file
    monkeypatch.setenv(registry.DATA_VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="PQLIB_DATA_DIR"):
        locate("sift")


def test_registry_agrees_with_itself(photo_sift):
    for info in REGISTRY.values():
        assert all(registry.lookup(alias) is info for alias in info.aliases)
        assert info.embedded or info.file.endswith(f"-{info.dimension}-{info.metric}.hdf5")
    assert {"photo-sift", "fashion-mnist", "sift", "gist"} <= set(REGISTRY)
    info = REGISTRY["photo-sift"]
    assert photo_sift.train.shape == (info.n_train, info.dimension)
    assert photo_sift.test.shape == (info.n_test, info.dimension)
    assert "credited" in photo_sift.describe()


def test_exact_neighbours_over_blocks_with_ties(monkeypatch):
    base = np.repeat(BASE[:50], 8, axis=0)
    monkeypatch.setattr(truth, "BASE_BLOCK", 37 * 4 * 12)
    neighbors, distances = pqlib.datasets.exact_neighbors(base, QUERIES, 20)
    expected, exact = exact_neighbors(base, QUERIES, 20)
    assert (neighbors == expected).all()
    assert distances == pytest.approx(exact, rel=1e-6)


def test_vectors_far_from_the_origin():
    # Large squares swallow small distances where faiss expands (q - x)^2, as it does from some
    # number of queries on.
    rng = np.random.default_rng(3)
    base, queries = ((rng.random((n, 128)) + 10_000).astype(np.float32) for n in (1000, 60))
    threshold = faiss.cvar.distance_compute_blas_threshold
    try:
        faiss.cvar.distance_compute_blas_threshold = 0
        neighbors, distances = pqlib.datasets.exact_neighbors(base, queries, 100)
        assert faiss.cvar.distance_compute_blas_threshold == 0
        plain = faiss.knn(queries, base, 100)[1]
    finally:
        faiss.cvar.distance_compute_blas_threshold = threshold
    expected, exact = exact_neighbors(base, queries, 100)
    assert (neighbors == expected).all()
    assert distances == pytest.approx(exact, rel=1e-6)
    assert (plain == expected).mean() < 0.5, "the case is one in which the other way fails"


@pytest.mark.parametrize("error", [1e-3, 0.3])
def test_truth_computed_in_float16(tmp_path, error):
    base, queries = ((x / 256).astype("f2").astype("f4") for x in (BASE, QUERIES))
    about = base + np.random.default_rng(8).normal(scale=error, size=base.shape)
    neighbors, distances = exact_neighbors(about, queries, 100)
    path = write(tmp_path / "a.hdf5", base, queries, "f2", neighbors=neighbors, distances=distances)
    if error > 0.1:
        with pytest.raises(ValueError, match="ground truth is not that of its vectors"):
            pqlib.load_dataset(path)
        return
    ds = pqlib.load_dataset(path)
    assert "float16 only" in ds.note
    same_truth(ds, base, queries)
    with h5py.File(path, "a") as file:
        for part in ("train", "test"):
            values = file[part][...].astype("f4")
            del file[part]
            file[part] = values
    with pytest.raises(ValueError, match="ground truth is not that of its vectors"):
        pqlib.load_dataset(path)


def test_wrong_truth_far_from_the_origin_is_found(tmp_path):
    base, queries = (x / 255 + 50 for x in (BASE, QUERIES))
    with pytest.raises(ValueError, match="ground truth is not that of its vectors"):
        pqlib.load_dataset(
            write(tmp_path / "a.hdf5", base, queries, neighbors=np.tile(np.arange(100), (30, 1)))
        )
    assert pqlib.load_dataset(write(tmp_path / "b.hdf5", base, queries)).note == ""


def test_fingerprint_tells_contents_apart(photo_sift, as_dataset):
    one, other = BASE.copy(), BASE.copy()
    other[200, 5] += 1
    assert as_dataset(one, QUERIES).fingerprint == as_dataset(BASE, QUERIES).fingerprint
    assert as_dataset(one, QUERIES).fingerprint != as_dataset(other, QUERIES).fingerprint


@pytest.mark.parametrize("name", ["fashion-mnist", "bsds-sift"])
def test_real_files(name, monkeypatch):
    path = file_or_skip(name)
    monkeypatch.setenv(registry.DATA_VARIABLE, str(path.parent))
    ds = pqlib.load_dataset(name if name in REGISTRY else path, n_test=50)
    assert ds.whole_numbers
    _, distances = pqlib.datasets.exact_neighbors(ds.train, ds.test[:5], 100)
    assert ds.distances[:5] == pytest.approx(distances, rel=1e-5)
    if name == "fashion-mnist":
        assert ds.image_shape == (28, 28)


def test_opening_takes_the_endings_it_names():
    for ending in files.ENDINGS:
        assert files.is_path(f"x{ending}")
    assert not files.is_path("fashion-mnist")


@pytest.mark.parametrize(("kind", "whole"), [("sift", True), ("gist", False)])
def test_rehearsal_files(tmp_path, kind, whole):
    script = REPOSITORY / "scripts" / "make_ann_like.py"
    out = tmp_path / f"rehearsal-{REGISTRY[kind].dimension}-euclidean.hdf5"
    run = [sys.executable, str(script), kind, str(out), "--n", "600", "--queries", "20"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run(run, check=True, env=environment, capture_output=True, timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    ds = pqlib.load_dataset(out)
    assert (ds.n, ds.nq, ds.d) == (600, 20, REGISTRY[kind].dimension)
    assert ds.whole_numbers == whole
    assert ds.note == ""
    same_truth(ds, ds.train, ds.test)
    nowhere = [*run[:3], str(tmp_path / "missing" / "x.hdf5"), *run[4:]]
    refused = subprocess.run(nowhere, env=environment, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "existing folder" in refused.stderr
