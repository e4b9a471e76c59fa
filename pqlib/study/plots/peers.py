"""The figures of ``make bench PEERS=1``: our index beside other libraries."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator
from matplotlib.ticker import StrMethodFormatter as Plain

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
    named = _fastest(summary, target)
    handles = {}
    for kind in ("composition", "recipe", "ours"):
        words, color, _ = KINDS[kind]
        names = list(dict.fromkeys(measured.rival[measured.kind == kind]))
        others = [name for name in names if name not in named[kind]]
        for name in (*others, *reversed(named[kind])):
            x, y = _curve(measured[measured.rival == name])
            if name in others:
                (line,) = axes.plot(x, y, color=color, linewidth=0.7, alpha=0.35, zorder=1)
                handles[kind, len(named[kind])] = (line, f"other: {words}")
                continue
            place = named[kind].index(name)
            shade = SHADES[kind][place % len(SHADES[kind])]
            (line,) = axes.plot(
                x,
                y,
                color=shade,
                marker=style.MARKERS[place % len(style.MARKERS)],
                linestyle="--" if kind == "composition" else "-",
                linewidth=2.8 if kind == "ours" else 1.3,
                markersize=6 if kind == "ours" else 4.5,
                markerfacecolor="white" if kind == "recipe" else shade,
                zorder={"ours": 4, "recipe": 3, "composition": 2}[kind],
            )
            handles[kind, place] = (line, short(name))
    axes.set(xscale="log", yscale="log", xlabel=f"recall@{k}", ylabel="queries per second")
    axes.set_title("Speed at recall, all queries in a call")
    axes.set_xlim(1 - LOWEST, _LEAST_MISSED)
    inside = measured[measured.recall >= LOWEST]
    if len(inside):
        axes.set_ylim(inside.qps.min() / 1.15, inside.qps.max() * 1.15)
    _recall_ticks(axes)
    _speed_ticks(axes)
    order = [key for kind in KINDS for key in sorted(k for k in handles if k[0] == kind)]
    figure.legend(
        [handles[key][0] for key in order],
        [handles[key][1] for key in order],
        loc="outside lower center",
        ncols=2,
        handlelength=3,
    )
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
            axes.plot(
                of.bytes_per_vector,
                of.qps,
                marker,
                color=color,
                ms=9 if kind == "ours" else 5,
                label=words,
                zorder=4 if kind == "ours" else 2,
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="bytes per vector, everything counted",
        ylabel=f"queries per second at recall {target:g}",
        title="Speed and memory",
    )
    for axis, values in ((axes.xaxis, drawn.bytes_per_vector), (axes.yaxis, drawn.qps)):
        _ticks(axis, values)
    if len(drawn):
        axes.set_xlim(drawn.bytes_per_vector.min() / 1.3, drawn.bytes_per_vector.max() * 1.3)
        axes.set_ylim(drawn.qps.min() / 1.3, drawn.qps.max() * 1.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    key.axis("off")
    key.set(xlim=(0, 1), ylim=(lines, 0))
    figure.draw_without_rendering()  # lays it out: the numbers go where there is room in pixels
    places = axes.transData.transform(drawn[["bytes_per_vector", "qps"]].to_numpy(float))
    offsets = _free_places(places, figure.dpi / 72)
    for number, (row, offset) in enumerate(zip(drawn.itertuples(), offsets, strict=True), 1):
        color = KINDS[row.kind][1] if row.kind != "composition" else style.BLACK
        weight = "bold" if row.kind == "ours" else "normal"
        far = math.hypot(*offset) > 11
        axes.annotate(
            str(number),
            (row.bytes_per_vector, row.qps),
            xytext=offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            color=color,
            weight=weight,
            arrowprops={"arrowstyle": "-", "color": style.GREY, "linewidth": 0.4} if far else None,
        )
        _key_line(key, number - 1, str(number), short(row.rival), color, weight)
    for place, row in enumerate(missing.itertuples(), len(drawn) + 1):
        why = "not reached" if row.status == "ok" else row.status
        _key_line(key, place, "-", f"{short(row.rival)}: {why}", style.GREY, "normal")
    return figure


def _fastest(summary: pd.DataFrame, target: float) -> dict[str, list[str]]:
    """Return the names of those to be named of each kind, the fastest first."""
    rows = summary[summary.target == target].sort_values("qps", ascending=False)
    named = {}
    for kind in KINDS:
        of = rows[(rows.kind == kind) & (rows.qps.notna() | (kind == "ours"))]
        named[kind] = list(of.rival if kind == "ours" else of.rival[:NAMED])
    return named


def _curve(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return what is missed, and speed, of a rival's points, in the order of recall."""
    rows = rows.sort_values("recall")
    return np.maximum(1 - rows.recall.to_numpy(float), _LEAST_MISSED / 2), rows.qps.to_numpy(float)


def _recall_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(FixedLocator([1 - r for r in _RECALLS]))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{r:g}" for r in _RECALLS]))
    axes.xaxis.set_minor_locator(NullLocator())


def _speed_ticks(axes: Axes) -> None:
    low, high = axes.get_ylim()
    _ticks(axes.yaxis, [low, high])


def _ticks(axis, values: Sequence[float] | pd.Series) -> None:  # type: ignore[no-untyped-def]
    """Label a logarithmic axis with plain numbers, at 1, 2 and 5 where it spans few decades."""
    finite = np.asarray(values, float)
    decades = math.log10(finite.max() / finite.min()) if len(finite) else 1.0
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if decades < 2.3 else (1,)))
    axis.set_major_formatter(Plain("{x:,.15g}"))
    axis.set_minor_formatter(NullFormatter())


def _key_line(key: Axes, line: float, mark: str, text: str, color: str, weight: str) -> None:
    options: dict[str, Any] = {"fontsize": 6.8, "va": "center", "color": color, "weight": weight}
    key.text(0.05, line + 0.5, mark, ha="right", **options)
    key.text(0.08, line + 0.5, text, ha="left", **options)


def _free_places(places: np.ndarray, scale: float) -> list[tuple[float, float]]:
    """Return offsets in points (n, 2) for numbers beside places (n, 2) in pixels.

    One after the other, each goes to the nearest place around its point, of several directions
    and distances, that keeps clear of all points and of the numbers placed before.
    """
    wide, high = 11.0 * scale, 8.0 * scale
    taken: list[tuple[float, float]] = []
    offsets = []
    for x, y in places:
        best, least = (0.0, 9.0), math.inf
        for distance in (8.5, 12.0, 17.0, 23.0, 30.0, 38.0):
            for angle in np.deg2rad([90, 0, 180, 270, 45, 135, 225, 315, 22, 158, 202, 338]):
                dx, dy = distance * math.cos(angle), distance * math.sin(angle)
                a, b = x + dx * scale, y + dy * scale
                crowded = sum(abs(a - p) < wide and abs(b - q) < high for p, q in taken)
                near = sum(
                    abs(a - p) < 0.5 * wide + 3 * scale and abs(b - q) < 0.5 * high + 3 * scale
                    for p, q in places
                )
                cost = 100 * crowded + 10 * near + distance / 10
                if cost < least:
                    best, least = (dx, dy), cost
        offsets.append(best)
        taken.append((x + best[0] * scale, y + best[1] * scale))
    return offsets
