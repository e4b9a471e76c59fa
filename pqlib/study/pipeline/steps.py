"""What a step of the pipeline is, and how it is known whether it has to run.

A step is one notebook for one data set. It is up to date when the hash of everything that goes
into it (notebook, package, data, parameters, versions) is the one of the *stamp* written after
its last complete run, and the files that run produced are still there, unaltered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pqlib._atomic import replacing
from pqlib.study.pipeline.data import DataSource

STAMP_FORMAT = 1
VERSIONS_THAT_COUNT = ("numpy", "faiss-cpu", "scipy", "numba", "matplotlib", "h5py", "pandas")
STYLE_SUFFIXES = (".py", ".mplstyle")


class PipelineError(Exception):
    """Something the user has to know and can act on; shown without a traceback."""


@dataclass(frozen=True)
class Layout:
    """Where things are in a checkout."""

    root: Path

    @property
    def notebooks(self) -> Path:
        """Folder of the notebooks; also their working directory when they run."""
        return self.root / "notebooks"

    @property
    def package(self) -> Path:
        """Folder of the package whose source the results depend on."""
        return self.root / "pqlib"

    @property
    def runs(self) -> Path:
        """Folder of executed notebooks, stamps, and what is under way; never committed."""
        return self.root / "runs"

    @property
    def staging(self) -> Path:
        """Folder a running notebook writes into, so that a failing one harms nothing."""
        return self.runs / ".staging"

    def promoted(self, kind: str, label: str) -> Path:
        """Folder where finished files go; ``kind`` is "figures" or "results"."""
        return self.root / kind / label


def find_notebooks(layout: Layout, wanted: Iterable[str] = ()) -> list[Path]:
    """Return the notebooks' sources in order: all of them, or those named by number or name.

    Raises
    ------
    PipelineError
        When there are none, or when a wanted one does not exist.
    """
    found = sorted(layout.notebooks.glob("[0-9][0-9]_*.py"))
    if not found:
        raise PipelineError(f"no notebooks (NN_name.py) in {layout.notebooks}")
    chosen = []
    for name in wanted:
        short = Path(name).stem
        matching = [p for p in found if short in (p.stem, p.stem[:2], p.stem[:2].lstrip("0"))]
        if not matching:
            known = ", ".join(p.stem for p in found)
            raise PipelineError(f"no notebook {name!r}. There are: {known}; the number will do.")
        chosen += matching
    return sorted(set(chosen)) or found


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_hash(layout: Layout) -> str:
    """Return one hash of all that the package contributes to results.

    The pipeline itself is left out: it decides where files go, not what is in them.
    """
    digest = hashlib.sha256()
    for path in sorted(layout.package.rglob("*")):
        inside = path.relative_to(layout.package)
        if (
            path.suffix in STYLE_SUFFIXES
            and inside.parts[:2] != ("study", "pipeline")
            and path.is_file()
        ):
            digest.update(f"{inside.as_posix()}\0{file_hash(path)}\n".encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that results may depend on, read without importing the packages."""
    result = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in VERSIONS_THAT_COUNT:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            result[name] = "none"
    return result


@dataclass(frozen=True)
class Step:
    """One notebook for one data set."""

    layout: Layout
    notebook: Path
    source: DataSource

    @property
    def number(self) -> str:
        """The notebook's two digits, with which the names of its files start."""
        return self.notebook.stem[:2]

    @property
    def stamp_path(self) -> Path:
        """File that says with which inputs the step last completed, and what it wrote."""
        return self.layout.runs / self.source.label / f"{self.notebook.stem}.json"

    @property
    def executed_path(self) -> Path:
        """The executed copy of the notebook."""
        return self.stamp_path.with_suffix(".ipynb")

    @property
    def failed_path(self) -> Path:
        """The executed copy of a run that failed, up to the failing cell."""
        return self.stamp_path.with_suffix(".failed.ipynb")

    @property
    def sweeps_folder(self) -> Path:
        """Folder of what sweeps of an unfinished run measured, in a folder for its inputs."""
        return self.stamp_path.with_suffix(".sweeps")

    def resume_folder(self, inputs: Mapping[str, Any]) -> Path:
        """Return where sweeps of a run with these inputs keep what they measured.

        Outside of the staging folder, which the next run clears before it starts.
        """
        text = json.dumps(inputs, sort_keys=True)
        return self.sweeps_folder / hashlib.sha256(text.encode()).hexdigest()[:16]

    def forget_sweeps(self, but: Path | None = None) -> None:
        """Remove what sweeps measured, except the folder ``but``."""
        if but is None:
            shutil.rmtree(self.sweeps_folder, ignore_errors=True)
            return
        with contextlib.suppress(OSError):
            for folder in list(self.sweeps_folder.iterdir()):
                if folder != but:
                    shutil.rmtree(folder, ignore_errors=True)

    def inputs(self, package: str, text: str) -> dict[str, Any]:
        """Return all that the results depend on; ``text`` is the notebook's source."""
        return {
            "format": STAMP_FORMAT,
            "notebook": hashlib.sha256(text.encode()).hexdigest(),
            "package": package,
            "data": self.source.identity(),
            "parameters": {"dataset": self.source.dataset},
            "versions": versions(),
        }

    def read_stamp(self) -> dict[str, Any] | None:
        """Return the stamp of the last complete run, None where there is none to be trusted."""
        try:
            stamp = json.loads(self.stamp_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        usable = isinstance(stamp, dict) and isinstance(stamp.get("outputs"), dict)
        return stamp if usable else None

    def reason_to_run(self, inputs: Mapping[str, Any], stamp: Mapping[str, Any] | None) -> str:
        """Return why the step has to run, in a few words; empty when it is up to date."""
        if stamp is None:
            return "not run before"
        before = stamp.get("inputs", {})
        changed = [name for name, value in inputs.items() if before.get(name) != value]
        if changed:
            return f"changed: {', '.join(changed)}"
        for name, digest in stamp["outputs"].items():
            path = self.layout.root / name
            if not path.is_file():
                return f"missing: {name}"
            if file_hash(path) != digest:
                return f"altered: {name}"
        return ""

    def write_stamp(self, stamp: Mapping[str, Any]) -> None:
        """Write the stamp at once or not at all; the last thing a step does."""
        text = json.dumps(stamp, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        write_atomically(self.stamp_path, text.encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that, killed at any moment, the old or the new one is there in full."""
    with replacing(path, parents=True) as file:
        file.write(content)
