"""Optimized product quantization: a rotation before the product code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib.clustering import sample_rows
from pqlib.quantizers.base import CodebookQuantizer, Codes, FloatMatrix, IdArray, Progress
from pqlib.quantizers.product import POINTS_PER_CENTROID, ProductQuantizer

STARTS = ("best", "parametric", "identity")
TOLERANCE = 1e-4
"""Relative gain of an iteration below which training stops."""


class OptimizedProductQuantizer(CodebookQuantizer):
    """Product quantizer of rotated vectors (Ge, He, Ke, Sun, "Optimized product quantization",
    TPAMI 2014).

    A rotation R is learnt with the codebooks, so that the sub-vectors of R x share the variance
    and are as independent as a rotation makes them. It minimizes the mean of |R x - PQ(R x)|^2
    over R and the codebooks. The parametric start (section 3.3) turns x to its principal axes and
    deals them out to the sub-spaces so that the product of variances is the same in all; from
    there, codebooks and rotation are improved in turn (section 3.2), the rotation as the solution
    of a Procrustes problem.

    An iteration of training takes n * 2**nbits * d + n * d^2 multiplications and a singular value
    decomposition of a (d, d) matrix; encoding d^2 + 2**nbits * d a vector; a query's tables as
    many; each code scanned m look-ups.

    Parameters
    ----------
    d : dimension
    m : sub-quantizers, a divisor of d; None: the largest divisor that is at most 8
    nbits : bits of one sub-quantizer's number, 4..16
    iterations : of alternation, at most; 0: the start as it is
    start : "parametric"; "identity", no rotation at the start, which is better where neighbouring
        components belong together, as in images and SIFT descriptors; or "best" of both on the
        training vectors. Except with "parametric", no rotation is kept where a plain product
        quantizer has no larger error on the training vectors
    seed : of sampling and k-means

    Raises
    ------
    ValueError
        When m does not divide d, or another argument is out of range.
    """

    def __init__(
        self,
        d: int,
        m: int | None = None,
        nbits: int = 8,
        iterations: int = 20,
        start: str = "best",
        seed: int = 0,
    ) -> None:
        super().__init__(d, seed)
        self.m, self.nbits = _checks.product_quantizer_shape(self.d, m, nbits)
        self.iterations = _checks.integer("iterations", iterations, 0)
        if start not in STARTS:
            raise ValueError(f"start={start!r}: expected one of {STARTS}.")
        self.start = start
        self._rotation: FloatMatrix | None = None
        self._pq = ProductQuantizer(self.d, self.m, self.nbits, self.seed)

    @property
    def rotation(self) -> FloatMatrix | None:
        """The rotation R (d, d) float32, applied as x @ R.T; None: none was kept.

        Raises
        ------
        ValueError
            Before training.
        """
        self._need_training("rotation")
        return self._rotation

    @property
    def parameters_bytes(self) -> int:
        """Bytes of the codebooks and of the rotation, float32."""
        turned = self._rotation is not None or not self.is_trained
        return self._pq.parameters_bytes + 4 * self.d * self.d * turned

    @property
    def steps(self) -> int:
        """Iterations of alternation, at most, and the codebooks after them."""
        return self.iterations + 1

    def search_cost(self) -> dict[str, int]:
        """Count the work of searching: the rotation, 2**nbits * d for tables, m look-ups a code."""
        cost = self._pq.search_cost()
        turned = self._rotation is not None or not self.is_trained
        return {**cost, "multiplications": cost["multiplications"] + self.d**2 * turned}

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        x = x[sample_rows(len(x), POINTS_PER_CENTROID * self.ksub, self.seed)]
        self.n_train = len(x)
        plain = None if self.start == "parametric" else self._pq.fresh().train(x)
        rotation, best = np.eye(self.d, dtype=np.float32), plain
        if self.start != "identity":
            axes = parametric_rotation(x, self.m)
            turned = self._pq.fresh().train(x @ axes.T)
            if best is None or turned.objective[-1] < best.objective[-1]:
                rotation, best = axes, turned
        assert best is not None
        curve: list[float] = []
        if self.iterations:
            rotation, best = self._alternate(x, rotation, best, curve, progress)
        self._pq, self._rotation, error = best, rotation, float(best.objective[-1])
        if self.iterations:
            # Codebooks learnt anew for the final rotation are mostly better than those that came
            # along with it.
            anew = self._pq.fresh().train(x @ rotation.T)
            if anew.objective[-1] < error:
                self._pq, error = anew, float(anew.objective[-1])
        if plain is not None and plain.objective[-1] <= error:
            self._pq, self._rotation, error = plain, None, float(plain.objective[-1])
        self.objective = np.array([*curve, error])
        progress(self.steps)

    def _alternate(
        self,
        x: FloatMatrix,
        rotation: FloatMatrix,
        start: ProductQuantizer,
        curve: list[float],
        progress: Progress,
    ) -> tuple[FloatMatrix, ProductQuantizer]:
        """Improve rotation and codebooks in turn; codebooks by one step of k-means a turn."""
        turned = x @ rotation.T
        quantizer = start.fresh().set_codebooks(start.codebooks)
        width = self.d // self.m
        for iteration in range(self.iterations):
            numbers = quantizer.unpack(quantizer.encode(turned))
            books = quantizer.codebooks.copy()
            for j in range(self.m):
                part = turned[:, j * width : (j + 1) * width]
                books[j] = _means(part, numbers[:, j], books[j])
            quantizer.set_codebooks(books)
            decoded = np.concatenate([books[j][numbers[:, j]] for j in range(self.m)], axis=1)
            # The rotation that brings x nearest to what was decoded (orthogonal Procrustes).
            u, _, vt = np.linalg.svd(decoded.T.astype(np.float64) @ x)
            rotation = (u @ vt).astype(np.float32)
            turned = x @ rotation.T
            curve.append(float(((turned - decoded) ** 2).sum(dtype=np.float64) / len(x)))
            progress(iteration + 1)
            if iteration and curve[-2] - curve[-1] < TOLERANCE * curve[-2]:
                break
        quantizer.objective = np.array(curve)
        return rotation, quantizer

    def codewords(self) -> NDArray[np.float32]:
        """Return all codewords as vectors of the space of x, (m, 2**nbits, d) float32."""
        self._need_training("codewords")
        words = self._pq.codewords()
        return words if self._rotation is None else words @ self._rotation

    def _turn(self, x: FloatMatrix) -> FloatMatrix:
        return x if self._rotation is None else x @ self._rotation.T

    def _encode(self, x: FloatMatrix) -> Codes:
        return self._pq.encode(self._turn(x))

    def _decode(self, codes: Codes) -> FloatMatrix:
        decoded = self._pq.decode(codes)
        return decoded if self._rotation is None else decoded @ self._rotation

    def distance_table(self, xq: FloatMatrix) -> NDArray[np.float32]:
        """Return the distance tables of queries ``xq`` (nq, d): (nq, m, 2**nbits) float32.

        [q, j, i] is the squared distance of sub-vector j of the rotated query to centroid i.
        """
        self._need_training("distance_table")
        return self._pq.distance_table(self._turn(_checks.vectors("xq", xq, self.d)))

    def offsets(self, codes: Codes) -> NDArray[np.float32]:
        """Return zeros (n,): codewords of different sub-spaces are orthogonal."""
        self._need_training("offsets")
        return self._pq.offsets(codes)

    def scan_unchecked(self, xq: FloatMatrix, codes: Codes, k: int) -> tuple[FloatMatrix, IdArray]:
        """Scan by table look-ups of the rotated queries; see ``Quantizer.scan``."""
        return self._pq.scan_unchecked(np.ascontiguousarray(self._turn(xq)), codes, k)

    def _state(self) -> dict[str, NDArray[Any]]:
        empty = np.empty((0, self.d), np.float32)
        return {
            "codebooks": self._pq.codebooks,
            "rotation": empty if self._rotation is None else self._rotation,
        }

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._pq.set_codebooks(state["codebooks"])
        rotation = np.asarray(state["rotation"], np.float32)
        if rotation.shape not in ((0, self.d), (self.d, self.d)):
            raise ValueError(f"rotation has shape {rotation.shape}: expected (d, d) = {self.d}.")
        self._rotation = rotation if len(rotation) else None


def parametric_rotation(x: FloatMatrix, m: int) -> FloatMatrix:
    """Return the rotation (d, d) to principal axes dealt out to ``m`` sub-spaces evenly.

    Eigenvalue allocation (Ge et al., section 3.3): the axes go, the largest variance first, each to
    the sub-space with the smallest product of variances so far that has room.
    """
    d = x.shape[1]
    centered = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centered.T @ centered / len(x))
    order = np.argsort(variances)[::-1]
    # No variance at all would make every product zero.
    logs = np.log(np.maximum(variances[order], 1e-12 * max(variances.max(), 1e-300)))
    logs -= logs.min()
    buckets: list[list[int]] = [[] for _ in range(m)]
    sums = np.zeros(m)
    for place, value in zip(order, logs, strict=True):
        free = [j for j in range(m) if len(buckets[j]) < d // m]
        j = min(free, key=lambda j: (sums[j], j))
        buckets[j].append(int(place))
        sums[j] += value
    return np.ascontiguousarray(axes[:, np.concatenate(buckets).astype(int)].T, np.float32)


def _means(part: FloatMatrix, numbers: IdArray, before: FloatMatrix) -> FloatMatrix:
    """Return the mean of the rows of each number; of those without rows, what was before."""
    counts = np.bincount(numbers, minlength=len(before))
    order = np.argsort(numbers, kind="stable")
    there = np.flatnonzero(counts)
    starts = np.concatenate([[0], np.cumsum(counts[there])[:-1]])
    found = before.copy()
    sums = np.add.reduceat(part[order], starts, axis=0, dtype=np.float64)
    found[there] = sums / counts[there, None]
    return found
