"""Whole vectors of bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pqlib.indexes.blocks import FloatMatrix, IdArray, rows_per_block
from pqlib.indexes.stores.float32 import VectorStore


class ByteStore(VectorStore):
    """Vectors of whole numbers 0..255 in a byte a component, without loss."""

    KIND = "uint8"

    def convert(self, xb: FloatMatrix) -> NDArray[np.uint8]:
        """Return ``xb`` (n, d) as uint8.

        Raises
        ------
        ValueError
            When a component is no whole number 0..255.
        """
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

    def _gather(self, positions: IdArray) -> tuple[FloatMatrix, IdArray]:
        # The candidates' rows only; missing ones (-1) borrow a row for the moment.
        vectors = self.vectors[np.maximum(positions, 0).ravel()].astype(np.float32)
        return vectors, np.arange(positions.size, dtype=np.int64).reshape(positions.shape)
