"""Rates: of timed calls, read off at several recalls, and of the machine's matrix product."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pqlib import evaluation


def speeds(queries: int | pd.Series | NDArray[np.int64], timings: pd.DataFrame) -> pd.DataFrame:
    """Return "qps", "qps_min" and "qps_max" of calls, a row for each: queries a second.

    ``queries`` are those of each call, ``timings`` of ``evaluation.time_calls``.
    """
    columns = {"qps": "median_s", "qps_min": "max_s", "qps_max": "min_s"}
    return pd.DataFrame({name: queries / timings[seconds] for name, seconds in columns.items()})


def at_recalls(
    points: pd.DataFrame, targets: Iterable[float], column: str, better: str = "more"
) -> pd.DataFrame:
    """Return ``evaluation.at_recall`` of each "target", one below the other."""
    found = [evaluation.at_recall(points, t, column, better).assign(target=t) for t in targets]
    return pd.concat(found, ignore_index=True)


def matmul_rate(size: int, repeats: int, seed: int, column: str, progress: bool) -> float:
    """Return the products a second of two (size, size) float32 matrices multiplied.

    Each product comes with an addition. ``column`` of ``evaluation.time_calls`` is what counts:
    "min_s" for a peak, "median_s" for what is usual.
    """
    one, other = np.random.default_rng(seed).random((2, size, size), np.float32)
    product = np.empty((size, size), np.float32)
    call = {"matrix product": lambda: np.matmul(one, other, out=product)}
    return size**3 / float(evaluation.time_calls(call, repeats, progress=progress)[column][0])
