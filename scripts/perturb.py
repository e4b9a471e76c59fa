"""Show that no verdict depends on how fast a machine is, or on what a run has written.

In a copy of the checkout every timing of every table is multiplied by a factor between 0.2 and 5,
drawn for each row, and ``run.csv`` is that of a machine five times slower.

1. These tables lie where a user's run would leave them. The tests that read results pass, and git
   sees no change.
2. They are published, and the documents computed anew. The same tests pass again, whatever the
   timings say now.

python scripts/perturb.py [SEED]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
TESTS = ["test_results", "test_readme", "test_advice", "test_reliability", "test_notebooks"]
SLOWER = 5
LEAST, MOST = 0.2, 5.0


def timings() -> set[str]:
    """Return the columns of timings, as results/README.md lists them."""
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    section = text.split("## Which values a re-run changes")[1].split("**What follows")[0]
    return set(re.findall(r"`(\w+)`", section))


def perturbed(table: pd.DataFrame, columns: set[str], rng: np.random.Generator) -> pd.DataFrame:
    """Return a table, its cells text, of another machine: one factor a row.

    Durations are multiplied by it, rates divided. Columns of ratios get factors of their own.
    """
    table = table.copy()
    factor = np.exp(rng.uniform(np.log(LEAST), np.log(MOST), len(table)))
    for name in columns & set(table.columns):
        of_two = np.exp(rng.uniform(np.log(LEAST), np.log(MOST), len(table)))
        rate = name.startswith("qps") or name.endswith("_per_s")
        by = of_two if "ratio" in name else 1 / factor if rate else factor
        table[name] = [
            f"{float(cell) * f:.6g}" if cell else ""
            for cell, f in zip(table[name], by, strict=True)
        ]
    return table


def write_runs(checkout: Path, seed: int) -> None:
    """Leave perturbed tables, and pictures of nothing, where runs would."""
    rng, columns = np.random.default_rng(seed), timings()
    for path in sorted((checkout / "results" / "reference").glob("*/*.csv")):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if path.name == "run.csv":
            table["seconds"] = (SLOWER * table.seconds.astype(float)).round(1)
        else:
            table = perturbed(table, columns, rng)
        place = checkout / "results" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(place, index=False, lineterminator="\n")
    for path in (checkout / "figures" / "reference").glob("*/01_*.png"):
        place = checkout / "figures" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"no picture")


def copy(folder: Path) -> Path:
    """Return a git checkout of the working tree's files as they are."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout.decode()  # fmt: skip
    for name in names.split("\0"):
        source, place = ROOT / name, folder / name
        if name and source.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)
    git = ["git", "-c", "user.name=copy", "-c", "user.email=copy@example.org"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "copy"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    return folder


def run(checkout: Path, *words: str) -> str:
    """Run Python on the copy; return what it printed; its failure ends this script."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, *words], cwd=checkout, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout[-6000:]}{done.stderr[-2000:]}\nperturb: failed: {' '.join(words)}")
    return done.stdout


def test(checkout: Path, what: str) -> None:
    """Run the tests that read results."""
    files = [f"tests/{name}.py" for name in TESTS]
    # Those two read no results, and take long.
    words = ["-n", "2", "-k", "not python_examples_run and not test_command_compares"]
    said = run(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, *files)
    print(f"{what}: {said.strip().splitlines()[-1]}", flush=True)


def main() -> int:
    """Perturb, test, publish, test again."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with tempfile.TemporaryDirectory(prefix="perturb-") as folder:
        checkout = copy(Path(folder))
        write_runs(checkout, seed)
        test(checkout, "results of a slow machine beside the committed ones")
        state = ["git", "status", "--short"]
        seen = subprocess.run(state, cwd=checkout, check=True, capture_output=True, text=True)
        if seen.stdout:
            sys.exit(f"perturb: git sees what a run wrote:\n{seen.stdout}")
        for place in sorted((checkout / "figures").glob("*")):
            if place.name != "reference":
                shutil.rmtree(place)  # pictures of nothing are not to be published
        for place in sorted((checkout / "results").glob("*/*.csv")):
            if place.parent.name != "reference":
                target = checkout / "results" / "reference" / place.parent.name / place.name
                shutil.copy2(place, target)
        run(checkout, "scripts/readme.py")
        test(checkout, "the same, committed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
