"""The notebooks as files: pairs, parameters, headings, and what is stored of their outputs.

That they run, and print what is stored, is for nbval: `make test` lets it loose on notebooks/.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import jupytext
import nbformat
import pytest

from pqlib.study.pipeline.stored import clean, differences

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
each = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)

FIRST_SIX = [
    "01_data",
    "02_clustering",
    "03_pq_encoding",
    "04_search",
    "05_evaluation",
    "06_sensitivity",
]
PARAMETERS = {"dataset", "n_train", "n_test", "seed", "output"}
# Imperatives a title may start with: it says what the reader is going to do.
VERBS = set(
    re.findall(
        r"\w+",
        """Beat Build Choose Climb Cluster Combine Compare Compress Cut Encode Evaluate Explain
        Explore Find Follow Improve Learn Load Look Make Measure Meet Put Quantize Rank Rotate Run
        Scan See Search Shrink Speed Split Study Take Train Try Tune Use Walk Weigh""",
    )
)
SECTIONS = ["What you'll do", "What you'll learn", "What you'll need"]
LOCAL_PATH = re.compile(
    r"(?<![\w.:/])(?:~|/(?:home|Users|root|tmp|private|var/folders|work|mnt|opt|srv))/[\w.-]+"
)


def cells(source: Path) -> list[nbformat.NotebookNode]:
    return jupytext.read(source, fmt="py:percent").cells


def stored(source: Path) -> nbformat.NotebookNode:
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def headings(source: Path) -> list[tuple[int, str]]:
    """Level and text of every heading, in order."""
    found = []
    for cell in cells(source):
        if cell.cell_type != "markdown":
            continue
        fenced = False
        for line in cell.source.splitlines():
            fenced ^= line.lstrip().startswith("```")
            match = re.fullmatch(r"(#{1,6}) +(.+?) *#*", line)
            if match and not fenced:
                found.append((len(match[1]), match[2].replace("’", "'")))
    return found


def texts(value: object) -> list[str]:
    """All that is text in an output; pictures are left out."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [t for k, v in value.items() if not k.startswith("image/") for t in texts(v)]
    if isinstance(value, list):
        return [t for v in value for t in texts(v)]
    return []


def test_the_six_are_there():
    assert [p.stem for p in SOURCES if p.stem in FIRST_SIX] == FIRST_SIX
    numbers = [p.stem[:2] for p in SOURCES]
    assert numbers == [f"{n:02d}" for n in range(1, len(numbers) + 1)]


