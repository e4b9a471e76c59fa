"""What the project depends on: do the parts fit, under which licences, and are they known unsafe?

    python scripts/supply.py            write docs/licences.md, run pip check and pip-audit
    python scripts/supply.py --check    compare docs/licences.md instead of writing it

pip-audit is installed into a temporary folder. Where the service that it asks cannot be reached,
that is said, and is no error: no answer is not a clean bill.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences of what is installed

All packages that `requirements.lock` installs on Linux with Python 3.11, by what their own metadata
say. Written by `python scripts/supply.py`. This project itself is under the
[MIT licence](../LICENSE).

| package | version | licence |
| --- | --- | --- |
"""
UNREACHABLE = ("ConnectionError", "Max retries", "NameResolution", "Failed to resolve", "timed out")


def locked() -> list[tuple[str, str]]:
    """Return name and version of what the lock installs here, in its order."""
    from packaging.requirements import Requirement

    found = []
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(" "):
            requirement = Requirement(line.removesuffix("\\").strip())
            if requirement.marker is None or requirement.marker.evaluate():
                found.append((requirement.name, str(requirement.specifier).removeprefix("==")))
    return found


def licence(name: str) -> str:
    """Return the licence that an installed package states, in a few words."""
    facts = metadata.metadata(name)
    if facts.get("License-Expression"):
        return str(facts["License-Expression"])
    classes = [
        value.split("::")[-1].strip()
        for value in facts.get_all("Classifier") or []
        if value.startswith("License ::")
    ]
    stated = (facts.get("License") or "").strip()
    first = stated.splitlines()[0].strip() if stated else ""
    if classes and classes != ["OSI Approved"]:
        return ", ".join(classes)
    return first[:60] or "not stated"


def page() -> str:
    """Return the text of docs/licences.md."""
    rows = [f"| {name} | {version} | {licence(name)} |" for name, version in locked()]
    return HEAD + "\n".join(rows) + "\n"


def audit() -> int:
    """Ask whether a locked version is known to be vulnerable; return how many are."""
    with tempfile.TemporaryDirectory(prefix="pqlib-audit-") as folder:
        environment = Path(folder) / "environment"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        python = str(environment / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "pip-audit"], check=True)
        pins = Path(folder) / "pins.txt"
        pins.write_text("".join(f"{name}=={version}\n" for name, version in locked()))
        command = [python, "-m", "pip_audit", "--no-deps", "--disable-pip", "-r", str(pins)]
        command += ["--progress-spinner", "off", "--timeout", "15"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode == 0:
        print(f"pip-audit: {len(locked())} packages, none known to be vulnerable")
        return 0
    if any(word in said for word in UNREACHABLE):
        print("pip-audit: its service cannot be reached from here; nothing is known")
        return 0
    print(said)
    return max(1, len(re.findall(r"^\S+\s+\S+\s+(?:GHSA|PYSEC|CVE)-", said, re.M)))


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    args = parser.parse_args()
    if args.check:
        same = PAGE.read_text(encoding="utf-8") == page()
        print(f"{PAGE}: {'as installed' if same else 'differs; run python scripts/supply.py'}")
        return 0 if same else 1
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(locked())} packages")
    bad = subprocess.run([sys.executable, "-m", "pip", "check"], check=False).returncode
    return 1 if audit() + bad else 0


if __name__ == "__main__":
    sys.exit(main())
