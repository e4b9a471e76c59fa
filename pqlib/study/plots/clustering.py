"""Figures of notebook 02: two levels of clusters, and what routing through them loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from pqlib.study.plots import style
from pqlib.study.plots.encoding import voronoi_cells
from pqlib.study.plots.evaluation import log_ticks, spread_ticks

Points = NDArray[np.floating]
Ids = NDArray[np.integer]

TINTS = ("#CFE3F2", "#F6DCC8", "#CFEBE1", "#F3E1EC", "#FBEBC8", "#DDF0FB", "#E6E6E6")
"""Light versions of the palette, to lie under points and lines."""


def objective(inner: Sequence[float], outer: Sequence[float]) -> Figure:
    """Draw the mean squared distance to the nearest centroid by iteration, for both levels.

    Parameters
    ----------
    inner, outer : the objective before each update
    """
    figure, (panels,) = style.new(1, 2, 2.5)
    for axes, values, title, what in (
        (panels[0], inner, "Inner level: vectors", style.BLUE),
        (panels[1], outer, "Outer level: centroids", style.ORANGE),
    ):
        axes.plot(np.arange(1, len(values) + 1), values, marker="o", color=what)
        axes.set(xlabel="iteration", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        axes.yaxis.set_major_formatter(
            StrMethodFormatter("{x:,.0f}" if max(values) >= 1000 else "{x:.4g}")
        )
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
    for axes, values, color, words in (
        (panels[0], sizes, style.BLUE, ("inner cluster, by size", "vectors", "Inverted lists")),
        (
            panels[1],
            outer_sizes,
            style.ORANGE,
            ("outer cluster, by size", "inner clusters", "Outer clusters"),
        ),
    ):
        ordered = np.sort(values)[::-1]
        place = np.arange(1, len(ordered) + 1)
        axes.bar(place, ordered, width=1.0, color=color, edgecolor="white", linewidth=0.3)
        axes.axhline(ordered.mean(), color=style.BLACK, linestyle="--", linewidth=1)
        axes.text(len(ordered) + 0.5, ordered.mean(), "mean ", ha="right", va="bottom", fontsize=8)
        axes.set(xlabel=words[0], ylabel=words[1], title=words[2])
        axes.set_xlim(0.5, len(ordered) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(axis="x", visible=False)
    return figure


def _draw_cells(axes: Axes, inner: Points, owner: Ids, low: Points, high: Points) -> None:
    cells = voronoi_cells(inner, low, high)
    axes.add_collection(
        PolyCollection(
            cells,
            facecolors=[TINTS[o % len(TINTS)] for o in owner],
            edgecolors="white",
            linewidths=0.9,
        )
    )
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.grid(visible=False)


def _draw_outer_borders(axes: Axes, inner: Points, owner: Ids, low: Points, high: Points) -> None:
    """Draw the borders between cells of different outer clusters, found on a fine raster."""
    x, y = (np.linspace(low[i], high[i], 400) for i in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    nearest = ((grid[:, None, :] - inner[None]) ** 2).sum(axis=2).argmin(axis=1)
    region = owner[nearest].reshape(400, 400)
    for number in np.unique(region):
        axes.contour(x, y, region == number, levels=[0.5], colors=style.BLACK, linewidths=1.1)


def nested_cells(points: Points, inner: Points, owner: Ids, outer: Points) -> Figure:
    """Draw the cells of both levels in two dimensions.

    Parameters
    ----------
    points : (n, 2) vectors
    inner : (K, 2) inner centroids; owner : (K,) the outer cluster of each
    outer : (L, 2) outer centroids
    """
    figure, ((axes,),) = style.new(1, 1, 4.6)
    low, high = _window(points)
    _draw_cells(axes, inner, owner, low, high)
    _draw_outer_borders(axes, inner, owner, low, high)
    axes.scatter(*points.T, s=1, color=style.GREY, alpha=0.35, rasterized=True, linewidths=0)
    axes.scatter(*inner.T, s=14, color=style.BLUE, label="inner centroids", zorder=3)
    axes.scatter(*outer.T, s=70, color=style.ORANGE, marker="s", label="outer centroids", zorder=4)
    axes.set(
        xlabel="1st principal direction",
        ylabel="2nd principal direction",
        title="White edges: inner cells. Black edges: outer clusters",
    )
    figure.legend(loc="outside right upper")
    return figure


def boundary_miss(
    points: Points,
    inner: Points,
    owner: Ids,
    query: Points,
    neighbors: Points,
    probed: int,
    homes: Ids,
) -> Figure:
    """Draw a query whose true neighbours lie across the border of the one cell probed.

    Parameters
    ----------
    points, inner, owner : as for ``nested_cells``
    query : (2,), neighbors : (k, 2) its true nearest, homes : (k,) the cells they lie in
    probed : the cell that is probed
    """
    figure, ((axes,),) = style.new(1, 1, 4.2)
    reach = 2.5 * float(np.abs(neighbors - query).max()) or 1.0
    window = np.array([1.5 * reach, reach])
    low, high = query - window, query + window
    cells = voronoi_cells(inner, low, high)
    axes.add_collection(
        PolyCollection(
            cells,
            facecolors=[TINTS[0] if c == probed else "#F4F4F4" for c in range(len(cells))],
            edgecolors=style.GREY,
            linewidths=1,
        )
    )
    inside = ((points > low) & (points < high)).all(axis=1)
    axes.scatter(*points[inside].T, s=5, color=style.GREY, alpha=0.6, rasterized=True)
    found = homes == probed
    axes.scatter(
        *neighbors[found].T, s=34, color=style.BLUE, label="true neighbour, found", zorder=3
    )
    axes.scatter(
        *neighbors[~found].T,
        s=40,
        color=style.ORANGE,
        marker="s",
        label="true neighbour, missed",
        zorder=3,
    )
    axes.scatter(*query, s=130, color=style.BLACK, marker="*", label="query", zorder=4)
    shown = ((inner > low) & (inner < high)).all(axis=1)
    if shown.any():
        axes.scatter(
            *inner[shown].T, s=26, color=style.BLACK, marker="x", label="inner centroids", zorder=3
        )
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.grid(visible=False)
    axes.set(
        xlabel="1st principal direction",
        ylabel="2nd principal direction",
        title="Only the blue cell is probed",
    )
    figure.legend(loc="outside right upper")
    return figure


def _window(points: Points) -> tuple[Points, Points]:
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    extent = high - low
    # Data of one dimension lie on a line: they get a window all the same.
    margin = np.where(extent > 0, 0.08 * extent, max(0.5 * float(extent.max()), 1.0))
    return low - margin, high + margin


def routing(curves: Mapping[int, Points], scanned: Points) -> Figure:
    """Draw the share of true neighbours that lie in the probed lists.

    Parameters
    ----------
    curves : for each number of true neighbours k, the share for nprobe = 1, 2, ...
    scanned : share of the base in the probed lists, for the same nprobe
    """
    figure, ((left, right),) = style.new(1, 2, 3.0, sharey=True)
    nprobe = np.arange(1, len(scanned) + 1)
    for (k, found), color, marker in zip(curves.items(), style.COLORS, style.MARKERS, strict=False):
        for axes, x in ((left, nprobe), (right, scanned)):
            axes.plot(x, found, color=color, marker=marker, markevery=_sparse(len(x)), label=f"{k}")
    left.set(xscale="log", xlabel="nprobe, lists probed", title="By lists")
    log_ticks(left.xaxis)
    left.set_ylabel("true neighbours in probed lists")
    right.plot([0, 1], [0, 1], color=style.GREY, linestyle=":", label="lists at random")
    right.set(xlabel="share of the base scanned", title="By work")
    right.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.set_ylim(0, 1.04)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", title="true nearest")
    return figure


def _sparse(n: int) -> list[int]:
    """Return positions 0, 1, 3, 7, ...: markers evenly spaced on a logarithmic axis."""
    return [2**i - 1 for i in range(n.bit_length()) if 2**i - 1 < n]


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
    for number, (probing, rows) in enumerate(points.groupby("probing", sort=False)):
        color = style.COLORS[(number - 1) % len(style.COLORS)] if number else style.BLACK
        marker = style.MARKERS[number % len(style.MARKERS)]
        recall = rows.groupby("nprobe").recall.agg(["mean", "min", "max"])
        work = (rows.centroids + rows.vectors).groupby(rows.nprobe).mean()
        right.fill_between(work, recall["min"], recall["max"], color=color, alpha=0.2, lw=0)
        right.plot(work, recall["mean"], color=color, marker=marker, label=str(probing))
    values = np.unique(points.nprobe)
    ends: list[tuple[float, float, list[int]]] = []
    for nprobe in values[:: max(1, len(values) // 3)][::-1]:
        rows = points[points.nprobe == nprobe].groupby("probing", sort=False)
        curve = rows[["centroids", "recall"]].mean().sort_values("centroids")
        left.plot(curve.centroids, curve.recall, color=style.GREY, linewidth=1)
        for number, probing in enumerate(rows.groups):
            left.plot(
                *curve.loc[probing],
                color=style.COLORS[(number - 1) % len(style.COLORS)] if number else style.BLACK,
                marker=style.MARKERS[number % len(style.MARKERS)],
            )
        x, y = map(float, curve.iloc[-1])
        if ends and ends[-1][1] - y < 0.06:
            ends[-1][2].append(int(nprobe))
        else:
            ends.append((x, y, [int(nprobe)]))
    for x, y, named in ends:
        words = f"nprobe {', '.join(map(str, named))}"
        left.annotate(
            words,
            (x, y),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=style.GREY,
        )
    # Room for the labels beside the last points.
    low, high = left.get_xlim()
    left.set_xlim(low, high + 0.32 * (high - low))
    left.set(
        xlabel="distances to centroids", ylabel=f"true {k} in probed lists", title="Routing alone"
    )
    right.set(
        xscale="log", xlabel="distances to centroids and vectors", title="With the lists scanned"
    )
    log_ticks(right.xaxis)
    left.set_ylim(0, 1.05)
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5)
    return figure


BUILD_STYLE = {"bottom-up": (style.BLUE, "o"), "top-down": (style.ORANGE, "s")}
"""Colour and marker of each way to build the levels."""


def saving(points: pd.DataFrame, crossings: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw counted distances by the number of inner clusters, flat and through two levels.

    Parameters
    ----------
    points : a row for each "n_inner", "build" and "probing" ("flat", "two levels"):
        "centroids" and "distances" (per query; the latter with the vectors scanned)
    crossings : for each of these two columns, by build, the number of inner clusters from which
        on two levels cost less; where it is infinite, nothing is marked
    """
    figure, (panels,) = style.new(1, 2, 3.6)
    for axes, column, title in zip(
        panels,
        ("centroids", "distances"),
        ("Centroids alone", "With the lists scanned"),
        strict=True,
    ):
        _growth_lines(axes, points, column, crossings[column])
        axes.set(title=title)
    panels[0].set_ylabel("distances per query")
    _growth_legend(figure, panels)
    return figure


