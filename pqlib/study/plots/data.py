"""Figures of notebook 01: what the vectors look like and how they lie to each other.

Vectors are drawn as what they are: images as images, SIFT descriptors as 4 x 4 cells with 8
gradient orientations each (Lowe, "Distinctive image features from scale-invariant keypoints",
IJCV 2004, section 6), and all others as strips of coloured values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from pqlib.study.plots import style

FloatMatrix = NDArray[np.float32]

SIFT_DIMENSION = 128
SIFT_CELLS = 4
SIFT_ORIENTATIONS = 8

NEAREST, HUNDREDTH, RANDOM = style.BLUE, style.GREEN, style.GREY
SET_COLORS = (style.BLUE, style.GREEN, style.ORANGE)


@dataclass(frozen=True)
class Picture:
    """How a vector is drawn.

    Attributes
    ----------
    kind : "image", "sift" or "strip"
    shape : rows and columns of an image
    low, high : values drawn as the two ends of the scale
    """

    kind: str
    shape: tuple[int, int] | None
    low: float
    high: float


def picture_of(x: FloatMatrix, whole_numbers: bool, image_shape: tuple[int, int] | None) -> Picture:
    """Choose how vectors like ``x`` (n, d) are drawn, with one scale for all of them."""
    if image_shape is not None:
        return Picture("image", (int(image_shape[0]), int(image_shape[1])), 0.0, float(x.max()))
    if x.shape[1] == SIFT_DIMENSION and whole_numbers and x.min() >= 0:
        # Few values are very large; a scale made for them would draw the others as dots.
        return Picture("sift", None, 0.0, float(np.quantile(x, 0.99)))
    return Picture("strip", None, float(np.quantile(x, 0.01)), float(np.quantile(x, 0.99)))


# Drawing vectors ---------------------------------------------------------------------------


def draw_vector(
    axes: Axes, x: NDArray[np.floating], box: tuple[float, float, float, float], picture: Picture
) -> None:
    """Draw the vector ``x`` (d,) into ``box`` (left, bottom, width, height) of ``axes``."""
    left, bottom, width, height = box
    if picture.kind == "sift":
        frame, rays = _sift_paths(x, picture.high)
        place = np.array([left, bottom]), np.array([width, height])
        for path, color, thick in ((frame, "#D9D9D9", 0.5), (rays, style.BLUE, 0.8)):
            moved = Path(path.vertices * place[1] + place[0], path.codes)
            axes.add_patch(PathPatch(moved, edgecolor=color, facecolor="none", linewidth=thick))
        return
    image = picture.kind == "image"
    axes.imshow(
        np.reshape(x, picture.shape if picture.shape is not None else (1, -1)),
        cmap="gray_r" if image else "cividis",
        vmin=picture.low,
        vmax=picture.high,
        extent=(left, left + width, bottom, bottom + height),
        aspect="auto",
        # A strip may have more values than the page has pixels.
        interpolation="nearest" if image else "antialiased",
    )


def _sift_paths(x: NDArray[np.floating], high: float) -> tuple[Path, Path]:
    """Return the cells' frame and the rays of a SIFT descriptor in the unit square.

    Value [row, column, o] is the ray of cell (row, column), row 0 on top, that points at
    o * 45 degrees; its length is the value, up to half a cell at ``high``.
    """
    ticks = np.arange(SIFT_CELLS + 1) / SIFT_CELLS
    ends = [((t, 0.0), (t, 1.0)) for t in ticks] + [((0.0, t), (1.0, t)) for t in ticks]
    frame = _segments(np.array(ends))
    middle = (np.arange(SIFT_CELLS) + 0.5) / SIFT_CELLS
    centre = np.stack(np.meshgrid(middle, 1 - middle), axis=-1)[:, :, None, :]
    angle = np.arange(SIFT_ORIENTATIONS) * 2 * np.pi / SIFT_ORIENTATIONS
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    values = np.clip(np.reshape(x, (SIFT_CELLS, SIFT_CELLS, SIFT_ORIENTATIONS)) / high, 0, 1)
    tips = centre + direction * values[..., None] * 0.5 / SIFT_CELLS
    both = np.stack([np.broadcast_to(centre, tips.shape), tips], axis=-2)
    return frame, _segments(both[values > 0.02])


def _segments(ends: NDArray[np.floating]) -> Path:
    """Return one path of separate lines: ``ends`` (n, 2, 2) are their two (x, y) points."""
    codes = np.tile(np.array([Path.MOVETO, Path.LINETO], Path.code_type), len(ends))
    return Path(ends.reshape(-1, 2), codes)


def picture_table(
    vectors: FloatMatrix,
    captions: Sequence[Sequence[str]],
    columns: Sequence[str],
    title: str,
    picture: Picture,
    rows: Sequence[str] | None = None,
) -> Figure:
    """Draw a table of vectors with a caption under each.

    Parameters
    ----------
    vectors : (rows, columns, d)
    captions : a text for each vector
    columns : what the columns are
    title : what is seen
    picture : how to draw them; strips of values are laid one below the other instead, since
        beside each other they would be too narrow to compare
    rows : what the rows are
    """
    n_rows, n_columns = vectors.shape[:2]
    names = [""] * n_rows if rows is None else list(rows)
    if picture.kind == "strip":
        return _strip_table(vectors, captions, columns, names, title, picture)
    pitch, gap = 1.36, 0.1
    left = 0.55 if any(names) else 0.0
    span = left + n_columns * (1 + gap)
    inches = style.WIDTH / span
    figure, ((axes,),) = style.new(1, 1, 0.3 + (n_rows * pitch + 0.16) * inches)
    size = min(8.0, 11 * inches)
    for r in range(n_rows):
        bottom = (n_rows - 1 - r) * pitch
        if names[r]:
            axes.text(left - 0.08, bottom + 0.5, names[r], ha="right", va="center", size=size)
        for c in range(n_columns):
            at = left + c * (1 + gap)
            draw_vector(axes, vectors[r, c], (at, bottom, 1, 1), picture)
            axes.text(
                at + 0.5,
                bottom - 0.05,
                captions[r][c],
                ha="center",
                va="top",
                size=size,
                color="#333333",
            )
    for c, name in enumerate(columns):
        axes.text(
            left + c * (1 + gap) + 0.5,
            (n_rows - 1) * pitch + 1.05,
            name,
            ha="center",
            va="bottom",
            size=size,
            weight="bold",
        )
    axes.set(
        xlim=(-0.02, span - gap + 0.02), ylim=(-0.26, (n_rows - 1) * pitch + 1.26), title=title
    )
    axes.set_aspect("equal")
    axes.axis("off")
    return figure


def _strip_table(
    vectors: FloatMatrix,
    captions: Sequence[Sequence[str]],
    columns: Sequence[str],
    rows: Sequence[str],
    title: str,
    picture: Picture,
) -> Figure:
    n_rows, n_columns = vectors.shape[:2]
    block = n_columns + (1.6 if any(rows) else 0.6)
    total = n_rows * block
    figure, ((axes,),) = style.new(1, 1, 0.4 + 0.16 * total)
    for r in range(n_rows):
        top = total - r * block
        if rows[r]:
            axes.text(0, top - 0.5, rows[r], va="center", size=7.5, weight="bold")
            top -= 1
        for c in range(n_columns):
            bottom = top - c - 1
            draw_vector(axes, vectors[r, c], (0, bottom + 0.06, 1, 0.88), picture)
            axes.text(-0.01, bottom + 0.5, columns[c], ha="right", va="center", size=7)
            axes.text(1.01, bottom + 0.5, captions[r][c], va="center", size=7)
    # Room left and right for the longest texts, at about 0.009 of the width a letter.
    right = max(len(text) for line in captions for text in line)
    longest = max(map(len, columns))
    axes.set(xlim=(-0.03 - 0.011 * longest, 1.03 + 0.011 * right), ylim=(0, total), title=title)
    axes.axis("off")
    return figure


def samples(x: FloatMatrix, title: str, picture: Picture) -> Figure:
    """Draw the vectors ``x`` (n, d), n about 24, as what they are."""
    if picture.kind == "strip":
        figure, ((axes,),) = style.new(1, 1, 3.2)
        shown = axes.imshow(
            x,
            aspect="auto",
            cmap="cividis",
            vmin=picture.low,
            vmax=picture.high,
            interpolation="antialiased",
        )
        axes.grid(False)
        axes.set(xlabel="dimension", ylabel="vector", title=title)
        figure.colorbar(shown, ax=axes, label="value", pad=0.02)
        return figure
    columns = 8
    rows = math.ceil(len(x) / columns)
    pitch = 1.1
    figure, ((axes,),) = style.new(1, 1, 0.24 + rows * style.WIDTH / columns)
    for i, vector in enumerate(x):
        r, c = divmod(i, columns)
        draw_vector(axes, vector, (c * pitch, (rows - 1 - r) * pitch, 1, 1), picture)
    axes.set(xlim=(-0.02, columns * pitch - 0.08), ylim=(-0.02, rows * pitch - 0.08), title=title)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure


# Distributions -----------------------------------------------------------------------------


def spread(
    mean: NDArray[np.floating],
    std: NDArray[np.floating],
    variance_share: NDArray[np.floating],
    picture: Picture,
) -> Figure:
    """Draw how the values of each dimension spread, and in how many directions they do.

    Parameters
    ----------
    mean, std : (d,), of each dimension
    variance_share : (d,), share of the variance in the 1st, 2nd, ... principal direction,
        descending
    """
    d = len(mean)
    if picture.kind == "image":
        figure, (panels,) = style.new(1, 3, 2.4, width_ratios=[1, 1, 1.1])
        for axes, values, title in zip(
            panels, (mean, std), ("Mean", "Standard deviation"), strict=False
        ):
            shown = axes.imshow(values.reshape(picture.shape))
            axes.grid(False)
            axes.set(xlabel="pixel column", title=title)
            figure.colorbar(shown, ax=axes, shrink=0.75, pad=0.03)
        panels[0].set_ylabel("pixel row")
        axes = panels[2]
    else:
        figure, ((lines, axes),) = style.new(1, 2, 2.7, width_ratios=[1.6, 1])
        place = np.arange(d)
        thin = 1.2 if d <= 256 else 0.7
        lines.plot(place, mean, color=style.BLUE, linewidth=thin, label="mean")
        lines.plot(place, std, color=style.ORANGE, linewidth=thin, label="standard deviation")
        if picture.kind == "sift":
            lines.set_xticks(np.arange(0, d + 1, SIFT_ORIENTATIONS * 2))
        top = max(mean.max(), std.max())
        bottom = min(0.0, float(mean.min()))
        lines.set(
            xlabel="dimension",
            ylabel="value",
            title="Spread of each dimension",
            xlim=(-1, d),
            ylim=(bottom, top + 0.22 * (top - bottom)),
        )
        lines.legend(loc="upper right", ncols=2)
    cumulated = np.cumsum(variance_share)
    place = np.arange(1, d + 1)
    axes.plot(place, place / d, color=style.GREY, linestyle=":")
    axes.plot(place, cumulated, color=style.BLUE)
    ninety = int(np.searchsorted(cumulated, 0.9)) + 1
    axes.plot([ninety], [cumulated[ninety - 1]], "o", color=style.ORANGE)
    axes.annotate(
        f"90 %: {ninety}",
        (ninety, cumulated[ninety - 1]),
        xytext=(6, -12),
        textcoords="offset points",
        color=style.ORANGE,
        size=8,
    )
    axes.text(0.97 * d, 0.04, "dotted: all alike", color="#595959", size=8, ha="right")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(
        xlabel="principal directions kept",
        ylabel="variance held",
        title="Variance by direction",
        ylim=(0, 1.03),
        xlim=(0, d),
    )
    return figure


def distances(
    nearest: NDArray[np.floating],
    hundredth: NDArray[np.floating],
    random: NDArray[np.floating],
    by_rank: pd.DataFrame,
) -> Figure:
    """Draw distances to near and to random vectors.

    Parameters
    ----------
    nearest, hundredth : (nq,), distance of each query to its 1st and its last listed neighbour
    random : any shape, distances of queries to random base vectors
    by_rank : columns "rank", "low", "median", "high": the distance to the neighbour of that
        rank, over queries (10th, 50th and 90th percentile)
    """
    figure, ((left, right),) = style.new(1, 2, 2.9, width_ratios=[1.25, 1])
    last = int(by_rank["rank"].max())
    top = max(float(np.quantile(random, 0.9995)), float(hundredth.max()))
    bins = np.linspace(0, top, 61)
    for values, label, color in (
        (nearest, "nearest neighbour", NEAREST),
        (hundredth, f"neighbour {last}", HUNDREDTH),
        (random, "random vectors", RANDOM),
    ):
        height, _ = np.histogram(values, bins)
        percent = 100 * height / height.sum()
        left.stairs(percent, bins, color=color, fill=True, alpha=0.25)
        left.stairs(percent, bins, color=color, linewidth=1.4, label=label)
    # Headroom for the legend above the highest bar.
    left.set_ylim(0, left.get_ylim()[1] * 1.32)
    left.set(
        xlabel="distance (L2)",
        ylabel="share of distances (%)",
        title="Distances from a query to the base",
        xlim=(0, top),
    )
    left.legend(loc="upper left", ncols=2, columnspacing=1.0)
    right.fill_between(
        by_rank["rank"], by_rank["low"], by_rank["high"], color=style.BLUE, alpha=0.2, lw=0
    )
    right.plot(by_rank["rank"], by_rank["median"], color=style.BLUE)
    typical = float(np.median(random))
    right.axhline(typical, color=RANDOM, linestyle="--")
    right.annotate(
        "median random vector",
        (1, typical),
        xytext=(2, 4),
        textcoords="offset points",
        color="#595959",
        size=8,
    )
    ranks = [r for r in (1, 10, 100) if r <= last]
    right.set_xscale("log")
    right.set_xticks(ranks, [str(r) for r in ranks])
    right.minorticks_off()
    right.set(
        xlabel="rank of the neighbour",
        ylabel="distance (L2)",
        title="By rank: median, middle 80 %",
        ylim=(0, max(typical, float(by_rank["high"].max())) * 1.15),
        xlim=(1, last),
    )
    return figure


def structure(
    spreads: Mapping[str, Mapping[str, NDArray[np.floating]]], curves: pd.DataFrame, k: int
) -> Figure:
    """Draw real vectors against made-up ones: their distances, and what inverted lists find.

    Parameters
    ----------
    spreads : for each set "nearest" and "random", distances over the mean random distance
    curves : columns "data", "scanned" (share of the base in the probed lists) and "found"
        (share of the true k neighbours there), ascending
    """
    figure, ((left, right),) = style.new(1, 2, 3.1, width_ratios=[1.1, 1])
    names = list(spreads)
    top = max(float(np.quantile(s["random"], 0.999)) for s in spreads.values())
    bins = np.linspace(0, top, 81)
    for place, name in enumerate(reversed(names)):
        for key, color in (("random", RANDOM), ("nearest", NEAREST)):
            height, _ = np.histogram(spreads[name][key], bins)
            ridge = place + 0.85 * height / height.max()
            left.stairs(ridge, bins, baseline=place, color=color, fill=True, alpha=0.3)
            label = {"random": "random vectors", "nearest": "nearest neighbour"}[key]
            left.stairs(
                ridge,
                bins,
                baseline=place,
                color=color,
                linewidth=1.3,
                label=label if place == 0 else None,
            )
    left.set_yticks(np.arange(len(names)) + 0.1, list(reversed(names)))
    left.tick_params(axis="y", length=0)
    left.grid(False, axis="y")
    left.set(
        xlabel="distance / mean distance to random vectors",
        title="How far is the nearest?",
        xlim=(0, top),
        ylim=(-0.02, len(names) + 0.35),
    )
    left.legend(loc="upper left", ncols=2, columnspacing=1.0, handlelength=1.4)
    right.plot([0, 1], [0, 1], color=style.GREY, linestyle=":", label="lists at random")
    for name, color in zip(names, SET_COLORS, strict=False):
        rows = curves[curves["data"] == name]
        right.plot(
            np.concatenate([[0], rows["scanned"]]),
            np.concatenate([[0], rows["found"]]),
            color=color,
            label=name,
        )
    right.xaxis.set_major_formatter(PercentFormatter(1.0))
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.set(
        xlabel="base vectors in the probed lists",
        ylabel=f"true {k} neighbours there",
        title="What k-means lists find",
        xlim=(0, 1),
        ylim=(0, 1.03),
    )
    right.legend(loc="lower right")
    return figure
