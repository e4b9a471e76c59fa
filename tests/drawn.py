"""What was drawn in a figure, read back from it."""

import numpy as np


def drawn(axes) -> dict[str, np.ndarray]:
    """The (n, 2) points of the labelled lines of an axes."""
    return {
        str(line.get_label()): np.array(line.get_xydata())
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def scattered(axes) -> dict[str, np.ndarray]:
    """The (n, 2) places of the labelled scatters of an axes."""
    return {
        str(group.get_label()): np.array(group.get_offsets())
        for group in axes.collections
        if not str(group.get_label()).startswith("_")
    }


def legend_words(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]
