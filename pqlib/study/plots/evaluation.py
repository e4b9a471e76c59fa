"""Figures of notebook 05: what every method costs and what it finds."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from pqlib.study.plots import style
from pqlib.study.plots.style import log_ticks as log_ticks
from pqlib.study.plots.style import spread_ticks as spread_ticks

METHOD_STYLE = {
    "brute force": (style.BLACK, "X"),
    "k-means": (style.ORANGE, "o"),
    "k-means, two levels": (style.YELLOW, "v"),
    "PQ shared": (style.SKY, "s"),
    "PQ per cluster": (style.BLUE, "D"),
    "PQ shared, re-ranked": (style.PINK, "P"),
    "PQ per cluster, re-ranked": (style.GREEN, "^"),
}
"""Colour and marker of each method, the same in every figure."""

PART_COLORS = (
    style.BLUE,
    style.SKY,
    style.ORANGE,
    style.YELLOW,
    style.GREEN,
    style.PINK,
    style.GREY,
)


def look(method: str) -> dict[str, Any]:
    """Return colour and marker of a method; grey of one that has none of its own."""
    color, marker = METHOD_STYLE.get(method, (style.GREY, "o"))
    return {"color": color, "marker": marker}


# What figures of methods and of parameters share -------------------------------------------


def legend_above(figure: Figure, panels: Iterable[Axes]) -> None:
    """Explain above a figure what its panels hold: each label once, long ones in fewer columns."""
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    # Inches of an entry: a letter of 8 points, and the handle with the gaps around it.
    entry = 0.07 * max(map(len, handles), default=0) + 0.6
    columns = int(np.clip(style.WIDTH / entry, 1, 3))
    # Three rows fit into any height that a figure asked for; more would squeeze the panels.
    further = max(0, -(-len(handles) // columns) - 3)
    figure.set_figheight(figure.get_figheight() + 0.17 * further)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)


def limits(axes: Axes, k: int, n: int) -> None:
    """Draw the limits of any recall: exact search, and k base vectors drawn at random."""
    # The words stand above their lines, unless those of a tiny base would then cover each other.
    for height, words, below in ((1.0, "exact", False), (k / n, "random", k / n > 0.8)):
        axes.axhline(height, color=style.GREY, linestyle=":", linewidth=1, zorder=0)
        looks: dict[str, Any] = {"ha": "right", "va": "top" if below else "bottom"}
        looks |= {"xycoords": ("axes fraction", "data"), "fontsize": 7, "color": style.GREY}
        style.note(axes, words, (1, height), (-2, -2 if below else 2), **looks)


def widen_decades(axes: Axes, name: str = "x") -> None:
    """Let a logarithmic axis begin and end at a whole power of ten, so it has two labels."""
    low, high = np.log10(axes.get_xlim() if name == "x" else axes.get_ylim())
    axes.set(**{f"{name}lim": (10 ** np.floor(low), 10 ** np.ceil(high))})


def label_decades(axes: Axes) -> None:
    """Widen a logarithmic y axis on which fewer than two powers of ten lie, so it has labels."""
    low, high = np.log10(axes.get_ylim())
    if np.floor(high) <= np.ceil(low):
        widen_decades(axes, "y")


# The figures -------------------------------------------------------------------------------


def trade_off(points: pd.DataFrame, k: int, n: int) -> Figure:
    """Draw speed and memory against recall.

    Points that no other one beats in recall, speed and memory at once have a ring around them.

    Parameters
    ----------
    points : a row for each method and nprobe: "method", "nprobe", "recall", "recall_low",
        "recall_high", "qps", "qps_min", "qps_max", "bytes_per_vector", "pareto"
    k : of recall@k
    n : base vectors; k of them at random are the limit from below
    """
    figure, ((speed, memory),) = style.new(1, 2, 3.7, width_ratios=[1.25, 1])
    for method, rows in points.groupby("method", sort=False):
        looks = look(str(method))
        bars: dict[str, Any] = {"color": looks["color"], "linewidth": 1}
        rows = rows.sort_values("nprobe")
        speed.plot(rows.recall, rows.qps, **looks, label=str(method))
        speed.vlines(rows.recall, rows.qps_min, rows.qps_max, **bars)
        speed.hlines(rows.qps, rows.recall_low, rows.recall_high, **bars)
    _best_by_memory(memory, points)
    front = points[points.pareto]
    style.ring(speed, front.recall, front.qps, style.GREY, "not beaten in all three")
    limits(memory, k, n)
    title = "Speed, each line over nprobe"
    speed.set(yscale="log", xlabel=f"recall@{k}", ylabel="queries per second", title=title)
    log_ticks(speed.yaxis)
    label_decades(speed)
    low, high = speed.get_xlim()
    speed.set_xlim(low, max(high, 1.02))
    size = "bytes per vector, everything counted"
    memory.set(xscale="log", xlabel=size, ylabel=f"best recall@{k}", title="Memory")
    log_ticks(memory.xaxis)
    memory.set_ylim(-0.03, 1.08)
    widen_decades(memory)
    legend_above(figure, [speed])
    return figure


def _best_by_memory(axes: Axes, points: pd.DataFrame) -> None:
    """Draw each method once, at its best recall: more probes cost no memory.

    Where several lie in one place only the last is seen, so all are named there.
    """
    best = points.loc[points.groupby("method", sort=False).recall.idxmax()]
    placed: list[tuple[float, float, list[str]]] = []
    for row in best.itertuples():
        axes.plot(row.bytes_per_vector, row.recall, **look(row.method), ms=8)
        for size, recall, names in placed:
            apart = abs(np.log(row.bytes_per_vector / size))
            if apart < 0.1 and abs(row.recall - recall) < 0.02:
                names.append(row.method)
                break
        else:
            placed.append((row.bytes_per_vector, row.recall, [row.method]))
    for size, recall, names in placed:
        if len(names) > 1:
            looks: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 7}
            looks["color"] = style.BLACK
            style.note(axes, "\n".join(names), (size, recall), (0, -7), **looks)


def uncertainty(seeds: pd.DataFrame, intervals: pd.DataFrame, k: int) -> Figure:
    """Draw both sources of variance, as differences from the mean recall of a method.

    Parameters
    ----------
    seeds : a row for each method and seed: "method", "recall"
    intervals : a row a method: "method", "seed_mean", "query_low", "query_high" (of the first
        seed), "query_recall", "seed_low", "seed_high"
    k : of recall@k
    """
    names = [
        textwrap.fill(f"{row.method}: {row.seed_mean:.3f}", 36) for row in intervals.itertuples()
    ]
    tallest = 1 + max(name.count("\n") for name in names)
    figure, ((axes,),) = style.new(1, 1, 1.6 + max(0.36, 0.16 * tallest) * len(names))
    wide: dict[str, Any] = dict(linewidth=7, solid_capstyle="butt", alpha=0.35, color=style.GREY)
    dots: dict[str, Any] = dict(linestyle="", mfc="white")
    for place, row in enumerate(intervals.itertuples()):
        looks = look(row.method)
        spread = np.array([row.query_low, row.query_high]) - row.query_recall
        axes.plot(spread, [place + 0.16] * 2, **wide)
        spread = np.array([row.seed_low, row.seed_high]) - row.seed_mean
        axes.plot(spread, [place - 0.16] * 2, color=looks["color"], linewidth=2)
        values = seeds.recall[seeds.method == row.method] - row.seed_mean
        axes.plot(values, [place - 0.16] * len(values), **dots, **looks, ms=5)
    axes.axvline(0, color=style.BLACK, linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set(
        xlabel=f"difference from the mean recall@{k} that is named at the left",
        title="95% intervals: other queries, another seed",
    )
    # In no method's colour: they stand for all of them.
    axes.plot([], [], label="other queries", **wide)
    axes.plot([], [], color=style.BLACK, linewidth=2, label="another seed")
    axes.plot([], [], **dots, marker="o", color=style.BLACK, label="seeds measured")
    figure.legend(loc="outside upper right", ncols=3)
    return figure


def fixed_recall(reached: pd.DataFrame, k: int) -> Figure:
    """Draw speed and counted work of each method where it reaches a recall.

    Parameters
    ----------
    reached : a row for each method and target: "method", "target", "qps",
        "distance_computations"; missing where the method does not reach it
    k : of recall@k
    """
    figure, (panels,) = style.new(1, 2, 3.5)
    targets = sorted(reached.target.unique())
    columns = {
        "qps": ("queries per second", "Speed at equal recall"),
        "distance_computations": (
            "distance computations per query",
            "Counted work at equal recall",
        ),
    }
    for axes, (column, (what, title)) in zip(panels, columns.items(), strict=True):
        table = reached.pivot(index="target", columns="method", values=column)
        for method in reached.method.unique():
            there = table[method].notna().to_numpy()
            if there.any():
                values = table[method][there]
                axes.plot(np.flatnonzero(there), values, **look(method), label=method)
        axes.set_yscale("log")
        log_ticks(axes.yaxis)
        widen_decades(axes, "y")
        axes.set_xticks(range(len(targets)), [f"{t:g}" for t in targets])
        axes.set_xlim(-0.3, len(targets) - 0.7)
        axes.set(xlabel=f"recall@{k} reached", ylabel=what, title=title)
        nobody = table.isna().all(axis=1).to_numpy()
        for place in np.flatnonzero(nobody):
            axes.text(
                place,
                0.5,
                "not reached",
                transform=axes.get_xaxis_transform(),
                rotation=90,
                ha="center",
                va="center",
                fontsize=7,
                color=style.GREY,
            )
        if nobody.all():
            axes.yaxis.set_major_locator(NullLocator())
            axes.yaxis.set_minor_locator(NullLocator())
    legend_above(figure, panels)
    return figure


def two_recalls(curves: Mapping[str, tuple[Sequence[int], Sequence[float], float]]) -> Figure:
    """Draw 1-recall@R against R beside recall@k of the same searches.

    Parameters
    ----------
    curves : for each method (R values, their 1-recall@R, its recall@10)
    """
    figure, ((axes,),) = style.new(1, 1, 2.9)
    for method, (at, found, recall) in curves.items():
        axes.plot(at, found, **look(method), label=method)
        axes.axhline(recall, color=look(method)["color"], linestyle=":", linewidth=1.2)
    axes.plot([], [], color=style.GREY, linestyle=":", label="recall@10 of the same search")
    title = "1-recall@R grows with R; recall@10 is another number"
    axes.set(xscale="log", xlabel="R, vectors returned", ylabel="recall", title=title)
    log_ticks(axes.xaxis)
    axes.set_ylim(0, 1.05)
    figure.legend(loc="outside right center")
    return figure


def memory_by_part(parts: pd.DataFrame, raw: Mapping[str, float]) -> Figure:
    """Draw bytes per vector by part, a bar a method, against the raw vectors.

    Parameters
    ----------
    parts : index: methods, columns: parts, values: bytes per vector
    raw : reference lines, label to bytes per vector (raw float32, lossless uint8)
    """
    figure, axes = _stacked(parts, max(raw.values()), 1.12)
    for number, (label, size) in enumerate(raw.items()):
        axes.axvline(size, color=style.BLACK, linestyle=("--", ":")[number % 2], label=label)
    axes.set(xlabel="bytes per vector", title="Memory, every part counted")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def cost_by_stage(costs: pd.DataFrame) -> Figure:
    """Draw distance computations per query by stage.

    Parameters
    ----------
    costs : index: methods, columns: stages, values: mean distance computations of a query
    """
    figure, axes = _stacked(costs, 0, 1.14)
    axes.set(xlabel="distance computations per query, a sum of m look-ups counted as one")
    axes.set_title("Work, counted by stage")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _stacked(table: pd.DataFrame, least: float, room: float) -> tuple[Figure, Axes]:
    """Draw a bar a row, made of its columns, and its sum; the axis goes to ``room`` times the most.

    The most is at least ``least``.
    """
    figure, ((axes,),) = style.new(1, 1, 1.5 + 0.33 * len(table))
    left = np.zeros(len(table))
    for part, color in zip(table.columns, PART_COLORS, strict=False):
        axes.barh(table.index, table[part], left=left, color=color, label=part, height=0.65)
        left += table[part].to_numpy()
    longest = max(left.max(), least)
    for y, total in enumerate(left):
        axes.text(total + 0.01 * longest, y, f"{total:,.0f}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, room * longest)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return figure, axes


def sketch_skips(sizes: np.ndarray, threshold: int) -> Figure:
    """Draw the sketch's cluster sizes against what its PQ threshold asked for.

    Parameters
    ----------
    sizes : (clusters,) vectors in each cluster
    threshold : m * 2**nbits, the residuals a cluster needed to be product-quantized
    """
    figure, ((axes,),) = style.new(1, 1, 2.6)
    ordered = np.sort(sizes)[::-1]
    place = np.arange(1, len(ordered) + 1)
    kept = ordered >= threshold
    for chosen, color, label in (
        (~kept, style.ORANGE, "skipped"),
        (kept, style.BLUE, "product-quantized"),
    ):
        if chosen.any():
            axes.bar(place[chosen], ordered[chosen], color=color, width=1.0, label=label)
    axes.axhline(
        threshold, color=style.BLACK, linestyle="--", label=f"threshold: {threshold:,} residuals"
    )
    axes.set(
        xlabel="cluster, by size",
        ylabel="vectors",
        title=f"{int((~kept).sum())} of {len(ordered)} clusters skipped by the sketch",
    )
    axes.set_xlim(0, len(ordered) + 1)
    axes.set_ylim(0, 1.15 * max(threshold, int(ordered.max())))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside upper right", ncols=3)
    return figure
