"""The figures of ``make bench PEERS=1``: our index beside other libraries."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from pqlib.study.plots import style

KINDS = {
    "ours": ("our index", style.ORANGE, "o"),
    "recipe": ("recipe of a library's documents", style.BLUE, "s"),
    "composition": ("faiss's parts, combined by us", style.GREY, "^"),
}
"""What each kind is called, its colour and its marker in the figure of memory."""

SHADES = {
    "ours": (style.ORANGE, style.YELLOW, style.PINK),
    "recipe": (style.BLUE, style.SKY),
    "composition": (style.BLACK, style.GREY),
}
"""Colours of the lines of each kind, in turn."""

LOWEST = 0.8
"""Recall that the figure of speed begins at."""
NAMED = 4
"""Lines of a kind that are named, those that are the fastest at recall 0.95."""

_RECALLS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_LEAST_MISSED = 5e-4  # where the axis of recall ends: exact search has no place on it

# Where the number of a point may stand, in points around it, near places first.
_DISTANCES = (8.5, 12.0, 17.0, 23.0, 30.0, 38.0)
_ANGLES = np.deg2rad([90, 0, 180, 270, 45, 135, 225, 315, 22, 158, 202, 338])
_AROUND = [(r * math.cos(a), r * math.sin(a)) for r, a in itertools.product(_DISTANCES, _ANGLES)]


def short(name: str) -> str:
    """Return a rival's name as figures have it: what it re-ranks from in fewer letters."""
    name = re.sub(r",Refine\(SQ8_direct\)", " + bytes", name)
    return re.sub(r",Refine\(SQfp16\)", " + float16", name)


def speed(points: pd.DataFrame, summary: pd.DataFrame, k: int, target: float = 0.95) -> Figure:
    """Draw speed against recall, a line for each rival.

    The recall axis spreads out what is near to 1: it is logarithmic in what is missed.

    Parameters
    ----------
    points : "rival", "kind", "recall", "qps", "status", a row a measured point
    summary : "rival", "kind", "target", "qps", a row for each rival and recall; says which lines
        are named: the ``NAMED`` fastest of each kind at ``target``, and all of ours
    k : of recall@k
    target : one of the recalls of ``summary``
    """
    measured = points[points.status == "ok"]
    figure, ((axes,),) = style.new(1, 1, 5.2)
    handles: dict[str, dict[str, Line2D]] = {kind: {} for kind in KINDS}
    for kind, z in (("composition", 2), ("recipe", 3), ("ours", 4)):
        words, color, _ = KINDS[kind]
        named = _fastest(summary, kind, target)
        for name, rows in measured[measured.kind == kind].groupby("rival", sort=False):
            rows = rows.sort_values("recall")
            curve = np.maximum(1 - rows.recall, _LEAST_MISSED / 2), rows.qps
            if name not in named:
                (line,) = axes.plot(*curve, color=color, linewidth=0.7, alpha=0.35, zorder=1)
                handles[kind][f"other: {words}"] = line
                continue
            place = named.index(name)
            shade = SHADES[kind][place % len(SHADES[kind])]
            (handles[kind][short(name)],) = axes.plot(
                *curve,
                color=shade,
                marker=style.MARKERS[place % len(style.MARKERS)],
                linestyle="--" if kind == "composition" else "-",
                linewidth=2.8 if kind == "ours" else 1.3,
                markersize=6 if kind == "ours" else 4.5,
                markerfacecolor="white" if kind == "recipe" else shade,
                zorder=z - 0.01 * place,  # the fastest in front
            )
    axes.set(xscale="log", yscale="log", xlabel=f"recall@{k}", ylabel="queries per second")
    axes.set_title("Speed at recall, all queries in a call")
    axes.set_xlim(1 - LOWEST, _LEAST_MISSED)
    inside = measured.qps[measured.recall >= LOWEST]
    if len(inside):
        axes.set_ylim(inside.min() / 1.15, inside.max() * 1.15)
    axes.set_xticks([1 - r for r in _RECALLS], [f"{r:g}" for r in _RECALLS])
    axes.xaxis.set_minor_locator(NullLocator())
    style.spread_ticks(axes.yaxis)
    shown = {}
    for kind, lines in handles.items():
        order = [*map(short, _fastest(summary, kind, target)), f"other: {KINDS[kind][0]}"]
        shown.update({words: lines[words] for words in order if words in lines})
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=2, handlelength=3)
    return figure


