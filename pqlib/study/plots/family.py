"""Figures of notebook 08: the family of quantizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from pqlib._types import FloatMatrix
from pqlib.study.plots import style

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

SHARE = "squared error, share of the spread"
LEGEND: Any = "outside upper left"


def toy(x: FloatMatrix, codes: Mapping[str, FloatMatrix], errors: Mapping[str, float]) -> Figure:
    """Draw, for 2-d vectors, every point that each code can stand for.

    Parameters
    ----------
    x : (n, 2) the data
    codes : by name: (codes, 2) the points
    errors : by name: mean squared error over the data's spread
    """
    rows = -(-len(codes) // 3)
    figure, panels = style.new(rows, 3, 2.5 * rows, sharex=True, sharey=True)
    (left, bottom), (right, top) = x.min(axis=0), x.max(axis=0)
    for axes, (name, points) in zip(panels.flat, codes.items(), strict=False):
        axes.scatter(*x.T, s=2, color="#C8C8C8", linewidths=0, rasterized=True)
        axes.scatter(*points.T, s=5, color=style.BLUE, linewidths=0)
        bits = int(np.ceil(np.log2(len(points))))
        axes.set_title(f"{name}, {bits} bits: {errors[name]:.2%} lost", loc="left")
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        axes.set(xlabel="component 1", ylabel="component 2")
        axes.grid(visible=False)
        axes.label_outer()
    for axes in panels.flat[len(codes) :]:
        axes.set_visible(False)
    return figure


def errors(table: pd.DataFrame) -> Figure:
    """Draw the share of the vectors' spread that each code loses, by bits.

    Parameters
    ----------
    table : a row for each "method" and "budget": "bits", "error_train", "error_unseen"
    """
    own = table[table.budget > 0]
    figure, (panels,) = style.new(1, 2, 3.6, sharey=True)
    columns = {"error_train": "Vectors trained on", "error_unseen": "Vectors not trained on"}
    for axes, (column, title) in zip(panels, columns.items(), strict=True):
        _lines(axes, own, "bits", column)
        _bits(axes, own.budget)
        axes.set_title(title, loc="left")
        axes.yaxis.set_major_locator(MultipleLocator(0.05))
        style.percent(axes.yaxis)
    # At last, so that the panels, which share it, are both within.
    panels[0].set_ylim(0, None)
    panels[0].set_ylabel(SHARE)
    style.legend_of(panels[0], loc=LEGEND, ncols=5, handlelength=3)
    return figure


def recalls(table: pd.DataFrame) -> Figure:
    """Draw recall@10 by exhaustive search against the bits of a code, and what it is above PQ's.

    Parameters
    ----------
    table : a row for each "method" and "budget": "bits", "recall_10", "recall_10_se"
    """
    figure, ((whole, difference),) = style.new(1, 2, 3.6)
    own = table[table.budget > 0]
    # Large codes may lie close together, such as 8 bits a component and twice as many of 4.
    large = table.bits[(table.budget == 0) & (table.bits > 1.6 * own.budget.max())]
    _lines(whole, table, "bits", "recall_10")
    _bits(whole, [*own.budget, *large])
    whole.set(ylabel="recall@10", ylim=(0, 1.02))
    plain = own[own.method == "PQ"].set_index("budget").sort_index()
    gain = own.recall_10 - own.budget.map(plain.recall_10)
    own = own.assign(gain=gain)[gain.notna()]
    # Of a recall, not of a difference on the same queries, which is known better.
    band = plain.recall_10_se
    difference.fill_between(plain.bits, -band, band, color=style.BLACK, alpha=0.12, linewidth=0)
    _lines(difference, own, "bits", "gain")
    _bits(difference, own.budget)
    difference.set(ylabel="recall@10, less that of PQ")
    style.legend_of(whole, loc=LEGEND, ncols=6, handlelength=3)
    return figure


def costs(table: pd.DataFrame, longer: pd.DataFrame) -> Figure:
    """Draw recall at 64 bits against what training and encoding take.

    Parameters
    ----------
    table : a row for each "method" at one budget: "recall_10", "train_s", "encode_us"
    longer : rows of "method" with more or less work in training, the same columns; joined by lines
    """
    figure, (panels,) = style.new(1, 2, 3.6, sharey=True)
    columns = {"train_s": "training, seconds", "encode_us": "encoding, microseconds a vector"}
    for axes, (column, label) in zip(panels, columns.items(), strict=True):
        for name in _known(table.method):
            color, marker, _ = STYLES[name]
            own = table[table.method == name]
            more = longer[longer.method == name].sort_values(column)
            axes.plot(own[column], own.recall_10, marker, color=color, label=name)
            axes.plot(more[column], more.recall_10, "-", color=color, linewidth=1, alpha=0.6)
            hollow = {"markersize": 5, "markerfacecolor": "white", "markeredgewidth": 1.2}
            axes.plot(more[column], more.recall_10, marker, color=color, **hollow)
        axes.set(xscale="log", xlabel=label)
        style.spread_ticks(axes.xaxis)
    panels[0].set_ylabel("recall@10")
    other = Line2D([], [], linestyle="", marker="o", color=style.BLACK, markerfacecolor="white")
    style.legend_of(panels[0], loc=LEGEND, extra={"other training": other}, ncols=6)
    return figure


def objectives(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the squared error after each iteration of training, over the vectors' spread.

    Parameters
    ----------
    curves : by method: shares of the spread
    """
    figure, ((axes,),) = style.new(1, 1, 3.0)
    for place, (name, values) in enumerate(curves.items()):
        color, marker, _ = STYLES.get(name, (style.COLORS[place], style.MARKERS[place], "-"))
        steps = np.arange(1, len(values) + 1)
        axes.plot(steps, values, color=color, marker=marker, label=name, markersize=4)
    axes.set(xlabel="iteration of training", ylabel=SHARE)
    style.percent(axes.yaxis)
    style.count_ticks(axes.xaxis)
    style.legend_of(axes, loc=LEGEND, ncols=4)
    return figure


