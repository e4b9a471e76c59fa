"""Designs over several parameters, and how much of the spread each of them explains."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


def full_factorial(levels: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return all combinations of the levels of each factor, the last factor turning fastest.

    Put first what is dear to change: points that share an index then follow each other.
    """
    names = list(levels)
    return [dict(zip(names, c, strict=True)) for c in itertools.product(*levels.values())]


def variance_shares(table: pd.DataFrame, factors: Sequence[str], value: str) -> pd.DataFrame:
    """Return how much of the variance of ``value`` over a full factorial each factor explains.

    "main" is what the factor does on average over the others: the variance of its levels' means.
    "total" includes what it does together with others: the mean variance over its levels, the
    others held. Both over the whole variance; the main ones add up to at most 1, the total ones
    to at least 1 (Saltelli et al., "Variance based sensitivity analysis of model output", Computer
    Physics Communications 2010, equations 2 and 4; exact here, as the design is complete).

    A share depends on the levels tried: state the design beside it. ``table`` has a row for each
    combination of the factors' levels; what is returned a row a factor, by "total" descending.

    Raises
    ------
    ValueError
        When the design is not complete, or ``value`` is the same everywhere or not finite.
    """
    rows = table[[*factors, value]]
    expected = math.prod(rows[name].nunique() for name in factors)
    if len(rows) != expected or rows.duplicated(list(factors)).any():
        raise ValueError(
            f"table has {len(rows)} rows: expected {expected}, each combination of "
            f"{', '.join(factors)} once. A share of variance needs the full factorial."
        )
    if rows[value].isna().any():
        raise ValueError(f"{value} has missing values: expected a number for each combination.")
    whole = float(rows[value].var(ddof=0))
    if not 0 < whole < math.inf:
        raise ValueError(f"{value} has a variance of {whole}: there is nothing to share out.")
    shares = []
    for name in factors:
        others = [other for other in factors if other != name]
        main = rows.groupby(name)[value].mean().var(ddof=0)
        total = rows.groupby(others)[value].var(ddof=0).mean() if others else whole
        shares.append(
            {
                "factor": name,
                "levels": ", ".join(map(str, sorted(rows[name].unique()))),
                "main": float(main) / whole,
                "total": float(total) / whole,
            }
        )
    return pd.DataFrame(shares).sort_values("total", ascending=False, ignore_index=True)


def complete_part(table: pd.DataFrame, factors: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of a full factorial inside ``table``, and the levels left out for it.

    ``table`` has at most one row for each combination. As long as some are missing, the level goes
    that lacks the largest share of its own. Levels left out are such as "nbits = 8".
    """
    rows, dropped = table, []
    while len(rows) < math.prod(rows[name].nunique() for name in factors):
        counts = {name: rows[name].value_counts() for name in factors}
        whole = math.prod(len(c) for c in counts.values())
        # What each level lacks of the combinations it would have in a full design.
        lacking = {
            (name, level): 1 - here * len(of_name) / whole
            for name, of_name in counts.items()
            for level, here in of_name.items()
            if len(of_name) > 1
        }
        name, level = max(lacking, key=lambda key: (lacking[key], str(key)))
        rows = rows[rows[name] != level]
        dropped.append(f"{name} = {level}")
    return rows, dropped