def memory(summary: pd.DataFrame, target: float = 0.95) -> Figure:
    """Draw speed at a recall against memory, a numbered point for each rival.

    Parameters
    ----------
    summary : "rival", "kind", "target", "qps" (NaN where the target is not reached),
        "bytes_per_vector", "status", a row for each rival and recall
    target : one of the recalls of ``summary``
    """
    rows = summary[summary.target == target]
    drawn = rows[rows.qps.notna()].sort_values("qps", ascending=False)
    missing = rows[rows.qps.isna()]
    lines = len(rows) + 1
    figure, ((axes, key),) = style.new(1, 2, max(3.6, 0.9 + 0.135 * lines), width_ratios=[1.55, 1])
    for kind, (words, color, marker) in KINDS.items():
        of = drawn[drawn.kind == kind]
        if len(of):
            size, z = (9, 4) if kind == "ours" else (5, 2)
            axes.plot(
                of.bytes_per_vector, of.qps, marker, color=color, ms=size, label=words, zorder=z
            )
    axes.set(xscale="log", yscale="log", title="Speed and memory")
    axes.set(xlabel="bytes per vector, everything counted")
    axes.set(ylabel=f"queries per second at recall {target:g}")
    if len(drawn):
        for axis, values in ((axes.xaxis, drawn.bytes_per_vector), (axes.yaxis, drawn.qps)):
            axis.set_view_interval(values.min() / 1.3, values.max() * 1.3, ignore=True)
            style.spread_ticks(axis, (values.min(), values.max()))
        style.legend_of(axes, loc="outside lower center", ncols=3)
    key.axis("off")
    key.set(xlim=(0, 1), ylim=(lines, 0))
    figure.draw_without_rendering()  # lays it out: the numbers go where there is room in pixels
    places = axes.transData.transform(drawn[["bytes_per_vector", "qps"]].to_numpy(float))
    offsets = _free_places(places, figure.dpi / 72)
    for number, (row, offset) in enumerate(zip(drawn.itertuples(), offsets, strict=True), 1):
        color = KINDS[row.kind][1] if row.kind != "composition" else style.BLACK
        looks: dict[str, Any] = {"color": color}
        looks["weight"] = "bold" if row.kind == "ours" else "normal"
        _key_line(key, number - 1, str(number), short(row.rival), looks)
        looks |= {"ha": "center", "va": "center", "fontsize": 7}
        if math.hypot(*offset) > 11:
            looks["arrowprops"] = {"arrowstyle": "-", "color": style.GREY, "linewidth": 0.4}
        style.note(axes, str(number), (row.bytes_per_vector, row.qps), offset, **looks)
    for place, row in enumerate(missing.itertuples(), len(drawn)):
        why = "not reached" if row.status == "ok" else row.status
        _key_line(key, place + 1, "-", f"{short(row.rival)}: {why}", {"color": style.GREY})
    return figure


def _fastest(summary: pd.DataFrame, kind: str, target: float) -> list[str]:
    """Return the names of those of a kind to be named, the fastest first: all of ours."""
    rows = summary[(summary.target == target) & (summary.kind == kind)]
    rows = rows.sort_values("qps", ascending=False)
    return list(rows.rival if kind == "ours" else rows.rival[rows.qps.notna()][:NAMED])


def _key_line(key: Axes, line: float, mark: str, text: str, looks: dict[str, Any]) -> None:
    looks = {"fontsize": 6.8, "va": "center", **looks}
    key.text(0.05, line + 0.5, mark, ha="right", **looks)
    key.text(0.08, line + 0.5, text, ha="left", **looks)


def _free_places(places: np.ndarray, scale: float) -> list[tuple[float, float]]:
    """Return offsets in points (n, 2) for numbers beside places (n, 2) in pixels.

    One after the other, each goes to the first of ``_AROUND`` its point that keeps clear of all
    points and of the numbers placed before, or else to the least crowded.
    """
    room = scale * np.array([11.0, 8.0])  # of a number
    taken = np.empty((0, 2))
    offsets = []
    for place in places:
        costs = []
        for offset in _AROUND:
            at = place + scale * np.array(offset)
            crowded = (abs(taken - at) < room).all(axis=1).sum()
            near = (abs(places - at) < room / 2 + 3 * scale).all(axis=1).sum()
            costs.append(100 * crowded + 10 * near + math.hypot(*offset) / 10)
        offsets.append(_AROUND[int(np.argmin(costs))])
        taken = np.vstack([taken, place + scale * np.array(offsets[-1])])
    return offsets
