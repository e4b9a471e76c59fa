"""Additive quantization: sums of whole-vector codewords, by faiss."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks, _threads
from pqlib._types import Codes, FloatMatrix
from pqlib.quantizers.base import Cost, Progress
from pqlib.quantizers.codewords import ENCODE_ROWS, CodebookQuantizer, added_curves

MOST_CODEWORDS = 16_384

TRAIN_THREADS = 2
"""Threads of training, on any machine: faiss shares out sums among them, so that with another
number codebooks would have other last digits, and after some iterations other codewords."""

MOST_ROUNDS = 256
"""Rounds of local search: a number in a file must not keep whoever opens it busy for hours."""

_searching = threading.Lock()  # faiss's local search keeps its times in a global map


class AdditiveQuantizer(CodebookQuantizer):
    """The base of quantizers whose codewords are added up without being orthogonal.

    A code holds m numbers of nbits bits and stands for the sum of m codewords of d numbers each.
    Its distance is a sum of look-ups, as that of a product code is. The inner products of its
    codewords with each other are added: m * (m - 1) / 2 more look-ups, in tables made once.

    Parameters
    ----------
    d : dimension
    m : codebooks, the numbers of a code, 1..64
    nbits : bits of each, 4..12; m * 2**nbits is at most 16,384
    seed : of everything random in training
    """

    def _check_shape(self, m: int | None, nbits: int) -> tuple[int, int]:
        m = _checks.integer("m", m, 1, 64)
        nbits = _checks.integer(
            "nbits", nbits, 4, 12, "A codebook has 2**nbits codewords; 8 is usual."
        )
        if m << nbits > MOST_CODEWORDS:
            raise ValueError(
                f"m={m}, nbits={nbits}: m * 2**nbits is {m << nbits:,}, "
                f"expected at most {MOST_CODEWORDS:,}, since the inner products of all codewords "
                "with each other are kept. Take fewer numbers or bits."
            )
        return m, nbits

    @property
    def parameters_bytes(self) -> int:
        """Bytes of the codebooks, float32: m * 2**nbits * d * 4, m times those of a product code.

        And of the inner products of codewords with each other.
        """
        return 4 * self.m * self.ksub * self.d + 4 * (self.m * self.ksub) ** 2

    def _cost(self) -> Cost:
        return Cost(self.m * self.ksub * self.d, self.m * (self.m + 1) // 2)

    @abstractmethod
    def _encoder(self) -> Callable[[FloatMatrix], Codes]:
        """Return what encodes few vectors at a time, ready to be called."""

    def _encode(self, x: FloatMatrix) -> Codes:
        encode, starts = self._encoder(), range(0, len(x), ENCODE_ROWS)
        return np.concatenate([encode(x[i : i + ENCODE_ROWS]) for i in starts])


class _OfFaiss(AdditiveQuantizer):
    """Around a faiss.AdditiveQuantizer whose codebooks all have 2**nbits codewords."""

    _faiss: Any = None

    @abstractmethod
    def _made(self) -> Any:
        """Return faiss's quantizer, untrained."""

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        # Anew: one that has encoded is set up for that, with another beam.
        self._faiss = self._made()
        with _searching, _threads.threads(TRAIN_THREADS):
            self._faiss.train(x)
        difference = x - self._decode(self._encode(x))
        errors = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
        self.objective = np.array([errors.mean()])
        progress(1)

    def _codewords(self) -> NDArray[np.float32]:
        return faiss.vector_to_array(self._faiss.codebooks).reshape(self.m, self.ksub, self.d)

    def _encoder(self) -> Callable[[FloatMatrix], Codes]:
        return self._faiss.compute_codes

    def _decode(self, codes: Codes) -> FloatMatrix:
        return self._faiss.decode(codes)

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"codebooks": self.codewords()}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        books = self._array(state, "codebooks", self.m, self.ksub, self.d)
        self._faiss = with_codebooks(self._made(), books)


