"""Composite quantization: additive codes whose distances need no more look-ups than product codes.

With a code's vector y = sum_j c_j, the squared distance of a query q is

    |q - y|^2 = sum_j |q - c_j|^2 - (m - 1) |q|^2 + sum_{i != j} <c_i, c_j>.

The first sum is m look-ups, the second term is the same for all codes. If the third, the inner
products of codewords of different dictionaries, is nearly a constant, it may be left out as well
when codes are ranked: then additive codes cost what product codes cost, for which it is zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib.clustering import sample_rows
from pqlib.quantizers.additive import AdditiveQuantizer, beam_search
from pqlib.quantizers.base import BLOCK, Codes, FloatMatrix, IdArray, Progress, inter_codebook
from pqlib.quantizers.product import POINTS_PER_CENTROID
from pqlib.quantizers.rotated import OptimizedProductQuantizer

SWEEPS = 3
"""Times that encoding goes over all numbers of a code, at most."""

TOLERANCE = 1e-3
"""Relative gain of an iteration below which training stops."""

ROWS = 4096
"""Vectors encoded at once."""

PERTURBATIONS = 2
"""Perturbations of each code that encoding tries."""

BEAM = 10
"""Partial codes kept in the search that encoding starts with."""


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

    Encoding takes m * 2**nbits * d multiplications and, for each of up to nine sweeps, about m^2 *
    2**nbits additions a vector; a query's tables m * 2**nbits * d; each code scanned m look-ups.

    Parameters
    ----------
    d : dimension
    m : dictionaries, the numbers of a code; a divisor of d, since the start is a product code
    nbits : bits of each, 4..12
    iterations : of codes, dictionaries and e in turn, at most
    spread : of s, see above, above 0 and below 1
    seed : of sampling and the start

    Raises
    ------
    ValueError
        When an argument is out of range.
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
        self.iterations = _checks.integer("iterations", iterations, 1)
        self.spread = _checks.fraction("spread", spread)
        self._books: NDArray[np.float32] = np.empty((0, 0, 0), np.float32)
        self._mean: NDArray[np.float32] = np.zeros(self.d, np.float32)
        self.epsilon = 0.0
        self.mu = 0.0

    @property
    def parameters_bytes(self) -> int:
        """Bytes of the dictionaries and of the mean, float32; inner products are not needed."""
        return 4 * self.m * self.ksub * self.d + 4 * self.d

    @property
    def steps(self) -> int:
        """Iterations of training, at most."""
        return self.iterations

    def search_cost(self) -> dict[str, int]:
        """Count the work of searching: m * 2**nbits * d for tables, m look-ups a code."""
        return {**super().search_cost(), "lookups": self.m}

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        x = x[sample_rows(len(x), POINTS_PER_CENTROID * self.ksub, self.seed)]
        self.n_train = len(x)
        self._mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        x = x - self._mean
        start = OptimizedProductQuantizer(self.d, self.m, self.nbits, iterations=5, seed=self.seed)
        start.train(x)
        numbers = start.unpack(start.encode(x))
        words = start.codewords()
        self.epsilon = 0.0
        energy = float(np.einsum("ij,ij->", x, x, dtype=np.float64) / len(x))
        self.mu = 8 / energy if energy > 0 else 0.0
        curve: list[float] = []
        best = (np.inf, words, 0.0, self.mu)
        for iteration in range(self.iterations):
            numbers = _improved(x, _Tables(words), numbers, self.mu, self.epsilon, sweeps=1)
            words = _dictionaries(x, words, numbers, self.mu, self.epsilon)
            y, s = _composed(words, numbers), inter_codebook(words, numbers)
            self.epsilon = float(s.mean())
            curve.append(float(((x - y) ** 2).sum(dtype=np.float64) / len(x)))
            wide = float(s.std()) > self.spread * float((y**2).sum(dtype=np.float64) / len(y))
            progress(iteration + 1)
            if wide:
                self.mu *= 2
                continue
            if curve[-1] < best[0]:
                gain = best[0] - curve[-1]
                best = (curve[-1], words, self.epsilon, self.mu)
                if gain < TOLERANCE * curve[-1]:
                    break
        if not np.isfinite(best[0]):
            # A product code is a composite one with s = 0: valid, but not what was asked for.
            warnings.warn(
                f"{self!r}: after {len(curve)} iterations the products of codewords were not yet "
                f"within spread={self.spread}, so the product code at the start was kept. Raise "
                "iterations or spread.",
                stacklevel=4,
            )
            best = (float(start.objective[-1]), start.codewords(), 0.0, self.mu)
        self._books, self.epsilon, self.mu = np.ascontiguousarray(best[1], np.float32), *best[2:]
        self.objective = np.array([*curve, best[0]])

    def codewords(self) -> NDArray[np.float32]:
        """Return the dictionaries, (m, 2**nbits, d) float32, of vectors less their mean."""
        self._need_training("codewords")
        return self._books

    @property
    def mean(self) -> NDArray[np.float32]:
        """The mean of the training vectors (d,), which every decoded vector has added."""
        return self._mean

    def _encode(self, x: FloatMatrix) -> Codes:
        tables, searcher = _Tables(self._books), _searcher(self._books)
        parts = []
        for i in range(0, len(x), ROWS):
            block = x[i : i + ROWS] - self._mean
            parts.append(_encoded(block, tables, searcher, self.mu, self.epsilon))
        return self.pack(np.concatenate(parts))

    def _decode(self, codes: Codes) -> FloatMatrix:
        return _composed(self._books, self.unpack(codes)) + self._mean

    def distance_table(self, xq: FloatMatrix) -> NDArray[np.float32]:
        """Return the distance tables of queries ``xq`` (nq, d): (nq, m, 2**nbits) float32.

        The sum of a code's entries, and of ``epsilon``, is nearly its squared distance; and of its
        ``offsets``, exactly.
        """
        self._need_training("distance_table")
        return super().distance_table(_checks.vectors("xq", xq, self.d) - self._mean)

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
        """Scan by what m look-ups give, epsilon added; see ``Quantizer.scan``."""
        # The sum of the look-ups is |q|^2 - 2 <q, y> + sum_j |c_j|^2: an inner product of the query
        # with the code's vector, and one number of the code. A matrix product gives it for all.
        norms = np.einsum("jkd,jkd->jk", self._books, self._books)
        centered = xq - self._mean
        queries = np.concatenate([centered, np.ones((len(xq), 1), np.float32)], axis=1)
        heap = faiss.ResultHeap(len(xq), k)
        for start in range(0, len(codes), BLOCK):
            numbers = self.unpack(codes[start : start + BLOCK])
            rest = norms[np.arange(self.m), numbers].sum(axis=1)
            y = _composed(self._books, numbers)
            stored = np.concatenate([2 * y, -rest[:, None]], axis=1)
            found, rows = faiss.knn(
                queries, stored, min(k, len(stored)), faiss.METRIC_INNER_PRODUCT
            )
            heap.add_result(-found, rows + start)
        heap.finalize()
        squares = np.einsum("ij,ij->i", centered, centered)
        return heap.D + squares[:, None] + np.float32(self.epsilon), heap.I

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


def _composed(words: NDArray[np.float32], numbers: IdArray) -> FloatMatrix:
    """Return the sums of codewords (n, d) that ``numbers`` (n, m) name."""
    total = words[0][numbers[:, 0]].copy()
    for j in range(1, len(words)):
        total += words[j][numbers[:, j]]
    return total


class _Tables:
    """What choosing numbers looks up: codewords, and their inner products with each other."""

    def __init__(self, words: NDArray[np.float32]) -> None:
        self.words = words
        self.m, self.ksub, d = words.shape
        self.flat = words.reshape(-1, d)
        gram = self.flat @ self.flat.T
        self.norms = np.diagonal(gram).reshape(self.m, self.ksub)
        self.gram = gram.reshape(self.m, self.ksub, self.m, self.ksub)

    def cross(self, numbers: IdArray, j: int) -> NDArray[np.float32]:
        """Return <y - c_j, c> for all codewords c of dictionary j, (n, 2**nbits)."""
        found = np.zeros((len(numbers), self.ksub), np.float32)
        for i in range(self.m):
            if i != j:
                found += self.gram[i, numbers[:, i], j]
        return found

    def inter_codebook(self, numbers: IdArray) -> NDArray[np.float64]:
        """Return s of each row of ``numbers`` (n, m): (n,)."""
        found = np.zeros(len(numbers), np.float64)
        for j in range(1, self.m):
            for i in range(j):
                found += 2 * self.gram[i, numbers[:, i], j, numbers[:, j]]
        return found


def _encoded(x: FloatMatrix, tables: _Tables, searcher: Any, mu: float, epsilon: float) -> IdArray:
    """Return numbers (n, m) for ``x``: beam search, sweeps, perturbations and sweeps again.

    A perturbation is the same for all rows, so that a code does not depend on the others.
    """
    m, ksub = tables.m, tables.ksub
    codes = searcher.compute_codes(x)
    numbers = faiss.unpack_bitstrings(codes, m, ksub.bit_length() - 1).astype(np.int64)
    numbers = _improved(x, tables, numbers, mu, epsilon, SWEEPS)
    costs = _costs(x, tables, numbers, mu, epsilon)
    rng = np.random.default_rng(0)
    for _ in range(PERTURBATIONS):
        tried = numbers.copy()
        places = rng.choice(m, min(3, m), replace=False)
        tried[:, places] = rng.integers(ksub, size=len(places))
        tried = _improved(x, tables, tried, mu, epsilon, SWEEPS)
        theirs = _costs(x, tables, tried, mu, epsilon)
        better = theirs < costs
        numbers[better], costs[better] = tried[better], theirs[better]
    return numbers


def _costs(
    x: FloatMatrix, tables: _Tables, numbers: IdArray, mu: float, epsilon: float
) -> NDArray[np.float64]:
    """Return what is minimized, of each vector, (n,)."""
    difference = x - _composed(tables.words, numbers)
    error = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    return error + mu * (tables.inter_codebook(numbers) - epsilon) ** 2


def _searcher(words: NDArray[np.float32]) -> Any:
    """Return faiss's beam search over these dictionaries."""
    m, ksub, d = words.shape
    made = faiss.ResidualQuantizer(d, m, ksub.bit_length() - 1)
    faiss.copy_array_to_vector(words.ravel(), made.codebooks)
    made.is_trained = True
    beam_search(made, BEAM)
    return made


