"""The texts behind embeddings, where a file holds them beside the vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pqlib._types import IdArray
from pqlib.datasets import hdf5
from pqlib.datasets.dataset import Dataset


@dataclass(frozen=True)
class Texts:
    """What was embedded.

    Attributes
    ----------
    base, queries : a text for each vector of the base and each query
    right : (nq,) int64, the row of each query's own answer; None where the file names none. -1
        where it is no row of a subset
    """

    base: list[str]
    queries: list[str]
    right: IdArray | None

    def asked(self, rows: IdArray) -> Texts:
        """Return the texts with only these of the queries, by their rows (m,)."""
        right = None if self.right is None else self.right[rows]
        return Texts(self.base, [self.queries[row] for row in rows], right)


def load_texts(ds: Dataset) -> Texts | None:
    """Return the texts of a data set; None where its file has none.

    They are the parts train_texts (n,), test_texts (nq,) and test_right (nq,) of an HDF5 file, as
    `gloss-minilm` has them and ``python -m pqlib.datasets embed`` writes them.

    Raises
    ------
    ValueError
        When there are not as many as vectors, or a right answer is no row of the base.
    """
    if ds.path is None or ds.path.suffix not in (".hdf5", ".h5"):
        return None
    with hdf5.opened(ds.path) as file:
        if "train_texts" not in file or "test_texts" not in file:
            return None
        parts = [file[name] for name in ("train_texts", "test_texts")]
        for part, name, n in zip(parts, ("base", "queries"), (ds.n, ds.nq), strict=True):
            if part.ndim != 1 or len(part) < n:
                raise ValueError(
                    f"{ds.path}: has texts of shape {part.shape} for {n} {name}. Expected one for "
                    "each vector; the file is damaged, or was put together wrongly."
                )
        base, queries = (
            [_text(t) for t in p[:n]] for p, n in zip(parts, (ds.n, ds.nq), strict=True)
        )
        right = None
        if "test_right" in file:
            right = np.asarray(file["test_right"][: ds.nq], np.int64)
            if len(right) < ds.nq or right.min() < 0 or right.max() >= len(parts[0]):
                raise ValueError(
                    f"{ds.path}: test_right is not the row of an answer for each query. The file "
                    "is damaged, or was put together wrongly."
                )
            right[right >= ds.n] = -1
    return Texts(base, queries, right)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
