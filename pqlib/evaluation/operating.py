"""Operating curves: what a method costs at a fixed recall, what it finds at a fixed cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

BETTER = ("more", "less")


def check_points(points: pd.DataFrame, columns: Iterable[str], numbers: Iterable[str]) -> None:
    """Check that a table of measured points has what is asked of it.

    Parameters
    ----------
    points : a row a measured point
    columns : that must be there
    numbers : those of them that must hold finite numbers

    Raises
    ------
    ValueError
        When there are no rows, a column is missing, or a value is missing or not finite.
    """
    import pandas as pd

    missing = [name for name in columns if name not in points.columns]
    if missing:
        raise ValueError(
            f"points has no column {', '.join(map(repr, missing))}: it has "
            f"{', '.join(map(repr, points.columns)) or 'none'}. Add the column or name another."
        )
    if len(points) == 0:
        raise ValueError("points has no rows: expected one a measured point. Check its filter.")
    for name in numbers:
        values = pd.to_numeric(points[name], errors="coerce").to_numpy(np.float64)
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(
                f"points[{name!r}] is {points[name].iloc[row]!r} in row {row}: expected finite "
                "numbers. Leave out the points that were not measured."
            )


def pareto_front(points: pd.DataFrame, columns: Mapping[str, str]) -> NDArray[np.bool_]:
    """Return which points no other point beats.

    A point is beaten by one that is at least as good in every column and better in one. Equal
    points do not beat each other: all of them are kept.

    Parameters
    ----------
    points : a row a measured point
    columns : "more" or "less", whichever is better, for each column that counts

    Returns
    -------
    (n,) bool, in the order of the rows

    Raises
    ------
    ValueError
        When there are no points or columns, a direction is neither "more" nor "less", or a value
        is missing.
    """
    if not columns:
        raise ValueError("columns is empty: expected a mapping such as {'recall': 'more'}.")
    for name, better in columns.items():
        _direction(f"columns[{name!r}]", better)
    check_points(points, columns, columns)
    values = np.column_stack(
        [
            points[name].to_numpy(np.float64) * (1 if better == "more" else -1)
            for name, better in columns.items()
        ]
    )
    beaten = np.zeros(len(values), bool)
    # Column by column would need two n x n arrays for each; by blocks of rows it is one small one.
    step = max(1, (1 << 22) // values.size)
    for start in range(0, len(values), step):
        block = values[start : start + step, None]
        as_good = np.all(values >= block, axis=2)
        better = np.any(values > block, axis=2)
        beaten[start : start + step] = np.any(as_good & better, axis=1)
    return ~beaten


def at_recall(
    points: pd.DataFrame, target: float, column: str, better: str = "more"
) -> pd.DataFrame:
    """Return what each method has in ``column`` at a fixed recall, by its operating curve.

    The curve is made of those of the method's points that no other of its own beats in recall and
    ``column``. Between two of them it is interpolated, linearly in recall and logarithmically in
    ``column``; beyond its ends nothing is extrapolated.

    Parameters
    ----------
    points : a row a measured point: "method", "recall" and ``column``, which is positive
    target : recall, 0..1
    column : such as "qps" or "distance_computations"
    better : "more" (of qps) or "less" (of distance computations)

    Returns
    -------
    DataFrame with a row a method, in the order of the points:

    - "method"
    - ``column``: the value, NaN where the method does not reach the target
    - "recall": what the value goes with: the target, or more; the method's highest where it does
      not reach the target
    - "how": "measured"; "interpolated"; "exceeds" where the method has no point below the target,
      so that the value is of its best point, whose recall exceeds the target; "not reached"

    Raises
    ------
    ValueError
        When there are no points, a column is missing or holds what is no positive number, or
        ``target`` or ``better`` is not as above.
    """
    if not 0 <= target <= 1:
        raise ValueError(f"target={target!r}: expected a recall in 0..1.")
    rows = {}
    for method, recall, values in _curves(points, column, better):
        if target > recall[-1]:
            rows[method] = (math.nan, recall[-1], "not reached")
        elif target < recall[0]:
            rows[method] = (values[0], recall[0], "exceeds")
        elif target in recall:
            rows[method] = (values[recall == target][0], target, "measured")
        else:
            value = math.exp(np.interp(target, recall, np.log(values)))
            rows[method] = (value, target, "interpolated")
    return _by_method(rows, [column, "recall", "how"])


def recall_at(
    points: pd.DataFrame, column: str, value: float, better: str = "more"
) -> pd.DataFrame:
    """Return the recall of each method at a fixed value of ``column``, such as 10,000 QPS.

    On the same curve as ``at_recall``, whose inverse this is.

    Parameters
    ----------
    points : a row a measured point: "method", "recall" and ``column``, which is positive
    column : such as "qps" or "distance_computations"
    value : positive, of ``column``
    better : "more" (of qps) or "less" (of distance computations)

    Returns
    -------
    DataFrame with a row a method, in the order of the points:

    - "method"
    - "recall": NaN where every point of the method is worse than ``value``
    - ``column``: what the recall goes with: ``value``, or better; the method's best where it does
      not reach ``value``
    - "how": "measured"; "interpolated"; "exceeds" where every point of the curve is better than
      ``value``, so that the recall is the method's highest; "not reached"

    Raises
    ------
    ValueError
        When there are no points, a column is missing or holds what is no positive number, or
        ``value`` or ``better`` is not as above.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"value={value!r}: expected a positive number, of {column!r}.")
    rows = {}
    sign = 1 if better == "more" else -1
    for method, recall, values in _curves(points, column, better):
        # Along the curve recall rises and the value gets worse.
        if sign * value > sign * values[0]:
            rows[method] = (math.nan, values[0], "not reached")
        elif sign * value < sign * values[-1]:
            rows[method] = (recall[-1], values[-1], "exceeds")
        elif value in values:
            rows[method] = (recall[values == value][0], value, "measured")
        else:
            rising = -sign * np.log(values)
            found = float(np.interp(-sign * math.log(value), rising, recall))
            rows[method] = (found, value, "interpolated")
    return _by_method(rows, ["recall", column, "how"])


