import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

import pqlib
from pqlib.datasets import registry
from pqlib.study.pipeline.data import make_folders_absolute

make_folders_absolute()  # notebooks are checked in a folder of their own

FOLDERS = [
    *filter(None, os.environ.get(registry.DATA_VARIABLE, "").split(os.pathsep)),
    Path(__file__).parents[2] / "shared" / "data",
]


def file_or_skip(name):
    """The path of a data set's file on this machine; without one the test skips, with a reason."""
    known = registry.REGISTRY.get(name)
    file = known.file if known else f"{name}-128-euclidean.hdf5"
    found = next((Path(f) / file for f in FOLDERS if (Path(f) / file).is_file()), None)
    if found is None:
        pytest.skip(f"{file} is not on this machine; {registry.DATA_VARIABLE} may name its folder")
    return found


def dataset_or_skip(name):
    """A data set whole; other than the embedded one only where its file is on this machine."""
    if name == "photo-sift":
        return pqlib.load_dataset(name)
    return pqlib.load_dataset(file_or_skip(name), progress=False)


@pytest.fixture(scope="session")
def photo_sift():
    """The embedded data set, whole."""
    return pqlib.load_dataset("photo-sift")


@pytest.fixture(scope="session")
def clustered():
    """A small whole-number set with structure: 2,000 base vectors, 50 queries, 16 dimensions."""
    rng = np.random.default_rng(7)
    centers = rng.integers(0, 200, size=(12, 16))
    draw = lambda n: np.clip(  # noqa: E731
        centers[rng.integers(12, size=n)] + rng.integers(-20, 21, size=(n, 16)), 0, 255
    ).astype(np.float32)
    return draw(2000), draw(50)


@pytest.fixture(scope="session")
def as_dataset(photo_sift):
    """Return a function that makes a Dataset of arrays and exact neighbours."""
    from oracle import exact_neighbors

    def make(base, queries, k=100):
        neighbors, distances = exact_neighbors(base, queries, min(k, len(base)))
        return dataclasses.replace(
            photo_sift,
            name="made",
            train=base,
            test=queries,
            neighbors=neighbors,
            distances=distances.astype(np.float32),
        )

    return make
