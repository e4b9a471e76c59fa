"""Additive quantization: sums of whole-vector codewords, by faiss."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks, _threads
from pqlib.clustering import sample_rows
from pqlib.quantizers.base import CodebookQuantizer, Codes, FloatMatrix, Progress, added_curves
from pqlib.quantizers.product import POINTS_PER_CENTROID

ENCODE_ROWS = 4096
"""Vectors handed to faiss at once: its working memory grows with them."""

MOST_CODEWORDS = 16_384

TRAIN_THREADS = 2
"""Threads of training, on any machine: faiss shares out sums among them, so that with another
number codebooks would have other last digits, and after some iterations other codewords."""

MOST_ROUNDS = 256
"""Rounds of local search: a number in a file must not keep whoever opens it busy for hours."""

_searching = threading.Lock()  # faiss's local search keeps its times in a global map


class AdditiveQuantizer(CodebookQuantizer):
    """What the quantizers share whose codewords are added up without being orthogonal.

    A code holds m numbers of nbits bits and stands for the sum of m codewords of d numbers each.
    Distances are looked up as those of product codes are, with the inner products of the
    codewords with each other (m * (m - 1) / 2 more look-ups, of tables made once) added.
    """

    def __init__(self, d: int, m: int, nbits: int, seed: int) -> None:
        super().__init__(d, seed)
        self.m = _checks.integer("m", m, 1, 64)
        self.nbits = _checks.integer(
            "nbits", nbits, 4, 12, "A codebook has 2**nbits codewords; 8 is usual."
        )
        if self.m << self.nbits > MOST_CODEWORDS:
            raise ValueError(
                f"m={self.m}, nbits={self.nbits}: m * 2**nbits is {self.m << self.nbits:,}, "
                f"expected at most {MOST_CODEWORDS:,}, since the inner products of all codewords "
                "with each other are kept. Take fewer numbers or bits."
            )

    @property
    def parameters_bytes(self) -> int:
        """Bytes of the codebooks, float32: m * 2**nbits * d * 4, m times those of a product code.

        And of the inner products of codewords with each other.
        """
        return 4 * self.m * self.ksub * self.d + 4 * (self.m * self.ksub) ** 2

    def search_cost(self) -> dict[str, int]:
        """Count the work of searching: m * 2**nbits * d for tables, m * (m + 1) / 2 look-ups."""
        return {
            "multiplications": self.m * self.ksub * self.d,
            "lookups": self.m * (self.m + 1) // 2,
            "code_multiplications": 0,
        }


class _OfFaiss(AdditiveQuantizer):
    """Around a faiss.AdditiveQuantizer whose codebooks all have 2**nbits codewords."""

    def __init__(self, d: int, m: int, nbits: int, seed: int) -> None:
        super().__init__(d, m, nbits, seed)
        self._faiss = self._made()
        self._is_ready = False
        self._making = threading.Lock()

    @abstractmethod
    def _made(self) -> Any:
        """Return faiss's quantizer."""

    def _ready(self) -> None:
        """Prepare the trained one for encoding."""

    def _prepared(self) -> Any:
        """Return faiss's quantizer, ready to encode, for which it makes tables of its own."""
        if not self._is_ready:
            with self._making:
                if not self._is_ready:
                    self._ready()
                    self._is_ready = True
        return self._faiss

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        x = x[sample_rows(len(x), POINTS_PER_CENTROID * self.ksub, self.seed)]
        self.n_train = len(x)
        # Anew: one that has encoded is set up for that, with another beam.
        self._faiss, self._is_ready = self._made(), False
        with _searching, _threads.threads(TRAIN_THREADS):
            self._faiss.train(x)
        self.objective = np.array([_errors(self._faiss, x, self._encode(x)).mean()])
        progress(1)

    def codewords(self) -> NDArray[np.float32]:
        """Return all codewords, (m, 2**nbits, d) float32."""
        self._need_training("codewords")
        return faiss.vector_to_array(self._faiss.codebooks).reshape(self.m, self.ksub, self.d)

    def _encode(self, x: FloatMatrix) -> Codes:
        return _compute_codes(self._prepared(), x)

    def _decode(self, codes: Codes) -> FloatMatrix:
        return self._faiss.decode(codes)

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"codebooks": self.codewords()}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        books = self._array(state, "codebooks", self.m, self.ksub, self.d)
        self._faiss = self._made()
        faiss.copy_array_to_vector(books.ravel(), self._faiss.codebooks)
        self._faiss.is_trained = True
        self._is_ready = False


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
    d : dimension
    m : stages, the numbers of a code
    nbits : bits of each, 4..12
    beam, encode_beam : partial codes kept, 1..64
    progressive : k-means on few principal components first, then on more, as faiss has it: some
        percent less error, several times the time
    seed : of k-means

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
        beam: int = 5,
        encode_beam: int = 10,
        progressive: bool = True,
        seed: int = 0,
    ) -> None:
        self.beam = _checks.integer("beam", beam, 1, 64)
        self.encode_beam = _checks.integer("encode_beam", encode_beam, 1, 64)
        self.progressive = bool(progressive)
        super().__init__(d, m, nbits, seed)

    def _made(self) -> Any:
        made = faiss.ResidualQuantizer(self.d, self.m, self.nbits)
        kinds = faiss.ResidualQuantizer
        made.train_type = kinds.Train_progressive_dim if self.progressive else kinds.Train_default
        made.max_beam_size = self.beam
        made.cp.seed = 1234 + self.seed  # faiss's own for seed 0
        # Not for lack of vectors: they are counted before.
        made.cp.min_points_per_centroid = 1
        return made

    def _ready(self) -> None:
        beam_search(self._faiss, self.encode_beam)


