"""Operating curves: what a method costs at a fixed recall, what it finds at a fixed cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks

if TYPE_CHECKING:
    import pandas as pd

Curve = NDArray[np.float64]

SIGN = {"more": 1, "less": -1}
"""Of what may be better in a column."""


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
    signs = [_sign(f"columns[{name!r}]", better) for name, better in columns.items()]
    check_points(points, columns, columns)
    values = points[list(columns)].to_numpy(np.float64) * signs
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
    - "recall": the recall of that value: the target or, if the value is not on the curve at the
      target, that of the curve's end
    - "how": "measured"; "interpolated"; "exceeds" where all points have more recall than the
      target, so that the value is that of the point of least recall; "not reached"

    Raises
    ------
    ValueError
        When there are no points, a column is missing or holds what is no positive number, or
        ``target`` or ``better`` is not as above.
    """
    target = _checks.number("target", target, 0, 1, least=True, most=True)

    import pandas as pd

    rows = []
    for method, recall, values in _curves(points, column, better):
        between = math.exp(np.interp(target, recall, np.log(values)))
        rows.append((method, *_read_off(target, recall, values, 1, between)))
    return pd.DataFrame(rows, columns=["method", column, "recall", "how"])


def recall_at(
    points: pd.DataFrame, column: str, value: float, better: str = "more"
) -> pd.DataFrame:
    """Return the recall of each method at a fixed value of ``column``, such as 10,000 QPS.

    It is the inverse of ``at_recall``, on the same curves, with the same ``points``, ``column``
    and ``better`` and the same errors.

    Parameters
    ----------
    value : of ``column``, positive

    Returns
    -------
    DataFrame with a row a method, in the order of the points:

    - "method"
    - "recall": NaN where all points of the method are worse than ``value``
    - ``column``: the value of that recall: ``value`` or, if the curve does not pass there, that of
      the curve's end
    - "how": "measured"; "interpolated"; "exceeds" where all points of the curve are better than
      ``value``, so that the recall is the method's highest; "not reached"
    """
    value = _checks.number("value", value, 0)

    import pandas as pd

    rows = []
    sign = _sign("better", better)
    for method, recall, values in _curves(points, column, better):
        # Along the curve values get worse, so those with their sign turned round rise.
        between = float(np.interp(-sign * math.log(value), -sign * np.log(values), recall))
        rows.append((method, *_read_off(value, values[::-1], recall[::-1], sign, between)))
    return pd.DataFrame(rows, columns=["method", "recall", column, "how"])


def _read_off(at: float, x: Curve, y: Curve, sign: int, between: float) -> tuple[float, float, str]:
    """Return y of a curve at one x, the x that it is of, and how it was found.

    Along the curve ``sign * x`` rises; ``between`` is y interpolated.
    """
    if sign * at > sign * x[-1]:
        return math.nan, x[-1], "not reached"
    if sign * at < sign * x[0]:
        return y[0], x[0], "exceeds"
    if at in x:
        return y[x == at][0], at, "measured"
    return between, at, "interpolated"


def _curves(points: pd.DataFrame, column: str, better: str) -> Iterator[tuple[str, Curve, Curve]]:
    """Yield of each method its name, its recalls ascending and its values getting worse."""
    _sign("better", better)
    if column == "recall":
        raise ValueError("column='recall': expected what to set against recall, such as 'qps'.")
    check_points(points, ["method", "recall", column], ["recall", column])
    if (points[column] <= 0).any():
        raise ValueError(
            f"points[{column!r}] has the value {points[column].min()}: expected positive numbers, "
            "as it is interpolated logarithmically."
        )
    for method, rows in points.groupby("method", sort=False):
        front = rows[pareto_front(rows, {"recall": "more", column: better})]
        front = front[["recall", column]].drop_duplicates().sort_values("recall")
        yield str(method), front["recall"].to_numpy(float), front[column].to_numpy(float)


def _sign(name: str, better: str) -> int:
    """Return 1 for "more" and -1 for "less"."""
    if better not in SIGN:
        raise ValueError(f"{name}={better!r}: expected 'more' or 'less', whichever is better.")
    return SIGN[better]


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
