"""Figures of notebook 01: what the vectors look like and how they lie to each other.

Vectors are drawn as what they are: images as images, SIFT descriptors as 4 x 4 cells with 8
gradient orientations each (Lowe, "Distinctive image features from scale-invariant keypoints",
IJCV 2004, section 6), and all others as strips of coloured values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from pqlib._types import FloatMatrix
from pqlib.study.plots import style

Words = Sequence[Sequence[str]]

SIFT_DIMENSION = 128
SIFT_CELLS = 4
SIFT_ORIENTATIONS = 8

NEAREST, HUNDREDTH, RANDOM = style.BLUE, style.GREEN, style.GREY
SET_COLORS = (style.BLUE, style.GREEN, style.ORANGE)


@dataclass(frozen=True)
class Picture:
    """How a vector is drawn."""

    kind: str  # "image", "sift" or "strip"
    shape: tuple[int, int] | None  # rows and columns of an image
    low: float  # this value and the next are drawn as the two ends of the scale
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
        for path, color, thick in ((frame, "#D9D9D9", 0.5), (rays, style.BLUE, 0.8)):
            corners = np.asarray(path.vertices) * [width, height] + [left, bottom]
            moved = Path(corners, path.codes)
            axes.add_patch(PathPatch(moved, edgecolor=color, facecolor="none", linewidth=thick))
        return
    values = np.reshape(x, (1, -1) if picture.shape is None else picture.shape)
    _show(axes, values, picture, extent=(left, left + width, bottom, bottom + height))


def _show(axes: Axes, values: NDArray[np.floating], picture: Picture, **options: Any) -> AxesImage:
    """Draw ``values`` (rows, columns) as an image or as strips, on the picture's scale."""
    image = picture.kind == "image"
    return axes.imshow(
        values,
        cmap="gray_r" if image else "cividis",
        vmin=picture.low,
        vmax=picture.high,
        aspect="auto",
        # A strip may have more values than the page has pixels.
        interpolation="nearest" if image else "antialiased",
        **options,
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
    captions: Words,
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
    names = [""] * len(vectors) if rows is None else list(rows)
    draw = _strip_table if picture.kind == "strip" else _tile_table
    figure, axes = draw(vectors, captions, columns, names, picture)
    axes.set_title(title)
    axes.axis("off")
    return figure


def compared(columns: Mapping[str, FloatMatrix], title: str, picture: Picture) -> Figure:
    """Draw vectors beside the first of their row, with the distance (L2) to it below each.

    Parameters
    ----------
    columns : by name, vectors (rows, d); the first column is compared with
    title, picture : as for ``picture_table``
    """
    vectors = np.stack(list(columns.values()), axis=1)
    gaps = np.linalg.norm(vectors.astype(np.float64) - vectors[:, :1], axis=2)
    digits = 0 if gaps.max() >= 100 else 3
    captions = [["", *(f"{gap:.{digits}f}" for gap in line[1:])] for line in gaps]
    return picture_table(vectors, captions, list(columns), title, picture)


def _tile_table(
    vectors: FloatMatrix, captions: Words, columns: Sequence[str], rows: Sequence[str],
    picture: Picture,
) -> tuple[Figure, Axes]:  # fmt: skip
    """Draw the vectors as squares: a row beside its name, a column below its own."""
    top, wide = len(rows) - 1, len(columns)
    pitch, step = 1.36, 1.1
    left = 0.55 if any(rows) else 0.0
    span = left + wide * step
    inches = style.WIDTH / span
    size = min(8.0, 11 * inches)
    figure, ((axes,),) = style.new(1, 1, 0.3 + (len(rows) * pitch + 0.16) * inches)
    for r, name in enumerate(rows):
        bottom = (top - r) * pitch
        axes.text(left - 0.08, bottom + 0.5, name, ha="right", va="center", size=size)
        for c, caption in enumerate(captions[r]):
            at = left + c * step
            draw_vector(axes, vectors[r, c], (at, bottom, 1, 1), picture)
            words = {"ha": "center", "va": "top", "size": size, "color": "#333333"}
            axes.text(at + 0.5, bottom - 0.05, caption, **words)
    for c, name in enumerate(columns):
        words = {"ha": "center", "va": "bottom", "size": size, "weight": "bold"}
        axes.text(left + c * step + 0.5, top * pitch + 1.05, name, **words)
    axes.set(xlim=(-0.02, span - 0.08), ylim=(-0.26, top * pitch + 1.26))
    axes.set_aspect("equal")
    return figure, axes


def _strip_table(
    vectors: FloatMatrix, captions: Words, columns: Sequence[str], rows: Sequence[str],
    picture: Picture,
) -> tuple[Figure, Axes]:  # fmt: skip
    """Draw the vectors as strips, one below the other: a block of strips for each row."""
    block = len(columns) + (1.6 if any(rows) else 0.6)
    total = len(rows) * block
    figure, ((axes,),) = style.new(1, 1, 0.4 + 0.16 * total)
    for r, name in enumerate(rows):
        top = total - r * block
        if name:
            axes.text(0, top - 0.5, name, va="center", size=7.5, weight="bold")
            top -= 1
        for c, column in enumerate(columns):
            middle = top - c - 0.5
            draw_vector(axes, vectors[r, c], (0, middle - 0.44, 1, 0.88), picture)
            axes.text(-0.01, middle, column, ha="right", va="center", size=7)
            axes.text(1.01, middle, captions[r][c], va="center", size=7)
    # Room left and right for the longest texts, at about 0.011 of the width a letter.
    right = max(len(text) for line in captions for text in line)
    longest = max(map(len, columns))
    axes.set(xlim=(-0.03 - 0.011 * longest, 1.03 + 0.011 * right), ylim=(0, total))
    return figure, axes


def samples(x: FloatMatrix, title: str, picture: Picture) -> Figure:
    """Draw the vectors ``x`` (n, d), n about 24, as what they are."""
    if picture.kind == "strip":
        figure, ((axes,),) = style.new(1, 1, 3.2)
        shown = _show(axes, x, picture)
        axes.grid(False)
        axes.set(xlabel="dimension", ylabel="vector", title=title)
        figure.colorbar(shown, ax=axes, label="value", pad=0.02)
        return figure
    columns, pitch = 8, 1.1
    rows = -(-len(x) // columns)
    figure, ((axes,),) = style.new(1, 1, 0.24 + rows * style.WIDTH / columns)
    for i, vector in enumerate(x):
        r, c = divmod(i, columns)
        draw_vector(axes, vector, (c * pitch, (rows - 1 - r) * pitch, 1, 1), picture)
    axes.set(xlim=(-0.02, columns * pitch - 0.08), ylim=(-0.02, rows * pitch - 0.08))
    axes.set(aspect="equal", title=title)
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
    if picture.kind == "image":
        figure, (panels,) = style.new(1, 3, 2.4, width_ratios=[1, 1, 1.1])
        named = {"Mean": mean, "Standard deviation": std}
        for axes, (title, values) in zip(panels, named.items(), strict=False):
            shown = axes.imshow(values.reshape(picture.shape))
            axes.grid(False)
            axes.set(xlabel="pixel column", title=title)
            figure.colorbar(shown, ax=axes, shrink=0.75, pad=0.03)
        panels[0].set_ylabel("pixel row")
    else:
        figure, (panels,) = style.new(1, 2, 2.7, width_ratios=[1.6, 1])
        _dimensions(panels[0], mean, std, picture)
    _directions(panels[-1], np.cumsum(variance_share))
    return figure


def _dimensions(
    axes: Axes, mean: NDArray[np.floating], std: NDArray[np.floating], picture: Picture
) -> None:
    """Draw mean and standard deviation (d,) by dimension."""
    d = len(mean)
    thin = 1.2 if d <= 256 else 0.7
    axes.plot(mean, color=style.BLUE, linewidth=thin, label="mean")
    axes.plot(std, color=style.ORANGE, linewidth=thin, label="standard deviation")
    if picture.kind == "sift":
        axes.set_xticks(np.arange(0, d + 1, SIFT_ORIENTATIONS * 2))
    top, bottom = max(mean.max(), std.max()), min(0.0, float(mean.min()))
    axes.set(xlabel="dimension", ylabel="value", title="Spread of each dimension")
    axes.set(xlim=(-1, d), ylim=(bottom, top + 0.22 * (top - bottom)))
    axes.legend(loc="upper right", ncols=2)


def _directions(axes: Axes, held: NDArray[np.floating]) -> None:
    """Draw the variance ``held`` (d,) by the first 1, 2, ... principal directions."""
    d = len(held)
    place = np.arange(1, d + 1)
    axes.plot(place, place / d, color=style.GREY, linestyle=":")
    axes.plot(place, held, color=style.BLUE)
    ninety = int(np.searchsorted(held, 0.9)) + 1
    at = ninety, float(held[ninety - 1])
    axes.plot(*at, "o", color=style.ORANGE)
    style.note(axes, f"90 %: {ninety}", at, (6, -12), color=style.ORANGE)
    axes.text(0.97 * d, 0.04, "dotted: all alike", color=style.DARK_GREY, size=8, ha="right")
    style.percent(axes.yaxis)
    axes.set(xlabel="principal directions kept", ylabel="variance held")
    axes.set(title="Variance by direction", ylim=(0, 1.03), xlim=(0, d))


def _outlined(
    axes: Axes, height: Any, bins: Any, color: str, label: str | None, floor: int = 0
) -> None:
    """Draw a histogram on ``floor``, as a tinted area with an outline."""
    axes.stairs(height, bins, baseline=floor, color=color, fill=True, alpha=0.25)
    axes.stairs(height, bins, baseline=floor, color=color, linewidth=1.4, label=label)


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
        _outlined(left, 100 * height / height.sum(), bins, color, label)
    # Headroom for the legend above the highest bar.
    left.set(xlim=(0, top), ylim=(0, left.get_ylim()[1] * 1.32))
    left.set(xlabel="distance (L2)", ylabel="share of distances (%)")
    left.set_title("Distances from a query to the base")
    left.legend(loc="upper left", ncols=2, columnspacing=1.0)

    rank, low, high = by_rank["rank"], by_rank["low"], by_rank["high"]
    right.fill_between(rank, low, high, color=style.BLUE, alpha=0.2, lw=0)
    right.plot(rank, by_rank["median"], color=style.BLUE)
    typical = float(np.median(random))
    right.axhline(typical, color=RANDOM, linestyle="--")
    style.note(right, "median random vector", (1, typical), (2, 4))
    style.log_axis(right.xaxis, "rank of the neighbour")
    right.set(xlim=(1, last), ylim=(0, max(typical, float(high.max())) * 1.15))
    right.set(ylabel="distance (L2)", title="By rank: median, middle 80 %")
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
    for floor, name in enumerate(reversed(names)):
        for key, color, label in (
            ("random", RANDOM, "random vectors"),
            ("nearest", NEAREST, "nearest neighbour"),
        ):
            height, _ = np.histogram(spreads[name][key], bins)
            ridge = floor + 0.85 * height / height.max()
            _outlined(left, ridge, bins, color, None if floor else label, floor)
    left.set_yticks(np.arange(len(names)) + 0.1, list(reversed(names)))
    left.tick_params(axis="y", length=0)
    left.grid(False, axis="y")
    left.set(xlim=(0, top), ylim=(-0.02, len(names) + 0.35), title="How far is the nearest?")
    left.set_xlabel("distance / mean distance to random vectors")
    left.legend(loc="upper left", ncols=2, columnspacing=1.0, handlelength=1.4)

    right.plot([0, 1], [0, 1], color=style.GREY, linestyle=":", label="lists at random")
    for name, color in zip(names, SET_COLORS, strict=False):
        rows = curves.loc[curves["data"] == name, ["scanned", "found"]]
        right.plot(*np.vstack([[0, 0], rows]).T, color=color, label=name)
    style.percent(right.xaxis, right.yaxis)
    right.set(xlabel="base vectors in the probed lists", ylabel=f"true {k} neighbours there")
    right.set(title="What k-means lists find", xlim=(0, 1), ylim=(0, 1.03))
    right.legend(loc="lower right")
    return figure
