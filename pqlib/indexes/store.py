"""Whole vectors kept beside the codes, for exact distances of the best candidates."""

from __future__ import annotations

from typing import Any, ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib._blocks import blocks
from pqlib._file import IndexFile, Section, array_section
from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.indexes.blocks import BLOCK_BYTES

GATHER_BYTES = 4 << 20  # small enough that the allocator hands the same memory out again


class VectorStore:
    """Whole vectors as float32, in the order of their positions.

    A subclass with another ``KIND`` is what ``MultiLevelPQ(rerank=KIND)`` uses. It says how
    vectors are kept (``convert``) and read (``_gather``).

    Parameters
    ----------
    d : dimension
    copy : False makes a float32 store refer to the first array it is given instead of copying it

    Attributes
    ----------
    KIND : its name, and the dtype of ``vectors``
    kinds : all stores by their names
    vectors : (n, d), what is kept
    """

    KIND: ClassVar[str] = "float32"
    kinds: ClassVar[dict[str, type[VectorStore]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        VectorStore.kinds[cls.KIND] = cls

    def __init__(self, d: int, copy: bool = True) -> None:
        self.d, self.copy = d, copy
        self.vectors: NDArray[Any] = np.empty((0, d), self.KIND)
        self._ours = True  # False: the caller's array, or a file's

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors."""
        return self.vectors.nbytes

    def convert(self, xb: FloatMatrix) -> NDArray[Any]:
        """Return ``xb`` (n, d) as it will be kept, or raise ValueError where it loses anything."""
        return xb

    def append(self, converted: NDArray[Any], given: FloatMatrix) -> None:
        """Add vectors (n, d) that ``convert`` made of the caller's array ``given``."""
        n, theirs = len(self.vectors), converted is given
        if n == 0:
            self._ours = not theirs or self.copy
            self.vectors = converted.copy() if theirs and self.copy else converted
        elif self._ours:
            # In place where the allocator can: a copy would need the memory twice, every time.
            self.vectors.resize((n + len(converted), self.d), refcheck=False)
            self.vectors[n:] = converted
        else:
            self.vectors, self._ours = np.concatenate([self.vectors, converted]), True

    def sections(self) -> list[Section]:
        """Return what a file keeps."""
        return [array_section("store", self.vectors)]

    def restore(self, file: IndexFile, n: int) -> None:
        """Take ``n`` vectors from a file, or refer to them there where it is mapped."""
        self.vectors = file.map("store", self.vectors.dtype.str, (n, self.d))
        self._ours = False

    def _gather(self, positions: IdArray) -> tuple[FloatMatrix, IdArray]:
        """Return float32 vectors, and the row of each position there; any for -1."""
        return self.vectors.view(np.float32), positions

    def rerank(self, xq: FloatMatrix, positions: IdArray, k: int) -> Found:
        """Return the best ``k`` of the candidates (nq, c) by exact squared distance.

        Equal distances are ordered by position. -1 among the candidates means none.
        """
        c = positions.shape[1]
        exact = np.empty(positions.shape, np.float32)
        for block in blocks(len(xq), 5 * self.d * c, GATHER_BYTES):
            rows, queries = positions[block], np.ascontiguousarray(xq[block])
            vectors, local = self._gather(rows)
            local = np.where(rows < 0, np.int64(-1), local)
            part = np.empty(rows.shape, np.float32)
            pointers = map(faiss.swig_ptr, (part, queries, vectors, local))
            faiss.fvec_L2sqr_by_idx(*pointers, self.d, len(queries), c)
            exact[block] = part
        exact[positions < 0] = np.inf
        best = np.lexsort((positions, exact), axis=1)[:, :k]
        return np.take_along_axis(exact, best, 1), np.take_along_axis(positions, best, 1)


VectorStore.kinds[VectorStore.KIND] = VectorStore


class ByteStore(VectorStore):
    """Whole numbers 0..255 in a byte each, without loss."""

    KIND = "uint8"

    def convert(self, xb: FloatMatrix) -> NDArray[np.uint8]:
        """Return ``xb`` (n, d) as uint8, or raise ValueError where that would lose anything."""
        whole = np.empty(xb.shape, np.uint8)
        for rows in blocks(len(xb), 4 * self.d, BLOCK_BYTES):
            with np.errstate(invalid="ignore"):
                whole[rows] = xb[rows]
            wrong = np.argwhere(whole[rows] != xb[rows])
            if len(wrong):
                row, column = rows.start + wrong[0, 0], wrong[0, 1]
                raise ValueError(
                    f"xb[{row}, {column}] is {xb[row, column]}: rerank='uint8' expected "
                    "whole numbers 0..255, which it keeps without loss. Use rerank='float32' for "
                    "other data."
                )
        return whole

    def _gather(self, positions: IdArray) -> tuple[FloatMatrix, IdArray]:
        # The candidates' rows only; missing ones (-1) borrow a row for the moment.
        vectors = self.vectors[np.maximum(positions, 0).ravel()].astype(np.float32)
        return vectors, np.arange(positions.size, dtype=np.int64).reshape(positions.shape)
