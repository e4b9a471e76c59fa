"""Figures of notebook 06: how recall, work and memory answer to each parameter."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from pqlib.plots import style
from pqlib.plots.evaluation import log_ticks, widen_decades

MODE_STYLE = {"shared": (style.SKY, "s"), "per-cluster": (style.BLUE, "D")}
BITS_MARKER = {4: "v", 6: "^", 8: "o", 16: "P"}
BITS_LINE = {4: ":", 6: "--", 8: "-", 16: "-."}


def _plain_log(axes, values: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """Make the x axis logarithmic with a tick at each of ``values`` and no others."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(np.unique(values))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def code_size(points: pd.DataFrame, k: int) -> Figure:
    """Draw recall against the code alone and against everything that the index holds.

    Parameters
    ----------
    points : "m", "nbits", "codebooks", "recall", "code_bytes", "bytes_per_vector"; rows that
        were not run hold NaN
    k : of recall@k
    """
    figure, ((code, total),) = style.new(1, 2, 3.6, sharey=True)
    measured = points.dropna(subset=["recall"])
    for (mode, nbits), rows in measured.groupby(["codebooks", "nbits"]):
        color = MODE_STYLE[str(mode)][0]
        marker = BITS_MARKER.get(int(nbits), "X")
        rows = rows.sort_values("m")
        for axes, column in ((code, "code_bytes"), (total, "bytes_per_vector")):
            axes.plot(
                rows[column],
                rows.recall,
                marker=marker,
                color=color,
                linestyle=BITS_LINE.get(int(nbits), "-."),
                label=f"{mode}, {nbits} bits",
            )
    _plain_log(code, measured.code_bytes.to_numpy())
    code.set(xlabel="code, bytes", ylabel=f"recall@{k}", title="Counting the code alone")
    total.set(xscale="log", xlabel="bytes per vector", title="Counting everything held")
    log_ticks(total.xaxis)
    widen_decades(total)
    code.set_ylim(0, None)
    handles, labels = code.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
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
    for mode, rows in points.groupby("codebooks"):
        color, marker = MODE_STYLE[str(mode)]
        left.plot(rows.nprobe, rows.recall, marker=marker, color=color, label=f"{mode} codebooks")
        right.plot(
            rows.nprobe,
            rows.distance_computations,
            marker=marker,
            color=color,
            label=f"{mode} codebooks",
        )
    limit = points.drop_duplicates("nprobe").sort_values("nprobe")
    left.plot(
        limit.nprobe, limit.routing_limit, color=style.GREY, linestyle="--", label="perfect codes"
    )
    for axes in (left, right):
        _plain_log(axes, points.nprobe.to_numpy())
        axes.set_xlabel("nprobe, lists scanned")
    left.set(ylabel=f"recall@{k}", title="What is found")
    left.set_ylim(0, 1.05)
    right.set(yscale="log", ylabel="distance computations per query", title="What it takes")
    log_ticks(right.yaxis)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def inner_clusters(points: pd.DataFrame, k: int) -> Figure:
    """Draw recall against counted work, a line for each number of inner clusters.

    Parameters
    ----------
    points : "n_inner", "nprobe", "recall", "distance_computations"
    k : of recall@k
    """
    figure, ((axes,),) = style.new(1, 1, 3.3)
    for number, (n_inner, rows) in enumerate(points.groupby("n_inner")):
        axes.plot(
            rows.distance_computations,
            rows.recall,
            marker=style.MARKERS[number % len(style.MARKERS)],
            color=style.COLORS[number % len(style.COLORS)],
            label=f"{n_inner:,}",
        )
    axes.set(
        xscale="log",
        xlabel="distance computations per query",
        ylabel=f"recall@{k}",
        title="Inner clusters, each line over nprobe",
    )
    log_ticks(axes.xaxis)
    widen_decades(axes)
    figure.legend(loc="outside right center", title="n_inner")
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
    for number, (n_outer, rows) in enumerate(points.groupby("n_outer")):
        rows = rows.sort_values("nprobe_outer")
        axes.plot(
            rows.centroid_distances,
            rows.recall,
            marker=style.MARKERS[number % len(style.MARKERS)],
            color=style.COLORS[number % len(style.COLORS)],
            label=f"{n_outer:,}",
        )
    axes.plot(flat[1], flat[0], marker="*", ms=12, color=style.BLACK, linestyle="", label="flat")
    axes.set(
        xlabel="distances to centroids per query, both levels",
        ylabel=f"true {k} in probed lists",
        title="Outer clusters, each line over nprobe_outer",
    )
    figure.legend(loc="outside right center", title="n_outer")
    return figure


def speed(points: pd.DataFrame, k: int) -> Figure:
    """Draw queries per second against recall for all trained codes.

    Parameters
    ----------
    points : "m", "nbits", "codebooks", "recall", "qps"; rows that were not run hold NaN
    k : of recall@k
    """
    figure, ((axes,),) = style.new(1, 1, 3.3)
    for (mode, nbits), rows in points.dropna(subset=["qps"]).groupby(["codebooks", "nbits"]):
        rows = rows.sort_values("m")
        axes.plot(
            rows.recall,
            rows.qps,
            marker=BITS_MARKER.get(int(nbits), "X"),
            color=MODE_STYLE[str(mode)][0],
            linestyle=BITS_LINE.get(int(nbits), "-."),
            label=f"{mode}, {nbits} bits",
        )
    axes.set(
        yscale="log",
        xlabel=f"recall@{k}",
        ylabel="queries per second",
        title="Speed of the codes, each line over m",
    )
    low, high = axes.get_ylim()
    axes.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
    log_ticks(axes.yaxis)
    figure.legend(loc="outside right center")
    return figure
