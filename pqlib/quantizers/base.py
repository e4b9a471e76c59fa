"""What all quantizers have in common: the interface, its checks, files, and scanning codes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any, NamedTuple, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _blas, _checks
from pqlib._file import array_section, write
from pqlib._types import Codes, FloatMatrix, IdArray

Progress = Callable[[int], object]

BLOCK = 16_384
"""Codes decoded at once when they are scanned."""


class Cost(NamedTuple):
    """The counted work of searching by tables; see ``Quantizer.search_cost``."""

    multiplications: int = 0
    lookups: int = 0
    code_multiplications: int = 0


class Quantizer(ABC):
    """A code of a few bytes for a vector, and the way back.

    Parameters
    ----------
    d : dimension
    seed : of everything random in training

    Attributes
    ----------
    least_train : vectors that training needs at least
    steps : steps that training reports to ``progress``, at most
    is_trained : whether ``train`` was called
    n_train : vectors that it was trained on
    objective : (iterations,) float64, what training minimizes, the mean over vectors, after each
        iteration (of k-means: before its update); the last value is that of the result

    Raises
    ------
    ValueError
        By every constructor, when an argument is out of range. By all methods that take vectors
        or codes, when these have another shape or dtype, or vectors are not finite. By all methods
        that need what training learns, before training.
    """

    # Why training needs ``least_train`` vectors, and what would need fewer: words of an error.
    _reason = "one for each centroid of a codebook"
    _remedy = "take a smaller nbits"

    def __init__(self, d: int, seed: int = 0) -> None:
        self.d = _checks.integer("d", d, 1)
        self.seed = _checks.seed(seed)
        self.least_train = self.steps = 1
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
        """Bytes of what training learns, float32: codebooks, rotations, centroids, ranges.

        Before training, what it may come to at most.
        """

    @abstractmethod
    def _cost(self) -> Cost:
        """Return what ``search_cost`` does."""

    @abstractmethod
    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        """Learn from checked vectors, and set ``objective``."""

    @abstractmethod
    def _encode(self, x: FloatMatrix) -> Codes:
        """Return the codes of checked vectors."""

    @abstractmethod
    def _decode(self, codes: Codes) -> FloatMatrix:
        """Return the vectors of checked codes."""

    @abstractmethod
    def _state(self) -> dict[str, NDArray[Any]]:
        """Return what training learnt, by name."""

    @abstractmethod
    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take back what ``_state`` returned."""

    def _sample(self, x: FloatMatrix) -> FloatMatrix:
        """Return the vectors to train on."""
        return x

    # The interface -------------------------------------------------------------------------

    def search_cost(self) -> dict[str, int]:
        """Return the work of searching by tables, counted: of a query, and of each code scanned.

        This is the least that it takes. ``scan`` may decode instead, which is quicker for many
        queries at once.

        Returns
        -------
        dict
            "multiplications": of a query, to rotate it and to make its tables; "lookups": of a
            code, added up to its distance; "code_multiplications": of a code, where there are no
            tables
        """
        return self._cost()._asdict()

    def train(self, x: FloatMatrix, progress: Progress | None = None) -> Self:
        """Learn from ``x`` (n, d) and return the quantizer.

        Parameters
        ----------
        x : (n, d) float32
        progress : called with the number of steps done so far, of ``steps`` at most

        Raises
        ------
        ValueError
            When there are fewer vectors than ``least_train``.
        """
        x = _checks.vectors("x", x, self.d)
        if len(x) < self.least_train:
            raise ValueError(
                f"x has {len(x)} training vectors: {type(self).__name__} needs at least "
                f"{self.least_train}, {self._reason}. Train on more vectors or {self._remedy}."
            )
        x = self._sample(x)
        self.n_train = len(x)
        with _blas.one_thread():
            self._train(x, progress or (lambda _: None))
        self.is_trained = True
        return self

    def encode(self, x: FloatMatrix) -> Codes:
        """Return the codes of ``x`` (n, d): (n, code_bytes) uint8."""
        self._need_training("encode")
        return self._encode(_checks.vectors("x", x, self.d))

    def decode(self, codes: Codes) -> FloatMatrix:
        """Return the vectors that ``codes`` (n, code_bytes) uint8 stand for: (n, d) float32."""
        self._need_training("decode")
        return self._decode(self._check_codes(codes))

    def distance_table(self, xq: FloatMatrix) -> NDArray[np.float32]:
        """Raise ValueError: this code is not made of numbers of codewords."""
        raise ValueError(
            f"distance_table: {type(self).__name__} has no codewords whose distances could be "
            "tabulated. Use scan(), which decodes."
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
            When k is not in 1..n.
        """
        return self.scan_unchecked(*self._check_scan(xq, codes, k), k)

    def scan_unchecked(self, xq: FloatMatrix, codes: Codes, k: int) -> tuple[FloatMatrix, IdArray]:
        """Scan without the checks of ``scan``, for a caller that knows its arguments to be right.

        Each class scans in its own way: product codes by tables, RaBitQ by estimates, composite
        codes by sums of look-ups, all others by decoding.
        """
        if len(codes) <= BLOCK:
            return faiss.knn(xq, self._decode(codes), k)
        return scan_in_blocks(xq, codes, k, self._decode)

    def parameters(self) -> dict[str, Any]:
        """Return "kind", the name of the class, and the arguments of the constructor."""
        return {"kind": type(self).__name__, **self._parameters()}

    def fresh(self) -> Self:
        """Return an untrained quantizer with the same parameters."""
        return type(self)(**self._parameters())

    def _parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._arguments()}

    @classmethod
    def _arguments(cls) -> list[str]:
        """Return the arguments of the constructor, each of which is an attribute of its name."""
        return list(signature(cls).parameters)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._parameters().items())
        return f"{type(self).__name__}({arguments})"

    # Files -----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trained quantizer to one file, with checksums, at once or not at all.

        Raises
        ------
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
                f"the state of {type(self).__name__} lacks {missing}. Save it again, with this "
                "pqlib."
            ) from None
        self.n_train, self.is_trained = int(n_train), True
        return self

    # Checks ----------------------------------------------------------------------------------

    def _array(
        self, state: Mapping[str, NDArray[Any]], name: str, *shape: int
    ) -> NDArray[np.float32]:
        """Return an array of ``state`` as float32, its shape checked."""
        array = np.ascontiguousarray(state[name], np.float32)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}: expected {shape}.")
        return array

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
                f"{what} before train: {type(self).__name__} has learnt nothing yet. Call train(x) "
                f"with at least {self.least_train} vectors first."
            )


def scan_in_blocks(
    xq: FloatMatrix,
    codes: Codes,
    k: int,
    stored: Callable[[Codes], FloatMatrix],
    metric: int = faiss.METRIC_L2,
) -> tuple[FloatMatrix, IdArray]:
    """Return the ``k`` codes nearest to each query, without more than BLOCK decoded at once.

    Parameters
    ----------
    xq : (nq, width) float32
    stored : gives the vectors (n, width) of codes, which queries are compared with
    metric : of faiss; inner products are returned with their sign changed, so that distances
        ascend
    """
    sign = np.float32(1 if metric == faiss.METRIC_L2 else -1)
    heap = faiss.ResultHeap(len(xq), k)
    for start in range(0, len(codes), BLOCK):
        block = stored(codes[start : start + BLOCK])
        found, rows = faiss.knn(xq, block, min(k, len(block)), metric)
        heap.add_result(sign * found, rows + start)
    heap.finalize()
    return heap.D, heap.I


def mean_squared_error(x: FloatMatrix, decoded: FloatMatrix) -> float:
    """Return the mean squared L2 distance of ``x`` (n, d) to its decoding, in float64."""
    total = 0.0
    for i in range(0, len(x), BLOCK):
        difference = x[i : i + BLOCK].astype(np.float64) - decoded[i : i + BLOCK]
        total += float(np.einsum("ij,ij->", difference, difference))
    return total / len(x)


def grouped(numbers: IdArray) -> Iterator[tuple[int, IdArray]]:
    """Yield each of ``numbers`` (n,) that occurs, in ascending order, and the rows that hold it."""
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    # Without rows there is one piece, which is empty.
    yield from zip(found.tolist(), np.split(order, starts[1:]), strict=False)
