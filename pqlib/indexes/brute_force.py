"""Exhaustive search: the exact answer, and the time to beat."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._file import IndexFile, Section, array_section
from pqlib.indexes.base import (
    SMALL_BYTES,
    FloatMatrix,
    IdArray,
    Index,
    queries_within,
    ranking_bytes,
)


class BruteForce(Index):
    """Exact search by comparing each query with every vector, in faiss.

    Parameters
    ----------
    d : dimension
    copy : False keeps a reference to the first added float32 array instead of a copy of it,
        which matters for data of several GB; the caller must then leave that array alone

    Raises
    ------
    ValueError
        When d is no whole number of at least 1.
    """

    def __init__(self, d: int, copy: bool = True) -> None:
        super().__init__(d)
        self.copy = bool(copy)
        self.is_trained = True
        self._vectors: FloatMatrix | None = None

    def train(self, xt: FloatMatrix) -> BruteForce:
        """Do nothing but check ``xt`` (n, d): there is nothing to learn."""
        _checks.vectors("xt", xt, self.d)
        return self

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        if self._vectors is None:
            self._vectors = xb.copy() if self.copy else xb
        else:
            self._vectors = np.concatenate([self._vectors, xb])

    def _sections(self) -> list[Section]:
        held = np.empty((0, self.d), np.float32) if self._vectors is None else self._vectors
        return [array_section("vectors", held)]

    def _restore(self, file: IndexFile) -> None:
        vectors = file.map("vectors", "<f4", (self.ntotal, self.d))
        self._vectors = vectors if len(vectors) else None

    def search(
        self, xq: FloatMatrix, k: int = 10, max_memory: int | None = None
    ) -> tuple[FloatMatrix, IdArray]:
        """Return the ``k`` nearest vectors of each query.

        Parameters
        ----------
        xq : (nq, d) float32
        k : neighbours, 1..ntotal
        max_memory : bytes that the search may take besides the index, the queries and the result;
            the queries are then searched in blocks. None: no limit. Ties and last digits may come
            out differently, as faiss computes distances of few queries another way

        Returns
        -------
        distances : (nq, k) float32, squared L2, ascending
        ids : (nq, k) int64

        Raises
        ------
        ValueError
            When nothing was added, k is outside 1..ntotal, xq is no finite (nq, d) matrix, or
            max_memory is too little for one query.
        """
        xq, k = self._check_search(xq, k)

        def need(nq: int) -> int:
            return SMALL_BYTES + ranking_bytes(nq, self.ntotal, k, self.d)

        step = queries_within(len(xq), max_memory, need)
        if step == len(xq):
            distances, positions = faiss.knn(xq, self._vectors, k)
            return distances, self._to_ids(positions)
        distances = np.empty((len(xq), k), np.float32)
        ids = np.empty((len(xq), k), np.int64)
        for start in range(0, len(xq), step):
            block = slice(start, start + step)
            distances[block], positions = faiss.knn(xq[block], self._vectors, k)
            ids[block] = self._to_ids(positions)
        return distances, ids

    def search_cost(self, xq: FloatMatrix, k: int = 10) -> dict[str, NDArray[np.int64]]:
        """Count distance computations: all vectors for each query, (nq,) int64."""
        xq, k = self._check_search(xq, k)
        return {"vectors": np.full(len(xq), self.ntotal)}

    @property
    def mappable(self) -> tuple[str, ...]:
        """The parts that may stay in the file, though every search reads all of it."""
        return ("vectors", "ids")

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        held = 0 if self._vectors is None else self._vectors.nbytes
        return {"vectors": held, "ids": self._id_memory()}
