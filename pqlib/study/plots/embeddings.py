"""Figures of notebook 09: embeddings, compressed."""

from __future__ import annotations

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
    "signs": (style.PINK, "X", ""),
    "signs, re-ranked by int8": (style.PINK, "*", ""),
    "RaBitQ": (style.YELLOW, "p", ""),
    "PQ": (style.BLUE, "o", "-"),
    "OPQ": (style.BLUE, "s", "--"),
    "PRQ": (style.ORANGE, "^", "-"),
}
"""Colour, marker and line of each method."""


def ways(table: pd.DataFrame, k: int) -> Figure:
    """Draw what each way to compress finds, by its bytes: recall, and where known the task.

    Parameters
    ----------
    table : a row for each "method" and "bytes": "recall" and "rr", with _low and _high
    """
    panels = {"recall": f"recall@{k}"}
    if "rr" in table:
        panels["rr"] = "mean reciprocal rank of the right answer"
    figure, (axes,) = style.new(1, len(panels), 3.9)
    for panel, (column, label) in zip(axes, panels.items(), strict=True):
        for name, (color, marker, line) in STYLES.items():
            own = table[table.method == name].sort_values("bytes")
            if not len(own):
                continue
            look = style.mark(color, marker) | {"linestyle": line, "markersize": 5, "label": name}
            panel.plot(own.bytes, own[column], **look)
            low, high = own[f"{column}_low"], own[f"{column}_high"]
            panel.vlines(own.bytes, low, high, color=color, linewidth=0.8)
        panel.set_xscale("log", base=2)
        low, high = table.bytes.min() / 2, table.bytes.max() * 2
        style.ticks_at(panel.xaxis, [2.0**i for i in range(3, 16) if low < 2**i < high], "{x:g}")
        panel.set(xlabel="bytes of a vector", ylabel=label, ylim=(0, None))
    style.legend_of(axes[0], loc="outside upper left", ncols=5, handlelength=2.5)
    return figure


def why(components: pd.DataFrame, lists: pd.DataFrame, k: int) -> Figure:
    """Draw why embeddings are hard: the spectrum, and how neighbours spread over lists.

    Parameters
    ----------
    components : "dataset", "share" of the components, "variance" that they hold
    lists : "dataset", "of", "share" of the base scanned, "found" of the neighbours
    """
    figure, ((left, right),) = style.new(1, 2, 3.4)
    for number, (name, own) in enumerate(components.groupby("dataset", sort=False), 1):
        color = style.COLORS[number - 1]
        left.plot(own.share, own.variance, color=color, label=name)
        for of, line in (("queries", "-"), ("vectors of the base", ":")):
            part = lists[(lists.dataset == name) & (lists.of == of)]
            right.plot(part.share, part.found, line, color=color, label=f"{name}, {of}")
    left.set(
        xlabel="share of the components, largest first", ylabel="variance held", ylim=(0, 1.02)
    )
    right.set(xlabel="share of the base in the nearest lists", ylabel=f"true {k} nearest in them")
    right.set(xscale="log", ylim=(0, 1.02))
    style.percent(left.xaxis, left.yaxis, right.yaxis)
    style.ticks_at(right.xaxis, (0.01, 0.03, 0.1, 0.3, 1), "{x:.0%}")
    style.legend_of(right, loc="outside upper left", ncols=2, handlelength=2.5)
    return figure


def shift(distances: pd.DataFrame) -> Figure:
    """Draw how far queries and held-back vectors of the base are from their nearest centroid.

    Parameters
    ----------
    distances : "of" which, and "distance", a row a vector
    """
    figure, ((axes,),) = style.new(1, 1, 2.8)
    edges = np.histogram_bin_edges(distances.distance, 50)
    for number, (of, own) in enumerate(distances.groupby("of", sort=False)):
        color, line = ((style.ORANGE, "-"), (style.BLUE, "--"))[number % 2]
        counts, _ = np.histogram(own.distance, edges)
        axes.stairs(counts / len(own), edges, color=color, linestyle=line, linewidth=1.5, label=of)
    axes.set(xlabel="distance to the nearest centroid", ylabel="share of the vectors")
    style.percent(axes.yaxis)
    style.legend_of(axes, ncols=2)
    return figure
