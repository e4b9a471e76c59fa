"""HDF5 files in ann-benchmarks' layout, which may be broken or hostile.

``walk`` runs in a child process (``apart.py``), so this module imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import h5py

PARTS = ("train", "test", "neighbors", "distances")
MOST_EXPANSION = 256
"""Bytes of vectors for one in the file, at most: real ones compress by 10, seldom by 50."""
LARGEST_CHUNK = 64 << 20
"""Bytes of a chunk that is larger than its data set, at most."""
BLOCK_BYTES = 1 << 24


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file; whatever the library then says of its content becomes a ValueError."""
    try:
        file = h5py.File(path, "r")
    except Exception as problem:
        raise ValueError(
            f"{path}: expected an HDF5 file of vectors, but it cannot be opened as one "
            f"({_words(problem)}). It is damaged, incomplete or something else; fetch it again."
        ) from None
    with file:
        try:
            yield file
        except MemoryError:
            raise
        except Exception as problem:
            if isinstance(problem, ValueError) and str(path) in str(problem):
                raise  # on purpose
            # h5py has an exception of almost every kind for one or the other damage.
            raise ValueError(
                f"{path}: expected an HDF5 file of vectors, but a part of it cannot be read "
                f"({_words(problem)}). It is damaged; fetch it again."
            ) from None


def part(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    """Return the matrix ``name`` of a file, or raise ValueError.

    Refused are those kept in other files, and those that would take more memory than the file's
    size can explain.
    """
    link = file.get(name, getlink=True)
    if link is None:
        raise ValueError(
            f"{path}: has no {name!r}. Expected ann-benchmarks' layout: train, test, neighbors, "
            "distances."
        )
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{path}: {name!r} is a link out of the file. Expected the data itself.")
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.ndim != 2 or found.dtype.kind not in "iuf":
        raise ValueError(f"{path}: {name!r} is no matrix of numbers. Expected one, (rows, d).")
    if found.external or found.is_virtual:
        raise ValueError(f"{path}: {name!r} keeps its data in other files, which is refused.")
    if 0 in found.shape:
        raise ValueError(f"{path}: {name!r} is empty, {found.shape}. Expected at least one row.")
    held, size = found.id.get_storage_size(), os.stat(path).st_size
    if held > size or found.nbytes > MOST_EXPANSION * held:
        raise ValueError(
            f"{path}: {name!r} says that it holds {found.nbytes:,} bytes, in {held:,} bytes of a "
            f"file of {size:,}. Expected at most {MOST_EXPANSION} for one: it is damaged or made "
            "to exhaust memory. If it is yours, store it uncompressed."
        )
    chunk = _chunk_bytes(found)
    if chunk > max(LARGEST_CHUNK, found.nbytes):
        raise ValueError(
            f"{path}: {name!r} has chunks of {chunk:,} bytes, itself {found.nbytes:,}. Expected "
            "smaller ones; write it again, with chunks=True."
        )
    return found


def _chunk_bytes(found: h5py.Dataset) -> int:
    return int(found.dtype.itemsize * math.prod(map(int, found.chunks))) if found.chunks else 0


def distance_word(file: h5py.File) -> str:
    """Return the file's own word for its metric."""
    if "distance" not in file.attrs:
        return "euclidean"
    if file.attrs.get_id("distance").get_storage_size() > 1000:
        return "something long"
    word = file.attrs["distance"]
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


def walk(paths: Iterable[Path], allow: Callable[[int, int], None]) -> None:
    """Read all that is ever read of files, in blocks; ValueError when something is amiss.

    ``allow(nbytes, memory)`` is called before so many bytes are read, so much memory at once.
    """
    for path in paths:
        _walk(path, allow)


def _walk(path: Path, allow: Callable[[int, int], None]) -> None:
    with opened(path) as file:
        distance_word(file)
        for name in PARTS:
            if name not in file and name not in PARTS[:2]:
                continue
            found = part(file, path, name)
            width = found.dtype.itemsize * found.shape[1]
            tall = found.chunks[0] if found.chunks else 1
            # Whole chunks, so that none is unpacked more than once.
            rows = tall * max(1, BLOCK_BYTES // (tall * width))
            allow(found.nbytes, 4 * _chunk_bytes(found) + min(rows, len(found)) * width)
            for start in range(0, len(found), rows):
                found[start : start + rows]


def _words(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300] or type(problem).__name__
