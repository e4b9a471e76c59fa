"""Files that appear at once, when they are complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows has other locks; there, what a killed process left behind stays
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], parents: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the place of ``path`` when the block ends.

    Killed at any moment, the old file or the new one is there in full. When the block raises, the
    old one stays and nothing else. Until then the content is in a hidden file beside it; those that
    killed processes left there are removed. ``parents`` makes the folder if need be.
    """
    final = Path(path)
    if parents:
        final.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(final)
    partial, file = _locked(final)
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        if os.name == "nt":  # where an open file cannot be renamed
            file.close()
        os.replace(partial, final)
    finally:
        # A full disk may be noticed only now, again: what counts was synchronized before.
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            partial.unlink()  # where it has not become the file


def _locked(final: Path) -> tuple[Path, IO[bytes]]:
    """Create a file that nobody else writes, and lock it, as the sign that its writer lives."""
    while True:
        # Not by the number of the process: another machine may have the same in the same folder.
        partial = final.with_name(f".{final.name}.{secrets.token_hex(8)}.part")
        file = open(partial, "x+b")  # noqa: SIM115
        if fcntl is None:
            return partial, file
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if _same(partial, file):
            return partial, file
        file.close()  # somebody took it for abandoned between the two


def _same(path: Path, file: IO[Any]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    return False


def _remove_abandoned(final: Path) -> None:
    """Remove what writers of ``final`` left behind that live no more."""
    if fcntl is None:
        return
    kind = re.compile(rf"\.{re.escape(final.name)}\.[0-9a-f]+\.part")
    with contextlib.suppress(OSError):
        for place in filter(lambda path: kind.fullmatch(path.name), final.parent.iterdir()):
            with contextlib.suppress(OSError), open(place, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same(place, file):
                    place.unlink()
