"""Product quantization."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib._threads import in_order
from pqlib._types import Codes, FloatMatrix, IdArray
from pqlib.clustering import KMeansResult, faiss_view, kmeans
from pqlib.quantizers.base import Cost, Progress
from pqlib.quantizers.codewords import POINTS_PER_CENTROID, CodebookQuantizer, added_curves

PQ_ITERATIONS = 25
"""k-means iterations of every codebook, faiss's default."""

SMALL_PART_BYTES = 6 << 20
"""Up to this size of a sub-quantizer's training vectors, several codebooks are learnt at once."""


class ProductQuantizer(CodebookQuantizer):
    """Product quantizer (Jegou, Douze, Schmid, TPAMI 2011, section 2).

    A vector of d numbers is cut into m sub-vectors of d/m numbers. Each is replaced by the
    number of the nearest of 2**nbits sub-centroids, its own codebook's. The m numbers together
    are the code, m * nbits bits; the sub-centroids they name, put side by side, are the
    decoded vector. It minimizes the mean squared error of each sub-vector on its own.

    Training takes 25 * n * 2**nbits * d multiplications, encoding 2**nbits * d a vector, a query's
    tables as many, and each code scanned m look-ups.

    Parameters
    ----------
    d : dimension
    m : sub-quantizers, a divisor of d; None: the largest divisor that is at most 8
    nbits : bits of one sub-quantizer's number, 4..16
    seed : of sampling and k-means
    """

    def __init__(self, d: int, m: int | None = None, nbits: int = 8, seed: int = 0) -> None:
        super().__init__(d, m, nbits, seed)
        self._faiss: Any = None
        self._codebooks: NDArray[np.float32] | None = None

    @property
    def faiss(self) -> Any:
        """faiss's quantizer with these codebooks; it takes their memory when it is made."""
        if self._faiss is None:
            self._faiss = faiss.ProductQuantizer(self.d, self.m, self.nbits)
        return self._faiss

    @property
    def dsub(self) -> int:
        """Length of a sub-vector, d / m."""
        return self.d // self.m

    @property
    def parameters_bytes(self) -> int:
        """Bytes of the codebooks, float32: 2**nbits * d * 4, whatever m."""
        return self.ksub * self.d * 4

    @property
    def codebooks(self) -> NDArray[np.float32]:
        """The codebooks, (m, 2**nbits, d/m) float32: [j, i] is centroid i of sub-space j."""
        self._need_training("codebooks")
        assert self._codebooks is not None
        return self._codebooks

    @staticmethod
    def training_cost(n: int, d: int, nbits: int) -> float:
        """Return the multiplications that training takes, to judge what can be afforded.

        Every iteration compares each training vector with every centroid: n * 2**nbits * d for
        all m sub-spaces together, n being cut at 256 per centroid.
        """
        used = min(n, POINTS_PER_CENTROID << nbits)
        return float(PQ_ITERATIONS) * used * d * (1 << nbits)

    def _cost(self) -> Cost:
        return Cost(self.ksub * self.d, self.m)

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        self.train_parts(self.sub_vectors(x))
        progress(1)

    def train_parts(self, parts: Iterable[FloatMatrix]) -> Self:
        """Learn each codebook from sub-vectors (n, d/m) of its own, all of them.

        The parts may be made one after the other, so that not all of the vectors are in memory at
        once. Of small parts each thread learns one; large ones, whose memory counts, come one
        after the other, each on all threads.

        Raises
        ------
        ValueError
            When n < 2**nbits, or the number or shape of the parts is not m, (n, d/m).
        """

        def train_part(part: FloatMatrix) -> KMeansResult:
            self.n_train = len(part)
            return kmeans(part, self.ksub, niter=PQ_ITERATIONS, seed=self.seed)

        found = list(in_order(train_part, parts, lambda part: part.nbytes > SMALL_PART_BYTES))
        if not found:
            return self.set_codebooks(np.empty((0, 0, 0), np.float32))
        self.objective = added_curves([part.objective for part in found])
        return self.set_codebooks(np.stack([part.centroids for part in found]))

    def sub_vectors(self, x: FloatMatrix) -> Iterator[FloatMatrix]:
        """Yield the sub-vectors (n, d/m) of ``x`` (n, d), one sub-space after the other."""
        for start in range(0, self.d, self.dsub):
            yield np.ascontiguousarray(x[:, start : start + self.dsub])

    def set_codebooks(self, codebooks: NDArray[np.float32]) -> Self:
        """Use given ``codebooks`` (m, 2**nbits, d/m) instead of training, return the quantizer.

        Raises
        ------
        ValueError
            When the shape is another.
        """
        array = np.ascontiguousarray(codebooks, dtype=np.float32)
        expected = (self.m, self.ksub, self.dsub)
        if array.shape != expected:
            raise ValueError(
                f"codebooks has shape {array.shape}: expected (m, 2**nbits, d/m) = {expected}. "
                "Pass the codebooks of a quantizer with the same d, m and nbits."
            )
        faiss.copy_array_to_vector(array.ravel(), self.faiss.centroids)
        self.adopt(self.faiss, self.faiss)
        self.is_trained = True
        return self

    def adopt(self, quantizer: Any, owner: object) -> None:
        """Use faiss's trained ``quantizer``, which is a part of ``owner`` and lives as long."""
        self._faiss = quantizer
        self._codebooks = faiss_view(
            quantizer.centroids.data(), (self.m, self.ksub, self.dsub), owner
        )

    def _codewords(self) -> NDArray[np.float32]:
        words = np.zeros((self.m, self.ksub, self.d), np.float32)
        for j, start in enumerate(range(0, self.d, self.dsub)):
            words[j, :, start : start + self.dsub] = self.codebooks[j]
        return words

    def _encode(self, x: FloatMatrix) -> Codes:
        # Not faiss's compute_codes: it settles equal distances differently from one SIMD level
        # to another, while exhaustive search takes the first centroid on all of them.
        numbers = np.empty((len(x), self.m), np.int32)
        for j, part in enumerate(self.sub_vectors(x)):
            numbers[:, j] = faiss.knn(part, self.codebooks[j], 1)[1].ravel()
        return self.pack(numbers)

    def _decode(self, codes: Codes) -> FloatMatrix:
        return self.faiss.decode(codes)

    def _table(self, xq: FloatMatrix) -> NDArray[np.float32]:
        table = np.empty((len(xq), self.m, self.ksub), dtype=np.float32)
        self.faiss.compute_distance_tables(len(xq), faiss.swig_ptr(xq), faiss.swig_ptr(table))
        return table

    def _offsets(self, codes: Codes) -> NDArray[np.float32]:
        return np.zeros(len(codes), np.float32)

    def scan_unchecked(self, xq: FloatMatrix, codes: Codes, k: int) -> tuple[FloatMatrix, IdArray]:
        """Scan by table look-ups in float32; see ``Quantizer.scan_unchecked``."""
        distances = np.empty((len(xq), k), dtype=np.float32)
        positions = np.empty((len(xq), k), dtype=np.int64)
        heap = faiss.float_maxheap_array_t()
        heap.nh, heap.k = len(xq), k
        heap.val, heap.ids = faiss.swig_ptr(distances), faiss.swig_ptr(positions)
        self.faiss.search(
            faiss.swig_ptr(xq), len(xq), faiss.swig_ptr(codes), len(codes), heap, True
        )
        return distances, positions

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"codebooks": self.codebooks}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.set_codebooks(state["codebooks"])
