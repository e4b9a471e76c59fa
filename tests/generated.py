"""Data sets that ``pqlib.tune`` was not made for, drawn anew each time from a seed.

    from generated import SETS, generate
    ds = generate("latent-384", n=20_000)

Each is one way in which vectors differ from the descriptors that the study is about: fractional,
unit norm, full or very low intrinsic dimension, variance spread evenly over all components, far
from the origin, of very different lengths, many times the same. Queries are drawn together with
the base, so they are of the same distribution; the ground truth is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pqlib._types import FloatMatrix
from pqlib.datasets import Dataset
from pqlib.datasets.truth import exact_neighbors

Draw = Callable[[np.random.Generator, int, int], FloatMatrix]

BLOCK = 20_000  # rows made at a time, to spare copies of a large set
QUERIES = 3000


@dataclass(frozen=True)
class Recipe:
    """How a set is made: ``draw(rng, n, d)`` returns n vectors (n, d) in random order."""

    d: int
    n: int
    draw: Draw
    title: str


SETS: dict[str, Recipe] = {}


def _recipe(name: str, d: int, n: int) -> Callable[[Draw], Draw]:
    def register(draw: Draw) -> Draw:
        SETS[name] = Recipe(d, n, draw, " ".join((draw.__doc__ or "").split()))
        return draw

    return register


def generate(
    name: str, n: int | None = None, nq: int = QUERIES, seed: int = 0, d: int | None = None
) -> Dataset:
    """Return a set of ``SETS`` with ``n`` base vectors, or as many as its recipe says."""
    recipe = SETS[name]
    n, d = recipe.n if n is None else n, recipe.d if d is None else d
    x = recipe.draw(np.random.default_rng(seed), n + nq, d)
    assert x.shape == (n + nq, d)
    assert x.dtype == np.float32
    return as_dataset(x[:n], x[n:], name)


def as_dataset(base: FloatMatrix, queries: FloatMatrix, name: str = "made") -> Dataset:
    """Return arrays as a Dataset, with exact ground truth."""
    base, queries = (np.ascontiguousarray(x, np.float32) for x in (base, queries))
    neighbors, distances = exact_neighbors(base, queries, progress=False)
    return Dataset(name, base, queries, neighbors, distances)


def _in_blocks(n: int, make: Callable[[int], FloatMatrix]) -> FloatMatrix:
    return np.concatenate([make(min(BLOCK, n - start)) for start in range(0, n, BLOCK)])


def _spectrum(d: int, power: float) -> NDArray[np.float32]:
    return (np.arange(1, d + 1) ** -power).astype(np.float32)


def _rotation(rng: np.random.Generator, d: int) -> Callable[[FloatMatrix], FloatMatrix]:
    """Return a function that turns rows at random: in groups, which spares work for large d."""
    size = d if d <= 128 else next(g for g in range(128, 0, -1) if d % g == 0)
    order = rng.permutation(d)
    turn = np.linalg.qr(rng.normal(size=(size, size)))[0].astype(np.float32)

    def rotate(x: FloatMatrix) -> FloatMatrix:
        return (x[:, order].reshape(-1, size) @ turn).reshape(x.shape)

    return rotate


def _mixture(
    rng: np.random.Generator, n: int, d: int, clusters: int, power: float = 0.5
) -> FloatMatrix:
    """Gaussian clusters of unlike sizes whose variances fall off along turned axes."""
    scales = _spectrum(d, power)
    rotate = _rotation(rng, d)
    centers = (rng.normal(size=(clusters, d)) * scales).astype(np.float32)
    widths = rng.uniform(0.3, 0.8, clusters).astype(np.float32)
    share = rng.dirichlet(np.full(clusters, 2.0))

    def make(count: int) -> FloatMatrix:
        which = rng.choice(clusters, count, p=share)
        x = rng.standard_normal((count, d), np.float32)
        x *= widths[which, None] * scales
        return rotate(x + centers[which])

    return _in_blocks(n, make)


@_recipe("mixture-25-small", 25, 10_000)
def mixture_small(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """Few vectors of few dimensions: fractional Gaussian clusters."""
    return _mixture(rng, n, d, 100)


@_recipe("mixture-25-large", 25, 1_000_000)
def mixture_large(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """A million vectors: fractional Gaussian clusters."""
    return _mixture(rng, n, d, 2000)


@_recipe("cube-32", 32, 200_000)
def cube(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """Uniform in a cube: no clusters, no directions."""
    return rng.random((n, d), np.float32)


SETS["cube-32-large"] = Recipe(32, 1_000_000, cube, "A million vectors, uniform in a cube.")
SETS["cube-96"] = Recipe(
    96,
    50_000,
    cube,
    "Uniform in a cube of many dimensions: variance is spread evenly, PCA has nothing to find.",
)


@_recipe("gaussian-64", 64, 100_000)
def gaussian(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """One Gaussian cloud of full intrinsic dimension."""
    return rng.standard_normal((n, d), np.float32)


@_recipe("sparse-128", 128, 100_000)
def sparse(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """Clusters that vary in a few coordinates each, together in all: PCA hurts."""
    clusters, active = 1000, min(d, 12)
    which = rng.integers(clusters, size=n)
    coordinates = np.stack([rng.permutation(d)[:active] for _ in range(clusters)])
    heights = rng.uniform(1, 3, (clusters, active)).astype(np.float32)
    x = np.zeros((n, d), np.float32)
    values = heights[which] + 0.5 * rng.standard_normal((n, active), np.float32)
    np.put_along_axis(x, coordinates[which], values, axis=1)
    return x


@_recipe("heavy-tailed-48", 48, 50_000)
def heavy_tailed(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """Independent coordinates of Student's t with 3 degrees of freedom."""
    return rng.standard_t(3, (n, d)).astype(np.float32)


