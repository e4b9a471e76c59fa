"""The ladder: what each idea is worth, from exact search to the tuned index."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from pqlib.study.plots import style
from pqlib.study.plots.evaluation import spread_ticks

ROW = 0.3  # inches a rung
MARKS = {90: (">", 4.5), 95: ("o", 7.0), 99: ("<", 4.5)}


def ladder(rungs: pd.DataFrame, ours: Sequence[str], k: int = 10) -> Figure:
    """Draw queries per second of each rung at three recalls, with its bytes and building time.

    Parameters
    ----------
    rungs : of ``study.ladder.Ladder``
    ours : rungs whose loops are this package's own, drawn in another colour
    k : neighbours
    """
    figure, axes = style.new(1, 1, 1.25 + ROW * len(rungs))
    ax = axes[0, 0]
    values = rungs[[f"qps_{t}" for t in MARKS]].to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    right = high * 1.35
    for place, row in enumerate(rungs.itertuples()):
        color = style.ORANGE if row.method in ours else style.BLUE
        speeds = {t: getattr(row, f"qps_{t}") for t in MARKS}
        reached = {t: v for t, v in speeds.items() if not math.isnan(v)}
        if place % 2:
            ax.axhspan(place - 0.5, place + 0.5, color="0.95", zorder=0, lw=0)
        if len(reached) > 1:
            ax.plot(list(reached.values()), [place] * len(reached), color=color, lw=1, zorder=1)
        for target, speed in reached.items():
            marker, size = MARKS[target]
            ax.plot(speed, place, marker, ms=size, color=color, zorder=2)
        if row.reason:
            said = "cannot be built here"
        elif 95 not in reached:
            said = f"recall {row.highest:.2f} at most"
        else:
            said = f"{reached[95]:,.0f}"
        at = max(reached.values(), default=low)
        ax.annotate(
            said,
            (at, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=color if 95 in reached else "0.35",
        )
        memory = "" if math.isnan(row.bytes_per_vector) else f"{row.bytes_per_vector:,.0f}"
        build = "" if math.isnan(row.build_s) else f"{row.build_s:.1f}"
        for offset, words in ((1.095, memory), (1.205, build)):
            ax.text(
                offset,
                place,
                words,
                transform=ax.get_yaxis_transform(),
                ha="right",
                va="center",
                fontsize=7.5,
            )
    for offset, words in ((1.095, "bytes per\nvector"), (1.205, "building\nseconds")):
        ax.text(
            offset, -0.75, words, transform=ax.get_yaxis_transform(), ha="right", va="bottom",
            fontsize=7.5, color="0.35",
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(low / 1.4, right * 2.2)
    ax.set_ylim(len(rungs) - 0.5, -0.5)
    ax.set_yticks(range(len(rungs)), rungs.method)
    spread_ticks(ax.xaxis, ax.get_xlim())
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("queries per second (all in one call)")
    handles = [
        ax.plot([], [], marker, ms=size, color="0.35", linestyle="")[0]
        for marker, size in MARKS.values()
    ]
    labels = [f"recall@{k} 0.{t}" + (", number beside" if t == 95 else "") for t in MARKS]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def adaptive(points: pd.DataFrame, fixed: str, varying: str, k: int = 10) -> Figure:
    """Draw recall against codes scanned, with and without adaptive probing.

    Parameters
    ----------
    points : of ``study.ladder.Ladder``
    fixed, varying : the two rungs
    k : neighbours
    """
    figure, axes = style.new(1, 1, 3.2)
    ax = axes[0, 0]
    for name, color, marker in ((fixed, style.BLUE, "o"), (varying, style.ORANGE, "s")):
        rows = points[points.method == name].sort_values("codes")
        label = "the same number of lists for every query" if name == fixed else "adaptive probing"
        ax.plot(rows.codes, 1 - rows.recall, color=color, marker=marker, ms=4, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ticks = [v for v in (0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001) if low <= v <= high]
    ax.set_yticks(ticks, [f"{1 - v:g}" for v in ticks])
    ax.set_yticks([], minor=True)
    ax.invert_yaxis()
    # Over less than a decade, 1, 2 and 5 would leave one label or none.
    left, right = ax.get_xlim()
    steps = (1, 2, 5) if right > 10 * left else (1, 1.5, 2, 3, 4, 5, 7)
    ax.xaxis.set_major_locator(LogLocator(subs=steps))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    ax.set_xlabel("codes scanned by a query, mean (logarithmic)")
    ax.set_ylabel(f"recall@{k} (1 - recall is logarithmic)")
    ax.legend(loc="lower right")
    return figure
