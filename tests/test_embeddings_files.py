"""What embeddings come in: parquet, .npy of small number types, .i8bin, folders of shards."""

import builtins
import os
from pathlib import Path

import faults
import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pqlib
from pqlib.datasets import apart, files, parquet
from pqlib.study.pipeline.data import DataSource

RNG = np.random.default_rng(11)
BASE = RNG.standard_normal((300, 8)).astype(np.float32)
QUERIES = RNG.standard_normal((20, 8)).astype(np.float32)
TYPES = {
    "float16": (pa.float16(), np.float16),
    "float32": (pa.float32(), np.float32),
    "int8": (pa.int8(), np.int8),
    "uint8": (pa.uint8(), np.uint8),
    "int16": (pa.int16(), np.int16),
}
LISTS = {"list": pa.list_, "large": pa.large_list, "fixed": lambda kind: pa.list_(kind, 8)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PQLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def here(monkeypatch):
    """Walk in this process: what is tested needs no child, which takes half a second each time."""

    def walk(kind, paths, options):
        parquet.walk(iter(paths), lambda nbytes, memory: None, **options)

    monkeypatch.setattr(apart, "_walk_apart", walk)


def lists(x, kind, make=pa.list_):
    """The rows of a matrix as a column."""
    flat = pa.array(np.ascontiguousarray(x).reshape(-1), kind)
    listed = make(kind)
    if pa.types.is_fixed_size_list(listed):
        return pa.FixedSizeListArray.from_arrays(flat, x.shape[1])
    offsets = np.arange(len(x) + 1) * x.shape[1]
    if pa.types.is_large_list(listed):
        return pa.LargeListArray.from_arrays(pa.array(offsets), flat)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)


def write(path, x=BASE, name="emb", kind=None, make=pa.list_, **how):
    column = lists(x, kind or pa.float32(), make)
    table = pa.table({"id": np.arange(len(x)), name: column, "text": ["words"] * len(x)})
    pq.write_table(table, path, **how)
    return path


def pair(folder, **how):
    """train.parquet and test.parquet, as VectorDBBench has them."""
    write(folder / "test.parquet", QUERIES, **how)
    return write(folder / "train.parquet", **how)


def values(kind, n=300):
    if np.dtype(kind).kind == "f":
        return RNG.standard_normal((n, 8)).astype(kind)
    info = np.iinfo(kind)
    return RNG.integers(info.min, info.max + 1, (n, 8)).astype(kind)


# Parquet --------------------------------------------------------------------------------------


def test_a_file_of_pyarrow_and_one_of_pandas(tmp_path):
    """The real way, through a child process, with queries beside it."""
    ds = pqlib.load_dataset(pair(tmp_path, row_group_size=70))
    assert (ds.train == BASE).all()
    assert (ds.test == QUERIES).all()
    assert ds.note.startswith("queries from test.parquet; ground truth")
    assert (ds.name, ds.stored_dtype, ds.neighbors.shape) == ("train", "float32", (20, 100))
    exact = np.linalg.norm(BASE[None] - QUERIES[:, None], axis=2).argsort(axis=1)[:, :100]
    assert (ds.neighbors == exact).all()
    # Of pandas: Python's floats are float64, an index and other columns come along.
    frame = pd.DataFrame({"title": ["x"] * 300, "embedding": list(BASE.astype(float))})
    frame.index = pd.Index(np.arange(300)[::-1], name="place")
    frame.to_parquet(tmp_path / "frame.parquet")
    ds = pqlib.load_dataset(tmp_path / "frame.parquet", n_test=30)
    assert (ds.n, ds.nq, ds.stored_dtype) == (270, 30, "float64")
    assert "float64 rounded to float32" in ds.note
    assert "stored as float64" in ds.describe()
    chosen = np.sort(np.random.default_rng(0).choice(300, 30, replace=False))
    assert (ds.test == BASE[chosen]).all()
    assert (ds.train == np.delete(BASE, chosen, axis=0)).all()


@pytest.mark.parametrize("make", LISTS)
@pytest.mark.parametrize("kind", TYPES)
def test_lists_of_every_kind_convert_exactly(tmp_path, here, kind, make):
    arrow, dtype = TYPES[kind]
    x, y = values(dtype), values(dtype, 20)
    how = dict(kind=arrow, make=LISTS[make], row_group_size=64)
    write(tmp_path / "my_base.parquet", x, **how)
    write(tmp_path / "my_query.parquet", y, **how)
    ds = pqlib.load_dataset(tmp_path / "my_base.parquet")
    assert (ds.train.astype(dtype) == x).all()
    assert (ds.train == x).all()
    assert (ds.test == y).all()
    assert ds.stored_dtype == kind
    assert "rounded" not in ds.note


def test_blocks_of_few_rows_and_going_back(tmp_path, here, monkeypatch):
    """Blocks of the file, of its row groups and of the reading end at different rows."""
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 7 * 32)
    monkeypatch.setattr(files, "BLOCK_BYTES", 11 * 32)
    path = write(tmp_path / "all.parquet", row_group_size=29)
    ds = pqlib.load_dataset(path, n_test=60)
    chosen = np.sort(np.random.default_rng(0).choice(300, 60, replace=False))
    assert (ds.test == BASE[chosen]).all()
    assert (ds.train == np.delete(BASE, chosen, axis=0)).all()
    assert (pqlib.load_dataset(pair(tmp_path), n_train=100, n_test=3).train == BASE[:100]).all()


def test_only_what_is_wanted_is_read(tmp_path, here, monkeypatch):
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 1 << 10)
    x = BASE.copy()
    x[200] = np.nan
    column = lists(x, pa.float32()).to_pylist()
    column[250] = None
    path = pair(tmp_path)
    pq.write_table(pa.table({"emb": column}), path)
    assert (pqlib.load_dataset(path, n_train=200).train == BASE[:200]).all()
    with pytest.raises(ValueError, match=r"train\.parquet: row 250 of the column 'emb' is null"):
        pqlib.load_dataset(path)
    pq.write_table(pa.table({"emb": column[:250]}), path)
    with pytest.raises(ValueError, match=r"train\.parquet: vector 200 holds NaN"):
        pqlib.load_dataset(path)


def columns(path, **named):
    pq.write_table(pa.table(named), path)
    return path


def test_the_column_is_named_or_found(tmp_path, here):
    path = tmp_path / "x.parquet"
    x, other = lists(BASE, pa.float32()), lists(BASE + 1, pa.float32())
    row = np.delete(BASE, np.random.default_rng(0).choice(300, 30, replace=False), axis=0)
    words, sets = pa.array(["a"] * 300), pa.array([["a", "b"]] * 300)
    for known in parquet.NAMES:
        columns(path, clicks=other, **{known: x}, text=words)
        assert (pqlib.load_dataset(path).train == row).all(), known
    columns(path, clip=x, text=words, tags=sets)
    assert (pqlib.load_dataset(path).train == row).all()
    columns(path, clip=other, clip2=x, **{"a.b": x}, text=words)
    for named in ("clip2", "a.b"):
        assert (pqlib.load_dataset(path, column=named).train == row).all()
    for named, words_said in (
        (None, r"x\.parquet has several columns .*: clip, clip2, a\.b\. Name one"),
        ("text", r"column='text': .* no such column.*text \(string\)"),
        ("emb", "column='emb': .* no such column.*clip2"),
        (5, "column=5: expected the name"),
    ):
        with pytest.raises(ValueError, match=words_said):
            pqlib.load_dataset(path, column=named)
    columns(path, emb=x, vector=other)
    with pytest.raises(ValueError, match="may be meant: emb, vector"):
        pqlib.load_dataset(path)
    columns(path, text=words, tags=sets, deep=pa.array([[[1.0], [2.0]]] * 300))
    with pytest.raises(ValueError, match="Expected one of lists of numbers; it has text"):
        pqlib.load_dataset(path)
    np.save(tmp_path / "x.npy", BASE)
    faults.write_hdf5(tmp_path / "x.hdf5")
    for name in ("x.npy", "x.hdf5"):
        with pytest.raises(ValueError, match=f"column='emb': .*{name} has no columns"):
            pqlib.load_dataset(tmp_path / name, column="emb")


