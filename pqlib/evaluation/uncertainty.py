"""How sure a number is: over queries by the bootstrap, over seeds by a prediction interval.

The two are different questions. Other queries of the same kind would give another mean: the
bootstrap says by how much. Another seed gives other clusters and codebooks: the spread over seeds
says by how much, for the same queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks

LEVEL = 0.95
"""Of all intervals here."""


def bootstrap_interval(
    values: NDArray[np.floating], resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% interval of the mean of ``values`` over queries drawn like these.

    The percentile bootstrap (Efron, "Bootstrap methods: another look at the jackknife", Annals of
    Statistics 1979). For the difference of two methods on the same queries, pass the differences:
    that is much narrower than two intervals, since a hard query is hard for both.

    Parameters
    ----------
    values : (nq,) a value for each query, such as ``query_recall``
    resamples : sets of queries drawn with replacement
    seed : of the draws

    Raises
    ------
    ValueError
        When there are no values, or some are not finite.
    """
    values = _finite("values", values, 1)
    resamples = _checks.integer("resamples", resamples, 1)
    # Equal values are drawn together: recalls have few different ones, so this is exact and fast.
    distinct, counts = np.unique(values, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(
        len(values), counts / len(values), size=resamples
    )
    means = draws @ distinct / len(values)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def prediction_interval(values: Sequence[float] | NDArray[np.floating]) -> tuple[float, float]:
    """Return the interval that holds the value of one further seed with a probability of 95%.

    mean +- t * s * sqrt(1 + 1/n), for values that are spread normally: s is their standard
    deviation and t that of Student for n - 1 degrees of freedom (Hahn and Meeker, "Statistical
    Intervals", 1991, section 4.7), to the four decimals of a printed table.

    Parameters
    ----------
    values : (n,) the values of n seeds, n >= 2

    Raises
    ------
    ValueError
        When there are fewer than two values, or some are not finite.
    """
    from scipy.special import stdtrit

    values = _finite("values", np.asarray(values), 2)
    n = len(values)
    t = round(float(stdtrit(n - 1, (1 + LEVEL) / 2)), 4)
    half = t * float(np.std(values, ddof=1)) * math.sqrt(1 + 1 / n)
    mean = float(np.mean(values))
    return mean - half, mean + half


def _finite(name: str, values: NDArray[np.floating], least: int) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) < least or not np.isfinite(array).all():
        raise ValueError(
            f"{name} has shape {array.shape}"
            + ("" if np.isfinite(array).all() else " and holds NaN or infinite values")
            + f": expected at least {least} finite number(s), one-dimensional."
        )
    return array
