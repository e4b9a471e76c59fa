"""What a step of the pipeline is, and how it is known whether it has to run.

A step is one notebook for one data set. It is up to date when the hash of everything that goes
into it (notebook, package, data, parameters, versions) is the one of the *stamp* written after
its last complete run, and the files that run produced are still there, unaltered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pqlib import datasets
from pqlib._atomic import replacing
from pqlib.study.pipeline.data import DEFAULT_DATASET, DataSource, file_hash

STAMP_FORMAT = 1
VERSIONS_THAT_COUNT = ("numpy", "faiss-cpu", "scipy", "numba", "matplotlib", "h5py", "pandas")
STYLE_SUFFIXES = (".py", ".mplstyle")
KINDS = ("figures", "results")


class PipelineError(Exception):
    """Something the user has to know and can act on; shown without a traceback."""


@contextlib.contextmanager
def plain_errors(where: str = "") -> Iterator[None]:
    """Turn errors of files and of values into one message, which begins with ``where``."""
    try:
        yield
    except (ValueError, OSError) as problem:
        raise PipelineError(f"{where}{problem}") from None


class Layout:
    """Where things are in a checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notebooks = root / "notebooks"  # also their working directory when they run
        self.package = root / "pqlib"  # whose source the results depend on
        self.runs = root / "runs"  # executed notebooks and stamps; never committed
        # A running notebook writes here, so that a failing one harms nothing.
        self.staging = self.runs / ".staging"

    def promoted(self, kind: str, label: str) -> Path:
        """Folder where finished files go; ``kind`` is "figures" or "results"."""
        return self.root / kind / label

    def name(self, path: Path) -> str:
        """Return a path as messages and stamps name it, from the root on."""
        return path.relative_to(self.root).as_posix()


def find_notebooks(layout: Layout, wanted: Iterable[str] = ()) -> list[Path]:
    """Return the notebooks' sources in order: all of them, or those named by number or name.

    Raises PipelineError where there are none, or where a wanted one does not exist.
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


def own_dataset(notebook: Path) -> str:
    """Return the registered data set that a notebook's parameters name, else the default one."""
    text = notebook.read_text(encoding="utf-8")
    found = re.search(r'^dataset = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found and found[1] in datasets.REGISTRY else DEFAULT_DATASET


def package_hash(layout: Layout) -> str:
    """Return one hash of all that the package contributes to results.

    The pipeline itself is left out: it decides where files go, not what is in them.
    """
    digest = hashlib.sha256()
    for path in sorted(layout.package.rglob("*")):
        inside = path.relative_to(layout.package)
        counts = path.suffix in STYLE_SUFFIXES and inside.parts[:2] != ("study", "pipeline")
        if counts and path.is_file():
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


class Step:
    """One notebook for one data set."""

    def __init__(self, layout: Layout, notebook: Path, source: DataSource) -> None:
        self.layout, self.notebook, self.source = layout, notebook, source
        # With which inputs the step last completed, and what it wrote.
        self.stamp_path = layout.runs / source.label / f"{notebook.stem}.json"
        self.executed_path = self.stamp_path.with_suffix(".ipynb")
        self.failed_path = self.stamp_path.with_suffix(".failed.ipynb")  # up to the failing cell
        # What sweeps of an unfinished run measured, in a folder for its inputs.
        self.sweeps_folder = self.stamp_path.with_suffix(".sweeps")

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

    def up_to_date(self, inputs: Mapping[str, Any], stamp: Mapping[str, Any]) -> bool:
        """Tell whether nothing that the step depends on, and nothing that it wrote, has changed."""
        before = stamp.get("inputs", {})
        files = {self.layout.root / name: digest for name, digest in stamp["outputs"].items()}
        return all(before.get(name) == value for name, value in inputs.items()) and all(
            path.is_file() and file_hash(path) == digest for path, digest in files.items()
        )

    def write_stamp(self, stamp: Mapping[str, Any]) -> None:
        """Write the stamp at once or not at all; the last thing a step does."""
        text = json.dumps(stamp, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        write_atomically(self.stamp_path, text.encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that, killed at any moment, the old or the new one is there in full."""
    with replacing(path, parents=True) as file:
        file.write(content)


def produced(output: Path) -> list[Path]:
    """Return the figures and tables below a folder, without what a write left half-done."""
    found = [path for kind in KINDS for path in sorted((output / kind).rglob("*"))]
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def promote(layout: Layout, label: str, output: Path) -> dict[str, str]:
    """Put what a run produced where it belongs; return the files' names and hashes."""
    hashes = {}
    for path in produced(output):
        kind, *inside = path.relative_to(output).parts
        final = layout.promoted(kind, label).joinpath(*inside)
        write_atomically(final, path.read_bytes())
        hashes[layout.name(final)] = file_hash(final)
    return hashes
