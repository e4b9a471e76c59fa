"""The slices that `make test` compares instead of notebooks that take long.

That they print what is stored is for nbval, as with whole notebooks.
"""

from pathlib import Path

import jupytext
import nbformat
import pytest

from pqlib.study.pipeline.slices import SLICES

ROOT = Path(__file__).parents[1]


def test_each_slice_is_stored():
    assert {p.stem for p in (ROOT / "tests" / "slices").glob("*.ipynb")} == set(SLICES)
    assert set(SLICES) <= {p.stem for p in (ROOT / "notebooks").glob("*.py")}


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_is_its_notebook_with_other_parameters(name):
    cells = nbformat.read(ROOT / "tests" / "slices" / f"{name}.ipynb", as_version=4).cells
    own = [c for c in cells if "injected-parameters" not in c.metadata.get("tags", [])]
    source = jupytext.read(ROOT / "notebooks" / f"{name}.py", fmt="py:percent").cells
    assert [(c.cell_type, c.source) for c in own] == [(c.cell_type, c.source) for c in source]
    assert [c.metadata.get("tags", []) for c in own] == [c.metadata.get("tags", []) for c in source]
    (injected,) = (c for c in cells if c not in own)
    given = {}
    exec(injected.source, {}, given)
    assert given == SLICES[name]
    assert cells.index(injected) == 1 + next(
        i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", [])
    )


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_has_outputs_and_no_pictures(name):
    cells = nbformat.read(ROOT / "tests" / "slices" / f"{name}.ipynb", as_version=4).cells
    outputs = [o for c in cells for o in c.get("outputs", [])]
    compared = [
        c
        for c in cells
        if c.cell_type == "code"
        and c.outputs
        and "nbval-ignore-output" not in c.metadata.get("tags", [])
    ]
    assert len(compared) >= 3
    assert all(o.output_type != "error" for o in outputs)
    assert not [k for o in outputs for k in o.get("data", {}) if k.startswith("image/")]
