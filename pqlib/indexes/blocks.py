"""Work in blocks of queries or vectors, so that it takes a bounded amount of memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from pqlib import _checks
from pqlib._types import FloatMatrix, Found

BLOCK_BYTES = 64 << 20
"""Working memory of one block of vectors."""

SMALL_BATCH = 16
"""Queries up to which one thread of Python works on a call."""

BLAS_QUERIES, BLAS_WORK = 20, 4096
"""Queries, or queries times dimensions, from which on faiss takes matrix products in blocks."""

BLAS_BYTES = 4096 * 1024 * 4
"""Bytes of one such block: faiss allocates it whole, however few the queries."""

PRODUCT_BYTES = 6 << 20
"""Allowance for what a library of matrix products keeps for itself."""

SMALL_BYTES = 1 << 20
"""Allowance for what any search takes besides: objects, stacks of threads, small arrays."""


def rows_per_block(bytes_per_row: int, block_bytes: int = BLOCK_BYTES) -> int:
    """Return how many rows fit into ``block_bytes``, at least one."""
    return max(1, block_bytes // max(1, bytes_per_row))


def ranking_bytes(nq: int, n: int, k: int, d: int) -> int:
    """Return the most bytes that faiss takes to find the ``k`` nearest of ``n`` vectors."""
    heaps = 36 * k * nq if k < 100 else 60 * k * nq
    products = nq >= BLAS_QUERIES or nq * d >= BLAS_WORK
    return heaps + (BLAS_BYTES + 4 * (n + nq) if products else 0)


def search_in_blocks(
    search: Callable[[FloatMatrix], Found],
    xq: FloatMatrix,
    k: int,
    max_memory: int | None,
    need: Callable[[int], int],
    most: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Found:
    """Return what ``search`` finds for ``xq`` (nq, d), as many queries at a time as memory allows.

    Parameters
    ----------
    search : returns distances and positions, (n, k) each, for a block of queries (n, d)
    max_memory : bytes that a block may take; None: no limit, and ``need`` is not called
    need : returns the most bytes that a search of so many queries takes; grows with their number
    most : queries of a block, at most; None: any number
    progress : called with the number of queries answered so far, after each block

    Raises
    ------
    ValueError
        When max_memory is no whole number above 0, or too little for one query.
    """
    step = len(xq) if most is None else min(len(xq), most)
    if max_memory is not None:
        limit = _checks.integer("max_memory", max_memory, 1)
        if need(1) > limit:
            raise ValueError(
                f"max_memory={limit:,}: expected at least {need(1):,} bytes, which one query takes "
                "with these arguments. Allow more, or lower k, nprobe or the number of candidates."
            )
        step = bisect_right(range(1, step + 1), limit, key=need)
    if step == len(xq) and progress is None:
        return search(xq)
    distances, found = np.empty((len(xq), k), np.float32), np.empty((len(xq), k), np.int64)
    for start in range(0, len(xq), step):
        block = slice(start, start + step)
        distances[block], found[block] = search(xq[block])
        if progress is not None:
            progress(min(start + step, len(xq)))
    return distances, found
