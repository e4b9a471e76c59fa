"""Optimized product quantization: a rotation before the product code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._types import Codes, FloatMatrix, IdArray
from pqlib.quantizers.base import Cost, Progress
from pqlib.quantizers.codewords import CodebookQuantizer
from pqlib.quantizers.product import ProductQuantizer

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
    d, m, nbits, seed : see ``ProductQuantizer``
    iterations : of alternation, at most; 0: the start as it is
    start : "parametric"; "identity", no rotation at the start, which is better where neighbouring
        components belong together, as in images and SIFT descriptors; or "best", which takes the
        better of both on the training vectors. Except with "parametric", no rotation is kept
        where a plain product quantizer has no larger error on the training vectors
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
        super().__init__(d, m, nbits, seed)
        self.iterations = _checks.integer("iterations", iterations, 0)
        if start not in STARTS:
            raise ValueError(f"start={start!r}: expected one of {STARTS}.")
        self.start = start
        self.steps = self.iterations + 1  # the codebooks are learnt once more at the end
        self._rotation: FloatMatrix | None = None
        self._pq = ProductQuantizer(self.d, self.m, self.nbits, self.seed)

    @property
    def rotation(self) -> FloatMatrix | None:
        """The rotation R (d, d) float32, applied as x @ R.T; None: none was kept."""
        self._need_training("rotation")
        return self._rotation

    @property
    def _turns(self) -> bool:
        return self._rotation is not None or not self.is_trained

    @property
    def parameters_bytes(self) -> int:
        """Bytes of the codebooks and of the rotation, float32."""
        return self._pq.parameters_bytes + 4 * self.d**2 * self._turns

    def _cost(self) -> Cost:
        return Cost(self.ksub * self.d + self.d**2 * self._turns, self.m)

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        plain = None if self.start == "parametric" else self._pq.fresh().train(x)
        rotation, best = np.eye(self.d, dtype=np.float32), plain
        if self.start != "identity":
            axes = parametric_rotation(x, self.m)
            turned = self._pq.fresh().train(x @ axes.T)
            if best is None or turned.objective[-1] < best.objective[-1]:
                rotation, best = axes, turned
        assert best is not None
        curve: list[float] = []
        candidates: list[tuple[ProductQuantizer, FloatMatrix | None]] = [(best, rotation)]
        if self.iterations:
            rotation, best = self._alternate(x, rotation, best, progress)
            curve = best.objective.tolist()
            # Codebooks learnt anew for the final rotation are mostly better than those that came
            # along with it.
            candidates = [(best, rotation), (self._pq.fresh().train(x @ rotation.T), rotation)]
        if plain is not None:
            candidates.insert(0, (plain, None))  # the first of equal ones is taken
        self._pq, self._rotation = min(candidates, key=lambda found: found[0].objective[-1])
        self.objective = np.array([*curve, self._pq.objective[-1]])
        progress(self.steps)

    def _alternate(
        self, x: FloatMatrix, rotation: FloatMatrix, start: ProductQuantizer, progress: Progress
    ) -> tuple[FloatMatrix, ProductQuantizer]:
        """Improve rotation and codebooks in turn; codebooks by one step of k-means a turn."""
        quantizer = start.fresh().set_codebooks(start.codebooks)
        turned, curve = x @ rotation.T, []
        for iteration in range(self.iterations):
            codes = quantizer.encode(turned)
            numbers = quantizer.unpack(codes)
            parts = enumerate(quantizer.sub_vectors(turned))
            books = [_means(part, numbers[:, j], quantizer.codebooks[j]) for j, part in parts]
            quantizer.set_codebooks(np.stack(books))
            decoded = quantizer.decode(codes)
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

    def _turn(self, x: FloatMatrix) -> FloatMatrix:
        return x if self._rotation is None else x @ self._rotation.T

    def _turn_back(self, y: NDArray[np.float32]) -> NDArray[np.float32]:
        return y if self._rotation is None else y @ self._rotation

    def _codewords(self) -> NDArray[np.float32]:
        return self._turn_back(self._pq.codewords())

    def _encode(self, x: FloatMatrix) -> Codes:
        return self._pq.encode(self._turn(x))

    def _decode(self, codes: Codes) -> FloatMatrix:
        return self._turn_back(self._pq.decode(codes))

    def _table(self, xq: FloatMatrix) -> NDArray[np.float32]:
        return self._pq.distance_table(self._turn(xq))

    def _offsets(self, codes: Codes) -> NDArray[np.float32]:
        return self._pq.offsets(codes)

    def scan_unchecked(self, xq: FloatMatrix, codes: Codes, k: int) -> tuple[FloatMatrix, IdArray]:
        """Scan by table look-ups of the rotated queries; see ``Quantizer.scan_unchecked``."""
        return self._pq.scan_unchecked(np.ascontiguousarray(self._turn(xq)), codes, k)

    def _state(self) -> dict[str, NDArray[Any]]:
        none = np.empty((0, self.d), np.float32)
        rotation = none if self._rotation is None else self._rotation
        return {"codebooks": self._pq.codebooks, "rotation": rotation}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._pq.set_codebooks(state["codebooks"])
        kept = len(state["rotation"]) > 0
        rotation = self._array(state, "rotation", self.d * kept, self.d)
        self._rotation = rotation if kept else None


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
    for place, value in zip(order.tolist(), logs, strict=True):
        j = min((j for j in range(m) if len(buckets[j]) < d // m), key=lambda j: sums[j])
        buckets[j].append(place)
        sums[j] += value
    return np.ascontiguousarray(axes[:, np.concatenate(buckets)].T, np.float32)


def _means(part: FloatMatrix, numbers: IdArray, before: FloatMatrix) -> FloatMatrix:
    """Return the mean of the rows that have each number; ``before`` where there are none."""
    counts = np.bincount(numbers, minlength=len(before))
    order = np.argsort(numbers, kind="stable")
    used = np.flatnonzero(counts)
    starts = np.cumsum(counts[used]) - counts[used]
    sums = np.add.reduceat(part[order], starts, axis=0, dtype=np.float64)
    found = before.copy()
    found[used] = sums / counts[used, None]
    return found
