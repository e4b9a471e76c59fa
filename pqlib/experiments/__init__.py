"""Sweeps over parameters and the tidy tables they leave."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib.quantizers import ProductQuantizer


class NotRun(Exception):
    """A configuration that cannot be trained, or not within the budget; says why."""


def training_multiplications(
    n: int, d: int, nbits: int, codebooks: str, sizes: NDArray[np.int64], max_train: int | None
) -> float:
    """Return the multiplications that training the codebooks of a MultiLevelPQ takes.

    Parameters
    ----------
    n, d : training vectors and their dimension
    nbits, codebooks, max_train : of the index
    sizes : (n_inner,) training vectors in each inner cluster

    Raises
    ------
    NotRun
        When no cluster, or not even all together, has 2**nbits residuals to train on.
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
) -> pd.DataFrame:
    """Measure every point and return a tidy table, one row a measured point.

    Parameters
    ----------
    points : keyword arguments of ``measure``, one mapping a point
    measure : returns a row, or several (an index searched in several ways)
    progress : what to call the progress bar; None shows none

    Returns
    -------
    DataFrame with the point's own columns, the measured ones, and "status": "ok", or "not run"
    with "reason". A point that raises ``NotRun`` (or the ``ValueError`` of an impossible
    argument) is such a row: left out it would look forgotten.
    """
    rows: list[dict[str, Any]] = []
    todo = list(points)
    for point in tqdm(todo, desc=progress, leave=False, disable=None if progress else True):
        try:
            measured = measure(**point)
        except (NotRun, ValueError) as problem:
            rows.append({**point, "status": "not run", "reason": str(problem)})
            continue
        several = [measured] if isinstance(measured, Mapping) else list(measured)
        rows.extend({**point, **row, "status": "ok", "reason": ""} for row in several)
    return pd.DataFrame(rows)


def save_table(table: pd.DataFrame, output: str | os.PathLike[str] | None, name: str) -> None:
    """Write ``table`` to ``<output>/results/<name>.csv`` at once or not at all.

    Does nothing when ``output`` is None, as in a notebook that only shows its results.
    """
    if output is None:
        return
    folder = Path(output) / "results"
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.csv.{os.getpid()}"
    table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    partial.replace(folder / f"{name}.csv")
