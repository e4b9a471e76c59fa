"""Codes, positions and whole vectors in the order of the inverted lists, as the loops read them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib._file import IndexFile, Section, array_section
from pqlib._types import FloatMatrix, IdArray
from pqlib.indexes.kernels.layout import GROUP, LANES, Blocks, aligned_empty, blocks_of, pack
from pqlib.indexes.lists import rows_by_list

Whole = NDArray[np.uint8] | FloatMatrix


class PackedLists:
    """What the lists of ``CascadeIndex`` hold.

    Vectors that are added wait until the lists are looked at; then all are put in order at once.

    Parameters
    ----------
    n_lists : inverted lists
    d : dimension
    kept : dtype of the whole vectors; None: there are none
    """

    def __init__(self, n_lists: int, d: int, kept: str | None) -> None:
        self.n_lists, self.d, self.kept = n_lists, d, kept
        self._lock = threading.Lock()
        self._pending: list[tuple[IdArray, NDArray[np.int8], Whole]] = []
        self._blocks: Blocks | None = None
        self._order: IdArray = np.empty(0, np.int64)
        self._whole: Whole = np.empty((0, d), np.uint8)

    def add(self, homes: IdArray, codes: NDArray[np.int8], whole: Whole) -> None:
        """Add codes (n, width) and vectors (n, d or 0) to the lists ``homes`` (n,)."""
        with self._lock:
            self._pending.append((homes, codes, whole))

    def content(self) -> tuple[Blocks, IdArray, Whole]:
        """Return the codes in blocks, and by place in the lists the positions and the vectors.

        Positions are of int32 where that suffices; without whole vectors there are (0, d).
        """
        with self._lock:
            if self._pending:
                self._merge()
            assert self._blocks is not None
            return self._blocks, self._order, self._whole

    def _merge(self) -> None:
        parts = self._pending
        if self._blocks is not None:
            sizes = np.diff(self._blocks.starts)
            whole = self._whole if self.kept else np.empty((len(self._order), 0), np.uint8)
            parts = [(np.repeat(np.arange(self.n_lists), sizes), self._blocks.unpack(), whole)]
            parts += self._pending
        homes, codes, whole = (
            held[0] if len(held) == 1 else np.concatenate(held) for held in zip(*parts, strict=True)
        )
        n, before = len(homes), len(self._order)
        rows = np.concatenate([self._order.astype(np.int64), np.arange(before, n)])
        by_list, starts = rows_by_list(homes, self.n_lists)
        self._order = rows[by_list].astype(np.int32 if n < 2**31 else np.int64)
        self._blocks = pack(codes[by_list], starts)
        self._whole = aligned_empty(whole.shape if self.kept else (0, self.d), whole.dtype)
        if self.kept:
            np.take(whole, by_list, axis=0, out=self._whole)
        self._pending = []

    def sizes(self) -> IdArray:
        """Return the vectors in each list, (n_lists,) int64."""
        return np.diff(self.content()[0].starts)

    def memory(self) -> dict[str, int]:
        """Return the bytes of "codes", "ids" (positions) and "vectors"."""
        blocks, order, whole = self.content()
        codes = blocks.nbytes + blocks.starts.nbytes + blocks.block_starts.nbytes
        return {"codes": codes, "ids": order.nbytes, "vectors": whole.nbytes}

    def sections(self) -> list[Section]:
        """Return what a file keeps."""
        blocks, order, whole = self.content()
        return [
            array_section("starts", blocks.starts),
            array_section("block_starts", blocks.block_starts),
            array_section("shift", np.array([blocks.shift])),
            array_section("codes", blocks.codes),
            array_section("half_norms", blocks.half_norms),
            array_section("order", order),
            array_section("vectors", whole),
        ]

    def restore(self, file: IndexFile, n: int, width: int) -> None:
        """Take back what ``sections`` wrote of ``n`` vectors with ``width`` components.

        ValueError where the loops could not rely on it: they check no bounds.
        """
        starts = file.read("starts", "<i8", (self.n_lists + 1,))
        # Of hostile numbers differences wrap around; of such as lie between 0 and n they do not.
        if starts[0] != 0 or starts[-1] != n or not ((starts >= 0) & (starts <= n)).all():
            raise file.refuse(f"its lists do not hold ntotal={n} vectors together")
        sizes = np.diff(starts)
        block_starts = file.read("block_starts", "<i8", (self.n_lists + 1,))
        if (sizes < 0).any() or not np.array_equal(block_starts, blocks_of(sizes)):
            raise file.refuse("its blocks do not follow from its lists")
        blocks = int(block_starts[-1])
        shift = file.number("shift")
        if not 0 <= shift < 16:
            raise file.refuse(f"its half norms are shifted by {shift} bits")
        self._blocks = Blocks(
            file.map("codes", "|u1", (blocks, width // GROUP, LANES, GROUP)),
            file.map("half_norms", "<u2", (blocks * LANES,)),
            shift,
            block_starts,
            starts,
        )
        if file.verify and not self._blocks.consistent():
            raise file.refuse("its half norms are not those of its codes")
        self._order = file.map("order", "<i4" if n < 2**31 else "<i8", (n,))
        if file.verify and not (
            (self._order.min() >= 0)
            and (self._order.max() < n)
            and (np.bincount(self._order, minlength=n) == 1).all()
        ):
            raise file.refuse("its order does not hold every position once")
        kept = np.dtype(self.kept or "uint8").str
        self._whole = file.map("vectors", kept, (n if self.kept else 0, self.d))


def unpack_keys(
    keys: IdArray, order: NDArray[np.signedinteger[Any]]
) -> tuple[NDArray[np.int32], IdArray, NDArray[np.bool_] | None]:
    """Return the distance bits and the positions of the ``keys`` of a search, (nq, k) each.

    ``order``: the position at each place in the lists. Where fewer than k were found, positions are
    -1, and a mask of those is the third result; otherwise it is None.
    """
    bits = (keys >> 32).astype(np.int32)
    if (keys[:, -1] != -1).all():  # the last ones are missing first
        return bits, order[keys & 0xFFFFFFFF].astype(np.int64), None
    missing = keys == -1
    positions = order[np.where(missing, 0, keys & 0xFFFFFFFF)].astype(np.int64)
    positions[missing] = -1
    return bits, positions, missing


def neighbours_side_by_side(centroids: FloatMatrix) -> IdArray:
    """Return an order of centroids (k, d) in which each is followed by the nearest one left."""
    k = len(centroids)
    norms = (centroids.astype(np.float64) ** 2).sum(axis=1)
    order = np.empty(k, np.int64)
    left = np.ones(k, bool)
    here = int(np.argmin(centroids[:, 0]))
    for i in range(k):
        order[i], left[here] = here, False
        if i + 1 < k:
            others = np.flatnonzero(left)
            distances = norms[others] - 2 * (centroids[others] @ centroids[here])
            here = int(others[np.argmin(distances)])
    return order
