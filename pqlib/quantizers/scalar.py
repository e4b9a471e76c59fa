"""Codes with bits for every component: scalar quantization, and RaBitQ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib._types import Codes, FloatMatrix, IdArray
from pqlib.quantizers.base import Cost, Progress, Quantizer

SCALAR_BITS = {4: "QT_4bit", 6: "QT_6bit", 8: "QT_8bit"}


class ScalarQuantizer(Quantizer):
    """Scalar quantizer: each component on its own, in steps from its least to its largest value.

    Minimizes nothing: the range of each component is that of the training vectors, cut into
    2**nbits - 1 equal steps, the midpoints of which are the decoded values (of the largest value
    alone, half a step above it) (Gersho, Gray, "Vector quantization and signal compression", 1992,
    chapter 5). faiss's ScalarQuantizer.

    Encoding takes d operations a vector, and so does each code scanned: there are no tables.

    Parameters
    ----------
    d : dimension
    nbits : bits of a component, 4, 6 or 8
    seed : unused; there is nothing random
    """

    _reason = "from which the range of each component is taken"
    _remedy = "give the ranges by vectors that span them"

    def __init__(self, d: int, nbits: int = 8, seed: int = 0) -> None:
        super().__init__(d, seed)
        if nbits not in SCALAR_BITS:
            raise ValueError(f"nbits={nbits!r}: expected one of {sorted(SCALAR_BITS)}.")
        self.nbits = int(nbits)
        self.least_train = 16  # of fewer, the ranges are much too short
        self._faiss = faiss.ScalarQuantizer(
            self.d, getattr(faiss.ScalarQuantizer, SCALAR_BITS[nbits])
        )

    @property
    def bits(self) -> int:
        """Bits of one code, d * nbits."""
        return self.d * self.nbits

    @property
    def parameters_bytes(self) -> int:
        """Bytes of the least value and the range of each component, float32."""
        return 8 * self.d

    def _cost(self) -> Cost:
        return Cost(code_multiplications=self.d)

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        self._faiss.train(x)
        self.objective = _mean_error(x, self._decode(self._encode(x)))
        progress(1)

    def _encode(self, x: FloatMatrix) -> Codes:
        return self._faiss.compute_codes(x)

    def _decode(self, codes: Codes) -> FloatMatrix:
        return self._faiss.decode(codes)

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"ranges": faiss.vector_to_array(self._faiss.trained).copy()}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        ranges = self._array(state, "ranges", 2 * self.d)
        faiss.copy_array_to_vector(ranges, self._faiss.trained)


class RaBitQuantizer(Quantizer):
    """RaBitQ (Gao, Long, "RaBitQ: quantizing high-dimensional vectors with a theoretical error
    bound for approximate nearest neighbor search", SIGMOD 2024): a sign for each component after a
    random rotation, and two numbers with which distances are estimated without bias.

    Nothing is minimized; only the mean of the vectors is learnt. With o the rotated vector less the
    mean, as a unit vector, and b the vector of its signs over sqrt(d), the inner product of a
    query with o is estimated as <q, b> / <o, b> (theorem 3.2). The decoded vector is the one for
    which that estimate is its inner product, so distances to decoded vectors are not what
    ``scan`` gives: it uses the stored norm of the vector instead. faiss's RaBitQuantizer, its
    queries not quantized.

    Encoding takes d^2 multiplications a vector for the rotation, a query as many, each code scanned
    d additions (in bits, by tables of four components).

    Parameters
    ----------
    d : dimension
    seed : of the rotation
    """

    def __init__(self, d: int, seed: int = 0) -> None:
        super().__init__(d, seed)
        self._rotation = np.empty((0, self.d), np.float32)
        self._mean: NDArray[np.float32] = np.broadcast_to(np.float32(0), self.d)
        self._faiss = faiss.RaBitQuantizer(self.d, faiss.METRIC_L2)

    @property
    def bits(self) -> int:
        """Bits of one code: d signs, up to whole bytes, and two float32 numbers."""
        return 8 * self._faiss.code_size

    @property
    def parameters_bytes(self) -> int:
        """Bytes of the rotation and the mean, float32."""
        return 4 * self.d * (self.d + 1)

    def _cost(self) -> Cost:
        """Count the rotation, and the d additions of a code as look-ups of four."""
        return Cost(self.d**2, (self.d + 3) // 4, 2)

    def _train(self, x: FloatMatrix, progress: Progress) -> None:
        rng = np.random.default_rng(self.seed)
        q, r = np.linalg.qr(rng.standard_normal((self.d, self.d)))
        self._rotation = (q * np.sign(np.diagonal(r))).astype(np.float32)
        self._mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.objective = _mean_error(x, self._decode(self._encode(x)))
        progress(1)

    def _turned(self, x: FloatMatrix) -> FloatMatrix:
        return np.ascontiguousarray((x - self._mean) @ self._rotation.T)

    def _encode(self, x: FloatMatrix) -> Codes:
        return self._faiss.compute_codes(self._turned(x))

    def _decode(self, codes: Codes) -> FloatMatrix:
        return self._faiss.decode(codes) @ self._rotation + self._mean

    def scan_unchecked(self, xq: FloatMatrix, codes: Codes, k: int) -> tuple[FloatMatrix, IdArray]:
        """Scan by estimated distances; see ``Quantizer.scan_unchecked``."""
        index = faiss.IndexRaBitQ(self.d, faiss.METRIC_L2)
        # Rotated vectors less their rotated mean have the mean zero.
        faiss.copy_array_to_vector(np.zeros(self.d, np.float32), index.center)
        index.is_trained, index.qb = True, 0
        index.add_sa_codes(codes)
        return index.search(self._turned(xq), k)

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"rotation": self._rotation, "mean": self._mean}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._rotation = self._array(state, "rotation", self.d, self.d)
        self._mean = self._array(state, "mean", self.d)


def _mean_error(x: FloatMatrix, decoded: FloatMatrix) -> NDArray[np.float64]:
    difference = (x - decoded).astype(np.float64)
    return np.array([(difference**2).sum() / len(x)])
