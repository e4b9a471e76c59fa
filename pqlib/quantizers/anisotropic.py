"""Anisotropic product quantization: errors along the vector weigh more than errors across it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._types import Codes, FloatMatrix, IdArray
from pqlib.quantizers.base import Progress, grouped
from pqlib.quantizers.codewords import ENCODE_ROWS
from pqlib.quantizers.product import ProductQuantizer

TOLERANCE = 1e-3
"""Relative gain of an iteration below which training stops."""

SWEEPS = 10
"""Times that encoding goes over all numbers of a code, at most."""


class AnisotropicProductQuantizer(ProductQuantizer):
    """Product quantizer for inner products (Guo, Sun, Lindgren, Geng, Simcha, Chern, Kumar,
    "Accelerating large-scale inference with anisotropic vector quantization", ICML 2020).

    For a query that has a large inner product with x, the error of that product comes from the
    part of x - y that is parallel to x. The loss (section 3.1) is

        h_par |r_par|^2 + h_ort |r_ort|^2,   r = x - y,   r_par = <r, x> x / |x|^2,

    with h_par / h_ort near (d - 1) T^2 / (1 - T^2) where d is large, for a threshold T on the inner
    products that matter (section 3.2); the paper uses T = 0.2. The ratio is derived for vectors of
    norm 1; those of another norm get the same. h_ort is 1 here, so that with a ratio of 1 this is
    the squared error. Sub-quantizers share r_par, so codes are set one number after the other and
    codebooks by solving a linear system for each codeword (section 4.2).

    ``scan`` and ``distance_table`` give squared distances to decoded vectors, as with every
    quantizer. Decoded vectors differ in length, so inner products rank them in another order. For
    that order, rank ``xq @ decode(codes).T``, or tables of inner products of the codewords.

    An iteration of training takes n * 2**nbits * d + n * d^2 / m multiplications, and 2**nbits * m
    systems of d / m equations; encoding 2**nbits * d multiplications a vector and some sweeps of m
    * 2**nbits additions; searching what a product quantizer takes.

    Parameters
    ----------
    d, m, nbits, seed : see ``ProductQuantizer``; d is 2 at least
    threshold : T, at least 0 and below 1; the ratio is never taken below 1
    iterations : of codes and codebooks in turn, at most
    """

    def __init__(
        self,
        d: int,
        m: int | None = None,
        nbits: int = 8,
        threshold: float = 0.2,
        iterations: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(d, m, nbits, seed)
        _checks.integer("d", self.d, 2, hint="In one dimension no error is across the vector.")
        self.threshold = _checks.fraction("threshold", threshold, zero=True)
        self.iterations = self.steps = _checks.integer("iterations", iterations, 1)

    @property
    def ratio(self) -> float:
        """How much more the parallel error weighs: h_par / h_ort."""
        t2 = self.threshold**2
        return max(1.0, (self.d - 1) * t2 / (1 - t2))

    def loss(self, x: FloatMatrix, decoded: FloatMatrix) -> float:
        """Return the mean anisotropic loss of ``decoded`` for ``x``, both (n, d), in float64."""
        r = x.astype(np.float64) - decoded
        along = np.einsum("ij,ij->i", r, x) * _inverse(np.einsum("ij,ij->i", x, x)) ** 0.5
        total = (r**2).sum() + (self.ratio - 1) * (along**2).sum()
        return float(total / len(x))

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        start = ProductQuantizer(self.d, self.m, self.nbits, self.seed).train(x)
        self.set_codebooks(start.codebooks)
        numbers = start.unpack(start.encode(x))
        curve: list[float] = []
        for iteration in range(self.iterations):
            numbers = self._improved(x, numbers, sweeps=2)
            self._solve(x, numbers)
            curve.append(self.loss(x, self.decode(self.pack(numbers))))
            progress(iteration + 1)
            if iteration and curve[-2] - curve[-1] < TOLERANCE * curve[-2]:
                break
        self.objective = np.array(curve)

    def _encode(self, x: FloatMatrix) -> Codes:
        return self.pack(self._improved(x, self.unpack(super()._encode(x)), SWEEPS))

    def _improved(self, x: FloatMatrix, numbers: IdArray, sweeps: int) -> IdArray:
        """Set each number in turn to its best for the loss, the others held fixed.

        With u = x / |x| and t = <r, u> of the other sub-spaces, codeword c of sub-space j costs
        |x_j - c|^2 + (ratio - 1) (t + <u_j, x_j - c>)^2.
        """
        numbers = numbers.copy()
        books, extra = self.codebooks, np.float32(self.ratio - 1)
        norms = np.einsum("jkd,jkd->jk", books, books)
        for start in range(0, len(x), ENCODE_ROWS):
            block, rows = x[start : start + ENCODE_ROWS], numbers[start : start + ENCODE_ROWS]
            inverse = _inverse(np.einsum("ij,ij->i", block, block)) ** np.float32(0.5)
            place = np.arange(len(block))
            products = [part @ books[j].T for j, part in enumerate(self.sub_vectors(block))]
            # What each sub-space adds to <r, u>, by codeword.
            along = [
                (np.einsum("ij,ij->i", part, part)[:, None] - products[j]) * inverse[:, None]
                for j, part in enumerate(self.sub_vectors(block))
            ]
            total = sum(along[j][place, rows[:, j]] for j in range(self.m))
            for _ in range(sweeps):
                before = rows.copy()
                for j in range(self.m):
                    t = total - along[j][place, rows[:, j]]
                    cost = norms[j] - 2 * products[j] + extra * (t[:, None] + along[j]) ** 2
                    rows[:, j] = cost.argmin(axis=1)
                    total = t + along[j][place, rows[:, j]]
                if (rows == before).all():
                    break
        return numbers

    def _solve(self, x: FloatMatrix, numbers: IdArray) -> None:
        """Set the codebooks, one sub-space after the other, to the best for these numbers."""
        books = self.codebooks.astype(np.float64)
        inverse = _inverse(np.einsum("ij,ij->i", x, x, dtype=np.float64)) ** 0.5
        parts = [part.astype(np.float64) for part in self.sub_vectors(x)]

        def parallel(j: int) -> NDArray[np.float64]:
            """Return what sub-space j adds to <r, u>, (n,)."""
            r = parts[j] - books[j][numbers[:, j]]
            return np.einsum("ij,ij->i", parts[j], r) * inverse

        along = np.stack([parallel(j) for j in range(self.m)])
        total, extra = along.sum(axis=0), self.ratio - 1
        for j, part in enumerate(parts):
            unit = part * inverse[:, None]
            t = total - along[j]
            for c, rows in grouped(numbers[:, j]):
                u, v = unit[rows], part[rows]
                left = len(rows) * np.eye(self.dsub) + extra * u.T @ u
                pull = np.einsum("ij,ij->i", u, v) + t[rows]
                books[j, c] = np.linalg.solve(left, v.sum(axis=0) + extra * u.T @ pull)
            along[j] = parallel(j)
            total = t + along[j]
        self.set_codebooks(books.astype(np.float32))


def _inverse(squares: NDArray[Any]) -> NDArray[Any]:
    """Return 1 / squares, and 0 where a vector is zero: it has no direction."""
    return np.divide(1, squares, out=np.zeros_like(squares), where=squares > 0)
