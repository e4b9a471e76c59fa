"""Visit the nearest of all lists."""

from __future__ import annotations

import numpy as np

from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.indexes.routers.base import Router


class FlatRouter(Router):
    """Compare a query with all centroids, and visit the lists of the nearest, nearest first.

    Source: Jegou, Douze, Schmid, "Product quantization for nearest neighbor search", TPAMI 2011,
    section 4.
    """

    def probe(self, xq: FloatMatrix, nprobe: int) -> Found:
        """Return squared distances to the ``nprobe`` nearest lists and their numbers."""
        return self.clustering.flat.search(xq, nprobe)

    def cost(self, xq: FloatMatrix, nprobe: int) -> dict[str, IdArray]:
        """Count distances to centroids: "inner", all of them for each query."""
        return {"inner": np.full(len(xq), self.clustering.n_inner, np.int64)}

    def ranks_all(self) -> bool:
        """Tell that the lists are the nearest of all."""
        return True