class LocalSearchQuantizer(_OfFaiss):
    """Local search quantizer, LSQ++ (Martinez, Zakhmi, Hoos, Little, "LSQ++: lower running time and
    higher recall in multi-codebook quantization", ECCV 2018).

    Codebooks and codes are improved in turn to minimize the mean squared error of the sum of
    codewords: the codebooks by least squares and then perturbed, less from iteration to iteration,
    the codes by iterated local search (a perturbation, then one number after the other set to its
    best). faiss's LocalSearchQuantizer. It starts from random codes, so that few iterations leave
    it worse than a residual quantizer.

    Encoding takes m * 2**nbits * d multiplications and about ``encode_rounds`` * 4 * m^2 * 2**nbits
    additions a vector; training as many with ``train_rounds``, in each of its iterations. What a
    vector's code is depends, by the random perturbations, on its place in the call of ``encode``.

    Parameters
    ----------
    d : dimension
    m : codebooks, the numbers of a code
    nbits : bits of each, 4..12
    iterations : of training
    train_rounds, encode_rounds : of local search, in each iteration and in encoding, 1..256
    seed : of the start and of perturbations

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
        iterations: int = 25,
        train_rounds: int = 8,
        encode_rounds: int = 16,
        seed: int = 0,
    ) -> None:
        self.iterations = _checks.integer("iterations", iterations, 1)
        self.train_rounds = _checks.integer("train_rounds", train_rounds, 1, MOST_ROUNDS)
        self.encode_rounds = _checks.integer("encode_rounds", encode_rounds, 1, MOST_ROUNDS)
        super().__init__(d, m, nbits, seed)

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


def beam_search(quantizer: Any, beam: int) -> None:
    """Let a trained faiss.ResidualQuantizer encode by beam search over tables."""
    quantizer.max_beam_size, quantizer.use_beam_LUT = beam, 1
    quantizer.compute_codebook_tables()


def _errors(quantizer: Any, x: FloatMatrix, codes: Codes) -> NDArray[np.float64]:
    """Return the squared error of each vector, (n,)."""
    difference = x - quantizer.decode(codes)
    return np.einsum("ij,ij->i", difference, difference, dtype=np.float64)


def _compute_codes(quantizer: Any, x: FloatMatrix) -> Codes:
    """Return faiss's codes of ``x``, made in blocks: its working memory grows with them."""
    blocks = [x[i : i + ENCODE_ROWS] for i in range(0, len(x), ENCODE_ROWS)]
    return np.concatenate([quantizer.compute_codes(block) for block in blocks])


