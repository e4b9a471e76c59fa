"""One style for all figures, and how they are checked, saved and shown."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import (
    FixedLocator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from matplotlib.transforms import Bbox

from pqlib._atomic import replacing

# For the whole process: titles and legends take their look when they are made, not when the
# figure is, so a style that holds only around the figure's making would miss them.
mpl.style.use(Path(__file__).with_name("pqlib.mplstyle"))

# Okabe and Ito's palette, told apart by colour-blind readers (Color Universal Design, 2008).
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
GREY = "#7F7F7F"
DARK_GREY = "#595959"  # of words: grey that is read easily
COLORS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

WIDTH = 7.2
"""Width in inches of a figure across a page, both columns of a paper."""

COLUMN = 3.5
"""Width in inches of a figure in one column of a paper."""

STRICT_VARIABLE = "PQLIB_STRICT_FIGURES"
"""Environment variable that turns a figure's problems into errors; the tests set it."""


def new(
    rows: int = 1, columns: int = 1, height: float = 3.0, *, width: float = WIDTH, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Return a figure of ``width`` and ``height`` inches and its axes, always (rows, columns).

    Made without pyplot, so that no global state keeps it alive or shows it twice. ``options``
    go to ``Figure.subplots``.
    """
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def problems(figure: Figure) -> list[str]:
    """Return what is wrong with a figure, by looking at the boxes of what was drawn.

    Overlapping labels, labels cut off at the edge, axes without content, a blank canvas, axes
    that hold data without a label.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    if (pixels == pixels[0, 0]).all():
        return ["the figure is blank"]
    found = []
    for axes in figure.axes:
        if axes.get_visible() and not (axes.has_data() or axes.texts or axes.images):
            found.append(f"axes {axes.get_title(loc='left')!r} is empty")
        if axes.axison and axes.get_visible() and axes.get_label() != "<colorbar>":
            ticks = axes.xaxis.get_ticklabels() and axes.yaxis.get_ticklabels()
            if ticks and not (axes.get_xlabel() or axes.get_ylabel()):
                found.append(f"axes {axes.get_title(loc='left')!r} has no axis label")
    left, bottom, right, top = figure.bbox.padded(1).extents
    boxes = _text_boxes(figure, canvas.get_renderer())
    for text, box in boxes:
        if box.x0 < left or box.y0 < bottom or box.x1 > right or box.y1 > top:
            found.append(f"label {text!r} is cut off at the edge")
    for (text, box), (other, other_box) in combinations(boxes, 2):
        shared = Bbox.intersection(box, other_box)
        if shared is not None and shared.width > 1 and shared.height > 1:
            found.append(f"labels {text!r} and {other!r} overlap")
    return found


def show(figure: Figure, output: str | os.PathLike[str] | None, name: str) -> None:
    """Check a figure, write it to ``<output>/figures/<name>.png`` and ``.svg``, and display it.

    The files carry no dates and no random ids: the same figure is the same bytes.

    Raises
    ------
    ValueError
        When the figure has problems and the environment asks for strictness; otherwise they
        are printed, since a crowded figure of somebody's own data is better than none.
    """
    wrong = problems(figure)
    if wrong and os.environ.get(STRICT_VARIABLE):
        raise ValueError(f"figure {name}: " + "; ".join(wrong))
    for problem in wrong:
        print(f"figure {name}: {problem}")
    # Laid out by now; doing it again for each file would take as long as the drawing.
    figure.set_layout_engine("none")
    png = _rendered(figure, "png")
    if output is not None:
        place, svg = Path(output) / "figures", _rendered(figure, "svg")
        # Both or neither: they show the same.
        with (
            replacing(place / f"{name}.png", parents=True) as one,
            replacing(place / f"{name}.svg") as other,
        ):
            one.write(png)
            one.flush()
            other.write(svg)
    _display(png, figure.get_figwidth())


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    nothing = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[kind]
    figure.savefig(buffer, format=kind, metadata=nothing)
    return buffer.getvalue()


def _display(png: bytes, inches: float) -> None:
    try:
        from IPython import display, get_ipython
    except ImportError:
        return
    if get_ipython() is not None:
        display.display(display.Image(png, width=int(inches * 110)))


def _text_boxes(figure: Figure, renderer: Any) -> list[tuple[str, Bbox]]:
    """Return the text and the box in pixels of every label that is visible."""
    hidden = _hidden_tick_labels(figure)
    boxes = []
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        words = text.get_text().strip()
        shown = text.get_visible() and (text.axes is None or text.axes.get_visible())
        if words and shown and text not in hidden:
            # The text alone: an annotation's own extent would include its arrow.
            boxes.append((words, Text.get_window_extent(text, renderer)))
    return boxes


def _hidden_tick_labels(figure: Figure) -> set[Text]:
    """Tick labels that exist but are not drawn: outside the view, or of an axis turned off."""
    hidden: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            off = not (axes.axison and axis.get_visible())
            low, high = sorted(axis.get_view_interval())
            slack = 1e-9 * max(abs(low), abs(high), 1e-300)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if off or not low - slack <= tick.get_loc() <= high + slack:
                    hidden |= {tick.label1, tick.label2}
            if off:
                hidden |= {axis.label, axis.get_offset_text()}
    return hidden


# What is drawn -----------------------------------------------------------------------------


def mark(color: str, marker: str) -> dict[str, Any]:
    """Return colour and marker as options of ``plot``."""
    return {"color": color, "marker": marker}


def look(number: int) -> dict[str, Any]:
    """Return colour and marker of line ``number`` of a figure; line 0, the yardstick, is black."""
    color = COLORS[(number - 1) % len(COLORS)] if number else BLACK
    return mark(color, MARKERS[number % len(MARKERS)])


def lines(
    axes: Axes,
    table: pd.DataFrame,
    by: Any,
    x: str,
    y: str,
    look: Callable[[Any], Mapping[str, Any]],
    label: str = "{}",
    sort: bool = False,
) -> None:
    """Draw a line of the columns ``x`` and ``y`` for each value of the column ``by``.

    ``by`` may be several columns; then their values are a tuple. ``look`` returns the options of
    the line of a value, and ``label`` is a format for it. ``sort`` orders the values. A vertical
    bar goes from column <y>_min to <y>_max where the table has them.
    """
    for value, rows in table.groupby(by, sort=sort):
        looks = look(value)
        words = label.format(*value) if isinstance(value, tuple) else label.format(value)
        axes.plot(rows[x], rows[y], **{"label": words, **looks})
        if f"{y}_min" in rows:
            bar = {"color": looks["color"], "linewidth": 0.8}
            axes.vlines(rows[x], rows[f"{y}_min"], rows[f"{y}_max"], **bar)


def ring(axes: Axes, x: Any, y: Any, color: str, label: str) -> None:
    """Draw a ring around each of the points (n,), (n,)."""
    axes.plot(x, y, linestyle="", marker="o", ms=10, mfc="none", mec=color, label=label)


def limits(axes: Axes, k: int, n: int) -> None:
    """Draw the limits of any recall: exact search, and k base vectors drawn at random."""
    # The words stand above their lines, unless those of a tiny base would then cover each other.
    for height, words, below in ((1.0, "exact", False), (k / n, "random", k / n > 0.8)):
        axes.axhline(height, color=GREY, linestyle=":", linewidth=1, zorder=0)
        looks: dict[str, Any] = {"ha": "right", "va": "top" if below else "bottom"}
        looks |= {"xycoords": ("axes fraction", "data"), "fontsize": 7, "color": GREY}
        note(axes, words, (1, height), (-2, -2 if below else 2), **looks)


# Axes --------------------------------------------------------------------------------------


def percent(*axes: Axis) -> None:
    """Label shares 0..1 in percent."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: 1,000 rather than a power of ten."""
    axis.set_major_locator(LogLocator(base=10))
    axis.set_major_formatter(StrMethodFormatter("{x:,.15g}"))
    axis.set_minor_formatter(NullFormatter())


def log_axis(axis: Axis, label: str, at: Iterable[float] | None = None) -> None:
    """Make an axis logarithmic, with ticks at powers of ten or, where given, ``at`` values."""
    name = "x" if isinstance(axis, XAxis) else "y"
    axis.axes.set(**{f"{name}scale": "log", f"{name}label": label})
    if at is None:
        log_ticks(axis)
    else:
        ticks_at(axis, at)


def spread_ticks(axis: Axis, ends: tuple[float, float] | None = None) -> None:
    """Label a logarithmic axis at powers of ten, and between them where it spans few."""
    log_ticks(axis)
    low, high = axis.get_view_interval() if ends is None else ends
    if high < 4 * low:
        axis.set_major_locator(MaxNLocator(4))
    elif high < 30 * low:
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))


