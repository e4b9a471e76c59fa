"""Inverted lists whose codes are of any quantizer, shared by the lists or one for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib._threads import one_thread_each
from pqlib.clustering import sample_rows
from pqlib.indexes.base import FloatMatrix, IdArray
from pqlib.indexes.local_scan import scan_lists
from pqlib.quantizers import (
    AnisotropicProductQuantizer,
    LocallyOptimizedPQ,
    Quantizer,
    RaBitQuantizer,
)

SUBJECTS = ("residuals", "vectors")
"""What may be coded: vectors less their list's centroid, or as they are."""

SHARED = -1


class ListCodes:
    """Quantizers of inverted lists: trains them, encodes, decodes and scans with them.

    Parameters
    ----------
    codec : an untrained quantizer, which stays untrained: those of the lists are made like it
    codebooks : "shared" or "per-cluster"
    subject : one of ``SUBJECTS``
    d : dimension of the index

    Raises
    ------
    ValueError
        When the quantizer is no such thing, is trained, has another dimension, or makes no sense
        here; the message says why.
    """

    def __init__(self, codec: Quantizer, codebooks: str, subject: str, d: int) -> None:
        if not isinstance(codec, Quantizer):
            raise ValueError(
                f"codec={codec!r}: expected an object of pqlib.quantizers, such as "
                "ResidualQuantizer(d, m=8)."
            )
        if subject not in SUBJECTS:
            raise ValueError(f"code_of={subject!r}: expected one of {SUBJECTS}.")
        if codec.d != d:
            raise ValueError(f"codec has d={codec.d}: expected d={d}, the dimension of the index.")
        if codec.is_trained:
            raise ValueError(
                f"codec={codec!r} is trained: expected an untrained one, which train() trains on "
                f"the {subject}. Pass codec.fresh()."
            )
        if isinstance(codec, LocallyOptimizedPQ):
            raise ValueError(
                "codec=LocallyOptimizedPQ: it has clusters of its own, and the lists are clusters "
                "already. Pass OptimizedProductQuantizer(d, m, iterations=0) "
                "with codebooks='per-cluster', which is locally optimized PQ in these lists."
            )
        if isinstance(codec, AnisotropicProductQuantizer) and subject == "residuals":
            raise ValueError(
                "codec=AnisotropicProductQuantizer with code_of='residuals': it weighs errors "
                "along the vector, which a residual no longer points along. Pass "
                "code_of='vectors'."
            )
        if codebooks == "per-cluster" and subject == "vectors":
            raise ValueError(
                "codebooks='per-cluster' with code_of='vectors': codebooks of a single list would "
                "have to code its centroid again. Pass code_of='residuals', or codebooks='shared'."
            )
        if codebooks == "per-cluster" and isinstance(codec, RaBitQuantizer):
            raise ValueError(
                "codebooks='per-cluster' with RaBitQuantizer: it learns nothing but a mean, which "
                "the residuals of every list lack, and would keep the same rotation for each list. "
                "Pass codebooks='shared'."
            )
        self.codec = codec
        self.per_cluster = codebooks == "per-cluster"
        self.subject = subject
        self.trained: dict[int, Quantizer] = {}

    def of(self, cluster: int) -> Quantizer:
        """Return the quantizer of a list."""
        found = self.trained.get(int(cluster))
        return self.trained[SHARED] if found is None else found

    @property
    def n_own(self) -> int:
        """Lists with a quantizer of their own."""
        return len(self.trained) - (SHARED in self.trained)

    @property
    def parameters_bytes(self) -> int:
        """Bytes of what all quantizers learnt."""
        return sum(quantizer.parameters_bytes for quantizer in self.trained.values())

    def _coded(self, x: FloatMatrix, homes: IdArray, centroids: FloatMatrix) -> FloatMatrix:
        return x - centroids[homes] if self.subject == "residuals" else x

    def train(
        self,
        x: FloatMatrix,
        homes: IdArray,
        centroids: FloatMatrix,
        max_train: int | None,
        seed: int,
        progress: Callable[[int], object] | None,
    ) -> None:
        """Train on ``x`` (n, d) in the lists ``homes`` (n,); see ``MultiLevelPQ.train``."""
        least = self.codec.least_train
        sizes = np.bincount(homes, minlength=len(centroids))
        own = np.flatnonzero((sizes >= least) & self.per_cluster).tolist()
        self.trained = {}
        if len(own) < len(centroids):
            rows = sample_rows(len(x), len(x) if max_train is None else max_train, seed)
            coded = self._coded(x[rows], homes[rows], centroids)
            self.trained[SHARED] = self.codec.fresh().train(coded)
            if progress is not None:
                progress(1)

        def one(c: int) -> Quantizer:
            rows = np.flatnonzero(homes == c)
            return self.codec.fresh().train(self._coded(x[rows], homes[rows], centroids))

        with one_thread_each() as pool:
            for c, quantizer in zip(own, pool.map(one, own), strict=True):
                self.trained[c] = quantizer
                if progress is not None:
                    progress(len(self.trained))

    def encode(self, x: FloatMatrix, homes: IdArray, centroids: FloatMatrix) -> NDArray[np.uint8]:
        """Return the codes (n, code_bytes) of ``x`` (n, d) in the lists ``homes`` (n,)."""
        codes = np.empty((len(x), self.codec.code_bytes), np.uint8)
        for c, rows in self._groups(homes):
            codes[rows] = self.of(c).encode(self._coded(x[rows], homes[rows], centroids))
        return codes

    def decode(
        self, codes: NDArray[np.uint8], homes: IdArray, centroids: FloatMatrix
    ) -> FloatMatrix:
        """Return the vectors (n, d) that codes in the lists ``homes`` (n,) stand for."""
        decoded = np.empty((len(codes), self.codec.d), np.float32)
        for c, rows in self._groups(homes):
            decoded[rows] = self.of(c).decode(codes[rows])
        if self.subject == "residuals":
            decoded += centroids[homes]
        return decoded

    def _groups(self, homes: IdArray) -> list[tuple[int, IdArray]]:
        """Return which rows each quantizer is for."""
        keys = np.where(np.isin(homes, list(self.trained)), homes, SHARED)
        return [(int(c), np.flatnonzero(keys == c)) for c in np.unique(keys)]

    def scan(
        self,
        xq: FloatMatrix,
        coarse: FloatMatrix,
        keys: IdArray,
        k: int,
        centroids: FloatMatrix,
        content: Callable[[int], tuple[IdArray, NDArray[np.uint8]]],
    ) -> tuple[FloatMatrix, IdArray]:
        """Return the ``k`` best codes of the probed lists; see ``scan_lists``."""
        if self.subject == "vectors":
            centroids = np.zeros_like(centroids)
        return scan_lists(xq, coarse, keys, k, centroids, content, self.of, None)

    def state(self) -> list[tuple[str, NDArray[Any]]]:
        """Return what was learnt, with names."""
        named = [("codecs", np.array(sorted(self.trained), np.int64))]
        for c in sorted(self.trained):
            quantizer = self.trained[c]
            named.append((f"codec {c}/n_train", np.array([quantizer.n_train])))
            named += [(f"codec {c}/{name}", array) for name, array in quantizer.state()]
        return named

    def restore(self, names: list[str], read: Callable[[str], NDArray[Any]], n_lists: int) -> None:
        """Take back what ``state`` returned, for so many lists.

        Raises
        ------
        ValueError
            When it is not complete.
        """
        held = read("codecs").ravel().tolist()
        if not set(held) <= {SHARED, *range(n_lists)} or held != sorted(set(held)):
            raise ValueError(f"codecs are those of lists {held}: expected some of {n_lists} lists.")
        if SHARED not in held and len(set(held)) < n_lists:
            raise ValueError(f"codecs are those of {len(held)} lists: expected one for all others.")
        self.trained = {}
        for c in held:
            prefix = f"codec {c}/"
            state: Mapping[str, NDArray[Any]] = {
                name[len(prefix) :]: read(name) for name in names if name.startswith(prefix)
            }
            fresh = self.codec.fresh()
            self.trained[int(c)] = fresh.restore(state, int(state["n_train"][0]))
