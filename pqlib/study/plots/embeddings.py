"""Figures of notebook 09: embeddings, compressed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pqlib.study.plots import style

STYLES: dict[str, tuple[str, str, str]] = {
    "float32": (style.BLACK, "o", ""),
    "float16": (style.BLACK, "s", ""),
    "int8": (style.BLACK, "^", ""),
    "int4": (style.BLACK, "D", ""),
    "first dimensions": (style.GREY, "v", "--"),
    "PCA": (style.SKY, "<", "--"),
    "cascade's codes": (style.GREEN, "P", ":"),
    "signs": (style.DARK_GREY, "X", ""),
    "signs, re-ranked by int8": (style.DARK_GREY, "*", ""),
    "RaBitQ": (style.YELLOW, "p", ""),
    "PQ": (style.BLUE, "o", "-"),
    "OPQ": (style.ORANGE, "s", "--"),
    "PRQ": (style.PINK, "^", "-"),
}
"""Colour, marker and line of each method."""


def ways(table: pd.DataFrame, lost: pd.DataFrame, k: int) -> Figure:
    """Draw what each way to compress finds, by its bytes, and where known what the task loses.

    Parameters
    ----------
    table : a row for each "method" and "bytes": "recall", with _low and _high
    lost : the same, "rr": what is lost against whole vectors on the same queries
    """
    panels = [(table, "recall", f"recall@{k}")]
    if "rr" in lost:
        whole = table.rr[table.bytes.idxmax()]
        panels.append((lost, "rr", f"mean reciprocal rank lost, of {whole:.3f}"))
    figure, (axes,) = style.new(1, len(panels), 4.1)
    most = table.bytes.max()
    for panel, (rows, column, label) in zip(axes, panels, strict=True):
        for number, (name, (color, marker, line)) in enumerate(STYLES.items()):
            own = rows[rows.method == name].sort_values("bytes")
            if not len(own):
                continue
            look = style.mark(color, marker) | {"linestyle": line, "markersize": 5, "label": name}
            if name == "cascade's codes":  # lies where PCA does
                look |= {"markerfacecolor": "none", "markersize": 8}
            # Beside each other, so that bars at equal bytes can be told apart.
            at = own.bytes * 1.015 ** (number - len(STYLES) / 2)
            panel.plot(at, own[column], **look)
            low, high = own[f"{column}_low"], own[f"{column}_high"]
            panel.vlines(at, low, high, color=color, linewidth=0.8)
        panel.set_xscale("log", base=2)
        halves = [most / 2**i for i in range(16) if most / 2**i > table.bytes.min() / 1.5]
        style.ticks_at(panel.xaxis, halves, "{x:g}")
        panel.set(xlabel="bytes of a vector, without what all share", ylabel=label)
    axes[0].set_ylim(0, None)
    if len(panels) > 1:
        axes[1].axhline(0, color=style.GREY, linewidth=0.8, zorder=0)
        axes[1].invert_yaxis()
    style.legend_of(axes[0], loc="outside upper left", ncols=5, handlelength=2.5)
    return figure


def why(components: pd.DataFrame, lists: pd.DataFrame, k: int) -> Figure:
    """Draw why embeddings are hard: the spectrum, and how neighbours spread over lists.

    Parameters
    ----------
    components : "dataset", number of the "component", "variance" held by those up to it
    lists : "dataset", "of", "share" of the base scanned, "found" of the neighbours
    """
    figure, ((left, right),) = style.new(1, 2, 3.4)
    for number, (name, own) in enumerate(components.groupby("dataset", sort=False), 1):
        color = style.COLORS[number - 1]
        marker = style.MARKERS[number - 1]
        look: dict[str, Any] = {"marker": marker, "markersize": 4, "color": color}
        left.plot(own.component, own.variance, **look, markevery=_spaced(own.component), label=name)
        for of, line in (("queries", "-"), ("vectors of the base", ":")):
            part = lists[(lists.dataset == name) & (lists.of == of)]
            right.plot(part.share, part.found, line, **look, markevery=_spaced(part.share))
    for words, line in (("queries", "-"), ("vectors of the base", ":")):
        right.plot([], [], line, color=style.BLACK, label=words)
    style.log_axis(left.xaxis, "principal components, largest first")
    left.set(ylabel="variance of the base held", ylim=(0, 1.02))
    right.set(xlabel="share of the base scanned, nearest lists first")
    right.set(ylabel=f"share of the true {k} nearest found", xscale="log", ylim=(0, 1.02))
    style.percent(left.yaxis, right.yaxis)
    style.ticks_at(right.xaxis, (0.01, 0.03, 0.1, 0.3, 1), "{x:.0%}")
    style.legend_of(left, loc="outside upper left", ncols=3)
    right.legend(loc="lower right")
    return figure


def _spaced(x: pd.Series) -> list[int]:
    """Return rows that lie evenly along a logarithmic axis, for markers."""
    wanted = np.geomspace(x.iloc[0], x.iloc[-1], 6)
    return sorted({int(np.abs(x.to_numpy() - at).argmin()) for at in wanted})


def shift(distances: pd.DataFrame) -> Figure:
    """Draw how far queries and held-back vectors of the base are from their nearest centroid.

    Parameters
    ----------
    distances : "of" which, and "distance", a row a vector
    """
    figure, ((axes,),) = style.new(1, 1, 2.8)
    for number, (of, own) in enumerate(distances.groupby("of", sort=False)):
        color, line = ((style.ORANGE, "-"), (style.BLUE, "--"))[number % 2]
        axes.ecdf(own.distance, color=color, linestyle=line, linewidth=1.5, label=of)
        axes.plot(own.distance.median(), 0.5, "o", color=color)
    axes.set(xlabel="Euclidean distance to the nearest centroid (dot: median)")
    axes.set(ylabel="share that is no farther", ylim=(0, 1.02))
    style.percent(axes.yaxis)
    axes.legend(loc="upper left")
    return figure
