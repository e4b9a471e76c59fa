"""Notebooks on a slice of their data, stored with the text that they print.

A slice is what ``make test`` compares where the whole notebook would take a minute and show no more
of the code. It is the stored notebook's twin: the same cells, a cell of other parameters, and no
pictures, which nothing compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pqlib.study.pipeline.execute import as_bytes
from pqlib.study.pipeline.figures import alone
from pqlib.study.pipeline.steps import Layout, find_notebooks, write_atomically
from pqlib.study.pipeline.stored import clean, run_strictly
from pqlib.study.pipeline.watch import Watch

SLICES: dict[str, dict[str, Any]] = {
    "06_sensitivity": {"n_train": 5000, "n_test": 200},
    "07_ladder": {"n_train": 4000, "n_test": 200, "budget_s": 2},
    "08_family": {"n_train": 1500, "n_test": 100, "effort": 0.1},
    "09_embeddings": {"n_train": 3000, "n_test": 200, "budget_s": 1},
}
"""Parameters of the slice of each notebook that has one."""


def place(layout: Layout, notebook: Path) -> Path:
    """Return where the slice of a notebook is stored."""
    return layout.root / "tests" / "slices" / f"{notebook.stem}.ipynb"


def write_slices(layout: Layout, notebooks: Iterable[str] = ()) -> int:
    """Execute the slices of notebooks (all of them when empty) and store them; return 0."""
    for source in find_notebooks(layout, notebooks):
        if source.stem not in SLICES:
            continue
        with alone(layout):
            executed = run_strictly(layout, source, SLICES[source.stem], Watch())
            for cell in executed.cells:
                for output in cell.get("outputs", []):
                    for kind in [k for k in output.get("data", {}) if k.startswith("image/")]:
                        del output["data"][kind]
            write_atomically(place(layout, source), as_bytes(clean(executed)))
    return 0
