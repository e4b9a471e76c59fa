"""Training vectors on a grid on which float32 arithmetic is exact, in little memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib._blocks import blocks
from pqlib._types import FloatMatrix, IdArray

BLOCK_BYTES = 8 << 20
"""Bytes of float32 vectors that are read, or decoded, at once."""


def _parts(x: FloatMatrix, rows: IdArray | None) -> Iterator[tuple[slice, FloatMatrix]]:
    """Yield the listed rows of ``x`` (n, d), for None all, in blocks, each with its place."""
    for place in blocks(len(x) if rows is None else len(rows), 4 * x.shape[1], BLOCK_BYTES):
        yield place, x[place if rows is None else rows[place]]


def training_grid(x: FloatMatrix, rows: IdArray | None = None) -> float | None:
    """Return the step of the grid to which training vectors and centroids are rounded.

    Two processors, or one and two threads, round float32 sums differently. k-means then decides
    a few near ties differently and ends at other centroids. On a grid of step s every product
    and sum is a multiple of s^2, and exact in float32 as long as |x|^2 <= 2^23 s^2: then the
    centroids are the same to the bit on every machine. s is the smallest such power of two.

    Rounding to the grid adds at most s^2 / 12 to the error of a dimension. A few huge vectors may
    make that more than 1/768 of the variance of a dimension. Then the grid is finer, and the
    arithmetic no longer exact: accuracy is more important than reproducibility. The step is None
    when all vectors are equal. Those of ``x`` (n, d) float32 that train are ``rows``; None: all.
    """
    n = len(x) if rows is None else len(rows)
    total = np.zeros(x.shape[1])
    squared, largest = 0.0, 0.0
    for _, block in _parts(x, rows):
        total += block.sum(axis=0, dtype=np.float64)
        norms = np.einsum("ij,ij->i", block, block, dtype=np.float64)
        squared += float(norms.sum())
        largest = max(largest, float(norms.max()))
    mean = total / n
    variance = (squared / n - float(mean @ mean)) / x.shape[1]
    if not variance > 0:
        return None
    exact = math.ceil(math.log2(max(largest, 1e-300)) / 2 - 11.5)
    accurate = math.floor(math.log2(variance) / 2 - 3)
    return 2.0 ** min(exact, accurate)


def on_grid(
    x: FloatMatrix, rows: IdArray | None, step: float | None
) -> FloatMatrix | NDArray[np.uint8]:
    """Return the training vectors in units of ``step``, rounded, (n, d); as they are without one.

    Where all values are in 0..255 then, as those of pixels and SIFT descriptors are, they are
    uint8, which takes a quarter of the memory; else float32.
    """
    if step is None:
        return x if rows is None else x[rows]
    n = len(x) if rows is None else len(rows)
    scale = np.float32(1 / step)  # a power of two, so multiplying equals dividing
    small = all(
        np.rint(block.min() * scale) >= 0 and np.rint(block.max() * scale) <= 255
        for _, block in _parts(x, rows)
    )
    data = np.empty((n, x.shape[1]), np.uint8 if small else np.float32)
    for place, block in _parts(x, rows):
        whole = block * scale
        data[place] = np.rint(whole, out=whole)
    return data


def run_kmeans(
    data: FloatMatrix | NDArray[np.uint8], k: int, niter: int, seed: int, **options: Any
) -> tuple[FloatMatrix, NDArray[np.float64]]:
    """Run faiss's k-means on all of ``data`` (n, d). uint8 is decoded block by block.

    ``options`` are further fields of ``faiss.Clustering``. Return centroids, (k, d) float32, and
    the objective, (iterations,) float64.
    """
    n, d = data.shape
    run = faiss.Clustering(d, k)
    run.niter, run.seed = niter, seed
    # No limits of faiss's own: the upper one would leave training vectors out and not say so, the
    # lower one would print a warning from C++ that no Python filter can catch.
    run.max_points_per_centroid, run.min_points_per_centroid = n, 1
    for name, value in options.items():
        setattr(run, name, value)
    index = faiss.IndexFlatIP(d) if run.spherical else faiss.IndexFlatL2(d)
    if data.dtype == np.uint8:
        run.decode_block_size = max(1, BLOCK_BYTES // (4 * d))
        codec = faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_8bit_direct)
        codec.train(np.zeros((1, d), np.float32))
        run.train_encoded(data, codec, index)
    else:
        run.train(data, index)
    centroids = faiss.vector_float_to_array(run.centroids).reshape(k, d)
    stats = run.iteration_stats
    return centroids, np.array([stats.at(i).obj for i in range(stats.size())], np.float64)