def ticks_at(axis: Axis, values: Iterable[float], form: str = "{x:,.0f}") -> None:
    """Put ticks at ``values`` and nowhere else, labelled by ``form``."""
    axis.set_major_locator(FixedLocator(sorted(set(values))))
    axis.set_major_formatter(StrMethodFormatter(form))
    axis.set_minor_locator(NullLocator())


def count_ticks(axis: Axis) -> None:
    """Put ticks at whole numbers, about six, at least one."""
    axis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))


def widen_decades(axes: Axes, name: str = "x") -> None:
    """Let a logarithmic axis begin and end at a whole power of ten, so it has two labels."""
    low, high = np.log10(axes.get_xlim() if name == "x" else axes.get_ylim())
    axes.set(**{f"{name}lim": (10 ** np.floor(low), 10 ** np.ceil(high))})


def label_decades(axes: Axes) -> None:
    """Widen a logarithmic y axis on which fewer than two powers of ten lie, so it has labels."""
    low, high = np.log10(axes.get_ylim())
    if np.floor(high) <= np.ceil(low):
        widen_decades(axes, "y")


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write names beside the rows 0, 1, ... of a figure, from the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


# Words and legends -------------------------------------------------------------------------


def note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **options: Any
) -> Text:
    """Write ``text`` at ``offset`` (points) from the point ``at``; options as for ``annotate``."""
    looks: dict[str, Any] = {"fontsize": 8, "color": DARK_GREY} | options
    return axes.annotate(text, at, xytext=offset, textcoords="offset points", **looks)


