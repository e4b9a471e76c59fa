"""Parquet files with a column of lists of numbers, or of texts, which may be broken or hostile.

They are read in blocks, never as a whole and never as Python's lists. ``walk`` runs in a child
process (``apart.py``), so this module imports nothing of the package; pyarrow is imported late.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("emb", "embedding", "embeddings", "vector")
"""Columns that are taken for the vectors, where none is named."""
MOST_EXPANSION = 256
"""Bytes of numbers for one in the file, at most: real ones compress by 10, seldom by 50."""
BLOCK_BYTES = 1 << 24
TEXTS = 1024
"""Texts that are read at a time."""


def library() -> Any:
    """Return ``pyarrow``, with its parquet part; ImportError that says how to install it."""
    try:
        import pyarrow.parquet
    except ImportError as problem:
        raise ImportError(
            f"a .parquet file needs pyarrow, which cannot be imported ({problem}): "
            "pip install 'pqlib[parquet]', in a clone pip install -e '.[parquet]'."
        ) from None
    return pyarrow


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file; whatever the library then says of its content becomes a ValueError."""
    reader = library().parquet
    try:
        # Buffered, so that no column of a row group, which may be all of it, is read in one go.
        file = reader.ParquetFile(
            path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        )
    except MemoryError:
        raise
    except Exception as problem:
        raise ValueError(
            f"{path}: expected a parquet file, but it cannot be opened as one ({_words(problem)}). "
            "It is damaged, incomplete or something else; fetch it again."
        ) from None
    with file:
        try:
            yield file
        except MemoryError:
            raise
        except Exception as problem:
            if isinstance(problem, ValueError) and str(path) in str(problem):
                raise  # on purpose
            raise ValueError(
                f"{path}: expected a parquet file, but a part of it cannot be read "
                f"({_words(problem)}). It is damaged; fetch it again."
            ) from None