def anisotropic(table: pd.DataFrame) -> Figure:
    """Draw what weighing errors along the vector does to inner products.

    Parameters
    ----------
    table : rows of ``inner_products``: "threshold" (missing: plain), "recall_10",
        "recall_10_unit", "parallel", "orthogonal"
    """
    plain, own = table[table.threshold.isna()].iloc[0], table[table.threshold.notna()]
    figure, (panels,) = style.new(1, 2, 3.2)
    left, right = panels
    scaled = "scaled to length 1"
    for column, words, plain_words, look, line in (
        ("recall_10", "anisotropic PQ", "PQ", style.mark(style.BLUE, "o"), "--"),
        ("recall_10_unit", f"the same, {scaled}", f"PQ, {scaled}", style.mark(style.SKY, "D"), ":"),
    ):
        left.plot(own.threshold, own[column], **look, label=words)
        left.axhline(plain[column], color=style.BLACK, linestyle=line, label=plain_words)
    left.set(ylabel="recall@10, inner product", ylim=(0, None))
    for column, words, color, marker in (
        ("parallel", "along the vector", style.ORANGE, "s"),
        ("orthogonal", "across it", style.GREEN, "^"),
    ):
        values = own[column] / plain[column]
        right.plot(own.threshold, values, color=color, marker=marker, label=words)
    right.axhline(1, color=style.BLACK, linestyle="--")
    right.set(ylabel="squared error, over that of PQ")
    for axes in panels:
        axes.set_xlabel("threshold T")
        axes.set_xticks(own.threshold, [f"{t:g}" for t in own.threshold])
    style.legend_of(*panels, loc=LEGEND, ncols=3)
    return figure


def _known(methods: Iterable[str]) -> list[str]:
    """Return the methods that are there, in the order of ``STYLES``."""
    return [name for name in STYLES if name in set(methods)]


def _lines(axes: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    for name in _known(table.method):
        own = table[table.method == name].sort_values(x)
        color, marker, line = STYLES[name]
        look: dict[str, Any] = {"markersize": 5}
        if name == "per-cluster PQ":  # where no rotation is kept, LOPQ lies on it
            look = {"markersize": 8, "markerfacecolor": "white"}
        line = line if len(own) > 1 else ""
        axes.plot(own[x], own[y], line, color=color, marker=marker, label=name, **look)


def _bits(axes: Axes, values: Iterable[float]) -> None:
    axes.set_xscale("log", base=2)
    style.ticks_at(axes.xaxis, map(float, values), "{x:g}")
    axes.set_xlabel("bits of a code")
