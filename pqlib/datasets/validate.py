"""Whether a file's content is what it claims, and the one metric the study works in.

The same checks serve a download before it is put in place and every opening of a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pqlib.datasets import files, truth
from pqlib.datasets.files import Content
from pqlib.datasets.registry import DatasetInfo

FloatMatrix = NDArray[np.float32]
IdMatrix = NDArray[np.int64]

ANGULAR_WORDS = ("angular", "cosine")
HALF_ROUNDING = 1e-2
"""Error of squared distances computed in float16, in units of the squared norms."""


@dataclass(frozen=True)
class Prepared:
    """Checked content, for Euclidean distance.

    ``neighbors`` (nq, k) int64 and ``distances`` (nq, k) float32, plain L2, are None where the
    file's ground truth is absent or of other vectors than these.
    """

    train: FloatMatrix
    test: FloatMatrix
    neighbors: IdMatrix | None
    distances: FloatMatrix | None
    note: str


def check(path: Path, info: DatasetInfo | None = None) -> None:
    """Raise ValueError unless ``path`` is a whole, valid data set with its ground truth.

    It opens as HDF5, has the four parts with agreeing shapes and finite values, the dimension is
    that of ``info``, and the ground truth of a few queries agrees with exact search.
    """
    content = files.open_hdf5(path, None, None)
    if content.neighbors is None or content.distances is None:
        raise ValueError(f"{path}: has no ground truth. Expected neighbors and distances.")
    if info is not None and content.train.shape[1] != info.dimension:
        raise ValueError(
            f"{path}: its vectors have dimension {content.train.shape[1]}. Expected "
            f"{info.dimension}: it is another data set."
        )
    prepare(path, content)


def prepare(path: Path, content: Content) -> Prepared:
    """Check the content of a file and bring it to Euclidean distance, without a second copy.

    Angular sets: all vectors are scaled to unit length, in place. Zero vectors have no angle
    (nytimes-256-angular holds some hundred): they are left out, and the rows after them move up.

    Raises
    ------
    ValueError
        When the metric is another one, distances are not finite or do not ascend, or the ground
        truth of a few queries disagrees with exact search.
    """
    angular = content.distance in ANGULAR_WORDS
    if not angular and content.distance != "euclidean":
        raise ValueError(
            f"{path}: its distance is {content.distance!r}. Expected euclidean or angular: other "
            "distances have other nearest neighbours."
        )
    train, test = content.train, content.test
    neighbors, distances = content.neighbors, content.distances
    notes = [content.note] if content.note else []
    if len(train) < content.n_train:
        # The nearest of the whole base are not the nearest of some of its rows.
        neighbors = distances = None
    if angular:
        notes.append(
            "angular: all vectors scaled to unit length and compared by Euclidean distance, "
            "which ranks them alike"
        )
        base_kept, queries_kept = _scale(train), _scale(test)
        train, test = _only(train, base_kept), _only(test, queries_kept)
        for what, kept in (("base vectors", base_kept), ("queries", queries_kept)):
            if not kept.any():
                raise ValueError(f"{path}: all {what} are zero. Expected vectors with an angle.")
            if not kept.all():
                notes.append(f"{int((~kept).sum()):,} {what} left out: zero, without an angle")
        if neighbors is not None:
            neighbors = neighbors[queries_kept]
            if base_kept[neighbors].all():
                neighbors, distances = _euclidean(train, test, (base_kept.cumsum() - 1)[neighbors])
            else:
                neighbors = distances = None
    if (
        neighbors is not None
        and distances is not None
        and content.stored_dtype == "float16"
        and truth.disagreement(train, test, neighbors, distances)
        and not truth.disagreement(train, test, neighbors, distances, rounding=HALF_ROUNDING)
    ):
        # ann-benchmarks computes a ground truth in the number type of the vectors.
        neighbors = distances = None
        notes.append("the file's own ground truth, exact to float16 only, not used")
    if neighbors is not None and distances is not None:
        _check_truth(path, train, test, neighbors, distances)
    return Prepared(train, test, neighbors, distances, "; ".join(notes))


def _check_truth(
    path: Path, train: FloatMatrix, test: FloatMatrix, neighbors: IdMatrix, distances: FloatMatrix
) -> None:
    if not np.isfinite(distances).all():
        raise ValueError(f"{path}: distances hold NaN or infinity. The file is damaged.")
    if (np.diff(distances, axis=1) < -1e-4 * distances[:, 1:]).any():
        raise ValueError(f"{path}: distances do not ascend. Expected nearest first.")
    wrong = truth.disagreement(train, test, neighbors, distances)
    if wrong:
        raise ValueError(
            f"{path}: its ground truth is not that of its vectors ({wrong}). The file is "
            "damaged or mislabelled; fetch it again, or remove neighbors and distances to "
            "have them computed."
        )


def _scale(x: FloatMatrix) -> NDArray[np.bool_]:
    """Scale the rows of ``x`` to unit length, in place; return (n,) which rows are not zero."""
    nonzero = np.empty(len(x), bool)
    step = max(1, files.BLOCK_BYTES // (8 * x.shape[1]))
    for start in range(0, len(x), step):
        block = x[start : start + step]
        norms = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
        nonzero[start : start + step] = norms > 0
        norms[norms == 0] = 1
        block /= norms[:, None].astype(np.float32)
    return nonzero


def _only(x: FloatMatrix, kept: NDArray[np.bool_]) -> FloatMatrix:
    """Move the kept rows of ``x`` to its front, in place, and return that part."""
    if kept.all():
        return x
    step = max(1, files.BLOCK_BYTES // (4 * x.shape[1]))
    stop = 0
    for start in range(0, len(x), step):
        # Indexing by a mask copies, so rows may move onto those just read.
        rows = x[start : start + step][kept[start : start + step]]
        x[stop : stop + len(rows)] = rows
        stop += len(rows)
    return x[:stop]


def _euclidean(
    train: FloatMatrix, test: FloatMatrix, neighbors: IdMatrix
) -> tuple[IdMatrix, FloatMatrix]:
    """Return the listed neighbours by Euclidean distance, the file's being 1 - cosine."""
    k, d = neighbors.shape[1], train.shape[1]
    distances = np.empty(neighbors.shape, np.float64)
    step = max(1, files.BLOCK_BYTES // (8 * d * k))
    for start in range(0, len(test), step):
        rows = slice(start, start + step)
        gap = train[neighbors[rows].ravel()].reshape(-1, k, d).astype(np.float64)
        gap -= test[rows][:, None, :]
        distances[rows] = np.sqrt(np.einsum("qkd,qkd->qk", gap, gap))
    order = np.lexsort((neighbors, distances), axis=1)
    sorted_distances = np.take_along_axis(distances, order, 1).astype(np.float32)
    return np.take_along_axis(neighbors, order, 1), sorted_distances
