"""Composite quantization: additive codes whose distances need no more look-ups than product codes.

With a code's vector y = sum_j c_j, the squared distance of a query q is

    |q - y|^2 = sum_j |q - c_j|^2 - (m - 1) |q|^2 + sum_{i != j} <c_i, c_j>.

The first sum is m look-ups, the second term is the same for all codes. If the third, the inner
products of codewords of different dictionaries, is nearly a constant, codes can be ranked without
it: then additive codes cost what product codes cost, for which it is zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._types import Codes, FloatMatrix, IdArray
from pqlib.quantizers.additive import AdditiveQuantizer, beam_search, with_codebooks
from pqlib.quantizers.base import Cost, Progress, scan_in_blocks
from pqlib.quantizers.codewords import ENCODE_ROWS, inter_codebook
from pqlib.quantizers.rotated import OptimizedProductQuantizer

SWEEPS = 3
"""Times that encoding goes over all numbers of a code, at most."""

TOLERANCE = 1e-3
"""Relative gain of an iteration below which training stops."""

PERTURBATIONS = 2
"""Perturbations of each code that encoding tries."""

BEAM = 10
"""Partial codes kept in the search that encoding starts with."""

DESCENT_STEPS = 6
"""Steps of L-BFGS in each improvement of the dictionaries, at most."""


class CompositeQuantizer(AdditiveQuantizer):
    """Composite quantizer (Zhang, Du, Wang, "Composite quantization for approximate nearest
    neighbor search", ICML 2014).

    Minimizes (section 3.1), over m dictionaries of 2**nbits codewords, the codes and a number e,

        mean |x - y|^2 + mu * mean (s - e)^2,   y = sum_j c_j,   s = sum_{i != j} <c_i, c_j>,

    so that s is nearly e for every code. It starts from an optimized product code, for which s =
    0, and improves in turn the codes (each number set to its best, the others held fixed), the
    dictionaries (L-BFGS) and e (the mean of s). mu grows until the standard deviation of s is at
    most ``spread`` times the mean of |y|^2. ``objective`` is the first term, mean |x - y|^2, which
    a growing penalty may raise; its last value is that of the dictionaries kept.

    x stands for vectors less their mean here, and so do ``codewords``. The entries of a distance
    table and ``epsilon`` add up nearly to a code's squared distance; the entries and the code's
    ``offsets``, exactly.

    Encoding takes m * 2**nbits * d multiplications and, for each of up to nine sweeps, about m^2 *
    2**nbits additions a vector; a query's tables m * 2**nbits * d; each code scanned m look-ups.

    Parameters
    ----------
    d, m, nbits, seed : see ``AdditiveQuantizer``; m is a divisor of d, since the start is a
        product code
    iterations : of codes, dictionaries and e in turn, at most
    spread : of s, see above, above 0 and below 1
    """

    def __init__(
        self,
        d: int,
        m: int = 8,
        nbits: int = 8,
        iterations: int = 10,
        spread: float = 0.005,
        seed: int = 0,
    ) -> None:
        super().__init__(d, m, nbits, seed)
        _checks.product_quantizer_shape(self.d, self.m, self.nbits)
        self.iterations = self.steps = _checks.integer("iterations", iterations, 1)
        self.spread = _checks.fraction("spread", spread)
        self._books: NDArray[np.float32] = np.empty((0, 0, 0), np.float32)
        self._mean: NDArray[np.float32] = np.broadcast_to(np.float32(0), self.d)
        self.epsilon = 0.0
        self.mu = 0.0

    @property
    def parameters_bytes(self) -> int:
        """Bytes of the dictionaries and of the mean, float32; inner products are not needed."""
        return 4 * self.m * self.ksub * self.d + 4 * self.d

    @property
    def mean(self) -> NDArray[np.float32]:
        """The mean of the training vectors (d,), which every decoded vector has added."""
        return self._mean

    def _cost(self) -> Cost:
        return Cost(self.m * self.ksub * self.d, self.m)

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        self._mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        x = x - self._mean
        start = OptimizedProductQuantizer(self.d, self.m, self.nbits, iterations=5, seed=self.seed)
        start.train(x)
        numbers, words = start.unpack(start.encode(x)), start.codewords()
        energy = float(np.einsum("ij,ij->", x, x, dtype=np.float64) / len(x))
        mu, epsilon = 8 / energy if energy > 0 else 0.0, 0.0
        curve: list[float] = []
        best = (np.inf, words, 0.0, mu)
        for iteration in range(self.iterations):
            task = _Task(words, mu, epsilon)
            numbers = task.improved_numbers(x, numbers, sweeps=1)
            words = task.improved_words(x, numbers)
            y, s = _composed(words, numbers), inter_codebook(words, numbers)
            epsilon = float(s.mean())
            curve.append(_mean_square(x - y))
            progress(iteration + 1)
            if float(s.std()) > self.spread * _mean_square(y):
                mu *= 2
                continue
            if curve[-1] < best[0]:
                gain = best[0] - curve[-1]
                best = (curve[-1], words, epsilon, mu)
                if gain < TOLERANCE * curve[-1]:
                    break
        if not np.isfinite(best[0]):
            # A product code is a composite one with s = 0: valid, but not what was asked for.
            warnings.warn(
                f"{self!r}: after {len(curve)} iterations the products of codewords were not yet "
                f"within spread={self.spread}, so the product code at the start was kept. Raise "
                "iterations or spread.",
                stacklevel=3,
            )
            best = (float(start.objective[-1]), start.codewords(), 0.0, mu)
        self._books, self.epsilon, self.mu = np.ascontiguousarray(best[1], np.float32), *best[2:]
        self.objective = np.array([*curve, best[0]])

    def _codewords(self) -> NDArray[np.float32]:
        return self._books

    def _encoder(self) -> Callable[[FloatMatrix], Codes]:
        task = _Task(self._books, self.mu, self.epsilon)
        return lambda x: self.pack(task.encode(x - self._mean))

    def _decode(self, codes: Codes) -> FloatMatrix:
        return _composed(self._books, self.unpack(codes)) + self._mean

    def _table(self, xq: FloatMatrix) -> NDArray[np.float32]:
        return super()._table(xq - self._mean)

    def scan(
        self, xq: FloatMatrix, codes: Codes, k: int, exact: bool = False
    ) -> tuple[FloatMatrix, IdArray]:
        """Return the ``k`` codes nearest to each query by m look-ups; see ``Quantizer.scan``.

        Parameters
        ----------
        exact : by distances to the decoded vectors instead
        """
        xq, codes = self._check_scan(xq, codes, k)
        return super().scan_unchecked(xq, codes, k) if exact else self.scan_unchecked(xq, codes, k)

    def scan_unchecked(self, xq: FloatMatrix, codes: Codes, k: int) -> tuple[FloatMatrix, IdArray]:
        """Scan by what m look-ups give, epsilon added; see ``Quantizer.scan_unchecked``."""
        # The sum of the look-ups is |q|^2 - 2 <q, y> + sum_j |c_j|^2: an inner product of the query
        # with the code's vector, and one number of the code. A matrix product gives it for all.
        norms = np.einsum("jkd,jkd->jk", self._books, self._books)
        centered = xq - self._mean
        queries = np.concatenate([centered, np.ones((len(xq), 1), np.float32)], axis=1)

        def stored(block: Codes) -> FloatMatrix:
            numbers = self.unpack(block)
            rest = norms[np.arange(self.m), numbers].sum(axis=1)
            return np.concatenate([2 * _composed(self._books, numbers), -rest[:, None]], axis=1)

        found, rows = scan_in_blocks(queries, codes, k, stored, faiss.METRIC_INNER_PRODUCT)
        squares = np.einsum("ij,ij->i", centered, centered)
        return found + squares[:, None] + np.float32(self.epsilon), rows

    def _state(self) -> dict[str, NDArray[Any]]:
        return {
            "codebooks": self._books,
            "mean": self._mean,
            "constants": np.array([self.epsilon, self.mu]),
        }

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._books = self._array(state, "codebooks", self.m, self.ksub, self.d)
        self._mean = self._array(state, "mean", self.d)
        self.epsilon, self.mu = (float(v) for v in state["constants"])


def _mean_square(x: FloatMatrix) -> float:
    return float((x**2).sum(dtype=np.float64) / len(x))


def _composed(words: NDArray[np.float32], numbers: IdArray) -> FloatMatrix:
    """Return the sums of codewords (n, d) that ``numbers`` (n, m) name."""
    total = words[0][numbers[:, 0]].copy()
    for j in range(1, len(words)):
        total += words[j][numbers[:, j]]
    return total


class _Task:
    """What is minimized, for given dictionaries, mu and epsilon, and how numbers lower it.

    Parameters
    ----------
    words : (m, 2**nbits, d), the dictionaries
    mu, epsilon : see ``CompositeQuantizer``
    """

    def __init__(self, words: NDArray[np.float32], mu: float, epsilon: float) -> None:
        self.words, self.mu, self.epsilon = words, mu, epsilon
        self.m, self.ksub, self.d = words.shape
        self.flat = words.reshape(-1, self.d)

    @cached_property
    def gram(self) -> NDArray[np.float32]:
        """The inner products of all codewords with each other, (m, 2**nbits, m, 2**nbits)."""
        return (self.flat @ self.flat.T).reshape(self.m, self.ksub, self.m, self.ksub)

    def costs(self, x: FloatMatrix, numbers: IdArray) -> NDArray[np.float64]:
        """Return what is minimized, of each vector, (n,)."""
        difference = x - _composed(self.words, numbers)
        error = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
        s = inter_codebook(self.words, numbers, self.gram)
        return error + self.mu * (s - self.epsilon) ** 2

    @cached_property
    def searcher(self) -> Any:
        """faiss's beam search over the dictionaries."""
        made = faiss.ResidualQuantizer(self.d, self.m, self.ksub.bit_length() - 1)
        return beam_search(with_codebooks(made, self.words), BEAM)

    def encode(self, x: FloatMatrix) -> IdArray:
        """Return numbers (n, m) for ``x``: beam search, sweeps, perturbations and sweeps again.

        A perturbation is the same for all rows, so that a code does not depend on the others.
        """
        codes = self.searcher.compute_codes(x)
        found = faiss.unpack_bitstrings(codes, self.m, self.ksub.bit_length() - 1)
        numbers = self.improved_numbers(x, found.astype(np.int64), SWEEPS)
        costs = self.costs(x, numbers)
        rng = np.random.default_rng(0)
        for _ in range(PERTURBATIONS):
            tried = numbers.copy()
            places = rng.choice(self.m, min(3, self.m), replace=False)
            tried[:, places] = rng.integers(self.ksub, size=len(places))
            tried = self.improved_numbers(x, tried, SWEEPS)
            theirs = self.costs(x, tried)
            better = theirs < costs
            numbers[better], costs[better] = tried[better], theirs[better]
        return numbers

    def improved_numbers(self, x: FloatMatrix, numbers: IdArray, sweeps: int) -> IdArray:
        """Set each number in turn to its best, the others held fixed (iterated conditional modes).

        Rows that a sweep does not change are left out of the next.
        """
        numbers = numbers.copy()
        for start in range(0, len(x), ENCODE_ROWS):
            block = numbers[start : start + ENCODE_ROWS]
            products = x[start : start + ENCODE_ROWS] @ self.flat.T
            products = products.reshape(len(block), self.m, self.ksub)
            active = np.arange(len(block))
            for _ in range(sweeps):
                rows = self._swept(products[active], block[active])
                changed = (rows != block[active]).any(axis=1)
                block[active] = rows
                active = active[changed]
                if not len(active):
                    break
        return numbers

    def _swept(self, products: NDArray[np.float32], numbers: IdArray) -> IdArray:
        """Improve each number once, given <x, c> of all codewords, (n, m, 2**nbits).

        With r = x - (y - c_j) and t the inner products of the others with each other, number k of
        dictionary j costs |r - c|^2 + mu (t + 2 <y - c_j, c> - e)^2 for its codeword c.
        """
        place = np.arange(len(numbers))
        s = inter_codebook(self.words, numbers, self.gram)
        for j in range(self.m):
            # <y - c_j, c> for all codewords c of dictionary j.
            cross = np.zeros((len(numbers), self.ksub), np.float32)
            for i in range(self.m):
                if i != j:
                    cross += self.gram[i, numbers[:, i], j]
            cost = np.diagonal(self.gram[j, :, j]) - 2 * (products[:, j] - cross)
            t = s - 2 * cross[place, numbers[:, j]]
            if self.mu:
                away = (t - self.epsilon).astype(np.float32)
                cost += np.float32(self.mu) * (away[:, None] + 2 * cross) ** 2
            numbers[:, j] = cost.argmin(axis=1)
            s = t + 2 * cross[place, numbers[:, j]]
        return numbers

    def improved_words(self, x: FloatMatrix, numbers: IdArray) -> NDArray[np.float32]:
        """Improve the dictionaries for fixed numbers by steps of L-BFGS.

        The gradient of a codeword is the sum over the vectors that use it of
        -2 (x - y) + 4 mu (s - e) (y - c).
        """
        # Here, since it takes as long as all the rest of the package to import.
        from scipy.optimize import minimize
        from scipy.sparse import csr_array

        n = len(x)
        columns = numbers + self.ksub * np.arange(self.m)
        ones, rows = np.ones(numbers.size, np.float32), np.arange(0, numbers.size + 1, self.m)
        use = csr_array((ones, columns.ravel(), rows), (n, self.m * self.ksub))
        back = use.T.tocsr()

        def value(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            flat = point.astype(np.float32).reshape(self.flat.shape)
            y = use @ flat
            norms = np.einsum("ij,ij->i", flat, flat)
            s = np.einsum("ij,ij->i", y, y) - use @ norms
            error, far = x - y, s - np.float32(self.epsilon)
            total = float(
                (error**2).sum(dtype=np.float64) + self.mu * (far**2).sum(dtype=np.float64)
            )
            weight = (4 * self.mu) * far
            gradient = back @ (weight[:, None] * y - 2 * error)
            gradient -= (back @ weight)[:, None] * flat
            return total / n, gradient.ravel().astype(np.float64) / n

        found = minimize(
            value,
            self.words.ravel().astype(np.float64),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": DESCENT_STEPS, "maxcor": 6},
        )
        return found.x.astype(np.float32).reshape(self.words.shape)
