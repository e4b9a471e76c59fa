"""Vectors of your own texts, by a model of sentence-transformers, as a data set.

The work file ``OUT.part`` is laid out in full before the first vector goes into it: texts, room for
all vectors, and a count of those that are there. From then on only numbers are written into their
places, so that whatever moment the process is killed at, the file can be opened and gone on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import filelock
import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib import _checks
from pqlib._types import FloatMatrix
from pqlib.datasets import texts
from pqlib.datasets.files import HDF5_ENDINGS

Encode = Callable[[list[str]], Any]
"""Takes n texts, returns their vectors, (n, d)."""

BLOCK = 2048
"""Texts after which what is done is on the disk."""
MOST_QUERIES = 1000


@dataclass(frozen=True)
class _Plan:
    """Texts of a base, then those of queries, where each goes, and what tells them from others."""

    files: tuple[Path, ...]
    column: str | None
    is_query: NDArray[np.bool_]
    digest: str
    skipped: int

    @classmethod
    def of(cls, source: Path, queries: Path | None, column: str | None) -> _Plan:
        files = (source,) if queries is None else (source, queries)
        digest, counts, skipped = hashlib.blake2b(digest_size=16), [], 0
        for path in files:
            # The queries may be of another format, whose column has its own name.
            texts.check(path, column if path.suffix == source.suffix else None)
            counts.append(0)
            for text in texts.read(path, column if path.suffix == source.suffix else None):
                content = text.encode()
                digest.update(b"%d " % len(content) + content)
                counts[-1] += bool(text)
                skipped += not text
            digest.update(b"end")
        least = 2 if queries is None else 1
        if min(counts) < 1 or counts[0] < least:
            path = source if counts[0] < least else files[-1]
            raise ValueError(f"{path}: has too few texts, {counts}. Expected at least {least}.")
        is_query = np.zeros(sum(counts), bool)
        if queries is None:
            nq = max(1, min(MOST_QUERIES, len(is_query) // 10))
            is_query[np.random.default_rng(0).choice(len(is_query), nq, replace=False)] = True
        else:
            is_query[counts[0] :] = True
        return cls(files, column, is_query, digest.hexdigest(), skipped)

    def blocks(self, start: int = 0) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of its first text and the texts of each block, from ``start`` on."""
        first = self.files[0].suffix
        stream: Iterator[str] = filter(None, chain.from_iterable(
            texts.read(path, self.column if path.suffix == first else None) for path in self.files
        ))  # fmt: skip
        stream = islice(stream, start, None)
        while block := list(islice(stream, BLOCK)):
            yield start, block
            start += len(block)

    def put(self, file: h5py.File, names: Sequence[str], start: int, values: Any) -> None:
        """Write what belongs to the texts from ``start`` on into two data sets: base, queries."""
        queries = self.is_query[start : start + len(values)]
        before = int(self.is_query[:start].sum())
        for name, chosen, row in (
            (names[0], ~queries, start - before), (names[1], queries, before)
        ):  # fmt: skip
            if chosen.any():
                file[name][row : row + int(chosen.sum())] = values[chosen]


def embed(
    source: str | os.PathLike[str],
    model: str,
    out: str | os.PathLike[str],
    *,
    column: str | None = None,
    queries: str | os.PathLike[str] | None = None,
    batch: int = 64,
    progress: bool = True,
    encode: Encode | None = None,
) -> Path:
    """Make a data set of texts, which ``load_dataset`` opens; return its path.

    It has ``train`` and ``test``, (n, d) and (nq, d) float32, their texts beside them as
    ``train_texts`` and ``test_texts``, and says that its distance is angular and which model it is
    of. The texts are never in memory as a whole. Interrupted, the same call goes on after the last
    block of 2,048 that was done; where ``OUT.part`` is of other texts or of another model, it
    starts anew and says so. Blank texts are left out; how many is the attribute ``skipped``.

    Parameters
    ----------
    source : .txt, a text in each line; .jsonl, its key ``text``; .parquet, its column ``text`` or
        the only one of texts; UTF-8
    model : a name or a path that sentence-transformers takes
    out : the file to write, .hdf5 or .h5
    column : another key or column than those, of files with the ending of ``source``
    queries : a file of queries; without one, 1,000 of the texts or a tenth, drawn at random by the
        seed 0, are the queries
    batch : texts that the model takes at a time
    progress : show a bar on a terminal
    encode : used instead of the model: takes a list of texts, returns (n, d) numbers

    Raises
    ------
    ValueError
        When a file holds no texts, or the model returns no matrix of finite numbers.
    FileNotFoundError, FileExistsError
        When there are no texts at a path; when ``out`` is there already, of other texts.
    ImportError
        When sentence-transformers is not installed.
    OSError
        When another process writes the same file.
    """
    out = Path(out).expanduser()
    batch = _checks.integer("batch", batch, 1)
    if out.suffix not in HDF5_ENDINGS:
        raise ValueError(f"out={str(out)!r}: expected an ending of {' or '.join(HDF5_ENDINGS)}.")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"out={str(out)!r}: there is no folder {out.parent}. Make it.")
    asked = None if queries is None else Path(queries).expanduser()
    plan = _Plan.of(Path(source).expanduser(), asked, column)
    record = json.dumps({"model": model, "texts": plan.digest, "queries": asked is not None})
    part, lock = out.with_name(f"{out.name}.part"), out.with_name(f".{out.name}.lock")
    try:
        with filelock.FileLock(lock, timeout=0):
            if not out.exists():
                _fill(part, record, plan, model, encode or load_model(model, batch), progress)
                os.replace(part, out)
            elif _done(out, record) != len(plan.is_query):
                raise FileExistsError(
                    f"out={str(out)!r}: is there already, and not of these texts and this model. "
                    "Remove it, or name another file."
                )
            # Only by who holds it: otherwise a third one could lock a file of the same name.
            with contextlib.suppress(OSError):
                lock.unlink()
    except filelock.Timeout:
        raise OSError(f"{out}: another process is writing it. Wait for it to end.") from None
    return out


