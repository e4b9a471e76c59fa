"""Install the libraries that `make bench PEERS=1` compares with into the running Python.

    .venv/bin/python scripts/peers.py

Those of the extra "peers" of pyproject.toml, one at a time: one that cannot be had on this platform
keeps none of the others away, and the comparison says that it is missing. The exit status is 0 in
any case.
"""

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def wanted():
    """Return the requirements of the extra, as strings."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]["optional-dependencies"]["peers"]


def installed(requirement):
    """Say whether a requirement is met."""
    needed = Requirement(requirement)
    try:
        return needed.specifier.contains(metadata.version(needed.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def main():
    """Install what is missing, and say what could not be."""
    for requirement in wanted():
        if installed(requirement):
            continue
        print(f"Installing {requirement} to compare with ...", flush=True)
        # The versions of what is here already stay: the results of the study depend on them.
        held = [f"{name}=={metadata.version(name)}" for name in ("numpy", "faiss-cpu")]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        done = subprocess.run([*command, requirement, *held], capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"pip ended with status {done.returncode}"]
            print(f"{requirement} cannot be installed here; it will be left out: {said[-1]}")


if __name__ == "__main__":
    main()
