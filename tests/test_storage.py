"""Saving, loading, mapping; files that are cut off, altered or of the future; faiss's own index."""

import subprocess
import sys

import faiss
import numpy as np
import pytest
from conftest import assert_damage_is_found

import pqlib
from pqlib import _file as format
from pqlib import evaluation

D = 16
BUILD = {
    "brute": lambda: pqlib.BruteForce(D),
    "k-means": lambda: pqlib.KMeansIndex(D, 20, 5),
    "shared": lambda: pqlib.MultiLevelPQ(D, 20, 5, m=4, nbits=5, codebooks="shared"),
    "own": lambda: pqlib.MultiLevelPQ(D, 20, 5, m=4, nbits=6, rerank="uint8", seed=3),
    "12 bits": lambda: pqlib.MultiLevelPQ(
        D, 20, 5, m=2, nbits=10, codebooks="shared", rerank="float32"
    ),
}


def built(name, base, ids=None):
    return BUILD[name]().train(base).add(base, ids)


def same(one, other):
    return all((a == b).all() for a, b in zip(one, other, strict=True))


def options(name):
    return {} if name == "brute" else dict(nprobe=4, nprobe_outer=3)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("offset", [None, 10**12])
@pytest.mark.parametrize("name", BUILD)
def test_a_loaded_index_answers_the_same(clustered, name, offset, mmap, tmp_path):
    base, queries = clustered
    index = built(name, base, None if offset is None else offset + np.arange(2000)[::-1])
    index.save(tmp_path / "index é")
    other = pqlib.load_index(tmp_path / "index é", mmap=mmap)
    assert type(other) is type(index)
    assert other.ntotal == 2000
    for some in (queries, queries[:1]):
        assert same(
            index.search(some, 10, **options(name)), other.search(some, 10, **options(name))
        )
    assert other.memory() == index.memory()
    if name not in ("brute", "k-means"):
        assert other.describe() == index.describe()
        assert other.n_shared_clusters == index.n_shared_clusters
        assert same(index.search_cost(queries).values(), other.search_cost(queries).values())
        some = index.search(queries, 1, nprobe=20)[1].ravel()
        assert (other.reconstruct(some) == index.reconstruct(some)).all()
    if mmap:
        with pytest.raises(ValueError, match="mmap=False"):
            other.add(base)
    else:
        assert same(
            index.add(base[:300]).search(queries, 10), other.add(base[:300]).search(queries, 10)
        )
    # Saved again, it is the same file to the byte.
    again = pqlib.load_index(tmp_path / "index é", mmap=mmap)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "index é").read_bytes()


def test_an_index_without_vectors_can_be_saved_and_filled_later(clustered, tmp_path):
    base, queries = clustered
    for name in BUILD:
        empty = BUILD[name]().train(base)
        empty.save(tmp_path / "empty")
        for mmap in (False, True):
            other = pqlib.load_index(tmp_path / "empty", mmap)
            assert other.ntotal == 0
        other = pqlib.load_index(tmp_path / "empty").add(base)
        assert same(other.search(queries, 5), empty.add(base).search(queries, 5))


