"""Visit the nearest lists among those of the nearest outer clusters."""

from __future__ import annotations

from typing import Any

from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.indexes.routers.base import Router


class TwoLevelRouter(Router):
    """Rank the outer centroids, and the inner ones of the nearest outer clusters only.

    The router of an index that is given none. Sources: see ``pqlib.clustering``.
    """

    def probe(self, xq: FloatMatrix, nprobe: int, nprobe_outer: int | None = None) -> Found:
        """Return squared distances to lists and their numbers, nearest first.

        ``nprobe_outer``: outer clusters whose lists are ranked; None: all lists are, and no
        outer centroid is looked at. See ``TwoLevelClustering.probe``.
        """
        return self.clustering.probe(xq, nprobe, nprobe_outer)

    def cost(
        self, xq: FloatMatrix, nprobe: int, nprobe_outer: int | None = None
    ) -> dict[str, IdArray]:
        """Count distances to centroids: "outer" and "inner"."""
        outer, inner = self.clustering.probe_cost(xq, nprobe_outer)
        return {"outer": outer, "inner": inner}

    def check(
        self, nprobe: int, nprobe_outer: int | None = None, **options: Any
    ) -> tuple[int, dict[str, Any]]:
        """Return nprobe and the options, checked; see ``Router.check``."""
        nprobe, given = super().check(nprobe, **options)
        if nprobe_outer is not None:
            self.clustering.check_probes(nprobe, nprobe_outer)
            given["nprobe_outer"] = nprobe_outer
        return nprobe, given

    def ranks_all(self, nprobe_outer: int | None = None) -> bool:
        """Tell whether all outer clusters are probed."""
        return nprobe_outer in (None, self.clustering.n_outer)