def _improved(
    x: FloatMatrix, tables: _Tables, numbers: IdArray, mu: float, epsilon: float, sweeps: int
) -> IdArray:
    """Set each number in turn to its best, the others held fixed (iterated conditional modes).

    With r = x - (y - c_j) and t the inner products of the others with each other, number k of
    dictionary j costs |r - c|^2 + mu (t + 2 <y - c_j, c> - e)^2 for its codeword c.
    """
    m, norms = tables.m, tables.norms
    numbers = numbers.copy()
    for start in range(0, len(x), ROWS):
        block = numbers[start : start + ROWS]
        products = (x[start : start + ROWS] @ tables.flat.T).reshape(len(block), m, -1)
        # Rows that a sweep did not change stay as they are.
        active = np.arange(len(block))
        for _ in range(sweeps):
            rows, of_rows = block[active], products[active]
            place = np.arange(len(rows))
            before = rows.copy()
            s = tables.inter_codebook(rows)
            for j in range(m):
                cross = tables.cross(rows, j)
                cost = norms[j] - 2 * (of_rows[:, j] - cross)
                # What s is without number j.
                rest = s - 2 * cross[place, rows[:, j]]
                if mu:
                    away = (rest - epsilon).astype(np.float32)
                    cost += np.float32(mu) * (away[:, None] + 2 * cross) ** 2
                rows[:, j] = cost.argmin(axis=1)
                s = rest + 2 * cross[place, rows[:, j]]
            block[active] = rows
            active = active[(rows != before).any(axis=1)]
            if not len(active):
                break
    return numbers


