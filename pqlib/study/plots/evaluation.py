"""Figures of notebook 05: what every method costs and what it finds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pqlib.study.plots import style

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

PART_COLORS = [style.BLUE, style.SKY, style.ORANGE, style.YELLOW]
PART_COLORS += [style.GREEN, style.PINK, style.GREY]


def look(method: str) -> dict[str, Any]:
    """Return colour and marker of a method; grey of one that has none of its own."""
    return style.mark(*METHOD_STYLE.get(method, (style.GREY, "o")))


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
    style.limits(memory, k, n)
    style.log_axis(speed.yaxis, "queries per second")
    style.label_decades(speed)
    low, high = speed.get_xlim()
    speed.set(xlim=(low, max(high, 1.02)), xlabel=f"recall@{k}")
    speed.set_title("Speed, each line over nprobe")
    style.log_axis(memory.xaxis, "bytes per vector, everything counted")
    style.widen_decades(memory)
    memory.set(ylim=(-0.03, 1.08), ylabel=f"best recall@{k}", title="Memory")
    style.legend_above(figure, [speed])
    return figure


def _best_by_memory(axes: Axes, points: pd.DataFrame) -> None:
    """Draw each method once, at its best recall: more probes cost no memory.

    Where several lie in one place only the last is seen, so all are named there.
    """
    best = points.loc[points.groupby("method", sort=False).recall.idxmax()]
    named: dict[tuple[float, float], list[str]] = {}
    for method, size, recall in zip(best.method, best.bytes_per_vector, best.recall, strict=True):
        axes.plot(size, recall, **look(method), ms=8)
        for at in named:
            if abs(np.log(size / at[0])) < 0.1 and abs(recall - at[1]) < 0.02:
                named[at].append(method)
                break
        else:
            named[size, recall] = [method]
    for at, names in named.items():
        if len(names) > 1:
            looks: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 7}
            style.note(axes, "\n".join(names), at, (0, -7), color=style.BLACK, **looks)


def uncertainty(seeds: pd.DataFrame, intervals: pd.DataFrame, k: int) -> Figure:
    """Draw both sources of variance, as differences from the mean recall of a method.

    Parameters
    ----------
    seeds : a row for each method and seed: "method", "recall"
    intervals : a row a method: "method", "seed_mean", "query_low", "query_high" (of the first
        seed), "query_recall", "seed_low", "seed_high"
    k : of recall@k
    """
    named = zip(intervals.method, intervals.seed_mean, strict=True)
    names = [textwrap.fill(f"{method}: {mean:.3f}", 36) for method, mean in named]
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
    axes.set_xlabel(f"difference from the mean recall@{k} that is named at the left")
    axes.set_title("95% intervals: other queries, another seed")
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
    reached = reached.assign(place=reached.target.map(targets.index)).sort_values(
        "place", kind="stable"
    )
    for axes, column, what, title in (
        (panels[0], "qps", "queries per second", "Speed"),
        (panels[1], "distance_computations", "distance computations per query", "Counted work"),
    ):
        style.lines(axes, reached.dropna(subset=column), "method", "place", column, look)
        style.log_axis(axes.yaxis, what)
        style.widen_decades(axes, "y")
        axes.set_xticks(range(len(targets)), [f"{t:g}" for t in targets])
        axes.set(xlim=(-0.3, len(targets) - 0.7), xlabel=f"recall@{k} reached")
        axes.set_title(f"{title} at equal recall")
        nobody = (reached.groupby("place")[column].count() == 0).to_numpy()
        words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "rotation": 90}
        words |= {"transform": axes.get_xaxis_transform(), "color": style.GREY}
        for place in np.flatnonzero(nobody):
            axes.text(place, 0.5, "not reached", **words)
        if nobody.all():
            axes.yaxis.set_major_locator(NullLocator())
            axes.yaxis.set_minor_locator(NullLocator())
    style.legend_above(figure, panels)
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
    style.log_axis(axes.xaxis, "R, vectors returned")
    axes.set(ylabel="recall", ylim=(0, 1.05))
    axes.set_title("1-recall@R grows with R; recall@10 is another number")
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
    axes.xaxis.set_major_formatter("{x:,.0f}")
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
    kinds = ((~kept, style.ORANGE, "skipped"), (kept, style.BLUE, "product-quantized"))
    for chosen, color, label in kinds:
        if chosen.any():
            axes.bar(place[chosen], ordered[chosen], color=color, width=1.0, label=label)
    label = f"threshold: {threshold:,} residuals"
    axes.axhline(threshold, color=style.BLACK, linestyle="--", label=label)
    axes.set(xlim=(0, len(ordered) + 1), ylim=(0, 1.15 * max(threshold, int(ordered.max()))))
    axes.set(xlabel="cluster, by size", ylabel="vectors")
    axes.set_title(f"{int((~kept).sum())} of {len(ordered)} clusters skipped by the sketch")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside upper right", ncols=3)
    return figure
