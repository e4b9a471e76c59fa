"""The tables in results/: each is described in results/README.md, and is as described there."""

import ast
import csv
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from pqlib.study import save_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
TABLES = sorted((ROOT / "results" / "reference").glob("*/*.csv"))
# The data set that has every file, but those of notebooks with one of their own.
WHOLE = "photo-sift"
OWN_SETS = {"09": "gloss-minilm"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))


def whole(file: str) -> str:
    """The data set that has a file, whatever others have."""
    return OWN_SETS.get(file[:2], WHOLE)


each = pytest.mark.parametrize("path", TABLES, ids=lambda p: f"{p.parent.name}/{p.stem}")
each_notebook = pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda p: p.stem)

MACHINE = ["cpu", "cores", "threads", "simd", "blas", "system", "python", "faiss", "numpy"]
TIMING = re.compile(r"qps\w*|\w+_ms|\w+_us|\w+_s|seconds")
TYPES = {
    "int": re.compile(r"-?\d+"),
    "float": re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?"),
    "bool": re.compile(r"True|False"),
    "str": re.compile(r".+", re.DOTALL),
}
ASCENDING = [
    ("recall_low", "recall", "recall_high"),
    ("query_low", "query_recall", "query_high"),
    ("seed_low", "seed_mean", "seed_high"),
    ("low", "difference", "high"),
    ("low", "median", "high"),
    ("qps_min", "qps", "qps_max"),
    ("p50_ms", "p95_ms", "p99_ms"),
]


# What results/README.md says ---------------------------------------------------------------


class Column(NamedTuple):
    """A line of a table of columns."""

    unit: str
    type: str
    missing: bool


