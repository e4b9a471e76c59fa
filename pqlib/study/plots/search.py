"""Figures of notebook 04: distances from tables, and what a search finds and loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from numpy.typing import NDArray

from pqlib.study.plots import style
from pqlib.study.plots.evaluation import log_ticks

Array = NDArray[np.floating]


def distance_table(table: Array, code: NDArray[np.integer]) -> Figure:
    """Draw one distance table as a heat map, with the path of one code through it.

    Parameters
    ----------
    table : (m, ksub) squared distances of the query's sub-vectors to the sub-centroids
    code : (m,) the sub-centroids that one stored vector names
    """
    m, ksub = table.shape
    figure, ((heat, sums),) = style.new(1, 2, 3.1, width_ratios=[3.2, 1])
    picture = heat.imshow(
        table, aspect="auto", cmap="cividis", extent=(-0.5, ksub - 0.5, m + 0.5, 0.5)
    )
    rows = np.arange(1, m + 1)
    heat.plot(code, rows, color="white", linewidth=1, marker="o", ms=6, mec=style.ORANGE, mew=1.5)
    heat.grid(visible=False)
    heat.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    heat.set(
        xlabel="sub-centroid",
        ylabel="sub-quantizer",
        title="One query's squared distances, one code's path",
    )
    plain = StrMethodFormatter("{x:,.0f}" if table.max() >= 100 else "{x:.3g}")
    figure.colorbar(picture, ax=heat, pad=0.01, aspect=30, format=plain, label="squared distance")
    entries = table[np.arange(m), code]
    sums.barh(rows, entries, left=np.cumsum(entries) - entries, color=style.ORANGE, height=0.7)
    sums.set(xlabel="squared distance", title="Added up")
    sums.set_ylim(m + 0.5, 0.5)
    sums.set_yticks([])
    sums.xaxis.set_major_locator(MaxNLocator(nbins=3))
    # The panel is narrow: 20 M rather than 20,000,000.
    sums.xaxis.set_major_formatter(
        EngFormatter() if entries.sum() >= 100 else StrMethodFormatter("{x:.3g}")
    )
    return figure


def estimates(true: Array, estimated: Mapping[str, Array]) -> Figure:
    """Draw estimated against true distances, a panel for each codebook mode.

    Parameters
    ----------
    true : (pairs,) true L2 distances
    estimated : for each mode, (pairs,) the estimates, plain L2
    """
    figure, (panels,) = style.new(1, len(estimated), 3.4, sharex=True, sharey=True)
    high = 1.05 * max(float(true.max()), *(float(e.max()) for e in estimated.values()))
    low = 0.95 * min(float(true.min()), *(float(e.min()) for e in estimated.values()))
    for axes, (mode, values), color in zip(
        panels, estimated.items(), (style.SKY, style.BLUE, style.GREEN), strict=False
    ):
        axes.scatter(true, values, s=2, color=color, alpha=0.25, linewidths=0, rasterized=True)
        axes.plot([low, high], [low, high], color=style.BLACK, linewidth=1, linestyle="--")
        axes.set(xlabel="true distance (L2)", title=f"{mode} codebooks")
        axes.set(xlim=(low, high), ylim=(low, high))
    panels[0].set_ylabel("estimated distance (L2)")
    return figure


def ranks(found: Mapping[str, Array], limit: int) -> Figure:
    """Draw how deep in the estimated order the true neighbours stand.

    Parameters
    ----------
    found : for each mode, (limit,) the share of true neighbours among the first 1, 2, ... places
    limit : places shown
    """
    figure, ((axes,),) = style.new(1, 1, 2.8)
    place = np.arange(1, limit + 1)
    for (mode, share), color in zip(
        found.items(), (style.SKY, style.BLUE, style.GREEN), strict=False
    ):
        axes.plot(place, share, color=color, label=f"{mode} codebooks")
    axes.set(
        xscale="log",
        xlabel="first places in the order of the estimates",
        ylabel="true neighbours among them",
        title="Where the true neighbours stand",
    )
    log_ticks(axes.xaxis)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(0, 1.04)
    figure.legend(loc="outside right center")
    return figure


def multilevel(points: pd.DataFrame, k: int) -> Figure:
    """Draw recall against counted work of the multi-level search.

    Parameters
    ----------
    points : "codebooks", "probing", "nprobe", "recall", "distance_computations"
    k : of recall@k
    """
    modes = list(pd.unique(points.codebooks))
    figure, (panels,) = style.new(1, len(modes), 3.4, sharex=True, sharey=True)
    for axes, mode in zip(panels, modes, strict=True):
        for number, (probing, rows) in enumerate(
            points[points.codebooks == mode].groupby("probing", sort=False)
        ):
            axes.plot(
                rows.distance_computations,
                rows.recall,
                color=style.COLORS[number - 1] if number else style.BLACK,
                marker=style.MARKERS[number],
                label=str(probing),
            )
        axes.set(xscale="log", xlabel="distance computations of a query", title=f"{mode} codebooks")
    low, high = panels[0].get_xlim()
    # A whole power of ten on the left only: numbers at both ends would touch between the panels.
    panels[0].set_xlim(10 ** np.floor(np.log10(low)), high)
    for axes in panels:
        log_ticks(axes.xaxis)
    panels[0].set_ylabel(f"recall@{k}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5)
    return figure


def rerank(points: pd.DataFrame, limit: float, k: int) -> Figure:
    """Draw recall against the number of candidates that are compared exactly.

    Parameters
    ----------
    points : "codebooks", "rerank_factor" (0: none), "recall"
    limit : recall of perfect codes in the same lists
    k : of recall@k
    """
    figure, ((axes,),) = style.new(1, 1, 2.8)
    for (mode, rows), (color, marker) in zip(
        points.groupby("codebooks", sort=False),
        ((style.SKY, "s"), (style.BLUE, "D")),
        strict=False,
    ):
        again = rows[rows.rerank_factor > 0]
        axes.plot(
            k * again.rerank_factor, again.recall, color=color, marker=marker, label=f"{mode}"
        )
        estimate = rows[rows.rerank_factor == 0].recall.item()
        axes.axhline(estimate, color=color, linestyle=":", label=f"{mode}, estimates only")
    axes.axhline(limit, color=style.GREY, linestyle="--", label="perfect codes, same lists")
    values = k * np.unique(points.rerank_factor[points.rerank_factor > 0])
    axes.set(
        xscale="log",
        xlabel="candidates compared exactly",
        ylabel=f"recall@{k}",
        title="Re-ranking",
    )
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylim(None, 1.03)
    figure.legend(loc="outside right center")
    return figure


def losses(splits: Mapping[str, pd.DataFrame], k: int) -> Figure:
    """Draw recall and the two losses, stacked, against nprobe.

    Parameters
    ----------
    splits : for each method a table with "nprobe", "recall", "quantization", "routing", which
        add up to 1
    k : of recall@k
    """
    figure, (panels,) = style.new(1, len(splits), 3.2, sharey=True)
    stages: Sequence[tuple[str, str]] = (
        ("recall", style.BLUE),
        ("quantization", style.YELLOW),
        ("routing", style.ORANGE),
    )
    names = {
        "recall": f"found: recall@{k}",
        "quantization": "ranked out by the codes",
        "routing": "in no probed list",
    }
    for axes, (method, table) in zip(panels, splits.items(), strict=True):
        x = table.nprobe.to_numpy(np.float64)
        if len(x) == 1:  # a single number of lists would have no width
            x, table = x * [0.8, 1.25], pd.concat([table, table])
        axes.stackplot(
            x,
            [table[stage] for stage, _ in stages],
            colors=[color for _, color in stages],
            labels=[names[stage] for stage, _ in stages],
            alpha=0.9,
        )
        axes.set(xscale="log", xlabel="nprobe, lists probed", title=method)
        axes.set(xlim=(x[0], x[-1]), ylim=(0, 1))
        axes.xaxis.set_major_locator(FixedLocator(list(np.unique(table.nprobe))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(visible=False)
    panels[0].set_ylabel("true neighbours")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure
