"""Copies what runs wrote for a data set to the committed figures and results."""

from __future__ import annotations

import io

import pandas as pd

from pqlib.study.pipeline.data import REFERENCE, DataSource
from pqlib.study.pipeline.figures import KINDS, alone
from pqlib.study.pipeline.status import NAME
from pqlib.study.pipeline.steps import Layout, PipelineError, write_atomically


def publish(layout: Layout, dataset: str) -> int:
    """Put the figures and tables of a data set's last runs among the committed ones.

    A file belongs to the notebook whose number its name starts with, or to ``bench`` or ``peers``.
    What ran last replaces all files of its own; those of other notebooks stay. ``run.csv`` keeps
    the rows of notebooks that were not run.

    Raises
    ------
    PipelineError
        When there are no results of the data set to publish.
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
            rows = pd.concat([pd.read_csv(t, dtype=str) for t in tables if t.exists()])
            rows = rows.drop_duplicates("notebook", keep="last").sort_values("notebook")
            text = io.StringIO()
            rows.to_csv(text, index=False, lineterminator="\n")
            write_atomically(tables[0], text.getvalue().encode())
    print(f"Published for {label}: {', '.join(sorted(ran))}.")
    return 0


def _owner(name: str) -> str:
    """Return what writes a file: a notebook's number, "bench" or "peers"."""
    return name[:2] if name[:2].isdigit() else name.split(".")[0].split("_")[0]
