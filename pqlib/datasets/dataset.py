"""The Dataset, and how a name or a path becomes one."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from pqlib import _checks, _metric
from pqlib._blocks import blocks
from pqlib._types import FloatMatrix
from pqlib.datasets import files, registry, truth, validate
from pqlib.datasets.checksums import is_ours, unaltered
from pqlib.datasets.download import fetch
from pqlib.datasets.files import IdMatrix
from pqlib.datasets.registry import DatasetInfo

_SUFFIX = re.compile(r"-\d+-(euclidean|angular)$")


@dataclass(frozen=True)
class Dataset:
    """Base vectors, queries and their exact nearest neighbours.

    Attributes
    ----------
    name : short name, or the stem of the file given as a path
    train : (n, d) float32, C-contiguous, the base
    test : (nq, d) float32, C-contiguous, the queries
    neighbors : (nq, 100) int64, rows of ``train``, nearest first; n columns when n < 100
    distances : (nq, 100) float32, plain (not squared) L2 distances to them, ascending; with metric
        "cosine" or "ip" the similarities, descending
    metric : "l2", "cosine" or "ip"; ``note`` says so where the file said something else
    note : what was done to the file's content, in a sentence; empty when nothing was
    stored_dtype : number type of the vectors in the file
    info : what the registry knows of it; None for a path
    path : the file
    """

    name: str
    train: FloatMatrix
    test: FloatMatrix
    neighbors: IdMatrix
    distances: FloatMatrix
    metric: str = "l2"
    note: str = ""
    stored_dtype: str = "float32"
    info: DatasetInfo | None = field(default=None, repr=False)
    path: Path | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, train: FloatMatrix, test: FloatMatrix, metric: str = "l2", name: str = "arrays"
    ) -> Self:
        """Return the data set of base (n, d) and queries (nq, d); computes the ground truth.

        Raises
        ------
        ValueError
            When one is no finite matrix, dimensions differ, or there is no such metric.
        """
        train = _checks.vectors("train", train)
        test = _checks.vectors("test", test, train.shape[1])
        found = truth.exact_neighbors(train, test, progress=False, metric=metric)
        return cls(name, train, test, *found, metric)

    @property
    def n(self) -> int:
        """Base vectors."""
        return len(self.train)

    @property
    def d(self) -> int:
        """Dimension."""
        return int(self.train.shape[1])

    @property
    def nq(self) -> int:
        """Queries."""
        return len(self.test)

    @property
    def title(self) -> str:
        """What the data are, in a phrase; empty for a file that the registry does not know."""
        return "" if self.info is None else self.info.title

    @property
    def source(self) -> str:
        """Who made the data and where they are; empty where unknown."""
        return "" if self.info is None else self.info.source

    @property
    def licence(self) -> str:
        """Under which terms; empty where unknown."""
        return "" if self.info is None else self.info.licence

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """(rows, columns) where a vector is an image, else None."""
        return None if self.info is None else self.info.image_shape

    @cached_property
    def whole_numbers(self) -> bool:
        """Whether all values are whole numbers 0..255, so that uint8 keeps them without loss."""
        return all(holds_bytes(x) for x in (self.test, self.train))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the vectors' bytes, 32 hexadecimal digits."""
        return _fingerprint(self.train, self.test)

    def describe(self) -> str:
        """Return a printable summary: shapes, numbers, source, licence, ground truth."""
        numbers = "whole numbers 0..255" if self.whole_numbers else "fractional numbers"
        title = self.name if self.info is None else f"{self.name}: {self.info.title}"
        lines = [
            title,
            f"  {self.n:,} base vectors and {self.nq:,} queries of dimension {self.d}",
            f"  {numbers}, stored as {self.stored_dtype}, held as float32",
            f"  {self.neighbors.shape[1]} exact neighbours of each query, "
            f"{_metric.WORDS[self.metric]}",
        ]
        if self.info is not None:
            lines.append(f"  source: {self.info.source}; licence: {self.info.licence}")
        if self.note:
            lines.append(f"  note: {self.note}")
        return "\n".join(lines)


