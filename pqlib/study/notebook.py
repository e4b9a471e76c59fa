"""How every notebook begins: a data set, its default sizes, and how tables are shown."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pandas as pd

from pqlib.clustering import default_sizes
from pqlib.datasets import Dataset, load_dataset


@dataclass(frozen=True)
class Study:
    """What a notebook works on: data set, inner and outer clusters, type of stored vectors.

    ``store`` is the type of the vectors that are kept for re-ranking: "uint8" where that loses
    nothing, else "float32".
    """

    ds: Dataset
    n_inner: int
    n_outer: int
    store: str


def open_study(
    dataset: str | os.PathLike[str],
    n_train: int | None = None,
    n_test: int | None = None,
    n_inner: int | None = None,
    n_outer: int | None = None,
) -> Study:
    """Load a data set, print its description, and set how pandas shows tables.

    ``dataset``, ``n_train`` and ``n_test`` are as for ``pqlib.load_dataset``. None stands for the
    inner clusters of ``pqlib.default_sizes``, and for the square root of these as outer ones.
    """
    pd.set_option("display.width", 120, "display.max_columns", 20, "display.max_colwidth", 80)
    ds = load_dataset(dataset, n_train=n_train, n_test=n_test)
    print(ds.describe())
    n_inner = n_inner or default_sizes(ds.n)[0]
    n_outer = n_outer or max(1, round(n_inner**0.5))
    return Study(ds, n_inner, n_outer, "uint8" if ds.whole_numbers else "float32")
