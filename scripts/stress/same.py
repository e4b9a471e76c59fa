"""The same results in whatever surroundings: threads, SIMD levels, hashes, languages, folders."""

from __future__ import annotations

import json
import locale
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

EXACT: dict[str, dict[str, str]] = {
    "a second run": {},
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "PYTHONHASHSEED=0": {"PYTHONHASHSEED": "0"},
    "PYTHONHASHSEED=1": {"PYTHONHASHSEED": "1"},
    "another language": {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"},
    "no language, ASCII": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"},
    "another time zone": {"TZ": "Pacific/Kiritimati"},
    "FAISS_SIMD_LEVEL=AVX2": {"FAISS_SIMD_LEVEL": "AVX2"},
    "FAISS_SIMD_LEVEL=NONE": {"FAISS_SIMD_LEVEL": "NONE"},
}
PINNED = ("numpy", "faiss-cpu", "scipy", "numba", "h5py")
"""What results depend on, installed in the version that is here."""

TOLERANCE = 2e-5
"""Relative, of float results where SIMD levels round differently."""

RECALL_TOLERANCE = 0.002
"""Of recalls there: a near tie may fall the other way."""


ADDITIVE = ("ResidualQuantizer", "LocalSearchQuantizer")
ADDITIVE_TOLERANCE = 0.005
"""Relative, of the errors of sums of codewords there: k-means of residuals, which are fractions,
comes to rest elsewhere when they are rounded otherwise."""


def run(share: float, seed: int) -> list[dict[str, Any]]:
    """Compare the digest in all surroundings with that of an undisturbed run."""
    rows = []
    reference = _digest({})
    for name, variables in EXACT.items():
        rows.append(_compared(name, reference, _digest(variables), "SIMD" in name))
    with tempfile.TemporaryDirectory(prefix="pqlib same ") as folder:
        place = Path(folder) / "größe 1 {x} – ordner"
        shutil.copytree(ROOT / "pqlib", place / "pqlib", ignore=shutil.ignore_patterns("*.pyc"))
        moved = _digest({"PYTHONPATH": str(place)}, cwd=place)
        rows.append(_compared("a path with spaces and other letters", reference, moved, False))
        installed = _installed(Path(folder))
        rows.append(_compared("pip install, read only, empty folder", reference, installed, False))
    return rows


def _compared(name: str, one: dict[str, Any], other: dict[str, Any], loosely: bool) -> dict:
    differing = []
    for key, value in one["hashes"].items():
        if other["hashes"][key] != value and not loosely:
            differing.append(key)
    for key, value in one["numbers"].items():
        found = other["numbers"][key]
        near = RECALL_TOLERANCE if key.startswith("recall") else TOLERANCE * abs(value)
        if key.endswith(ADDITIVE):
            near = ADDITIVE_TOLERANCE * abs(value)
        if abs(found - value) > (near if loosely else 0):
            differing.append(f"{key} {value} {found}")
    count = len(one["hashes"]) + len(one["numbers"])
    same = sum(other["hashes"][k] == v for k, v in one["hashes"].items())
    note = f"{same} of {len(one['hashes'])} hashes equal, {len(one['numbers'])} numbers"
    note += " within tolerance" if loosely else " equal"
    if differing:
        note = "differing: " + ", ".join(differing)[:300]
    print(f"  {name}: {note}", flush=True)
    return {"what": name, "tried": count, "wrong": len(differing), "note": note}


def _digest(
    variables: dict[str, str], cwd: Path | None = None, python: str = sys.executable
) -> dict[str, Any]:
    language = variables.get("LC_ALL")
    if language not in (None, "C"):
        try:
            locale.setlocale(locale.LC_ALL, language)
        except locale.Error:
            print(f"  {language} is not installed here; the variables are set all the same")
        finally:
            locale.setlocale(locale.LC_ALL, "C")
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [python, str(Path(__file__).with_name("digest.py"))],
            env={**os.environ, "PQLIB_CACHE": cache, **variables},
            cwd=cwd or ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"digest.py with {variables} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _installed(folder: Path) -> dict[str, Any]:
    """Install the package into a fresh environment, make that read-only, use it elsewhere."""
    source, place = folder / "source", folder / "environment"
    for name in ("pqlib", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.pyc"))
        else:
            shutil.copy2(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    python = str(place / "bin" / "python")
    pins = [f"{name}=={metadata.version(name)}" for name in PINNED]
    command = [python, "-m", "pip", "install", "--quiet", str(source), *pins]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    subprocess.run([python, "-m", "pip", "check"], check=True, stdout=subprocess.DEVNULL)
    packages = next((place / "lib").glob("python*/site-packages"))
    for path in [*packages.rglob("pqlib/**/*"), packages / "pqlib"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    empty = folder / "empty"
    empty.mkdir()
    try:
        return _digest({"PYTHONPATH": ""}, cwd=empty, python=python)
    finally:
        for path in [packages / "pqlib", *packages.rglob("pqlib/**/*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
