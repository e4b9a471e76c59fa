"""A table of measured points: checked, its rows compared, and said in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pqlib.evaluation.operating import check_points

BRUTE = "brute force"

SIZE, WORK, SPEED = "bytes_per_vector", "distance_computations", "qps"
TIMES = [SPEED, "qps_min", "qps_max"]
BETTER = {"recall": "more", SIZE: "less", WORK: "less", SPEED: "more"}
UNIT = {
    SIZE: "bytes per vector",
    WORK: "distance computations per query",
    SPEED: "queries per second",
}
RECALL_TELLS = 0.001  # recalls are printed with three digits; closer ones are called equal
SHARE_TELLS = 0.0005  # as are amounts of work that differ by less, printed as 0.0%
SAME = 1e-6  # relative; a table that was written and read again has six digits


class Points:
    """A table of measured points, a row for each method and setting of its ``parameters``.

    Columns are "method", the parameters, "recall", and where they were measured
    "distance_computations", "bytes_per_vector", "qps" with "qps_min" and "qps_max", "code_bytes".

    Raises ValueError when there are no points, a needed column is missing, a value is missing or
    impossible, or a method was measured twice with the same parameters.
    """

    def __init__(self, points: pd.DataFrame, parameters: Sequence[str]) -> None:
        self.parameters = list(parameters)
        _check_table(points, self.parameters)
        # Among equals the first is taken: so let it be the one with the fewest probes.
        if self.parameters:
            points = points.sort_values(self.parameters, kind="stable")
        self.points = points.reset_index(drop=True)
        self.methods = list(dict.fromkeys(points["method"]))

    def has(self, column: str) -> bool:
        """Say whether the column is there; a speed without its range is not."""
        return all(c in self.points for c in (TIMES if column == SPEED else [column]))

    def of(self, *methods: str) -> pd.DataFrame:
        """Return the points of these methods."""
        return self.points[self.points["method"].isin(methods)]

    def pairs(self, end: str, other: str) -> list[tuple[str, str]]:
        """Return each method with ``end`` in its name and the one with ``other`` instead."""
        both = [(m, m.replace(end, other)) for m in self.methods if end in m]
        return [pair for pair in both if pair[1] in self.methods]

    def matched(self, one: str, other: str) -> pd.DataFrame:
        """Return the points of two methods side by side where their parameters are the same."""
        on = [*self.parameters, *(["code_bytes"] if "code_bytes" in self.points else [])]
        how: dict[str, Any] = {"on": on} if on else {"how": "cross"}
        both = self.of(one).merge(self.of(other), suffixes=("", " of other"), **how)
        return both.assign(gain=both["recall"] - both["recall of other"])

    def first(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """Return the best row; among equals the one with less work, then memory, more recall."""
        if column in (SIZE, WORK):
            rows = rows[rows[column] <= rows[column].min() * (1 + SAME)]
            order = []
        else:
            order = [column]
        order += [c for c in (WORK, SIZE, "recall") if c != column and self.has(c)]
        if order:
            rows = rows.sort_values(
                order, ascending=[BETTER[c] == "less" for c in order], kind="stable"
            )
        return rows.iloc[0]

    def close(self, rows: pd.DataFrame, best: pd.Series, column: str) -> pd.DataFrame:
        """Return the rows that cannot be told apart from the best one."""
        if column == SPEED:
            return rows[rows["qps_max"] >= best["qps_min"]]
        if column == "recall":
            return rows[rows["recall"] > best["recall"] - RECALL_TELLS]
        return rows[rows[column] <= best[column] * (1 + SAME)]

    def named(self, row: pd.Series, mark: str = "*") -> str:
        """Return the method and the parameters of a point."""
        if row["method"] == BRUTE:
            return BRUTE
        values = ", ".join(f"{p} {plain(row[p])}" for p in self.parameters if not pd.isna(row[p]))
        return f"{mark}{row['method']}{mark}" + (f" with {values}" if values else "")


def _check_table(points: pd.DataFrame, parameters: list[str]) -> None:
    optional = [name for name in (SIZE, WORK, *TIMES) if name in points.columns]
    check_points(points, ["method", *parameters, "recall"], ["recall", *optional])
    low, high = points["recall"].min(), points["recall"].max()
    if low < 0 or high > 1:
        raise ValueError(f"points['recall'] spans {low}..{high}: expected recalls in 0..1.")
    for name in optional:
        if (points[name] <= 0).any():
            raise ValueError(
                f"points[{name!r}] has the value {points[name].min()}: expected positive numbers. "
                "Leave out the points that were not measured."
            )
    if set(TIMES) <= set(optional):
        qps, least, most = (points[name] for name in TIMES)
        wrong = np.flatnonzero((qps < least * (1 - SAME)) | (qps > most * (1 + SAME)))
        if len(wrong):
            at = int(wrong[0])
            raise ValueError(
                f"points['qps'] is {qps.iloc[at]} in row {at}, outside {least.iloc[at]}.."
                f"{most.iloc[at]}: expected qps_min <= qps <= qps_max. Check the columns."
            )
    twice = points[points.duplicated(["method", *parameters])]
    if len(twice):
        named = ", ".join(f"{name} {twice[name].iloc[0]}" for name in ["method", *parameters])
        raise ValueError(
            f"points has more than one row with {named}: expected one. Keep one, or name in "
            "parameters the column that tells them apart."
        )


# Words ------------------------------------------------------------------------------------


def number(value: float, digits: int, *bounds: float) -> str:
    """Return the number with as many more digits as keep it on its side of the bounds.

    Recall 1 is a bound of its own: 0.9999 must not read as if it were exact.
    """
    if 0 <= value <= 1:
        bounds = (*bounds, 1)
    for more in range(digits, digits + 7):
        shown = round(float(value), more)
        if all(np.sign(shown - b) == np.sign(value - b) for b in bounds):
            break
    return f"{value:,.{more}f}"


def amount(value: float, *bounds: float) -> str:
    """Return a number without digits behind the point, small ones with one."""
    return number(value, 0 if value >= 10 or value == round(value) else 1, *bounds)


def value_of(row: pd.Series, column: str, brief: bool = False) -> str:
    """Return what a point has in a column, with its unit."""
    if column == "recall":
        return ("" if brief else "recall ") + number(row["recall"], 3)
    text = amount(row[column]) + ("" if brief else f" {UNIT[column]}")
    if column == SPEED and not brief:
        text += f" ({amount(row['qps_min'])} to {amount(row['qps_max'])})"
    return text


def instead(size: float, other: float) -> str:
    """Return how much memory one takes, and the other where it takes another amount."""
    if abs(size - other) <= SAME * other:
        return f", in {amount(size)} {UNIT[SIZE]} as well"
    return f", in {amount(size, other)} {UNIT[SIZE]} instead of {amount(other)}"


def span(differences: Sequence[float] | pd.Series, tells: float, style: str, words: str) -> str:
    """Return the range of differences; ``words`` are for positive, negative and no difference."""
    more, less, same = words.split("|")
    low, high = min(differences), max(differences)
    if max(abs(low), abs(high)) < tells:
        return same
    if low <= -tells and high >= tells:
        return f"between {-low:{style}} {less} and {high:{style}} {more}"
    word = more if high >= tells else less
    least, most = (f"{v:{style}}" for v in sorted((abs(low), abs(high))))
    if min(abs(low), abs(high)) < tells:
        return f"up to {most} {word}"
    return f"{most} {word}" if least == most else f"{least} to {most} {word}"


def fewer(saved: Sequence[float] | pd.Series) -> str:
    """Return the range of shares of work saved."""
    return span(saved, SHARE_TELLS, ".1%", "fewer|more|as many")


def change(gains: Sequence[float] | pd.Series) -> str:
    """Return the range of gains in recall."""
    return span(gains, RECALL_TELLS, ".3f", "more recall|less recall|the same recall")


def plain(value: object) -> str:
    """Return a parameter; a column with gaps has made floats of whole numbers."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def italic(method: str) -> str:
    """Return the name of a method as sentences have it."""
    return method if method == BRUTE else f"*{method}*"


def join(parts: Sequence[str]) -> str:
    """Return a list in words: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
