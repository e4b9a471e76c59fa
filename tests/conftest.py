import dataclasses

import numpy as np
import pytest

import pqlib


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
