"""Figures of notebook 04: distances from tables, and what a search finds and loses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from pqlib.study.plots import style

Array = NDArray[np.floating]

MODE_STYLE = ((style.SKY, "s"), (style.BLUE, "D"), (style.GREEN, "^"))
"""Colour and marker of the codebook modes, in the order in which they come."""


def distance_table(table: Array, code: NDArray[np.integer]) -> Figure:
    """Draw one distance table as a heat map, with the path of one code through it.

    Parameters
    ----------
    table : (m, ksub) squared distances of the query's sub-vectors to the sub-centroids
    code : (m,) the sub-centroids that one stored vector names
    """
    m, ksub = table.shape
    figure, ((heat, sums),) = style.new(1, 2, 3.1, width_ratios=[3.2, 1])
    extent = (-0.5, ksub - 0.5, m + 0.5, 0.5)
    picture = heat.imshow(table, aspect="auto", cmap="cividis", extent=extent)
    rows = np.arange(1, m + 1)
    heat.plot(code, rows, color="white", linewidth=1, marker="o", ms=6, mec=style.ORANGE, mew=1.5)
    heat.grid(visible=False)
    heat.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    heat.set(xlabel="sub-centroid", ylabel="sub-quantizer")
    heat.set_title("One query's squared distances, one code's path")
    plain = "{x:,.0f}" if table.max() >= 100 else "{x:.3g}"
    figure.colorbar(picture, ax=heat, pad=0.01, aspect=30, format=plain, label="squared distance")
    entries = table[np.arange(m), code]
    sums.barh(rows, entries, left=np.cumsum(entries) - entries, color=style.ORANGE, height=0.7)
    sums.set(xlabel="squared distance", title="Added up", ylim=(m + 0.5, 0.5), yticks=[])
    sums.xaxis.set_major_locator(MaxNLocator(nbins=3))
    # The panel is narrow: 20 M rather than 20,000,000.
    sums.xaxis.set_major_formatter(EngFormatter() if entries.sum() >= 100 else "{x:.3g}")
    return figure


def estimates(true: Array, estimated: Mapping[str, Array]) -> Figure:
    """Draw estimated against true distances, a panel for each codebook mode.

    Parameters
    ----------
    true : (pairs,) true L2 distances
    estimated : for each mode, (pairs,) the estimates, plain L2
    """
    figure, (panels,) = style.new(1, len(estimated), 3.4, sharex=True, sharey=True)
    values = np.concatenate([true, *estimated.values()])
    ends = 0.95 * float(values.min()), 1.05 * float(values.max())
    for axes, (mode, guess), (color, _) in zip(panels, estimated.items(), MODE_STYLE, strict=False):
        axes.scatter(true, guess, s=2, color=color, alpha=0.25, linewidths=0, rasterized=True)
        axes.plot(ends, ends, color=style.BLACK, linewidth=1, linestyle="--")
        axes.set(xlabel="true distance (L2)", title=f"{mode} codebooks", xlim=ends, ylim=ends)
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
    for (mode, share), (color, _) in zip(found.items(), MODE_STYLE, strict=False):
        axes.plot(place, share, color=color, label=f"{mode} codebooks")
    style.log_axis(axes.xaxis, "first places in the order of the estimates")
    style.percent(axes.yaxis)
    axes.set(ylim=(0, 1.04), title="Where the true neighbours stand")
    axes.set_ylabel("true neighbours among them")
    figure.legend(loc="outside right center")
    return figure


def multilevel(points: pd.DataFrame, k: int) -> Figure:
    """Draw recall against counted work of the multi-level search.

    Parameters
    ----------
    points : "codebooks", "probing", "nprobe", "recall", "distance_computations"
    k : of recall@k
    """
    modes = pd.unique(points.codebooks)
    looks = {probing: style.look(i) for i, probing in enumerate(pd.unique(points.probing))}
    figure, (panels,) = style.new(1, len(modes), 3.4, sharex=True, sharey=True)
    for axes, mode in zip(panels, modes, strict=True):
        own = points[points.codebooks == mode]
        style.lines(axes, own, "probing", "distance_computations", "recall", looks.__getitem__)
        style.log_axis(axes.xaxis, "distance computations of a query")
        axes.set_title(f"{mode} codebooks")
    low, high = panels[0].get_xlim()
    # A whole power of ten on the left only: numbers at both ends would touch between the panels.
    panels[0].set_xlim(10 ** np.floor(np.log10(low)), high)
    panels[0].set_ylabel(f"recall@{k}")
    style.legend_of(panels[0], ncols=5)
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
    again = points[points.rerank_factor > 0]
    for (mode, rows), (color, marker) in zip(
        points.groupby("codebooks", sort=False), MODE_STYLE, strict=False
    ):
        its = again[again.codebooks == mode]
        axes.plot(k * its.rerank_factor, its.recall, color=color, marker=marker, label=mode)
        estimate = rows[rows.rerank_factor == 0].recall.item()
        axes.axhline(estimate, color=color, linestyle=":", label=f"{mode}, estimates only")
    axes.axhline(limit, color=style.GREY, linestyle="--", label="perfect codes, same lists")
    style.log_axis(axes.xaxis, "candidates compared exactly", at=k * again.rerank_factor)
    axes.set(ylim=(None, 1.03), ylabel=f"recall@{k}", title="Re-ranking")
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
    stages = {
        "recall": (style.BLUE, f"found: recall@{k}"),
        "quantization": (style.YELLOW, "ranked out by the codes"),
        "routing": (style.ORANGE, "in no probed list"),
    }
    colors, names = zip(*stages.values(), strict=True)
    for axes, (method, table) in zip(panels, splits.items(), strict=True):
        x, shares = table.nprobe.to_numpy(np.float64), table[list(stages)].to_numpy().T
        if len(x) == 1:  # a single number of lists would have no width
            x, shares = x * [0.8, 1.25], np.repeat(shares, 2, axis=1)
        axes.stackplot(x, shares, colors=colors, labels=names, alpha=0.9)
        style.log_axis(axes.xaxis, "nprobe, lists probed", at=table.nprobe)
        axes.set(xlim=(x[0], x[-1]), ylim=(0, 1), title=method)
        style.percent(axes.yaxis)
        axes.grid(visible=False)
    panels[0].set_ylabel("true neighbours")
    style.legend_of(panels[0], ncols=3)
    return figure