ROWS = BASE.tolist()
WRONG = {
    "a null": ([*ROWS[:9], None, *ROWS[10:]], "row 9 of the column 'emb' is null"),
    "all null": ([None] * 300, "row 0 of the column 'emb' is null"),
    "a null number": ([*ROWS[:7], [*ROWS[7][:5], None, 1, 2]], "row 7 .* holds a null"),
    "ragged": ([*ROWS[:50], ROWS[50][:7]], "row 50 .* has 7 numbers, the first one 8"),
    "ragged, as many in all": (
        [*ROWS[:50], ROWS[50][:7], [*ROWS[51], 1.0]],
        "row 50 .* has 7 numbers, the first one 8",
    ),
    "no numbers in a row": ([*ROWS[:3], []], "row 3 .* has 0 numbers"),
    "no numbers at all": ([[]] * 10, "row 0 .* has no numbers"),
    "no rows": ([], "is empty, 0 rows"),
    "one row": (ROWS[:1], "holds one vector"),
    "infinity": ([*ROWS[:3], [np.inf] * 8], "vector 3 holds NaN or infinity"),
}


FIXED = ("a null", "all null", "a null number", "no rows", "one row", "infinity")


@pytest.mark.parametrize(
    ("name", "width"), [*((name, -1) for name in WRONG), *((name, 8) for name in FIXED)]
)
def test_columns_that_are_no_matrix(tmp_path, here, name, width):
    rows, said = WRONG[name]
    column = pa.array(rows, pa.list_(pa.float32(), width))
    path = columns(tmp_path / "x.parquet", emb=column)
    with pytest.raises(ValueError, match=said) as refused:
        pqlib.load_dataset(path)
    assert "x.parquet" in str(refused.value)


def test_queries_of_another_width(tmp_path, here):
    path = pair(tmp_path)
    write(tmp_path / "test.parquet", QUERIES[:, :5])
    with pytest.raises(ValueError, match=r"test\.parquet has dimension 5, train\.parquet 8"):
        pqlib.load_dataset(path)


def test_without_pyarrow_it_is_said(tmp_path, monkeypatch, capsys):
    from pqlib.datasets.__main__ import main

    path = pair(tmp_path)
    real = builtins.__import__

    def missing(name, *rest):
        if name.split(".")[0] == "pyarrow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'pqlib\[parquet\]'"):
        pqlib.load_dataset(path)
    assert main([str(path)]) == 1
    assert capsys.readouterr().err.startswith("error: a .parquet file needs pyarrow")


# Hostile parquet ------------------------------------------------------------------------------


