"""Figures of the family of quantizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MultipleLocator,
    NullLocator,
    PercentFormatter,
)
from numpy.typing import NDArray

from pqlib.study.plots import style
from pqlib.study.plots.evaluation import spread_ticks

FloatMatrix = NDArray[np.float32]

STYLES: dict[str, tuple[str, str, str]] = {
    "PQ": (style.BLACK, "o", "-"),
    "OPQ": (style.BLUE, "s", "-"),
    "per-cluster PQ": (style.GREY, ">", "--"),
    "LOPQ": (style.SKY, "v", "-"),
    "RVQ": (style.ORANGE, "^", "-"),
    "LSQ": (style.GREEN, "D", "-"),
    "PRQ": (style.YELLOW, "<", "--"),
    "PLSQ": (style.GREEN, "h", "--"),
    "CQ": (style.PINK, "P", "-"),
    "RaBitQ": (style.GREY, "X", "-"),
    "SQ, 4 bits": (style.GREY, "p", "-"),
    "SQ, 8 bits": (style.GREY, "*", "-"),
}
"""Colour, marker and line of each method."""


def toy(x: FloatMatrix, codes: Mapping[str, FloatMatrix], errors: Mapping[str, float]) -> Figure:
    """Draw, for 2-d vectors, every point that each code can stand for.

    Parameters
    ----------
    x : (n, 2) the data
    codes : by name: (codes, 2) the points
    errors : by name: mean squared error over the data's spread
    """
    columns = 3
    rows = -(-len(codes) // columns)
    figure, panels = style.new(rows, columns, 2.5 * rows, sharex=True, sharey=True)
    low, high = x.min(axis=0), x.max(axis=0)
    for place, axes in enumerate(panels.ravel()):
        if place >= len(codes):
            axes.set_visible(False)
            continue
        name, points = list(codes.items())[place]
        axes.scatter(*x.T, s=2, color="#C8C8C8", linewidths=0, rasterized=True)
        axes.scatter(*points.T, s=5, color=style.BLUE, linewidths=0)
        bits = int(np.ceil(np.log2(len(points))))
        axes.set_title(f"{name}, {bits} bits: {errors[name]:.2%} lost", loc="left")
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        axes.grid(visible=False)
        if place // columns == rows - 1:
            axes.set_xlabel("component 1")
        if place % columns == 0:
            axes.set_ylabel("component 2")
    return figure


def _lines(axes: Any, table: pd.DataFrame, x: str, y: str, methods: Sequence[str]) -> None:
    for name in methods:
        own = table[table.method == name].sort_values(x)
        color, marker, line = STYLES[name]
        # Where no rotation is kept, LOPQ lies on this one.
        under = dict(markersize=8, markerfacecolor="white") if name == "per-cluster PQ" else {}
        axes.plot(
            own[x], own[y], line if len(own) > 1 else "", color=color, marker=marker, label=name,
            **{"markersize": 5, **under},
        )  # fmt: skip


def _bits(axes: Any, values: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(values))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("bits of a code")


def errors(table: pd.DataFrame) -> Figure:
    """Draw the share of the vectors' spread that each code loses, by bits.

    Parameters
    ----------
    table : a row for each "method" and "budget": "bits", "error_train", "error_unseen"
    """
    own = table[table.budget > 0]
    figure, (panels,) = style.new(1, 2, 3.6, sharey=True)
    methods = [name for name in STYLES if name in set(own.method)]
    for axes, (column, title) in zip(
        panels,
        (("error_train", "Vectors trained on"), ("error_unseen", "Vectors not trained on")),
        strict=True,
    ):
        _lines(axes, own, "bits", column, methods)
        _bits(axes, own.budget.tolist())
        axes.set_title(title, loc="left")
        axes.yaxis.set_major_locator(MultipleLocator(0.05))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    # At last, so that the panels, which share it, are both within.
    panels[0].set_ylim(0, None)
    panels[0].set_ylabel("squared error, share of the spread")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=5, handlelength=3)
    return figure


def recalls(table: pd.DataFrame) -> Figure:
    """Draw recall@10 by exhaustive search against the bits of a code, and what it is above PQ's.

    Parameters
    ----------
    table : a row for each "method" and "budget": "bits", "recall_10", "recall_10_se"
    """
    figure, (panels,) = style.new(1, 2, 3.6)
    methods = [name for name in STYLES if name in set(table.method)]
    ticks = [int(b) for b in sorted(set(table[table.budget > 0].budget))]
    large = table[table.budget == 0].bits
    # Some are close together, such as 8 bits a component and twice as many of half the bits.
    for value in sorted(set(large)):
        if value / ticks[-1] > 1.6:
            ticks.append(int(value))
    whole, difference = panels
    _lines(whole, table, "bits", "recall_10", methods)
    _bits(whole, ticks)
    whole.set(ylabel="recall@10", ylim=(0, 1.02))
    own = table[table.budget > 0]
    plain = own[own.method == "PQ"].set_index("budget").recall_10
    own = own[own.budget.isin(plain.index)]
    own = own.assign(gain=own.recall_10 - own.budget.map(plain))
    # Of a recall, not of a difference on the same queries, which is known better.
    error = own[own.method == "PQ"].sort_values("bits")
    difference.fill_between(
        error.bits, -error.recall_10_se, error.recall_10_se, color=style.BLACK, alpha=0.12,
        linewidth=0,
    )  # fmt: skip
    _lines(difference, own, "bits", "gain", [name for name in methods if name in set(own.method)])
    _bits(difference, own.budget.tolist())
    difference.set(ylabel="recall@10, less that of PQ")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=6, handlelength=3)
    return figure


def costs(table: pd.DataFrame, longer: pd.DataFrame) -> Figure:
    """Draw recall at 64 bits against what training and encoding take.

    Parameters
    ----------
    table : a row for each "method" at one budget: "recall_10", "train_s", "encode_us"
    longer : rows of "method" with more or less work in training, the same columns; joined by lines
    """
    figure, (panels,) = style.new(1, 2, 3.6, sharey=True)
    methods = [name for name in STYLES if name in set(table.method)]
    for axes, (column, label) in zip(
        panels,
        (("train_s", "training, seconds"), ("encode_us", "encoding, microseconds a vector")),
        strict=True,
    ):
        for name in methods:
            own = table[table.method == name]
            color, marker, _ = STYLES[name]
            axes.plot(
                own[column], own.recall_10, linestyle="", marker=marker, color=color, label=name
            )
            more = longer[longer.method == name].sort_values(column)
            axes.plot(more[column], more.recall_10, "-", color=color, linewidth=1, alpha=0.6)
            axes.plot(
                more[column], more.recall_10, linestyle="", marker=marker, color=color,
                markersize=5, markerfacecolor="white", markeredgewidth=1.2,
            )  # fmt: skip
        axes.set_xscale("log")
        spread_ticks(axes.xaxis, axes.get_xlim())
        axes.set_xlabel(label)
    panels[0].set_ylabel("recall@10")
    handles, labels = panels[0].get_legend_handles_labels()
    handles.append(
        Line2D([], [], linestyle="", marker="o", color=style.BLACK, markerfacecolor="white")
    )
    labels.append("other training")
    figure.legend(handles, labels, loc="outside upper left", ncols=6)
    return figure


def objectives(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the squared error after each iteration of training, over the vectors' spread.

    Parameters
    ----------
    curves : by method: shares of the spread
    """
    figure, ((axes,),) = style.new(1, 1, 3.0)
    fallback = list(zip(style.COLORS, style.MARKERS, strict=True))
    for place, (name, values) in enumerate(curves.items()):
        color, marker, _ = STYLES.get(name, (*fallback[place], "-"))
        steps = np.arange(1, len(values) + 1)
        axes.plot(steps, values, color=color, marker=marker, label=name, markersize=4)
    axes.set(xlabel="iteration of training", ylabel="squared error, share of the spread")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def anisotropic(table: pd.DataFrame) -> Figure:
    """Draw what weighing errors along the vector does to inner products.

    Parameters
    ----------
    table : rows of ``inner_products``: "threshold" (missing: plain), "recall_10",
        "recall_10_unit", "parallel", "orthogonal"
    """
    plain = table[table.threshold.isna()].iloc[0]
    own = table[table.threshold.notna()]
    figure, (panels,) = style.new(1, 2, 3.2)
    left, right = panels
    left.plot(own.threshold, own.recall_10, color=style.BLUE, marker="o", label="anisotropic PQ")
    left.plot(
        own.threshold, own.recall_10_unit, color=style.SKY, marker="D",
        label="the same, scaled to length 1",
    )  # fmt: skip
    left.axhline(plain.recall_10, color=style.BLACK, linestyle="--", label="PQ")
    left.axhline(
        plain.recall_10_unit, color=style.BLACK, linestyle=":", label="PQ, scaled to length 1"
    )
    left.set(xlabel="threshold T", ylabel="recall@10, inner product", ylim=(0, None))
    for column, color, marker, words in (
        ("parallel", style.ORANGE, "s", "along the vector"),
        ("orthogonal", style.GREEN, "^", "across it"),
    ):
        values = own[column] / plain[column]
        right.plot(own.threshold, values, color=color, marker=marker, label=words)
    right.axhline(1, color=style.BLACK, linestyle="--")
    right.set(xlabel="threshold T", ylabel="squared error, over that of PQ")
    for axes in panels:
        axes.set_xticks(own.threshold, [f"{t:g}" for t in own.threshold])
    handles, labels = [], []
    for axes in panels:
        some, words = axes.get_legend_handles_labels()
        handles += some
        labels += words
    figure.legend(handles, labels, loc="outside upper left", ncols=3)
    return figure