def saving_time(points: pd.DataFrame, crossings: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw measured speed by the number of inner clusters, flat and through two levels.

    Parameters
    ----------
    points : a row for each "n_inner", "build", "probing" ("flat", "two levels") and "step"
        ("coarse": probing alone, "search": all of it): "qps", "qps_min", "qps_max"
    crossings : for each step, as for ``saving``
    """
    figure, (panels,) = style.new(1, 2, 3.6)
    for axes, step, title in zip(
        panels, ("coarse", "search"), ("Probing alone", "Whole search in the lists"), strict=True
    ):
        _growth_lines(axes, points[points.step == step], "qps", crossings[step])
        axes.set(title=title)
    panels[0].set_ylabel("queries per second")
    _growth_legend(figure, panels)
    return figure


def _growth_lines(
    axes: Axes, points: pd.DataFrame, column: str, crossings: Mapping[str, float]
) -> None:
    """Draw ``column`` by inner clusters on logarithmic axes, and mark the crossings."""
    _lines_of_builds(axes, points, "n_inner", column)
    axes.set(xscale="log", yscale="log", xlabel="inner clusters K")
    _size_ticks(axes, np.unique(points.n_inner))
    spread_ticks(axes.yaxis, axes.get_ylim())
    left, right = axes.get_xlim()
    for place, (build, at) in enumerate(crossings.items()):
        if np.isfinite(at):
            color = BUILD_STYLE[build][0]
            axes.axvline(at, color=color, linewidth=1, linestyle=":")
            # Towards the middle, so that it stays inside.
            side = 1 if at * at < left * right else -1
            axes.annotate(
                f"pays from {at:,.0f}",
                (at, 1),
                xycoords=("data", "axes fraction"),
                xytext=(4 * side, -4 - 13 * place),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="top",
                fontsize=8,
                color=color,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
    # Room above the lines for these words.
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.25)


def _size_ticks(axes: Axes, sizes: NDArray[np.integer]) -> None:
    """Label the numbers of inner clusters themselves, at most five of them."""
    step = -(-len(sizes) // 5)
    axes.set_xticks(sizes[::-1][::step], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


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
    axes.set(
        xscale="log",
        xlabel={"distances": "distances per query", "qps": "queries per second"}[cost],
        ylabel=f"true {k} in probed lists",
        title=f"{points.n_inner.iloc[0]:,} inner clusters",
    )
    spread_ticks(axes.xaxis, axes.get_xlim())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(0, 1.05)
    figure.legend(loc="outside right center", handlelength=3)
    return figure


def _lines_of_builds(axes: Axes, points: pd.DataFrame, x: str, y: str) -> None:
    """Draw ``y`` by ``x``: a dashed line for flat probing, a solid one for two levels."""
    for (build, probing), rows in points.groupby(["build", "probing"], sort=False):
        color, marker = BUILD_STYLE[build]
        flat = probing == "flat"
        axes.plot(
            rows[x],
            rows[y],
            color=color,
            marker=marker,
            linestyle="--" if flat else "-",
            markerfacecolor="white" if flat else color,
            label=f"{probing}, {build}",
        )
        if f"{y}_min" in rows:
            axes.vlines(rows[x], rows[f"{y}_min"], rows[f"{y}_max"], color=color, lw=0.8)


def _growth_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, handlelength=3)
