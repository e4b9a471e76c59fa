"""Figures of notebook 06: how recall, work and memory answer to each parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pqlib.study.plots import style

MODE_STYLE = {"shared": (style.SKY, "s"), "per-cluster": (style.BLUE, "D")}
BITS_MARKER = {4: "v", 6: "^", 8: "o", 16: "P"}
BOTH = ["codebooks", "nbits"]
BITS_LINE = {4: ":", 6: "--", 8: "-", 16: "-."}


def _mode(codebooks: str) -> dict[str, Any]:
    """Return colour and marker of a kind of codebooks."""
    return style.mark(*MODE_STYLE[codebooks])


def _bits(nbits: int) -> dict[str, Any]:
    """Return marker and line of a number of bits."""
    return {"marker": BITS_MARKER.get(nbits, "X"), "linestyle": BITS_LINE.get(nbits, "-.")}


def _code_lines(axes: Axes, points: pd.DataFrame, x: str, y: str) -> None:
    """Draw a line over m for each kind of codebooks and number of bits, where both are there."""

    def look(value: tuple[str, int]) -> dict[str, Any]:
        return {"color": MODE_STYLE[value[0]][0]} | _bits(value[1])

    there = points.dropna(subset=[x, y]).sort_values("m", kind="stable")[[*BOTH, x, y]]
    style.lines(axes, there, BOTH, x, y, look, "{}, {} bits", sort=True)


def _lines_by(axes: Axes, points: pd.DataFrame, knob: str, over: str, x: str) -> None:
    """Draw recall against ``x``, a line over ``over`` for each value of ``knob``."""
    values = sorted(set(points[knob]))

    def look(value: int) -> dict[str, Any]:
        number = values.index(value)
        marker = style.MARKERS[number % len(style.MARKERS)]
        return style.mark(style.COLORS[number % len(style.COLORS)], marker)

    style.lines(axes, points.sort_values(over), knob, x, "recall", look, "{:,}", sort=True)


def code_size(points: pd.DataFrame, k: int) -> Figure:
    """Draw recall against the code alone and against everything that the index holds.

    Parameters
    ----------
    points : "m", "nbits", "codebooks", "recall", "code_bytes", "bytes_per_vector"; rows that
        were not run hold NaN
    k : of recall@k
    """
    figure, ((code, total),) = style.new(1, 2, 3.6, sharey=True)
    _code_lines(code, points, "code_bytes", "recall")
    _code_lines(total, points, "bytes_per_vector", "recall")
    style.log_axis(code.xaxis, "code, bytes", at=points.dropna(subset=["recall"]).code_bytes)
    code.set(ylabel=f"recall@{k}", title="Counting the code alone")
    style.log_axis(total.xaxis, "bytes per vector")
    total.set_title("Counting everything held")
    style.widen_decades(total)
    code.set_ylim(0, None)
    style.legend_of(code, ncols=3)
    return figure


def speed(points: pd.DataFrame, k: int) -> Figure:
    """Draw queries per second against recall for all trained codes.

    Parameters
    ----------
    points : "m", "nbits", "codebooks", "recall", "qps"; rows that were not run hold NaN
    k : of recall@k
    """
    figure, ((axes,),) = style.new(1, 1, 3.3)
    _code_lines(axes, points, "recall", "qps")
    style.log_axis(axes.yaxis, "queries per second")
    style.widen_decades(axes, "y")
    axes.set(xlabel=f"recall@{k}", title="Speed of the codes, each line over m")
    style.legend_of(axes, loc="outside right center")
    return figure


def probes(points: pd.DataFrame, k: int) -> Figure:
    """Draw recall and counted work against nprobe.

    Parameters
    ----------
    points : "codebooks", "nprobe", "recall", "routing_limit" (recall of perfect codes in the
        same lists), "distance_computations"
    k : of recall@k
    """
    figure, ((left, right),) = style.new(1, 2, 3.2)
    for axes, column in ((left, "recall"), (right, "distance_computations")):
        style.lines(axes, points, "codebooks", "nprobe", column, _mode, "{} codebooks", sort=True)
        style.log_axis(axes.xaxis, "nprobe, lists scanned", at=points.nprobe)
    limit = points.drop_duplicates("nprobe").sort_values("nprobe")
    looks: dict[str, Any] = {"color": style.GREY, "linestyle": "--", "label": "perfect codes"}
    left.plot(limit.nprobe, limit.routing_limit, **looks)
    left.set(ylabel=f"recall@{k}", title="What is found", ylim=(0, 1.05))
    style.log_axis(right.yaxis, "distance computations per query")
    right.set_title("What it takes")
    style.label_decades(right)
    style.legend_of(left, ncols=3)
    return figure


def inner_clusters(points: pd.DataFrame, k: int) -> Figure:
    """Draw recall against counted work, a line for each number of inner clusters.

    Parameters
    ----------
    points : "n_inner", "nprobe", "recall", "distance_computations"
    k : of recall@k
    """
    figure, ((axes,),) = style.new(1, 1, 3.3)
    _lines_by(axes, points, "n_inner", "nprobe", "distance_computations")
    style.log_axis(axes.xaxis, "distance computations per query")
    style.widen_decades(axes)
    axes.set(ylabel=f"recall@{k}", title="Inner clusters, each line over nprobe")
    style.legend_of(axes, loc="outside right center", title="n_inner")
    return figure


def outer_clusters(points: pd.DataFrame, k: int, flat: tuple[float, float]) -> Figure:
    """Draw what the second level saves and loses.

    Parameters
    ----------
    points : "n_outer", "nprobe_outer", "recall" (of perfect codes in the probed lists),
        "centroid_distances" (outer and inner)
    k : true neighbours
    flat : recall and centroid distances of flat probing with the same nprobe
    """
    figure, ((axes,),) = style.new(1, 1, 3.3)
    _lines_by(axes, points, "n_outer", "nprobe_outer", "centroid_distances")
    axes.plot(flat[1], flat[0], marker="*", ms=12, color=style.BLACK, linestyle="", label="flat")
    axes.set_xlabel("distances to centroids per query, both levels")
    axes.set_ylabel(f"true {k} in probed lists")
    axes.set_title("Outer clusters, each line over nprobe_outer")
    style.legend_of(axes, loc="outside right center", title="n_outer")
    return figure


def one_at_a_time(points: pd.DataFrame, k: int, n: int) -> Figure:
    """Draw recall against each parameter, the others held: a panel a parameter.

    Bands are 95% intervals over queries; a ring marks the standard that is held elsewhere.

    Parameters
    ----------
    points : a row for each "knob", "value" and "codebooks": "recall", "recall_low",
        "recall_high", "standard" (bool)
    k : of recall@k
    n : base vectors; k of them at random are the limit from below
    """
    knobs = points.knob.unique()
    columns = min(3, len(knobs))
    rows = -(-len(knobs) // columns)
    figure, grid = style.new(rows, columns, 0.6 + 1.95 * rows, sharey=True)
    for axes in grid.flat[len(knobs) :]:
        axes.set_visible(False)
    for axes, (knob, panel) in zip(grid.flat, points.groupby("knob", sort=False), strict=False):
        values = _ascending(panel.value)
        panel = panel.assign(place=panel.value.map(values.index)).sort_values("place")
        for mode in dict.fromkeys(points.codebooks):
            own = panel[panel.codebooks == mode]
            if own.empty:
                continue
            looks = _mode(str(mode))
            ends = own.recall_low, own.recall_high
            axes.fill_between(own.place, *ends, color=looks["color"], alpha=0.25, lw=0)
            axes.vlines(own.place, *ends, color=looks["color"], linewidth=1)
            axes.plot(own.place, own.recall, **looks, label=f"{mode} codebooks")
        held = panel[panel.standard]
        if len(held):
            style.ring(axes, held.place, held.recall, style.BLACK, "held elsewhere")
        axes.set_xticks(range(len(values)), [str(v) for v in values])
        if max(len(str(v)) for v in values) * len(values) * columns > 90:
            axes.tick_params(axis="x", labelrotation=90)
        style.limits(axes, k, n)
        axes.set(xlim=(-0.4, len(values) - 0.6), ylim=(-0.03, 1.12), xlabel=knob)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"recall@{k}")
    style.legend_above(figure, grid.flat)
    return figure


def _ascending(values: pd.Series) -> list:  # type: ignore[type-arg]
    """Return each value once: by size where all are numbers ("1,000"), else as they come."""
    once = list(dict.fromkeys(values))
    try:
        return sorted(once, key=lambda value: float(str(value).replace(",", "")))
    except ValueError:
        return once


def grids(left: pd.DataFrame, right: pd.DataFrame, k: int) -> Figure:
    """Draw two full grids of recall as heat maps.

    Parameters
    ----------
    left, right : tables of recall; the names of index and columns are the parameters, NaN where
        nothing was run
    k : of recall@k
    """
    figure, (axes_row,) = style.new(1, 2, 3.4)
    held = [table.to_numpy(float) for table in (left, right)]
    measured = np.concatenate([values[~np.isnan(values)] for values in held])
    low, high = (measured.min(), measured.max()) if len(measured) else (0.0, 1.0)
    if low == high:  # a colour bar has two ends
        low, high = low - 0.05, high + 0.05
    for axes, table, values in zip(axes_row, (left, right), held, strict=True):
        picture = axes.imshow(values, vmin=low, vmax=high, aspect="auto", origin="lower")
        for (row, column), value in np.ndenumerate(values):
            words = f"{value:.2f}"
            if np.isnan(value):
                words = "not run" if table.shape[1] <= 6 else "not\nrun"
            dark = np.isnan(value) or (value - low) / (high - low) > 0.55
            looks: dict[str, Any] = {"color": style.BLACK if dark else "white", "fontsize": 7}
            axes.text(column, row, words, ha="center", va="center", **looks)
        axes.set_xticks(range(table.shape[1]), [f"{v:,.15g}" for v in table.columns])
        axes.set_yticks(range(table.shape[0]), [f"{v:,.15g}" for v in table.index])
        axes.set(xlabel=str(table.columns.name), ylabel=str(table.index.name))
        axes.set_title(f"{table.index.name} and {table.columns.name}")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.colorbar(picture, ax=list(axes_row), label=f"recall@{k}", shrink=0.9)
    return figure


def importance(shares: pd.DataFrame) -> Figure:
    """Draw which factor explains how much of the variance of each response.

    Parameters
    ----------
    shares : a row for each "response" and "factor": "main", "total"; the factors come in the
        order of the first response
    """
    responses = list(shares.response.unique())
    factors = list(shares.factor[shares.response == responses[0]])
    figure, (axes_row,) = style.new(1, len(responses), 1.3 + 0.3 * len(factors), sharey=True)
    for axes, response in zip(axes_row, responses, strict=True):
        rows = shares[shares.response == response].set_index("factor").reindex(factors)
        places = np.arange(len(factors))
        axes.barh(places, rows.total, color=style.SKY, height=0.7, label="with others")
        axes.barh(places, rows.main, color=style.BLUE, height=0.35, label="alone")
        for place, total in zip(places, rows.total, strict=True):
            if not np.isnan(total):  # otherwise no factor of this response
                axes.text(total + 0.02, place, f"{total:.0%}", va="center", fontsize=7)
        axes.set_yticks(places, factors)
        axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
        axes.grid(axis="y", visible=False)
        axes.set(title=response, xlabel="share of variance", xlim=(0, 1.2))
    axes_row[0].invert_yaxis()
    style.legend_of(axes_row[0], loc="outside upper right", ncols=2)
    return figure


def crossing(points: pd.DataFrame, k: int) -> Figure:
    """Draw what per-cluster codebooks gain, by the size of clusters, at no more total memory.

    Parameters
    ----------
    points : a row for each "nbits" and "n_inner": "vectors_per_cluster", "recall",
        "shared_recall", "gain"
    k : of recall@k
    """
    figure, ((left, right),) = style.new(1, 2, 3.3)
    own, rival = (MODE_STYLE[mode][0] for mode in ("per-cluster", "shared"))
    for nbits, rows in points.groupby("nbits"):
        rows = rows.sort_values("vectors_per_cluster")
        size, looks = rows.vectors_per_cluster, _bits(int(nbits))
        left.plot(size, rows.recall, **looks, color=own, label=f"per-cluster, {nbits} bits")
        label = f"shared, as large as {nbits} bits"
        left.plot(size, rows.shared_recall, **looks, color=rival, label=label)
        right.plot(size, rows.gain, **looks, color=style.BLUE)
    right.axhline(0, color=style.BLACK, linewidth=0.8)
    for axes in (left, right):
        if points.empty:
            words = "no two codes to compare"
            axes.text(0.5, 0.6, words, transform=axes.transAxes, ha="center", color=style.GREY)
        style.log_axis(axes.xaxis, "vectors per cluster, on average")
        style.widen_decades(axes)
    left.set(ylabel=f"recall@{k}", title="At no more total memory", ylim=(0, 1.02))
    right.set(ylabel="difference in recall", title="What codebooks per cluster gain")
    style.legend_of(left, ncols=2)
    return figure
