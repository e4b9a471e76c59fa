"""The metrics, and the lengths of vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pqlib._blocks import blocks
from pqlib._types import FloatMatrix

METRICS = ("l2", "cosine", "ip")
"""Euclidean distance, cosine similarity, inner product."""

WORDS = {"l2": "euclidean distance", "cosine": "cosine similarity", "ip": "inner product"}

BLOCK_BYTES = 64 << 20


def norms(x: FloatMatrix) -> NDArray[np.float64]:
    """Return the norms of the rows of ``x`` (n, d): (n,), from float64 sums."""
    squared = np.empty(len(x))
    for rows in blocks(len(x), 8 * x.shape[1], BLOCK_BYTES):
        squared[rows] = np.einsum("ij,ij->i", x[rows], x[rows], dtype=np.float64)
    return np.sqrt(squared)


def unit(x: FloatMatrix, lengths: NDArray[np.float64] | None = None) -> FloatMatrix:
    """Return a copy of ``x`` (n, d) with each row over its length (n,), by default its norm.

    A zero vector stays zero.
    """
    lengths = norms(x) if lengths is None else lengths
    scaled = np.empty(x.shape, np.float32)
    for rows in blocks(len(x), 8 * x.shape[1], BLOCK_BYTES):
        # In float64: the inverse of a tiny length is too large for float32.
        scaled[rows] = x[rows] / np.where(lengths[rows] > 0, lengths[rows], 1)[:, None]
    return scaled