class Vectors:
    """A column of lists as a matrix (n, d), whose rows are read in order.

    Rows in brackets, a slice or ascending numbers, give an array of the column's number type;
    going back starts at the file's beginning. ``allow(nbytes, memory)`` is called before so many
    bytes are read, so much memory at once.

    Raises
    ------
    ValueError
        When the column is not there or ambiguous, a list or a number is null, lists differ in
        length, there are no rows, or more bytes are claimed than the file's size can explain.
    """

    def __init__(
        self, path: Path, column: str | None = None, allow: Callable[[int, int], None] | None = None
    ) -> None:
        self.path = path
        with opened(path) as file:
            fields = list(file.schema_arrow)
            numbers = {field.name: _numbers(field.type) for field in fields}
            self.name = _found(path, fields, column, lambda f: numbers[f.name] is not None)
            kind = numbers[self.name]
            assert kind is not None
            self.dtype: np.dtype[Any] = kind
            n = _rows(path, file)
            claimed, largest = _claims(path, file, self.name, kind.itemsize)
        width = max(1, claimed // n)
        self._batch = max(1, min(1 << 16, BLOCK_BYTES // width))
        if allow is not None:
            allow(claimed, 4 * max(BLOCK_BYTES, width) + 2 * largest)
        self.shape = (n, 0)
        self._start, self._blocks = 0, self._read()
        self._block = next(self._blocks)
        self.shape = (n, self._block.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        wanted = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        if wanted[0] < self._start:
            self._start, self._blocks = 0, self._read()
            self._block = next(self._blocks)
        result = np.empty((len(wanted), self.shape[1]), self.dtype)
        while True:
            low, high = np.searchsorted(wanted, (self._start, self._start + len(self._block)))
            result[low:high] = self._block[wanted[low:high] - self._start]
            if high == len(wanted):
                return result
            self._advance()

    def skim(self, rows: int | None) -> int:
        """Read the first ``rows`` rows, or all, keeping none; return how many there are of them."""
        n = len(self) if rows is None else min(rows, len(self))
        while self._start + len(self._block) < n:
            self._advance()
        return n

    def _advance(self) -> None:
        self._start += len(self._block)
        self._block = next(self._blocks)

    def _read(self) -> Iterator[NDArray[Any]]:
        done, n = 0, self.shape[0]
        with opened(self.path) as file:
            for batch in file.iter_batches(self._batch, columns=[self.name], use_threads=False):
                if not len(batch):
                    continue
                block = self._matrix(batch.column(self.name), done)
                done += len(block)
                if done > n:
                    break
                yield block
        raise ValueError(
            f"{self.path}: says that it has {n:,} rows, but has {'more' if done > n else done}. "
            "It is damaged; fetch it again."
        )

    def _matrix(self, lists: Any, start: int) -> NDArray[Any]:
        """Return a batch of the column as a matrix; its first row is number ``start``."""

        def wrong(row: int, what: str) -> ValueError:
            return ValueError(
                f"{self.path}: row {start + row} of the column {self.name!r} {what}. Expected as "
                "many numbers in each row, and no nulls; leave such rows out or mend them."
            )

        if lists.null_count:
            raise wrong(_first(lists.is_null()), "is null")
        values = lists.flatten()
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
        d = self.shape[1] or int(lengths[0])
        unlike = np.flatnonzero(lengths != d)
        if len(unlike):
            row = int(unlike[0])
            raise wrong(row, f"has {lengths[row]} numbers, the first one {d}")
        if d == 0:
            raise wrong(0, "has no numbers")
        if values.null_count:
            raise wrong(_first(values.is_null()) // d, "holds a null")
        matrix: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(len(lists), d)
        return matrix


def strings(
    path: Path, column: str | None = None, allow: Callable[[int, int], None] | None = None
) -> Iterator[list[str | None]]:
    """Yield the texts of a column, some at a time; by default of ``text``, or the only one.

    ValueError when the column is not there or ambiguous, or the file is damaged.
    """
    types = library().types
    with opened(path) as file:
        fields = list(file.schema_arrow)
        is_text = lambda f: types.is_string(f.type) or types.is_large_string(f.type)  # noqa: E731
        name = _found(path, fields, column, is_text, ("text",), "texts")
        _rows(path, file)
        claimed, largest = _claims(path, file, name, 1)
        if allow is not None:
            allow(claimed, 4 * largest)
        for batch in file.iter_batches(TEXTS, columns=[name], use_threads=False):
            yield batch.column(name).to_pylist()


def walk(
    paths: Iterable[Path],
    allow: Callable[[int, int], None],
    column: str | None = None,
    rows: int | None = None,
    texts: bool = False,
) -> None:
    """Read what will be read of files: the first ``rows`` rows of all, or everything.

    ValueError when something is amiss.
    """
    for path in paths:
        if texts:
            for _ in strings(path, column, allow):
                pass
            continue
        found = Vectors(path, column, allow)
        column = found.name
        read = found.skim(rows)
        rows = None if rows is None else rows - read


def _numbers(kind: Any) -> np.dtype[Any] | None:
    """Return the number type of a type of lists, None for any other type."""
    types = library().types
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return None
    value = kind.value_type
    number = types.is_floating(value) or types.is_integer(value)
    return np.dtype(value.to_pandas_dtype()) if number else None


def _found(
    path: Path,
    fields: Sequence[Any],
    column: str | None,
    fits: Callable[[Any], bool],
    names: Sequence[str] = NAMES,
    what: str = "lists of numbers",
) -> str:
    """Return the name of the column that is meant, or raise ValueError."""
    fitting = [field.name for field in fields if fits(field)]
    known = [name for name in fitting if name in names] or fitting
    candidates = known if column is None else [name for name in fitting if name == column]
    if len(candidates) == 1:
        return str(candidates[0])
    asked = "" if column is None else f"column={column!r}: "
    listed = ", ".join(f"{field.name} ({field.type})" for field in fields)[:500]
    if candidates:
        raise ValueError(
            f"{asked}{path} has several columns that may be meant: {', '.join(candidates)}. Name "
            "one of them with column=, which needs a name that no other column has."
        )
    raise ValueError(
        f"{asked}{path} has no such column. Expected one of {what}; it has {listed or 'none'}."
    )


def _rows(path: Path, file: Any) -> int:
    n = int(file.metadata.num_rows)
    if n < 1:
        raise ValueError(f"{path}: is empty, {n} rows. Expected at least one.")
    return n


def _claims(path: Path, file: Any, name: str, itemsize: int) -> tuple[int, int]:
    """Return the bytes of a column's values, and of its largest piece, as the file says.

    ValueError where they are more than the file's size can explain.
    """
    leaves = [file.schema.column(at).path for at in range(len(file.schema))]
    own = [at for at, leaf in enumerate(leaves) if leaf == name or leaf.startswith(f"{name}.")]
    if len(own) != 1:
        raise ValueError(f"{path}: the column {name!r} is no plain one, but {len(own)} together.")
    groups = [file.metadata.row_group(at).column(own[0]) for at in range(file.num_row_groups)]
    packed = sum(group.total_compressed_size for group in groups)
    unpacked = [group.total_uncompressed_size for group in groups]
    claimed = max(sum(unpacked), itemsize * sum(group.num_values for group in groups))
    size = os.stat(path).st_size
    if packed > size or claimed > MOST_EXPANSION * packed:
        raise ValueError(
            f"{path}: the column {name!r} says that it holds {claimed:,} bytes, in {packed:,} "
            f"bytes of a file of {size:,}. Expected at most {MOST_EXPANSION} for one: it is "
            "damaged or made to exhaust memory. If it is yours, store it uncompressed and without "
            "a dictionary."
        )
    return claimed, max(unpacked)


def _first(flags: Any) -> int:
    return int(np.flatnonzero(flags.to_numpy(zero_copy_only=False))[0])


def _words(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300] or type(problem).__name__
