"""How every notebook begins: a data set, its default sizes, and how tables are shown."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pandas as pd

from pqlib.clustering import default_sizes
from pqlib.datasets import Dataset, load_dataset


@dataclass(frozen=True)
class Study:
    """What a notebook works on.

    Attributes
    ----------
    ds : the data set
    n_inner, n_outer : inner and outer clusters
    store : type of the whole vectors that are kept for re-ranking: "uint8" where it loses
        nothing, else "float32"
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

    Parameters
    ----------
    dataset, n_train, n_test : as for ``pqlib.load_dataset``
    n_inner : inner clusters; None: as many as ``pqlib.default_sizes`` says
    n_outer : outer clusters; None: the square root of ``n_inner``
    """
    pd.set_option("display.width", 120, "display.max_columns", 20, "display.max_colwidth", 80)
    ds = load_dataset(dataset, n_train=n_train, n_test=n_test)
    print(ds.describe())
    n_inner = n_inner or default_sizes(ds.n)[0]
    n_outer = n_outer or max(1, round(n_inner**0.5))
    return Study(ds, n_inner, n_outer, "uint8" if ds.whole_numbers else "float32")
