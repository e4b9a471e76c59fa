"""Opening files of vectors: ann-benchmarks' HDF5, plain formats, parquet, folders of shards."""

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
from pqlib.datasets import apart, hdf5, parquet, plain, registry, shards
from pqlib.datasets.checksums import unaltered

IdMatrix = NDArray[np.int64]

HDF5_ENDINGS = (".hdf5", ".h5")
PARQUET_ENDINGS = (".parquet",)
ENDINGS = (*HDF5_ENDINGS, *plain.ENDINGS, *PARQUET_ENDINGS)
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
        apart.ensure_walked("HDF5", [path], registry.cache_folder() / "walked")
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


def open_plain(
    path: Path, n_train: int | None, n_test: int | None, column: str | None = None
) -> Content:
    """Read vectors without ground truth: a plain file, a parquet file, or a folder of shards.

    A folder holds .parquet or .npy files (``pqlib.datasets.shards.listed`` says in which order). In
    parquet, ``column`` names the column of lists; by default it is ``emb``, ``embedding``,
    ``embeddings`` or ``vector``, or else the only one of lists of numbers.

    The queries are the file or folder beside it that is called "query" where it is called "base" or
    "learn", "test" where "train" ("sift_base.fvecs", "sift_query.fvecs"; train.parquet,
    test.parquet), or the shards of the folder that are called so. Without them, rows drawn at
    random, by the seed 0, are held out as queries: ``n_test`` of them, by default 1,000 or a tenth.
    ValueError when a size does not fit its header, it holds no matrix of numbers, or the column is
    not there or ambiguous.
    """
    base, asked, left = _shards(path)
    companion = path if asked else _companion(path)
    asked = asked or (_shards(companion)[0] if companion else [])
    rows: int | IdMatrix
    chosen: int | IdMatrix
    if companion is not None:
        source = _source(base, column, "n_train", n_train)
        queries = _source(asked, column, "n_test", n_test)
        available = len(source)
        if queries.shape[1] != source.shape[1]:
            raise ValueError(
                f"{asked[0]} has dimension {queries.shape[1]}, {base[0].name} {source.shape[1]}. "
                "Expected the same: rename one if they do not belong together."
            )
        rows = n = _rows_wanted("n_train", n_train, available, path)
        chosen = _rows_wanted("n_test", n_test, len(queries), companion)
        notes = [f"queries from {asked[0].name if asked[1:] == [] else companion.name}"]
    else:
        source = _source(base, column)
        if len(source) < 2:
            raise ValueError(f"{path}: holds one vector. Expected a base and at least one query.")
        usual = max(1, min(1000, len(source) // 10))
        nq = _rows_wanted("n_test", usual if n_test is None else n_test, len(source) - 1, path)
        chosen = np.sort(np.random.default_rng(0).choice(len(source), nq, replace=False))
        others = np.delete(np.arange(len(source)), chosen)
        queries, available = source, len(others)
        n = _rows_wanted("n_train", n_train, available, path)
        rows = others[:n]
        notes = [f"{nq} vectors of the file, drawn at random, held out as queries"]
    if len(base) > 1:
        notes.append(f"{len(base)} files, from {base[0].name} to {base[-1].name}")
    if left:
        notes.append(f"not read: {', '.join(file.name for file in left)}")
    if not np.can_cast(source.dtype, np.float32):
        notes.append(f"{shards.stored(source)} rounded to float32")
    return Content(
        _as_float32(source, rows, str(path)),
        _as_float32(queries, chosen, str(companion or path)),
        None,
        "euclidean",
        shards.stored(source),
        n < available,
        tuple(notes),
    )


def _shards(path: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Return files of base vectors, of queries, and those that are neither."""
    return shards.listed(path, ENDINGS) if path.is_dir() else ([path], [], [])


def _companion(path: Path) -> Path | None:
    for word, other in (("base", "query"), ("learn", "query"), ("train", "test")):
        beside = path.with_name(path.name.replace(word, other))
        if word in path.stem and (beside.is_dir() if path.is_dir() else beside.is_file()):
            return beside
    return None


def _source(
    paths: list[Path], column: str | None, name: str = "", wanted: int | None = None
) -> Any:
    """Return the vectors of files, one after the other, of which the first ``wanted`` are read.

    Parquet files are walked in a process of their own first. ``name`` is that of the argument.
    """
    rows = None if wanted is None else _checks.integer(name, wanted, 1)
    if len(paths) > 1:
        for path in paths:
            unaltered(path)
    if paths[0].suffix in PARQUET_ENDINGS:
        parquet.library()
        notes = registry.cache_folder() / "walked"
        apart.ensure_walked("parquet", paths, notes, column=column, rows=rows)
        parts: list[Any] = [parquet.Vectors(paths[0], column)]
        parts += [parquet.Vectors(path, parts[0].name) for path in paths[1:]]
    else:
        _refuse_column(paths[0], column)
        parts = [plain.mapped(path) for path in paths]
    return parts[0] if len(parts) == 1 else shards.Joined(paths, parts)


def _refuse_column(path: Path, column: str | None) -> None:
    if column is not None:
        raise ValueError(
            f"column={column!r}: {path} has no columns. Expected None; only .parquet has them."
        )


def open_file(
    path: Path, n_train: int | None, n_test: int | None, trusted: bool, column: str | None = None
) -> Content:
    """Open a file by its ending, or a folder; see ``open_hdf5`` and ``open_plain``."""
    if not isinstance(column, str | None):
        raise ValueError(f"column={column!r}: expected the name of a column of a .parquet file.")
    if path.suffix in HDF5_ENDINGS and not path.is_dir():
        _refuse_column(path, column)
        return open_hdf5(path, n_train, n_test, trusted)
    return open_plain(path, n_train, n_test, column)


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
    """Return ``name`` as a path of a file or a folder, with ~ expanded.

    FileNotFoundError where there is no such file or home folder; ValueError for unknown endings.
    """
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        raise FileNotFoundError(
            f"dataset={os.fspath(name)!r}: expected a file, but there is no such home folder. "
            "Write the path in full."
        ) from None
    if path.is_dir():
        return Path(os.path.abspath(path))  # "." has no name, after which a data set is called
    if not path.is_file():
        raise FileNotFoundError(
            f"dataset={str(path)!r}: expected a file, found nothing at {path.absolute()}. Check "
            "the path, or use a name such as photo-sift."
        )
    if path.suffix not in ENDINGS:
        raise ValueError(
            f"dataset={str(path)!r}: the ending {path.suffix!r} is unknown. Expected one of "
            f"{', '.join(ENDINGS)}."
        )
    return path
