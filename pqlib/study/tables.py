"""Tables as files."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from pqlib._atomic import replacing
from pqlib.evaluation import machine


def save_table(
    table: pd.DataFrame, output: str | os.PathLike[str] | None, name: str, timed: bool = False
) -> None:
    """Write ``table`` to ``<output>/results/<name>.csv`` at once or not at all.

    UTF-8, with a header; fractional numbers have six significant digits, a missing value is empty.
    ``results/README.md`` says what each table and column means. A table that holds timings is
    ``timed``: columns that name the machine are added. Does nothing when ``output`` is None, as in
    a notebook that only shows its results.
    """
    if output is None:
        return
    if timed:
        table = table.assign(**machine())
    # Numbers in a column of Python objects would be written with all their digits.
    table = table.infer_objects()
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    with replacing(Path(output) / "results" / f"{name}.csv", parents=True) as file:
        file.write(text.encode())
