"""What README and docs/ promise: their links, pictures, numbers and commands."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

ROOT = Path(__file__).parents[1]
FIGURES = sorted((ROOT / "figures" / "reference").glob("*/*.png"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
EXAMPLES = [
    (name, code)
    for name, text in TEXTS.items()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
]


@pytest.fixture(scope="module")
def readme():
    """scripts/readme.py as a module."""
    sys.path.insert(0, str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("readme", ROOT / "scripts" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "scripts"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_readme_fits_two_screens_and_leads_everywhere():
    text = TEXTS["README.md"]
    assert len(text.splitlines()) < 130
    assert text.count("![") == 2
    (table,) = re.findall(r"<!-- table -->\n(.*?)\n<!-- / -->", text, re.DOTALL)
    assert len(table.splitlines()) <= 2 + 8
    for page in TEXTS:
        assert page == "README.md" or f"({page}" in text or page == "docs/licences.md", page


def test_passages_are_what_the_results_say(readme):
    for page in readme.PAGES:
        text = page.read_text(encoding="utf-8")
        assert readme.rendered(text) == text, f"{page.name}: run `make readme`"
        assert readme.unsupported(text) == [], page.name


def test_every_passage_is_used(readme):
    used = {m[1] for text in TEXTS.values() for m in readme.PASSAGE.finditer(text)}
    assert used == set(readme.findings.PASSAGES)


def test_an_altered_passage_is_found_and_mended(readme):
    text = TEXTS["README.md"]
    altered = re.sub(r"\| brute force \| all \| 1\.000", "| brute force | all | 0.999", text)
    assert altered != text
    assert readme.rendered(altered) == text


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("It reaches a recall of 0.973 here.", ["0.973"]),
        ("It is 12 times faster, or 85% of it.", ["12", "85%"]),
        ("It indexes 41,000 SIFT descriptors.", ["41,000"]),
        ("By Somebody (2017), `k=10`, 1-recall@10, uint8, [05 Evaluate](a/05.ipynb)", []),
    ],
)  # fmt: skip
def test_a_number_outside_of_the_passages_is_found(readme, planted, found):
    text = TEXTS["README.md"].replace("## Where things are", f"{planted}\n\n## Where things are")
    at = text[: text.index(planted)].count("\n") + 1
    assert readme.unsupported(text) == [f"line {at}: {number}" for number in found]


def test_commands_exist():
    text = "\n".join(TEXTS.values())
    used = set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
    used |= set(re.findall(r"`make ([a-z-]+)", text))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"figures", "test", "lab", "help", "data", "publish", "perturb"} <= used <= targets


@pytest.mark.parametrize("code", [c for _, c in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_python_examples_run(tmp_path, code):
    # Less time to tune in: what is tested is that the example runs.
    words = [sys.executable, "-c", code.replace("budget_s=10", "budget_s=1")]
    run = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert any(float(n) > 0.9 for n in re.findall(r"^(0\.\d+|1\.0)$", run.stdout, re.MULTILINE))
    assert "bytes per vector" in run.stdout


def test_there_are_figures_of_both_data_sets():
    folders = {path.parent.name for path in FIGURES}
    assert {"photo-sift", "fashion-mnist"} <= folders
    for folder in ("photo-sift", "fashion-mnist"):
        numbers = {path.name[:2] for path in FIGURES if path.parent.name == folder}
        assert {"01", "02", "03", "04", "05", "06", "07"} <= numbers
    names = [
        {p.name for p in FIGURES if p.parent.name == f} for f in ("photo-sift", "fashion-mnist")
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_figures_are_drawn_and_small(path):
    pixels = imread(path)[..., :3]
    assert pixels.shape[1] >= 1000
    # Neither blank nor a blot: some of the page is ink, most of it is paper or picture.
    ink = (np.abs(pixels[::3, ::3] - pixels[0, 0]).max(axis=2) > 0.1).mean()
    assert 0.005 < ink < 0.95
    vector = path.with_suffix(".svg")
    assert vector.stat().st_size < 1_500_000
    assert b"<dc:date>" not in vector.read_bytes()
