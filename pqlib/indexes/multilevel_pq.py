"""MultiLevelPQ: product codes of residuals inside two-level clustering."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._file import DamagedError, IndexFile, Section, array_section
from pqlib._threads import one_thread_each
from pqlib.clustering import TwoLevelClustering, sample_rows
from pqlib.indexes import exchange
from pqlib.indexes.base import (
    SMALL_BYTES,
    FloatMatrix,
    IdArray,
    InvertedFile,
    queries_within,
    rows_per_block,
    search_flat,
    search_lists,
)
from pqlib.indexes.coded_lists import ListCodes
from pqlib.indexes.local_scan import scan_bytes, scan_lists
from pqlib.indexes.store import GATHER_BYTES, RERANK_STORES, VectorStore
from pqlib.quantizers import POINTS_PER_CENTROID, ProductQuantizer, Quantizer, untrained

CODEBOOK_MODES = ("shared", "per-cluster")
PART_BYTES = 4 << 20


def _residual_parts(
    x: FloatMatrix, centroids: FloatMatrix, rows: IdArray, homes: IdArray, m: int
) -> Iterator[FloatMatrix]:
    """Yield the residuals of ``rows`` one sub-space after the other, (n, d/m) each.

    All at once they would be as large as the vectors.
    """
    width = x.shape[1] // m
    step = rows_per_block(4 * width, PART_BYTES)
    for start in range(0, x.shape[1], width):
        columns = slice(start, start + width)
        part = np.ascontiguousarray(x[rows, columns])
        for i in range(0, len(part), step):
            part[i : i + step] -= centroids[homes[i : i + step], columns]
        yield part


class MultiLevelPQ(InvertedFile):
    """Product-quantized residuals in the inverted lists of a two-level clustering.

    A vector x is stored in the list of its nearest inner centroid c as the product code of its
    residual x - c. A query ranks centroids (through the outer level or not), and in each probed
    list estimates squared distances from its own residual to the decoded codes by table
    look-ups in float32 (ADC).

    ``codebooks="shared"``: one product quantizer for all residuals (IVFADC; Jegou, Douze,
    Schmid, "Product quantization for nearest neighbor search", TPAMI 2011, section 4).
    ``codebooks="per-cluster"``: one for each inner cluster (locally optimized product
    quantization without its rotations; Kalantidis and Avrithis, CVPR 2014). A cluster with
    fewer than 2**nbits training residuals cannot train its own and uses the shared one;
    ``n_shared_clusters`` counts them and ``describe()`` says so.

    With ``codec``, codes are those of another quantizer of ``pqlib.quantizers``, of residuals or of
    the vectors themselves. Their lists are scanned by decoding, all queries of a list at once.

    Parameters
    ----------
    d : dimension
    n_inner, n_outer : clusters of both levels
    m : sub-quantizers, a divisor of d; None: the largest divisor that is at most 8
    nbits : bits of one sub-quantizer, 4..16; None: 8
    codebooks : "per-cluster" or "shared"; None: "per-cluster", with a codec "shared"
    rerank : None, "float32" or "uint8": a store of whole vectors from which the best candidates
        get exact distances. "uint8" is lossless and takes whole numbers 0..255 only
    spherical, max_train, seed : see ``pqlib.clustering.two_level_kmeans``. ``max_train`` also
        bounds the residuals that the shared codebooks are trained on; per-cluster codebooks
        see up to 256 * 2**nbits residuals of their own cluster

    copy : False makes a float32 store keep a reference to the first added float32 array instead
        of a copy of it, which matters for data of several GB; the caller must then leave that
        array alone
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
        spherical: bool = False,
        max_train: int | None = 50_000,
        seed: int = 0,
        copy: bool = True,
        codec: Quantizer | None = None,
        code_of: str = "residuals",
    ) -> None:
        super().__init__(d, n_inner, n_outer, spherical, max_train, seed)
        if codec is not None and (m is not None or nbits is not None):
            raise ValueError(
                f"codec={codec!r} with m={m!r}, nbits={nbits!r}: expected one or the other. "
                "Give them to the codec."
            )
        if codec is None and code_of != "residuals":
            raise ValueError(
                f"code_of={code_of!r}: expected 'residuals' without a codec. Pass "
                "codec=ProductQuantizer(d, m, nbits) to code the vectors themselves."
            )
        if codebooks is None:
            codebooks = "per-cluster" if codec is None else "shared"
        if codebooks not in CODEBOOK_MODES:
            raise ValueError(f"codebooks={codebooks!r}: expected one of {CODEBOOK_MODES}.")
        if rerank not in RERANK_STORES:
            raise ValueError(f"rerank={rerank!r}: expected one of {RERANK_STORES}.")
        self.codebooks = codebooks
        self.codec, self.code_of = codec, code_of
        self._coded = None if codec is None else ListCodes(codec, codebooks, code_of, self.d)
        if codec is None:
            self.m, self.nbits = _checks.product_quantizer_shape(
                self.d, m, 8 if nbits is None else nbits
            )
        else:
            self.m, self.nbits = getattr(codec, "m", 0), getattr(codec, "nbits", 0)
        self.rerank = rerank
        self.copy = bool(copy)
        self._store = None if rerank is None else VectorStore(rerank, self.d, self.copy)
        self._shared: ProductQuantizer | None = None
        # Of clusters with codebooks of their own. From a mapped file they are made when first
        # used, of the rows of _codebooks that _rows names.
        self._local: dict[int, ProductQuantizer] = {}
        self._codebooks: NDArray[np.float32] | None = None
        self._rows: dict[int, int] = {}
        # faiss's indexes over our lists, made when first searched, see _scanner; -1: of all
        # clusters that use the shared codebooks.
        self._scanners: dict[int | None, faiss.IndexIVFPQ] = {}
        self._making = threading.RLock()

    # Training ------------------------------------------------------------------------------

    def train(
        self,
        xt: FloatMatrix,
        clustering: TwoLevelClustering | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> MultiLevelPQ:
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
        ksub = 1 << self.nbits
        usable = len(xt) if self.max_train is None else min(len(xt), self.max_train)
        assignment = clustering.assign(xt)
        if self._coded is not None:
            self._coded.train(xt, assignment, clustering.inner, self.max_train, self.seed, progress)
            self._clustering = clustering
            self._lists = faiss.ArrayInvertedLists(self.n_inner, self.code_bytes)
            self.is_trained = True
            return self
        sizes = np.bincount(assignment, minlength=self.n_inner)
        own = (sizes >= ksub) & (self.codebooks == "per-cluster")
        local = np.flatnonzero(own).tolist()
        needs_shared = len(local) < self.n_inner
        if needs_shared and usable < ksub:
            raise ValueError(
                f"xt gives {usable} training residuals (max_train={self.max_train}): "
                f"nbits={self.nbits} needs at least 2**nbits = {ksub}, one for each centroid of "
                "a codebook. Train on more vectors, raise max_train or lower nbits."
            )
        self._clustering = clustering
        self._shared = None
        if needs_shared:
            rows = sample_rows(len(xt), min(usable, POINTS_PER_CENTROID * ksub), self.seed)
            self._shared = self._new_quantizer().train_parts(
                _residual_parts(xt, clustering.inner, rows, assignment[rows], self.m)
            )
            if progress is not None:
                progress(1)
        order = np.argsort(assignment, kind="stable")
        bounds = np.concatenate([[0], np.cumsum(sizes)])

        def train_local(c: int) -> ProductQuantizer:
            rows = order[bounds[c] : bounds[c + 1]]
            rows = rows[sample_rows(len(rows), POINTS_PER_CENTROID * ksub, self.seed)]
            return self._new_quantizer().train(xt[rows] - clustering.inner[c])

        with one_thread_each() as pool:
            self._local = {}
            for c, quantizer in zip(local, pool.map(train_local, local), strict=True):
                self._local[c] = quantizer
                if progress is not None:
                    progress(len(self._local) + needs_shared)
        self._rows = {c: row for row, c in enumerate(local)}
        self._lists = faiss.ArrayInvertedLists(self.n_inner, self.code_bytes)
        self._scanners = {}
        self.is_trained = True
        return self

    def _new_quantizer(self) -> ProductQuantizer:
        return ProductQuantizer(self.d, self.m, self.nbits, self.seed)

    def _scanner(self, cluster: int | None) -> faiss.IndexIVFPQ:
        """Return faiss's index over our lists with a cluster's codebooks; None: the shared ones.

        With None, it has precomputed tables, which hold for shared codebooks only.
        """
        name = None if cluster is None else cluster if cluster in self._rows else -1
        found = self._scanners.get(name)
        if found is not None:
            return found
        with self._making:
            if name in self._scanners:
                return self._scanners[name]
            quantizer = self._shared if cluster is None else self.quantizer(cluster)
            assert quantizer is not None
            ivf = faiss.IndexIVFPQ(
                self.clustering.flat,
                self.d,
                self.n_inner,
                self.m,
                self.nbits,
                faiss.METRIC_L2,
                False,  # no lists of its own
            )
            ivf.pq = quantizer.faiss
            # One copy of the codebooks: from here on ours is a view of what faiss searches.
            quantizer.adopt(ivf.pq, ivf)
            ivf.is_trained = True
            ivf.parallel_mode = 3
            ivf.replace_invlists(self.lists, False)
            # 0 is "not yet" to precompute_table(), which decides by their size, and "no" to the
            # search. -1 would be "never", yet make the search compute what only they need.
            ivf.use_precomputed_table = 0
            if name is None:
                ivf.precompute_table()
            self._scanners[name] = ivf
            return ivf

    @property
    def code_bytes(self) -> int:
        """Bytes of one stored code."""
        return (self.m * self.nbits + 7) // 8 if self.codec is None else self.codec.code_bytes

    @property
    def n_shared_clusters(self) -> int:
        """Inner clusters that use the shared codebooks."""
        own = len(self._rows) if self._coded is None else self._coded.n_own
        return self.n_inner - own

    def quantizer(self, cluster: int) -> Any:
        """Return the quantizer of an inner cluster, its own or the shared one.

        A ``ProductQuantizer``, with a codec one of its kind.

        Raises
        ------
        ValueError
            Before training, or when there is no such cluster.
        """
        cluster = _checks.integer("cluster", cluster, 0, self.n_inner - 1)
        if self._coded is not None and self.is_trained:
            return self._coded.of(cluster)
        row = self._rows.get(cluster)
        found = self._shared if row is None else self._local.get(cluster)
        if found is None and row is not None:
            assert self._codebooks is not None
            with self._making:
                found = self._local.get(cluster)
                if found is None:
                    found = self._new_quantizer().set_codebooks(self._codebooks[row])
                    self._local[cluster] = found
        if found is None:
            raise ValueError("quantizer before train: call train(xt) first.")
        return found

    # Adding --------------------------------------------------------------------------------

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        kept = None if self._store is None else self._store.convert(xb)
        step = rows_per_block(4 * self.d)
        assignment = np.concatenate(
            [self.clustering.assign(xb[i : i + step]) for i in range(0, len(xb), step)]
        )
        self._append(assignment, positions, self.encode(xb, assignment))
        if self._store is not None and kept is not None:
            self._store.append(kept)

    def encode(self, x: FloatMatrix, assignment: IdArray) -> NDArray[np.uint8]:
        """Return the codes of vectors in given clusters, each by its cluster's quantizer.

        Parameters
        ----------
        x : (n, d) float32
        assignment : (n,) int64, inner clusters, such as ``clustering.assign(x)`` returns

        Returns
        -------
        (n, code_bytes) uint8

        Raises
        ------
        ValueError
            Before training, or when shapes or cluster numbers do not fit.
        """
        x = _checks.vectors("x", x, self.d, finite=False)  # their quantizer looks at the values
        assignment = self._check_assignment(assignment, len(x))
        inner = self.clustering.inner
        if self._coded is not None:
            return self._coded.encode(x, assignment, inner)
        codes = np.empty((len(x), self.code_bytes), np.uint8)
        own = np.array(sorted(self._rows), np.int64)
        # All of the clusters that share codebooks at once, in blocks; each of the others alone.
        rest = np.flatnonzero(~np.isin(assignment, own))
        step = rows_per_block(4 * self.d, PART_BYTES)
        for start in range(0, len(rest), step):
            rows = rest[start : start + step]
            assert self._shared is not None
            codes[rows] = self._shared.encode(x[rows] - inner[assignment[rows]])
        order = np.argsort(assignment, kind="stable")
        bounds = np.searchsorted(assignment[order], np.arange(self.n_inner + 1))

        def encode_list(c: int) -> None:
            rows = order[bounds[c] : bounds[c + 1]]
            codes[rows] = self.quantizer(c).encode(x[rows] - inner[c])

        with one_thread_each() as pool:
            list(pool.map(encode_list, own[np.diff(bounds)[own] > 0].tolist()))
        return codes

    def _check_assignment(self, assignment: Any, n: int) -> IdArray:
        if not self.is_trained:
            raise ValueError("encode or decode before train: call train(xt) first.")
        array = np.asarray(assignment)
        if array.shape != (n,) or array.dtype.kind not in "iu":
            raise ValueError(
                f"assignment has shape {array.shape} and dtype {array.dtype}: expected ({n},) "
                "whole numbers, the inner cluster of each vector, such as clustering.assign(x)."
            )
        if n and not 0 <= array.min() <= array.max() < self.n_inner:
            wrong = array.min() if array.min() < 0 else array.max()
            raise ValueError(
                f"assignment holds {wrong}: expected inner clusters, 0..{self.n_inner - 1}."
            )
        return array.astype(np.int64, copy=False)

    def decode(self, codes: NDArray[np.uint8], assignment: IdArray) -> FloatMatrix:
        """Return the vectors that codes in given clusters stand for.

        Parameters
        ----------
        codes : (n, code_bytes) uint8
        assignment : (n,) int64, inner clusters

        Returns
        -------
        (n, d) float32

        Raises
        ------
        ValueError
            Before training, or when shapes or cluster numbers do not fit.
        """
        assignment = self._check_assignment(assignment, len(codes))
        if self._coded is not None:
            return self._coded.decode(codes, assignment, self.clustering.inner)
        decoded = np.empty((len(codes), self.d), np.float32)
        for c in np.unique(assignment):
            rows = np.flatnonzero(assignment == c)
            decoded[rows] = self.quantizer(int(c)).decode(codes[rows]) + self.clustering.inner[c]
        return decoded

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
        rank = np.full(self.ntotal, -1, np.int64)
        rank[positions] = 0
        parts = [np.empty((0, self.d), np.float32)]
        count = 0
        for c in range(self.n_inner):
            members, codes = self.list_content(c)
            chosen = np.flatnonzero(rank[members] >= 0)
            if len(chosen):
                rank[members[chosen]] = count + np.arange(len(chosen))
                parts.append(self.decode(codes[chosen], np.full(len(chosen), c)))
                count += len(chosen)
        return np.concatenate(parts)[rank[positions]]

    def list_content(self, cluster: int) -> tuple[IdArray, NDArray[np.uint8]]:
        """Return ``(positions, codes)`` of an inverted list: (n,) int64 and (n, code_bytes).

        Views of the index's memory: they hold until the next ``add``.
        """
        cluster = _checks.integer("cluster", cluster, 0, self.n_inner - 1)
        n = self.lists.list_size(cluster)
        if n == 0:
            return np.empty(0, np.int64), np.empty((0, self.code_bytes), np.uint8)
        ids = faiss.rev_swig_ptr(self.lists.get_ids(cluster), n)
        codes = faiss.rev_swig_ptr(self.lists.get_codes(cluster), n * self.code_bytes)
        return ids, codes.reshape(n, self.code_bytes)

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
    ) -> tuple[FloatMatrix, IdArray]:
        """Return the ``k`` vectors that seem nearest to each query.

        Parameters
        ----------
        xq : (nq, d) float32
        k : neighbours, 1..ntotal
        nprobe : inner clusters scanned, 1..n_inner
        nprobe_outer : outer clusters whose inner clusters are ranked; None: all
        rerank_factor : with a re-ranking store, the best rerank_factor * k candidates get
            exact distances; without one it has no effect
        rerank : False ignores the store and returns the estimates
        progress : called with the number of queries answered so far, after each block of them
        max_memory : bytes that the search may take besides the index, the queries and the result;
            the queries are then searched in blocks. None: no limit. Ties and last digits may come
            out differently, as faiss computes distances of few queries another way. Codebooks that
            a mapped index reads from its file stay, as part of the index

        Returns
        -------
        distances : (nq, k) float32, squared L2, ascending: estimated from the codes, or exact
            with a re-ranking store; inf where fewer are found
        ids : (nq, k) int64, -1 where fewer are found

        Raises
        ------
        ValueError
            When nothing was added, an argument is out of range, or max_memory is too little for
            one query.
        """
        xq, k = self._check_search(xq, k)
        store = self._store if rerank else None
        candidates = self._candidates(k, rerank_factor, store is not None)
        nprobe, nprobe_outer = self.clustering.check_probes(nprobe, nprobe_outer)
        distances = np.empty((len(xq), k), np.float32)
        positions = np.empty((len(xq), k), np.int64)
        step = queries_within(
            len(xq),
            max_memory,
            lambda nq: self._search_bytes(nq, nprobe, candidates, store is not None),
            rows_per_block(12 * nprobe * (candidates + 1)),
        )
        for start in range(0, len(xq), step):
            block = slice(start, start + step)
            flat = nprobe_outer == self.n_outer and self._coded is None
            if flat and self.codebooks == "shared":
                # Flat probing is faiss's own: each thread ranks and scans for its queries.
                found = search_flat(self._scanner(None), xq[block], candidates, nprobe)
            else:
                coarse, keys = self.clustering.probe(xq[block], nprobe, nprobe_outer)
                found = self._scan(xq[block], coarse, keys, candidates)
            if store is not None:
                found = store.rerank(xq[block], found[1], k)
            distances[block], positions[block] = found
            if progress is not None:
                progress(min(start + step, len(xq)))
        return distances, self._to_ids(positions)

    def _search_bytes(self, nq: int, nprobe: int, candidates: int, rerank: bool) -> int:
        """Return the bytes that a search of ``nq`` queries takes, at most."""
        total = SMALL_BYTES + self._routing_bytes(nq, nprobe)
        total += 36 * candidates * nq
        if rerank:
            total += 2 * min(GATHER_BYTES, 5 * self.d * candidates * nq) + 32 * candidates * nq
        if self.codebooks == "shared" and self._coded is None:
            # A thread keeps the tables of one query, and what is precomputed adds to them.
            return total + faiss.omp_get_max_threads() * ((12 * self.m) << self.nbits)
        total += 36 * nprobe * candidates * nq
        return total + scan_bytes(
            nq, nprobe, self.d, self.code_bytes, int(self.list_sizes.max()), self.quantizer(0),
            self._coded is None,
        )  # fmt: skip

    def _candidates(self, k: int, rerank_factor: int, use_store: bool) -> int:
        factor = _checks.integer("rerank_factor", rerank_factor, 1)
        return min(self.ntotal, factor * k) if use_store else k

    def _scan(
        self, xq: FloatMatrix, coarse: FloatMatrix, keys: IdArray, k: int
    ) -> tuple[FloatMatrix, IdArray]:
        """Return the ``k`` best codes of the probed lists by ADC, as positions."""
        centroids = self.clustering.inner
        if self._coded is not None:
            return self._coded.scan(xq, coarse, keys, k, centroids, self.list_content)
        if self.codebooks == "shared":
            params = faiss.IVFPQSearchParameters()
            return search_lists(self._scanner(None), xq, k, coarse, keys, params)
        return scan_lists(
            xq, coarse, keys, k, centroids, self.list_content, self.quantizer, self._scanner
        )

    def search_cost(
        self,
        xq: FloatMatrix,
        k: int = 10,
        nprobe: int = 1,
        nprobe_outer: int | None = None,
        rerank_factor: int = 4,
        rerank: bool = True,
    ) -> dict[str, IdArray]:
        """Count the distance computations of a search by stage, for each query.

        Returns
        -------
        dict of (nq,) int64 arrays
            "outer", "inner": distances to centroids. "tables": look-up tables, in d-dimensional
            distances: 2**nbits for each probed list that is not empty; with tables computed in
            advance (shared codebooks) 2**nbits once a query; with a codec, what its
            ``search_cost`` says, once a query where the vectors themselves are coded. "codes":
            codes scanned, m look-ups each. "rerank": exact distances. Same arguments as ``search``.
        """
        xq, k = self._check_search(xq, k)
        outer, inner = self.clustering.probe_cost(xq, nprobe_outer)
        _, keys = self.clustering.probe(xq, nprobe, nprobe_outer)
        sizes = np.where(keys >= 0, self.list_sizes[keys], 0)
        codes = sizes.sum(axis=1)
        tables = (sizes > 0).sum(axis=1)
        each = 1 << self.nbits
        if self._coded is not None:
            each = -(-self._coded.of(0).search_cost()["multiplications"] // self.d)
            if self.code_of == "vectors":
                tables = np.minimum(tables, 1)
        elif self.codebooks == "shared" and self._scanner(None).precomputed_table.size():
            tables = np.minimum(tables, 1)
        use_store = rerank and self.rerank is not None
        reranked = np.minimum(codes, self._candidates(k, rerank_factor, use_store)) * use_store
        return {
            "outer": outer,
            "inner": inner,
            "tables": tables * each,
            "codes": codes,
            "rerank": reranked,
        }

    # Exchange ------------------------------------------------------------------------------

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
        if self._coded is not None:
            raise ValueError(
                f"codec={self.codec!r}: expected none, IndexIVFPQ has product codes of residuals. "
                "Build the index with m, nbits and codebooks='shared' to export it."
            )
        if self.codebooks != "shared":
            raise ValueError(
                f"codebooks={self.codebooks!r}: faiss's IndexIVFPQ has one set of codebooks for "
                "all lists. Build the index with codebooks='shared' to export it."
            )
        contents = ((c, *self.list_content(c)) for c in range(self.n_inner))
        return exchange.ivfpq(
            self.clustering.inner,
            self.quantizer(0).codebooks,
            ((c, self._to_ids(positions), codes) for c, positions, codes in contents),
        )

    @classmethod
    def from_faiss(cls, ivf: faiss.IndexIVFPQ, n_outer: int | None = None) -> MultiLevelPQ:
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
        centroids, codebooks, lists, ids = exchange.content(ivf)
        index = cls(
            ivf.d,
            len(centroids),
            max(1, round(len(centroids) ** 0.5)) if n_outer is None else n_outer,
            m=len(codebooks),
            nbits=ivf.pq.nbits,
            codebooks="shared",
        )
        index._clustering = exchange.clustering(centroids, index.n_outer)
        index._shared = index._new_quantizer().set_codebooks(codebooks)
        index._lists = lists
        index._ids = ids
        index.ntotal, index.is_trained = ivf.ntotal, True
        return index

    def _parameters(self) -> dict[str, Any]:
        if self.codec is not None:
            return {
                **super()._parameters(),
                "codec": self.codec.parameters(),
                "code_of": self.code_of,
                "codebooks": self.codebooks,
                "rerank": self.rerank,
            }
        return {
            **super()._parameters(),
            "m": self.m,
            "nbits": self.nbits,
            "codebooks": self.codebooks,
            "rerank": self.rerank,
        }

    @classmethod
    def _arguments(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        if "codec" not in parameters:
            return parameters
        return {**parameters, "codec": untrained(parameters["codec"])}

    def _sections(self) -> list[Section]:
        sections = super()._sections()
        if self._coded is not None:
            sections += [array_section(*named) for named in self._coded.state()]
        if self._shared is not None:
            sections.append(array_section("shared_codebooks", self._shared.codebooks))
        own = sorted(self._rows)
        if own:
            shape = (len(own), self.m, 1 << self.nbits, self.d // self.m)
            chunks = (self.quantizer(c).codebooks.reshape(-1).view(np.uint8) for c in own)
            sections.append(array_section("own_codebooks_of", np.array(own, np.int64)))
            sections.append(Section("own_codebooks", "<f4", shape, chunks))
        if self._store is not None:
            sections.append(array_section("store", self._store.vectors))
        return sections

    def _restore(self, file: IndexFile) -> None:
        super()._restore(file)
        if self._coded is not None:
            try:
                self._coded.restore(file.names, file.read, self.n_inner)
            except DamagedError:
                raise
            except (ValueError, KeyError, TypeError, IndexError) as problem:
                raise file.refuse(problem) from None
            return self._restore_store(file)
        shape = (self.m, 1 << self.nbits, self.d // self.m)
        own = np.empty(0, np.int64)
        if "own_codebooks" in file:
            own = file.read("own_codebooks_of", "<i8", (None,))
            if not (np.diff(own) > 0).all() or not ((own >= 0) & (own < self.n_inner)).all():
                raise file.refuse("its own codebooks are not of clusters that there are")
        if len(own) < self.n_inner:
            shared = file.read("shared_codebooks", "<f4", shape)
            self._shared = self._new_quantizer().set_codebooks(shared)
        if len(own):
            self._rows = {int(c): r for r, c in enumerate(own)}
            self._codebooks = file.map("own_codebooks", "<f4", (len(own), *shape))
            if not file.mmap:
                for c in self._rows:
                    self.quantizer(c)
                self._codebooks = None  # else held twice
        self._restore_store(file)

    def _restore_store(self, file: IndexFile) -> None:
        if self._store is not None:
            kind = np.dtype(self._store.kind).str
            self._store.use(file.map("store", kind, (self.ntotal, self.d)))

    def _entry_bytes(self) -> int:
        return self.code_bytes

    # Accounting ----------------------------------------------------------------------------

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        quantizers = len(self._rows) + (self._shared is not None)
        parameters = quantizers * 4 * self.d << self.nbits
        if self._coded is not None:
            parameters = self._coded.parameters_bytes
        shared = self.is_trained and self.codebooks == "shared" and self._coded is None
        tables = 4 * self._scanner(None).precomputed_table.size() if shared else 0
        return {
            "codes": self.code_bytes * self.ntotal,
            "ids": 8 * self.ntotal + self._id_memory(),
            "codebooks": parameters,
            "precomputed tables": tables,
            "re-ranking store": 0 if self._store is None else self._store.nbytes,
            **self.clustering.memory(),
        }

    @property
    def mappable(self) -> tuple[str, ...]:
        """The parts that may stay in the file: codes, ids, the store, codebooks of single clusters.

        Of codebooks per cluster, a search copies into memory those of the lists it probes.
        """
        parts = ("codes", "ids", "re-ranking store")
        mapped = self.codebooks == "per-cluster" and self._coded is None
        return (*parts, "codebooks") if mapped else parts

    def describe(self) -> str:
        """Return a printable summary: parameters, codebooks, list sizes, memory."""
        shape, size = f"m={self.m}, nbits={self.nbits}", f"{self.m} x {self.nbits} bits"
        if self.codec is not None:
            shape = f"codec={self.codec!r}, code_of={self.code_of!r}"
            size = f"{self.codec.bits} bits"
        lines = [
            f"MultiLevelPQ(d={self.d}, n_inner={self.n_inner}, n_outer={self.n_outer}, "
            f"{shape}, codebooks={self.codebooks!r}, "
            f"rerank={self.rerank!r}, seed={self.seed})",
            f"code: {size} = {self.code_bytes} bytes",
        ]
        if not self.is_trained:
            return "\n".join([*lines, "not trained"])
        if self.codebooks == "per-cluster":
            least = 1 << self.nbits if self.codec is None else self.codec.least_train
            lines.append(
                f"codebooks: {self.n_inner - self.n_shared_clusters} clusters have their own, "
                f"{self.n_shared_clusters} with fewer than {least} training residuals "
                "use the shared one"
            )
        else:
            lines.append("codebooks: one shared by all clusters")
        sizes = self.list_sizes
        lines.append(
            f"vectors: {self.ntotal:,} in lists of {sizes.min():,} to {sizes.max():,} "
            f"(median {int(np.median(sizes)):,})"
        )
        return "\n".join([*lines, *self._memory_lines()])
