"""Texts to make vectors of: a line each, a key of JSON lines, a column of parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pqlib.datasets import apart, parquet, registry

ENDINGS = (".txt", ".jsonl", ".parquet")
KEY = "text"
"""Key of JSON lines, and column of parquet, unless another is named."""


def check(path: Path, column: str | None) -> None:
    """Raise FileNotFoundError or ValueError unless there is a file of texts, with such a column.

    A parquet file is read in a process of its own first, as it may be hostile.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"texts={str(path)!r}: expected a file, found none. Check the path."
        )
    if path.suffix not in ENDINGS:
        raise ValueError(
            f"texts={str(path)!r}: the ending {path.suffix!r} is unknown. Expected one of "
            f"{', '.join(ENDINGS)}."
        )
    if path.suffix == ".txt" and column is not None:
        raise ValueError(f"column={column!r}: {path} has none. Expected None for a .txt file.")
    if path.suffix == ".parquet":
        parquet.library()
        notes = registry.cache_folder() / "walked"
        apart.ensure_walked("parquet", [path], notes, column=column, texts=True)


def read(path: Path, column: str | None = None) -> Iterator[str]:
    """Yield the texts of a file in their order, blank ones (and nulls) as "".

    ValueError, with the line or row, where one is no text, no UTF-8, or holds a zero character.
    """
    if path.suffix == ".parquet":
        found = (text for block in parquet.strings(path, column) for text in block)
        for row, text in enumerate(found):
            yield _checked(text, f"{path}, row {row}")
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}, line {number}"
            try:
                words = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as problem:
                raise ValueError(f"{place}: {problem}. Expected UTF-8; convert the file.") from None
            if path.suffix == ".jsonl" and words.strip():
                yield _checked(_value(words, column or KEY, place), place)
            else:
                yield _checked(words, place)


def _value(line: str, key: str, place: str) -> object:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise ValueError(
            f"{place}: no JSON ({problem}). Expected an object in each line."
        ) from None
    if not isinstance(entry, dict) or key not in entry:
        keys = ", ".join(entry)[:200] if isinstance(entry, dict) else f"a {type(entry).__name__}"
        raise ValueError(
            f"{place}: has no {key!r}. Expected an object with that key, or another one named by "
            f"--column; it has {keys or 'nothing'}."
        )
    return entry[key]


def _checked(text: object, place: str) -> str:
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"{place}: is {text!r:.80}. Expected text.")
    # HDF5 ends a text at a zero, and holds UTF-8, which halves of a pair have none of.
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{place}: holds a zero or half a character. Expected text; remove it.")
    return text if text.strip() else ""