def test_damaged_parquet_is_refused_by_name(tmp_path):
    original = write(tmp_path / "valid.parquet").read_bytes()
    path = tmp_path / "bad.parquet"
    for damage in (b"", b"PAR1", b"\xff" * 500, original[:-3], original[: len(original) // 2]):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"bad\.parquet: expected a parquet file"):
            pqlib.load_dataset(path)


def test_spoilt_parquet(tmp_path):
    original = write(tmp_path / "valid.parquet", BASE[:60], row_group_size=25).read_bytes()
    path = tmp_path / "spoilt.parquet"
    refused = 0
    for case in range(8):
        path.write_bytes(faults.mutated(original, np.random.default_rng(case)))
        said = faults.outcome(faults.use_dataset, path)
        assert said in ("accepted", "refused"), (case, said)
        refused += said == "refused"
    assert refused


def resized(content, old, new):
    """A parquet file whose footer has another footer of another length."""
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8]
    assert footer.count(old) >= 1
    changed = footer.replace(old, new)
    return content[: -8 - length] + changed + len(changed).to_bytes(4, "little") + b"PAR1"


def varint(number):
    """A whole number as thrift's compact protocol writes it."""
    number <<= 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def test_parquet_that_says_it_is_large(tmp_path):
    """By compression, by a dictionary, by numbers of rows that are not there: one error each."""
    x = np.zeros((1 << 16, 64), np.float32)
    write(tmp_path / "zeros.parquet", x, compression="zstd", use_dictionary=False)
    write(tmp_path / "dictionary.parquet", x)
    small = write(tmp_path / "small.parquet", BASE[:200, :4]).read_bytes()
    n = varint(200)
    # Rows of the file and of its row group.
    (tmp_path / "rows.parquet").write_bytes(resized(small, b"\x16" + n, b"\x16" + varint(2**40)))
    values = varint(800)
    for name, number in (("values", 2**40), ("negative", 2**62 + 5)):
        spoilt = resized(small, b"\x16" + values, b"\x16" + varint(number))
        (tmp_path / f"{name}.parquet").write_bytes(spoilt)
    for name, said in (
        ("zeros", "in .* bytes of a file of .* Expected at most 256 for one"),
        ("dictionary", "Expected at most 256 for one"),
        ("rows", "rows"),
        ("values", "Expected at most 256 for one"),
        ("negative", r"negative\.parquet"),
    ):
        with pytest.raises(ValueError, match=said) as refused:
            pqlib.load_dataset(tmp_path / f"{name}.parquet")
        assert f"{name}.parquet" in str(refused.value)


def test_a_crash_in_a_shard_is_told_of_that_shard(tmp_path, monkeypatch):
    """Whatever the library does of a file, it does it in the child."""
    for number in range(3):
        write(tmp_path / f"part-{number}.parquet")
    child = tmp_path / "code" / "apart.py"
    child.parent.mkdir()
    source = Path(apart.__file__)
    (child.parent / "parquet.py").write_text(source.with_name("parquet.py").read_text())
    monkeypatch.setattr(apart, "__file__", str(child))
    place = "        yield Path(file)\n"
    assert source.read_text().count(place) == 1
    for deed, said in (
        ("os.kill(os.getpid(), 11)", "crashes the library, exit status -11"),
        ("raise MemoryError('of all')", "takes more memory than it can hold"),
    ):
        child.write_text(
            source.read_text().replace(place, f"        if number == 1: {deed}\n{place}")
        )
        with pytest.raises(ValueError, match=rf"part-1\.parquet: .*{said}"):
            pqlib.load_dataset(tmp_path)


def test_parquet_is_walked_once_for_what_is_read(tmp_path, monkeypatch):
    walks = []
    monkeypatch.setattr(apart, "_walk_apart", lambda kind, paths, options: walks.append(options))
    path = pair(tmp_path)
    for _ in range(2):
        pqlib.load_dataset(path)
    assert [walk["rows"] for walk in walks] == [None, None]
    pqlib.load_dataset(path, n_train=10, column="emb")
    assert walks[2:] == [{"column": "emb", "rows": 10}, {"column": "emb", "rows": None}]
    write(path)
    os.utime(path, (1, 1))
    pqlib.load_dataset(path)
    assert len(walks) == 5


# .npy and .i8bin ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "int8", "uint8", "float64"])
def test_npy_of_small_number_types_is_mapped_and_exact(tmp_path, kind):
    """bfloat16 as ml_dtypes gives it: NumPy writes two bytes without a type."""
    dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
    x = (RNG.standard_normal((300, 8)) * 50).astype(dtype)
    y = (RNG.standard_normal((20, 8)) * 50).astype(dtype)
    np.save(tmp_path / "train.npy", x)
    np.save(tmp_path / "test.npy", y)
    ds = pqlib.load_dataset(tmp_path / "train.npy")
    assert (ds.train == x.astype(np.float32)).all()
    assert (ds.test == y.astype(np.float32)).all()
    if kind != "float64":
        assert (ds.train.astype(dtype) == x).all()
    assert ("float64 rounded" in ds.note) == (kind == "float64")
    assert ds.stored_dtype == kind
    assert f"stored as {kind}, held as float32" in ds.describe()
    held = files.plain.mapped(tmp_path / "train.npy")
    assert isinstance(getattr(held, "halves", held), np.memmap)


def test_every_bfloat16_is_the_number_that_ml_dtypes_says(tmp_path):
    x = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).reshape(-1, 16)
    np.save(tmp_path / "x.npy", x)
    found = files.plain.mapped(tmp_path / "x.npy")
    assert found[0 : len(x)].tobytes() == x.astype(np.float32).tobytes()
    assert (found[np.array([5, 9])][:, 3] == x[[5, 9], 3].astype(np.float32)).all()


