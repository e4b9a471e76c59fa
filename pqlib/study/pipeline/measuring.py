"""Runs a measurement of a data set and writes its tables and figures, all of them or none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import pandas as pd
from matplotlib.figure import Figure

from pqlib import load_dataset
from pqlib.datasets import Dataset
from pqlib.study import save_table
from pqlib.study.pipeline.data import DataSource
from pqlib.study.pipeline.figures import alone
from pqlib.study.pipeline.progress import duration
from pqlib.study.pipeline.steps import Layout, plain_errors, promote
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
    whole or not at all. Raises PipelineError where the data set cannot be had, or does not allow
    what is asked for.
    """
    with plain_errors():
        source = DataSource.of(dataset, layout.package)
        source.fetch()
    # The lock keeps a run of the notebooks from taking the processor meanwhile.
    with alone(layout):
        started = time.monotonic()
        with plain_errors(f"{name} {source.label}: "):
            ds = load_dataset(source.dataset)
            print(f"{name} {source.label}: {ds.n:,} vectors, {ds.nq:,} queries", flush=True)
            measured = measurement(ds)
        text = report(measured)
        print(f"\n{text}", flush=True)
        tables, figures = files(measured)
        for table, rows in tables.items():
            save_table(rows, layout.staging, table, timed=True)
        (layout.staging / "results" / f"{name}.txt").write_text(text, encoding="utf-8")
        for picture, figure in figures.items():
            style.show(figure, layout.staging, picture)
        written = promote(layout, source.label, layout.staging)
        print(f"done in {duration(time.monotonic() - started)}; wrote {', '.join(written)}")
    return 0
