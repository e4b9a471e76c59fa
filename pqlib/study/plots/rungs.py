"""Figures of the ladder: what each idea is worth, and what adaptive probing does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pqlib.study.plots import style

ROW = 0.3  # inches a rung
SMALL = 7.5  # points of the words beside marks
MARKS = {90: (">", 4.5), 95: ("o", 7.0), 99: ("<", 4.5)}
"""Marker and its size of each recall, in percent."""

RECALL_TICKS = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def curve(table: pd.DataFrame, recall: float, k: int = 10) -> Figure:
    """Draw queries per second of the chosen index against its recall, with the one asked for.

    Parameters
    ----------
    table : ``curve`` of what ``pqlib.tune`` returns
    recall : asked for
    k : neighbours
    """
    figure, ((axes,),) = style.new(1, 1, 2.6)
    axes.axvline(recall, color="0.6", lw=1, ls=":", label=f"asked for: {recall:g}")
    axes.plot(table.recall, table.qps, "o-", color=style.ORANGE, label="the chosen index")
    axes.set(xlabel=f"recall@{k} on vectors held back", ylabel="queries per second")
    axes.set_ylim(0, 1.15 * table.qps.max())
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(loc="lower left")
    return figure


def ladder(rungs: pd.DataFrame, ours: Sequence[str], k: int = 10) -> Figure:
    """Draw queries per second of each rung at three recalls, with its bytes and building time.

    Parameters
    ----------
    rungs : of ``study.ladder.Ladder``
    ours : rungs whose loops are this package's own, drawn in another colour
    k : neighbours
    """
    figure, ((axes,),) = style.new(1, 1, 1.25 + ROW * len(rungs))
    speeds = rungs[[f"qps_{target}" for target in MARKS]].set_axis(list(MARKS), axis=1)
    low, high = np.nanmin(speeds), np.nanmax(speeds)
    for place, (row, speed) in enumerate(zip(rungs.itertuples(), speeds.to_numpy(), strict=True)):
        color = style.ORANGE if row.method in ours else style.BLUE
        if place % 2:
            axes.axhspan(place - 0.5, place + 0.5, color="0.95", zorder=0, lw=0)
        axes.plot(speed, np.full(len(speed), place), color=color, lw=1, zorder=1)
        for value, (marker, size) in zip(speed, MARKS.values(), strict=True):
            axes.plot(value, place, marker, ms=size, color=color, zorder=2)
        reached = np.isfinite(row.qps_95)
        if row.reason:
            said = "cannot be built here"
        else:
            said = f"{row.qps_95:,.0f}" if reached else f"recall {row.highest:.2f} at most"
        right = low if np.isnan(speed).all() else np.nanmax(speed)
        looks = {"va": "center", "fontsize": SMALL, "color": color if reached else "0.35"}
        style.note(axes, said, (right, place), (7, 0), **looks)
    for edge, title, column, form in (
        (1.095, "bytes per\nvector", "bytes_per_vector", "{:,.0f}"),
        (1.205, "building\nseconds", "build_s", "{:.1f}"),
    ):
        beside = {"transform": axes.get_yaxis_transform(), "ha": "right", "fontsize": SMALL}
        axes.text(edge, -0.75, title, va="bottom", color="0.35", **beside)
        for place, value in rungs[column].reset_index(drop=True).dropna().items():
            axes.text(edge, place, form.format(value), va="center", **beside)
    axes.set(xscale="log", xlim=(low / 1.4, high * 3))
    style.name_rows(axes, rungs.method)
    style.spread_ticks(axes.xaxis)
    axes.set_xlabel("queries per second (all in one call)")
    for target, (marker, size) in MARKS.items():
        label = f"recall@{k} 0.{target}" + (", number beside" if target == 95 else "")
        axes.plot([], [], marker, ms=size, color="0.35", linestyle="", label=label)
    style.legend_of(axes, ncols=3, fontsize=8)
    return figure


def adaptive(points: pd.DataFrame, fixed: str, varying: str, k: int = 10) -> Figure:
    """Draw recall against codes scanned, with and without adaptive probing.

    Parameters
    ----------
    points : of ``study.ladder.Ladder``
    fixed, varying : the two rungs
    k : neighbours
    """
    figure, ((axes,),) = style.new(1, 1, 3.2)
    for name, label, color, marker in (
        (fixed, "the same number of lists for every query", style.BLUE, "o"),
        (varying, "adaptive probing", style.ORANGE, "s"),
    ):
        rows = points[points.method == name].sort_values("codes")
        axes.plot(rows.codes, 1 - rows.recall, color=color, marker=marker, ms=4, label=label)
    axes.set(xscale="log", yscale="log")
    low, high = axes.get_ylim()
    shown = [recall for recall in RECALL_TICKS if low <= 1 - recall <= high]
    axes.set_yticks([1 - recall for recall in shown], [f"{recall:g}" for recall in shown])
    axes.set_yticks([], minor=True)
    axes.invert_yaxis()
    style.spread_ticks(axes.xaxis)
    axes.set_xlabel("codes scanned by a query, mean (logarithmic)")
    axes.set_ylabel(f"recall@{k} (1 - recall is logarithmic)")
    axes.legend(loc="lower right")
    return figure
