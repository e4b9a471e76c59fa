"""Opening files of vectors: ann-benchmarks' HDF5 and the plain formats."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

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


def rows_wanted(name: str, wanted: Any, available: int) -> int:
    """Return how many of ``available`` rows to read, or raise ValueError."""
    if wanted is None:
        return available
    if isinstance(wanted, bool) or not isinstance(wanted, int | np.integer):
        raise ValueError(f"{name}={wanted!r}: expected a whole number, or None for all.")
    if not 1 <= wanted <= available:
        raise ValueError(
            f"{name}={wanted}: expected a number in 1..{available}, the rows that there are. "
            "Use None for all."
        )
    return int(wanted)


def as_float32(source: Any, rows: int, what: str) -> FloatMatrix:
    """Return the first ``rows`` of ``source`` as float32, read and checked in blocks.

    Raises
    ------
    ValueError
        When a value is NaN or infinite (also one too large for float32).
    """
    d = source.shape[1]
    result = np.empty((rows, d), np.float32)
    step = max(1, BLOCK_BYTES // (max(4, source.dtype.itemsize) * d))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        with np.errstate(over="ignore"):
            result[start:stop] = source[start:stop]
        good = np.isfinite(result[start:stop]).all(axis=1)
        if not good.all():
            raise ValueError(
                f"{what}: vector {start + int(np.argmin(good))} holds NaN or infinity. Expected "
                "finite numbers; the file is damaged or not meant for this."
            )
    return result


def open_hdf5(path: Path, n_train: int | None, n_test: int | None) -> Content:
    """Read ann-benchmarks' layout: train, test, neighbors, distances.

    Raises
    ------
    ValueError
        When it is no HDF5 file, lacks a part, or shapes disagree.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as problem:
        raise ValueError(
            f"{path}: expected an HDF5 file of vectors, but it cannot be opened as one "
            f"({problem}). It is damaged, incomplete or something else; fetch it again."
        ) from None
    with file:
        parts = {name: _part(file, path, name) for name in ("train", "test")}
        if parts["train"].shape[1] != parts["test"].shape[1]:
            raise ValueError(
                f"{path}: train has dimension {parts['train'].shape[1]}, test "
                f"{parts['test'].shape[1]}. Expected the same; the file is damaged."
            )
        n, nq = len(parts["train"]), len(parts["test"])
        rows = rows_wanted("n_train", n_train, n)
        queries = rows_wanted("n_test", n_test, nq)
        neighbors = distances = None
        has = [name in file for name in ("neighbors", "distances")]
        if all(has):
            truth = [_part(file, path, name) for name in ("neighbors", "distances")]
            if truth[0].shape != truth[1].shape or len(truth[0]) != nq:
                raise ValueError(
                    f"{path}: neighbors is {truth[0].shape} and distances {truth[1].shape} for "
                    f"{nq} queries. Expected both to have a row for each query."
                )
            neighbors = truth[0][:queries].astype(np.int64)
            distances = as_float32(truth[1], queries, f"{path}, distances")
            if neighbors.min() < 0 or neighbors.max() >= n:
                raise ValueError(
                    f"{path}: neighbors names vector {int(neighbors.max())} of {n}. Expected row "
                    "numbers of train; the file is damaged."
                )
        elif any(has):
            raise ValueError(f"{path}: has only one of neighbors and distances. Expected both.")
        word = file.attrs.get("distance", "euclidean")
        return Content(
            as_float32(parts["train"], rows, f"{path}, train"),
            as_float32(parts["test"], queries, f"{path}, test"),
            neighbors,
            distances,
            word.decode() if isinstance(word, bytes) else str(word),
            str(parts["train"].dtype),
            n,
            nq,
        )


def _part(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    link = file.get(name, getlink=True)
    if link is None:
        raise ValueError(
            f"{path}: has no {name!r}. Expected ann-benchmarks' layout: train, test, neighbors, "
            "distances."
        )
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{path}: {name!r} is a link out of the file. Expected the data itself.")
    part = file[name]
    if not isinstance(part, h5py.Dataset) or part.ndim != 2 or part.dtype.kind not in "iuf":
        raise ValueError(f"{path}: {name!r} is no matrix of numbers. Expected one, (rows, d).")
    if part.external or part.is_virtual:
        raise ValueError(f"{path}: {name!r} keeps its data in other files, which is refused.")
    if 0 in part.shape:
        raise ValueError(f"{path}: {name!r} is empty, {part.shape}. Expected at least one row.")
    return part


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
        rows = rows_wanted("n_train", n_train, len(source))
        nq = rows_wanted("n_test", n_test, len(queries))
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
    nq = rows_wanted("n_test", n_test, len(source) - 1) if n_test else 0
    nq = nq or max(1, min(1000, len(source) // 10))
    held_out = np.sort(np.random.default_rng(seed).choice(len(source), nq, replace=False))
    everything = as_float32(source, len(source), str(path))
    base = np.delete(everything, held_out, axis=0)
    rows = rows_wanted("n_train", n_train, len(base))
    return Content(
        base[:rows],
        everything[held_out],
        None,
        None,
        "euclidean",
        str(source.dtype),
        len(base),
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


def _mapped(path: Path) -> NDArray[Any]:
    """Map a plain file of vectors, (n, d), after checking its size against its header."""
    size = path.stat().st_size
    if path.suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as problem:
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
    records = np.memmap(path, record, "r")
    if (records["d"] != d).any():
        raise ValueError(f"{path}: not all vectors have dimension {d}. The file is damaged.")
    return records["x"]


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
    """Tell whether ``name`` is meant as a path rather than as a registered name."""
    text = os.fspath(name)
    known = Path(text).suffix in (*HDF5_ENDINGS, *PLAIN_ENDINGS)
    return known or os.sep in text or not isinstance(name, str) or Path(text).exists()