@_recipe("latent-384", 384, 200_000)
def latent(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """12 latent numbers through a smooth map that is not linear."""
    hidden, dims = 64, 12
    first = rng.standard_normal((dims, hidden), np.float32) / np.float32(np.sqrt(dims))
    shift = rng.standard_normal(hidden, np.float32)
    second = rng.standard_normal((hidden, d), np.float32) / np.float32(np.sqrt(hidden))

    def make(count: int) -> FloatMatrix:
        return np.tanh(rng.standard_normal((count, dims), np.float32) @ first + shift) @ second

    return _in_blocks(n, make)


@_recipe("duplicates-64", 64, 100_000)
def duplicates(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """Whole numbers, each vector 1 to 50 times."""
    distinct = max(1, n // 20)
    centers = rng.integers(20, 230, (200, d))
    x = centers[rng.integers(200, size=distinct)] + rng.integers(-30, 31, (distinct, d))
    times = rng.integers(1, 51, distinct)
    rows = rng.permutation(np.repeat(np.arange(distinct), times))
    rows = np.resize(rows, n)
    return np.clip(x, 0, 255)[rows].astype(np.float32)


@_recipe("whole-100", 100, 300_000)
def whole(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """Whole numbers 0..255: rounded Gaussian clusters."""
    x = _mixture(rng, n, d, 500, 0.4)
    x *= 40 / x.std()
    return np.clip(np.rint(x + 100), 0, 255).astype(np.float32)


@_recipe("bits-256", 256, 100_000)
def bits(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """Zeros and ones, a prototype with some of them flipped: many equal distances."""
    prototypes = rng.random((500, d)) < 0.5
    flipped = rng.random((n, d), np.float32) < 0.1
    return (prototypes[rng.integers(500, size=n)] ^ flipped).astype(np.float32)


@_recipe("unit-768", 768, 100_000)
def unit(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """Unit norm: a normalized mixture of Gaussians, as embeddings of text are."""
    x = _mixture(rng, n, d, 500, 0.6)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


@_recipe("unit-1536", 1536, 50_000)
def unit_wide(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """Unit norm and many dimensions, with a mean that all share."""
    x = _mixture(rng, n, d, 500, 0.5)
    x += np.float32(2 * x.std())
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


@_recipe("far-64", 64, 100_000)
def far(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """Gaussian clusters 1,000 times as far from the origin as wide, in every coordinate."""
    x = _mixture(rng, n, d, 200, 0.3)
    x *= np.float32(1 / x.std())
    return x + np.float32(1000)


@_recipe("lengths-40", 40, 100_000)
def lengths(rng: np.random.Generator, n: int, d: int) -> FloatMatrix:
    """Directions of clusters, lengths over four orders of magnitude."""
    x = _mixture(rng, n, d, 200, 0.3)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x * rng.lognormal(0, 1.5, (n, 1)).astype(np.float32)
