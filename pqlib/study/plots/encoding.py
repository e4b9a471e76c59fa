"""Figures of notebook 03: product codes, what they keep, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)
from numpy.typing import NDArray

from pqlib.study.plots import style

Points = NDArray[np.floating]

CELL_TINTS = ("#EAF2F8", "#DCE9F3", "#F3F7FB", "#CFE0EE")


# The product grid --------------------------------------------------------------------------


def voronoi_cells(centroids: Points, low: Points, high: Points) -> list[Points]:
    """Return the polygon of the points of a box that are nearest to each centroid.

    Parameters
    ----------
    centroids : (k, 2)
    low, high : (2,), opposite corners of the box

    Returns
    -------
    k arrays (corners, 2). Of equal centroids all get the same cell; a cell that lies outside
    the box is (0, 2).
    """
    box = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    diagonal = float(np.linalg.norm(np.subtract(high, low)))
    cells: list[Points] = []
    for centre in np.asarray(centroids, np.float64):
        cell: Points = box.astype(np.float64)
        for other in np.asarray(centroids, np.float64):
            normal = other - centre
            if len(cell) == 0 or not normal.any():
                continue
            # Keep the side of the bisector that is nearer to the centre.
            side = (cell - (centre + other) / 2) @ normal
            # Where four cells of a grid meet, bisectors pass through a corner; rounding must
            # not decide whether they cut it off.
            side[np.abs(side) < 1e-9 * np.linalg.norm(normal) * diagonal] = 0
            cell = _clip(cell, side)
        cells.append(cell)
    return cells


def _clip(polygon: Points, side: Points) -> Points:
    """Return the part of a convex polygon where ``side`` (one number a corner) is <= 0."""
    following, side_after = np.roll(polygon, -1, axis=0), np.roll(side, -1)
    corners = []
    for a, b, s, t in zip(polygon, following, side, side_after, strict=True):
        if s <= 0:
            corners.append(a)
        if (s < 0 < t) or (t < 0 < s):
            corners.append(a + (b - a) * (s / (s - t)))
    return np.array(corners).reshape(-1, 2)


def product_grid(
    points: Points, codebooks: Mapping[str, tuple[Points, str]], low: Points, high: Points
) -> Figure:
    """Draw the cells of several codebooks over the same 2-d points.

    Parameters
    ----------
    points : (n, 2)
    codebooks : for each title the centroids (k, 2) and a text that goes below
    low, high : (2,), corners of what is shown
    """
    figure, (panels,) = style.new(1, len(codebooks), 3.05, sharex=True, sharey=True)
    inside = points[((points >= low) & (points <= high)).all(axis=1)]
    for axes, (title, (centroids, text)) in zip(panels, codebooks.items(), strict=True):
        cells = voronoi_cells(centroids, low, high)
        axes.add_collection(
            PolyCollection(
                [cell for cell in cells if len(cell) > 2],
                facecolors=[CELL_TINTS[i % len(CELL_TINTS)] for i in range(len(cells))],
                edgecolors="#5A87AC",
                linewidths=0.6,
            )
        )
        axes.plot(*inside.T, ".", color="#444444", ms=1.8, mew=0, alpha=0.45, rasterized=True)
        axes.plot(*np.asarray(centroids).T, "o", color=style.ORANGE, markersize=2.6)
        axes.grid(False)
        axes.set(
            title=title,
            xlabel=f"1st principal direction\n{text}",
            xlim=(low[0], high[0]),
            ylim=(low[1], high[1]),
        )
    panels[0].set_ylabel("2nd principal direction")
    return figure


def code_of_one(
    residual: NDArray[np.floating], decoded: NDArray[np.floating], numbers: Sequence[int]
) -> Figure:
    """Draw a residual, its code, and what the code stands for.

    Parameters
    ----------
    residual, decoded : (d,)
    numbers : (m,), the sub-codes
    """
    d, m = len(residual), len(numbers)
    figure, ((axes,),) = style.new(1, 1, 2.7)
    place = np.arange(d + 1)
    axes.stairs(residual, place, color=style.GREY, linewidth=0.9, label="residual")
    axes.stairs(decoded, place, color=style.BLUE, linewidth=1.3, label="what its code stands for")
    low = float(min(residual.min(), decoded.min()))
    high = float(max(residual.max(), decoded.max()))
    room = high - low
    width = d // m
    for j, number in enumerate(numbers):
        if j:
            axes.axvline(j * width, color=style.ORANGE, linewidth=0.8)
        axes.text(
            (j + 0.5) * width,
            high + 0.05 * room,
            str(number),
            ha="center",
            color=style.ORANGE,
            weight="bold",
            size=8,
        )
    axes.grid(False)
    axes.set(
        xlim=(0, d),
        ylim=(low - 0.22 * room, high + 0.16 * room),
        xlabel="dimension",
        ylabel="value",
        title=f"One residual, cut into {m} pieces; in orange, its code",
    )
    axes.legend(loc="lower left", ncols=2)
    return figure


# Error -------------------------------------------------------------------------------------


def _byte_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make x logarithmic with a label at each of ``values`` and nowhere else."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(values))))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _percent_axis(axes: Axes, low: float, high: float) -> None:
    """Make y logarithmic in percent, with plain numbers from ``low`` to ``high`` at least."""
    axes.set_yscale("log")
    steps = np.outer(10.0 ** np.arange(-4, 4), [1, 2, 5]).ravel()
    axes.set_ylim(max(steps[steps <= low], default=low), min(steps[steps >= high], default=high))
    axes.yaxis.set_major_locator(FixedLocator(steps.tolist()))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())


def error_by_bytes(errors: pd.DataFrame, centroid_only: float) -> Figure:
    """Draw the error of codes against their size, and how it differs between vectors.

    Parameters
    ----------
    errors : columns "bytes", "coded" ("residual" or "vector"), "vectors" ("trained",
        "held out" or "queries") and "lost", the share of the variance that is lost
    centroid_only : share lost when a vector is replaced by its centroid, of held-out vectors
    """
    figure, ((left, right),) = style.new(1, 2, 3.0, width_ratios=[1.25, 1])
    sizes = sorted(set(errors["bytes"]))
    held = errors[errors["vectors"] == "held out"]
    for coded, color, marker, label in (
        ("vector", style.YELLOW, "s", "code of the vector itself"),
        ("residual", style.BLUE, "o", "centroid + code of the residual"),
    ):
        rows = held[held["coded"] == coded].sort_values("bytes")
        left.plot(rows["bytes"], 100 * rows["lost"], marker=marker, color=color, label=label)
    left.axhline(
        100 * centroid_only, color=style.GREY, linestyle="--", label="centroid only, no code"
    )
    _percent_axis(
        left, 100 * float(held["lost"].min()), 110 * max(centroid_only, float(held["lost"].max()))
    )
    left.set(
        xlabel="bytes of the code",
        ylabel="variance lost (%)",
        title="Error on held-out vectors",
    )
    left.legend(loc="lower left")
    # The lines fall to the right: the legend has its place below them on the left.
    low, high = left.get_ylim()
    left.set_ylim(low / (high / low) ** 0.35, high)
    _byte_axis(left, sizes)

    table = errors[errors["coded"] == "residual"].pivot(
        index="bytes", columns="vectors", values="lost"
    )
    ratios = table.div(table["trained"], axis=0)
    for name, color, marker in (
        ("held out", style.BLUE, "o"),
        ("queries", style.PINK, "D"),
    ):
        if name in ratios:
            right.plot(ratios.index, ratios[name], marker=marker, color=color, label=name)
    right.axhline(1, color=style.GREY, linestyle="--", label="trained")
    top = float(ratios.max().max())
    bottom = float(ratios.min().min())
    right.set_ylim(min(0.9, bottom - 0.05), max(1.1, top + 0.35 * (top - bottom)))
    right.set(
        xlabel="bytes of the code",
        ylabel="error / error on trained vectors",
        title="Vectors not trained on",
    )
    right.legend(loc="upper left", ncols=2, columnspacing=1.0)
    _byte_axis(right, sizes)
    return figure


def codebook_use(entropies: Mapping[int, NDArray[np.floating]], nbits: int) -> Figure:
    """Draw how evenly the centroids of each codebook are used.

    Parameters
    ----------
    entropies : for each number of sub-quantizers m, the entropy in bits of each, (m,)
    nbits : bits that each takes
    """
    figure, ((axes,),) = style.new(1, 1, 2.3)
    for place, values in enumerate(entropies.values()):
        # Side by side in the order of the sub-spaces, so that none hides another.
        spread = (np.arange(len(values)) - (len(values) - 1) / 2) * min(0.08, 0.7 / len(values))
        axes.plot(place + spread, values, "o", color=style.BLUE, alpha=0.8, markersize=4)
        axes.plot([place - 0.4, place + 0.4], [values.mean()] * 2, color=style.ORANGE)
    axes.axhline(nbits, color=style.GREY, linestyle="--")
    low = min(float(v.min()) for v in entropies.values())
    room = nbits - low + 0.25
    axes.text(-0.5, nbits + 0.03 * room, "bits taken", color="#595959", size=8, va="bottom")
    axes.text(
        len(entropies) - 0.5,
        nbits + 0.03 * room,
        "dots: sub-quantizers; bars: their mean",
        color="#595959",
        size=8,
        va="bottom",
        ha="right",
    )
    axes.set_xticks(range(len(entropies)), [f"m = {m}" for m in entropies])
    axes.grid(False, axis="x")
    axes.set(
        ylabel="entropy (bits)",
        xlabel="sub-quantizers of the code",
        title="Information in a sub-code, against the bits it takes",
        ylim=(low - 0.12 * room, nbits + 0.25 * room),
        xlim=(-0.55, len(entropies) - 0.45),
    )
    bottom = axes.get_ylim()[0]
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= nbits])
    return figure


def overfitting(clusters: pd.DataFrame, pooled: pd.DataFrame, ksub: int) -> Figure:
    """Draw what a codebook loses on vectors that it was not trained on.

    Parameters
    ----------
    clusters : a row for each inner cluster with its own codebooks: "trained_on" (residuals)
        and "ratio" (error on held-out over error on trained)
    pooled : the same of codebooks trained on so many residuals of all clusters together
    ksub : centroids of a codebook
    """
    figure, ((axes,),) = style.new(1, 1, 2.9)
    if len(clusters):
        axes.plot(
            clusters["trained_on"],
            clusters["ratio"],
            "o",
            color=style.ORANGE,
            alpha=0.55,
            markersize=4,
            markeredgewidth=0,
            label="codebooks of one cluster, on its own residuals",
            rasterized=len(clusters) > 500,
        )
    axes.plot(
        pooled["trained_on"],
        pooled["ratio"],
        marker="s",
        color=style.BLUE,
        label="codebooks for residuals of all clusters",
    )
    axes.axhline(1, color=style.GREY, linestyle="--", label="no difference")
    top = float(max(pooled["ratio"].max(), clusters["ratio"].max() if len(clusters) else 1))
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(0.8, max(2.2, top * 1.8)),
        xlabel="residuals trained on",
        ylabel="error held out / trained",
        title=f"Codebooks of {ksub} centroids memorize when trained on few residuals",
    )
    steps = np.outer(10.0 ** np.arange(7), [1, 3]).ravel()
    for axis, ticks in ((axes.xaxis, steps), (axes.yaxis, np.append(steps, 2))):
        axis.set_major_locator(FixedLocator(ticks.tolist()))
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_locator(NullLocator())
    axes.legend(loc="upper right")
    return figure


# Codebooks and their cost ------------------------------------------------------------------


def shared_or_local(errors: pd.DataFrame, raw: Mapping[str, float]) -> Figure:
    """Draw shared against per-cluster codebooks at equal code size and at equal memory.

    Parameters
    ----------
    errors : columns "codebooks" ("shared", "per-cluster"), "vectors" ("trained", "held out"),
        "bytes" (of a code), "total" (with the codebooks, per vector) and "lost" (share of the
        variance)
    raw : bytes per vector of the uncompressed vectors, by label
    """
    figure, ((left, right),) = style.new(1, 2, 3.3, sharey=True)
    looks = {
        "shared": (style.BLUE, "o"),
        "per-cluster": (style.ORANGE, "D"),
    }
    for codebooks, (color, marker) in looks.items():
        for vectors, line, fill in (("trained", "-", color), ("held out", ":", "white")):
            rows = errors[(errors["codebooks"] == codebooks) & (errors["vectors"] == vectors)]
            rows = rows.sort_values("bytes")
            for axes, column in ((left, "bytes"), (right, "total")):
                axes.plot(
                    rows[column],
                    100 * rows["lost"],
                    marker=marker,
                    linestyle=line,
                    color=color,
                    markerfacecolor=fill,
                    label=f"{codebooks}, {vectors}" if axes is left else None,
                )
    _percent_axis(left, 100 * float(errors["lost"].min()), 120 * float(errors["lost"].max()))
    left.set(xlabel="bytes of the code", ylabel="variance lost (%)", title="Equal code size")
    right.set(
        xscale="log",
        xlabel="bytes per vector, code + codebooks",
        title="The same, codebooks counted",
    )
    right.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    right.xaxis.set_minor_formatter(NullFormatter())
    _byte_axis(left, list(errors["bytes"]))
    for label, size in raw.items():
        right.axvline(size, color=style.GREY, linestyle="--", linewidth=1)
        right.annotate(
            label,
            (size, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-3, -3),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="top",
            size=7.5,
            color="#595959",
        )
    low, high = right.get_xlim()
    right.set_xlim(10 ** np.floor(np.log10(low)), max(high, 1.2 * max(raw.values())))
    figure.legend(loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


def _large_number(value: float, _: int) -> str:
    for unit, name in ((1e9, " billion"), (1e6, " million")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:,.0f}"


def codebook_bytes(
    costs: pd.DataFrame, n: int, code_bytes: int, raw: Mapping[str, float]
) -> Figure:
    """Draw what codebooks weigh per vector as the base grows.

    Parameters
    ----------
    costs : columns "n" (base vectors), "shared" and "per-cluster" (bytes per vector)
    n : base vectors of this data set
    code_bytes : bytes of a code
    raw : bytes per vector of the uncompressed vectors, by label
    """
    figure, ((axes,),) = style.new(1, 1, 3.0)
    for column, color in (("per-cluster", style.ORANGE), ("shared", style.BLUE)):
        axes.plot(costs["n"], costs[column], color=color)
        style.label_line_end(
            axes,
            float(costs["n"].iloc[-1]),
            float(costs[column].iloc[-1]),
            f"{column} codebooks",
            color,
        )
    left = float(costs["n"].iloc[0])
    end = float(costs["per-cluster"].iloc[-1])
    for label, size in {**raw, f"code, {code_bytes} bytes": float(code_bytes)}.items():
        axes.axhline(size, color=style.GREY, linestyle="--", linewidth=1)
        # The code is the smallest: its label may go below its line, away from a falling line
        # or another label. The white ground keeps all legible where a line passes nevertheless.
        above = label in raw or (end < size and all(other > 6 * size for other in raw.values()))
        axes.annotate(
            label,
            (float(costs["n"].iloc[-1]), size),
            xytext=(-4, 2 if above else -3),
            textcoords="offset points",
            ha="right",
            va="bottom" if above else "top",
            size=8,
            color="#595959",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    axes.axvline(n, color=style.GREEN, linestyle=":")
    axes.annotate(
        f"this base, {n:,}",
        (n, 0),
        xycoords=("data", "axes fraction"),
        xytext=(4, 4),
        textcoords="offset points",
        color=style.GREEN,
        size=8,
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(left, float(costs["n"].iloc[-1])),
        xlabel="base vectors",
        ylabel="bytes per vector",
        title="What codebooks weigh, with as many lists as the base asks for",
    )
    axes.xaxis.set_major_formatter(FuncFormatter(_large_number))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    return figure
