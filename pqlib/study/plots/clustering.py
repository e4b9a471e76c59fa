"""Figures of notebook 02: two levels of clusters, and what routing through them loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pqlib.study.plots import style
from pqlib.study.plots.encoding import voronoi_cells

Points = NDArray[np.floating]
Ids = NDArray[np.integer]

TINTS = ("#CFE3F2", "#F6DCC8", "#CFEBE1", "#F3E1EC", "#FBEBC8", "#DDF0FB", "#E6E6E6")
"""Light versions of the palette, to lie under points and lines."""

BUILD_STYLE = {"bottom-up": (style.BLUE, "o"), "top-down": (style.ORANGE, "s")}
"""Colour and marker of each way to build the levels."""


def objective(inner: Sequence[float], outer: Sequence[float]) -> Figure:
    """Draw the mean squared distance to the nearest centroid by iteration, for both levels.

    Parameters
    ----------
    inner, outer : the objective before each update
    """
    figure, (panels,) = style.new(1, 2, 2.5)
    for axes, values, title, color in (
        (panels[0], inner, "Inner level: vectors", style.BLUE),
        (panels[1], outer, "Outer level: centroids", style.ORANGE),
    ):
        axes.plot(np.arange(1, len(values) + 1), values, marker="o", color=color)
        axes.set(xlabel="iteration", title=title)
        style.count_ticks(axes.xaxis)
        axes.yaxis.set_major_formatter("{x:,.0f}" if max(values) >= 1000 else "{x:.4g}")
    panels[0].set_ylabel("mean squared distance")
    return figure


def list_sizes(sizes: Ids, outer_sizes: Ids) -> Figure:
    """Draw how many vectors each list holds and how many lists each outer cluster owns.

    Parameters
    ----------
    sizes : (n_inner,) vectors in each inverted list
    outer_sizes : (n_outer,) inner clusters in each outer one
    """
    figure, (panels,) = style.new(1, 2, 2.6)
    for axes, values, color, level, what, title in (
        (panels[0], sizes, style.BLUE, "inner", "vectors", "Inverted lists"),
        (panels[1], outer_sizes, style.ORANGE, "outer", "inner clusters", "Outer clusters"),
    ):
        ordered, end = np.sort(values)[::-1], len(values) + 0.5
        place = np.arange(1, len(values) + 1)
        axes.bar(place, ordered, width=1.0, color=color, edgecolor="white", linewidth=0.3)
        axes.axhline(ordered.mean(), color=style.BLACK, linestyle="--", linewidth=1)
        axes.text(end, ordered.mean(), "mean ", ha="right", va="bottom", fontsize=8)
        axes.set(xlabel=f"{level} cluster, by size", ylabel=what, title=title, xlim=(0.5, end))
        style.count_ticks(axes.xaxis)
        style.count_ticks(axes.yaxis)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.grid(axis="x", visible=False)
    return figure


# Cells in a plane --------------------------------------------------------------------------


def nested_cells(points: Points, inner: Points, owner: Ids, outer: Points) -> Figure:
    """Draw the cells of both levels in two dimensions.

    Parameters
    ----------
    points : (n, 2) vectors
    inner : (K, 2) inner centroids; owner : (K,) the outer cluster of each
    outer : (L, 2) outer centroids
    """
    low, high = _window(points)
    tints = [TINTS[o % len(TINTS)] for o in owner]
    figure, axes = _plane(4.6, inner, low, high, facecolors=tints, edgecolors="white", lw=0.9)
    _draw_outer_borders(axes, inner, owner, low, high)
    axes.scatter(*points.T, s=1, color=style.GREY, alpha=0.35, rasterized=True, linewidths=0)
    axes.scatter(*inner.T, s=14, color=style.BLUE, label="inner centroids", zorder=3)
    axes.scatter(*outer.T, s=70, color=style.ORANGE, marker="s", label="outer centroids", zorder=4)
    axes.set_title("White edges: inner cells. Black edges: outer clusters")
    figure.legend(loc="outside right upper")
    return figure


def boundary_miss(
    points: Points, inner: Points, owner: Ids, query: Points, neighbors: Points, probed: int,
    homes: Ids,
) -> Figure:  # fmt: skip
    """Draw a query whose true neighbours lie across the border of the one cell probed.

    Parameters
    ----------
    points, inner, owner : as for ``nested_cells``
    query : (2,), neighbors : (k, 2) its true nearest, homes : (k,) the cells they lie in
    probed : the cell that is probed
    """
    reach = 2.5 * float(np.abs(neighbors - query).max()) or 1.0
    window = np.array([1.5 * reach, reach])
    low, high = query - window, query + window
    tints = [TINTS[0] if c == probed else "#F4F4F4" for c in range(len(inner))]
    figure, axes = _plane(4.2, inner, low, high, facecolors=tints, edgecolors=style.GREY, lw=1)
    inside = ((points > low) & (points < high)).all(axis=1)
    axes.scatter(*points[inside].T, s=5, color=style.GREY, alpha=0.6, rasterized=True)
    found = homes == probed
    shown = inner[((inner > low) & (inner < high)).all(axis=1)]
    for part, size, color, marker, label in (
        (neighbors[found], 34, style.BLUE, "o", "true neighbour, found"),
        (neighbors[~found], 40, style.ORANGE, "s", "true neighbour, missed"),
        (query[None], 130, style.BLACK, "*", "query"),
        (shown, 26, style.BLACK, "x", "inner centroids" if len(shown) else None),
    ):
        axes.scatter(*part.T, s=size, color=color, marker=marker, label=label, zorder=3)
    axes.set_title("Only the blue cell is probed")
    figure.legend(loc="outside right upper")
    return figure


def _plane(
    height: float, inner: Points, low: Points, high: Points, **looks: Any
) -> tuple[Figure, Any]:
    """Draw the cells of the centroids ``inner`` (K, 2) in the box from ``low`` to ``high``."""
    figure, ((axes,),) = style.new(1, 1, height)
    axes.add_collection(PolyCollection(voronoi_cells(inner, low, high), **looks))
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set(xlabel="1st principal direction", ylabel="2nd principal direction")
    axes.grid(visible=False)
    return figure, axes


def _draw_outer_borders(axes: Axes, inner: Points, owner: Ids, low: Points, high: Points) -> None:
    """Draw the borders between cells of different outer clusters, found on a fine raster."""
    x, y = (np.linspace(low[i], high[i], 400) for i in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    nearest = ((grid[:, None, :] - inner[None]) ** 2).sum(axis=2).argmin(axis=1)
    region = owner[nearest].reshape(400, 400)
    for number in np.unique(region):
        axes.contour(x, y, region == number, levels=[0.5], colors=style.BLACK, linewidths=1.1)


def _window(points: Points) -> tuple[Points, Points]:
    """Return opposite corners (2,) of a box around all but the outermost ``points``."""
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    extent = high - low
    # Data of one dimension lie on a line: they get a window all the same.
    margin = np.where(extent > 0, 0.08 * extent, max(0.5 * float(extent.max()), 1.0))
    return low - margin, high + margin


# What routing finds and costs --------------------------------------------------------------


def routing(curves: Mapping[int, Points], scanned: Points) -> Figure:
    """Draw the share of true neighbours that lie in the probed lists.

    Parameters
    ----------
    curves : for each number of true neighbours k, the share for nprobe = 1, 2, ...
    scanned : share of the base in the probed lists, for the same nprobe
    """
    figure, ((left, right),) = style.new(1, 2, 3.0, sharey=True)
    nprobe = np.arange(1, len(scanned) + 1)
    # Places 0, 1, 3, 7, ...: evenly spaced on a logarithmic axis.
    marked = [2**i - 1 for i in range(len(scanned).bit_length()) if 2**i - 1 < len(scanned)]
    for (k, found), color, marker in zip(curves.items(), style.COLORS, style.MARKERS, strict=False):
        for axes, x in ((left, nprobe), (right, scanned)):
            axes.plot(x, found, color=color, marker=marker, markevery=marked, label=f"{k}")
    style.log_axis(left.xaxis, "nprobe, lists probed")
    left.set(ylabel="true neighbours in probed lists", title="By lists", ylim=(0, 1.04))
    right.plot([0, 1], [0, 1], color=style.GREY, linestyle=":", label="lists at random")
    right.set(xlabel="share of the base scanned", title="By work")
    style.percent(left.yaxis, right.xaxis)
    style.legend_of(right, loc="outside right center", title="true nearest")
    return figure


def flat_or_nested(points: pd.DataFrame, k: int) -> Figure:
    """Draw recall of the routing against counted work, flat and through the outer level.

    Parameters
    ----------
    points : a row for each "probing" ("flat" or "1 of 9 outer" ...), "nprobe" and "seed":
        "recall" (of the true k in the probed lists), "centroids" and "vectors" (distance
        computations per query)
    k : true neighbours
    """
    figure, ((left, right),) = style.new(1, 2, 3.4, sharey=True)
    looks = {name: style.look(i) for i, name in enumerate(pd.unique(points.probing))}
    for probing, rows in points.groupby("probing", sort=False):
        recall = rows.groupby("nprobe").recall.agg(["mean", "min", "max"])
        work = (rows.centroids + rows.vectors).groupby(rows.nprobe).mean()
        color = looks[probing]["color"]
        right.fill_between(work, recall["min"], recall["max"], color=color, alpha=0.2, lw=0)
        right.plot(work, recall["mean"], label=str(probing), **looks[probing])
    means = points.groupby(["nprobe", "probing"], sort=False)[["centroids", "recall"]].mean()
    values = np.unique(points.nprobe)
    ends: dict[tuple[float, float], list[str]] = {}
    for nprobe in values[:: max(1, len(values) // 3)][::-1]:
        curve = means.loc[nprobe].sort_values("centroids")
        left.plot(curve.centroids, curve.recall, color=style.GREY, linewidth=1)
        for probing, its in looks.items():
            left.plot(*curve.loc[probing], **its)
        at = float(curve.centroids.iloc[-1]), float(curve.recall.iloc[-1])
        # Lines that end close to each other share a label.
        last = next(reversed(ends), (0, np.inf))
        ends.setdefault(last if last[1] - at[1] < 0.06 else at, []).append(str(nprobe))
    for at, named in ends.items():
        style.note(left, f"nprobe {', '.join(named)}", at, (7, 0), va="center", color=style.GREY)
    # Room for the labels beside the last points.
    low, high = left.get_xlim()
    left.set(xlim=(low, high + 0.32 * (high - low)), ylim=(0, 1.05), title="Routing alone")
    left.set(xlabel="distances to centroids", ylabel=f"true {k} in probed lists")
    style.log_axis(right.xaxis, "distances to centroids and vectors")
    right.set_title("With the lists scanned")
    style.percent(left.yaxis)
    style.legend_of(right, ncols=5)
    return figure


# Where a second level pays -----------------------------------------------------------------


def saving(points: pd.DataFrame, crossings: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw counted distances by the number of inner clusters, flat and through two levels.

    Parameters
    ----------
    points : a row for each "n_inner", "build" and "probing" ("flat", "two levels"):
        "centroids" and "distances" (per query; the latter with the vectors scanned)
    crossings : for each of these two columns, by build, the number of inner clusters from which
        on two levels cost less; where it is infinite, nothing is marked
    """
    panels = [
        ("Centroids alone", points, "centroids", crossings["centroids"]),
        ("With the lists scanned", points, "distances", crossings["distances"]),
    ]
    return _growth(panels, "distances per query")


