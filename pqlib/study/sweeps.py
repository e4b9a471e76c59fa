"""Sweeps over parameters: measured point by point, kept on disk, resumed where they stopped.

A sweep with a store keeps each finished point as a line of a JSON-lines file. What is read back
are the very values that were measured, so that a resumed sweep's table is the undisturbed one's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import unicodedata
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib.quantizers import ProductQuantizer

STORE_FORMAT = 1
PROGRESS_FILE = ".progress.json"
LOCK_SECONDS = 60.0  # a killed run's kernel may live on for some seconds


class NotRun(Exception):
    """A configuration that cannot be trained, or not within the budget; says why."""


def training_multiplications(
    n: int, d: int, nbits: int, codebooks: str, sizes: NDArray[np.int64], max_train: int | None
) -> float:
    """Return the multiplications that training the codebooks of a MultiLevelPQ takes.

    ``n`` vectors of dimension ``d`` are trained on, ``sizes`` (n_inner,) of them in each inner
    cluster. Raises ``NotRun`` when no cluster, or not even all together, has 2**nbits residuals to
    train on.
    """
    ksub = 1 << nbits
    local = sizes[sizes >= ksub] if codebooks == "per-cluster" else sizes[:0]
    cost = sum(ProductQuantizer.training_cost(int(size), d, nbits) for size in local)
    if codebooks == "per-cluster" and len(local) == 0:
        raise NotRun(
            f"nbits={nbits} needs 2**nbits = {ksub:,} residuals in a cluster; the largest has "
            f"{int(sizes.max()):,}"
        )
    if len(local) < len(sizes):
        usable = n if max_train is None else min(n, max_train)
        if usable < ksub:
            raise NotRun(
                f"nbits={nbits} needs 2**nbits = {ksub:,} training vectors; there are {usable:,}"
            )
        cost += ProductQuantizer.training_cost(usable, d, nbits)
    return cost


def within_budget(cost: float, budget: float) -> None:
    """Raise ``NotRun`` when ``cost`` multiplications exceed ``budget``, saying what is needed."""
    if cost > budget:
        raise NotRun(
            f"training needs {cost:.2g} multiplications, {cost / budget:.1f} times the budget of "
            f"{budget:.2g}"
        )


def sweep(
    points: Iterable[Mapping[str, Any]],
    measure: Callable[..., Mapping[str, Any] | Iterable[Mapping[str, Any]]],
    progress: str | None = None,
    store: str | os.PathLike[str] | None = None,
    context: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Measure every point and return a tidy table, one row a measured point.

    With a store, each finished point is on disk before the next one begins, and a later call with
    the same points measures only what is not there yet. A stored point is known by the sweep's
    name, ``context`` and the point itself, not by ``measure``: sweeps that share a store need
    names of their own, or points that tell them apart.

    Parameters
    ----------
    points : keyword arguments of ``measure``, one mapping a point
    measure : returns a row, or several (an index searched in several ways)
    progress : what to call the progress bar and the store's file; None shows no bar
    store : folder of ``<name>.jsonl``, and of ``.progress.json`` while the sweep runs; None:
        nothing is kept, and the sweep always starts anew
    context : what the measurements depend on besides the points: data set, seed, sizes, versions.
        Points that were stored with another one are discarded.

    Returns
    -------
    DataFrame with the point's own columns, the measured ones, and "status": "ok", or "not run"
    with "reason". A point that raises ``NotRun`` (or the ``ValueError`` of an impossible
    argument) is such a row: left out it would look forgotten. NumPy's numbers become Python's, so
    a column is int64, float64 or bool, resumed or not.

    Raises ValueError when there is a store but no name, or a value that cannot be kept exactly;
    OSError when the store cannot be written, or another process is at work on the same sweep; and
    whatever else ``measure`` raises: the points before stay stored.
    """
    todo = [dict(point) for point in points]
    with contextlib.ExitStack() as stack:
        kept = None if store is None else stack.enter_context(_opened(store, progress, context))
        results = [None if kept is None else kept.take(point) for point in todo]
        missing = [place for place, result in enumerate(results) if result is None]
        restored = len(todo) - len(missing)
        bar = stack.enter_context(
            tqdm(
                total=len(todo),
                initial=restored,
                desc=progress,
                leave=False,
                smoothing=0,
                disable=None if progress else True,
            )
        )
        started = time.monotonic()
        for count, place in enumerate(missing):
            if kept is not None:
                pace = (time.monotonic() - started) / count if count else None
                left = None if pace is None else pace * (len(missing) - count)
                kept.show(restored + count, len(todo), left)
            measured = _measured(measure, todo[place])
            results[place] = measured if kept is None else kept.add(todo[place], measured)
            bar.update()
    rows: list[dict[str, Any]] = []
    for point, result in zip(todo, results, strict=True):
        assert result is not None
        end = {"status": result["status"], "reason": result["reason"]}
        own = {name: _plain(value) for name, value in point.items()}
        rows.extend({**own, **row, **end} for row in result["rows"])
    # Where pyarrow is installed pandas would keep text in it, which refuses what is no UTF-8.
    with pd.option_context("mode.string_storage", "python"):
        return pd.DataFrame(rows)