def _curves(
    points: pd.DataFrame, column: str, better: str
) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Return (method, recalls ascending, values getting worse), both strictly, of each method."""
    _direction("better", better)
    if column == "recall":
        raise ValueError("column='recall': expected what to set against recall, such as 'qps'.")
    check_points(points, ["method", "recall", column], ["recall", column])
    if (points[column] <= 0).any():
        raise ValueError(
            f"points[{column!r}] has the value {points[column].min()}: expected positive numbers, "
            "as it is interpolated logarithmically."
        )
    curves = []
    for method, rows in points.groupby("method", sort=False):
        front = rows[pareto_front(rows, {"recall": "more", column: better})]
        front = front[["recall", column]].drop_duplicates().sort_values("recall")
        curves.append((str(method), front["recall"].to_numpy(float), front[column].to_numpy(float)))
    return curves


def _direction(name: str, better: str) -> None:
    if better not in BETTER:
        raise ValueError(f"{name}={better!r}: expected 'more' or 'less', whichever is better.")


def _by_method(rows: Mapping[str, tuple[float, float, str]], columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    table = [(method, *row) for method, row in rows.items()]
    return pd.DataFrame(table, columns=["method", *columns])


def pays_from(sizes: Sequence[float], gains: Sequence[float]) -> float:
    """Return the size from which on all gains are above zero, between two that were tried.

    Interpolated where the last change of sign lies, over the logarithm of the size: -inf where
    all gains are above zero, inf where the one of the largest size is not.

    Raises
    ------
    ValueError
        When the two are not equally long or empty.
    """
    if not 0 < len(sizes) == len(gains):
        raise ValueError(
            f"sizes and gains have {len(sizes)} and {len(gains)} values: expected as many of each, "
            "at least one."
        )
    order = np.argsort(sizes)
    x, y = np.log(np.asarray(sizes, float)[order]), np.asarray(gains, float)[order]
    if y[-1] <= 0:
        return math.inf
    behind = np.flatnonzero(y <= 0)
    if not len(behind):
        return -math.inf
    i = int(behind[-1])
    return float(np.exp(np.interp(0, y[i : i + 2], x[i : i + 2])))
