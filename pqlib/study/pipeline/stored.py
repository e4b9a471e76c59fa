"""The committed .ipynb files: written with outputs, and compared with their .py sources.

A stored notebook is a function of its source and of what its cells print: no dates, no random
ids, no machine. So that a difference in version control is a difference in content.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat

from pqlib.study.pipeline.execute import CellFailure, as_bytes, execute, read_source
from pqlib.study.pipeline.figures import alone
from pqlib.study.pipeline.progress import Progress
from pqlib.study.pipeline.steps import Layout, PipelineError, find_notebooks, write_atomically
from pqlib.study.pipeline.watch import Watch

if TYPE_CHECKING:
    from nbformat import NotebookNode

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE_INFO = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
    # The patch version is a fact of the machine that ran it; nobody needs it to read the file.
    "version": "3",
}
PAIRING = {"formats": "ipynb,py:percent"}


def write_notebooks(layout: Layout, notebooks: Iterable[str] = ()) -> int:
    """Execute notebooks with their own parameters and store them with outputs."""
    chosen = find_notebooks(layout, notebooks)
    with alone(layout):
        for place, source in enumerate(chosen, start=1):
            watch = Watch()
            try:
                with Progress(f"[{place}/{len(chosen)}] {source.stem}", watch):
                    executed = run_strictly(layout, source, {}, watch)
            except CellFailure as problem:
                rest = ", ".join(p.stem for p in chosen[place:])
                note = f"\n\nNot run: {rest}." if rest else ""
                raise PipelineError(
                    f"{problem}\n\n{source.with_suffix('.ipynb').name} was left as it was.{note}"
                ) from None
            write_atomically(source.with_suffix(".ipynb"), as_bytes(clean(executed)))
    return 0


def run_strictly(
    layout: Layout, source: Path, parameters: Mapping[str, Any], watch: Watch
) -> NotebookNode:
    """Execute a notebook that is to be stored: a figure with problems is an error."""
    text = source.read_text(encoding="utf-8")
    scratch = Path(tempfile.mkdtemp(prefix=f"{source.stem}-", dir=layout.staging))
    return execute(source, text, parameters, scratch, watch, strict=True)


def clean(notebook: NotebookNode) -> NotebookNode:
    """Return a copy without anything that does not follow from source and outputs."""
    seen: Counter[str] = Counter()
    cells = []
    count = 0
    for cell in notebook.cells:
        content = f"{cell.cell_type}\0{cell.source}"
        seen[content] += 1
        tags = cell.metadata.get("tags", [])
        kept: dict[str, Any] = {
            "id": hashlib.sha1(f"{content}\0{seen[content]}".encode()).hexdigest()[:12],
            "cell_type": cell.cell_type,
            "metadata": {"tags": list(tags)} if tags else {},
            "source": cell.source,
        }
        if cell.cell_type == "code":
            # Counted anew: a kernel counts what it was asked besides.
            count += bool(cell.source.strip())
            kept["execution_count"] = count if cell.source.strip() else None
            counted = {"execution_count": count}
            kept["outputs"] = [
                {**output, **(counted if "execution_count" in output else {})}
                for output in cell.get("outputs", [])
            ]
        cells.append(kept)
    metadata = {"jupytext": PAIRING, "kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO}
    return nbformat.from_dict(
        {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}
    )


def differences(source: Path) -> list[str]:
    """Return how a stored notebook differs from its source, cell by cell; empty when it does not.

    Compared are number, kind, source and tags of the cells; outputs are nbval's business.
    """
    stored_path = source.with_suffix(".ipynb")
    if not stored_path.is_file():
        return [f"{stored_path.name} does not exist"]
    expected = read_source(source.read_text(encoding="utf-8"), source.name).cells
    stored = nbformat.read(stored_path, as_version=4).cells
    found = []
    if len(expected) != len(stored):
        found.append(f"{len(expected)} cells in {source.name}, {len(stored)} in the .ipynb")
    for place, (one, other) in enumerate(zip(expected, stored, strict=False), start=1):
        for what, left, right in (
            ("kind", one.cell_type, other.cell_type),
            ("source", one.source, other.source),
            ("tags", one.metadata.get("tags", []), other.metadata.get("tags", [])),
        ):
            if left != right:
                head = (one.source.strip().splitlines() or [""])[0]
                found.append(f"cell {place} ({head[:50]!r}): {what} differs")
    return found


def check_pairs(layout: Layout) -> int:
    """Print the differences between sources and stored notebooks; return the exit status."""
    status = 0
    for source in find_notebooks(layout):
        for difference in differences(source):
            print(f"{source.stem}: {difference}")
            status = 1
    if status:
        print("Run `make notebooks` to store the notebooks anew from their .py sources.")
    return status
