"""Figures of notebook 06: how recall, work and memory answer to each parameter."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from pqlib.study.plots import style
from pqlib.study.plots.evaluation import (
    label_decades,
    legend_above,
    limits,
    log_ticks,
    widen_decades,
)

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
    label_decades(right)
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
    knobs = list(points.knob.unique())
    columns = min(3, len(knobs))
    rows = -(-len(knobs) // columns)
    figure, grid = style.new(rows, columns, 0.6 + 1.95 * rows, sharey=True)
    for number, axes in enumerate(grid.flat):
        if number >= len(knobs):
            axes.set_visible(False)
            continue
        panel = points[points.knob == knobs[number]]
        values = _ascending(panel.value)
        panel = panel.assign(place=panel.value.map(values.index)).sort_values("place")
        for mode in dict.fromkeys(points.codebooks):
            rows_of = panel[panel.codebooks == mode]
            if rows_of.empty:
                continue
            color, marker = MODE_STYLE[str(mode)]
            ends = rows_of.recall_low, rows_of.recall_high
            axes.fill_between(rows_of.place, *ends, color=color, alpha=0.25, lw=0)
            axes.vlines(rows_of.place, *ends, color=color, linewidth=1)
            label = f"{mode} codebooks"
            axes.plot(rows_of.place, rows_of.recall, color=color, marker=marker, label=label)
        held = panel[panel.standard]
        if len(held):
            style.ring(axes, held.place, held.recall, style.BLACK, "held elsewhere")
        axes.set_xticks(range(len(values)), [str(v) for v in values])
        if max(len(str(v)) for v in values) * len(values) * columns > 90:
            axes.tick_params(axis="x", labelrotation=90)
        axes.set_xlim(-0.4, len(values) - 0.6)
        axes.set_xlabel(knobs[number])
        limits(axes, k, n)
        axes.set_ylim(-0.03, 1.12)
        if number % columns == 0:
            axes.set_ylabel(f"recall@{k}")
    legend_above(figure, grid.flat)
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
    pictures = []
    for axes, table, values in zip(axes_row, (left, right), held, strict=True):
        pictures.append(axes.imshow(values, vmin=low, vmax=high, aspect="auto", origin="lower"))
        for (row, column), value in np.ndenumerate(values):
            words = f"{value:.2f}"
            if np.isnan(value):
                words = "not run" if table.shape[1] <= 6 else "not\nrun"
            dark = np.isnan(value) or (value - low) / (high - low) > 0.55
            axes.text(
                column,
                row,
                words,
                ha="center",
                va="center",
                fontsize=7,
                color=style.BLACK if dark else "white",
            )
        axes.set_xticks(range(table.shape[1]), [f"{v:,.15g}" for v in table.columns])
        axes.set_yticks(range(table.shape[0]), [f"{v:,.15g}" for v in table.index])
        axes.set(xlabel=str(table.columns.name), ylabel=str(table.index.name))
        axes.set_title(f"{table.index.name} and {table.columns.name}")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    figure.colorbar(pictures[0], ax=list(axes_row), label=f"recall@{k}", shrink=0.9)
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
            if np.isnan(total):  # no factor of this response
                continue
            axes.text(total + 0.02, place, f"{total:.0%}", va="center", fontsize=7)
        axes.set_yticks(places, factors)
        axes.set_xlim(0, 1.2)
        axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
        axes.grid(axis="y", visible=False)
        axes.set(title=response, xlabel="share of variance")
    axes_row[0].invert_yaxis()
    handles, labels = axes_row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
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
    for nbits, rows in points.groupby("nbits"):
        rows = rows.sort_values("vectors_per_cluster")
        marker, line = BITS_MARKER.get(int(nbits), "X"), BITS_LINE.get(int(nbits), "-.")
        for column, mode in (("recall", "per-cluster"), ("shared_recall", "shared")):
            left.plot(
                rows.vectors_per_cluster,
                rows[column],
                marker=marker,
                linestyle=line,
                color=MODE_STYLE[mode][0],
                label=(
                    f"per-cluster, {nbits} bits"
                    if mode == "per-cluster"
                    else f"shared, as large as {nbits} bits"
                ),
            )
        right.plot(
            rows.vectors_per_cluster,
            rows.gain,
            marker=marker,
            linestyle=line,
            color=style.BLUE,
        )
    right.axhline(0, color=style.BLACK, linewidth=0.8)
    for axes in (left, right):
        if points.empty:
            words = "no two codes to compare"
            axes.text(0.5, 0.6, words, transform=axes.transAxes, ha="center", color=style.GREY)
        axes.set_xscale("log")
        axes.set_xlabel("vectors per cluster, on average")
        log_ticks(axes.xaxis)
        widen_decades(axes)
    left.set(ylabel=f"recall@{k}", title="At no more total memory")
    left.set_ylim(0, 1.02)
    right.set(ylabel="difference in recall", title="What codebooks per cluster gain")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
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