class _ProductOf(AdditiveQuantizer):
    """An additive quantizer for each of ``splits`` sub-spaces: ``part``, with its arguments."""

    part: type[_OfFaiss]

    def __init__(self, d: int, m: int, nbits: int, splits: int, seed: int) -> None:
        super().__init__(d, m, nbits, seed)
        self.splits = _checks.integer("splits", splits, 1)
        for name, whole in (("d", self.d), ("m", self.m)):
            if whole % self.splits:
                raise ValueError(
                    f"splits={self.splits}: expected a divisor of {name}={whole}, so that every "
                    "sub-vector has the same length and as many numbers."
                )
        arguments = self._parameters()
        del arguments["splits"]
        arguments |= {"d": self.d // self.splits, "m": self.m // self.splits}
        self._parts = [self.part(**arguments) for _ in range(self.splits)]

    @property
    def parameters_bytes(self) -> int:
        """Bytes of the codebooks, and of the inner products of codewords of the same sub-space."""
        return sum(part.parameters_bytes for part in self._parts)

    def search_cost(self) -> dict[str, int]:
        """Count the work of searching: that of the sub-spaces' quantizers, added up."""
        costs = [part.search_cost() for part in self._parts]
        return {name: sum(cost[name] for cost in costs) for name in costs[0]}

    @property
    def steps(self) -> int:
        """Sub-spaces, each of which is a step of training."""
        return self.splits

    def _split(self, x: FloatMatrix) -> list[FloatMatrix]:
        return [np.ascontiguousarray(part) for part in np.split(x, self.splits, axis=1)]

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        for j, (part, own) in enumerate(zip(self._parts, self._split(x), strict=True)):
            part.train(own)
            progress(j + 1)
        self.n_train = self._parts[0].n_train
        self.objective = added_curves([part.objective for part in self._parts])

    def codewords(self) -> NDArray[np.float32]:
        """Return all codewords as whole vectors, (m, 2**nbits, d) float32, zero elsewhere."""
        self._need_training("codewords")
        words = np.zeros((self.m, self.ksub, self.d), np.float32)
        numbers, width = self.m // self.splits, self.d // self.splits
        for j, part in enumerate(self._parts):
            own = slice(j * numbers, (j + 1) * numbers)
            words[own, :, j * width : (j + 1) * width] = part.codewords()
        return words

    def _encode(self, x: FloatMatrix) -> Codes:
        numbers = [
            part.unpack(part.encode(own))
            for part, own in zip(self._parts, self._split(x), strict=True)
        ]
        return self.pack(np.concatenate(numbers, axis=1))

    def _decode(self, codes: Codes) -> FloatMatrix:
        numbers = np.split(self.unpack(codes), self.splits, axis=1)
        decoded = [
            part.decode(part.pack(own)) for part, own in zip(self._parts, numbers, strict=True)
        ]
        return np.concatenate(decoded, axis=1)

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
    d : dimension
    m : numbers of a code
    nbits : bits of each, 4..12
    splits : sub-vectors, a divisor of d and of m
    beam, encode_beam, progressive : see ``ResidualQuantizer``
    seed : of k-means

    Raises
    ------
    ValueError
        When an argument is out of range, or splits divides d or m not.
    """

    part = ResidualQuantizer

    def __init__(
        self,
        d: int,
        m: int = 8,
        nbits: int = 8,
        splits: int = 2,
        beam: int = 5,
        encode_beam: int = 10,
        progressive: bool = True,
        seed: int = 0,
    ) -> None:
        self.beam = _checks.integer("beam", beam, 1, 64)
        self.encode_beam = _checks.integer("encode_beam", encode_beam, 1, 64)
        self.progressive = bool(progressive)
        super().__init__(d, m, nbits, splits, seed)


class ProductLocalSearchQuantizer(_ProductOf):
    """Product-additive quantizer of local-search codes (Babenko, Lempitsky, CVPR 2014, section 3.4,
    with the codes of ``LocalSearchQuantizer``).

    The vector is cut into ``splits`` sub-vectors, each with a ``LocalSearchQuantizer`` of m /
    splits codebooks of its own; the mean squared errors are minimized apart. Encoding takes about
    1 / splits of the additions of an undivided one.

    Parameters
    ----------
    d : dimension
    m : numbers of a code
    nbits : bits of each, 4..12
    splits : sub-vectors, a divisor of d and of m
    iterations, train_rounds, encode_rounds : see ``LocalSearchQuantizer``
    seed : of the start and of perturbations

    Raises
    ------
    ValueError
        When an argument is out of range, or splits divides d or m not.
    """

    part = LocalSearchQuantizer

    def __init__(
        self,
        d: int,
        m: int = 8,
        nbits: int = 8,
        splits: int = 2,
        iterations: int = 25,
        train_rounds: int = 8,
        encode_rounds: int = 16,
        seed: int = 0,
    ) -> None:
        self.iterations = _checks.integer("iterations", iterations, 1)
        self.train_rounds = _checks.integer("train_rounds", train_rounds, 1, MOST_ROUNDS)
        self.encode_rounds = _checks.integer("encode_rounds", encode_rounds, 1, MOST_ROUNDS)
        super().__init__(d, m, nbits, splits, seed)