def test_the_file_is_as_large_as_the_parts_that_are_saved(photo_sift, tmp_path):
    derived = ("precomputed tables", "inner centroids by outer")
    base = photo_sift.train[:20_000]
    for codebooks in ("shared", "per-cluster"):
        index = pqlib.MultiLevelPQ(128, 40, 5, m=8, codebooks=codebooks, rerank="uint8")
        index.train(base[:11_000]).add(base).save(tmp_path / "index")
        saved = sum(size for part, size in index.memory().items() if part not in derived)
        assert (tmp_path / "index").stat().st_size == pytest.approx(saved, rel=0.02)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(clustered, tmp_path, monkeypatch):
    base, queries = clustered
    index = built("shared", base)
    index.save(tmp_path / "index")
    before = (tmp_path / "index").read_bytes()
    index.add(base)

    def full(*_):
        raise OSError(28, "No space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(format.os, function, full)
            with pytest.raises(OSError, match="No space"):
                index.save(tmp_path / "index")
        assert (tmp_path / "index").read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["index"]
    # Mapped by someone, the old content stays until he closes it.
    mapped = pqlib.load_index(tmp_path / "index", mmap=True)
    expected = mapped.search(queries, 10)
    index.save(tmp_path / "index")
    assert same(mapped.search(queries, 10), expected)
    assert pqlib.load_index(tmp_path / "index").ntotal == 4000


def test_damage_is_found(clustered, tmp_path):
    base, _ = clustered
    path = tmp_path / "index"
    built("own", base).save(path)
    whole = path.read_bytes()
    assert_damage_is_found(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="too long"):
        pqlib.load_index(path)
    path.write_bytes(whole.replace(b'"version": "2"', b'"version": "3"', 1))
    with pytest.raises(ValueError, match=r"version 3.*reads version 2.*Update"):
        pqlib.load_index(path)
    path.write_bytes(b"PQLIBIDX" + whole)
    with pytest.raises(ValueError, match=r"version 1.*reads version 2.*save the index again"):
        pqlib.load_index(path)
    path.write_bytes(b"\x89HDF" + whole)
    with pytest.raises(ValueError, match="no index file"):
        pqlib.load_index(path)
    with pytest.raises(FileNotFoundError):
        pqlib.load_index(tmp_path / "absent")
    with pytest.raises(ValueError, match="save before train"):
        pqlib.MultiLevelPQ(D).save(path)


def test_a_kind_that_is_not_known_says_so(tmp_path):
    format.write(tmp_path / "index", "Graph", {}, [])
    with pytest.raises(ValueError, match="'Graph'.*MultiLevelPQ"):
        pqlib.load_index(tmp_path / "index")


def test_there_and_back_to_faiss(clustered, tmp_path):
    base, queries = clustered
    for ids in (None, 7 * np.arange(2000)):
        index = built("shared", base, ids)
        back = pqlib.MultiLevelPQ.from_faiss(index.to_faiss(), n_outer=5)
        assert back.ntotal == 2000
        assert same(index.search(queries, 10, 4), back.search(queries, 10, 4))
        assert back.search(queries, 10, 4, nprobe_outer=2)[0].shape == (50, 10)
        back.save(tmp_path / "index")
        back.add(base[:5])
        assert back.ntotal == 2005
    trained = faiss.index_factory(D, "IVF10,PQ4x6")
    trained.train(base)
    trained.add(base)
    index = pqlib.MultiLevelPQ.from_faiss(trained)
    trained.nprobe = 3
    distances, found = trained.search(queries, 10)
    assert index.search(queries, 10, 3)[0] == pytest.approx(distances, rel=1e-4, abs=1)
    assert (index.search(queries, 10, 3)[1] == found).mean() > 0.99


@pytest.mark.parametrize(
    ("expected", "factory"),
    [
        ("trained", "IVF10,PQ4x4"),
        ("METRIC_L2", "IVF10,PQ4x4"),
        ("residuals", "IVF10,PQ4x4"),
        ("flat coarse", "IVF10_HNSW8,PQ4x4"),
        ("IndexIVFFlat", "IVF10,Flat"),
        ("IndexPreTransform", "OPQ4,IVF10,PQ4x4"),
    ],
)
def test_what_cannot_be_taken_over_from_faiss_is_refused(clustered, expected, factory):
    metric = faiss.METRIC_INNER_PRODUCT if expected == "METRIC_L2" else faiss.METRIC_L2
    index = faiss.index_factory(D, factory, metric)
    if expected == "residuals":
        index.by_residual = False
    if expected != "trained":
        index.train(clustered[0])
    with pytest.raises(ValueError, match=expected):
        pqlib.MultiLevelPQ.from_faiss(index)


FRESH = """
import sys, time
import numpy as np, psutil, faiss, pqlib
mmap = sys.argv[2] == "map"
warm = pqlib.MultiLevelPQ(8, 4, 2, m=2, nbits=4, codebooks=sys.argv[3])
x = np.random.default_rng(0).random((300, 8), np.float32)
warm.train(x).add(x).search(x[:5], nprobe=2)
warm.save(sys.argv[1] + ".warm")
pqlib.load_index(sys.argv[1] + ".warm", mmap).search(x[:5])
process = psutil.Process()
query = np.random.default_rng(0).integers(0, 255, (1, 128)).astype(np.float32)
before = process.memory_info().rss
start = time.perf_counter()
index = pqlib.load_index(sys.argv[1], mmap)
seconds = time.perf_counter() - start
opened = process.memory_info().rss - before
index.search(query)
print(seconds, opened, process.memory_info().rss - before, index.memory_bytes)
"""


def fresh(path, how, codebooks):
    run = subprocess.run(
        [sys.executable, "-c", FRESH, str(path), how, codebooks],
        check=True,
        capture_output=True,
        text=True,
    )
    return [float(v) for v in run.stdout.split()]


@pytest.mark.parametrize("codebooks", ["shared", "per-cluster"])
def test_a_fresh_process_needs_no_more_than_is_counted(codebooks, tmp_path):
    base = np.random.default_rng(0).integers(0, 255, (400_000, 128)).astype(np.float32)
    index = pqlib.MultiLevelPQ(
        128, 128, 11, m=16, nbits=6, codebooks=codebooks, rerank="uint8", max_train=10_000
    )
    index.train(base[:10_000]).add(base).save(tmp_path / "index")
    size = (tmp_path / "index").stat().st_size
    _, _, searched, counted = fresh(tmp_path / "index", "read", codebooks)
    assert searched <= 1.1 * counted
    seconds, opened, _, _ = fresh(tmp_path / "index", "map", codebooks)
    assert opened <= 0.1 * size
    print(f"opened in {1e3 * seconds:.1f} ms, {opened:,.0f} of {size:,} bytes")


# What may stay on disk ---------------------------------------------------------------------


def test_the_parts_that_may_stay_on_disk_are_those_that_mapping_leaves_there(clustered, tmp_path):
    """A mapped index holds copies of nothing that it calls mappable."""
    base, queries = clustered
    cost = {"codes": 100.0, "rerank": 20.0, "tables": 32.0, "vectors": 50.0}
    for index in (
        pqlib.BruteForce(16),
        pqlib.KMeansIndex(16, 8, 3),
        pqlib.MultiLevelPQ(16, 8, 3, 4, 4, "shared", "uint8"),
        pqlib.MultiLevelPQ(16, 8, 3, 4, 4, "per-cluster", "float32"),
    ):
        index.train(base).add(base)
        table = evaluation.residency(index, cost).set_index("part")
        assert table.bytes_per_vector.sum() * len(base) == pytest.approx(index.memory_bytes)
        on_disk = set(table.index[table["where"] == "may stay on disk"])
        assert on_disk == {p for p, size in index.memory().items() if size} & set(index.mappable)
        assert (table.read_per_query[table["where"] == "in memory"] == 0).all()
        if "codes" in on_disk:
            assert table.read_per_query["codes"] == 100 * 2
            assert table.read_per_query["re-ranking store"] == 20 * 16 * (
                1 if index.rerank == "uint8" else 4
            )
            own = index.codebooks == "per-cluster"
            assert ("codebooks" in on_disk) is own
            assert table.read_per_query["codebooks"] == (32 * 64 if own else 0)
            index.save(tmp_path / "index")
            mapped = pqlib.load_index(tmp_path / "index", mmap=True)
            assert isinstance(mapped.lists, faiss.OnDiskInvertedLists)
            assert (mapped._codes.mapped is not None) is own
            mapped.search(queries, 10)
