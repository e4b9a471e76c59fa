"""Locally optimized product quantization: codebooks, and rotations, of each cluster's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._threads import one_thread_each
from pqlib._types import Codes, FloatMatrix, IdArray
from pqlib.clustering import kmeans
from pqlib.quantizers.base import Cost, Progress, Quantizer, grouped, mean_squared_error
from pqlib.quantizers.product import ProductQuantizer
from pqlib.quantizers.rotated import OptimizedProductQuantizer

NUMBER_BYTES = 2
"""Bytes in which a code holds the number of its cluster."""

SHARED = -1


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
    d, m, nbits, seed : see ``ProductQuantizer``
    n_clusters : clusters, 1..65,536
    rotate : False leaves the rotations out: codebooks per cluster, and nothing else
    iterations : of alternation between rotation and codebooks in each cluster, at most, see
        ``OptimizedProductQuantizer``; 0: the parametric solution, where it is better than none
    """

    _reason = "one for each cluster, and for each centroid of a codebook"
    _remedy = "take fewer clusters or a smaller nbits"

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
        self.least_train = max(1 << self.nbits, self.n_clusters)
        self.steps = self.n_clusters
        self._centroids: FloatMatrix = np.empty((0, self.d), np.float32)
        # By cluster, in ascending order; the shared one first.
        self._trained: dict[int, Quantizer] = {}

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
        return self._centroids.nbytes + sum(q.parameters_bytes for q in self._trained.values())

    @property
    def _own(self) -> dict[int, Quantizer]:
        return {c: quantizer for c, quantizer in self._trained.items() if c != SHARED}

    @property
    def n_shared_clusters(self) -> int:
        """Clusters with too few training vectors for codebooks of their own."""
        return self.n_clusters - len(self._own)

    @property
    def n_rotated(self) -> int:
        """Clusters with a quantizer of their own whose rotation was kept."""
        return sum(getattr(q, "rotation", None) is not None for q in self._own.values())

    def _cost(self) -> Cost:
        """Count a rotation and tables for each of the clusters."""
        new = self._new()
        each = [self._of(c) if self.is_trained else new for c in range(self.n_clusters)]
        tables = sum(quantizer.search_cost()["multiplications"] for quantizer in each)
        return Cost(self.n_clusters * self.d + tables, self.m)

    def _new(self) -> Quantizer:
        shape = (self.d, self.m, self.nbits)
        if self.rotate:
            return OptimizedProductQuantizer(*shape, self.iterations, seed=self.seed)
        return ProductQuantizer(*shape, self.seed)

    def _of(self, cluster: int) -> Quantizer:
        found = self._trained.get(cluster)
        return self._trained[SHARED] if found is None else found

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        self._centroids = kmeans(x, self.n_clusters, seed=self.seed).centroids
        home = self._assign(x)
        residuals = x - self._centroids[home]
        sizes = np.bincount(home, minlength=self.n_clusters)
        own = np.flatnonzero(sizes >= 1 << self.nbits).tolist()
        self._trained = {}
        if len(own) < self.n_clusters:
            self._trained[SHARED] = self._new().train(residuals)
        with one_thread_each() as pool:
            trained = pool.map(lambda c: self._new().train(residuals[home == c]), own)
            for done, (c, quantizer) in enumerate(zip(own, trained, strict=True), 1):
                self._trained[c] = quantizer
                progress(done)
        total = 0.0
        for c, rows in grouped(home):
            decoded = self._of(c).decode(self._of(c).encode(residuals[rows]))
            total += len(rows) * mean_squared_error(residuals[rows], decoded)
        self.objective = np.array([total / len(x)])

    def _assign(self, x: FloatMatrix) -> IdArray:
        return faiss.knn(x, self._centroids, 1)[1].ravel()

    def _encode(self, x: FloatMatrix) -> Codes:
        home = self._assign(x)
        codes = np.empty((len(x), self.code_bytes), np.uint8)
        codes[:, :NUMBER_BYTES] = home.astype("<u2")[:, None].view(np.uint8)
        for c, rows in grouped(home):
            codes[rows, NUMBER_BYTES:] = self._of(c).encode(x[rows] - self._centroids[c])
        return codes

    def clusters(self, codes: Codes) -> IdArray:
        """Return the numbers of the codes' clusters, (n,) int64.

        Raises
        ------
        ValueError
            When codes name a cluster that does not exist.
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
        for c, rows in grouped(home):
            decoded[rows] += self._of(c).decode(codes[rows, NUMBER_BYTES:])
        return decoded

    def _state(self) -> dict[str, NDArray[Any]]:
        own = np.array(list(self._own), np.int64)
        state: dict[str, NDArray[Any]] = {"centroids": self._centroids, "own": own}
        for c, quantizer in self._trained.items():
            state |= {f"{c}/{name}": array for name, array in quantizer.state()}
        return state

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._centroids = self._array(state, "centroids", self.n_clusters, self.d)
        own = [int(c) for c in state["own"].ravel()]
        if own != sorted(set(own)) or not set(own) <= set(range(self.n_clusters)):
            raise ValueError(f"own names other clusters than 0..{self.n_clusters - 1}, once each.")
        parts: dict[int, dict[str, NDArray[Any]]] = {c: {} for c in own}
        if len(own) < self.n_clusters:
            parts = {SHARED: {}, **parts}
        for c, part in parts.items():
            prefix = f"{c}/"
            part.update(
                (n.removeprefix(prefix), a) for n, a in state.items() if n.startswith(prefix)
            )
        self._trained = {c: self._new().restore(part) for c, part in parts.items()}
