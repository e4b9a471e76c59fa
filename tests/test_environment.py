"""pyproject.toml, requirements.lock, environment.yml and the running environment agree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
# Exact versions of their own: only the script that made the embedded data set uses them; and what
# the benchmark compares with, which need not exist everywhere; and what makes vectors of texts,
# which brings some gigabytes.
NOT_LOCKED = {"photo-sift", "peers", "embed", "gloss-minilm"}


def supported() -> list[str]:
    """The Python versions the classifiers promise."""
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in
             PROJECT["classifiers"]]  # fmt: skip
    return [match[1] for match in found if match]


def direct() -> list[Requirement]:
    """Every requirement of the package and of the extras that the lock covers."""
    extras = PROJECT["optional-dependencies"]
    listed = list(PROJECT["dependencies"])
    for name, requirements in extras.items():
        if name not in NOT_LOCKED:
            listed += requirements
    return [r for r in map(Requirement, listed) if r.name != PROJECT["name"]]


def locked() -> list[tuple[str, Version, Marker | None, str]]:
    """Name, version, marker and hashes of every entry of the lock."""
    entries = []
    for block in re.split(r"\n(?=\S)", LOCK.strip()):
        head, *hashes = [part.strip() for part in block.replace("\\\n", "\n").split("\n")]
        requirement = Requirement(head)
        (pin,) = requirement.specifier
        assert pin.operator == "==", head
        name = canonicalize_name(requirement.name)
        entries.append((name, Version(pin.version), requirement.marker, "\n".join(hashes)))
    return entries


ENTRIES = locked()


@pytest.mark.parametrize("python", supported())
def test_the_lock_satisfies_every_direct_requirement(python):
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    versions = {
        name: version
        for name, version, marker, _ in ENTRIES
        if marker is None or marker.evaluate(environment)
    }
    for requirement in direct():
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not in requirements.lock: run `make lock`"
        assert versions[name] in requirement.specifier, f"{requirement}: run `make lock`"


def test_the_lock_has_hashes_for_all_and_no_addresses():
    for name, _, _, hashes in ENTRIES:
        lines = hashes.splitlines()
        assert lines, f"{name} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in lines), name
    assert "://" not in LOCK
    assert not re.search(r"^--", LOCK, re.MULTILINE)


def test_python_versions_agree():
    oldest, *_, newest = sorted(supported(), key=Version)
    promised = SpecifierSet(PROJECT["requires-python"])
    assert oldest in promised
    below = Version(oldest).release[1] - 1
    assert f"3.{below}" not in promised

    script = (ROOT / "scripts/environment.py").read_text(encoding="utf-8")
    stated = re.search(r"OLDEST, NEWEST = \((\d+), (\d+)\), \((\d+), (\d+)\)", script)
    assert stated is not None
    assert stated.groups() == (*oldest.split("."), *newest.split("."))

    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["linux"]["strategy"]["matrix"]["python"] == supported()


def test_conda_takes_all_but_python_from_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"] == "pqlib"
    dependencies = environment["dependencies"]
    (pip,) = [d["pip"] for d in dependencies if isinstance(d, dict)]
    assert pip == ["-r requirements.lock"]
    by_conda = {re.split(r"[<>=]", d)[0]: d for d in dependencies if isinstance(d, str)}
    assert set(by_conda) <= {"python", "pip", "git", "make"}
    allowed = SpecifierSet(by_conda["python"].removeprefix("python"))
    # Wide enough to see a version too many on either side.
    candidates = [f"3.{minor}" for minor in range(8, 20)]
    assert [v for v in candidates if v in allowed] == supported()


def test_binder_installs_the_package_itself():
    script = (ROOT / "postBuild").read_text(encoding="utf-8")
    assert "pip install --no-deps --no-build-isolation --editable ." in script
    assert (ROOT / "postBuild").stat().st_mode & 0o111


@pytest.mark.skipif(
    "PQLIB_OTHER_VERSIONS" in os.environ, reason="run with other versions on purpose"
)
def test_what_is_installed_is_what_is_locked():
    wrong = []
    for name, version, marker, _ in ENTRIES:
        if marker is not None and not marker.evaluate():
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "nothing"
        if installed != str(version):
            wrong.append(f"{name}: locked {version}, installed {installed}")
    assert not wrong, "\n".join(wrong)


def test_an_active_venv_does_not_make_itself_anew(tmp_path):
    """Its python comes first on the PATH then, and clearing .venv would remove it."""
    checkout = tmp_path / "checkout"
    own = checkout / ".venv" / "bin"
    (checkout / "scripts").mkdir(parents=True)
    own.mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "environment.py", checkout / "scripts")
    (own / "python3").symlink_to(sys.executable)
    elsewhere = tmp_path / "bin"
    elsewhere.mkdir()
    (elsewhere / "python3").symlink_to(sys.executable)
    code = "import environment; print(environment.suitable_python())"
    for named, expected in (("", str(elsewhere)), (str(own / "python3"), "part of the .venv")):
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=checkout / "scripts",
            env={"PATH": f"{own}:{elsewhere}", "PYTHON": named},
            capture_output=True,
            text=True,
            check=False,
        )
        assert expected in run.stdout + run.stderr


def test_the_list_of_licences_is_that_of_the_lock():
    page = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w.-]+) \| (\d\S*) \| (.+) \|$", page, re.MULTILINE)
    linux = {
        "python_version": "3.11",
        "python_full_version": "3.11.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    expected = [(name, str(v)) for name, v, marker, _ in ENTRIES
                if marker is None or marker.evaluate(linux)]  # fmt: skip
    assert [(canonicalize_name(n), v) for n, v, _ in rows] == expected, "run make supply"
    assert [name for name, _, licence in rows if licence == "not stated"] == []


def test_the_parts_fit():
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