class ResidualQuantizer(_OfFaiss):
    """Residual quantizer (Chen, Guan, Wang, "Approximate nearest neighbor search by residual vector
    quantization", Sensors 2010; Liu, Lu, Li, "Improved residual vector quantization", 2015).

    The first codebook is learnt by k-means from the vectors, the next from what the first leaves
    over, and so on; each minimizes the mean squared error that is left. Partial codes are kept from
    stage to stage, the best ``beam`` of them in training, ``encode_beam`` in encoding. faiss's
    ResidualQuantizer.

    Encoding takes m * 2**nbits * d multiplications and about m * encode_beam * m * 2**nbits
    additions a vector; training, for each of the m stages, a k-means of the n * beam residuals.

    Parameters
    ----------
    d, m, nbits, seed : see ``AdditiveQuantizer``; m is the number of stages
    beam, encode_beam : partial codes kept, 1..64
    progressive : k-means on few principal components first, then on more, as faiss has it: some
        percent less error, several times the time
    """

    def __init__(
        self,
        d: int,
        m: int = 8,
        nbits: int = 8,
        beam: int = 5,
        encode_beam: int = 10,
        progressive: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(d, m, nbits, seed)
        self.beam = _checks.integer("beam", beam, 1, 64)
        self.encode_beam = _checks.integer("encode_beam", encode_beam, 1, 64)
        self.progressive = bool(progressive)
        self._preparing = threading.Lock()

    def _made(self) -> Any:
        made = faiss.ResidualQuantizer(self.d, self.m, self.nbits)
        kinds = faiss.ResidualQuantizer
        made.train_type = kinds.Train_progressive_dim if self.progressive else kinds.Train_default
        made.max_beam_size = self.beam
        made.cp.seed = 1234 + self.seed  # faiss's own for seed 0
        # Not for lack of vectors: they are counted before.
        made.cp.min_points_per_centroid = 1
        return made

    def _encoder(self) -> Callable[[FloatMatrix], Codes]:
        with self._preparing:
            if not self._faiss.use_beam_LUT:
                beam_search(self._faiss, self.encode_beam)
        return super()._encoder()


class LocalSearchQuantizer(_OfFaiss):
    """Local search quantizer, LSQ++ (Martinez, Zakhmi, Hoos, Little, "LSQ++: lower running time and
    higher recall in multi-codebook quantization", ECCV 2018).

    Codebooks and codes are improved in turn to minimize the mean squared error of the sum of
    codewords: the codebooks by least squares and then perturbed, less from iteration to iteration,
    the codes by iterated local search (a perturbation, then one number after the other set to its
    best). faiss's LocalSearchQuantizer. It starts from random codes, so that few iterations leave
    it worse than a residual quantizer.

    Encoding takes m * 2**nbits * d multiplications and about ``encode_rounds`` * 4 * m^2 * 2**nbits
    additions a vector; training as many with ``train_rounds``, in each of its iterations. The
    perturbations are random: the code of a vector depends on its place in the call of ``encode``.

    Parameters
    ----------
    d, m, nbits, seed : see ``AdditiveQuantizer``
    iterations : of training
    train_rounds, encode_rounds : of local search, in each iteration and in encoding, 1..256
    """

    def __init__(
        self,
        d: int,
        m: int = 8,
        nbits: int = 8,
        iterations: int = 25,
        train_rounds: int = 8,
        encode_rounds: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(d, m, nbits, seed)
        self.train_rounds = _checks.integer("train_rounds", train_rounds, 1, MOST_ROUNDS)
        self.encode_rounds = _checks.integer("encode_rounds", encode_rounds, 1, MOST_ROUNDS)
        self.iterations = _checks.integer("iterations", iterations, 1)

    def _made(self) -> Any:
        made = faiss.LocalSearchQuantizer(self.d, self.m, self.nbits)
        made.train_iters, made.train_ils_iters = self.iterations, self.train_rounds
        made.encode_ils_iters = self.encode_rounds
        made.nperts = min(made.nperts, self.m)  # as its training sets it
        made.random_seed = 0x12345 + self.seed  # faiss's own for seed 0
        return made

    def _encode(self, x: FloatMatrix) -> Codes:
        with _searching:
            return super()._encode(x)


def with_codebooks(quantizer: Any, books: NDArray[np.float32]) -> Any:
    """Return faiss's ``quantizer`` with the codebooks (m, 2**nbits, d), as if it were trained."""
    faiss.copy_array_to_vector(books.ravel(), quantizer.codebooks)
    quantizer.is_trained = True
    return quantizer


def beam_search(quantizer: Any, beam: int) -> Any:
    """Return a trained faiss.ResidualQuantizer, which encodes by beam search over tables now."""
    quantizer.max_beam_size, quantizer.use_beam_LUT = beam, 1
    quantizer.compute_codebook_tables()
    return quantizer


class _ProductOf(AdditiveQuantizer):
    """An additive quantizer for each of ``splits`` sub-spaces: ``part``, with its arguments."""

    part: type[_OfFaiss]

    def __init__(self, d: int, m: int = 8, nbits: int = 8, splits: int = 2, **of_part: Any) -> None:
        super().__init__(d, m, nbits, of_part.get("seed", 0))
        self.splits = self.steps = _checks.integer("splits", splits, 1)
        for name, whole in (("d", self.d), ("m", self.m)):
            if whole % self.splits:
                raise ValueError(
                    f"splits={self.splits}: expected a divisor of {name}={whole}, so that every "
                    "sub-vector has the same length and as many numbers."
                )
        size = {"d": self.d // self.splits, "m": self.m // self.splits}
        self._parts = [self.part(**size, nbits=nbits, **of_part) for _ in range(self.splits)]
        for name in self._arguments()[4:]:
            setattr(self, name, getattr(self._parts[0], name))

    @classmethod
    def _arguments(cls) -> list[str]:
        names = cls.part._arguments()
        return [*names[:3], "splits", *names[3:]]

    @property
    def parameters_bytes(self) -> int:
        """Bytes of the codebooks, and of the inner products of codewords of the same sub-space."""
        return sum(part.parameters_bytes for part in self._parts)

    def _cost(self) -> Cost:
        return Cost(*np.sum([part._cost() for part in self._parts], axis=0).tolist())

    def _split(self, x: FloatMatrix) -> list[FloatMatrix]:
        return [np.ascontiguousarray(part) for part in np.split(x, self.splits, axis=1)]

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        for j, (part, own) in enumerate(zip(self._parts, self._split(x), strict=True)):
            part.train(own)
            progress(j + 1)
        self.objective = added_curves([part.objective for part in self._parts])

    def _codewords(self) -> NDArray[np.float32]:
        words = np.zeros((self.m, self.ksub, self.d), np.float32)
        # Of each part a block of numbers and of components; all others are zero.
        blocks = words.reshape(self.splits, -1, self.ksub, self.splits, self.d // self.splits)
        for j, part in enumerate(self._parts):
            blocks[j, :, :, j] = part.codewords()
        return words

    def _encoder(self) -> Callable[[FloatMatrix], Codes]:
        return self._encode_parts

    def _encode_parts(self, x: FloatMatrix) -> Codes:
        parts = zip(self._parts, self._split(x), strict=True)
        numbers = [part.unpack(part.encode(own)) for part, own in parts]
        return self.pack(np.concatenate(numbers, axis=1))

    def _decode(self, codes: Codes) -> FloatMatrix:
        parts = zip(self._parts, np.split(self.unpack(codes), self.splits, axis=1), strict=True)
        return np.concatenate([part.decode(part.pack(own)) for part, own in parts], axis=1)

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"codebooks": np.stack([part.codewords() for part in self._parts])}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        books = state["codebooks"]
        if len(books) != self.splits:
            raise ValueError(f"codebooks has shape {books.shape}: expected {self.splits} splits.")
        for part, own in zip(self._parts, books, strict=True):
            part.restore({"codebooks": own, "objective": np.empty(0)})


class ProductResidualQuantizer(_ProductOf):
    """Product-additive quantizer of residual codes (Babenko, Lempitsky, "Additive quantization for
    extreme vector compression", CVPR 2014, section 3.4, with the codes of ``ResidualQuantizer``).

    The vector is cut into ``splits`` sub-vectors, each with a ``ResidualQuantizer`` of m / splits
    stages of its own; the mean squared errors are minimized apart. Between a product code (splits =
    m) and an additive one (splits = 1), in error and in what encoding and look-ups cost.

    Parameters
    ----------
    d, m, nbits, seed : see ``AdditiveQuantizer``
    splits : sub-vectors, a divisor of d and of m
    beam, encode_beam, progressive : by name, see ``ResidualQuantizer``
    """

    part = ResidualQuantizer


class ProductLocalSearchQuantizer(_ProductOf):
    """Product-additive quantizer of local-search codes (Babenko, Lempitsky, CVPR 2014, section 3.4,
    with the codes of ``LocalSearchQuantizer``).

    The vector is cut into ``splits`` sub-vectors, each with a ``LocalSearchQuantizer`` of m /
    splits codebooks of its own; the mean squared errors are minimized apart. Encoding takes about
    1 / splits of the additions of an undivided one.

    Parameters
    ----------
    d, m, nbits, splits, seed : see ``ProductResidualQuantizer``
    iterations, train_rounds, encode_rounds : by name, see ``LocalSearchQuantizer``
    """

    part = LocalSearchQuantizer
