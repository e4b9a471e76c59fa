"""What each notebook took when it last ran, and on which machine: ``results/<label>/run.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pqlib import evaluation
from pqlib.study.pipeline.data import DataSource
from pqlib.study.pipeline.steps import Layout, Step, write_atomically

NAME = "run.csv"


def write_run_table(layout: Layout, source: DataSource, notebooks: Sequence[Path]) -> None:
    """Write a row for each notebook with a stamp: "notebook", "seconds", "peak_mib", the machine.

    A notebook that was not run in this checkout keeps the row that the table has of it, and so does
    one whose last run is in it already, perhaps from another machine. Nothing is written where
    there were no runs.
    """
    stamps = {n.stem: Step(layout, n, source).read_stamp() for n in notebooks}
    took = [
        {
            "notebook": name,
            "seconds": stamp.get("seconds", 0.0),
            "peak_mib": round(stamp.get("peak_bytes", 0) / 2**20),
        }
        for name, stamp in stamps.items()
        if stamp is not None
    ]
    if took:
        path = layout.promoted("results", source.label) / NAME
        new = pd.DataFrame(took).assign(**evaluation.machine()).astype(str)
        both = pd.concat([_rows(path), new])
        both = both[both.notebook.isin(list(stamps))]
        write_rows(path, both.drop_duplicates(["notebook", "seconds", "peak_mib"]))


def write_rows(path: Path, rows: pd.DataFrame) -> None:
    """Write the last row of each notebook."""
    rows = rows.drop_duplicates("notebook", keep="last").sort_values("notebook")
    write_atomically(path, rows.to_csv(index=False, lineterminator="\n").encode())


def _rows(path: Path) -> pd.DataFrame:
    """Return the rows of a table as text; none where it is missing or damaged."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return pd.DataFrame()
    return table if "notebook" in table else pd.DataFrame()
