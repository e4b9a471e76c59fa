"""Codecs: what turns a vector into a few bytes and back.

A codec is trained on sample vectors, encodes vectors into codes of ``code_bytes`` bytes,
decodes them, and gives distance tables, from which the distance of a query to every code is a
sum of look-ups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._threads import in_order
from pqlib.clustering import faiss_view, kmeans

FloatMatrix = NDArray[np.float32]
Codes = NDArray[np.uint8]
IdArray = NDArray[np.int64]

PQ_ITERATIONS = 25
"""k-means iterations of every codebook, faiss's default."""

SMALL_PART_BYTES = 6 << 20
"""Sub-vectors of a sub-quantizer up to which several codebooks are learnt at once."""

POINTS_PER_CENTROID = 256
"""Training vectors used per codebook centroid at most, faiss's default."""


class ProductQuantizer:
    """Product quantizer (Jegou, Douze, Schmid, TPAMI 2011, section 2).

    A vector of d numbers is cut into m sub-vectors of d/m numbers. Each is replaced by the
    number of the nearest of 2**nbits sub-centroids, its own codebook's. The m numbers together
    are the code, m * nbits bits; the sub-centroids they name, put side by side, are the
    decoded vector. It minimizes the mean squared error of each sub-vector on its own.

    Parameters
    ----------
    d : dimension
    m : sub-quantizers, a divisor of d; None: the largest divisor that is at most 8
    nbits : bits of one sub-quantizer's number, 4..16
    seed : of sampling and k-means

    Raises
    ------
    ValueError
        When m does not divide d, or nbits is out of range.
    """

    def __init__(self, d: int, m: int | None = None, nbits: int = 8, seed: int = 0) -> None:
        self.d = _checks.integer("d", d, 1)
        self.m, self.nbits = _checks.product_quantizer_shape(self.d, m, nbits)
        self.seed = _checks.integer("seed", seed, 0)
        self.is_trained = False
        self.n_train = 0
        self.faiss = faiss.ProductQuantizer(self.d, self.m, self.nbits)
        self._codebooks: NDArray[np.float32] | None = None

    @property
    def ksub(self) -> int:
        """Centroids of one codebook, 2**nbits."""
        return 1 << self.nbits

    @property
    def dsub(self) -> int:
        """Length of a sub-vector, d / m."""
        return self.d // self.m

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return self.m * self.nbits

    @property
    def code_bytes(self) -> int:
        """Bytes of one stored code, bits rounded up to whole bytes."""
        return int(self.faiss.code_size)

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

    def train(self, x: FloatMatrix) -> ProductQuantizer:
        """Learn the codebooks from ``x`` (n, d) and return the quantizer.

        Of more than 256 vectors per centroid, a sample is used, as in faiss.

        Raises
        ------
        ValueError
            When n < 2**nbits, or x is no finite matrix of dimension d.
        """
        x = _checks.vectors("x", x, self.d)
        if len(x) < self.ksub:
            raise ValueError(
                f"x has {len(x)} training vectors: nbits={self.nbits} needs at least "
                f"2**nbits = {self.ksub}, one for each centroid of a codebook. Train on more "
                "vectors or take a smaller nbits."
            )
        limit = POINTS_PER_CENTROID * self.ksub
        if len(x) > limit:
            rows = np.random.default_rng(self.seed).choice(len(x), size=limit, replace=False)
            x = x[np.sort(rows)]
        return self.train_parts(self._sub_vectors(x))

    def train_parts(self, parts: Iterable[FloatMatrix]) -> ProductQuantizer:
        """Learn each codebook from sub-vectors (n, d/m) of its own.

        So that not all of the vectors need to be in memory at once; ``train`` calls it. All of
        the sub-vectors are used. Small parts are learnt from one on each thread; large ones, whose
        memory counts, one after the other on all of them.

        Raises
        ------
        ValueError
            When n < 2**nbits, or the number or shape of the parts is not m, (n, d/m).
        """

        def train_part(part: FloatMatrix) -> FloatMatrix:
            self.n_train = len(part)
            return kmeans(part, self.ksub, niter=PQ_ITERATIONS, seed=self.seed).centroids

        def large(part: FloatMatrix) -> bool:
            return part.nbytes > SMALL_PART_BYTES

        codebooks = list(in_order(train_part, parts, large))
        return self.set_codebooks(
            np.stack(codebooks) if codebooks else np.empty((0, 0, 0), np.float32)
        )

    def _sub_vectors(self, x: FloatMatrix) -> Iterator[FloatMatrix]:
        for start in range(0, self.d, self.dsub):
            yield np.ascontiguousarray(x[:, start : start + self.dsub])

    def set_codebooks(self, codebooks: NDArray[np.float32]) -> ProductQuantizer:
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

    def adopt(self, quantizer: faiss.ProductQuantizer, owner: object) -> None:
        """Use faiss's trained ``quantizer``, which is a part of ``owner`` and lives as long."""
        self.faiss = quantizer
        self._codebooks = faiss_view(
            quantizer.centroids.data(), (self.m, self.ksub, self.dsub), owner
        )

    def encode(self, x: FloatMatrix) -> Codes:
        """Return the codes of ``x`` (n, d): (n, code_bytes) uint8, sub-codes packed by bits."""
        self._need_training("encode")
        x = _checks.vectors("x", x, self.d)
        # Not faiss's compute_codes: it settles equal distances differently from one SIMD level
        # to another, while exhaustive search takes the first centroid on all of them.
        numbers = np.empty((len(x), self.m), np.int32)
        for j, part in enumerate(self._sub_vectors(x)):
            numbers[:, j] = faiss.knn(part, self.codebooks[j], 1)[1].ravel()
        return faiss.pack_bitstrings(numbers, self.nbits)

    def decode(self, codes: Codes) -> FloatMatrix:
        """Return the vectors that ``codes`` (n, code_bytes) uint8 stand for: (n, d) float32."""
        self._need_training("decode")
        return self.faiss.decode(self._check_codes(codes))

    def unpack(self, codes: Codes) -> NDArray[np.int64]:
        """Return the numbers inside ``codes``: (n, m) int64, each in 0..2**nbits - 1."""
        return faiss.unpack_bitstrings(self._check_codes(codes), self.m, self.nbits).astype(
            np.int64
        )

    def distance_table(self, xq: FloatMatrix) -> NDArray[np.float32]:
        """Return the distance tables of queries ``xq`` (nq, d): (nq, m, 2**nbits) float32.

        [q, j, i] is the squared L2 distance of sub-vector j of query q to centroid i of
        codebook j (asymmetric distance computation: Jegou et al. 2011, section 3.1).
        """
        self._need_training("distance_table")
        xq = _checks.vectors("xq", xq, self.d)
        table = np.empty((len(xq), self.m, self.ksub), dtype=np.float32)
        self.faiss.compute_distance_tables(len(xq), faiss.swig_ptr(xq), faiss.swig_ptr(table))
        return table

    def scan(self, xq: FloatMatrix, codes: Codes, k: int) -> tuple[FloatMatrix, IdArray]:
        """Return the ``k`` codes nearest to each query by ADC.

        Parameters
        ----------
        xq : (nq, d) float32
        codes : (n, code_bytes) uint8, n >= k

        Returns
        -------
        distances : (nq, k) float32, squared L2, ascending
        positions : (nq, k) int64, rows of ``codes``
        """
        distances = np.empty((len(xq), k), dtype=np.float32)
        positions = np.empty((len(xq), k), dtype=np.int64)
        heap = faiss.float_maxheap_array_t()
        heap.nh, heap.k = len(xq), k
        heap.val, heap.ids = faiss.swig_ptr(distances), faiss.swig_ptr(positions)
        self.faiss.search(
            faiss.swig_ptr(xq), len(xq), faiss.swig_ptr(codes), len(codes), heap, True
        )
        return distances, positions

    def _check_codes(self, codes: Codes) -> Codes:
        codes = np.ascontiguousarray(codes)
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.code_bytes:
            raise ValueError(
                f"codes has dtype {codes.dtype} and shape {codes.shape}: expected uint8 "
                f"(n, {self.code_bytes}), what encode() returns for m={self.m}, "
                f"nbits={self.nbits}."
            )
        return codes

    def _need_training(self, what: str) -> None:
        if not self.is_trained:
            raise ValueError(
                f"{what} before train: the product quantizer has no codebooks. Call train(x) "
                f"with at least {self.ksub} vectors first."
            )


def mean_squared_error(x: FloatMatrix, decoded: FloatMatrix) -> float:
    """Return the mean squared L2 distance of ``x`` (n, d) to its decoding, in float64."""
    difference = x.astype(np.float64) - decoded
    return float(np.einsum("ij,ij->", difference, difference) / len(x))


def code_entropy(codes: NDArray[np.int64], ksub: int) -> NDArray[np.float64]:
    """Return the entropy in bits of each column of unpacked ``codes`` (n, m): (m,) float64.

    nbits when all centroids are used alike; less means that codes carry less than they take.
    """
    entropies = []
    for column in codes.T:
        share = np.bincount(column, minlength=ksub) / len(column)
        share = share[share > 0]
        entropies.append(float(-(share * np.log2(share)).sum()))
    return np.array(entropies)
