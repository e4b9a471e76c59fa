"""HDF5 files that may be broken or hostile: looked at in a process of their own first.

The C library that reads them may crash, loop or take all memory on a file that nobody made in good
faith. So a file that this project neither made nor verified is walked in a child process, with
limits on time and memory where the system has them (Linux: both; macOS: time; Windows: only the
wait for it is limited); only if that ends well is it opened here. Run as a script, this module is
that child, so it imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py

PARTS = ("train", "test", "neighbors", "distances")
MOST_EXPANSION = 256
"""Bytes of vectors for one in the file, at most: real ones compress by 10, seldom by 50."""
LARGEST_CHUNK = 64 << 20
"""Bytes of a chunk that is larger than its data set, at most."""
BLOCK_BYTES = 1 << 24

CPU_SECONDS = 3
CPU_BYTES_A_SECOND = 20_000_000
SPARE_MEMORY = 256 << 20
WALL_SECONDS = 120
"""Beside a second for each megabyte: of a disk that is slow, not of work."""


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


def walk(path: Path) -> None:
    """Read all that is ever read of a file, in blocks; ValueError when something is amiss."""
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
            _allow(found.nbytes, 4 * _chunk_bytes(found) + min(rows, len(found)) * width)
            for start in range(0, len(found), rows):
                found[start : start + rows]


def ensure_walked(path: Path, notes: Path) -> None:
    """Walk a file in a child process, unless that was done since it last changed.

    The folder ``notes`` keeps which files were walked; one that cannot be written costs walking
    again. However the walk fails, a ValueError is raised.
    """
    facts = os.stat(path)
    identity = (os.path.abspath(path), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    note = notes / hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()
    if os.path.isfile(note):  # no error where the folder may not be read
        return
    _walk_apart(path)
    with contextlib.suppress(OSError):
        notes.mkdir(parents=True, exist_ok=True)
        note.touch()


def _walk_apart(path: Path) -> None:
    command = [sys.executable, "-P", "-W", "ignore", __file__, os.path.abspath(path)]
    # A library that reads files needs no threads, each of which would reserve memory.
    variables = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # Foreign plugins would be code from elsewhere, loaded by what the file says.
    variables["HDF5_PLUGIN_PRELOAD"] = "::"
    seconds = WALL_SECONDS + os.stat(path).st_size / 1e6
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=variables, check=False,
            timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{path}: expected an HDF5 file of vectors, but reading it did not end within "
            f"{seconds:.0f} s. It is damaged or hostile, or lies on a disk that does not answer."
        ) from None
    if child.returncode == 0:
        return
    said = child.stdout.decode(errors="replace").strip()
    if child.returncode == 1 and said.startswith('"'):
        raise ValueError(json.loads(said))
    if b"No module named" in child.stderr:
        raise RuntimeError(
            f"{sys.executable} cannot import what this process has: "
            f"{child.stderr.decode(errors='replace').strip().splitlines()[-1]}. Install pqlib "
            "where that Python looks."
        )
    how = f"it crashes the library, exit status {child.returncode}"
    if os.name != "nt" and child.returncode == -signal.SIGXCPU:
        how = "it keeps the library busy without end"
    raise ValueError(
        f"{path}: expected an HDF5 file of vectors, but {how}. It is damaged or hostile; it was "
        "read in a process of its own, nothing else came to harm. Fetch it again."
    )


def _words(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300] or type(problem).__name__


def _allow(nbytes: int, memory: int) -> None:
    """Allow the child time for another so many bytes, and so much memory at once."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        seconds = math.ceil(nbytes / CPU_BYTES_A_SECOND)
        for what, more in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory)):
            now, hard = resource.getrlimit(what)
            if now != resource.RLIM_INFINITY:
                resource.setrlimit(what, (now + more, hard))


def _limit() -> None:
    """Bound time and memory of this process, where the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        def lower(what: int, value: int) -> None:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(what, (value, resource.getrlimit(what)[1]))

        lower(resource.RLIMIT_CORE, 0)
        used = resource.getrusage(resource.RUSAGE_SELF)  # by what was imported so far
        lower(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + CPU_SECONDS)
        with open("/proc/self/statm", "rb") as file:
            mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        lower(resource.RLIMIT_AS, mapped + SPARE_MEMORY)


def _main() -> int:
    _limit()
    try:
        walk(Path(sys.argv[1]))
    except (MemoryError, ValueError) as problem:
        said = str(problem) or f"{sys.argv[1]}: reading it takes more memory than it can hold."
        print(json.dumps(said))
        return 1
    return 0


if __name__ == "__main__":
    # Without the interpreter's tidying up: closing a damaged file may crash, and is of no use.
    status = _main()
    sys.stdout.flush()
    os._exit(status)