def _measured(measure: Callable[..., Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a point gave: "status", "reason" and "rows" without the point's own columns."""
    try:
        several = measure(**point)
        several = [several] if isinstance(several, Mapping) else list(several)
    except (NotRun, ValueError) as problem:
        return {"status": "not run", "reason": str(problem), "rows": [{}]}
    rows = [{name: _plain(value) for name, value in row.items()} for row in several]
    return {"status": "ok", "reason": "", "rows": rows}


# The store ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(
    store: str | os.PathLike[str], name: str | None, context: Mapping[str, Any] | None
) -> Iterator[_Store]:
    """Open a sweep's file for this process alone."""
    if not name:
        raise ValueError(
            f"progress={name!r}: expected a name, after which the sweep's file in "
            f"store={os.fspath(store)!r} is called. Give the sweep a name of its own."
        )
    folder = Path(store)
    slug = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", name)).strip("-.")[:80] or "sweep"
    lock = FileLock(folder / f".{slug}.lock")
    with _clear_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=LOCK_SECONDS)
    try:
        with _clear_errors(folder):
            kept = _Store(folder, f"{slug}.jsonl", name, context or {})
        yield kept
    finally:
        with contextlib.suppress(OSError):
            (folder / PROGRESS_FILE).unlink(missing_ok=True)
            (folder / f"{PROGRESS_FILE}.part").unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    """Let errors of the file system say what could not be done, and what to do."""
    try:
        yield
    except Timeout:
        raise TimeoutError(
            f"store={str(folder)!r}: another process has been at work on this sweep for the "
            f"{LOCK_SECONDS:.0f} s waited. Let it end, or give another folder."
        ) from None
    except OSError as problem:
        # With its number it stays a PermissionError, FileExistsError and so on.
        raise OSError(
            problem.errno,
            f"store={str(folder)!r}: the sweep's points cannot be kept there: {problem.strerror}. "
            "Make room, or give a folder that can be written; points stored before are kept.",
        ) from problem


