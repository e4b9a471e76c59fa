"""Which data set a run is for: its label in paths, and how a change of it is noticed."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqlib import datasets
from pqlib.datasets import files, shards

ANN_BENCHMARKS_SUFFIX = re.compile(r"-\d+-(euclidean|angular|dot|hamming|jaccard)$")

DEFAULT_DATASET = "photo-sift"

REFERENCE = "reference"
"""Folder of the committed files in figures/ and results/; no data set's label."""

FOLDER_VARIABLES = ("PQLIB_DATA_DIR", "PQLIB_CACHE")


def safe_label(path: str) -> str:
    """Return a name for the folders of a data set: safe in a file system and in a shell.

    It is the file's stem without ann-benchmarks' dimension and metric:
    "bsds-sift-128-euclidean.hdf5" gives "bsds-sift".
    """
    stem = unicodedata.normalize("NFC", ANN_BENCHMARKS_SUFFIX.sub("", Path(path).stem))
    stem = re.sub(r"[^\w.]+", "-", stem).strip(".-")[:80] or "data"
    return f"{stem}-data" if stem.casefold() == REFERENCE else stem


def make_folders_absolute() -> None:
    """Let the variables that name data folders mean the same in the notebooks' own folder."""
    for variable in FOLDER_VARIABLES:
        folders = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
        if folders:
            absolute = [os.path.abspath(os.path.expanduser(folder)) for folder in folders]
            os.environ[variable] = os.pathsep.join(absolute)


def is_path(dataset: str) -> bool:
    """Tell whether a data set is given as a path rather than as a registered name."""
    return Path(dataset).suffix != "" or "/" in dataset or os.sep in dataset


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class DataSource:
    """A data set as the notebooks are told of it."""

    dataset: str  # the notebooks' parameter: a registered name or an absolute path
    label: str  # name of its folders under figures/, results/ and runs/
    package: Path  # holds the embedded data sets

    @classmethod
    def of(cls, dataset: str, package: Path) -> DataSource:
        """Return the source for what a user typed, a name or a path.

        Raises FileNotFoundError where a path leads to no file and no folder of shards, ValueError
        where a name is unknown: now, rather than in the first notebook.
        """
        dataset = dataset.strip()
        if not is_path(dataset):
            source = cls(dataset, safe_label(dataset), package)
            if not source.embedded.is_file():
                # A registered set goes by its short name, also where its file's was typed.
                name = datasets.lookup(dataset).name
                source = cls(name, safe_label(name), package)
            return source
        # The notebooks run in their own folder, where a relative path would lead elsewhere.
        path = Path(os.path.abspath(Path(dataset).expanduser()))
        if path.is_dir():
            shards.listed(path, files.ENDINGS)
        elif not path.is_file():
            raise FileNotFoundError(
                f"DATASET={dataset!r}: expected a file at {path}, found none. Check the path, or "
                "use a registered name such as photo-sift."
            )
        return cls(str(path), safe_label(dataset), package)

    @property
    def embedded(self) -> Path:
        """Where the file would be if the data set came with the package."""
        return self.package / "data" / f"{self.dataset}.hdf5"

    def fetch(self) -> None:
        """Download the data if need be; before any notebook, so that an error is one message."""
        if not is_path(self.dataset) and not self.embedded.is_file():
            datasets.fetch(self.dataset)

    def identity(self) -> dict[str, Any]:
        """Return what tells these data from others, without reading large files.

        An embedded file is hashed; of others size and time of modification are enough, those of
        all shards of a folder.
        """
        if self.embedded.is_file():
            return {"sha256": file_hash(self.embedded)}
        path = Path(self.dataset) if is_path(self.dataset) else datasets.locate(self.dataset)
        if path is None:
            return {"absent": self.dataset}
        if path.is_dir():
            found = sorted(file for some in shards.listed(path, files.ENDINGS) for file in some)
            listed = [(file.name, file.stat()) for file in found]
            return {
                "path": str(path),
                "files": [[name, facts.st_size, facts.st_mtime_ns] for name, facts in listed],
            }
        facts = path.stat()
        return {"path": str(path), "size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