def test_other_types_without_a_name_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", BASE.astype(ml_dtypes.float8_e4m3fn))
    with pytest.raises(ValueError, match=r"x\.npy: expected a matrix of numbers"):
        pqlib.load_dataset(tmp_path / "x.npy")


def test_signed_bytes(tmp_path):
    def pack(x):
        return np.array(x.shape, "<u4").tobytes() + x.tobytes()

    x, y = values(np.int8), values(np.int8, 20)
    (tmp_path / "base.i8bin").write_bytes(pack(x))
    (tmp_path / "query.i8bin").write_bytes(pack(y))
    ds = pqlib.load_dataset(tmp_path / "base.i8bin")
    assert (ds.train == x).all()
    assert (ds.test == y).all()
    assert ds.train.min() < -100
    assert ds.stored_dtype == "int8"
    (tmp_path / "bad.i8bin").write_bytes(pack(x)[:-1])
    with pytest.raises(ValueError, match=r"bad\.i8bin: its header"):
        pqlib.load_dataset(tmp_path / "bad.i8bin")


# Folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".npy"])
def test_fifty_thousand_rows_in_17_shards(tmp_path, ending):
    """Through a child process; numbers in names count as numbers, and shards differ in size."""
    x = RNG.standard_normal((50_000, 8)).astype(np.float32)
    folder = tmp_path / "mine.d"
    folder.mkdir()
    cuts = np.sort(RNG.choice(np.arange(1, 50_000), 16, replace=False))
    for number, part in enumerate(np.split(x, cuts)):
        path = folder / f"part-{number}-of-17{ending}"
        if ending == ".npy":
            np.save(path, part)
        else:
            write(path, part, row_group_size=1000 + 100 * number)
    for other in ("README.md", "_SUCCESS", "_part-3.parquet", ".part-4.npy"):
        (folder / other).write_text("no vectors")
    ds = pqlib.load_dataset(folder, n_test=50)
    chosen = np.sort(np.random.default_rng(0).choice(50_000, 50, replace=False))
    assert (ds.test == x[chosen]).all()
    assert (ds.train == np.delete(x, chosen, axis=0)).all()
    assert ds.name == "mine"
    assert f"17 files, from part-0-of-17{ending} to part-16-of-17{ending}" in ds.note
    few = pqlib.load_dataset(folder, n_train=30_000, n_test=50)
    assert (few.train == np.delete(x, chosen, axis=0)[:30_000]).all()
    # A folder beside it, and shards beside each other.
    (folder.rename(tmp_path / "train"), (tmp_path / "test").mkdir())
    for path in sorted((tmp_path / "train").glob("part-1[0-2]-*")):
        path.rename(tmp_path / "test" / path.name)
    held = np.split(x, cuts)
    ds = pqlib.load_dataset(tmp_path / "train", n_train=20_000, n_test=50)
    assert (ds.train == np.concatenate(held[:10] + held[13:])[:20_000]).all()
    assert (ds.test == np.concatenate(held[10:13])[:50]).all()
    assert "queries from test" in ds.note


