"""The SHA-256 that is recorded beside a file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tqdm import tqdm

from pqlib.datasets import registry

CHUNK = 1 << 20
SUMS = re.compile(
    r"^(?:\\?(?P<hex>[0-9a-fA-F]{64})(?:[ \t]+\*?(?P<named>.*))?"
    r"|SHA256 \((?P<name>.*)\) = (?P<digest>[0-9a-fA-F]{64}))\s*$",
    re.MULTILINE,
)


def recorded(path: Path) -> str | None:
    """Return the SHA-256 that is recorded beside a file, None where there is no record.

    The record may be what sha256sum writes, or BSD's sha256; a line that names the file counts, or
    the only one. Something else of that name is no record of a file that is not ours, and a
    ValueError for one that was downloaded or came with the package.
    """
    record = sum_file(path)
    if not record.is_file():
        return None
    with record.open("rb") as file:
        text = file.read(1 << 16).decode("utf-8", "replace")
    found = [(m["named"] or m["name"] or "", m["hex"] or m["digest"]) for m in SUMS.finditer(text)]
    named = [digest for name, digest in found if name.strip() == path.name]
    if named or len(found) == 1:
        return (named or [found[0][1]])[0].lower()
    if is_ours(path):
        raise ValueError(
            f"{record}: expected a SHA-256 of 64 hexadecimal digits, found {text[:80]!r}. Delete "
            f"it and {path.name}, and fetch the data again."
        )
    return None


def is_ours(path: Path) -> bool:
    """Tell whether a file lies where only this package writes: in itself, or in the cache."""
    folder = path.resolve().parent
    package = Path(__file__).resolve().parents[1] / "data"
    return folder in (package, registry.cache_folder().resolve())


def unaltered(path: Path, progress: bool = False) -> bool:
    """Compare a file with its recorded SHA-256; raise ValueError when they differ.

    False where none is recorded.
    """
    expected = recorded(path)
    if expected is None:
        return False
    actual = sha256(path, progress)
    if actual != expected:
        raise ValueError(
            f"{path}: its SHA-256 is {actual}, but {expected} was recorded when it was made or "
            "downloaded. The file was changed or damaged since: delete it and fetch it again."
        )
    return True


def sum_file(path: Path) -> Path:
    """Return where the SHA-256 of a downloaded file is recorded."""
    return path.with_name(path.name + ".sha256")


def sha256(path: Path, progress: bool = False) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file, byte_bar("SHA-256", path.stat().st_size, progress) as bar:
        while block := file.read(CHUNK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def byte_bar(what: str, total: int | None, progress: bool, initial: int = 0) -> tqdm:
    """Return a bar of bytes, for terminals only."""
    return tqdm(
        desc=what, total=total, initial=initial, unit="B", unit_scale=True,
        disable=None if progress else True,
    )  # fmt: skip
