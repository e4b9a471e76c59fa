"""What each notebook took when it last ran, and on which machine: ``results/<label>/run.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pqlib import evaluation
from pqlib.pipeline.data import DataSource
from pqlib.pipeline.steps import Layout, Step, write_atomically

NAME = "run.csv"


def write_run_table(layout: Layout, source: DataSource, notebooks: Sequence[Path]) -> None:
    """Write a row for each notebook with a stamp: "notebook", "seconds", "peak_mib", the machine.

    Of the runs in this checkout; nothing is written where there were none.
    """
    rows = []
    for notebook in notebooks:
        stamp = Step(layout, notebook, source).read_stamp()
        if stamp is not None:
            rows.append(
                {
                    "notebook": notebook.stem,
                    "seconds": stamp.get("seconds", 0.0),
                    "peak_mib": round(stamp.get("peak_bytes", 0) / 2**20),
                }
            )
    if rows:
        text = (
            pd.DataFrame(rows)
            .assign(**evaluation.machine())
            .to_csv(index=False, lineterminator="\n")
        )
        write_atomically(layout.promoted("results", source.label) / NAME, text.encode())
