"""Figures of notebook 03: product codes, what they keep, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
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
        tints = [CELL_TINTS[i % len(CELL_TINTS)] for i in range(len(cells))]
        seen = [cell for cell in cells if len(cell) > 2]
        looks: dict[str, Any] = {"edgecolors": "#5A87AC", "linewidths": 0.6}
        axes.add_collection(PolyCollection(seen, facecolors=tints, **looks))
        axes.plot(*inside.T, ".", color="#444444", ms=1.8, mew=0, alpha=0.45, rasterized=True)
        axes.plot(*np.asarray(centroids).T, "o", color=style.ORANGE, markersize=2.6)
        axes.grid(False)
        axes.set(title=title, xlabel=f"1st principal direction\n{text}")
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
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
    place, width = np.arange(d + 1), d // m
    axes.stairs(residual, place, color=style.GREY, linewidth=0.9, label="residual")
    axes.stairs(decoded, place, color=style.BLUE, linewidth=1.3, label="what its code stands for")
    values = np.concatenate([residual, decoded])
    low, high, room = float(values.min()), float(values.max()), float(np.ptp(values))
    for j, number in enumerate(numbers):
        if j:
            axes.axvline(j * width, color=style.ORANGE, linewidth=0.8)
        words = {"ha": "center", "color": style.ORANGE, "weight": "bold", "size": 8}
        axes.text((j + 0.5) * width, high + 0.05 * room, str(number), **words)
    axes.grid(False)
    axes.set(xlim=(0, d), ylim=(low - 0.22 * room, high + 0.16 * room))
    axes.set(xlabel="dimension", ylabel="value")
    axes.set_title(f"One residual, cut into {m} pieces; in orange, its code")
    axes.legend(loc="lower left", ncols=2)
    return figure


# Error -------------------------------------------------------------------------------------


def _lost_axis(axes: Axes, low: float, high: float) -> None:
    """Make y logarithmic in percent, with plain numbers from ``low`` to ``high`` at least."""
    axes.set(yscale="log", ylabel="variance lost (%)")
    steps = np.outer(10.0 ** np.arange(-4, 4), [1, 2, 5]).ravel()
    axes.set_ylim(max(steps[steps <= low], default=low), min(steps[steps >= high], default=high))
    style.ticks_at(axes.yaxis, steps, "{x:g}")


def error_by_bytes(errors: pd.DataFrame, centroid_only: float) -> Figure:
    """Draw the error of codes against their size, and how it differs between vectors.

    Parameters
    ----------
    errors : columns "bytes", "coded" ("residual" or "vector"), "vectors" ("trained",
        "held out" or "queries") and "lost", the share of the variance that is lost
    centroid_only : share lost when a vector is replaced by its centroid, of held-out vectors
    """
    figure, ((left, right),) = style.new(1, 2, 3.0, width_ratios=[1.25, 1])
    table = errors.pivot(index="bytes", columns=["coded", "vectors"], values="lost")
    held = table.xs("held out", axis=1, level="vectors")
    for coded, color, marker, label in (
        ("vector", style.YELLOW, "s", "code of the vector itself"),
        ("residual", style.BLUE, "o", "centroid + code of the residual"),
    ):
        left.plot(100 * held[coded], marker=marker, color=color, label=label)
    label = "centroid only, no code"
    left.axhline(100 * centroid_only, color=style.GREY, linestyle="--", label=label)
    _lost_axis(left, 100 * float(held.min().min()), 110 * max(centroid_only, held.max().max()))
    left.set_title("Error on held-out vectors")
    left.legend(loc="lower left")
    # The lines fall to the right: the legend has its place below them on the left.
    low, high = left.get_ylim()
    left.set_ylim(low / (high / low) ** 0.35, high)

    ratios = table["residual"].div(table["residual", "trained"], axis=0)
    for name, color, marker in (("held out", style.BLUE, "o"), ("queries", style.PINK, "D")):
        right.plot(ratios[name], marker=marker, color=color, label=name)
    right.axhline(1, color=style.GREY, linestyle="--", label="trained")
    bottom, top = float(ratios.min().min()), float(ratios.max().max())
    right.set_ylim(min(0.9, bottom - 0.05), max(1.1, top + 0.35 * (top - bottom)))
    right.set(ylabel="error / error on trained vectors", title="Vectors not trained on")
    right.legend(loc="upper left", ncols=2, columnspacing=1.0)
    for axes in (left, right):
        style.log_axis(axes.xaxis, "bytes of the code", at=table.index)
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
    low, end = min(float(v.min()) for v in entropies.values()), len(entropies) - 0.5
    room = nbits - low + 0.25
    bottom, above = low - 0.12 * room, nbits + 0.03 * room
    words = {"color": style.DARK_GREY, "size": 8, "va": "bottom"}
    axes.text(-0.5, above, "bits taken", **words)
    axes.text(end, above, "dots: sub-quantizers; bars: their mean", ha="right", **words)
    axes.set_xticks(range(len(entropies)), [f"m = {m}" for m in entropies])
    axes.grid(False, axis="x")
    axes.set(ylabel="entropy (bits)", xlabel="sub-quantizers of the code")
    axes.set_title("Information in a sub-code, against the bits it takes")
    axes.set(ylim=(bottom, nbits + 0.25 * room), xlim=(-0.55, end + 0.05))
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
        label = "codebooks of one cluster, on its own residuals"
        looks = {"marker": "o", "color": style.ORANGE, "alpha": 0.55, "ms": 4, "mew": 0}
        many = len(clusters) > 500
        points = clusters["trained_on"], clusters["ratio"]
        axes.plot(*points, linestyle="", label=label, rasterized=many, **looks)
    label = "codebooks for residuals of all clusters"
    axes.plot(pooled["trained_on"], pooled["ratio"], marker="s", color=style.BLUE, label=label)
    axes.axhline(1, color=style.GREY, linestyle="--", label="no difference")
    top = float(max([1.0, *pooled["ratio"], *clusters["ratio"]]))
    steps = np.outer(10.0 ** np.arange(7), [1, 3]).ravel()
    style.log_axis(axes.xaxis, "residuals trained on", at=steps)
    style.log_axis(axes.yaxis, "error held out / trained", at=[*steps, 2])
    axes.set_ylim(0.8, max(2.2, top * 1.8))
    axes.set_title(f"Codebooks of {ksub} centroids memorize when trained on few residuals")
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
    looks = {"shared": (style.BLUE, "o"), "per-cluster": (style.ORANGE, "D")}
    lines = {"trained": "-", "held out": ":"}
    for (mode, kind), rows in errors.sort_values("bytes").groupby(["codebooks", "vectors"]):
        color, marker = looks[mode]
        its = {"color": color, "marker": marker, "linestyle": lines[kind]}
        its["markerfacecolor"] = color if kind == "trained" else "white"
        left.plot(rows["bytes"], 100 * rows["lost"], label=f"{mode}, {kind}", **its)
        right.plot(rows["total"], 100 * rows["lost"], **its)
    _lost_axis(left, 100 * float(errors["lost"].min()), 120 * float(errors["lost"].max()))
    left.set_title("Equal code size")
    style.log_axis(left.xaxis, "bytes of the code", at=errors["bytes"])
    style.log_axis(right.xaxis, "bytes per vector, code + codebooks")
    right.set_title("The same, codebooks counted")
    for label, size in raw.items():
        right.axvline(size, color=style.GREY, linestyle="--", linewidth=1)
        place = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "top", "rotation": 90}
        style.note(right, label, (size, 1), (-3, -3), fontsize=7.5, **place)
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
    first, last = float(costs["n"].iloc[0]), float(costs["n"].iloc[-1])
    for column, color in (("per-cluster", style.ORANGE), ("shared", style.BLUE)):
        axes.plot(costs["n"], costs[column], color=color)
        end = float(costs[column].iloc[-1])
        style.label_line_end(axes, last, end, f"{column} codebooks", color)
    end = float(costs["per-cluster"].iloc[-1])
    for label, size in {**raw, f"code, {code_bytes} bytes": float(code_bytes)}.items():
        axes.axhline(size, color=style.GREY, linestyle="--", linewidth=1)
        # The code is the smallest: its label may go below its line, away from a falling line
        # or another label. The white ground keeps all legible where a line passes nevertheless.
        above = label in raw or (end < size and all(other > 6 * size for other in raw.values()))
        offset, place = ((-4, 2), "bottom") if above else ((-4, -3), "top")
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        style.note(axes, label, (last, size), offset, ha="right", va=place, bbox=ground)
    axes.axvline(n, color=style.GREEN, linestyle=":")
    words = {"xycoords": ("data", "axes fraction"), "color": style.GREEN}
    style.note(axes, f"this base, {n:,}", (n, 0), (4, 4), **words)
    style.log_axis(axes.xaxis, "base vectors")
    style.log_axis(axes.yaxis, "bytes per vector")
    axes.set_xlim(first, last)
    axes.set_title("What codebooks weigh, with as many lists as the base asks for")
    axes.xaxis.set_major_formatter(_large_number)
    return figure
