"""Codes that are numbers of codewords: packing them, their distance tables, what they share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._types import Codes, FloatMatrix, IdArray
from pqlib.clustering import sample_rows
from pqlib.quantizers.base import Quantizer

ENCODE_ROWS = 4096
"""Vectors encoded at once, where working memory grows with them."""

POINTS_PER_CENTROID = 256
"""Training vectors used per codebook centroid at most, faiss's default."""


class CodebookQuantizer(Quantizer):
    """A quantizer whose code is m numbers, each of a codeword; the vector is the codewords' sum.

    In product codes, the codewords of a codebook are zero outside of a sub-space of its own.

    Parameters
    ----------
    d, seed : see ``Quantizer``; the seed also draws the vectors trained on, 256 for each
        codeword of a codebook at most
    m : numbers of a code; None: the largest divisor of d that is at most 8
    nbits : bits of each number
    """

    def __init__(self, d: int, m: int | None, nbits: int, seed: int) -> None:
        super().__init__(d, seed)
        self.m, self.nbits = self._check_shape(m, nbits)
        self.least_train = self.ksub

    def _check_shape(self, m: int | None, nbits: int) -> tuple[int, int]:
        return _checks.product_quantizer_shape(self.d, m, nbits)

    @property
    def ksub(self) -> int:
        """Codewords of one codebook, 2**nbits."""
        return 1 << self.nbits

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return self.m * self.nbits

    def _sample(self, x: FloatMatrix) -> FloatMatrix:
        most = POINTS_PER_CENTROID * self.ksub
        return x if len(x) <= most else x[sample_rows(len(x), most, self.seed)]

    @abstractmethod
    def _codewords(self) -> NDArray[np.float32]:
        """Return what ``codewords`` does."""

    def codewords(self) -> NDArray[np.float32]:
        """Return all codewords as whole vectors, (m, 2**nbits, d) float32.

        A code with numbers b stands for the sum over j of [j, b[j]].
        """
        self._need_training("codewords")
        return self._codewords()

    def unpack(self, codes: Codes) -> IdArray:
        """Return the numbers inside ``codes``: (n, m) int64, each in 0..2**nbits - 1."""
        return faiss.unpack_bitstrings(self._check_codes(codes), self.m, self.nbits).astype(
            np.int64
        )

    def pack(self, numbers: NDArray[Any]) -> Codes:
        """Return the codes (n, code_bytes) with these ``numbers`` (n, m), 0..2**nbits - 1.

        Raises
        ------
        ValueError
            When numbers are of another shape, or outside of that range.
        """
        numbers = np.asarray(numbers)
        if numbers.ndim != 2 or numbers.shape[1] != self.m or numbers.dtype.kind not in "iu":
            raise ValueError(
                f"numbers has dtype {numbers.dtype} and shape {numbers.shape}: expected whole "
                f"numbers (n, {self.m}), what unpack() of {self} returns."
            )
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.ksub:
            raise ValueError(
                f"numbers holds {numbers.min()}..{numbers.max()}: expected 0..{self.ksub - 1}, "
                f"which {self.nbits} bits hold."
            )
        return faiss.pack_bitstrings(np.ascontiguousarray(numbers, np.int32), self.nbits)

    def distance_table(self, xq: FloatMatrix) -> NDArray[np.float32]:
        """Return the distance tables of queries ``xq`` (nq, d): (nq, m, 2**nbits) float32.

        The squared distance of query q to the vector of a code with numbers b is the sum over j of
        the entries [q, j, b[j]], and of the code's ``offsets``. An entry is, for product codes, the
        squared distance of a sub-vector to a centroid (asymmetric distance computation: Jegou et
        al. 2011, section 3.1); for others |q|^2 / m - 2 <q, c> + |c|^2 with the codeword c.
        """
        self._need_training("distance_table")
        return self._table(_checks.vectors("xq", xq, self.d))

    def _table(self, xq: FloatMatrix) -> NDArray[np.float32]:
        words = self._codewords().reshape(-1, self.d)
        table = xq @ (-2 * words.T)
        table += np.einsum("ij,ij->i", words, words)
        table += (np.einsum("ij,ij->i", xq, xq) / self.m)[:, None]
        return table.reshape(len(xq), self.m, self.ksub)

    def offsets(self, codes: Codes) -> NDArray[np.float32]:
        """Return what is to be added to the sum of a code's table entries, (n,) float32.

        Twice the sum of the inner products of its codewords with each other: for additive codes
        m * (m - 1) / 2 more look-ups; zero for product codes, whose codewords are orthogonal.
        """
        self._need_training("offsets")
        return self._offsets(self._check_codes(codes))

    def _offsets(self, codes: Codes) -> NDArray[np.float32]:
        return inter_codebook(self._codewords(), self.unpack(codes)).astype(np.float32)


def inter_codebook(
    words: NDArray[np.float32], numbers: IdArray, gram: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """Return the inner products of a code's codewords with each other, summed over ordered pairs.

    Parameters
    ----------
    words : (m, 2**nbits, d)
    numbers : (n, m)
    gram : (m, 2**nbits, m, 2**nbits), the inner products of all codewords, if they were computed
    """
    found = np.zeros(len(numbers), np.float64)
    for j in range(1, len(words)):
        for i in range(j):
            products = words[i] @ words[j].T if gram is None else gram[i, :, j]
            found += 2 * products[numbers[:, i], numbers[:, j]]
    return found


def code_entropy(codes: NDArray[np.int64], ksub: int) -> NDArray[np.float64]:
    """Return the entropy in bits of each column of unpacked ``codes`` (n, m): (m,) float64.

    It is nbits when all centroids are used alike; less means that a code holds less information
    than it has bits.
    """
    entropies = []
    for column in codes.T:
        share = np.bincount(column, minlength=ksub) / len(column)
        share = share[share > 0]
        entropies.append(float(-(share * np.log2(share)).sum()))
    return np.array(entropies)


def added_curves(curves: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the sum of objectives; one that has ended stays at its last value."""
    longest = max(map(len, curves))
    padded = [np.pad(curve, (0, longest - len(curve)), "edge") for curve in curves]
    return np.sum(padded, axis=0)
