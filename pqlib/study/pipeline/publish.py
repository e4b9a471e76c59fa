"""Copies what runs wrote for a data set to the committed figures and results."""

from __future__ import annotations

import pandas as pd

from pqlib.study.pipeline.data import REFERENCE, DataSource
from pqlib.study.pipeline.figures import alone
from pqlib.study.pipeline.status import NAME, write_rows
from pqlib.study.pipeline.steps import KINDS, Layout, PipelineError, write_atomically


def publish(layout: Layout, dataset: str) -> int:
    """Put the figures and tables of a data set's last runs among the committed ones.

    A file belongs to the notebook whose number its name starts with, or to ``bench`` or ``peers``.
    What ran last replaces all files of its own; those of other notebooks stay. ``run.csv`` keeps
    the rows of notebooks that were not run. Raises PipelineError where there is nothing to publish.
    """
    label = DataSource.of(dataset, layout.package).label
    with alone(layout):
        new = {
            kind: {p.name: p for p in layout.promoted(kind, label).glob("*") if p.is_file()}
            for kind in KINDS
        }
        ran = {_owner(name) for files in new.values() for name in files if name != NAME}
        if not ran:
            raise PipelineError(
                f"results/{label}/ holds no results: run `make figures DATASET={dataset}` first."
            )
        for kind, files in new.items():
            folder = layout.promoted(kind, REFERENCE) / label
            for name, path in files.items():
                if name != NAME:
                    write_atomically(folder / name, path.read_bytes())
            for old in folder.glob("*"):
                if old.name not in files and _owner(old.name) in ran:
                    old.unlink()
        if NAME in new["results"]:
            tables = [layout.promoted("results", REFERENCE) / label / NAME, new["results"][NAME]]
            rows = [pd.read_csv(t, dtype=str) for t in tables if t.exists()]
            write_rows(tables[0], pd.concat(rows))
    print(f"Published for {label}: {', '.join(sorted(ran))}.")
    return 0


def _owner(name: str) -> str:
    """Return what writes a file: a notebook's number, "bench" or "peers"."""
    return name[:2] if name[:2].isdigit() else name.split(".")[0].split("_")[0]
