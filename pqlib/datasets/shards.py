"""Folders of several files that hold one matrix: which belong to it, and the matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib._types import FloatMatrix

ENDINGS = (".parquet", ".npy")
_BASE = re.compile(r"(?<![a-z])(train|base|learn)(?![a-z])", re.IGNORECASE)
_QUERIES = re.compile(r"(?<![a-z])(test|query|queries)(?![a-z])", re.IGNORECASE)


def listed(folder: Path, known: Sequence[str]) -> tuple[list[Path], list[Path], list[Path]]:
    """Return a folder's shards of base vectors, those of queries, and files that are neither.

    Shards are the files whose ending is among the ``known`` ones, hidden files and those that begin
    with "_" apart. They come sorted by name, numbers in it compared as numbers: part-2 before
    part-10. Where names say train, base or learn, those are the base, and those that say test or
    query the queries; otherwise all are the base.

    Raises
    ------
    FileNotFoundError
        When there are no shards.
    ValueError
        When endings are mixed, or are not .parquet or .npy.
    """
    found = [
        path for path in folder.iterdir()
        if path.suffix in known and path.name[0] not in "._" and path.is_file()
    ]  # fmt: skip
    endings = sorted({path.suffix for path in found})
    if not found:
        raise FileNotFoundError(
            f"dataset={str(folder)!r}: expected a file, or a folder with files that end in "
            f"{' or '.join(ENDINGS)}, found a folder without. Check the path, or use a name such "
            "as photo-sift."
        )
    if len(endings) > 1:
        raise ValueError(
            f"{folder}: holds files of vectors that end in {', '.join(endings)}. Expected one "
            "ending for all, as they are read one after the other: name one file, or move the "
            "others away."
        )
    if endings[0] not in ENDINGS:
        raise ValueError(
            f"{folder}: holds files that end in {endings[0]}. Expected {' or '.join(ENDINGS)} in a "
            "folder; name one file of it."
        )
    found.sort(key=_natural)
    base = [path for path in found if _BASE.search(path.stem)]
    if not base:
        return found, [], []
    others = [path for path in found if path not in set(base)]
    queries = [path for path in others if _QUERIES.search(path.stem)]
    return base, queries, [path for path in others if path not in set(queries)]


def _natural(path: Path) -> tuple[list[str | int], str]:
    # Pieces of text and of digits take turns, so that like is compared with like.
    pieces = re.split(r"([0-9]+)", path.name)
    return [int(piece) if at % 2 else piece for at, piece in enumerate(pieces)], path.name


class Joined:
    """Matrices (n_i, d) one below the other, as one of (n, d); rows are asked for in order."""

    def __init__(self, paths: Sequence[Path], parts: Sequence[Any]) -> None:
        for path, part in zip(paths, parts, strict=True):
            if part.shape[1] != parts[0].shape[1]:
                raise ValueError(
                    f"{path}: has dimension {part.shape[1]}, {paths[0].name} "
                    f"{parts[0].shape[1]}. Expected the same in all files of a folder."
                )
        self._parts = parts
        self._edges = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape = (int(self._edges[-1]), int(parts[0].shape[1]))
        self.dtype = np.result_type(*(part.dtype for part in parts))
        self.stored = " and ".join(dict.fromkeys(stored(part) for part in parts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> FloatMatrix:
        wanted = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        result = np.empty((len(wanted), self.shape[1]), np.float32)
        cuts = np.searchsorted(wanted, self._edges)
        for part, first, low, high in zip(
            self._parts, self._edges, cuts, cuts[1:], strict=False
        ):  # fmt: skip
            if low < high:
                result[low:high] = part[wanted[low:high] - first]
        return result


def stored(source: Any) -> str:
    """Return the number type that a matrix has in its file."""
    return getattr(source, "stored", None) or str(source.dtype)
