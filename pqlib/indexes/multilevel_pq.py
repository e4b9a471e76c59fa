"""MultiLevelPQ: codes of residuals inside two-level clustering, found through a router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._file import IndexFile, Section
from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.clustering import TwoLevelClustering, from_centroids, kmeans
from pqlib.indexes import exchange, lists
from pqlib.indexes.blocks import SMALL_BYTES, rows_per_block
from pqlib.indexes.codes import ProductCodes, list_codes
from pqlib.indexes.inverted import InvertedFile, refusing
from pqlib.indexes.lists import checked_homes
from pqlib.indexes.metric import refuse_bytes
from pqlib.indexes.store import GATHER_BYTES, VectorStore
from pqlib.quantizers import Quantizer, untrained


class MultiLevelPQ(InvertedFile):
    """Product-quantized residuals in the inverted lists of a two-level clustering.

    A vector x is stored in the list of its nearest inner centroid c as the product code of its
    residual x - c. A query ranks centroids (through the outer level or not), and in each probed
    list estimates squared distances from its own residual to the decoded codes by table
    look-ups in float32 (ADC).

    Codebooks are shared by all residuals (IVFADC; Jegou, Douze, Schmid, "Product quantization for
    nearest neighbor search", TPAMI 2011, section 4), or each inner cluster has its own (locally
    optimized product quantization without its rotations; Kalantidis and Avrithis, CVPR 2014). A
    cluster with fewer than 2**nbits training residuals cannot train its own and uses the shared
    ones. With ``codec``, codes are those of another quantizer of ``pqlib.quantizers``; their lists
    are scanned by decoding, all queries of a list at once.

    The index is made of three parts: a router (``pqlib.indexes.routers``) finds the lists to
    probe, codes (``pqlib.indexes.codes``) fill and scan them, and a store
    (``pqlib.indexes.store``) re-ranks.

    Parameters
    ----------
    d, n_inner, n_outer, spherical, max_train, seed, router, metric : see ``InvertedFile``;
        ``max_train`` also bounds the residuals that the shared codebooks are trained on;
        per-cluster codebooks see up to 256 * 2**nbits residuals of their own cluster
    m : sub-quantizers, a divisor of d; None: the largest divisor that is at most 8
    nbits : bits of one sub-quantizer, 4..16; None: 8
    codebooks : "per-cluster" or "shared"; None: "per-cluster", with a codec "shared"
    rerank : None, "float32" or "uint8": a store of whole vectors from which the best candidates
        get exact distances. "uint8" is lossless and takes whole numbers 0..255 only
    copy : False makes a float32 store keep a reference to the first added float32 array, for data
        of several GB; the caller must then leave that array alone
    codec : an untrained quantizer, in place of m and nbits; it is not trained itself, but those of
        the lists are made like it
    code_of : "residuals" or, with a codec, "vectors"

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
        m: int | None = None,
        nbits: int | None = None,
        codebooks: str | None = None,
        rerank: str | None = None,
        copy: bool = True,
        codec: Quantizer | None = None,
        code_of: str = "residuals",
        **clusters: Any,
    ) -> None:
        super().__init__(d, n_inner, n_outer, **clusters)
        self.rerank = _checks.choice("rerank", rerank, (None, *VectorStore.kinds))
        if codebooks is None:
            codebooks = "per-cluster" if codec is None else "shared"
        refuse_bytes(self.metric, rerank)
        self._codes = list_codes(
            self.metric, self.d, m, nbits, codec, code_of, codebooks, self.max_train, self.seed
        )
        self.space = self._codes.space
        self.mappable = ("codes", "ids", "re-ranking store")
        if self._codes.by_faiss and self._codes.per_cluster:
            # A search copies into memory the codebooks of the lists it probes.
            self.mappable += ("codebooks",)
        self.codebooks, self.codec, self.code_of = codebooks, codec, code_of
        self.m, self.nbits = (getattr(self._codes.codec, name, 0) for name in ("m", "nbits"))
        self.copy = bool(copy)
        self._store = (
            None
            if rerank is None
            else VectorStore.kinds[rerank](self.width, self.copy or self.space.converts)
        )

    # Training and adding -------------------------------------------------------------------

    def train(
        self,
        xt: FloatMatrix,
        clustering: TwoLevelClustering | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Self:
        """Cluster ``xt`` (n, d) twice and train the codebooks on its residuals.

        A ``clustering`` made before (by ``two_level_kmeans``, with this index's sizes) is used
        as it is, so that indexes that differ only in their codes can share it. ``progress`` is
        called with the number of quantizers trained so far, after each: one where the codebooks
        are shared, up to n_inner + 1 otherwise.

        Raises
        ------
        ValueError
            When there are too few vectors for n_inner or for 2**nbits, vectors were already
            added, or xt is no finite (n, d) matrix.
        """
        xt, clustering = self._train_clustering(xt, clustering)
        homes = clustering.assign(xt)
        self._codes.train(xt, homes, clustering.inner, progress)
        self._use(clustering)
        return self

    def _use(self, clustering: TwoLevelClustering, *content: Any) -> None:
        super()._use(clustering, *content)
        self._codes.use(clustering, self.lists)

    @property
    def code_bytes(self) -> int:
        """Bytes of one stored code."""
        return self._codes.code_bytes

    def _entry_bytes(self) -> int:
        return self.code_bytes

    @property
    def n_shared_clusters(self) -> int:
        """Inner clusters that use the shared codebooks."""
        return self.n_inner - len(self._codes.own)

    def quantizer(self, cluster: int) -> Any:
        """Return the quantizer of an inner cluster, its own or the shared one.

        A ``ProductQuantizer``, with a codec one of its kind.

        Raises
        ------
        ValueError
            Before training, or when there is no such cluster.
        """
        cluster = _checks.integer("cluster", cluster, 0, self.n_inner - 1)
        self._need_training("quantizer")
        return self._codes.of(cluster)

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        kept = None if self._store is None else self._store.convert(xb)
        step = rows_per_block(4 * self.width)
        homes = np.concatenate(
            [self.clustering.assign(xb[i : i + step]) for i in range(0, len(xb), step)]
        )
        lists.append(self.lists, homes, positions, self._codes.encode(xb, homes))
        if self._store is not None and kept is not None:
            self._store.append(kept, xb)

    # Codes ---------------------------------------------------------------------------------

    def encode(self, x: FloatMatrix, assignment: IdArray) -> NDArray[np.uint8]:
        """Return the codes (n, code_bytes) uint8 of vectors in given clusters.

        Of ``x`` (n, d) float32 and ``assignment`` (n,) int64, such as
        ``clustering.assign(space.base(x))``.

        Raises
        ------
        ValueError
            Before training, or when shapes or cluster numbers do not fit.
        """
        self._need_training("encode or decode")
        x = _checks.vectors("x", x, self.d, finite=False)  # their quantizer looks at the values
        homes = checked_homes(assignment, len(x), self.n_inner)
        return self._codes.encode(self.space.base(x), homes)

    def decode(self, codes: NDArray[np.uint8], assignment: IdArray) -> FloatMatrix:
        """Return the vectors (n, d) float32 that codes in given clusters stand for.

        Arguments and errors are those of ``encode``, with codes (n, code_bytes) uint8.
        """
        self._need_training("encode or decode")
        homes = checked_homes(assignment, len(codes), self.n_inner)
        return self.space.outside(self._codes.decode(codes, homes))

    def reconstruct(self, ids: IdArray) -> FloatMatrix:
        """Return the vectors that the codes of ``ids`` (n,) stand for: (n, d) float32.

        They are decoded also where a re-ranking store keeps the vectors themselves. Time grows
        with ntotal, so ask for many at once.

        Raises
        ------
        ValueError
            When an id was never added.
        """
        positions = self._to_positions(ids)
        wanted = np.zeros(self.ntotal, bool)
        wanted[positions] = True
        members, parts = [np.empty(0, np.int64)], [np.empty((0, self.d), np.float32)]
        for c in range(self.n_inner):
            held, codes = self.list_content(c)
            chosen = np.flatnonzero(wanted[held])
            if len(chosen):
                members.append(held[chosen])
                parts.append(self.decode(codes[chosen], np.full(len(chosen), c)))
        found = np.concatenate(members)
        order = np.argsort(found)
        return np.concatenate(parts)[order[np.searchsorted(found, positions, sorter=order)]]

    # Searching -----------------------------------------------------------------------------

    def search(
        self,
        xq: FloatMatrix,
        k: int = 10,
        nprobe: int = 1,
        nprobe_outer: int | None = None,
        rerank_factor: int = 4,
        rerank: bool = True,
        progress: Callable[[int], object] | None = None,
        max_memory: int | None = None,
        **options: Any,
    ) -> Found:
        """Return the ``k`` vectors that seem nearest to each query.

        xq, k, max_memory, the result and the errors are those of ``Index.search``. Distances are
        estimated from the codes, or exact with a re-ranking store. ``max_memory`` does not count
        codebooks that a mapped index reads from its file: they become part of the index.

        Parameters
        ----------
        nprobe : inner clusters scanned, 1..n_inner
        nprobe_outer : outer clusters whose inner clusters are ranked, 1..n_outer; None: all
        rerank_factor : with a re-ranking store, the best rerank_factor * k candidates get
            exact distances; without one it has no effect
        rerank : False ignores the store and returns the estimates
        progress : called with the number of queries answered so far, after each block of them
        options : of a router other than the default one
        """
        xq, k = self._check_search(xq, k)
        nprobe, options = self.router.check(nprobe, nprobe_outer=nprobe_outer, **options)
        store = self._store if rerank else None
        candidates = self._candidates(k, rerank_factor, store is not None)
        at_once = self._codes.ranks and self.router.ranks_all(**options)

        def search(block: FloatMatrix) -> Found:
            if at_once:
                found = self._codes.scan_nearest(block, candidates, nprobe)
            else:
                coarse, keys = self.router.probe(block, nprobe, **options)
                found = self._codes.scan(block, coarse, keys, candidates)
            return found if store is None else store.rerank(block, found[1], k)

        def need(nq: int) -> int:
            total = SMALL_BYTES + self.router.working_bytes(nq, nprobe) + 36 * candidates * nq
            if store is not None:
                gathered = min(GATHER_BYTES, 5 * self.width * candidates * nq)
                total += 2 * gathered + 32 * candidates * nq
            longest = int(self.list_sizes.max())
            return total + self._codes.scan_bytes(nq, nprobe, candidates, longest)

        most = rows_per_block(12 * nprobe * (candidates + 1))
        return self._named(self._in_blocks(search, xq, k, max_memory, need, most, progress))

    def _candidates(self, k: int, rerank_factor: int, use_store: bool) -> int:
        factor = _checks.integer("rerank_factor", rerank_factor, 1)
        return min(self.ntotal, factor * k) if use_store else k

    def search_cost(
        self,
        xq: FloatMatrix,
        k: int = 10,
        nprobe: int = 1,
        nprobe_outer: int | None = None,
        rerank_factor: int = 4,
        rerank: bool = True,
        **options: Any,
    ) -> dict[str, IdArray]:
        """Count the distance computations of a search by stage, for each query.

        Returns
        -------
        dict of (nq,) int64 arrays
            "outer", "inner": distances to centroids, of another router what it counts. "tables":
            look-up tables, in d-dimensional distances: 2**nbits for each probed list that is not
            empty; with tables computed in advance (shared codebooks) 2**nbits once a query; with a
            codec, what its ``search_cost`` says, once a query where the vectors themselves are
            coded. "codes": codes scanned, m look-ups each. "rerank": exact distances. Same
            arguments as ``search``.
        """
        xq, k = self._check_search(xq, k)
        routing, sizes = self._routed(xq, nprobe, nprobe_outer=nprobe_outer, **options)
        codes = sizes.sum(axis=1)
        use_store = rerank and self._store is not None
        reranked = np.minimum(codes, self._candidates(k, rerank_factor, use_store)) * use_store
        tables = self._codes.table_cost(sizes)
        return {**routing, "tables": tables, "codes": codes, "rerank": reranked}

    # Files and exchange --------------------------------------------------------------------

    def to_faiss(self) -> faiss.IndexIVFPQ:
        """Return faiss's own index of the same centroids, codebooks, codes and ids, as a copy.

        It answers as this index does with flat probing and without re-ranking; the outer level
        and the re-ranking store stay behind.

        Raises
        ------
        ValueError
            When the index is not trained, or has codebooks per cluster, for which faiss has no
            index.
        """
        return exchange.to_ivfpq(self)

    @classmethod
    def from_faiss(cls, ivf: faiss.IndexIVFPQ, n_outer: int | None = None) -> Self:
        """Return an index with the centroids, codebooks, codes and ids of faiss's, copied.

        Parameters
        ----------
        ivf : trained, with squared L2 distances, residual codes and a flat coarse quantizer
        n_outer : outer clusters, made by k-means of its centroids; None: the square root of
            their number

        Raises
        ------
        ValueError
            When this index cannot express that one.
        """
        centroids, codebooks, held, ids = exchange.content(ivf)
        n = len(centroids)
        n_outer = max(1, round(n**0.5)) if n_outer is None else n_outer
        index = cls(ivf.d, n, n_outer, len(codebooks), ivf.pq.nbits, "shared")
        assert isinstance(index._codes, ProductCodes)
        index._codes.take(codebooks)
        outer = kmeans(centroids, index.n_outer).centroids
        index._use(from_centroids(centroids, outer), held)
        index._ids, index.ntotal = ids, ivf.ntotal
        return index

    def _parameters(self) -> dict[str, Any]:
        return {
            **super()._parameters(),
            **self._codes.parameters(),
            "codebooks": self.codebooks,
            "rerank": self.rerank,
        }

    @classmethod
    def _arguments(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        parameters = super()._arguments(parameters)
        if "codec" in parameters:
            return {**parameters, "codec": untrained(parameters["codec"])}
        return parameters

    def _sections(self) -> list[Section]:
        store = [] if self._store is None else self._store.sections()
        return [*super()._sections(), *self._codes.sections(), *store]

    def _restore(self, file: IndexFile) -> None:
        with refusing(file):
            self._codes.restore(file, self.n_inner)
        super()._restore(file)
        if self._store is not None:
            self._store.restore(file, self.ntotal)

    # Accounting ----------------------------------------------------------------------------

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        return {
            "codes": self.code_bytes * self.ntotal,
            "ids": 8 * self.ntotal + self._id_memory(),
            **self._codes.memory(),
            "re-ranking store": 0 if self._store is None else self._store.nbytes,
            **self.clustering.memory(),
            **self.router.memory(),
        }

    def describe(self) -> str:
        """Return a printable summary: parameters, codebooks, list sizes, memory."""
        arguments, size = self._codes.words()
        lines = [
            f"MultiLevelPQ(d={self.d}, n_inner={self.n_inner}, n_outer={self.n_outer}, "
            f"{arguments}, codebooks={self.codebooks!r}, "
            f"rerank={self.rerank!r}, seed={self.seed}"
            + (")" if self.metric == "l2" else f", metric={self.metric!r})"),
            f"code: {size} = {self.code_bytes} bytes",
        ]
        if not self.is_trained:
            return "\n".join([*lines, "not trained"])
        codebooks, own = "one shared by all clusters", self.n_inner - self.n_shared_clusters
        if self.codebooks == "per-cluster":
            codebooks = (
                f"{own} clusters have their own, {self.n_shared_clusters} with fewer than "
                f"{self._codes.codec.least_train} training residuals use the shared one"
            )
        sizes = self.list_sizes
        lines += [
            f"codebooks: {codebooks}",
            f"vectors: {self.ntotal:,} in lists of {sizes.min():,} to {sizes.max():,} "
            f"(median {int(np.median(sizes)):,})",
        ]
        return "\n".join([*lines, *self._memory_lines()])
