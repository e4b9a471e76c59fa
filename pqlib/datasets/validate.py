"""Whether a file's content is what it claims, and the one metric the study works in.

The same checks serve a download before it is put in place and every opening of a file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pqlib import _metric
from pqlib._blocks import blocks
from pqlib._types import FloatMatrix
from pqlib.datasets import files, truth
from pqlib.datasets.files import Content
from pqlib.datasets.registry import DatasetInfo

ANGULAR_WORDS = ("angular", "cosine")
WORDS = {"l2": ("euclidean",), "cosine": ANGULAR_WORDS, "ip": ("dot", "ip")}
"""What files call the metrics."""

HALF_ROUNDING = 1e-2
"""Error of squared distances computed in float16, in units of the squared norms."""


def check(path: Path, info: DatasetInfo) -> None:
    """Raise ValueError unless ``path`` is a whole, valid data set with its ground truth.

    It opens as HDF5, has the four parts with agreeing shapes and finite values, the dimension is
    that of ``info``, and the ground truth of a few queries agrees with exact search.
    """
    content = files.open_hdf5(path, None, None)
    if content.truth is None:
        raise ValueError(f"{path}: has no ground truth. Expected neighbors and distances.")
    if content.train.shape[1] != info.dimension:
        raise ValueError(
            f"{path}: its vectors have dimension {content.train.shape[1]}. Expected "
            f"{info.dimension}: it is another data set."
        )
    prepare(path, content)


def prepare(path: Path, content: Content, metric: str | None = None) -> Content:
    """Check the content of a file and bring it to Euclidean distance, without a second copy.

    With a ``metric``, vectors stay as they are, and a ground truth of another one is left out.

    Angular sets: all vectors are scaled to unit length, in place. Zero vectors have no angle
    (nytimes-256-angular holds some hundred): they are left out, and the rows after them move up.
    A ground truth of other vectors than these is left out.

    Raises
    ------
    ValueError
        When the metric is another one, distances are not finite or do not ascend, or the ground
        truth of a few queries disagrees with exact search.
    """
    if metric is not None and content.distance not in WORDS[metric]:
        said = f"the file says {content.distance}, compared by {_metric.WORDS[metric]} here"
        content = replace(content, truth=None, notes=(*content.notes, said))
    elif metric not in (None, "l2"):
        return _similar(path, content, metric)
    elif content.distance not in (*ANGULAR_WORDS, "euclidean"):
        raise ValueError(
            f"{path}: its distance is {content.distance!r}. Expected euclidean or angular: other "
            "distances have other nearest neighbours. Say which to compare by, such as "
            "metric='ip' for inner products."
        )
    if content.is_subset:
        # The nearest of the whole base are not the nearest of some of its rows.
        content = replace(content, truth=None)
    if metric is None and content.distance in ANGULAR_WORDS:
        content = _scaled(path, content)
    if content.truth is None:
        return content
    neighbors, distances = content.truth
    wrong = truth.disagreement(content.train, content.test, neighbors, distances)
    if (
        wrong
        and content.stored_dtype == "float16"
        and not truth.disagreement(
            content.train, content.test, neighbors, distances, rounding=HALF_ROUNDING
        )
    ):
        # ann-benchmarks computes a ground truth in the number type of the vectors.
        notes = (*content.notes, "the file's own ground truth, exact to float16 only, not used")
        return replace(content, truth=None, notes=notes)
    if not np.isfinite(distances).all():
        raise ValueError(f"{path}: distances hold NaN or infinity. The file is damaged.")
    if (np.diff(distances, axis=1) < -1e-4 * distances[:, 1:]).any():
        raise ValueError(f"{path}: distances do not ascend. Expected nearest first.")
    if wrong:
        raise ValueError(
            f"{path}: its ground truth is not that of its vectors ({wrong}). The file is "
            "damaged or mislabelled; fetch it again, or remove neighbors and distances to "
            "have them computed."
        )
    return content


def _similar(path: Path, content: Content, metric: str) -> Content:
    """Keep the neighbours of a file of similarities, with similarities in place of its distances.

    Not where there are zero vectors, whose angles are not those of the rule here.
    """
    train, test = content.train, content.test
    zeros = metric == "cosine" and not (_metric.norms(train).all() and _metric.norms(test).all())
    if content.truth is None or content.is_subset or zeros:
        return replace(content, truth=None)
    neighbors = content.truth[0]
    neighbors, found = truth.ranked(train, test, neighbors, neighbors.shape[1], metric)
    rows = np.unique(np.linspace(0, len(test) - 1, 4).astype(int))
    exact = truth.exact_neighbors(train, test[rows], neighbors.shape[1], False, metric)[1]
    reach = 1.0
    if metric == "ip":
        reach = float(_metric.norms(train).max() * _metric.norms(test).max())
    error = float(np.abs(found[rows] - exact).max())
    if error > 1e-5 * reach and content.stored_dtype == "float16":
        return replace(content, truth=None)  # computed in float16, see ``prepare``
    if error > 1e-5 * reach:
        raise ValueError(
            f"{path}: its ground truth is not that of its vectors (by {_metric.WORDS[metric]}, a "
            f"similarity differs by {error:.3g}). The file is damaged or mislabelled; fetch it "
            "again, or remove neighbors and distances to have them computed."
        )
    return replace(content, truth=(neighbors, found.astype(np.float32)))


def _scaled(path: Path, content: Content) -> Content:
    """Scale an angular set to unit length, in place, without its zero vectors."""
    train, test, found = content.train, content.test, content.truth
    notes = [
        *content.notes,
        "angular: all vectors scaled to unit length and compared by Euclidean distance, "
        "which ranks them alike",
    ]
    base_kept, queries_kept = _scale(train), _scale(test)
    train, test = _only(train, base_kept), _only(test, queries_kept)
    for what, kept in (("base vectors", base_kept), ("queries", queries_kept)):
        if not kept.any():
            raise ValueError(f"{path}: all {what} are zero. Expected vectors with an angle.")
        if not kept.all():
            notes.append(f"{int((~kept).sum()):,} {what} left out: zero, without an angle")
    if found is not None:
        neighbors, found = found[0][queries_kept], None
        if base_kept[neighbors].all():
            # The file's distances are 1 - cosine.
            neighbors = (base_kept.cumsum() - 1)[neighbors]
            neighbors, squared = truth.ranked(train, test, neighbors, neighbors.shape[1])
            found = neighbors, np.sqrt(squared).astype(np.float32)
    return replace(content, train=train, test=test, truth=found, notes=tuple(notes))


def _scale(x: FloatMatrix) -> NDArray[np.bool_]:
    """Scale the rows of ``x`` to unit length, in place; return (n,) which rows are not zero."""
    nonzero = np.empty(len(x), bool)
    for rows in blocks(len(x), 8 * x.shape[1], files.BLOCK_BYTES):
        norms = np.sqrt(np.einsum("ij,ij->i", x[rows], x[rows], dtype=np.float64))
        nonzero[rows] = norms > 0
        norms[norms == 0] = 1
        x[rows] /= norms[:, None].astype(np.float32)
    return nonzero


def _only(x: FloatMatrix, kept: NDArray[np.bool_]) -> FloatMatrix:
    """Move the kept rows of ``x`` to its front, in place, and return that part."""
    if kept.all():
        return x
    stop = 0
    for rows in blocks(len(x), 4 * x.shape[1], files.BLOCK_BYTES):
        # Indexing by a mask copies, so rows may move onto those just read.
        moved = x[rows][kept[rows]]
        x[stop : stop + len(moved)] = moved
        stop += len(moved)
    return x[:stop]
