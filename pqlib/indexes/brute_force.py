"""Exhaustive search: the exact answer, and the time to beat."""

from __future__ import annotations

from typing import Self

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._file import IndexFile, Section, array_section
from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.indexes.base import Index
from pqlib.indexes.blocks import SMALL_BYTES, ranking_bytes
from pqlib.indexes.metric import Space


class BruteForce(Index):
    """Exact search by comparing each query with every vector, in faiss.

    Parameters
    ----------
    d : dimension
    copy : False keeps a reference to the first added float32 array instead of a copy of it,
        which matters for data of several GB; the caller must then leave that array alone. Under
        "cosine" a copy of unit length is kept in any case
    metric : see ``Index``. Inner products are computed as such, by ``faiss.METRIC_INNER_PRODUCT``:
        nothing is trained, and norms have no limit

    Raises
    ------
    ValueError
        When d is no whole number of at least 1, or there is no such metric.
    """

    mappable = ("vectors", "ids")

    def __init__(self, d: int, copy: bool = True, metric: str = "l2") -> None:
        super().__init__(d, metric)
        self.space = Space(metric, d)
        self.copy = bool(copy)
        self.is_trained = True
        self._vectors: FloatMatrix | None = None

    def train(self, xt: FloatMatrix) -> Self:
        """Do nothing but check ``xt`` (n, d): there is nothing to learn."""
        _checks.vectors("xt", xt, self.d)
        return self

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        if self._vectors is None:
            own = self.space.converts  # made here, no array of the caller's
            self._vectors = xb.copy() if self.copy and not own else xb
        else:
            self._vectors = np.concatenate([self._vectors, xb])

    def _sections(self) -> list[Section]:
        held = np.empty((0, self.d), np.float32) if self._vectors is None else self._vectors
        return [array_section("vectors", held)]

    def _restore(self, file: IndexFile) -> None:
        vectors = file.map("vectors", "<f4", (self.ntotal, self.d))
        self._vectors = vectors if len(vectors) else None

    def search(self, xq: FloatMatrix, k: int = 10, max_memory: int | None = None) -> Found:
        """Return the ``k`` nearest vectors of each query; see ``Index.search``."""
        xq, k = self._check_search(xq, k)
        compared = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT

        def need(nq: int) -> int:
            return SMALL_BYTES + ranking_bytes(nq, self.ntotal, k, self.d)

        def search(block: FloatMatrix) -> Found:
            return faiss.knn(block, self._vectors, k, compared)

        return self._named(self._in_blocks(search, xq, k, max_memory, need))

    def search_cost(self, xq: FloatMatrix, k: int = 10) -> dict[str, NDArray[np.int64]]:
        """Count distance computations: "vectors", all of them for each query, (nq,) int64."""
        xq, k = self._check_search(xq, k)
        return {"vectors": np.full(len(xq), self.ntotal)}

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        held = 0 if self._vectors is None else self._vectors.nbytes
        return {"vectors": held, "ids": self._id_memory()}