def _dictionaries(
    x: FloatMatrix,
    words: NDArray[np.float32],
    numbers: IdArray,
    mu: float,
    epsilon: float,
    steps: int = 6,
) -> NDArray[np.float32]:
    """Improve the dictionaries for fixed numbers by steps of L-BFGS.

    The gradient of a codeword is the sum over the vectors that use it of
    -2 (x - y) + 4 mu (s - e) (y - c).
    """
    # Here, since it takes as long as all the rest of the package to import.
    from scipy.optimize import minimize
    from scipy.sparse import csr_array

    m, ksub, d = words.shape
    n = len(x)
    columns = numbers + ksub * np.arange(m)
    ones = np.ones(numbers.size, np.float32)
    use = csr_array((ones, columns.ravel(), np.arange(0, numbers.size + 1, m)), (n, m * ksub))
    back = use.T.tocsr()

    def value(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        flat = point.astype(np.float32).reshape(m * ksub, d)
        y = use @ flat
        norms = np.einsum("ij,ij->i", flat, flat)
        s = np.einsum("ij,ij->i", y, y) - use @ norms
        error, far = x - y, s - np.float32(epsilon)
        total = float((error**2).sum(dtype=np.float64) + mu * (far**2).sum(dtype=np.float64))
        weight = (4 * mu) * far
        gradient = back @ (weight[:, None] * y - 2 * error)
        gradient -= (back @ weight)[:, None] * flat
        return total / n, gradient.ravel().astype(np.float64) / n

    found = minimize(
        value,
        words.ravel().astype(np.float64),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps, "maxcor": 6},
    )
    return found.x.astype(np.float32).reshape(m, ksub, d)
