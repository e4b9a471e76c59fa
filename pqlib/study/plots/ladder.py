"""Figures of what limits a search and of how it grows with the base."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from pqlib.study.plots import style

METHOD_STYLE = ((style.BLUE, "o"), (style.ORANGE, "s"), (style.GREEN, "^"), (style.PINK, "D"))
"""Colour and marker of each method, ours first."""

BOUND_STYLE = {"memory": (style.SKY, ""), "products": (style.YELLOW, "////")}
"""Colour and hatching of a bound, by what it is bounded by."""

ALL_CACHED = "bound with all in the cache"

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
    micro = 1e3 / table.queries.to_numpy(float)
    measured = micro * table.ms.to_numpy(float)
    bound, cached = (
        np.nan_to_num(micro * table[name].to_numpy(float))
        for name in ("bound_ms", "cached_bound_ms")
    )
    places = np.arange(len(table), dtype=float)
    figure, ((axes,),) = style.new(1, 1, 1.2 + 0.45 * len(table))
    # A stage without a bound has the middle of its place.
    upper = places - np.where(bound > 0, 0.2, 0)
    axes.barh(upper, measured, 0.36, color=style.BLUE, label="measured")
    for by, (color, hatch) in BOUND_STYLE.items():
        chosen = (table.bound_by == by).to_numpy() & (bound > 0)
        if chosen.any():
            axes.barh(
                places[chosen] + 0.2,
                bound[chosen],
                0.36,
                color=color,
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
                label=f"bound by {by}",
            )
    chosen = cached > 0
    if chosen.any():
        axes.vlines(
            cached[chosen],
            places[chosen] + 0.02,
            places[chosen] + 0.38,
            color=style.BLACK,
            linewidth=1.8,
            label=ALL_CACHED,
        )
    for place, value in zip(upper, measured, strict=True):
        _beside(axes, place, value, f"{value:.3g}")
    for place, value, times in zip(places, bound, table.times_bound, strict=True):
        if value > 0:
            _beside(axes, place + 0.2, value, f"{value:.2g}; measured: {times:.2g} times that")
    axes.set_yticks(places, table.stage)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(len(table) - 0.5, -0.5)
    # Room for the words beside the bars.
    axes.set_xlim(0, max(1.12 * measured.max(), 1.5 * bound.max()))
    axes.set(
        xlabel="microseconds per query",
        title=f"Stages of a search: {measured.sum():.3g} microseconds a query",
    )
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] == ALL_CACHED)
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside upper right", ncols=4
    )
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
                axes.plot(
                    beyond.n, beyond.qps, color=color, marker=marker, mfc="white", linestyle=""
                )
            exponent = exponents.get((method, column), np.nan)
            if np.isfinite(exponent):
                last = rows.iloc[-1]
                # Adding 0 makes 0 of -0.
                words = rf"$n^{{{round(exponent, 2) + 0:.2f}}}$"
                ends.append((last.n, last[column], words, color))
        axes.set(xscale="log", yscale="log", xlabel="base vectors n", ylabel=unit)
        axes.set_title(title if column != "qps" else f"{title} at recall {target:g}")
        _decades(axes)
        _label_ends(axes, ends)
    handles = dict(
        pair[::-1]
        for axes in panels
        for pair in zip(*axes.get_legend_handles_labels(), strict=True)
    )
    if table.how.eq("exceeds").any():
        handles["recall above the target"] = panels[1].plot(
            [], [], color=style.GREY, marker="o", mfc="white", linestyle=""
        )[0]
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3)
    return figure


def _beside(axes: Axes, y: float, x: float, text: str) -> None:
    axes.annotate(
        text, (x, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5
    )


def _decades(axes: Axes) -> None:
    """Label both axes with plain numbers; the y axis spans a factor of two or more."""
    low, high = axes.get_ylim()
    wider = max(1.0, (2 * low / high) ** 0.5)
    axes.set_ylim(low / wider, high * wider)
    for axis, (low, high), between in (
        (axes.xaxis, axes.get_xlim(), (1, 2, 5)),
        (axes.yaxis, axes.get_ylim(), (1, 1.5, 2, 3, 5, 7)),
    ):
        axis.set_major_locator(LogLocator(base=10, subs=between if high < 30 * low else (1,)))
        axis.set_major_formatter(FuncFormatter(_short))
        axis.set_minor_locator(NullLocator())


def _short(value: float, _: int | None = None) -> str:
    """Return 20,000 as "20 k": there is little room below a narrow panel."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.6g} {letter}"
    return f"{value:,.6g}"


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Label the ends of lines, apart from each other where the lines end close together."""
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.35)
    # A label takes about a tenth of the height of the axes.
    bottom, top = np.log(axes.get_ylim())
    gap = 0.1 * (top - bottom)
    ends = sorted(ends, key=lambda end: end[1])
    heights = [np.log(end[1]) for end in ends]
    for i in range(1, len(heights)):
        lacking = gap - (heights[i] - heights[i - 1])
        if lacking > 0:
            heights[i] += lacking / 2
            heights[i - 1] -= lacking / 2
    for (x, _, text, color), height in zip(ends, heights, strict=True):
        style.label_line_end(axes, x, float(np.exp(height)), text, color)
