"""What of an index has to be in memory, what may stay on disk, and what a query reads of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pqlib.indexes.base import Index

if TYPE_CHECKING:
    import pandas as pd

DISK, RAM = "may stay on disk", "in memory"

READ_BY = {"codes": "codes", "vectors": "vectors", "re-ranking store": "rerank"}
"""Parts of which a query reads an entry for each distance computed at a stage."""


def residency(index: Index, cost: Mapping[str, float]) -> pd.DataFrame:
    """Return the parts of an index, where each may live, and what a query reads of it.

    Parameters
    ----------
    index : filled
    cost : mean distance computations of a query by stage, as ``search_cost`` counts them

    Returns
    -------
    DataFrame with a row for each part that is not empty: "part", "bytes_per_vector", "where"
    ("in memory", or "may stay on disk" with ``load_index(path, mmap=True)``) and
    "read_per_query": bytes of a part on disk that a query reads, on average, if nothing of it is
    in the page cache; 0 for what is in memory, and for ids, of which it reads those it returns.
    """
    import pandas as pd

    rows = []
    for part, size in index.memory().items():
        if not size:
            continue
        on_disk = part in index.mappable
        read = 0.0
        if on_disk and part in READ_BY:
            read = float(cost.get(READ_BY[part], 0.0)) * size / index.ntotal
        elif on_disk and part == "codebooks":
            # A table takes 2**nbits distances of d dimensions, to as many float32 sub-centroids.
            read = float(cost.get("tables", 0.0)) * 4 * index.d
        rows.append((part, size / max(1, index.ntotal), DISK if on_disk else RAM, read))
    return pd.DataFrame(rows, columns=["part", "bytes_per_vector", "where", "read_per_query"])
