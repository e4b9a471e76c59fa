"""The figure of ``make bench``: our index beside faiss's."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pqlib.study.plots import style

NPROBE_STYLE = ((style.BLUE, "o"), (style.ORANGE, "s"), (style.GREEN, "^"), (style.PINK, "D"))
"""Colour and marker of each nprobe, in ascending order."""


def speed_and_latency(methods: pd.DataFrame, rival: str, k: int) -> Figure:
    """Draw speed over the rival's, recall, and how long single queries take.

    Parameters
    ----------
    methods : a row for each method and nprobe: "method", "nprobe", "ratio" (queries per second
        over the rival's), "recall@<k>", "p50_ms", "p95_ms", "p99_ms"
    rival : the method that ratios are to; it is the line at 1
    k : of recall@k

    Raises
    ------
    ValueError
        When there are more values of nprobe than styles.
    """
    names = list(dict.fromkeys(methods.method))
    nprobes = sorted(set(methods.nprobe))
    if len(nprobes) > len(NPROBE_STYLE):
        raise ValueError(
            f"methods has {len(nprobes)} values of nprobe: expected at most {len(NPROBE_STYLE)}. "
            "Draw fewer of them."
        )
    height = 1.4 + max(0.22 * len(methods), 0.38 * len(names))
    ratios = [1.5, 0.75, 1.25]
    figure, (panels,) = style.new(1, 3, height, sharey=True, width_ratios=ratios)
    speed, found, single = panels
    step = 0.8 / len(nprobes)
    for number, (nprobe, (color, marker)) in enumerate(zip(nprobes, NPROBE_STYLE, strict=False)):
        rows = methods[methods.nprobe == nprobe]
        # A method measured at one nprobe only has the middle of its place.
        alone = (rows.method.map(methods.method.value_counts()) == 1).to_numpy()
        offset = np.where(alone, 0.0, step * (number - (len(nprobes) - 1) / 2))
        y = rows.method.map(names.index).to_numpy() + offset
        # On a logarithmic axis a bar's length means something from 1 on only, both ways.
        others = (rows.method != rival).to_numpy()
        speed.barh(y[others], rows.ratio[others] - 1, left=1, height=0.9 * step, color=color)
        for place, ratio in zip(y[others], rows.ratio[others], strict=True):
            words = f"{ratio:.2f}" if ratio >= 0.095 else f"{ratio:.2g}"
            _beside(speed, place, ratio, words, ratio < 1)
        found.plot(rows[f"recall@{k}"], y, marker, color=color, label=f"nprobe {nprobe}")
        single.hlines(y, rows.p50_ms, rows.p99_ms, color=color, linewidth=1)
        single.plot(rows.p95_ms, y, "|", color=color, ms=7, mew=1.6)
        single.plot(rows.p50_ms, y, marker, color=color)

    speed.axvline(1, color=style.BLACK, linewidth=1)
    if rival in names:
        _beside(speed, names.index(rival), 1, "the rival: 1", True)
    # A name of two parts has two lines.
    broken = [name.replace(", ", ",\n").replace(": ", ":\n") for name in names]
    speed.set_yticks(range(len(names)), broken)
    speed.invert_yaxis()
    speed.set(xscale="log", xlabel=f"queries per second\nover those of\n{rival}")
    speed.set_title("All queries in a call")
    low, high = min(1.0, methods.ratio.min()), max(1.0, methods.ratio.max())
    # Room for the numbers beside the bars, a share of the decades that the axis spans.
    room = max(high / low, 10) ** 0.4
    speed.set_xlim(low / room, high * room)
    found.set(xlabel=f"recall@{k}", xlim=(0, 1.05), xticks=[0, 0.5, 1], title="Found")
    single.set(
        xscale="log",
        xlabel="milliseconds:\np50 (marker), p95 (tick),\np99 (end of line)",
        title="One query a call",
    )
    style.widen_decades(single)
    style.log_ticks(speed.xaxis)
    style.log_ticks(single.xaxis)
    for axes in panels:
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        for line in range(len(names) - 1):
            axes.axhline(line + 0.5, color="#E5E5E5", linewidth=0.6, zorder=0)
    style.legend_of(found, loc="outside upper right", ncols=4)
    return figure


def _beside(axes: Axes, y: float, x: float, words: str, left: bool) -> None:
    """Write words beside the end of a bar."""
    side = {"ha": "right" if left else "left", "va": "center", "fontsize": 7.5}
    style.note(axes, words, (x, y), (-3 if left else 3, 0), color=style.BLACK, **side)
