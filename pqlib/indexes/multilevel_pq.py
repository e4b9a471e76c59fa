"""MultiLevelPQ: product codes of residuals inside two-level clustering."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib.clustering import TwoLevelClustering, sample_rows
from pqlib.indexes.base import (
    FloatMatrix,
    IdArray,
    InvertedFile,
    rows_per_block,
    search_flat,
    search_lists,
)
from pqlib.quantizers import POINTS_PER_CENTROID, ProductQuantizer

CODEBOOK_MODES = ("shared", "per-cluster")
RERANK_STORES = (None, "float32", "uint8")
GATHER_BYTES = 4 << 20  # small enough that the allocator hands the same memory out again


SCAN_ROWS = 256  # queries whose residuals and tables are made at once: they stay in cache
FEW = 4  # below so many queries for a list, a matrix product costs more than it saves


def one_list_a_thread() -> ThreadPoolExecutor:
    """Return a pool of as many threads as faiss may use, in each of which faiss uses one.

    A list is little work: hundreds of them lose more time to starting and joining threads
    within each than they gain by it.
    """
    return ThreadPoolExecutor(
        faiss.omp_get_max_threads(), initializer=faiss.omp_set_num_threads, initargs=(1,)
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let faiss use one thread in calls from this thread of Python, and only there."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


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

    Parameters
    ----------
    d : dimension
    n_inner, n_outer : clusters of both levels
    m : sub-quantizers, a divisor of d; None: the largest divisor that is at most 8
    nbits : bits of one sub-quantizer, 4..16
    codebooks : "per-cluster" or "shared"
    rerank : None, "float32" or "uint8": a store of whole vectors from which the best candidates
        get exact distances. "uint8" is lossless and takes whole numbers 0..255 only
    spherical, max_train, seed : see ``pqlib.clustering.two_level_kmeans``. ``max_train`` also
        bounds the residuals that the shared codebooks are trained on; per-cluster codebooks
        see up to 256 * 2**nbits residuals of their own cluster

    copy : False makes a float32 store keep a reference to the first added float32 array instead
        of a copy of it, which matters for data of several GB; the caller must then leave that
        array alone

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
        nbits: int = 8,
        codebooks: str = "per-cluster",
        rerank: str | None = None,
        spherical: bool = False,
        max_train: int | None = 50_000,
        seed: int = 0,
        copy: bool = True,
    ) -> None:
        super().__init__(d, n_inner, n_outer, spherical, max_train, seed)
        self.m, self.nbits = _checks.product_quantizer_shape(self.d, m, nbits)
        if codebooks not in CODEBOOK_MODES:
            raise ValueError(f"codebooks={codebooks!r}: expected one of {CODEBOOK_MODES}.")
        if rerank not in RERANK_STORES:
            raise ValueError(f"rerank={rerank!r}: expected one of {RERANK_STORES}.")
        self.codebooks = codebooks
        self.rerank = rerank
        self.copy = bool(copy)
        self._shared: ProductQuantizer | None = None
        self._local: dict[int, ProductQuantizer] = {}
        self._store: NDArray[np.float32] | NDArray[np.uint8] | None = None
        self._store_is_ours = True  # not the caller's array, see copy=False
        self._ivf: faiss.IndexIVFPQ | None = None
        # For per-cluster codebooks: by cluster, -1 for all those on the shared codebooks.
        self._scanners: dict[int, faiss.IndexIVFPQ] = {}

    # Training ------------------------------------------------------------------------------

    def train(self, xt: FloatMatrix, clustering: TwoLevelClustering | None = None) -> MultiLevelPQ:
        """Cluster ``xt`` (n, d) twice and train the codebooks on its residuals.

        A ``clustering`` made before (by ``two_level_kmeans``, with this index's sizes) is used
        as it is, so that indexes that differ only in their codes can share it.

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
            residuals = xt[rows] - clustering.inner[assignment[rows]]
            self._shared = self._new_quantizer().train(residuals)
        order = np.argsort(assignment, kind="stable")
        bounds = np.concatenate([[0], np.cumsum(sizes)])

        def train_local(c: int) -> ProductQuantizer:
            rows = order[bounds[c] : bounds[c + 1]]
            rows = rows[sample_rows(len(rows), POINTS_PER_CENTROID * ksub, self.seed)]
            return self._new_quantizer().train(xt[rows] - clustering.inner[c])

        with one_list_a_thread() as pool:
            self._local = dict(zip(local, pool.map(train_local, local), strict=True))
        self._lists = faiss.ArrayInvertedLists(self.n_inner, self._new_quantizer().code_bytes)
        self._ivf, self._scanners = None, {}
        if self.codebooks == "shared":
            self._ivf = self._make_ivf()
        else:
            self._scanners = {c: self._make_scanner(q) for c, q in self._local.items()}
            if self._shared is not None:
                self._scanners[-1] = self._make_scanner(self._shared)
        self.is_trained = True
        return self

    def _new_quantizer(self) -> ProductQuantizer:
        return ProductQuantizer(self.d, self.m, self.nbits, self.seed)

    def _make_ivf(self) -> faiss.IndexIVFPQ:
        """Return faiss's index over our centroids, codebook and lists: it scans them."""
        ivf = faiss.IndexIVFPQ(self.clustering.flat, self.d, self.n_inner, self.m, self.nbits)
        shared = self.quantizer(0)
        ivf.pq = shared.faiss
        # One copy of the codebooks: from here on ours is a view of what faiss searches.
        shared.adopt(ivf.pq, ivf)
        ivf.is_trained = True
        ivf.use_precomputed_table = 0
        ivf.precompute_table()
        ivf.replace_invlists(self.lists, False)
        return ivf

    def _list_scanner(self, cluster: int) -> faiss.IndexIVFPQ:
        """Return faiss's index over all lists with the codebooks of one cluster."""
        return self._scanners[cluster if cluster in self._local else -1]

    def _make_scanner(self, quantizer: ProductQuantizer) -> faiss.IndexIVFPQ:
        ivf = faiss.IndexIVFPQ(
            self.clustering.flat, self.d, self.n_inner, self.m, self.nbits, faiss.METRIC_L2, False
        )
        ivf.pq = quantizer.faiss
        quantizer.adopt(ivf.pq, ivf)
        ivf.is_trained = True
        ivf.use_precomputed_table = -1  # none, as the codebooks differ from list to list
        ivf.parallel_mode = 3
        ivf.replace_invlists(self.lists, False)
        return ivf

    @property
    def code_bytes(self) -> int:
        """Bytes of one stored code."""
        return (self.m * self.nbits + 7) // 8

    @property
    def n_shared_clusters(self) -> int:
        """Inner clusters that use the shared codebooks."""
        return self.n_inner - len(self._local)

    def quantizer(self, cluster: int) -> ProductQuantizer:
        """Return the product quantizer of an inner cluster, its own or the shared one.

        Raises
        ------
        ValueError
            Before training.
        """
        found = self._local.get(int(cluster), self._shared)
        if found is None:
            raise ValueError("quantizer before train: call train(xt) first.")
        return found

    # Adding --------------------------------------------------------------------------------

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        store = None if self.rerank is None else self._to_store(xb)
        step = rows_per_block(4 * self.d)
        assignment = np.concatenate(
            [self.clustering.assign(xb[i : i + step]) for i in range(0, len(xb), step)]
        )
        self._append(assignment, positions, self.encode(xb, assignment))
        if store is not None:
            self._keep(store, xb)

    def _keep(self, store: NDArray[np.float32] | NDArray[np.uint8], xb: FloatMatrix) -> None:
        """Append ``store``, made of ``xb``, to the re-ranking store."""
        if self._store is None:
            self._store, self._store_is_ours = store, store is not xb
        elif self._store_is_ours:
            # In place where the allocator can: a copy would need the memory twice, every time.
            n = len(self._store)
            self._store.resize((n + len(store), self.d), refcheck=False)
            self._store[n:] = store
        else:
            self._store, self._store_is_ours = np.concatenate([self._store, store]), True

    def _to_store(self, xb: FloatMatrix) -> NDArray[np.float32] | NDArray[np.uint8]:
        if self.rerank == "float32":
            return xb.copy() if self.copy else xb
        step = rows_per_block(4 * self.d)
        whole = np.empty(xb.shape, np.uint8)
        for start in range(0, len(xb), step):
            block = xb[start : start + step]
            with np.errstate(invalid="ignore"):
                whole[start : start + step] = block
            wrong = np.argwhere(whole[start : start + step] != block)
            if len(wrong):
                row, column = wrong[0]
                raise ValueError(
                    f"xb[{start + row}, {column}] is {block[row, column]}: rerank='uint8' expected "
                    "whole numbers 0..255, which it keeps without loss. Use rerank='float32' for "
                    "other data."
                )
        return whole

    def encode(self, x: FloatMatrix, assignment: IdArray) -> NDArray[np.uint8]:
        """Return the codes (n, code_bytes) of ``x`` (n, d) in the clusters ``assignment`` (n,).

        Each vector's residual is encoded with its cluster's quantizer.
        """
        codes = np.empty((len(x), self.code_bytes), np.uint8)
        order = np.argsort(assignment, kind="stable")
        bounds = np.searchsorted(assignment[order], np.arange(self.n_inner + 1))
        for c in np.flatnonzero(np.diff(bounds)):
            rows = order[bounds[c] : bounds[c + 1]]
            codes[rows] = self.quantizer(int(c)).encode(x[rows] - self.clustering.inner[c])
        return codes

    def decode(self, codes: NDArray[np.uint8], assignment: IdArray) -> FloatMatrix:
        """Return the vectors (n, d) that ``codes`` in the clusters ``assignment`` stand for."""
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

        Returns
        -------
        distances : (nq, k) float32, squared L2, ascending: estimated from the codes, or exact
            with a re-ranking store; inf where fewer are found
        ids : (nq, k) int64, -1 where fewer are found

        Raises
        ------
        ValueError
            When nothing was added or an argument is out of range.
        """
        xq, k = self._check_search(xq, k)
        use_store = rerank and self.rerank is not None
        candidates = self._candidates(k, rerank_factor, use_store)
        nprobe, nprobe_outer = self.clustering.check_probes(nprobe, nprobe_outer)
        distances = np.empty((len(xq), k), np.float32)
        positions = np.empty((len(xq), k), np.int64)
        step = rows_per_block(12 * nprobe * (candidates + 1))
        for start in range(0, len(xq), step):
            block = slice(start, start + step)
            if self._ivf is not None and nprobe_outer == self.n_outer:
                # Flat probing is faiss's own: each thread ranks and scans for its queries.
                found = search_flat(self._ivf, xq[block], candidates, nprobe)
            else:
                coarse, keys = self.clustering.probe(xq[block], nprobe, nprobe_outer)
                found = self._scan(xq[block], coarse, keys, candidates)
            if use_store:
                found = self._rerank(xq[block], found[1], k)
            distances[block], positions[block] = found
        return distances, self._to_ids(positions)

    def _candidates(self, k: int, rerank_factor: int, use_store: bool) -> int:
        factor = _checks.integer("rerank_factor", rerank_factor, 1)
        return min(self.ntotal, factor * k) if use_store else k

    def _scan(
        self, xq: FloatMatrix, coarse: FloatMatrix, keys: IdArray, k: int
    ) -> tuple[FloatMatrix, IdArray]:
        """Return the ``k`` best codes of the probed lists by ADC, as positions."""
        if self._ivf is not None:
            return search_lists(self._ivf, xq, k, coarse, keys, faiss.IVFPQSearchParameters())
        # Every list is scanned once, for all queries that probe it: its codebooks and codes
        # stay in cache, and no Python loop runs over queries or codes.
        nprobe = keys.shape[1]
        distances = np.full((nprobe, len(xq), k), np.inf, np.float32)
        positions = np.full((nprobe, len(xq), k), -1, np.int64)
        flat = keys.ravel()
        order = np.argsort(flat, kind="stable")
        bounds = np.searchsorted(flat[order], np.arange(self.n_inner + 1))

        def scan_list(c: int) -> None:
            list_ids, codes = self.list_content(c)
            if len(list_ids) == 0:
                return
            kept = min(k, len(list_ids))
            quantizer, centroid = self.quantizer(c), self.clustering.inner[c]
            pairs = order[bounds[c] : bounds[c + 1]]
            if len(pairs) < FEW:
                query, probe = np.divmod(pairs, nprobe)
                there = (coarse[query, probe, None], keys[query, probe, None])
                params = faiss.IVFPQSearchParameters()
                found = search_lists(self._list_scanner(c), xq[query], k, *there, params)
                distances[probe, query], positions[probe, query] = found
                return
            buffer = np.empty((min(SCAN_ROWS, len(pairs)), self.d), np.float32)
            for start in range(0, len(pairs), SCAN_ROWS):
                query, probe = np.divmod(pairs[start : start + SCAN_ROWS], nprobe)
                residuals = buffer[: len(query)]
                # Row numbers are in range; "clip" spares take() a copy of its output.
                np.take(xq, query, axis=0, out=residuals, mode="clip")
                residuals -= centroid
                dis, local = quantizer.scan(residuals, codes, kept)
                distances[probe, query, :kept] = dis
                positions[probe, query, :kept] = list_ids[local]

        probed = np.flatnonzero(np.diff(bounds)).tolist()
        if len(flat) < 64:
            # Waking threads would take longer than the work does.
            with one_thread():
                for c in probed:
                    scan_list(c)
        else:
            with one_list_a_thread() as pool:
                list(pool.map(scan_list, probed))
        distances, positions = faiss.merge_knn_results(distances, positions)
        distances[positions < 0] = np.inf  # faiss pads with the largest float
        return distances, positions

    def _rerank(self, xq: FloatMatrix, positions: IdArray, k: int) -> tuple[FloatMatrix, IdArray]:
        """Return the best ``k`` of the candidates (nq, c) by exact squared distance."""
        assert self._store is not None
        c = positions.shape[1]
        exact = np.empty(positions.shape, np.float32)
        step = rows_per_block(5 * self.d * c, GATHER_BYTES)
        for start in range(0, len(xq), step):
            block = slice(start, start + step)
            rows, queries = positions[block], np.ascontiguousarray(xq[block])
            if self._store.dtype == np.uint8:
                # The candidates' rows as float32; missing ones (-1) borrow a row for the moment.
                vectors = self._store[np.maximum(rows, 0).ravel()].astype(np.float32)
                local = np.arange(rows.size, dtype=np.int64).reshape(rows.shape)
            else:
                vectors, local = self._store.view(np.float32), rows
            local = np.where(rows < 0, np.int64(-1), local)
            part = np.empty(rows.shape, np.float32)
            faiss.fvec_L2sqr_by_idx(
                faiss.swig_ptr(part),
                faiss.swig_ptr(queries),
                faiss.swig_ptr(vectors),
                faiss.swig_ptr(local),
                self.d,
                len(queries),
                c,
            )
            exact[block] = part
        exact[positions < 0] = np.inf
        best = np.lexsort((positions, exact), axis=1)[:, :k]
        return np.take_along_axis(exact, best, 1), np.take_along_axis(positions, best, 1)

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
        if self.codebooks != "shared":
            raise ValueError(
                f"codebooks={self.codebooks!r}: faiss's IndexIVFPQ has one set of codebooks for "
                "all lists. Build the index with codebooks='shared' to export it."
            )
        coarse = faiss.IndexFlatL2(self.d)
        coarse.add(self.clustering.inner)
        other = faiss.IndexIVFPQ(coarse, self.d, self.n_inner, self.m, self.nbits)
        faiss.copy_array_to_vector(self.quantizer(0).codebooks.ravel(), other.pq.centroids)
        other.is_trained = True
        other.use_precomputed_table = 0
        other.precompute_table()
        for c in range(self.n_inner):
            positions, codes = self.list_content(c)
            if len(positions):
                ids, codes = self._to_ids(positions), np.ascontiguousarray(codes)
                other.invlists.add_entries(
                    c, len(ids), faiss.swig_ptr(np.ascontiguousarray(ids)), faiss.swig_ptr(codes)
                )
        other.ntotal = self.ntotal
        return other

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
            advance (shared codebooks) 2**nbits once a query. "codes": codes scanned, m look-ups
            each. "rerank": exact distances. Same arguments as ``search``.
        """
        xq, k = self._check_search(xq, k)
        outer, inner = self.clustering.probe_cost(xq, nprobe_outer)
        _, keys = self.clustering.probe(xq, nprobe, nprobe_outer)
        sizes = np.where(keys >= 0, self.list_sizes[keys], 0)
        codes = sizes.sum(axis=1)
        tables = (sizes > 0).sum(axis=1)
        if self._ivf is not None and self._ivf.precomputed_table.size():
            tables = np.minimum(tables, 1)
        use_store = rerank and self.rerank is not None
        reranked = np.minimum(codes, self._candidates(k, rerank_factor, use_store)) * use_store
        return {
            "outer": outer,
            "inner": inner,
            "tables": tables << self.nbits,
            "codes": codes,
            "rerank": reranked,
        }

    # Accounting ----------------------------------------------------------------------------

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        quantizers = len(self._local) + (self._shared is not None)
        parameters = 4 * self.d << self.nbits
        tables = 0 if self._ivf is None else 4 * self._ivf.precomputed_table.size()
        return {
            "codes": self.code_bytes * self.ntotal,
            "ids": 8 * self.ntotal + self._id_memory(),
            "codebooks": quantizers * parameters,
            "precomputed tables": tables,
            "re-ranking store": 0 if self._store is None else self._store.nbytes,
            **self.clustering.memory(),
        }

    def describe(self) -> str:
        """Return a printable summary: parameters, codebooks, list sizes, memory."""
        lines = [
            f"MultiLevelPQ(d={self.d}, n_inner={self.n_inner}, n_outer={self.n_outer}, "
            f"m={self.m}, nbits={self.nbits}, codebooks={self.codebooks!r}, "
            f"rerank={self.rerank!r}, seed={self.seed})",
            f"code: {self.m} x {self.nbits} bits = {self.code_bytes} bytes",
        ]
        if not self.is_trained:
            return "\n".join([*lines, "not trained"])
        if self.codebooks == "per-cluster":
            lines.append(
                f"codebooks: {len(self._local)} clusters have their own, "
                f"{self.n_shared_clusters} with fewer than {1 << self.nbits} training residuals "
                "use the shared one"
            )
        else:
            lines.append("codebooks: one shared by all clusters")
        sizes = self.list_sizes
        lines.append(
            f"vectors: {self.ntotal:,} in lists of {sizes.min():,} to {sizes.max():,} "
            f"(median {int(np.median(sizes)):,})"
        )
        lines.append(f"memory: {self.memory_bytes:,} bytes")
        for part, size in self.memory().items():
            if size:
                lines.append(f"  {part:<26}{size:>14,}")
        if self.ntotal:
            lines.append(f"  {'bytes per vector':<26}{self.bytes_per_vector:>14,.1f}")
        return "\n".join(lines)
