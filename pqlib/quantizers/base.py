"""What all quantizers have in common: the interface, its checks, files, and scanning codes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _blas, _checks
from pqlib._file import array_section, write

FloatMatrix = NDArray[np.float32]
Codes = NDArray[np.uint8]
IdArray = NDArray[np.int64]
Progress = Callable[[int], object]

BLOCK = 16_384
"""Codes decoded at once when they are scanned."""


class Quantizer(ABC):
    """A code of a few bytes for a vector, and the way back.

    Parameters
    ----------
    d : dimension
    seed : of everything random in training

    Attributes
    ----------
    is_trained : whether ``train`` was called
    n_train : vectors that it was trained on
    objective : (iterations,) float64, what training minimizes, the mean over vectors, after each
        iteration (of k-means: before its update); its last value is that of what was kept
    """

    def __init__(self, d: int, seed: int = 0) -> None:
        self.d = _checks.integer("d", d, 1)
        self.seed = _checks.seed(seed)
        self.is_trained = False
        self.n_train = 0
        self.objective: NDArray[np.float64] = np.empty(0)

    # What each class says of itself ----------------------------------------------------------

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits of one code."""

    @property
    def code_bytes(self) -> int:
        """Bytes of one stored code, bits rounded up to whole bytes."""
        return (self.bits + 7) // 8

    @property
    @abstractmethod
    def parameters_bytes(self) -> int:
        """Bytes of what training learns: codebooks, rotations, centroids, ranges."""

    @property
    def least_train(self) -> int:
        """Vectors that training needs at least."""
        return 1

    @property
    def steps(self) -> int:
        """Steps that training reports to ``progress``, at most."""
        return 1

    def search_cost(self) -> dict[str, int]:
        """Return the work of searching by tables, counted: of a query, and of each code scanned.

        What it takes at best. ``scan`` may decode instead, which for many queries at once is
        quicker.

        Returns
        -------
        dict
            "multiplications": of a query, to rotate it and to make its tables; "lookups": of a
            code, added up to its distance; "code_multiplications": of a code, where there are no
            tables
        """
        raise NotImplementedError

    @abstractmethod
    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        """Learn from checked vectors."""

    @abstractmethod
    def _encode(self, x: FloatMatrix) -> Codes:
        """Return the codes of checked vectors."""

    @abstractmethod
    def _decode(self, codes: Codes) -> FloatMatrix:
        """Return the vectors of checked codes."""

    def _parameters(self) -> dict[str, Any]:
        """Return the arguments of the constructor, each of which is an attribute of its name."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    @abstractmethod
    def _state(self) -> dict[str, NDArray[Any]]:
        """Return what training learnt, by name."""

    @abstractmethod
    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take back what ``_state`` returned."""

    # The interface -------------------------------------------------------------------------

    def train(self, x: FloatMatrix, progress: Progress | None = None) -> Self:
        """Learn from ``x`` (n, d) and return the quantizer.

        Parameters
        ----------
        x : (n, d) float32
        progress : called with the number of steps done so far, of ``steps`` at most

        Raises
        ------
        ValueError
            When there are fewer vectors than ``least_train``, or x is no finite (n, d) matrix.
        """
        x = _checks.vectors("x", x, self.d)
        if len(x) < self.least_train:
            raise ValueError(
                f"x has {len(x)} training vectors: {self._words()} needs at least "
                f"{self.least_train}, {self._why_so_many()}. Train on more vectors or "
                f"{self._what_needs_fewer()}."
            )
        self.n_train = len(x)
        with _blas.one_thread():
            self._train(x, progress or _no_progress)
        self.is_trained = True
        return self

    def encode(self, x: FloatMatrix) -> Codes:
        """Return the codes of ``x`` (n, d): (n, code_bytes) uint8.

        Raises
        ------
        ValueError
            Before training, or when x is no finite (n, d) matrix.
        """
        self._need_training("encode")
        return self._encode(_checks.vectors("x", x, self.d))

    def decode(self, codes: Codes) -> FloatMatrix:
        """Return the vectors that ``codes`` (n, code_bytes) uint8 stand for: (n, d) float32.

        Raises
        ------
        ValueError
            Before training, or when codes are not of that shape.
        """
        self._need_training("decode")
        return self._decode(self._check_codes(codes))

    def distance_table(self, xq: FloatMatrix) -> NDArray[np.float32]:
        """Return the distance tables of queries ``xq`` (nq, d): (nq, m, 2**nbits) float32.

        The squared distance of query q to a code's vector is the sum over its m numbers of the
        entries [q, j, number j], and of the code's ``offsets``.

        Raises
        ------
        ValueError
            Before training, or when this code is not made of numbers of codewords.
        """
        raise ValueError(
            f"distance_table: {self._words()} has no codewords whose distances could be tabulated. "
            "Use scan(), which decodes."
        )

    def scan(self, xq: FloatMatrix, codes: Codes, k: int) -> tuple[FloatMatrix, IdArray]:
        """Return the ``k`` codes nearest to each query: squared distances to decoded vectors.

        Parameters
        ----------
        xq : (nq, d) float32
        codes : (n, code_bytes) uint8, n >= k

        Returns
        -------
        distances : (nq, k) float32, squared L2, ascending
        positions : (nq, k) int64, rows of ``codes``

        Raises
        ------
        ValueError
            Before training, when shapes are others, or k is not in 1..n.
        """
        return self.scan_unchecked(*self._check_scan(xq, codes, k), k)

    def scan_unchecked(self, xq: FloatMatrix, codes: Codes, k: int) -> tuple[FloatMatrix, IdArray]:
        """Scan for a caller that knows its arguments to be right; see ``scan``."""
        if len(codes) <= BLOCK:
            return faiss.knn(xq, self._decode(codes), k)
        heap = faiss.ResultHeap(len(xq), k)
        for start in range(0, len(codes), BLOCK):
            block = self._decode(codes[start : start + BLOCK])
            found, rows = faiss.knn(xq, block, min(k, len(block)))
            heap.add_result(found, rows + start)
        heap.finalize()
        return heap.D, heap.I

    def parameters(self) -> dict[str, Any]:
        """Return "kind", the name of the class, and the arguments of the constructor."""
        return {"kind": type(self).__name__, **self._parameters()}

    def fresh(self) -> Self:
        """Return an untrained quantizer with the same parameters."""
        return type(self)(**self._parameters())

    # Files -----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trained quantizer to one file, with checksums, at once or not at all.

        Raises
        ------
        ValueError
            Before training.
        OSError
            When it cannot be written.
        """
        self._need_training("save")
        write(
            path,
            type(self).__name__,
            {**self._parameters(), "n_train": self.n_train},
            [array_section(name, array) for name, array in self.state()],
        )

    def state(self) -> list[tuple[str, NDArray[Any]]]:
        """Return what training learnt, with names: all that ``restore`` needs."""
        return [*self._state().items(), ("objective", self.objective)]

    def restore(self, state: Mapping[str, NDArray[Any]], n_train: int = 0) -> Self:
        """Take back what ``state`` returned, and return the quantizer.

        Raises
        ------
        ValueError
            When an array is missing, of another shape, or holds what no training gives.
        """
        for name, array in state.items():
            # Objectives and constants are of squared size.
            squared = name.rpartition("/")[2] in ("objective", "constants")
            most = np.inf if squared else _checks.largest(self.d)
            if array.dtype.kind == "f" and not (np.abs(array) < most).all():
                raise ValueError(f"{name} holds values that are not finite, or above {most:.1e}.")
            if name == "rotation" and array.size and np.abs(array).max() > 1.001:
                raise ValueError("rotation has entries above 1: expected an orthonormal matrix.")
        try:
            self._restore(state)
            self.objective = np.asarray(state["objective"], np.float64)
        except KeyError as missing:
            raise ValueError(
                f"the state of {self._words()} lacks {missing}. Save it again, with this pqlib."
            ) from None
        self.n_train, self.is_trained = int(n_train), True
        return self

    def _array(
        self, state: Mapping[str, NDArray[Any]], name: str, *shape: int
    ) -> NDArray[np.float32]:
        """Return an array of ``state`` as float32, its shape checked."""
        array = np.ascontiguousarray(state[name], np.float32)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}: expected {shape}.")
        return array

    # Checks ----------------------------------------------------------------------------------

    def _words(self) -> str:
        return type(self).__name__

    def _why_so_many(self) -> str:
        return "one for each centroid of a codebook"

    def _what_needs_fewer(self) -> str:
        return "take a smaller nbits"

    def _check_codes(self, codes: Codes) -> Codes:
        codes = np.ascontiguousarray(codes)
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.code_bytes:
            raise ValueError(
                f"codes has dtype {codes.dtype} and shape {codes.shape}: expected uint8 "
                f"(n, {self.code_bytes}), what encode() of {self} returns."
            )
        return codes

    def _check_scan(self, xq: FloatMatrix, codes: Codes, k: int) -> tuple[FloatMatrix, Codes]:
        self._need_training("scan")
        codes = self._check_codes(codes)
        _checks.integer("k", k, 1, len(codes), f"There are {len(codes)} codes.")
        return _checks.vectors("xq", xq, self.d), codes

    def _need_training(self, what: str) -> None:
        if not self.is_trained:
            raise ValueError(
                f"{what} before train: {self._words()} has learnt nothing yet. Call train(x) "
                f"with at least {self.least_train} vectors first."
            )

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._parameters().items())
        return f"{type(self).__name__}({arguments})"


class CodebookQuantizer(Quantizer):
    """A quantizer whose code is m numbers, each of a codeword; the vector is the codewords' sum.

    Product codes are those whose codewords are zero outside of a sub-space of their own.

    Attributes
    ----------
    m, nbits : numbers of a code, and bits of each
    """

    m: int
    nbits: int

    @property
    def ksub(self) -> int:
        """Codewords of one codebook, 2**nbits."""
        return 1 << self.nbits

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return self.m * self.nbits

    @property
    def least_train(self) -> int:
        """Vectors that training needs at least: one for each codeword of a codebook."""
        return self.ksub

    @abstractmethod
    def codewords(self) -> NDArray[np.float32]:
        """Return all codewords as whole vectors, (m, 2**nbits, d) float32.

        A code with numbers b stands for the sum over j of [j, b[j]].

        Raises
        ------
        ValueError
            Before training.
        """

    def unpack(self, codes: Codes) -> NDArray[np.int64]:
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

        [q, j, i] is |q|^2 / m - 2 <q, c> + |c|^2 for codeword c number i of codebook j. The
        squared distance to a code's vector is the sum of its m entries and of its ``offsets``.
        """
        self._need_training("distance_table")
        xq = _checks.vectors("xq", xq, self.d)
        words = self.codewords().reshape(-1, self.d)
        table = xq @ (-2 * words.T)
        table += np.einsum("ij,ij->i", words, words)
        table += (np.einsum("ij,ij->i", xq, xq) / self.m)[:, None]
        return table.reshape(len(xq), self.m, self.ksub)

    def offsets(self, codes: Codes) -> NDArray[np.float32]:
        """Return what is to be added to the sum of a code's table entries, (n,) float32.

        Twice the sum of the inner products of its codewords with each other: zero for product
        codes, and for additive codes what m * (m - 1) / 2 more look-ups give.
        """
        self._need_training("offsets")
        codes = self._check_codes(codes)
        return inter_codebook(self.codewords(), self.unpack(codes)).astype(np.float32)


def inter_codebook(words: NDArray[np.float32], numbers: IdArray) -> NDArray[np.float64]:
    """Return the inner products of a code's codewords with each other, summed over ordered pairs.

    Parameters
    ----------
    words : (m, 2**nbits, d)
    numbers : (n, m)
    """
    found = np.zeros(len(numbers), np.float64)
    for j in range(1, len(words)):
        for i in range(j):
            gram = words[i] @ words[j].T
            found += 2 * gram[numbers[:, i], numbers[:, j]]
    return found


def mean_squared_error(x: FloatMatrix, decoded: FloatMatrix) -> float:
    """Return the mean squared L2 distance of ``x`` (n, d) to its decoding, in float64."""
    total = 0.0
    for i in range(0, len(x), BLOCK):
        difference = x[i : i + BLOCK].astype(np.float64) - decoded[i : i + BLOCK]
        total += float(np.einsum("ij,ij->", difference, difference))
    return total / len(x)


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


def added_curves(curves: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the sum of objectives; one that has ended stays at its last value."""
    longest = max(map(len, curves))
    padded = [np.pad(curve, (0, longest - len(curve)), "edge") for curve in curves]
    return np.sum(padded, axis=0)


def _no_progress(_: int) -> None:
    """Report nothing."""