def test_queries_among_the_shards(tmp_path, here):
    """As Hugging Face and VectorDBBench have them."""
    for number in range(3):
        write(tmp_path / f"train-{number:05}-of-00003.parquet", BASE[100 * number :][:100])
    write(tmp_path / "test-00000-of-00001.parquet", QUERIES)
    columns(tmp_path / "neighbors.parquet", id=[1], neighbors_id=[[1, 2]])
    ds = pqlib.load_dataset(tmp_path)
    assert (ds.train == BASE).all()
    assert (ds.test == QUERIES).all()
    assert "queries from test-00000-of-00001.parquet" in ds.note
    assert "not read: neighbors.parquet" in ds.note


def test_shards_that_do_not_belong_together(tmp_path, here):
    for number in range(3):
        write(tmp_path / f"part-{number}.parquet")
    write(tmp_path / "part-1.parquet", BASE[:, :5])
    with pytest.raises(ValueError, match=r"part-1\.parquet: has dimension 5, part-0\.parquet 8"):
        pqlib.load_dataset(tmp_path)
    write(tmp_path / "part-1.parquet", name="embedding")
    with pytest.raises(ValueError, match=r"column='emb': .*part-1\.parquet has no such column"):
        pqlib.load_dataset(tmp_path)
    write(tmp_path / "part-1.parquet", BASE[:0])
    with pytest.raises(ValueError, match=r"part-1\.parquet: is empty"):
        pqlib.load_dataset(tmp_path)
    write(tmp_path / "part-1.parquet", BASE.astype("f2"), kind=pa.float16())
    assert pqlib.load_dataset(tmp_path).stored_dtype == "float32 and float16"
    np.save(tmp_path / "part-3.npy", BASE)
    with pytest.raises(ValueError, match=r"holds files of vectors that end in \.npy, \.parquet"):
        pqlib.load_dataset(tmp_path)


def test_folders_without_shards(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing")
    with pytest.raises(FileNotFoundError, match=r"empty'.*a folder with files.*\.parquet or \.npy"):
        pqlib.load_dataset(tmp_path / "empty")
    (tmp_path / "empty" / "a.fvecs").write_bytes(faults.plain(".fvecs"))
    with pytest.raises(ValueError, match=r"end in \.fvecs.*name one file of it"):
        pqlib.load_dataset(tmp_path / "empty")


def test_an_altered_shard_with_a_recorded_checksum_is_refused(tmp_path):
    for number in range(2):
        np.save(tmp_path / f"part-{number}.npy", BASE)
    (tmp_path / "part-1.npy.sha256").write_text("0" * 64)
    with pytest.raises(ValueError, match=r"part-1\.npy: its SHA-256 is"):
        pqlib.load_dataset(tmp_path)


def test_a_run_takes_a_folder_and_notices_changes(tmp_path):
    folder = tmp_path / "my vectors"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="a folder"):
        DataSource.of(str(folder), tmp_path)
    for number in range(2):
        np.save(folder / f"part-{number}.npy", BASE)
    source = DataSource.of(f"{folder}/", tmp_path)
    assert (source.dataset, source.label) == (str(folder), "my-vectors")
    known = source.identity()
    assert known == DataSource.of(str(folder), tmp_path).identity()
    for change in (
        lambda: os.utime(folder / "part-1.npy", (1, 1)),
        lambda: np.save(folder / "part-1.npy", BASE[:-1]),
        lambda: (folder / "part-1.npy").rename(folder / "part-2.npy"),
        lambda: np.save(folder / "part-3.npy", BASE),
    ):
        change()
        assert source.identity() != known
        known = source.identity()


def test_indexes_take_small_number_types(clustered):
    base, queries = clustered
    for kind in (ml_dtypes.bfloat16, np.float16, np.int8):
        index = pqlib.BruteForce(16).add((base / 8).astype(kind))
        same = pqlib.BruteForce(16).add((base / 8).astype(kind).astype(np.float32))
        for one, other in zip(index.search(queries, 5), same.search(queries, 5), strict=True):
            assert (one == other).all()
