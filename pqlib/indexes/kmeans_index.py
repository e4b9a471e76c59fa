"""k-means-only search: inverted lists of whole vectors."""

from __future__ import annotations

from typing import Any, Self

import faiss
import numpy as np

from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.clustering import TwoLevelClustering
from pqlib.indexes import lists
from pqlib.indexes.blocks import SMALL_BYTES, rows_per_block
from pqlib.indexes.inverted import InvertedFile


class KMeansIndex(InvertedFile):
    """Exact distances inside the probed clusters (faiss: IndexIVFFlat), with two levels.

    The routing is approximate, the distances are not: a neighbour that is missed lies in a list
    that was not probed. Parameters and errors are those of ``InvertedFile``.
    """

    mappable = ("vectors", "ids")

    def train(self, xt: FloatMatrix, clustering: TwoLevelClustering | None = None) -> Self:
        """Cluster ``xt`` (n, d) twice, or take a ``clustering`` already made; return the index.

        Raises
        ------
        ValueError
            When there are too few vectors, vectors were already added, or sizes do not fit.
        """
        _, clustering = self._train_clustering(xt, clustering)
        self._use(clustering)
        return self

    def _entry_bytes(self) -> int:
        return 4 * self.width

    def _use(self, clustering: TwoLevelClustering, *content: Any) -> None:
        super()._use(clustering, *content)
        self._ivf = faiss.IndexIVFFlat(clustering.flat, self.width, self.n_inner)
        self._ivf.replace_invlists(self.lists, False)

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        lists.append(self.lists, self.clustering.assign(xb), positions, xb.view(np.uint8))

    def search(
        self,
        xq: FloatMatrix,
        k: int = 10,
        nprobe: int = 1,
        nprobe_outer: int | None = None,
        max_memory: int | None = None,
        **options: Any,
    ) -> Found:
        """Return the ``k`` nearest vectors of each query among the probed lists.

        xq, k, max_memory, the result and the errors are those of ``Index.search``.

        Parameters
        ----------
        nprobe : inner clusters scanned, 1..n_inner
        nprobe_outer : outer clusters whose inner clusters are ranked, 1..n_outer; None: all
        options : of a router other than the default one
        """
        xq, k = self._check_search(xq, k)
        nprobe, options = self.router.check(nprobe, nprobe_outer=nprobe_outer, **options)

        def need(nq: int) -> int:
            return SMALL_BYTES + self.router.working_bytes(nq, nprobe) + 48 * k * nq

        def search(block: FloatMatrix) -> Found:
            found = self.router.probe(block, nprobe, **options)
            params = faiss.SearchParametersIVF()
            return lists.search_lists(self._ivf, block, k, *found, params)

        most = rows_per_block(12 * nprobe)
        return self._named(self._in_blocks(search, xq, k, max_memory, need, most))

    def search_cost(
        self,
        xq: FloatMatrix,
        k: int = 10,
        nprobe: int = 1,
        nprobe_outer: int | None = None,
        **options: Any,
    ) -> dict[str, IdArray]:
        """Count the distances of a search by stage, without its timing noise.

        Returns
        -------
        dict of (nq,) int64 arrays
            "outer" and "inner": distances to centroids, of another router what it counts;
            "vectors": exact distances to base vectors. Same arguments as ``search``.
        """
        xq, _ = self._check_search(xq, k)
        routing, sizes = self._routed(xq, nprobe, nprobe_outer=nprobe_outer, **options)
        return {**routing, "vectors": sizes.sum(axis=1)}

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        return {
            "vectors": 4 * self.width * self.ntotal,
            "ids": 8 * self.ntotal + self._id_memory(),
            **self.clustering.memory(),
            **self.router.memory(),
        }
