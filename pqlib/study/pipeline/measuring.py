"""Runs a measurement of a data set and writes its tables and figures, all of them or none."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd
from matplotlib.figure import Figure

from pqlib import load_dataset
from pqlib.datasets import Dataset
from pqlib.study import save_table
from pqlib.study.pipeline.data import DataSource
from pqlib.study.pipeline.figures import KINDS, alone
from pqlib.study.pipeline.progress import duration
from pqlib.study.pipeline.steps import Layout, PipelineError, write_atomically
from pqlib.study.plots import style

M = TypeVar("M")
Files = tuple[Mapping[str, pd.DataFrame], Mapping[str, Figure]]
"""Tables and figures by name."""


def measure(
    layout: Layout,
    dataset: str,
    name: str,
    measurement: Callable[[Dataset], M],
    report: Callable[[M], str],
    files: Callable[[M], Files],
) -> int:
    """Measure ``dataset``, print the report, write it, tables and figures; return exit status.

    Written are <name>.txt and the tables, with what machine it was, in ``results/<label>/`` and
    the figures in ``figures/<label>/`` as PNG and SVG: when everything is measured, and each file
    whole or not at all.

    Raises
    ------
    PipelineError
        When the data set cannot be had, or does not allow what is asked for.
    """
    try:
        source = DataSource.of(dataset, layout.package)
        source.fetch()
    except (ValueError, OSError) as problem:
        raise PipelineError(str(problem)) from None
    # The lock keeps a run of the notebooks from taking the processor meanwhile.
    with alone(layout):
        started = time.monotonic()
        try:
            ds = load_dataset(source.dataset)
            print(f"{name} {source.label}: {ds.n:,} vectors, {ds.nq:,} queries", flush=True)
            measured = measurement(ds)
        except (ValueError, OSError) as problem:
            raise PipelineError(f"{name} {source.label}: {problem}") from None
        text = report(measured)
        print(f"\n{text}", flush=True)
        written = _write(layout, source.label, name, text, *files(measured))
        print(f"done in {duration(time.monotonic() - started)}; wrote {', '.join(written)}")
    return 0


def _write(
    layout: Layout,
    label: str,
    name: str,
    text: str,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure],
) -> list[str]:
    """Write the files of a run and return their names, by way of a folder that is thrown away."""
    layout.staging.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=layout.staging) as folder:
        for table, rows in tables.items():
            save_table(rows, folder, table, timed=True)
        (Path(folder) / "results" / f"{name}.txt").write_text(text, encoding="utf-8")
        for picture, figure in figures.items():
            style.show(figure, folder, picture)
        written = []
        for kind in KINDS:
            for path in sorted((Path(folder) / kind).glob("*")):
                final = layout.promoted(kind, label) / path.name
                write_atomically(final, path.read_bytes())
                written.append(final.relative_to(layout.root).as_posix())
    return written
