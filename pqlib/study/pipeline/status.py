"""What each notebook took when it last ran, and on which machine: ``results/<label>/run.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    path = layout.promoted("results", source.label) / NAME
    before = _rows(path)
    machine = evaluation.machine()
    rows, stamped = [], False
    for notebook in notebooks:
        old = before.get(notebook.stem)
        stamp = Step(layout, notebook, source).read_stamp()
        if stamp is not None:
            stamped = True
            new = {
                "notebook": notebook.stem,
                "seconds": stamp.get("seconds", 0.0),
                "peak_mib": round(stamp.get("peak_bytes", 0) / 2**20),
            }
            same = old is not None and all(old.get(name) == new[name] for name in new)
            rows.append(old if same else {**new, **machine})
        elif old is not None:
            rows.append(old)
    if stamped:
        text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
        write_atomically(path, text.encode())


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a table by notebook; none where it is missing or damaged."""
    try:
        table = pd.read_csv(path, dtype={"cores": str, "threads": str}, keep_default_na=False)
        return {row["notebook"]: row for row in table.to_dict("records")}
    except (OSError, ValueError, KeyError):
        return {}
