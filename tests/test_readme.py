"""What README promises: its links, its pictures, its table, its commands."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES = sorted((ROOT / "figures" / "reference").glob("*/*.png"))


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if "://" not in link]
    assert len(local) > 10
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_table_is_what_the_results_say():
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "readme.py", "--check"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert README.count("| k-means |") > 0


@pytest.fixture(scope="module")
def readme():
    """scripts/readme.py as a module."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / "scripts" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("It reaches a recall of 0.973 here.", ["0.973"]),
        ("It is 12 times faster, or 85% of it.", ["12", "85%"]),
        ("It indexes 41,000 SIFT descriptors.", ["41,000"]),
        ("It indexes 40,000 SIFT vectors.", ["40,000"]),
        ("It indexes 40,000 SIFT\ndescriptors.", []),
        ("By Somebody (2017), `k=10`, 1-recall@10, uint8, [05 Evaluate](a/05.ipynb)", []),
    ],
)  # fmt: skip
def test_a_number_that_no_result_supports_is_found(readme, planted, found):
    known = pd.read_csv(ROOT / "results" / "reference" / "facts.csv").text.tolist()
    assert readme.unsupported(README, known) == []
    text = README.replace("## Troubleshooting", f"{planted}\n\n## Troubleshooting")
    at = text[: text.index(planted)].count("\n") + 1
    assert readme.unsupported(text, known) == [f"line {at}: {number}" for number in found]


def test_every_fact_is_used(readme):
    """A text that README no longer has would let its numbers pass unnoticed."""
    words = " ".join(README.split())
    unused = [t for t in readme.facts().text if t not in words]
    assert unused == []


def test_commands_exist():
    used = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) | set(
        re.findall(r"`make ([a-z-]+)", README)
    )
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"figures", "test", "lab", "help", "data"} <= used <= targets


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_examples_run(tmp_path, code):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
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
    ink = (np.abs(pixels - pixels[0, 0]).max(axis=2) > 0.1).mean()
    assert 0.005 < ink < 0.95
    vector = path.with_suffix(".svg")
    assert vector.stat().st_size < 1_500_000
    assert b"<dc:date>" not in vector.read_bytes()
