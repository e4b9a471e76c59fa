"""Rows in blocks: how a large matrix is read without a second copy of it."""

from __future__ import annotations

from collections.abc import Iterator


def blocks(n: int, row_bytes: int, block_bytes: int) -> Iterator[slice]:
    """Yield slices that cover ``n`` rows in order.

    Each has as many rows of ``row_bytes`` bytes as fit into ``block_bytes``, at least one.
    """
    step = max(1, block_bytes // row_bytes)
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))
