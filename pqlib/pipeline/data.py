"""Which data set a run is for: its label in paths, and how a change of it is noticed."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANN_BENCHMARKS_SUFFIX = re.compile(r"-\d+-(euclidean|angular|dot|hamming|jaccard)$")


def safe_label(path: str) -> str:
    """Return a name for the folders of a data set given as a path.

    The file's stem, without ann-benchmarks' dimension and metric
    ("bsds-sift-128-euclidean.hdf5" gives "bsds-sift"), and with nothing in it that a file
    system or a shell could take amiss.
    """
    stem = ANN_BENCHMARKS_SUFFIX.sub("", Path(path).stem)
    stem = unicodedata.normalize("NFC", stem)
    stem = re.sub(r"[^\w.-]+", "-", stem).strip(".-")
    return stem[:80] or "data"


def is_path(dataset: str) -> bool:
    """Tell whether a data set is given as a path rather than as a registered name."""
    return Path(dataset).suffix != "" or "/" in dataset or os.sep in dataset
