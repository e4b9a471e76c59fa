import dataclasses
import fcntl
import functools
import os
import tempfile
from pathlib import Path

import h5py
import nbval.kernel
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import pqlib
from pqlib import _file
from pqlib.datasets import registry
from pqlib.study.pipeline.data import make_folders_absolute

make_folders_absolute()  # notebooks are checked in a folder of their own
start_kernel = nbval.kernel.start_new_kernel


def start_kernel_alone(*args, **kwargs):
    """Start a kernel while no other worker does: both could choose the same free ports."""
    with open(Path(tempfile.gettempdir(), f"pqlib-kernels-{os.getuid()}"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return start_kernel(*args, **kwargs)


nbval.kernel.start_new_kernel = start_kernel_alone

FOLDERS = [
    *filter(None, os.environ.get(registry.DATA_VARIABLE, "").split(os.pathsep)),
    Path(__file__).parents[2] / "shared" / "data",
]

# Of generated cases the same ones each time, however slow the machine.
REPEATABLE = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def file_or_skip(name):
    """The path of a data set's file on this machine; without one the test skips, with a reason."""
    known = registry.REGISTRY.get(name)
    file = known.file if known else f"{name}-128-euclidean.hdf5"
    found = next((Path(f) / file for f in FOLDERS if (Path(f) / file).is_file()), None)
    if found is None:
        pytest.skip(f"{file} is not on this machine; {registry.DATA_VARIABLE} may name its folder")
    return found


@functools.lru_cache(maxsize=1)
def dataset_or_skip(name):
    """A data set whole; other than the embedded one only where its file is on this machine.

    The last one is kept: reading takes a second, and none of the tests writes to it.
    """
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


def from_disk_and_in_parts(build, base, ids, folder):
    """Two new indexes: ``base`` added in blocks from a file, with its progress, and in parts."""
    seen = []
    with h5py.File(folder / "base.hdf5", "w") as file:
        stored = file.create_dataset("train", data=base.astype(np.uint8))
        from_disk = build().add(stored, ids, progress=seen.append)
    assert seen == [300, 600, 900, 1200, 1500, 1800, 2000]
    return from_disk, build().add(iter(np.array_split(base, 7)), ids)


def assert_damage_is_found(path):
    """A byte altered in the header or in any section of an index's file, and a file cut off."""
    whole = path.read_bytes()
    opened = _file.IndexFile(path)
    places = [(opened._start + entry.offset, name) for name, entry in opened._sections.items()]
    for place, name in [(40, "header"), *places]:
        altered = bytearray(whole)
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(ValueError, match=f"damaged: .*{name}.*checksum"):
            pqlib.load_index(path)
    for length in (0, 5, 20, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        for mmap in (False, True):
            with pytest.raises(ValueError, match="cut off|damaged: its header|no index file"):
                pqlib.load_index(path, mmap)
