"""Rotation onto principal axes, which puts what tells vectors apart into a few components."""

from __future__ import annotations

from typing import Self

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _blas
from pqlib._file import IndexFile, Section, array_section
from pqlib._types import FloatMatrix
from pqlib.clustering import sample_rows
from pqlib.indexes.blocks import SMALL_BATCH

ROTATIONS = ("pca", None)
CLIPPED = 0.9995
"""Share of the components that bytes hold without clipping."""


class Rotation:
    """Projection onto orthonormal axes, and the centre of what is projected.

    Parameters
    ----------
    axes : (d, width) float32, one in each column; columns of zeros after the last one
    center : (width,) float32, the mean after the projection. It is subtracted there, which spares
        a copy of the vectors
    identity : whether axes are those of the vectors, as they come
    """

    def __init__(self, axes: FloatMatrix, center: NDArray[np.float32], identity: bool) -> None:
        self.axes, self.center = np.ascontiguousarray(axes), np.ascontiguousarray(center)
        self._skip = identity and axes.shape[0] == axes.shape[1]
        # faiss's product, not NumPy's: after NumPy's, threads of its BLAS spin for a while and take
        # the processor from the stages that follow.
        # Not by make_LinearTransform_matrix, which also multiplies the matrix with itself.
        self._product = faiss.LinearTransform(*self.axes.shape, False)
        faiss.copy_array_to_vector(np.ascontiguousarray(self.axes.T).ravel(), self._product.A)
        self._product.is_trained = True

    @classmethod
    @_blas.one_thread()
    def learn(
        cls, sample: FloatMatrix, kind: str | None, components: int, width: int,
        found: FloatMatrix | None,
    ) -> Self:  # fmt: skip
        """Return the rotation of ``kind``, one of ``ROTATIONS``, learnt from ``sample`` (n, d).

        It has ``components`` axes in ``width`` columns. ``found``, (d, at least components), are
        axes found before; None: they are found here. ValueError where they have another shape.
        """
        d = sample.shape[1]
        mean = sample.mean(axis=0, dtype=np.float64)
        axes = np.zeros((d, width), np.float32)
        if kind is None:
            found = np.eye(d, dtype=np.float32)
        elif found is None:
            found = principal_axes(sample, mean, components)
        elif found.shape[0] != d or found.shape[1] < components:
            raise ValueError(
                f"axes has shape {found.shape}: expected ({d}, {components} or more). Pass what "
                "principal_axes returns for these vectors, or None."
            )
        axes[:, :components] = found[:, :components]
        center = (mean @ axes.astype(np.float64)).astype(np.float32)
        return cls(axes, center, kind is None)

    def apply(self, x: FloatMatrix) -> FloatMatrix:
        """Return the projections (n, width) of ``x`` (n, d), not centred."""
        if self._skip:
            return x
        if len(x) <= SMALL_BATCH:
            # Too small for several threads, which faiss would wake up. What is not finite is found
            # in the product, and said then.
            with np.errstate(invalid="ignore", over="ignore"):
                return x @ self.axes
        return self._product.apply(np.ascontiguousarray(x))

    @property
    def nbytes(self) -> int:
        """Bytes of axes and centre."""
        return self.axes.nbytes + self.center.nbytes

    def sections(self) -> list[Section]:
        """Return what a file keeps."""
        return [array_section("axes", self.axes), array_section("center", self.center)]

    @classmethod
    def of_file(cls, file: IndexFile, d: int, width: int, identity: bool) -> Self:
        """Return the rotation that ``sections`` wrote."""
        axes, center = file.read("axes", "<f4", (d, width)), file.read("center", "<f4", (width,))
        if not (np.isfinite(axes).all() and np.isfinite(center).all()):
            raise file.refuse("its rotation is not finite")
        return cls(axes, center, identity)


@_blas.one_thread()
def principal_axes(x: FloatMatrix, mean: NDArray[np.float64], count: int) -> FloatMatrix:
    """Return the ``count`` axes of largest variance, orthonormal: (d, count) float32.

    Of ``x`` (n, d) and its mean (d,). The sign of an axis is such that its largest entry is
    positive.
    """
    centred = x - mean.astype(np.float32)
    covariance = (centred.T @ centred).astype(np.float64) / len(x)
    _, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, ::-1][:, :count]
    largest = np.abs(axes).argmax(axis=0)
    return np.asarray(axes * np.sign(axes[largest, np.arange(count)]), np.float32)


def scale_of(rotated: FloatMatrix) -> np.float32:
    """Return how many steps of a byte one unit of length is."""
    sample = np.abs(rotated[sample_rows(len(rotated), 20_000, 0)])
    most = float(np.quantile(sample, CLIPPED))
    return np.float32(127 / most if most > 0 else 1.0)
