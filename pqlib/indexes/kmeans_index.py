"""k-means-only search: inverted lists of whole vectors."""

from __future__ import annotations

import faiss
import numpy as np

from pqlib._file import IndexFile
from pqlib.clustering import TwoLevelClustering
from pqlib.indexes.base import (
    SMALL_BYTES,
    FloatMatrix,
    IdArray,
    InvertedFile,
    queries_within,
    rows_per_block,
    search_lists,
)


class KMeansIndex(InvertedFile):
    """Exact distances inside the probed clusters (faiss: IndexIVFFlat), with two levels.

    The routing is approximate, the distances are not: what it misses lay in lists that were
    not probed.

    Parameters
    ----------
    d : dimension
    n_inner, n_outer : clusters of both levels
    spherical, max_train, seed : see ``pqlib.clustering.two_level_kmeans``

    Raises
    ------
    ValueError
        When an argument is out of range.
    """

    def __init__(
        self,
        d: int,
        n_inner: int = 100,
        n_outer: int = 10,
        spherical: bool = False,
        max_train: int | None = 50_000,
        seed: int = 0,
    ) -> None:
        super().__init__(d, n_inner, n_outer, spherical, max_train, seed)

    def train(self, xt: FloatMatrix, clustering: TwoLevelClustering | None = None) -> KMeansIndex:
        """Cluster ``xt`` (n, d) twice, or take a ``clustering`` already made; return the index.

        Raises
        ------
        ValueError
            When there are too few vectors, vectors were already added, or sizes do not fit.
        """
        _, self._clustering = self._train_clustering(xt, clustering)
        self._lists = faiss.ArrayInvertedLists(self.n_inner, self._entry_bytes())
        self._use_lists()
        self.is_trained = True
        return self

    def _entry_bytes(self) -> int:
        return 4 * self.d

    def _use_lists(self) -> None:
        self._ivf = faiss.IndexIVFFlat(self.clustering.flat, self.d, self.n_inner)
        self._ivf.replace_invlists(self._lists, False)

    def _restore(self, file: IndexFile) -> None:
        super()._restore(file)
        self._use_lists()

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        assignment = self.clustering.assign(xb)
        self._append(assignment, positions, xb.view(np.uint8))

    def search(
        self,
        xq: FloatMatrix,
        k: int = 10,
        nprobe: int = 1,
        nprobe_outer: int | None = None,
        max_memory: int | None = None,
    ) -> tuple[FloatMatrix, IdArray]:
        """Return the ``k`` nearest vectors of each query among the probed lists.

        Parameters
        ----------
        xq : (nq, d) float32
        k : neighbours, 1..ntotal
        nprobe : inner clusters scanned, 1..n_inner
        nprobe_outer : outer clusters whose inner clusters are ranked; None: all
        max_memory : bytes that the search may take besides the index, the queries and the result;
            the queries are then searched in blocks. None: no limit. Ties and last digits may come
            out differently, as faiss computes distances of few queries another way

        Returns
        -------
        distances : (nq, k) float32, squared L2, ascending, inf where fewer are found
        ids : (nq, k) int64, -1 where fewer are found

        Raises
        ------
        ValueError
            When nothing was added, an argument is out of range, or max_memory is too little for
            one query.
        """
        xq, k = self._check_search(xq, k)
        nprobe, nprobe_outer = self.clustering.check_probes(nprobe, nprobe_outer)

        def need(nq: int) -> int:
            return SMALL_BYTES + self._routing_bytes(nq, nprobe) + 48 * k * nq

        distances = np.empty((len(xq), k), np.float32)
        positions = np.empty((len(xq), k), np.int64)
        step = queries_within(len(xq), max_memory, need, rows_per_block(12 * nprobe))
        for start in range(0, len(xq), step):
            block = slice(start, start + step)
            coarse, keys = self.clustering.probe(xq[block], nprobe, nprobe_outer)
            distances[block], positions[block] = search_lists(
                self._ivf, xq[block], k, coarse, keys, faiss.SearchParametersIVF()
            )
        return distances, self._to_ids(positions)

    @property
    def mappable(self) -> tuple[str, ...]:
        """The parts that may stay in the file: whole vectors and ids."""
        return ("vectors", "ids")

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        return {
            "vectors": 4 * self.d * self.ntotal,
            "ids": 8 * self.ntotal + self._id_memory(),
            **self.clustering.memory(),
        }