def saving_time(points: pd.DataFrame, crossings: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw measured speed by the number of inner clusters, flat and through two levels.

    Parameters
    ----------
    points : a row for each "n_inner", "build", "probing" ("flat", "two levels") and "step"
        ("coarse": probing alone, "search": all of it): "qps", "qps_min", "qps_max"
    crossings : for each step, as for ``saving``
    """
    panels = [
        (title, points[points.step == step], "qps", crossings[step])
        for title, step in (("Probing alone", "coarse"), ("Whole search in the lists", "search"))
    ]
    return _growth(panels, "queries per second")


def _growth(
    panels: Sequence[tuple[str, pd.DataFrame, str, Mapping[str, float]]], ylabel: str
) -> Figure:
    """Draw columns of tables by inner clusters, with where the second level pays."""
    figure, (row,) = style.new(1, 2, 3.6)
    for axes, (title, points, column, crossings) in zip(row, panels, strict=True):
        _lines_of_builds(axes, points, "n_inner", column)
        # The numbers of clusters themselves, at most five of them.
        sizes = np.unique(points.n_inner)
        style.log_axis(axes.xaxis, "inner clusters K", at=sizes[:: -max(1, -(-len(sizes) // 5))])
        axes.set(yscale="log", title=title)
        style.spread_ticks(axes.yaxis)
        _mark_crossings(axes, crossings)
        # Room above the lines for these words.
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.25)
    row[0].set_ylabel(ylabel)
    style.legend_of(row[0], ncols=4, handlelength=3)
    return figure


def _mark_crossings(axes: Axes, crossings: Mapping[str, float]) -> None:
    """Mark, for each build, the number of inner clusters from which on two levels pay."""
    left, right = axes.get_xlim()
    for place, (build, at) in enumerate(crossings.items()):
        if np.isfinite(at):
            color = BUILD_STYLE[build][0]
            axes.axvline(at, color=color, linewidth=1, linestyle=":")
            # Towards the middle, so that it stays inside.
            side, align = (1, "left") if at * at < left * right else (-1, "right")
            ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            looks = {"ha": align, "va": "top", "color": color, "bbox": ground}
            offset, frame = (4 * side, -4 - 13 * place), ("data", "axes fraction")
            style.note(axes, f"pays from {at:,.0f}", (at, 1), offset, xycoords=frame, **looks)


def recall_cost(points: pd.DataFrame, cost: str, target: float, k: int) -> Figure:
    """Draw recall of the routing against what it costs, at one number of inner clusters.

    Parameters
    ----------
    points : a row for each "build", "probing" ("flat", "two levels") and "nprobe": "n_inner",
        the same in all, "recall" and the column ``cost``
    cost : "distances" or "qps"
    target : the recall at which the two probings are compared
    k : true neighbours
    """
    figure, ((axes,),) = style.new(1, 1, 3.1)
    _lines_of_builds(axes, points, cost, "recall")
    label = f"{target:.0%}, where they are compared"
    axes.axhline(target, color=style.GREY, linewidth=1, linestyle=":", label=label)
    axes.set(xscale="log", ylim=(0, 1.05), title=f"{points.n_inner.iloc[0]:,} inner clusters")
    axes.set_xlabel({"distances": "distances per query", "qps": "queries per second"}[cost])
    axes.set_ylabel(f"true {k} in probed lists")
    style.spread_ticks(axes.xaxis)
    style.percent(axes.yaxis)
    figure.legend(loc="outside right center", handlelength=3)
    return figure


def _lines_of_builds(axes: Axes, points: pd.DataFrame, x: str, y: str) -> None:
    """Draw ``y`` by ``x``: a dashed line for flat probing, a solid one for two levels."""

    def look(value: tuple[str, str]) -> dict[str, Any]:
        color, marker = BUILD_STYLE[value[0]]
        dash, fill = ("--", "white") if value[1] == "flat" else ("-", color)
        return style.mark(color, marker) | {"linestyle": dash, "markerfacecolor": fill}

    style.lines(axes, points, ["build", "probing"], x, y, look, "{1}, {0}")
