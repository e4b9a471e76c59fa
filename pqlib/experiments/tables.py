"""Tables as files."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd


def save_table(table: pd.DataFrame, output: str | os.PathLike[str] | None, name: str) -> None:
    """Write ``table`` to ``<output>/results/<name>.csv`` at once or not at all.

    Does nothing when ``output`` is None, as in a notebook that only shows its results.
    """
    if output is None:
        return
    folder = Path(output) / "results"
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.csv.{os.getpid()}"
    table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    partial.replace(folder / f"{name}.csv")