def _fill(part: Path, record: str, plan: _Plan, model: str, encode: Encode, progress: bool) -> None:
    """Bring the work file to its end, from wherever it is."""
    total, done = len(plan.is_query), _done(part, record)
    if done:
        print(f"{part}: going on after {done:,} of {total:,} texts", file=sys.stderr)
    elif part.exists():
        print(f"{part}: of other texts or another model, or just begun: anew", file=sys.stderr)
    quiet = None if progress else True
    with tqdm(total=total, initial=done, unit="text", disable=quiet) as bar:
        for start, block in plan.blocks(done):
            x = _encoded(encode, block, model)
            if start == 0:
                _lay_out(part, record, plan, model, x.shape[1])
            with h5py.File(part, "r+") as file:
                d = file["train"].shape[1]
                if x.shape[1] != d:
                    raise ValueError(f"{model} gave vectors of dimension {x.shape[1]} after {d}.")
                plan.put(file, ("train", "test"), start, x)
                _synchronize(file, part)
                file["done"][()] = start + len(block)
                _synchronize(file, part)
            bar.update(len(block))


def _encoded(encode: Encode, block: list[str], model: str) -> FloatMatrix:
    x = _checks.vectors(f"what {model} returned", encode(block))
    if len(x) != len(block):
        raise ValueError(f"{model} gave {len(x)} vectors for {len(block)} texts. Expected as many.")
    return x


def _lay_out(part: Path, record: str, plan: _Plan, model: str, d: int) -> None:
    """Write a work file with all its texts and room for all vectors."""
    nq = int(plan.is_query.sum())
    with h5py.File(part, "w") as file:
        file.attrs.update(distance="angular", model=model, skipped=plan.skipped)
        for name, rows in (("train", len(plan.is_query) - nq), ("test", nq)):
            how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            how.set_layout(h5py.h5d.CONTIGUOUS)
            how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            how.set_obj_track_times(False)  # the same texts give the same bytes
            space = h5py.h5s.create_simple((rows, d))
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, how)
            file.create_dataset(f"{name}_texts", (rows,), h5py.string_dtype())
        for start, block in plan.blocks():
            plan.put(file, ("train_texts", "test_texts"), start, np.array(block, object))
        file["done"] = np.int64(0)
        _synchronize(file, part)
        # What says that the rest is there comes last.
        file.attrs["record"] = record


def _synchronize(file: h5py.File, path: Path) -> None:
    file.flush()
    with path.open("rb+") as raw:
        os.fsync(raw.fileno())


def _done(path: Path, record: str) -> int:
    """Return how many texts of ``record`` a file has vectors of; 0 where it is another file."""
    with contextlib.suppress(OSError, KeyError, ValueError), h5py.File(path, "r") as file:
        if file.attrs["record"] == record:
            return int(file["done"][()])
    return 0


def load_model(name: str, batch: int = 64) -> Encode:
    """Return what makes vectors of texts; ImportError that says how to install it."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as problem:
        raise ImportError(
            f"model={name!r} needs sentence-transformers, which cannot be imported ({problem}): "
            "pip install 'pqlib[embed]', in a clone pip install -e '.[embed]'."
        ) from None
    model = SentenceTransformer(name)

    def encode(block: list[str]) -> Any:
        return model.encode(block, batch_size=batch, convert_to_numpy=True, show_progress_bar=False)

    return encode