def load_dataset(
    name_or_path: str | os.PathLike[str],
    n_train: int | None = None,
    n_test: int | None = None,
    progress: bool = True,
    metric: str | None = None,
    column: str | None = None,
) -> Dataset:
    """Load a data set by name or from a file, with exact ground truth.

    A registered name is looked for in the package, in the folders of PQLIB_DATA_DIR and in the
    cache (PQLIB_CACHE), and downloaded if it is in none. A file may be ann-benchmarks' HDF5,
    .parquet, .fvecs, .bvecs, .fbin, .u8bin, .i8bin, .npy; a folder may hold shards, of .parquet or
    .npy (see ``pqlib.datasets.files.open_plain`` for queries and shards).

    Parameters
    ----------
    name_or_path : a name of ``pqlib.datasets.REGISTRY``, or a path
    n_train, n_test : take the first so many base vectors and queries only; the others are read
        only to compare the file with a recorded SHA-256. A file's own ground truth serves if it is
        of all its base vectors and has 100 neighbours (or all there are); otherwise one is computed
        once and cached.
    progress : show progress bars on a terminal
    metric : "l2", "cosine" or "ip": vectors stay as they are, zero ones too, and the file's ground
        truth serves if it is of that metric. None: Euclidean distance, for which vectors of angular
        files are scaled to unit length
    column : of .parquet, the column of lists of numbers; None finds it

    Returns
    -------
    Dataset of float32 base (n, d) and queries (nq, d), and the true neighbours of each query:
    (nq, 100) int64 rows of the base, and (nq, 100) float32 distances, ascending, or similarities,
    descending.

    Raises
    ------
    ValueError
        When the name is unknown, a number is out of range, or the file is not what it should be:
        not HDF5, shapes that disagree, NaN or infinite values, a ground truth that exact search
        contradicts, another SHA-256 than the one recorded beside it. An HDF5 file that this package
        neither made nor downloaded is read in a process of its own first, as HDF5 may crash; so is
        every parquet file.
    ImportError
        When a parquet file needs pyarrow, which is not installed.
    FileNotFoundError
        When there is no file at the path.
    DownloadError
        When the data set cannot be downloaded.
    """
    _checks.choice("metric", metric, (None, *_metric.METRICS))
    if files.is_path(name_or_path):
        path = files.as_path(name_or_path)
        info = next(
            (known for known in registry.REGISTRY.values() if known.file == path.name), None
        )
        name = info.name if info else _SUFFIX.sub("", path.stem)
    else:
        info = registry.lookup(str(name_or_path))
        name, path = info.name, fetch(info.name, progress=progress)
    # Only of our own files is a checksum reason to trust them: whoever makes a hostile file can
    # write its checksum beside it.
    trusted = path.is_file() and unaltered(path, progress) and is_ours(path)
    content = files.open_file(path, n_train, n_test, trusted, column)
    content = validate.prepare(path, content, metric)
    train, test, notes = content.train, content.test, content.notes
    found = content.truth
    if found is None or found[0].shape[1] < min(truth.NEIGHBORS, len(train)):
        folder = registry.cache_folder() / "ground-truth"
        key = _fingerprint(train, test)
        found = truth.cached_neighbors(train, test, folder, key, progress, metric or "l2")
        what = "this subset" if content.is_subset else "this file"
        notes = (*notes, f"ground truth of {what} computed here, by exact search")
    neighbors, distances = found
    return Dataset(
        name=name,
        train=train,
        test=test,
        neighbors=np.ascontiguousarray(neighbors[:, : truth.NEIGHBORS]),
        distances=np.ascontiguousarray(distances[:, : truth.NEIGHBORS]),
        metric=metric or "l2",
        note="; ".join(notes),
        stored_dtype=content.stored_dtype,
        info=info,
        path=path,
    )


def holds_bytes(x: FloatMatrix) -> bool:
    """Tell whether all values of ``x`` (n, d) are whole numbers 0..255."""
    parts = (x[rows] for rows in blocks(len(x), 4 * x.shape[1], files.BLOCK_BYTES))
    return all(((part >= 0) & (part <= 255) & (part == np.rint(part))).all() for part in parts)


def _fingerprint(train: FloatMatrix, test: FloatMatrix) -> str:
    digest = hashlib.blake2b(repr((train.shape, test.shape)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(train).data)
    digest.update(np.ascontiguousarray(test).data)
    return digest.hexdigest()
