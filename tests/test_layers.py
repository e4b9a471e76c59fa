"""What may import what, and what `import pqlib` costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pqlib"
ORDER = ["datasets", "clustering", "quantizers", "indexes", "evaluation", "tuning", "study"]
HELPERS = {path.stem for path in PACKAGE.glob("_[a-z]*.py")}
MODULES = sorted(PACKAGE.rglob("*.py"))
LATER = {"matplotlib", "pandas", "papermill", "numba", "scipy", "pyarrow", "ml_dtypes"} | {
    "sentence_transformers"
}


def part(path: Path) -> str:
    """The part of the package that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Parts of the package that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "pqlib":
                found |= {alias.name for alias in node.names}
            elif (node.module or "").startswith("pqlib."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("pqlib.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_what_stands_before_it(path):
    own = part(path)
    if own in ("__init__", *HELPERS):
        assert own == "__init__" or imported(path) <= HELPERS
        return
    allowed = {*ORDER[: ORDER.index(own) + 1], *HELPERS}
    # The study also uses what the package exports.
    names = imported(path) & {*ORDER, *HELPERS} if own == "study" else imported(path)
    assert names <= allowed, f"imports {sorted(names - allowed)}"


def test_the_method_does_not_know_the_study():
    users = [p for p in MODULES if part(p) != "study" and "study" in imported(p)]
    assert users == []
    assert any("study" in imported(p) for p in MODULES)


def test_importing_the_package_brings_in_little():
    code = (
        "import sys, faiss, numpy; before = set(sys.modules); import pqlib; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = set(said.stdout.split())
    assert {"pqlib"} <= names
    assert names & LATER == set()


def test_what_is_imported_late_is_there():
    import pqlib

    assert {"tune", "load_dataset"} <= set(dir(pqlib))
    assert callable(pqlib.tune)
    assert all(hasattr(pqlib, name) for name in pqlib.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pqlib.nothing  # noqa: B018
