"""Training vectors on a grid on which float32 arithmetic is exact, in little memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]
IdArray = NDArray[np.int64]

BLOCK_BYTES = 8 << 20
"""Float32 vectors that are looked at, or decoded, at once."""


def _blocks(x: FloatMatrix, rows: IdArray | None) -> Iterator[FloatMatrix]:
    """Yield the chosen rows of ``x`` (n, d), all for None, in blocks."""
    n = len(x) if rows is None else len(rows)
    step = max(1, BLOCK_BYTES // (4 * x.shape[1]))
    for start in range(0, n, step):
        if rows is None:
            yield x[start : start + step]
        else:
            yield x[rows[start : start + step]]


def training_grid(x: FloatMatrix, rows: IdArray | None = None) -> float | None:
    """Return the step of the grid to which training vectors and centroids are rounded.

    Two processors, or one and two threads, round float32 sums differently; k-means then decides
    a few near ties differently and drifts to other centroids. On a grid of step s every product
    and sum is a multiple of s^2, and exact in float32 as long as |x|^2 <= 2^23 s^2: then the
    centroids are the same to the bit on every machine. s is the smallest such power of two.

    The rounding adds at most s^2 / 12 to the error of a dimension. Where a few huge vectors would
    make that more than 1/768 of the variance of a dimension, the answer is a finer grid, on
    which the arithmetic is no longer exact: accuracy goes before reproducibility. None when all
    vectors are equal.

    Parameters
    ----------
    x : (n, d) float32
    rows : (n',) int64, the rows of ``x`` that train; None: all
    """
    n = len(x) if rows is None else len(rows)
    total = np.zeros(x.shape[1])
    squared, largest = 0.0, 0.0
    for block in _blocks(x, rows):
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


def on_grid(x: FloatMatrix, rows: IdArray | None, step: float) -> FloatMatrix | NDArray[np.uint8]:
    """Return the training vectors in units of ``step``, rounded: (n, d).

    As uint8 where they all lie in 0..255, as pixels and SIFT descriptors do, which takes a quarter
    of the memory; else as float32.
    """
    n = len(x) if rows is None else len(rows)
    scale = np.float32(1 / step)  # a power of two: the product is the quotient
    small: NDArray[np.uint8] | None = np.empty((n, x.shape[1]), np.uint8)
    done = 0
    for block in _blocks(x, rows):
        whole = block * scale
        np.rint(whole, out=whole)
        if whole.min() < 0 or whole.max() > 255:
            small = None
            break
        assert small is not None
        small[done : done + len(whole)] = whole
        done += len(whole)
    if small is not None:
        return small
    data = np.empty((n, x.shape[1]), np.float32)
    done = 0
    for block in _blocks(x, rows):
        part = data[done : done + len(block)]
        np.multiply(block, scale, out=part)
        np.rint(part, out=part)
        done += len(block)
    return data


def run_kmeans(
    data: FloatMatrix | NDArray[np.uint8], k: int, niter: int, seed: int, **options: Any
) -> tuple[FloatMatrix, NDArray[np.float64]]:
    """Run faiss's k-means on all of ``data`` (n, d); uint8 is decoded block by block.

    Returns
    -------
    centroids : (k, d) float32
    objective : (iterations,) float64
    """
    n, d = data.shape
    run = faiss.Clustering(d, k)
    run.niter, run.seed = niter, seed
    # Both of faiss's own limits off: the upper one cuts the training set without telling, the
    # lower one prints a warning from C++ that no Python filter can catch.
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