class _Store:
    """The file of one sweep: a header, then a line for each finished point.

    A line has a check sum of the rest of it: a damaged one is measured again, never believed.
    """

    def __init__(self, folder: Path, file: str, name: str, context: Mapping[str, Any]) -> None:
        self.folder, self.path, self.name = folder, folder / file, name
        header = {
            "format": STORE_FORMAT,
            "name": name,
            "context": _encoded_columns(context, "context's"),
        }
        self._stored: dict[str, deque[dict[str, Any]]] = defaultdict(deque)
        first = json.dumps(header, sort_keys=True).encode() + b"\n"
        content = self.path.read_bytes() if self.path.exists() else b""
        if not content.startswith(first):
            # Of another context, or damaged: points of the two must not come into one table.
            self.path.write_bytes(b"")
            self._append(first)
            return
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)  # killed while it wrote the last line
        for line in content[len(first) : whole].split(b"\n"):
            entry = _read(line)
            if entry is not None:
                self._stored[_key(entry["point"])].append(entry)

    def take(self, point: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the result of a point, each stored one once; None where it is to be measured."""
        stored = self._stored.get(_key(_encoded_columns(point, "a point's")))
        return stored.popleft() if stored else None

    def add(self, point: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Store the result of a point and return it as it will be read back."""
        rows = [_encoded_columns(row, "a measured row's") for row in result["rows"]]
        record = {"point": _encoded_columns(point, "a point's"), **result, "rows": rows}
        line = json.dumps({"check": _check(record), **record}).encode()
        with _clear_errors(self.folder):
            self._append(line + b"\n")
        entry = _read(line)
        assert entry is not None
        return entry

    def show(self, done: int, total: int, seconds_left: float | None) -> None:
        """Write for others to see how far the sweep is; not worth an error."""
        state = {"name": self.name, "done": done, "total": total, "seconds_left": seconds_left}
        partial = self.folder / f"{PROGRESS_FILE}.part"  # this process alone is at work here
        with contextlib.suppress(OSError):
            partial.write_text(json.dumps(state), encoding="utf-8")
            partial.replace(self.folder / PROGRESS_FILE)

    def _append(self, line: bytes) -> None:
        with self.path.open("ab", buffering=0) as file:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())


def _read(line: bytes) -> dict[str, Any] | None:
    """Return "point" (encoded), "status", "reason" and "rows" of a line; None if damaged."""
    try:
        record = json.loads(line)
        if record.pop("check") != _check(record):
            return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    rows = [{name: _decoded(value) for name, value in row.items()} for row in record["rows"]]
    return {**record, "rows": rows}


def _check(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record).encode())


def _key(point: Mapping[str, Any]) -> str:
    """Return what an encoded point is found by, whatever the order of its columns."""
    return json.dumps(point, sort_keys=True)


# Values ------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Return NumPy's scalars, also those in lists, tuples and dicts, as Python's own."""
    if isinstance(value, (np.timedelta64, np.longdouble)):
        return value  # no Python number is as exact
    if isinstance(value, (np.bool_, np.integer, np.floating, np.str_)):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(_plain(part) for part in value)
    if type(value) is dict:
        return {_plain(name): _plain(part) for name, part in value.items()}
    return value


def _encoded_columns(row: Mapping[str, Any], whose: str) -> dict[str, Any]:
    for name in row:
        if not isinstance(name, str):
            raise ValueError(
                f"{whose} column {name!r}: expected a str as its name, so that it can be stored. "
                "Rename it, or pass store=None."
            )
    return {name: _encoded(value, f"{whose} {name}") for name, value in row.items()}


def _encoded(value: Any, what: str) -> Any:
    """Return a value as what JSON can hold, and ``_decoded`` turns into the same value."""
    value = _plain(value)
    # JSON has floats by their repr, which is exact, and ints of any size.
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [_encoded(part, what) for part in value]
    if type(value) is tuple:
        return {"tuple": [_encoded(part, what) for part in value]}
    if type(value) is dict:
        return {"dict": [[_encoded(part, what) for part in pair] for pair in value.items()]}
    raise ValueError(
        f"{what}={value!r} is a {type(value).__name__}: expected None, a bool, number or str, or a "
        "list, tuple or dict of these, which can be stored exactly. Convert it, or pass store=None."
    )


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(part) for part in value]
    if isinstance(value, dict):
        if "tuple" in value:
            return tuple(_decoded(part) for part in value["tuple"])
        return {_decoded(name): _decoded(part) for name, part in value["dict"]}
    return value
