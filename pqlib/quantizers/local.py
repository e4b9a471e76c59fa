"""Locally optimized product quantization: codebooks, and rotations, of each cluster's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._threads import one_thread_each
from pqlib.clustering import kmeans
from pqlib.quantizers.base import (
    Codes,
    FloatMatrix,
    IdArray,
    Progress,
    Quantizer,
    mean_squared_error,
)
from pqlib.quantizers.product import ProductQuantizer
from pqlib.quantizers.rotated import OptimizedProductQuantizer

NUMBER_BYTES = 2
"""Bytes in which a code holds the number of its cluster."""


class LocallyOptimizedPQ(Quantizer):
    """Product codes of residuals, with a rotation and codebooks per cluster (Kalantidis, Avrithis,
    "Locally optimized product quantization for approximate nearest neighbor search", CVPR 2014).

    k-means finds clusters; in each, the residuals are rotated to their own principal axes, dealt
    out evenly to the sub-spaces (section 3.2, the parametric solution), and product-quantized with
    codebooks of the cluster's own. It minimizes the mean of |r - PQ_c(r)|^2 over the residuals r of
    each cluster c. A rotation is kept only where it lowers that error. A cluster with fewer
    than 2**nbits training vectors uses one quantizer that all such clusters share;
    ``n_shared_clusters`` counts them.

    Its parameters are many: 4 * d^2 bytes a rotation and 4 * d * 2**nbits bytes the codebooks, for
    each cluster. Encoding takes d^2 + 2**nbits * d multiplications a vector, and so do a query's
    tables, for each cluster whose codes are scanned; each of these m look-ups.

    The number of the cluster is part of the code here, so that it decodes by itself; in the
    lists of ``MultiLevelPQ`` the list tells it.

    Parameters
    ----------
    d : dimension
    m : sub-quantizers, a divisor of d; None: the largest divisor that is at most 8
    nbits : bits of one sub-quantizer's number, 4..16
    n_clusters : clusters
    rotate : False leaves the rotations out: codebooks per cluster, and nothing else
    iterations : of alternation between rotation and codebooks in each cluster, at most, see
        ``OptimizedProductQuantizer``; 0: the parametric solution, where it is better than none
    seed : of k-means

    Raises
    ------
    ValueError
        When an argument is out of range.
    """

    def __init__(
        self,
        d: int,
        m: int | None = None,
        nbits: int = 8,
        n_clusters: int = 16,
        rotate: bool = True,
        iterations: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(d, seed)
        self.m, self.nbits = _checks.product_quantizer_shape(self.d, m, nbits)
        self.n_clusters = _checks.integer("n_clusters", n_clusters, 1, 1 << 8 * NUMBER_BYTES)
        self.rotate = bool(rotate)
        self.iterations = _checks.integer("iterations", iterations, 0)
        self._centroids: FloatMatrix = np.empty((0, self.d), np.float32)
        self._own: dict[int, Quantizer] = {}
        self._shared: Quantizer | None = None

    @property
    def bits(self) -> int:
        """Bits of one code: m * nbits, and those of the cluster's number."""
        return self.m * self.nbits + (self.n_clusters - 1).bit_length()

    @property
    def code_bytes(self) -> int:
        """Bytes of one stored code: two for the cluster's number, then the product code."""
        return NUMBER_BYTES + (self.m * self.nbits + 7) // 8

    @property
    def parameters_bytes(self) -> int:
        """Bytes of centroids, rotations and codebooks, float32; before training, at most."""
        if not self.is_trained:
            return self.n_clusters * (4 * self.d + self._new().parameters_bytes)
        return self._centroids.nbytes + sum(q.parameters_bytes for q in self._quantizers())

    @property
    def n_shared_clusters(self) -> int:
        """Clusters with too few training vectors for codebooks of their own."""
        return self.n_clusters - len(self._own)

    @property
    def n_rotated(self) -> int:
        """Clusters whose rotation was kept."""
        kept = (getattr(q, "rotation", None) for q in self._own.values())
        return sum(rotation is not None for rotation in kept)

    @property
    def least_train(self) -> int:
        """Vectors that training needs at least."""
        return max(1 << self.nbits, self.n_clusters)

    @property
    def steps(self) -> int:
        """Clusters, each of which is a step of training."""
        return self.n_clusters

    def _quantizers(self) -> list[Quantizer]:
        shared = [] if self._shared is None else [self._shared]
        return [*self._own.values(), *shared]

    def search_cost(self) -> dict[str, int]:
        """Count the work of searching all clusters: a rotation and tables for each of them."""
        trained = self.is_trained
        costs = [
            (self._of(c) if trained else self._new()).search_cost() for c in range(self.n_clusters)
        ]
        tables = sum(cost["multiplications"] for cost in costs)
        return {
            "multiplications": self.n_clusters * self.d + tables,
            "lookups": self.m,
            "code_multiplications": 0,
        }

    def _new(self) -> Quantizer:
        if self.rotate:
            return OptimizedProductQuantizer(
                self.d, self.m, self.nbits, self.iterations, seed=self.seed
            )
        return ProductQuantizer(self.d, self.m, self.nbits, self.seed)

    def _why_so_many(self) -> str:
        return "one for each cluster, and for each centroid of a codebook"

    def _what_needs_fewer(self) -> str:
        return "take fewer clusters or a smaller nbits"

    def _of(self, cluster: int) -> Quantizer:
        found = self._own.get(cluster, self._shared)
        assert found is not None
        return found

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        self._centroids = kmeans(x, self.n_clusters, seed=self.seed).centroids
        home = self._assign(x)
        residuals = x - self._centroids[home]
        sizes = np.bincount(home, minlength=self.n_clusters)
        own = np.flatnonzero(sizes >= 1 << self.nbits).tolist()
        self._shared = None if len(own) == self.n_clusters else self._new().train(residuals)
        with one_thread_each() as pool:
            trained = pool.map(lambda c: self._new().train(residuals[home == c]), own)
            self._own = {}
            for c, quantizer in zip(own, trained, strict=True):
                self._own[c] = quantizer
                progress(len(self._own))
        total = 0.0
        for c in np.flatnonzero(sizes).tolist():
            own_residuals = residuals[home == c]
            quantizer = self._of(c)
            decoded = quantizer.decode(quantizer.encode(own_residuals))
            total += sizes[c] * mean_squared_error(own_residuals, decoded)
        self.objective = np.array([total / len(x)])

    def _assign(self, x: FloatMatrix) -> IdArray:
        return faiss.knn(x, self._centroids, 1)[1].ravel()

    def _encode(self, x: FloatMatrix) -> Codes:
        home = self._assign(x)
        codes = np.empty((len(x), self.code_bytes), np.uint8)
        codes[:, :NUMBER_BYTES] = home.astype("<u2")[:, None].view(np.uint8)
        for c in np.unique(home).tolist():
            rows = np.flatnonzero(home == c)
            codes[rows, NUMBER_BYTES:] = self._of(c).encode(x[rows] - self._centroids[c])
        return codes

    def clusters(self, codes: Codes) -> IdArray:
        """Return the numbers of the codes' clusters, (n,) int64.

        Raises
        ------
        ValueError
            When codes are of another shape, or name a cluster that there is not.
        """
        numbers = np.ascontiguousarray(self._check_codes(codes)[:, :NUMBER_BYTES]).view("<u2")
        if len(numbers) and int(numbers.max()) >= self.n_clusters:
            raise ValueError(
                f"codes name cluster {int(numbers.max())}: expected at most "
                f"{self.n_clusters - 1}. They are of another quantizer, or damaged."
            )
        return numbers.ravel().astype(np.int64)

    def _decode(self, codes: Codes) -> FloatMatrix:
        home = self.clusters(codes)
        decoded = self._centroids[home]
        for c in np.unique(home).tolist():
            rows = np.flatnonzero(home == c)
            decoded[rows] += self._of(c).decode(codes[rows, NUMBER_BYTES:])
        return decoded

    def _state(self) -> dict[str, NDArray[Any]]:
        state: dict[str, NDArray[Any]] = {
            "centroids": self._centroids,
            "own": np.array(sorted(self._own), np.int64),
        }
        for c, quantizer in [(-1, self._shared), *sorted(self._own.items())]:
            if quantizer is not None:
                state |= {f"{c}/{name}": array for name, array in quantizer.state()}
        return state

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        centroids = self._array(state, "centroids", self.n_clusters, self.d)

        def taken(c: int) -> Quantizer:
            prefix = f"{c}/"
            own = {name[len(prefix) :]: a for name, a in state.items() if name.startswith(prefix)}
            return self._new().restore(own)

        own = [int(c) for c in state["own"].ravel()]
        if own != sorted(set(own)) or not set(own) <= set(range(self.n_clusters)):
            raise ValueError(f"own names other clusters than 0..{self.n_clusters - 1}, once each.")
        self._centroids = centroids
        self._own = {c: taken(c) for c in own}
        self._shared = None if len(self._own) == self.n_clusters else taken(-1)
