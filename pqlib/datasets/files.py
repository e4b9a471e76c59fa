"""Opening files of vectors: ann-benchmarks' HDF5 and the plain formats."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib.datasets import hdf5, registry

FloatMatrix = NDArray[np.float32]

HDF5_ENDINGS = (".hdf5", ".h5")
PLAIN_ENDINGS = (".fvecs", ".bvecs", ".fbin", ".u8bin", ".npy")
BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Content:
    """What a file holds, before it is made into a Dataset.

    ``neighbors`` (nq, k) int64 and ``distances`` (nq, k) float32 are None where the file has
    none; ``distance`` is the file's own word for its metric.
    """

    train: FloatMatrix
    test: FloatMatrix
    neighbors: NDArray[np.int64] | None
    distances: FloatMatrix | None
    distance: str
    stored_dtype: str
    n_train: int
    n_test: int
    note: str = ""


def rows_wanted(name: str, wanted: Any, available: int, path: Path) -> int:
    """Return how many of the ``available`` rows of a file to read, or raise ValueError."""
    if wanted is None:
        return available
    if isinstance(wanted, bool) or not isinstance(wanted, int | np.integer):
        raise ValueError(
            f"{name}={wanted!r}: expected a whole number of rows of {path}, or None for all."
        )
    if not 1 <= wanted <= available:
        raise ValueError(
            f"{name}={wanted}: expected a number in 1..{available}, as many as {path} has for "
            "it. Use None for all."
        )
    return int(wanted)


def as_float32(source: Any, rows: int | NDArray[np.int64], what: str) -> FloatMatrix:
    """Return the first ``rows`` of ``source``, or those listed, read and checked in blocks.

    Raises
    ------
    ValueError
        When a value is NaN, infinite, or so large that float32 cannot hold squared distances.
    MemoryError
        When there is not enough memory for them; says for how many bytes.
    """
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
    step = max(1, BLOCK_BYTES // (max(4, source.dtype.itemsize) * d))
    for start in range(0, count, step):
        stop = min(count, start + step)
        with np.errstate(over="ignore"):
            part = slice(start, stop)
            result[part] = source[part if isinstance(rows, int) else rows[part]]
        wrong = _checks.first_wrong(result[start:stop])
        if wrong is not None:
            value, row = result[start + wrong[0], wrong[1]], start + wrong[0]
            row = row if isinstance(rows, int) else int(rows[row])
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
    """Read ann-benchmarks' layout: train, test, neighbors, distances.

    Parameters
    ----------
    path : the file
    n_train, n_test : rows to read, the first ones; None: all
    trusted : whether its checksum was found to be the one recorded; other files are walked in a
        process of their own first

    Raises
    ------
    ValueError
        When it is no HDF5 file, lacks a part, or shapes disagree.
    """
    if not trusted:
        hdf5.ensure_walked(path, registry.cache_folder() / "walked")
    with hdf5.opened(path) as file:
        parts = {name: hdf5.part(file, path, name) for name in ("train", "test")}
        if parts["train"].shape[1] != parts["test"].shape[1]:
            raise ValueError(
                f"{path}: train has dimension {parts['train'].shape[1]}, test "
                f"{parts['test'].shape[1]}. Expected the same; the file is damaged."
            )
        n, nq = len(parts["train"]), len(parts["test"])
        rows = rows_wanted("n_train", n_train, n, path)
        queries = rows_wanted("n_test", n_test, nq, path)
        neighbors = distances = None
        has = [name in file for name in ("neighbors", "distances")]
        if all(has):
            truth = [hdf5.part(file, path, name) for name in ("neighbors", "distances")]
            if truth[0].shape != truth[1].shape or len(truth[0]) != nq:
                raise ValueError(
                    f"{path}: neighbors is {truth[0].shape} and distances {truth[1].shape} for "
                    f"{nq} queries. Expected both to have a row for each query."
                )
            neighbors = truth[0][:queries].astype(np.int64)
            distances = truth[1][:queries].astype(np.float32)
            if neighbors.min() < 0 or neighbors.max() >= n:
                stray = int(neighbors.min() if neighbors.min() < 0 else neighbors.max())
                raise ValueError(
                    f"{path}: neighbors names vector {stray} of {n}. Expected row "
                    "numbers of train; the file is damaged."
                )
        elif any(has):
            raise ValueError(f"{path}: has only one of neighbors and distances. Expected both.")
        return Content(
            as_float32(parts["train"], rows, f"{path}, train"),
            as_float32(parts["test"], queries, f"{path}, test"),
            neighbors,
            distances,
            hdf5.distance_word(file),
            str(parts["train"].dtype),
            n,
            nq,
        )


def open_plain(path: Path, n_train: int | None, n_test: int | None, seed: int = 0) -> Content:
    """Read a file of vectors without ground truth: .fvecs, .bvecs, .fbin, .u8bin, .npy.

    The queries are the file beside it that is called "query" where it is called "base" or
    "learn" ("sift_base.fvecs", "sift_query.fvecs"); without one, rows drawn by ``seed`` are held
    out as queries: ``n_test`` of them, by default 1,000 or a tenth of the file.

    Raises
    ------
    ValueError
        When the file's size does not fit its header, or it holds no matrix of numbers.
    """
    source = _mapped(path)
    companion = _companion(path)
    if companion is not None:
        queries = _mapped(companion)
        if queries.shape[1] != source.shape[1]:
            raise ValueError(
                f"{companion} has dimension {queries.shape[1]}, {path.name} {source.shape[1]}. "
                "Expected the same: rename one if they do not belong together."
            )
        rows = rows_wanted("n_train", n_train, len(source), path)
        nq = rows_wanted("n_test", n_test, len(queries), companion)
        return Content(
            as_float32(source, rows, str(path)),
            as_float32(queries, nq, str(companion)),
            None,
            None,
            "euclidean",
            str(source.dtype),
            len(source),
            len(queries),
            f"queries from {companion.name}",
        )
    if len(source) < 2:
        raise ValueError(f"{path}: holds one vector. Expected a base and at least one query.")
    usual = max(1, min(1000, len(source) // 10))
    nq = rows_wanted("n_test", usual if n_test is None else n_test, len(source) - 1, path)
    held_out = np.sort(np.random.default_rng(seed).choice(len(source), nq, replace=False))
    others = np.delete(np.arange(len(source)), held_out)
    rows = rows_wanted("n_train", n_train, len(others), path)
    return Content(
        as_float32(source, others[:rows], str(path)),
        as_float32(source, held_out, str(path)),
        None,
        None,
        "euclidean",
        str(source.dtype),
        len(others),
        nq,
        f"{nq} vectors of the file, drawn at random, held out as queries",
    )


def _companion(path: Path) -> Path | None:
    for word in ("base", "learn"):
        if word in path.stem:
            beside = path.with_name(path.name.replace(word, "query"))
            if beside.is_file():
                return beside
    return None


def _mapped(path: Path) -> Any:
    """Map a plain file of vectors, (n, d), after checking its size against its header."""
    size = path.stat().st_size
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
    if path.suffix in (".fbin", ".u8bin"):
        # big-ann-benchmarks: the numbers n and d as uint32, then the vectors.
        header = np.fromfile(path, "<u4", 2)
        n, d = (int(v) for v in header) if len(header) == 2 else (0, 0)
        dtype = np.dtype("<f4" if path.suffix == ".fbin" else "u1")
        if n < 1 or d < 1 or size != 8 + n * d * dtype.itemsize:
            raise ValueError(
                f"{path}: its header says {n} vectors of dimension {d}, which does not fit its "
                f"{size} bytes. The file is damaged or of another format."
            )
        return np.memmap(path, dtype, "r", 8, (n, d))
    # .fvecs, .bvecs (corpus-texmex): every vector preceded by its dimension as int32.
    width = 4 if path.suffix == ".fvecs" else 1
    first = np.fromfile(path, "<i4", 1)
    d = int(first[0]) if len(first) else 0
    stride = 4 + width * d
    if d < 1 or size % stride:
        raise ValueError(
            f"{path}: begins with dimension {d}, which does not fit its {size} bytes. The file is "
            "damaged or of another format."
        )
    record = np.dtype([("d", "<i4"), ("x", "<f4" if width == 4 else "u1", (d,))])
    return _Vecs(path, np.memmap(path, record, "r"))


class _Vecs:
    """Vectors of a .fvecs or .bvecs file as a matrix (n, d); read rows are checked, others not."""

    def __init__(self, path: Path, records: NDArray[Any]) -> None:
        self.path, self.records = path, records
        self.dtype = records["x"].dtype
        self.shape: tuple[int, int] = records["x"].shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        block = self.records[rows]
        if (block["d"] != self.shape[1]).any():
            raise ValueError(
                f"{self.path}: not all vectors have dimension {self.shape[1]}. The file is damaged."
            )
        return block["x"]


def opener(path: Path) -> Callable[[Path, int | None, int | None], Content]:
    """Return the function that opens a file, by its ending.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the ending is unknown.
    """
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(
            f"dataset={str(path)!r}: expected a file, found {kind} at {path.absolute()}. Check "
            "the path, or use a name such as photo-sift."
        )
    if path.suffix in HDF5_ENDINGS:
        return open_hdf5
    if path.suffix in PLAIN_ENDINGS:
        return open_plain
    raise ValueError(
        f"dataset={str(path)!r}: the ending {path.suffix!r} is unknown. Expected one of "
        f"{', '.join((*HDF5_ENDINGS, *PLAIN_ENDINGS))}."
    )


def is_path(name: str | os.PathLike[str]) -> bool:
    """Tell whether ``name`` is meant as a path rather than as a registered name.

    A registered name stays one beside a folder that is called the same, as figures/ has them.

    Raises
    ------
    ValueError
        When it is neither text nor a path.
    """
    if isinstance(name, os.PathLike):
        return True
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"dataset={name!r}: expected a name such as photo-sift, or the path of a file."
        )
    if Path(name).suffix in (*HDF5_ENDINGS, *PLAIN_ENDINGS) or os.sep in name:
        return True
    return not registry.is_known(name) and Path(name).exists()


def as_path(name: str | os.PathLike[str]) -> Path:
    """Return ``name`` as a path, with ~ expanded.

    Raises
    ------
    FileNotFoundError
        When ~ names nobody's folder.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise FileNotFoundError(
            f"dataset={os.fspath(name)!r}: expected a file, but there is no such home folder. "
            "Write the path in full."
        ) from None