def label_line_end(axes: Axes, x: float, y: float, text: str, color: str) -> Text:
    """Write ``text`` beside the end of a line in its colour, instead of a legend entry."""
    return note(axes, text, (x, y), (5, 0), color=color, va="center", annotation_clip=False)


def legend_of(
    *panels: Axes,
    loc: Any = "outside upper center",
    extra: Mapping[str, Artist] | None = None,
    **options: Any,
) -> None:
    """Explain beside the panels of a figure what they hold, each label once, then ``extra``."""
    handles = _handles(panels) | dict(extra or {})
    figure = panels[0].get_figure()
    assert figure is not None
    figure.legend(handles.values(), handles.keys(), loc=loc, **options)


def legend_above(figure: Figure, panels: Iterable[Axes]) -> None:
    """Explain above a figure what its panels hold, long labels in fewer columns."""
    handles = _handles(panels)
    # Inches of an entry: a letter of 8 points, and the handle with the gaps around it.
    entry = 0.07 * max(map(len, handles), default=0) + 0.6
    columns = int(np.clip(WIDTH / entry, 1, 3))
    # Three rows fit into any height that a figure asked for; more would squeeze the panels.
    further = max(0, -(-len(handles) // columns) - 3)
    figure.set_figheight(figure.get_figheight() + 0.17 * further)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)


def _handles(panels: Iterable[Axes]) -> dict[str, Artist]:
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return handles
