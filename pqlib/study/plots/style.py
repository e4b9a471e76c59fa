"""One style for all figures, and how they are checked, saved and shown."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
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


def blank(figure: Figure) -> bool:
    """Tell whether nothing but background was drawn."""
    return _blank(_drawn(figure))


def _blank(canvas: Any) -> bool:
    pixels = np.asarray(canvas.buffer_rgba())
    return bool((pixels == pixels[0, 0]).all())


def problems(figure: Figure) -> list[str]:
    """Return what is wrong with a figure, by looking at the boxes of what was drawn.

    Overlapping labels, labels cut off at the edge, axes without content, a blank canvas, axes
    that hold data without a label.
    """
    drawn = _drawn(figure)
    if _blank(drawn):
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
    boxes = _text_boxes(figure, drawn.get_renderer())
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


def _drawn(figure: Figure):  # type: ignore[no-untyped-def]
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


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


# Axes, words and legends -------------------------------------------------------------------


def look(number: int) -> dict[str, str]:
    """Return colour and marker of line ``number`` of a figure; line 0, the yardstick, is black."""
    color = COLORS[(number - 1) % len(COLORS)] if number else BLACK
    return {"color": color, "marker": MARKERS[number % len(MARKERS)]}


def percent(*axes: Axis) -> None:
    """Label shares 0..1 in percent."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: 1,000 rather than a power of ten."""
    axis.set_major_locator(LogLocator(base=10))
    axis.set_major_formatter(StrMethodFormatter("{x:,.15g}"))
    axis.set_minor_formatter(NullFormatter())


def spread_ticks(axis: Axis, ends: tuple[float, float]) -> None:
    """Label a logarithmic axis at powers of ten, and between them where it spans few."""
    log_ticks(axis)
    low, high = ends
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


def note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **options: Any
) -> Text:
    """Write ``text`` at ``offset`` (points) from the point ``at``; options as for ``annotate``."""
    looks: dict[str, Any] = {"fontsize": 8, "color": DARK_GREY} | options
    return axes.annotate(text, at, xytext=offset, textcoords="offset points", **looks)


def label_line_end(axes: Axes, x: float, y: float, text: str, color: str, **options: Any) -> Text:
    """Write ``text`` beside the end of a line in its colour, instead of a legend entry."""
    options = {"va": "center", "annotation_clip": False} | options
    return note(axes, text, (x, y), (5, 0), color=color, **options)


def legend_of(axes: Axes, loc: Any = "outside upper center", **options: Any) -> None:
    """Explain beside the panels of a figure what one of them holds."""
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(*axes.get_legend_handles_labels(), loc=loc, **options)


def ring(axes: Axes, x: Any, y: Any, color: str, label: str) -> None:
    """Draw a ring around each of the points (n,), (n,)."""
    axes.plot(x, y, linestyle="", marker="o", ms=10, mfc="none", mec=color, label=label)
