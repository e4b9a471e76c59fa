"""Figures of what limits a search and of how it grows with the base."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, StrMethodFormatter

from pqlib.study.plots import style

SMALL = 7.5  # points of the words beside bars

METHOD_STYLE = ((style.BLUE, "o"), (style.ORANGE, "s"), (style.GREEN, "^"), (style.PINK, "D"))
"""Colour and marker of each method, ours first."""

BOUND_STYLE = {"memory": (style.SKY, ""), "products": (style.YELLOW, "////")}
"""Colour and hatching of a bound, by what it is bounded by."""

GROWING = {
    "build_s": ("Building", "seconds"),
    "qps": ("Speed", "queries per second"),
    "bytes_per_vector": ("Memory", "bytes per vector"),
}
"""Title and unit of each measure of growth."""


def stages(table: pd.DataFrame) -> Figure:
    """Draw what each stage of a search takes beside the least that it could take.

    Parameters
    ----------
    table : a row for each stage: "stage", "queries", "ms" of all of them, "bound_ms" (missing or
        0 where there is none) and "bound_by" ("memory" or "products"), "times_bound",
        "cached_bound_ms"
    """
    columns = table[["ms", "bound_ms", "cached_bound_ms"]].astype(float).fillna(0)
    measured, bound, cached = (1e3 * columns.div(table.queries, axis=0)).to_numpy().T
    places = np.arange(len(table), dtype=float)
    figure, ((axes,),) = style.new(1, 1, 1.2 + 0.45 * len(table))
    # A stage without a bound has the middle of its place.
    upper = places - np.where(bound > 0, 0.2, 0)
    axes.barh(upper, measured, 0.36, color=style.BLUE, label="measured")
    for by, (color, hatch) in BOUND_STYLE.items():
        chosen = (table.bound_by == by).to_numpy() & (bound > 0)
        if chosen.any():
            look = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
            axes.barh(places[chosen] + 0.2, bound[chosen], 0.36, label=f"bound by {by}", **look)
    there = cached > 0
    ends = places[there] + 0.02, places[there] + 0.38
    line = axes.vlines(cached[there], *ends, color=style.BLACK, linewidth=1.8)
    cached_line = {"bound with all in the cache": line} if there.any() else {}
    looks: dict[str, Any] = {"va": "center", "fontsize": SMALL}
    for place, value in zip(upper, measured, strict=True):
        style.note(axes, f"{value:.3g}", (value, place), (3, 0), **looks)
    for place, value, times in zip(places + 0.2, bound, table.times_bound, strict=True):
        if value > 0:
            words = f"{value:.2g}; measured: {times:.2g} times that"
            style.note(axes, words, (value, place), (3, 0), **looks)
    style.name_rows(axes, table.stage)
    # Room for the words beside the bars.
    axes.set_xlim(0, max(1.12 * measured.max(), 1.5 * bound.max()))
    axes.set_xlabel("microseconds per query")
    axes.set_title(f"Stages of a search: {measured.sum():.3g} microseconds a query")
    # Matplotlib puts bars before lines or after them, as they were drawn; the line is to be last.
    style.legend_of(axes, loc="outside upper right", extra=cached_line, ncols=4)
    return figure


def growth(table: pd.DataFrame, slopes: pd.DataFrame, target: float) -> Figure:
    """Draw build time, speed at a recall and memory against the size of the base.

    Each line is labelled with the exponent of its fitted growth.

    Parameters
    ----------
    table : a row for each "method" and "n": "build_s", "qps" (missing where the recall was not
        reached), "bytes_per_vector", "how" ("exceeds": hollow markers)
    slopes : a row for each "method" and "column": "exponent"
    target : recall that the speed is read off at

    Raises
    ------
    ValueError
        When there are more methods than styles.
    """
    methods = list(dict.fromkeys(table.method))
    if len(methods) > len(METHOD_STYLE):
        raise ValueError(
            f"table has {len(methods)} methods: expected at most {len(METHOD_STYLE)}. Draw fewer."
        )
    exponents = slopes.set_index(["method", "column"]).exponent
    figure, (panels,) = style.new(1, 3, 3.0)
    for axes, (column, (title, unit)) in zip(panels, GROWING.items(), strict=True):
        ends = []
        for method, (color, marker) in zip(methods, METHOD_STYLE, strict=False):
            rows = table[(table.method == method) & table[column].notna()].sort_values("n")
            if not len(rows):
                continue
            axes.plot(rows.n, rows[column], color=color, marker=marker, label=method)
            if column == "qps":
                beyond = rows[rows.how == "exceeds"]
                axes.plot(beyond.n, beyond.qps, marker, color=color, mfc="white")
            exponent = exponents.get((method, column), np.nan)
            if np.isfinite(exponent):
                # Adding 0 makes 0 of -0.
                words = rf"$n^{{{round(exponent, 2) + 0:.2f}}}$"
                ends.append((rows[column].iloc[-1], rows.n.iloc[-1], words, color))
        axes.set(xscale="log", yscale="log", xlabel="base vectors n", ylabel=unit)
        axes.set_title(title if column != "qps" else f"{title} at recall {target:g}")
        low, high = axes.get_ylim()
        wider = max(1.0, (2 * low / high) ** 0.5)  # a factor of two or more
        axes.set_ylim(low / wider, high * wider)
        style.spread_ticks(axes.xaxis)
        style.spread_ticks(axes.yaxis)
        axes.xaxis.set_major_formatter(EngFormatter())  # 20 k: there is little room
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
        _label_ends(axes, ends)
    shown = {}
    if table.how.eq("exceeds").any():
        (hollow,) = panels[1].plot([], [], "o", color=style.GREY, mfc="white")
        shown["recall above the target"] = hollow
    style.legend_of(*panels, loc="outside upper left", extra=shown, ncols=3)
    return figure


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Label the ends (y, x, words, colour) of lines, apart where they end close together."""
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.35)
    # A label takes about a tenth of the height of the axes.
    bottom, top = np.log(axes.get_ylim())
    gap = 0.1 * (top - bottom)
    ends = sorted(ends)
    heights = [np.log(end[0]) for end in ends]
    for i in range(1, len(heights)):
        lacking = max(0, gap - (heights[i] - heights[i - 1]))
        heights[i] += lacking / 2
        heights[i - 1] -= lacking / 2
    for (_, x, words, color), height in zip(ends, heights, strict=True):
        style.label_line_end(axes, x, float(np.exp(height)), words, color)
