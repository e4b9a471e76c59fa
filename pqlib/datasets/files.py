"""Opening files of vectors: ann-benchmarks' HDF5 and the plain formats."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._blocks import blocks
from pqlib._types import FloatMatrix
from pqlib.datasets import hdf5, registry

IdMatrix = NDArray[np.int64]

HDF5_ENDINGS = (".hdf5", ".h5")
PLAIN_ENDINGS = (".fvecs", ".bvecs", ".fbin", ".u8bin", ".npy")
ENDINGS = (*HDF5_ENDINGS, *PLAIN_ENDINGS)
BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Content:
    """What a file holds, before it is made into a Dataset.

    ``truth`` is None where the file has none, otherwise neighbours (nq, k) int64 and distances
    (nq, k) float32; ``distance`` is the file's own word for its metric.
    """

    train: FloatMatrix
    test: FloatMatrix
    truth: tuple[IdMatrix, FloatMatrix] | None
    distance: str
    stored_dtype: str
    is_subset: bool
    """Whether the file has more base vectors."""
    notes: tuple[str, ...] = ()


def _rows_wanted(name: str, wanted: Any, available: int, path: Path) -> int:
    """Return how many of the ``available`` rows of a file to read, or raise ValueError."""
    hint = f"That is how many {path} has for it; None takes all."
    return available if wanted is None else _checks.integer(name, wanted, 1, available, hint)


def _as_float32(source: Any, rows: int | IdMatrix, what: str) -> FloatMatrix:
    """Return the first ``rows`` of ``source``, or those listed, read and checked in blocks."""
    d = source.shape[1]
    count = rows if isinstance(rows, int) else len(rows)
    try:
        result = np.empty((count, d), np.float32)
    except MemoryError:
        raise MemoryError(
            f"{what}: {count:,} vectors of dimension {d} take {4 * count * d / 2**30:,.1f} GiB as "
            "float32, more than this process can have. Take fewer of them with n_train and "
            "n_test, or end other programs."
        ) from None
    for part in blocks(count, max(4, source.dtype.itemsize) * d, BLOCK_BYTES):
        with np.errstate(over="ignore"):
            result[part] = source[part if isinstance(rows, int) else rows[part]]
        wrong = _checks.first_wrong(result[part])
        if wrong is not None:
            place = part.start + wrong[0]
            value, row = result[place, wrong[1]], place if isinstance(rows, int) else rows[place]
            words = "NaN or infinity" if not np.isfinite(value) else f"{value:.3g}"
            raise ValueError(
                f"{what}: vector {row} holds {words}. Expected finite numbers below "
                f"{_checks.largest(d):.1e} in size, whose squared distances float32 can hold; the "
                "file is damaged or not meant for this."
            )
    return result


def open_hdf5(
    path: Path, n_train: int | None, n_test: int | None, trusted: bool = False
) -> Content:
    """Read the first rows of a file in ann-benchmarks' layout: train, test, neighbors, distances.

    A file that is not ``trusted`` is walked in a process of its own first. ValueError when it is no
    HDF5 file, lacks a part, or shapes disagree.
    """
    if not trusted:
        hdf5.ensure_walked(path, registry.cache_folder() / "walked")
    with hdf5.opened(path) as file:
        train, test = hdf5.part(file, path, "train"), hdf5.part(file, path, "test")
        if train.shape[1] != test.shape[1]:
            raise ValueError(
                f"{path}: train has dimension {train.shape[1]}, test {test.shape[1]}. Expected the "
                "same; the file is damaged."
            )
        rows = _rows_wanted("n_train", n_train, len(train), path)
        queries = _rows_wanted("n_test", n_test, len(test), path)
        return Content(
            _as_float32(train, rows, f"{path}, train"),
            _as_float32(test, queries, f"{path}, test"),
            _truth_of(file, path, len(train), len(test), queries),
            hdf5.distance_word(file),
            str(train.dtype),
            rows < len(train),
        )


def _truth_of(
    file: Any, path: Path, n: int, nq: int, queries: int
) -> tuple[IdMatrix, FloatMatrix] | None:
    """Return the ground truth of the first ``queries`` of ``nq`` queries, if the file has one."""
    names = [name for name in ("neighbors", "distances") if name in file]
    if not names:
        return None
    if len(names) == 1:
        raise ValueError(f"{path}: has only one of neighbors and distances. Expected both.")
    ids, lengths = (hdf5.part(file, path, name) for name in names)
    if ids.shape != lengths.shape or len(ids) != nq:
        raise ValueError(
            f"{path}: neighbors is {ids.shape} and distances {lengths.shape} for {nq} queries. "
            "Expected both to have a row for each query."
        )
    neighbors = ids[:queries].astype(np.int64)
    for stray in (neighbors.min(), neighbors.max()):
        if not 0 <= stray < n:
            raise ValueError(
                f"{path}: neighbors names vector {stray} of {n}. Expected row numbers of train; "
                "the file is damaged."
            )
    return neighbors, lengths[:queries].astype(np.float32)


def open_plain(path: Path, n_train: int | None, n_test: int | None) -> Content:
    """Read a file of vectors without ground truth: .fvecs, .bvecs, .fbin, .u8bin, .npy.

    The queries are the file beside it that is called "query" where it is called "base" or
    "learn" ("sift_base.fvecs", "sift_query.fvecs"). Without one, rows drawn at random, by the seed
    0, are held out as queries: ``n_test`` of them, by default 1,000 or a tenth of the file.
    ValueError when the file's size does not fit its header, or it holds no matrix of numbers.
    """
    source = _mapped(path)
    companion = _companion(path)
    rows: int | IdMatrix
    chosen: int | IdMatrix
    if companion is not None:
        queries, available = _mapped(companion), len(source)
        if queries.shape[1] != source.shape[1]:
            raise ValueError(
                f"{companion} has dimension {queries.shape[1]}, {path.name} {source.shape[1]}. "
                "Expected the same: rename one if they do not belong together."
            )
        rows = n = _rows_wanted("n_train", n_train, available, path)
        chosen = _rows_wanted("n_test", n_test, len(queries), companion)
        note = f"queries from {companion.name}"
    else:
        if len(source) < 2:
            raise ValueError(f"{path}: holds one vector. Expected a base and at least one query.")
        usual = max(1, min(1000, len(source) // 10))
        nq = _rows_wanted("n_test", usual if n_test is None else n_test, len(source) - 1, path)
        chosen = np.sort(np.random.default_rng(0).choice(len(source), nq, replace=False))
        others = np.delete(np.arange(len(source)), chosen)
        queries, available = source, len(others)
        n = _rows_wanted("n_train", n_train, available, path)
        rows = others[:n]
        note = f"{nq} vectors of the file, drawn at random, held out as queries"
    return Content(
        _as_float32(source, rows, str(path)),
        _as_float32(queries, chosen, str(companion or path)),
        None,
        "euclidean",
        str(source.dtype),
        n < available,
        (note,),
    )


def _companion(path: Path) -> Path | None:
    for word in ("base", "learn"):
        beside = path.with_name(path.name.replace(word, "query"))
        if word in path.stem and beside.is_file():
            return beside
    return None


def _mapped(path: Path) -> Any:
    """Map a plain file of vectors, (n, d), after checking its size against its header."""
    if path.suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise
        except Exception as problem:  # its header is parsed as Python's literals are
            raise ValueError(f"{path}: expected a .npy file of numbers: {problem}.") from None
        if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "iuf":
            raise ValueError(f"{path}: expected a matrix of numbers (n, d) in the .npy file.")
        if 0 in array.shape:
            raise ValueError(f"{path}: is empty, {array.shape}. Expected at least one vector.")
        return array
    size = path.stat().st_size
    dtype = np.dtype("<f4" if path.suffix in (".fvecs", ".fbin") else "u1")
    if path.suffix in (".fbin", ".u8bin"):
        # big-ann-benchmarks: the numbers n and d as uint32, then the vectors.
        header = np.fromfile(path, "<u4", 2).tolist()
        n, d = header if len(header) == 2 else (0, 0)
        if n < 1 or d < 1 or size != 8 + n * d * dtype.itemsize:
            raise ValueError(
                f"{path}: its header says {n} vectors of dimension {d}, which does not fit its "
                f"{size} bytes. The file is damaged or of another format."
            )
        return np.memmap(path, dtype, "r", 8, (n, d))
    # .fvecs, .bvecs (corpus-texmex): every vector preceded by its dimension as int32.
    first = np.fromfile(path, "<i4", 1).tolist()
    d = first[0] if first else 0
    if d < 1 or size % (4 + dtype.itemsize * d):
        raise ValueError(
            f"{path}: begins with dimension {d}, which does not fit its {size} bytes. The file is "
            "damaged or of another format."
        )
    return _Vecs(path, np.memmap(path, [("d", "<i4"), ("x", dtype, (d,))], "r"))


class _Vecs:
    """Vectors of a .fvecs or .bvecs file as a matrix (n, d); read rows are checked, others not."""

    def __init__(self, path: Path, records: NDArray[Any]) -> None:
        self.path, self.records = path, records
        self.dtype, self.shape = records["x"].dtype, records["x"].shape

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows: slice | IdMatrix) -> NDArray[Any]:
        block = self.records[rows]
        if (block["d"] != self.shape[1]).any():
            raise ValueError(
                f"{self.path}: not all vectors have dimension {self.shape[1]}. The file is damaged."
            )
        return block["x"]


def open_file(path: Path, n_train: int | None, n_test: int | None, trusted: bool) -> Content:
    """Open a file by its ending; see ``open_hdf5`` and ``open_plain``."""
    if path.suffix in HDF5_ENDINGS:
        return open_hdf5(path, n_train, n_test, trusted)
    return open_plain(path, n_train, n_test)


def is_path(name: str | os.PathLike[str]) -> bool:
    """Tell whether ``name`` is meant as a path; ValueError when it is neither text nor a path.

    A registered name stays one beside a folder that is called the same, as figures/ has them.
    """
    if isinstance(name, os.PathLike):
        return True
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"dataset={name!r}: expected a name such as photo-sift, or the path of a file."
        )
    if Path(name).suffix in ENDINGS or os.sep in name:
        return True
    return not registry.is_known(name) and Path(name).exists()


def as_path(name: str | os.PathLike[str]) -> Path:
    """Return ``name`` as a path, with ~ expanded.

    FileNotFoundError where there is no such file or home folder; ValueError for unknown endings.
    """
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        raise FileNotFoundError(
            f"dataset={os.fspath(name)!r}: expected a file, but there is no such home folder. "
            "Write the path in full."
        ) from None
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(
            f"dataset={str(path)!r}: expected a file, found {kind} at {path.absolute()}. Check "
            "the path, or use a name such as photo-sift."
        )
    if path.suffix not in ENDINGS:
        raise ValueError(
            f"dataset={str(path)!r}: the ending {path.suffix!r} is unknown. Expected one of "
            f"{', '.join(ENDINGS)}."
        )
    return path
