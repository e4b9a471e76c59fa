"""Measured tables as the text that a run prints and keeps beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

WIDTH = 100

COLUMNS = {
    "bytes_per_vector": ("bytes/vector", "{:,.1f}"),
    "codebook_bytes": ("codebooks, bytes", "{:,.0f}"),
    "distance_computations": ("distances", "{:,.0f}"),
    "lookups": ("look-ups", "{:,.0f}"),
    "method": ("method", "{}"),
    "multiplications": ("multiplications", "{:,.0f}"),
    "nprobe_outer": ("outer", "{}"),
    "p50_ms": ("p50 ms", "{:.3f}"),
    "p50_ratio": ("p50 ratio", "{:.2f}"),
    "p95_ms": ("p95 ms", "{:.3f}"),
    "p99_ms": ("p99 ms", "{:.3f}"),
    "probing_ms": ("probing ms", "{:,.1f}"),
    "qps": ("QPS", "{:,.0f}"),
    "qps_max": ("max", "{:,.0f}"),
    "qps_min": ("min", "{:,.0f}"),
    "ratio": ("ratio", "{:.4f}"),
    "reading_ms": ("reading ms", "{:.3f}"),
    "rest_ms": ("rest ms", "{:,.1f}"),
    "search_ms": ("search ms", "{:,.1f}"),
    "build_s": ("build s", "{:.2f}"),
    "seconds": ("seconds", "{:.3f}"),
    "tables_bound_ms": ("bound ms", "{:,.1f}"),
    "tables_ms": ("tables ms", "{:,.1f}"),
    "vectors": ("vectors", "{:,}"),
    "vectors_per_s": ("vectors/s", "{:,.0f}"),
}
"""Heading and format of the columns of measured tables; others are shown as they are."""


def aligned(
    table: pd.DataFrame,
    columns: Iterable[str],
    looks: Mapping[str, tuple[str, str]] | None = None,
) -> str:
    """Return a table as text: words to the left, numbers to the right, nothing where missing.

    Parameters
    ----------
    table : what to show
    columns : of the table, in the order shown
    looks : heading and format of columns, before those of ``COLUMNS``
    """
    known = {**COLUMNS, **(looks or {})}
    shown = []
    for column in columns:
        heading, form = known.get(column, (column, "{}"))
        cells = [heading] + ["" if pd.isna(v) else form.format(v) for v in table[column]]
        width = max(map(len, cells))
        numbers = pd.api.types.is_numeric_dtype(table[column])
        padded = [cell.rjust(width) if numbers else cell.ljust(width) for cell in cells]
        shown.append([padded[0], "-" * width, *padded[1:]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*shown, strict=True))


def facts_of(parameters: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return some of the parameters as words: "cores 2, python 3.11"."""
    return ", ".join(f"{name} {parameters[name]}" for name in names)


def section(title: str, body: str, note: str = "") -> str:
    """Return a part of a report: its title underlined, a table or a list, and what it means."""
    text = f"{title}\n{'=' * len(title)}\n{body}"
    return f"{text}\n\n{textwrap.fill(note, WIDTH)}" if note else text


def report(head: Sequence[str], sections: Iterable[str]) -> str:
    """Return the lines that a report begins with and its sections, in lines of ``WIDTH``."""
    first = "\n".join(textwrap.fill(line, WIDTH) for line in head)
    return "\n\n".join([first, *sections]) + "\n"


def hanging(line: str) -> str:
    """Return an entry of a list, indented from its second line on."""
    return textwrap.fill(
        line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