def test_no_stored_notebook_without_a_source():
    stored_names = {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert stored_names <= {p.stem for p in SOURCES}


@each
def test_pairs_agree(source):
    assert differences(source) == []


@each
def test_one_cell_is_tagged_parameters(source):
    tagged = [c for c in cells(source) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    values = {}
    for node in ast.parse(tagged[0].source).body:
        assert isinstance(node, ast.Assign), "a parameters cell holds plain assignments only"
        (target,) = node.targets
        assert isinstance(target, ast.Name)
        # Anything but a literal could depend on what papermill replaces below it.
        values[target.id] = ast.literal_eval(node.value)
    assert values.keys() >= PARAMETERS
    own = {"09_embeddings": "gloss-minilm"}.get(source.stem, "photo-sift")
    assert (values["dataset"], values["n_train"], values["n_test"]) == (own, None, None)
    assert (values["seed"], values["output"]) == (0, None)


@each
def test_the_title_says_what_to_do(source):
    first = cells(source)[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    found = headings(source)
    assert [level for level, _ in found].count(1) == 1
    title = found[0][1]
    assert title.split()[0] in VERBS, f"{title!r} does not start with a known imperative"


@each
def test_the_opening_sections(source):
    assert [text for _, text in headings(source)[1:4]] == SECTIONS
    assert [level for level, _ in headings(source)[1:4]] == [2, 2, 2]


@each
def test_headings(source):
    found = headings(source)
    for (level, _), (below, text) in pairwise(found):
        assert below <= level + 1, f"{text!r} skips a level"
    names = [text for _, text in found]
    assert len(set(names)) == len(names), "two headings are the same"


@each
def test_stored_as_the_pipeline_writes_it(source):
    """So: ids that follow from the source, no timestamps, no metadata of any one machine."""
    path = source.with_suffix(".ipynb")
    content = stored(source)
    nbformat.validate(content)
    assert content == clean(content), "run `make notebooks`"
    assert set(json.loads(path.read_text(encoding="utf-8"))["metadata"]) == {
        "jupytext",
        "kernelspec",
        "language_info",
    }


@each
def test_stored_outputs_are_of_a_complete_run(source):
    count = 0
    for cell in stored(source).cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        count += 1
        head = cell.source.splitlines()[0]
        assert cell.execution_count == count, f"not run, or out of order: {head}"
        for output in cell.outputs:
            assert output.output_type != "error", head
            # Warnings and progress bars: noise to the reader, and not the same twice.
            assert output.get("name") != "stderr", f"{head}: {output.get('text')}"


@each
def test_stored_outputs_name_no_place_on_a_machine(source):
    for cell in stored(source).cells:
        for text in texts(cell.get("outputs", [])):
            match = LOCAL_PATH.search(text)
            assert match is None, f"{match and match[0]} in {cell.source.splitlines()[0]}"


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("took 0.12 s, 1,234 QPS, recall 0.912", "took 14.8 ms, 56.7 QPS, recall 0.912", True),
        ("/home/a/data/x.hdf5 read", "/tmp/b c/y.hdf5 read", False),
        ("/home/a/data/x.hdf5 read", "/Users/b/y.hdf5 read", True),
        ("on 2026-01-02 03:04:05 at 0x7f001234", "on 2027-11-12 at 0x55aa55aa55aa", True),
        ("  1.5 s   2 min  done", "100.5 s 12 min done", True),
        ("recall 0.912", "recall 0.913", False),
        ("128 sub-quantizers", "64 sub-quantizers", False),
        ("60000 x 784, m=8", "60000 x 784, m=4", False),
    ],
)
def test_what_the_sanitizing_file_lets_pass(before, after, same):
    """The very replacements nbval makes, without the seconds of starting a kernel."""
    from nbval.plugin import get_sanitize_patterns

    patterns = get_sanitize_patterns((ROOT / "tests/nbval_sanitize.cfg").read_text("utf-8"))
    assert len(patterns) == 6

    def sanitized(text: str) -> str:
        for regex, replace in dict(patterns).items():
            text = re.sub(regex, replace, text)
        return text

    assert (sanitized(before) == sanitized(after)) is same


def test_the_test_command_compares_outputs(tmp_path):
    """nbval with the flags of `make test` sees a number that changed, and lets a timing pass."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.replace("\\\n", " ").split("\ntest:")[1].split("\n\n")[0]
    assert "PQLIB_STRICT_FIGURES=1" in recipe
    assert re.search(r"-m pytest .*\$\(NBVAL\) .*\$\(STORED\) tests/\*\.py", recipe)
    # Each notebook, or its slice; all notebooks with FULL.
    said = {
        full: subprocess.run(
            ["make", "--dry-run", "test", f"FULL={full}"], cwd=ROOT, capture_output=True, text=True
        ).stdout
        for full in ("", "1")
    }
    for source in SOURCES:
        name = f"{source.stem}.ipynb"
        assert len(re.findall(rf" (?:notebooks|tests/slices)/{name} ", said[""])) == 1, name
    assert re.search(r" notebooks tests/", said["1"])
    flags = [f for f in re.findall(r"--nbval-\S+(?: (?!-)\S+)?", recipe) if f != "--nbval-lax"]
    assert {f.split()[0] for f in flags} >= {"--nbval-current-env", "--nbval-sanitize-with"}

    cells = [
        nbformat.v4.new_code_cell(
            "print('took 1.2 s, recall 0.5')",
            execution_count=number,
            outputs=[nbformat.v4.new_output("stream", name="stdout", text=f"{printed}\n")],
        )
        for number, printed in enumerate(("took 3.4 s, recall 0.5", "took 3.4 s, recall 0.6"), 1)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    words = [word for flag in flags for word in flag.split()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", *words,
         "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTEST_ADDOPTS": ""}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "one.ipynb::Cell 1" in done.stdout
