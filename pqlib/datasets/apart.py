"""Files that may be broken or hostile: looked at in a process of their own first.

The C and C++ libraries that read HDF5 and parquet may crash, loop or take all memory on a file that
nobody made in good faith. So a file that this project neither made nor verified is walked in a
child process, with limits on time and memory where the system has them (Linux: both; macOS: time;
Windows: only the wait for it is limited); only if that ends well is it opened here. Run as a
script, this module is that child, so it imports nothing of the package: the module that walks
(``hdf5.py``, ``parquet.py``) is loaded from its file, and imports nothing of the package either.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

WALKERS = {"HDF5": ("h5py", "hdf5.py"), "parquet": ("pyarrow.parquet", "parquet.py")}
"""Of each kind of file: the library that reads it, and the module here with its ``walk``."""

CPU_SECONDS = 3
CPU_BYTES_A_SECOND = 20_000_000
SPARE_MEMORY = 256 << 20
WALL_SECONDS = 120
"""Beside a second for each megabyte: of a disk that is slow, not of work."""

VARIABLES = {
    # A library that reads files needs no threads, each of which would reserve memory.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ARROW_IO_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    # Foreign plugins would be code from elsewhere, loaded by what the file says.
    "HDF5_PLUGIN_PRELOAD": "::",
}


def ensure_walked(kind: str, files: Sequence[Path], notes: Path, **options: Any) -> None:
    """Walk files of one kind in a child process, unless that was done since they last changed.

    ``options`` go to the kind's ``walk``, as JSON holds them. The folder ``notes`` keeps what was
    walked; one that cannot be written costs walking again. However the walk fails, a ValueError is
    raised that names the file; RuntimeError where a child cannot import what this process has.
    """
    facts = [(os.path.abspath(path), os.stat(path)) for path in files]
    identity = [(path, of.st_size, of.st_mtime_ns, of.st_ctime_ns) for path, of in facts]
    key = repr((identity, sorted(options.items()))).encode()
    note = notes / hashlib.blake2b(key, digest_size=16).hexdigest()
    if os.path.isfile(note):  # no error where the folder may not be read
        return
    _walk_apart(kind, files, options)
    with contextlib.suppress(OSError):
        notes.mkdir(parents=True, exist_ok=True)
        note.touch()


def _walk_apart(kind: str, files: Sequence[Path], options: dict[str, Any]) -> None:
    # As an argument, thousands of names would be too long.
    order = {"kind": kind, "files": [os.path.abspath(path) for path in files], "options": options}
    seconds = WALL_SECONDS + sum(os.stat(path).st_size for path in files) / 1e6
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", __file__], input=json.dumps(order).encode(),
            capture_output=True, env={**os.environ, **VARIABLES}, check=False, timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise ValueError(
            f"{_last(files, late.stdout)[0]}: expected {_a(kind)} file of vectors, but reading it "
            f"did not end within {seconds:.0f} s. It is damaged or hostile, or lies on a disk that "
            "does not answer."
        ) from None
    if child.returncode == 0:
        return
    path, said = _last(files, child.stdout)
    if child.returncode == 1 and said is not None:
        raise ValueError(said or f"{path}: reading it takes more memory than it can hold.")
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
        f"{path}: expected {_a(kind)} file of vectors, but {how}. It is damaged or hostile; it was "
        "read in a process of its own, nothing else came to harm. Fetch it again."
    )


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "HDF5" else f"a {kind}"


def _last(files: Sequence[Path], output: bytes | None) -> tuple[Path, str | None]:
    """Return the file that a child was at, by what it printed, and its last words, if any."""
    place, words = 0, None
    for line in (output or b"").splitlines():
        with contextlib.suppress(ValueError):  # a library may print too
            match json.loads(line):
                case {"file": int(number)} if number < len(files):
                    place = number
                case {"wrong": str(said)}:
                    words = said
    return files[place], words


def allow(nbytes: int, memory: int) -> None:
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


def _announced(files: Sequence[str]) -> Iterator[Path]:
    for number, file in enumerate(files):
        print(json.dumps({"file": number}), flush=True)
        yield Path(file)


def _main() -> int:
    order = json.load(sys.stdin)
    library, name = WALKERS[order["kind"]]
    importlib.import_module(library)  # before the limits, as its code takes memory too
    spec = importlib.util.spec_from_file_location("walker", Path(__file__).with_name(name))
    assert spec is not None
    assert spec.loader is not None
    walker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(walker)
    _limit()
    try:
        walker.walk(_announced(order["files"]), allow, **order["options"])
    except (MemoryError, ValueError) as problem:
        # The words of an error of memory name no file.
        said = "" if isinstance(problem, MemoryError) else str(problem)
        print(json.dumps({"wrong": said}))
        return 1
    return 0


if __name__ == "__main__":
    # Without the interpreter's tidying up: closing a damaged file may crash, and is of no use.
    status = _main()
    sys.stdout.flush()
    os._exit(status)
