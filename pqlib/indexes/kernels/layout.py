"""How codes lie in memory so that a processor can scan sixteen of them at a time.

A *block* holds 16 codes of one list. In it, four components of the first code come first, then the
same four of the second, up to the sixteenth; then the next four components, and so on: what one
vector instruction (16 times four products of bytes) reads is one piece of 64 bytes. Lists begin
with a block of their own, so that the last block of each may have unused lanes.

Components are bytes: a component c in -127..127 is kept as c + 128. Beside the codes stands half of
each code's squared norm, in two bytes, as a multiple of ``2**shift``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib._types import IdArray

LANES = 16
"""Codes of a block."""

GROUP = 4
"""Components that lie together."""

ZERO = 128
"""The byte that stands for a component of zero."""

LARGEST_D = (2**31 - 1) // 255**2
"""Dimensions up to which squared distances of bytes fit 32 bits."""

MOST_COMPONENTS = (2**31 - 1) // (127 * 255 + 127**2 // 2)
"""Components up to which the scores of codes fit 32 bits."""

Int8Matrix = NDArray[np.int8]


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an uninitialized array that begins at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


@dataclass(frozen=True)
class Blocks:
    """Codes of inverted lists in blocks.

    Attributes
    ----------
    codes : (blocks, components / 4, 16, 4) uint8
    half_norms : (16 * blocks,) uint16
    shift : half of a squared norm is ``half_norms << shift``
    block_starts : (lists + 1,) int64, the first block of each list
    starts : (lists + 1,) int64, the position of the first code of each list
    """

    codes: NDArray[np.uint8]
    half_norms: NDArray[np.uint16]
    shift: int
    block_starts: IdArray
    starts: IdArray

    @property
    def components(self) -> int:
        """Components of a code, a multiple of four."""
        return GROUP * int(self.codes.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of codes and norms, unused lanes included."""
        return self.codes.nbytes + self.half_norms.nbytes

    def unpack(self) -> Int8Matrix:
        """Return the codes by position, (n, components) int8."""
        rows = self.codes.transpose(0, 2, 1, 3).reshape(-1, self.components)
        signed = (rows[self.slots()].astype(np.int16) - ZERO).astype(np.int8)
        return np.ascontiguousarray(signed)

    def consistent(self) -> bool:
        """Tell whether ``half_norms`` are those of ``codes``, which the loops rely on."""
        step = max(1, (1 << 24) // max(1, self.codes[:1].nbytes))
        for start in range(0, len(self.codes), step):
            part = self.codes[start : start + step]
            if part.min() == 0:  # -128
                return False
            squares = (part.astype(np.int16) - ZERO).astype(np.int32) ** 2
            half = np.rint(squares.sum(axis=(1, 3)).ravel() / 2 / 2**self.shift)
            if not np.array_equal(half, self.half_norms[start * LANES :][: len(half)]):
                return False
        return True

    def slots(self) -> IdArray:
        """Return the lane of each position, counted over all blocks, (n,) int64."""
        return _slots(self.starts, self.block_starts)


def _slots(starts: IdArray, block_starts: IdArray) -> IdArray:
    sizes = np.diff(starts)
    return np.repeat(block_starts[:-1] * LANES - starts[:-1], sizes) + np.arange(starts[-1])


def blocks_of(sizes: IdArray) -> IdArray:
    """Return the first block of each list by its size (lists,), and the end: (lists + 1,)."""
    return np.concatenate([[0], np.cumsum(-(-sizes // LANES))]).astype(np.int64)


def pack(codes: Int8Matrix, starts: IdArray) -> Blocks:
    """Lay out codes (n, components) int8 that are sorted by list; ``components`` is 4 times m.

    Parameters
    ----------
    codes : components -127..127
    starts : (lists + 1,) the first row of each list, and n
    """
    n, components = codes.shape
    sizes = np.diff(starts)
    block_starts = blocks_of(sizes)
    blocks = int(block_starts[-1])
    slots = _slots(starts, block_starts)
    half = (codes.astype(np.int32) ** 2).sum(axis=1) / 2 if n else np.zeros(0)
    shift = 0
    while n and half.max() / 2**shift > np.iinfo(np.uint16).max:
        shift += 1
    packed = aligned_empty((blocks, components // GROUP, LANES, GROUP), np.uint8)
    packed[:] = ZERO
    rows = np.full((blocks * LANES, components), ZERO, np.uint8)
    rows[slots] = (codes.astype(np.int16) + ZERO).astype(np.uint8)
    packed[:] = rows.reshape(blocks, LANES, components // GROUP, GROUP).transpose(0, 2, 1, 3)
    half_norms = aligned_empty((blocks * LANES,), np.uint16)
    half_norms[:] = 0
    half_norms[slots] = np.rint(half / 2**shift)
    return Blocks(packed, half_norms, shift, block_starts, np.asarray(starts, np.int64))
