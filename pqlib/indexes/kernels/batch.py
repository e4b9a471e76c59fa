"""The loops of an engine, called for whole batches and shared out among threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib._types import FloatMatrix, IdArray
from pqlib.indexes.blocks import SMALL_BATCH
from pqlib.indexes.kernels import engine
from pqlib.indexes.kernels.layout import Blocks

ByteMatrix = NDArray[np.int8]
IntMatrix = NDArray[np.int32]


class Loops:
    """The loops as one engine has them; see ``portable`` for what each computes.

    Parameters
    ----------
    name : of the engine, see ``kernels.engine``
    """

    def __init__(self, name: str | None) -> None:
        self.module: Any = engine(name)
        self._pool: tuple[tuple[int, int], ThreadPoolExecutor] | None = None

    def _each(self, work: Callable[[int, int], object], n: int) -> None:
        """Call ``work(first, last)`` for ranges that make up 0..n, several at a time."""
        threads = faiss.omp_get_max_threads()
        if threads == 1 or n <= SMALL_BATCH:
            work(0, n)
            return
        wanted = threads, os.getpid()  # threads do not survive a fork
        if self._pool is None or self._pool[0] != wanted:
            self._pool = wanted, ThreadPoolExecutor(threads)
        ends = np.linspace(0, n, min(n, 4 * threads) + 1).astype(np.int64).tolist()
        list(self._pool[1].map(work, ends[:-1], ends[1:]))

    def quantize(
        self, rotated: FloatMatrix, center: NDArray[np.float32], scale: np.float32
    ) -> tuple[ByteMatrix, NDArray[np.int32]]:
        """Return rotated vectors (n, width) as bytes, and what their scores lack (n,)."""
        codes, offsets = np.empty(rotated.shape, np.int8), np.empty(len(rotated), np.int32)

        def work(first: int, last: int) -> None:
            self.module.quantize(rotated, center, scale, first, last, codes, offsets)

        self._each(work, len(rotated))
        return codes, offsets

    def to_bytes(self, x: FloatMatrix) -> NDArray[np.uint8] | FloatMatrix:
        """Return ``x`` (n, d) as bytes where that loses nothing, else as it is."""
        out = np.empty(x.shape, np.uint8)
        good: list[bool] = []
        self._each(lambda a, b: good.append(self.module.to_bytes(x, a, b, out)), len(x))
        return out if all(good) else x

    def route(
        self, coarse: Blocks, n_lists: int, queries: ByteMatrix, nprobe: int
    ) -> tuple[IntMatrix, IntMatrix]:
        """Return the lists that each query probes, and their scores, (nq, nprobe) each."""
        shape = len(queries), nprobe
        lists, scores = np.empty(shape, np.int32), np.empty(shape, np.int32)

        def work(first: int, last: int) -> None:
            self.module.route(
                coarse.codes, coarse.half_norms, np.int32(coarse.shift), n_lists, queries, nprobe,
                first, last, lists, scores,
            )  # fmt: skip

        self._each(work, len(queries))
        return lists, scores

    def search(
        self, blocks: Blocks, store: NDArray[Any], order: IdArray,
        routed: tuple[IntMatrix, IntMatrix], queries: ByteMatrix, offsets: NDArray[np.int32],
        vectors: NDArray[Any], k: int, *, nprobe: int, candidates: int, margin: float,
    ) -> tuple[IdArray, IdArray]:  # fmt: skip
        """Return keys (nq, k) of what is found, and how many codes each query scanned (nq,).

        ``routed`` is what ``route`` returned; the rest is as ``portable.search`` says.
        """
        nq, d = vectors.shape
        keys, scanned = np.empty((nq, k), np.int64), np.empty(nq, np.int64)
        enough = max(512, 8 * candidates)

        def work(first: int, last: int) -> None:
            self.module.search(
                blocks.codes, blocks.half_norms, np.int32(blocks.shift), blocks.block_starts,
                blocks.starts, store, d, order, first, last, *routed, offsets, queries, vectors,
                candidates, k, margin, enough, keys, scanned,
            )  # fmt: skip

        self._each(work, nq)
        return keys, scanned