def section(title: str) -> str:
    """Text below a heading, up to the next of the same level or a higher one."""
    (level,) = re.findall(rf"^(#+) {re.escape(title)}$", README, re.MULTILINE)
    rest = README.split(f"\n{level} {title}\n", 1)[1]
    return re.split(rf"^#{{1,{len(level)}}} ", rest, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Cells of the table lines in a text, without the heads of the tables."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    heads = {i for i, row in enumerate(cells) if set("".join(row)) == {"-", " "} - {" "}}
    return [row for i, row in enumerate(cells) if i not in heads and i + 1 not in heads]


def columns_in(text: str) -> dict[str, Column]:
    found = {}
    for name, meaning, unit, kind in rows(text):
        name = name.strip("`")
        assert name not in found, f"{name} is described twice"
        assert meaning, name
        assert unit, name
        kind, _, missing = kind.partition(" or ")
        assert kind in TYPES, name
        assert missing in ("", "empty"), name
        found[name] = Column(unit, kind, bool(missing))
    return found


FILES = {name.strip("`"): rest for name, *rest in rows(section("Files"))}
SHARED = columns_in(section("Columns that files share"))


def own_columns() -> dict[str, dict[str, Column]]:
    """Described columns by the heading of their section, which names one file or several."""
    text = section("Columns of one file")
    return {t: columns_in(section(t)) for t in re.findall(r"^### (.+)$", text, re.MULTILINE)}


OWN = own_columns()


def files_of(title: str) -> list[str]:
    return re.findall(r"`([^`]+)`", title)


def described(file: str) -> dict[str, Column]:
    """All columns that the file may have; its own lines come before the shared ones."""
    own = [columns for title, columns in OWN.items() if file in files_of(title)]
    assert len(own) <= 1
    return SHARED | (own[0] if own else {})


@cache
def read(path: Path) -> pd.DataFrame:
    """A table as it is written: all cells str, "" where missing."""
    with path.open(encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    assert all(len(line) == len(head) for line in lines)
    return pd.DataFrame(lines, columns=head, dtype=object)


def numbers(cells: pd.Series) -> pd.Series:
    return pd.to_numeric(cells[cells != ""])


# Files and columns -------------------------------------------------------------------------


def test_files_are_described_and_described_files_are_there():
    assert {p.name for p in TABLES} - set(FILES) == set()
    assert set(FILES) - {p.name for p in TABLES if p.parent.name == whole(p.name)} == set()
    assert {file for title in OWN for file in files_of(title)} <= set(FILES)


def test_described_files_are_written_by_the_notebook_named():
    written = {}
    for source in NOTEBOOKS:
        for call in calls(source, "save_table"):
            name = ast.literal_eval(call.args[2])
            assert name not in written, f"{name} is written twice"
            written[f"{name}.csv"] = f"[{source.stem[:2]}](../notebooks/{source.stem}.ipynb)"
    named = {file: by for file, (_, by, _) in FILES.items() if not by.startswith("`make")}
    assert named == written


def test_described_figures_are_there():
    for file, (_, _, figures) in FILES.items():
        for figure in re.findall(r"`([^`]+)`", figures):
            assert (ROOT / "figures" / "reference" / whole(file) / f"{figure}.png").exists(), (
                f"{figure} of {file}"
            )
        assert figures == "-" or "`" in figures


def test_no_column_is_described_that_no_file_has():
    heads = {p.name: set(read(p).columns) for p in TABLES if p.parent.name == whole(p.name)}
    for title, columns in OWN.items():
        there = [heads[file] for file in files_of(title) if file in heads]
        if there:
            assert set(columns) - set().union(*there) == set(), title
    # A shared description is used by several files, or it would not be one.
    used = Counter()
    for file, head in heads.items():
        own = {name for title in OWN if file in files_of(title) for name in OWN[title]}
        used.update(head - own)
    assert {name for name in SHARED if used[name] < 2} == set()


def test_what_a_rerun_changes_is_listed():
    listed = section("Which values a re-run changes").split("**What follows")[0]
    timings = set(re.findall(r"`(\w+)`", listed))
    names = set(SHARED).union(*OWN.values())
    assert {name for name in names if TIMING.fullmatch(name)} == timings - {"ratio", "p50_ratio"}


@each
def test_every_column_is_described(path):
    assert set(read(path).columns) - set(described(path.name)) == set()


@each
def test_columns_are_the_same_for_all_data_sets(path):
    assert list(read(path).columns) == list(
        read(path.parents[1] / whole(path.name) / path.name).columns
    )


# Values ------------------------------------------------------------------------------------


@each
def test_rows(path):
    assert b"\r" not in path.read_bytes()
    table = read(path)
    assert len(table) > 0
    assert table.columns.is_unique
    assert not table.duplicated().any()


@each
def test_values_are_of_the_type_described(path):
    table = read(path)
    run = table[table.status == "ok"] if "status" in table else table
    for name, column in described(path.name).items():
        if name not in table:
            continue
        cells = table[name][table[name] != ""]
        wrong = [cell for cell in cells if not TYPES[column.type].fullmatch(cell)]
        assert wrong == [], name
        if not column.missing:
            assert (run[name] != "").all(), f"{name} has missing values"


@each
def test_numbers_have_six_digits(path):
    table = read(path)
    for name, column in described(path.name).items():
        if name in table and column.type == "float":
            digits = [
                len(re.sub(r"e.*|\D", "", cell).lstrip("0")) for cell in table[name] if "." in cell
            ]
            assert max(digits, default=0) <= 6, name


@each
def test_numbers_are_in_the_range_described(path):
    table = read(path)
    for name, column in described(path.name).items():
        ends = re.fullmatch(r"(-?\d+)\.\.(\d+)", column.unit)
        if name in table and ends:
            values = numbers(table[name])
            # Differences of shares may be a rounding error beyond.
            assert values.between(int(ends[1]) - 1e-9, int(ends[2]) + 1e-9).all(), name
        # The interval of one more seed is the only share of neighbours that may leave it.
        assert ends or "recall" not in name, name


@each
def test_intervals_hold_their_value(path):
    table = read(path)
    for names in ASCENDING:
        if set(names) <= set(table.columns):
            low, value, high = (numbers(table[name]) for name in names)
            assert (low <= value).all(), names
            assert (value <= high).all(), names


@each
def test_what_was_not_run_says_why(path):
    table = read(path)
    if "status" in table:
        assert set(table.status) <= {"ok", "not run"}
        assert ((table.status == "not run") == (table.reason != "")).all()


@each
def test_timings_name_their_machine(path):
    table = read(path)
    measured = [
        name for name in table if TIMING.fullmatch(name) and (table[name] != "").any()
    ]  # a sweep without timing has the column, empty
    if measured:
        assert set(MACHINE) - set(table.columns) == set(), f"{measured} without their machine"
        assert (table[MACHINE] != "").all(axis=None)


def test_the_machine_is_what_evaluation_says():
    from pqlib import evaluation

    assert list(evaluation.machine()) == MACHINE
    assert set(MACHINE) <= set(SHARED)


# How tables are made -----------------------------------------------------------------------


def test_a_table_is_written_as_described(tmp_path):
    table = pd.DataFrame(
        {
            "text": ["größer, als", None],
            "float": [2 / 3, None],
            "object": pd.Series([1 / 3, 12345678.9], dtype=object),
            "int": pd.array([1_234_567, None], dtype="Int64"),
        }
    )
    save_table(table, tmp_path, "01_table")
    written = (tmp_path / "results" / "01_table.csv").read_bytes().decode("utf-8")
    assert written == (
        'text,float,object,int\n"größer, als",0.666667,0.333333,1234567\n,,1.23457e+07,\n'
    )
    assert table["object"].dtype == object


def test_the_example_of_an_export_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    path = run.stdout.strip()
    assert f"# {path}" in code
    assert (tmp_path / path).is_file()


def test_links_lead_somewhere():
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README)}
    assert [link for link in links if not (ROOT / "results" / link).exists()] == []


