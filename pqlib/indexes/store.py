"""Whole vectors kept beside the codes, for exact distances of the best candidates."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib.indexes.base import FloatMatrix, IdArray, rows_per_block

RERANK_STORES = (None, "float32", "uint8")
GATHER_BYTES = 4 << 20  # small enough that the allocator hands the same memory out again


class VectorStore:
    """Vectors in the order of their positions, as float32 or, without loss, as uint8.

    Parameters
    ----------
    kind : "float32", or "uint8" for whole numbers 0..255
    d : dimension
    copy : False makes a float32 store refer to the first array it is given instead of copying it
    """

    def __init__(self, kind: str, d: int, copy: bool = True) -> None:
        self.kind, self.d, self.copy = kind, d, copy
        self.vectors: NDArray[np.float32] | NDArray[np.uint8] = np.empty((0, d), kind)
        self._ours = True  # False: the caller's array, or a file's

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors."""
        return self.vectors.nbytes

    def convert(self, xb: FloatMatrix) -> NDArray[np.float32] | NDArray[np.uint8]:
        """Return ``xb`` (n, d) as it will be kept.

        Raises
        ------
        ValueError
            When uint8 would lose anything.
        """
        if self.kind == "float32":
            return xb
        step = rows_per_block(4 * self.d)
        whole = np.empty(xb.shape, np.uint8)
        for start in range(0, len(xb), step):
            block = xb[start : start + step]
            with np.errstate(invalid="ignore"):
                whole[start : start + step] = block
            wrong = np.argwhere(whole[start : start + step] != block)
            if len(wrong):
                row, column = wrong[0]
                raise ValueError(
                    f"xb[{start + row}, {column}] is {block[row, column]}: rerank='uint8' expected "
                    "whole numbers 0..255, which it keeps without loss. Use rerank='float32' for "
                    "other data."
                )
        return whole

    def append(self, converted: NDArray[np.float32] | NDArray[np.uint8]) -> None:
        """Add vectors that ``convert`` returned."""
        n = len(self.vectors)
        if n == 0:
            mine = self.kind == "uint8" or self.copy
            self.vectors = converted.copy() if mine and self.kind == "float32" else converted
            self._ours = mine
        elif self._ours:
            # In place where the allocator can: a copy would need the memory twice, every time.
            self.vectors.resize((n + len(converted), self.d), refcheck=False)
            self.vectors[n:] = converted
        else:
            self.vectors, self._ours = np.concatenate([self.vectors, converted]), True

    def use(self, vectors: NDArray[np.float32] | NDArray[np.uint8]) -> None:
        """Take ``vectors`` (n, d) of the store's own type as they are, such as a mapped file's."""
        self.vectors, self._ours = vectors, False

    def rerank(self, xq: FloatMatrix, positions: IdArray, k: int) -> tuple[FloatMatrix, IdArray]:
        """Return the best ``k`` of the candidates (nq, c) by exact squared distance.

        Equal distances are ordered by position. -1 among the candidates means none.
        """
        c = positions.shape[1]
        exact = np.empty(positions.shape, np.float32)
        step = rows_per_block(5 * self.d * c, GATHER_BYTES)
        for start in range(0, len(xq), step):
            block = slice(start, start + step)
            rows, queries = positions[block], np.ascontiguousarray(xq[block])
            if self.kind == "uint8":
                # The candidates' rows as float32; missing ones (-1) borrow a row for the moment.
                vectors = self.vectors[np.maximum(rows, 0).ravel()].astype(np.float32)
                local = np.arange(rows.size, dtype=np.int64).reshape(rows.shape)
            else:
                vectors, local = self.vectors.view(np.float32), rows
            local = np.where(rows < 0, np.int64(-1), local)
            part = np.empty(rows.shape, np.float32)
            faiss.fvec_L2sqr_by_idx(
                faiss.swig_ptr(part),
                faiss.swig_ptr(queries),
                faiss.swig_ptr(vectors),
                faiss.swig_ptr(local),
                self.d,
                len(queries),
                c,
            )
            exact[block] = part
        exact[positions < 0] = np.inf
        best = np.lexsort((positions, exact), axis=1)[:, :k]
        return np.take_along_axis(exact, best, 1), np.take_along_axis(positions, best, 1)
