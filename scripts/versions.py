"""Run the tests with the oldest and with the newest allowed numpy, faiss-cpu and h5py.

    python scripts/versions.py              both, each in an environment of its own: long
    python scripts/versions.py oldest
    python scripts/versions.py newest -- tests/test_indexes.py     only some tests

The environments lie in runs/versions/ and are made anew each time. Notebooks run, but their outputs
are not compared: other versions give other last digits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
VARIED = ("numpy", "faiss-cpu", "h5py")


def pins(which: str) -> list[str]:
    """Return the requirements of ``VARIED`` for "oldest" or "newest"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = dict(line.split(">=") for line in project["dependencies"])
    if which == "newest":
        return list(VARIED)
    return [
        f"{name}=={listed[name]}" + (".*" if listed[name].count(".") < 2 else "") for name in VARIED
    ]


def run(which: str, arguments: list[str]) -> int:
    """Make the environment, run the tests there, and return the exit status."""
    place = ROOT / "runs" / "versions" / which
    subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
    python = str(place / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--upgrade", "--editable", ".[dev]"]
    subprocess.run([*install, *pins(which)], check=True, cwd=ROOT)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "freeze"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    shown = [line for line in listed.splitlines() if line.split("==")[0] in VARIED]
    print(f"{which}: {', '.join(shown)}", flush=True)
    command = [python, "-m", "pytest", "--quiet", "-n", "2", "--dist", "loadfile"]
    command += ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "600"]
    variables = {
        **os.environ,
        "PQLIB_OTHER_VERSIONS": "1",
        "TQDM_DISABLE": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
    }
    started = time.monotonic()
    command += arguments or ["notebooks", "tests"]
    status = subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode
    print(f"{which}: exit status {status} after {time.monotonic() - started:.0f} s", flush=True)
    return status


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    words = sys.argv[1:]
    arguments: list[str] = []
    if "--" in words:
        arguments = words[words.index("--") + 1 :]
        words = words[: words.index("--")]
    return max([run(which, arguments) for which in words or ("oldest", "newest")])


if __name__ == "__main__":
    sys.exit(main())