# Sweeps ------------------------------------------------------------------------------------


def calls(source: Path, function: str) -> list[ast.Call]:
    """Calls of a function by its plain name, or as a method, in a source file."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and function in (getattr(node.func, "id", ""), getattr(node.func, "attr", ""))
    ]


def study_modules(source: Path) -> list[Path]:
    """Modules of the study that a notebook imports."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    names = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    paths = [ROOT / f"{'/'.join(name.split('.')[:3])}.py" for name in names]
    return sorted({path for path in paths if path.parent.name == "study" and path.exists()})


def sweep_names(source: Path) -> list[str]:
    """Names of the sweeps in a source file, each of which has a store and a context."""
    names = []
    for call in calls(source, "sweep"):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if isinstance(call.func, ast.Attribute):  # of a Study, which has both
            names.append(ast.literal_eval(call.args[0]))
        else:
            assert {"progress", "store", "context"} <= set(given), f"line {call.lineno}"
            if not isinstance(given["progress"], ast.Name):  # of Study.sweep itself
                names.append(ast.literal_eval(given["progress"]))
    return names


def file_name(sweep: str) -> str:
    """What a sweep's file is called, at least where small and capital letters are one."""
    return re.sub(r"[^\w.-]+", "-", sweep).strip("-.").casefold()


def all_sweeps(source: Path) -> list[str]:
    """Names of the sweeps of a notebook and of the modules of the study that it imports."""
    return [name for path in (source, *study_modules(source)) for name in sweep_names(path)]


@each_notebook
def test_sweeps_have_names_of_their_own(source):
    """Stored points are known by the sweep's name: under one name, two would share them."""
    counts = Counter(map(file_name, all_sweeps(source)))
    assert [name for name, count in counts.items() if count > 1] == []


def test_there_are_sweeps():
    """The check above looks at something."""
    assert sum(len(all_sweeps(source)) for source in NOTEBOOKS) > 10
