"""The index that the study ends with: rotate, route, scan bytes, re-rank.

Each stage leaves the next one less to do, and reads less memory for each vector it looks at than
the one after: 1. a rotation by principal components (PCA) puts what tells vectors apart into their
first components; 2. the query is compared with all coarse centroids and the nearest inverted lists
are probed; 3. their codes, one byte for each of the first components, are scanned 16 at a time;
4. the best candidates are re-ranked by their whole vectors.

The codes are those of a product quantizer whose sub-vectors are single components and whose
codewords are evenly spaced, so that distances are arithmetic on small whole numbers instead of
table look-ups; they are of the vectors, not of residuals, so that one form of the query serves all
lists. Sources: Jegou, Douze, Schmid, TPAMI 2011, section 4 (inverted lists of codes, IVFADC);
Jegou, Tavenard, Douze, Amsaleg, "Searching in one billion vectors: re-rank with source coding",
ICASSP 2011 (re-ranking); Jegou, Douze, Schmid, Perez, "Aggregating local descriptors into a compact
image representation", CVPR 2010, section 4.2 (PCA before coding). What is ours: codes, norms and
whole vectors lie in memory in the order of the lists, neighbouring lists side by side; the queries
of a batch are worked on in that order too, so that what one has brought into the cache serves the
next; and candidates are selected by counting, without a heap (``kernels.native``).
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _blas, _checks
from pqlib._file import IndexFile, Section, array_section
from pqlib.clustering import kmeans, sample_rows
from pqlib.indexes import kernels
from pqlib.indexes.base import Index
from pqlib.indexes.blocks import (
    PRODUCT_BYTES,
    SMALL_BYTES,
    FloatMatrix,
    Found,
    IdArray,
    in_blocks,
    queries_within,
    rows_per_block,
)
from pqlib.indexes.kernels import portable
from pqlib.indexes.kernels.layout import GROUP, LANES, Blocks, aligned_empty, blocks_of, pack
from pqlib.indexes.stores import VectorStore

ROTATIONS = ("pca", None)
RERANKED = (None, "float32", "uint8")
LARGEST_D = (2**31 - 1) // 255**2
"""Dimensions up to which squared distances of bytes fit 32 bits."""
MOST_COMPONENTS = (2**31 - 1) // (127 * 255 + 127**2 // 2)
"""Components up to which the scores of codes fit 32 bits."""
COMPONENTS = 64
"""Components coded, where nothing is said."""
CLIPPED = 0.9995
"""Share of the components that bytes hold without clipping."""
COARSE_ITERATIONS = 10
SMALL_BATCH = 16  # queries up to which one thread works on a call
STAGES = ("rotation", "routing", "scan", "re-ranking", "rest")
"""What the time of a search is made of, see ``CascadeIndex.profile``."""


def _no_lap(stage: str) -> None:
    """Note nothing: a search that nobody times."""


@dataclass(frozen=True)
class SearchSettings:
    """How thorough a search is.

    Attributes
    ----------
    nprobe : inverted lists probed
    candidates : codes of smallest distance that are re-ranked
    margin : adaptive probing, None for none. A list is left out when half the squared distance of
        its centroid exceeds that of the nearest one by more than ``margin`` times half the
        squared distance of the last candidate of the first lists: easy queries, whose candidates
        are near, then probe fewer lists.
    """

    nprobe: int
    candidates: int
    margin: float | None = None

    def arguments(self, more: int = 0) -> dict[str, Any]:
        """Return the arguments of a search at these settings, with ``more`` candidates."""
        return {
            "nprobe": self.nprobe,
            "candidates": self.candidates + more,
            "margin": -1.0 if self.margin is None else self.margin,
        }


class CascadeIndex(Index):
    """Rotation, inverted lists, codes of one byte a component, exact re-ranking.

    Parameters
    ----------
    d : dimension
    n_lists : inverted lists, the coarse centroids
    components : components coded, at most d: the first ones after the rotation. None: 64, or all
        where there are fewer or no rotation
    rotation : "pca", or None: components as they come, then all d of them are coded
    rerank : what whole vectors are kept as: "float32"; "uint8" for whole numbers 0..255; None:
        none, and distances are those of the codes
    max_train : vectors trained on, at most
    seed : of the sample and of k-means
    engine : "native" or "portable", see ``pqlib.indexes.kernels``; None: what there is

    Attributes
    ----------
    settings : the ``SearchSettings`` of a search that says nothing else

    Raises
    ------
    ValueError
        When an argument is out of range.
    ImportError
        When the engine asked for is not there.
    """

    def __init__(
        self,
        d: int,
        n_lists: int = 256,
        components: int | None = None,
        rotation: str | None = "pca",
        rerank: str | None = "uint8",
        max_train: int | None = 50_000,
        seed: int = 0,
        engine: str | None = None,
    ) -> None:
        super().__init__(d)
        self.n_lists = _checks.integer("n_lists", n_lists, 1)
        if components is None:
            components = min(d, COMPONENTS) if rotation else d
        self.components = _checks.integer(
            "components", components, 1, d, "A rotation makes no more components than d."
        )
        if rotation not in ROTATIONS:
            raise ValueError(f"rotation={rotation!r}: expected 'pca' or None.")
        if rotation is None and components != d:
            raise ValueError(
                f"components={components} without a rotation: expected d={d}, since the first "
                "components are no better than others. Use rotation='pca' or code all of them."
            )
        if self.components > MOST_COMPONENTS:
            raise ValueError(
                f"components={components}: expected at most {MOST_COMPONENTS}, for scores to fit "
                "32 bits. Use rotation='pca' with fewer components."
            )
        if rerank not in RERANKED:
            raise ValueError(f"rerank={rerank!r}: expected 'float32', 'uint8' or None.")
        if rerank == "uint8" and d > LARGEST_D:
            raise ValueError(
                f"d={d} with rerank='uint8': expected at most {LARGEST_D}, for distances to fit "
                "32 bits. Use rerank='float32'."
            )
        self.rotation, self.rerank = rotation, rerank
        self.max_train = None if max_train is None else _checks.integer("max_train", max_train, 1)
        self.seed = _checks.seed(seed)
        self._engine: Any = kernels.engine(engine)
        self._lock = threading.Lock()
        self._pool: tuple[tuple[int, int], ThreadPoolExecutor] | None = None
        self._pending: list[tuple[IdArray, NDArray[np.int8], NDArray[Any]]] = []
        self._blocks: Blocks | None = None
        self._order: NDArray[Any] = np.empty(0, np.int32)
        self._whole: NDArray[Any] = np.empty((0, d), np.uint8)
        self.settings = SearchSettings(min(self.n_lists, max(1, self.n_lists // 32)), 50)

    @property
    def _width(self) -> int:
        """Components of a code as it is laid out, in whole groups."""
        return -(-self.components // GROUP) * GROUP

    # Training ----------------------------------------------------------------------------

    def train(self, xt: FloatMatrix, axes: FloatMatrix | None = None) -> CascadeIndex:
        """Learn rotation, scale and centroids from ``xt`` (n, d); return the index.

        Parameters
        ----------
        xt : vectors to learn from
        axes : (d, at least ``components``) float32, what ``principal_axes`` found before, when
            several indexes are trained on the same vectors; None: it is found here

        Raises
        ------
        ValueError
            When there are fewer vectors than lists, or vectors were already added.
        """
        if self.ntotal:
            raise ValueError(
                f"train after add: the {self.ntotal} vectors added so far are stored by the old "
                "centroids. Build a new index."
            )
        xt = _checks.vectors("xt", xt, self.d)
        rows = sample_rows(len(xt), self.max_train or len(xt), self.seed)
        if len(rows) < self.n_lists:
            raise ValueError(
                f"xt has {len(xt)} training vectors (max_train={self.max_train}): "
                f"n_lists={self.n_lists} lists need at least as many. Pass more vectors or lower "
                "n_lists."
            )
        sample = xt if len(rows) == len(xt) else xt[rows]
        self._learn_rotation(sample, axes)
        rotated = self._rotate(sample) - self._center
        self._scale = _scale_of(rotated)
        found = kmeans(rotated, self.n_lists, niter=COARSE_ITERATIONS, seed=self.seed)
        self._set_centroids(found.centroids[neighbours_side_by_side(found.centroids)])
        self.is_trained = True
        return self

    @_blas.one_thread()
    def _learn_rotation(self, sample: FloatMatrix, found: FloatMatrix | None) -> None:
        mean = sample.mean(axis=0, dtype=np.float64)
        width = self._width
        axes = np.zeros((self.d, width), np.float32)
        if self.rotation is None:
            axes[:, : self.d] = np.eye(self.d, dtype=np.float32)
        else:
            if found is None:
                found = principal_axes(sample, mean, self.components)
            elif found.shape[0] != self.d or found.shape[1] < self.components:
                raise ValueError(
                    f"axes has shape {found.shape}: expected ({self.d}, {self.components} or "
                    "more). Pass what principal_axes returns for these vectors, or None."
                )
            axes[:, : self.components] = found[:, : self.components]
        self._set_rotation(axes, (mean @ axes.astype(np.float64)).astype(np.float32))

    def _set_rotation(self, axes: FloatMatrix, center: NDArray[np.float32]) -> None:
        # Rotated vectors are centred after the product, which spares a copy of the vectors.
        self._axes, self._center = np.ascontiguousarray(axes), np.ascontiguousarray(center)
        # faiss's product, not NumPy's: after NumPy's, threads of its BLAS spin for a while and take
        # the processor from the stages that follow.
        self._product = faiss.LinearTransform(*axes.shape, False)
        faiss.copy_array_to_vector(np.ascontiguousarray(axes.T).ravel(), self._product.A)
        self._product.is_trained = True

    def _set_centroids(self, centroids: FloatMatrix) -> None:
        self._centroids = np.ascontiguousarray(centroids)
        starts = np.array([0, self.n_lists], np.int64)
        codes, _ = self._quantize(self._centroids, np.zeros(len(self._center), np.float32))
        self._coarse = pack(codes, starts)

    def _rotate(self, x: FloatMatrix) -> FloatMatrix:
        if self.rotation is None and self._axes.shape[0] == self._axes.shape[1]:
            return x
        if len(x) <= SMALL_BATCH:
            # Too small for several threads, which faiss would wake up. What is not finite is found
            # in the product, and said then.
            with np.errstate(invalid="ignore", over="ignore"):
                return x @ self._axes
        return self._product.apply(np.ascontiguousarray(x))

    def _quantize(
        self, rotated: FloatMatrix, center: NDArray[np.float32], each: Any = None
    ) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
        codes = np.empty(rotated.shape, np.int8)
        offsets = np.empty(len(rotated), np.int32)

        def work(first: int, last: int) -> None:
            self._engine.quantize(rotated, center, self._scale, first, last, codes, offsets)

        (each or _at_once)(work, len(rotated))
        return codes, offsets

    # Adding ------------------------------------------------------------------------------

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        store = VectorStore.kinds[self.rerank](self.d) if self.rerank else None
        whole = np.empty((len(xb), 0), np.uint8) if store is None else store.convert(xb)
        if whole is xb:
            whole = xb.copy()  # it is put in order later; until then the array is the caller's
        step = rows_per_block(4 * (self.d + self._axes.shape[1]))
        assignment = np.empty(len(xb), np.int64)
        codes = np.empty((len(xb), self._axes.shape[1]), np.int8)
        for start in range(0, len(xb), step):
            part = slice(start, start + step)
            rotated = self._rotate(xb[part])
            codes[part], _ = self._quantize(rotated, self._center)
            _, nearest = faiss.knn(rotated - self._center, self._centroids, 1)
            assignment[part] = nearest[:, 0]
        with self._lock:
            self._pending.append((assignment, codes, whole))

    def _packed(self) -> tuple[Blocks, NDArray[Any], NDArray[Any]]:
        """Return codes, rows by position and whole vectors, with all that was added."""
        with self._lock:
            if self._pending:
                self._merge()
            assert self._blocks is not None
            return self._blocks, self._order, self._whole

    def _merge(self) -> None:
        parts = self._pending
        if self._blocks is not None:
            sizes = np.diff(self._blocks.starts)
            n = len(self._order)
            whole = self._whole if self.rerank else np.empty((n, 0), np.uint8)
            held = (np.repeat(np.arange(self.n_lists), sizes), self._blocks.unpack(), whole)
            parts = [held, *parts]
        assignment = _joined([part[0] for part in parts])
        codes = _joined([part[1] for part in parts])
        whole = _joined([part[2] for part in parts])
        n = len(assignment)
        old = np.empty(0, np.int64) if self._blocks is None else self._order.astype(np.int64)
        rows = np.concatenate([old, np.arange(len(old), n)])
        by_list = np.argsort(assignment, kind="stable")
        starts = np.searchsorted(assignment[by_list], np.arange(self.n_lists + 1))
        kind = np.int32 if n < 2**31 else np.int64
        self._order = rows[by_list].astype(kind)
        self._blocks = pack(codes[by_list], starts)
        self._whole = aligned_empty(whole.shape if whole.shape[1] else (0, self.d), whole.dtype)
        if whole.shape[1]:
            np.take(whole, by_list, axis=0, out=self._whole)
        self._pending = []

    # Searching ---------------------------------------------------------------------------

    def search(
        self,
        xq: FloatMatrix,
        k: int = 10,
        nprobe: int | None = None,
        candidates: int | None = None,
        margin: float | None = None,
        max_memory: int | None = None,
    ) -> tuple[FloatMatrix, IdArray]:
        """Return the ``k`` nearest vectors of each query among the candidates.

        What is left None is taken from ``settings``; ``margin=-1`` switches adaptive probing off.

        Parameters
        ----------
        xq : (nq, d) float32
        k : neighbours, 1..ntotal
        nprobe : inverted lists probed, 1..n_lists
        candidates : re-ranked, at least k
        margin : see ``SearchSettings``
        max_memory : bytes that the search may take besides the index, the queries and the result;
            the queries are then searched in blocks. None: no limit

        Returns
        -------
        distances : (nq, k) float32, squared L2, ascending, inf where fewer are found; without
            re-ranking, those of the codes
        ids : (nq, k) int64, -1 where fewer are found

        Raises
        ------
        ValueError
            When nothing was added, an argument is out of range, or max_memory is too little for
            one query.
        """
        if max_memory is None:
            found = self._search(xq, k, nprobe, candidates, margin)
            return found.distances, found.ids
        self._check_filled()
        xq = _checks.vectors("xq", xq, self.d, finite=False)
        k = self._check_k(k)
        step = queries_within(len(xq), max_memory, self._needs(k, nprobe, candidates))
        distances = np.empty((len(xq), k), np.float32)
        ids = np.empty((len(xq), k), np.int64)
        for start in range(0, len(xq), step):
            block = slice(start, start + step)
            found = self._search(xq[block], k, nprobe, candidates, margin)
            distances[block], ids[block] = found.distances, found.ids
        return distances, ids

    def _needs(self, k: int, nprobe: int | None, candidates: int | None) -> Callable[[int], int]:
        """Return the function that gives the bytes that a number of queries takes, at most."""
        lists, kept = self.settings.nprobe, max(k, self.settings.candidates)
        if nprobe is not None:
            lists = _checks.integer("nprobe", nprobe, 1, self.n_lists)
        if candidates is not None:
            kept = _checks.integer("candidates", candidates, k)
        kept = min(kept, self.ntotal)
        width, longest = self._axes.shape[1], int(self.list_sizes.max())
        # Of each thread: centroids' scores and places, those of codes, and what is kept of them.
        room = max(512, 8 * kept) + kept + longest + 4 * LANES
        alone = 8 * (self.n_lists + 4 * LANES) + 8 * room + 8 * (kept + lists)
        if self._engine.NAME == "portable":
            # It has whole lists and all their scores in arrays, of many queries at a time.
            alone += 48 * portable.BLOCK_ROWS * self.n_lists
            alone += 10 * longest * width + 64 * lists * longest
        each = 8 * width + 8 * lists + 48 * k + self.d + 32

        def need(nq: int) -> int:
            products = PRODUCT_BYTES if nq > SMALL_BATCH else 0
            return SMALL_BYTES + products + nq * each + faiss.omp_get_max_threads() * alone

        return need

    def _check_k(self, k: int) -> int:
        return _checks.integer(
            "k", k, 1, self.ntotal, f"The index holds {self.ntotal} vectors (ntotal)."
        )

    def search_cost(
        self,
        xq: FloatMatrix,
        k: int = 10,
        nprobe: int | None = None,
        candidates: int | None = None,
        margin: float | None = None,
    ) -> dict[str, IdArray]:
        """Count the distance computations of a search by stage; same arguments as ``search``.

        Returns
        -------
        dict of (nq,) int64 arrays
            "inner": distances to centroids; "codes": codes scanned; "vectors": exact distances
        """
        found = self._search(xq, k, nprobe, candidates, margin)
        reranked = np.minimum(found.scanned, found.candidates)
        return {
            "inner": np.full(len(found.ids), self.n_lists, np.int64),
            "codes": found.scanned,
            "vectors": reranked if self.rerank else np.zeros_like(reranked),
        }

    def profile(
        self,
        xq: FloatMatrix,
        k: int = 10,
        nprobe: int | None = None,
        candidates: int | None = None,
        margin: float | None = None,
        repeats: int = 5,
    ) -> dict[str, float]:
        """Measure what the stages of a search of this batch take; other arguments as ``search``.

        Scanning and re-ranking are one pass over the queries. To tell them apart, it is made once
        more without the whole vectors, and re-ranking is called what it then takes less.

        Parameters
        ----------
        repeats : timed searches, after one that is not

        Returns
        -------
        dict of float
            Median seconds of the batch, with all threads, of each of ``STAGES``: "rotation", with
            the quantization of the queries and their conversion to bytes; "routing"; "scan";
            "re-ranking", 0 where no whole vectors are kept; "rest": checking the arguments, the
            order of the queries, ids and distances of what was found

        Raises
        ------
        ValueError
            As ``search``, and when ``repeats`` is below 1.
        """
        repeats = _checks.integer("repeats", repeats, 1)
        whole, codes_only = [], []
        for _ in range(repeats + 1):
            watch = _Stopwatch()
            self._search(xq, k, nprobe, candidates, margin, watch.lap)
            whole.append(watch.seconds)
            if self.rerank is not None:
                watch = _Stopwatch()
                self._search(xq, k, nprobe, candidates, margin, watch.lap, rerank=False)
                codes_only.append(watch.seconds["scan"])
        result = {name: float(np.median([s[name] for s in whole[1:]])) for name in STAGES}
        if codes_only:
            both = result["scan"]
            result["scan"] = min(both, float(np.median(codes_only[1:])))
            result["re-ranking"] = both - result["scan"]
        return result

    def _search(
        self,
        xq: FloatMatrix,
        k: int,
        nprobe: int | None,
        candidates: int | None,
        margin: float | None,
        lap: Callable[[str], object] = _no_lap,
        rerank: bool = True,
    ) -> _Found:
        self._check_filled()
        k = self._check_k(k)
        xq = _checks.vectors("xq", xq, self.d, finite=False)
        nprobe = _checks.integer(
            "nprobe", self.settings.nprobe if nprobe is None else nprobe, 1, self.n_lists
        )
        if candidates is None:
            candidates = max(k, self.settings.candidates)
        candidates = _checks.integer(
            "candidates", candidates, k, None, f"The k={k} returned are chosen among them."
        )
        if margin is None:
            margin = -1.0 if self.settings.margin is None else self.settings.margin
        if not math.isfinite(margin):
            raise ValueError(f"margin={margin!r}: expected a finite number, or None.")
        candidates = min(candidates, self.ntotal)
        return self._run(xq, k, nprobe, candidates, float(margin), lap, rerank)

    def _run(
        self,
        xq: FloatMatrix,
        k: int,
        nprobe: int,
        candidates: int,
        margin: float,
        lap: Callable[[str], object],
        rerank: bool,
    ) -> _Found:
        """Search; call ``lap`` with the name of each stage that ends."""
        (blocks, rows, whole), nq = self._packed(), len(xq)
        store = whole if rerank else whole[:0]
        lap("rest")
        rotated = self._rotate(xq)
        # NaN and infinity go through the product; looking at that is cheaper than at the queries.
        if not np.isfinite(rotated).all():
            _checks.vectors("xq", xq, self.d, large=True)
        queries, offsets = self._quantize(rotated, self._center, self._each)
        vectors = self._comparable(xq)
        lap("rotation")
        lists = np.empty((nq, nprobe), np.int32)
        scores = np.empty((nq, nprobe), np.int32)

        def route(first: int, last: int) -> None:
            self._engine.route(
                self._coarse.codes, self._coarse.half_norms, np.int32(self._coarse.shift),
                self.n_lists, queries, nprobe, first, last, lists, scores,
            )  # fmt: skip

        self._each(route, nq)
        lap("routing")
        order = np.argsort(lists[:, 0], kind="stable")
        keys = np.empty((nq, k), np.int64)
        scanned = np.empty(nq, np.int64)
        enough = max(512, 8 * candidates)
        lap("rest")

        def scan(first: int, last: int) -> None:
            self._engine.search(
                blocks.codes, blocks.half_norms, np.int32(blocks.shift), blocks.block_starts,
                blocks.starts, store, self.d, order, first, last, lists, scores, offsets,
                queries, vectors, candidates, k, margin, enough, keys, scanned,
            )  # fmt: skip

        self._each(scan, nq)
        lap("scan")
        missing = keys == -1
        positions = rows[np.where(missing, 0, keys & 0xFFFFFFFF)].astype(np.int64)
        bits = (keys >> 32).astype(np.int32)
        if self.rerank is None:
            half = bits.astype(np.float64) + offsets[:, None]
            distances = np.maximum(2 * half / float(self._scale) ** 2, 0).astype(np.float32)
        elif vectors.dtype == np.uint8:
            distances = bits.astype(np.float32)
        else:
            distances = bits.view(np.float32)
        if missing.any():
            distances[missing], positions[missing] = np.inf, -1
        ids = self._to_ids(positions)
        lap("rest")
        return _Found(distances, ids, scanned, candidates)

    def _comparable(self, xq: FloatMatrix) -> NDArray[np.uint8] | FloatMatrix:
        """Return the queries as bytes where that loses nothing and the store holds bytes."""
        if self.rerank != "uint8":
            return xq
        out = np.empty(xq.shape, np.uint8)
        good: list[bool] = []
        self._each(lambda a, b: good.append(self._engine.to_bytes(xq, a, b, out)), len(xq))
        return out if all(good) else xq

    def _each(self, work: Callable[[int, int], object], n: int) -> None:
        """Call ``work(first, last)`` for ranges that make up 0..n, several at a time."""
        threads = faiss.omp_get_max_threads()
        if threads == 1 or n <= SMALL_BATCH:
            work(0, n)
            return
        wanted = threads, os.getpid()  # threads do not survive a fork
        if self._pool is None or self._pool[0] != wanted:
            self._pool = wanted, ThreadPoolExecutor(threads)
        ends = np.linspace(0, n, min(n, 4 * threads) + 1).astype(np.int64).tolist()
        list(self._pool[1].map(work, ends[:-1], ends[1:]))

    def _check_filled(self) -> None:
        if self.ntotal == 0:
            raise ValueError(
                f"search before add: {type(self).__name__} holds no vectors. "
                "Call train(xt) and add(xb) first."
            )

    # What it is --------------------------------------------------------------------------

    @property
    def engine(self) -> str:
        """Which implementation runs: "native" or "portable"."""
        return str(self._engine.NAME)

    @property
    def list_sizes(self) -> IdArray:
        """Vectors in each inverted list, (n_lists,) int64."""
        self._check_filled()
        return np.diff(self._packed()[0].starts)

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        if not self.is_trained:
            return {}
        parts = {
            "centroids": self._centroids.nbytes + self._coarse.nbytes,
            "rotation": self._axes.nbytes + self._center.nbytes,
        }
        if self.ntotal:
            blocks, rows, whole = self._packed()
            parts["codes"] = blocks.nbytes + blocks.starts.nbytes + blocks.block_starts.nbytes
            parts["ids"] = rows.nbytes + self._id_memory()
            parts["vectors"] = whole.nbytes
        return parts

    @property
    def mappable(self) -> tuple[str, ...]:
        """The parts that may stay in the file."""
        return ("codes", "vectors", "ids")

    def describe(self) -> str:
        """Return a printable summary: parameters, lists, settings, memory."""
        rotation = "PCA" if self.rotation == "pca" else "no rotation"
        lines = [
            f"CascadeIndex of {self.ntotal:,} vectors of dimension {self.d}",
            f"  {rotation}, {self.components} components in a byte each; {self.n_lists} lists",
            f"  re-ranking: {self.rerank or 'none'}; loops: {self._engine.NAME} "
            f"({self._engine.VERSION})",
            "  search: "
            + ", ".join(f"{name}={value}" for name, value in asdict(self.settings).items()),
        ]
        if self.ntotal:
            sizes = self.list_sizes
            lines.append(f"  list sizes {sizes.min()} to {sizes.max()}, mean {sizes.mean():.1f}")
            lines.extend(f"  {part:<10} {n:>14,} bytes" for part, n in self.memory().items())
            lines.append(f"  {self.bytes_per_vector:.1f} bytes per vector")
        return "\n".join(lines)

    # Files -------------------------------------------------------------------------------

    def _parameters(self) -> dict[str, Any]:
        return {
            "d": self.d,
            "n_lists": self.n_lists,
            "components": self.components,
            "rotation": self.rotation,
            "rerank": self.rerank,
            "max_train": self.max_train,
            "seed": self.seed,
        }

    def _sections(self) -> list[Section]:
        chosen = self.settings
        margin = math.nan if chosen.margin is None else chosen.margin
        sections = [
            array_section("settings", np.array([chosen.nprobe, chosen.candidates, margin])),
            array_section("axes", self._axes),
            array_section("center", self._center),
            array_section("scale", np.array([self._scale], np.float32)),
            array_section("centroids", self._centroids),
        ]
        if self.ntotal:
            blocks, rows, whole = self._packed()
            sections += [
                array_section("starts", blocks.starts),
                array_section("block_starts", blocks.block_starts),
                array_section("shift", np.array([blocks.shift])),
                array_section("codes", blocks.codes),
                array_section("half_norms", blocks.half_norms),
                array_section("order", rows),
                array_section("vectors", whole),
            ]
        return sections

    def _restore(self, file: IndexFile) -> None:
        width = self._width
        nprobe, candidates, margin = file.read("settings", "<f8", (3,)).tolist()
        try:
            self.settings = SearchSettings(
                _checks.integer("nprobe", int(nprobe), 1, self.n_lists),
                _checks.integer("candidates", int(candidates), 1),
                None if math.isnan(margin) else margin,
            )
        except (ValueError, OverflowError) as problem:
            raise file.refuse(problem) from None
        axes = file.read("axes", "<f4", (self.d, width))
        center = file.read("center", "<f4", (width,))
        scale = file.read("scale", "<f4", (1,))
        centroids = file.read("centroids", "<f4", (self.n_lists, width))
        if not all(np.isfinite(part).all() for part in (axes, center, scale, centroids)):
            raise file.refuse("its rotation or centroids are not finite")
        self._set_rotation(axes, center)
        self._scale = np.float32(scale[0])
        self._set_centroids(centroids)
        if self.ntotal:
            self._restore_vectors(file, width)

    def _restore_vectors(self, file: IndexFile, width: int) -> None:
        n = self.ntotal
        starts = file.read("starts", "<i8", (self.n_lists + 1,))
        # Of hostile numbers differences wrap around; of such as lie between 0 and n they do not.
        if starts[0] != 0 or starts[-1] != n or not ((starts >= 0) & (starts <= n)).all():
            raise file.refuse(f"its lists do not hold ntotal={n} vectors together")
        sizes = np.diff(starts)
        block_starts = file.read("block_starts", "<i8", (self.n_lists + 1,))
        if (sizes < 0).any() or not np.array_equal(block_starts, blocks_of(sizes)):
            raise file.refuse("its blocks do not follow from its lists")
        blocks = int(block_starts[-1])
        shift = file.number("shift")
        if not 0 <= shift < 16:
            raise file.refuse(f"its half norms are shifted by {shift} bits")
        self._blocks = Blocks(
            file.map("codes", "|u1", (blocks, width // GROUP, LANES, GROUP)),
            file.map("half_norms", "<u2", (blocks * LANES,)),
            shift,
            block_starts,
            starts,
        )
        if file.verify and not self._blocks.consistent():
            raise file.refuse("its half norms are not those of its codes")
        kind = "<i4" if n < 2**31 else "<i8"
        self._order = file.map("order", kind, (n,))
        if file.verify and not (
            (self._order.min() >= 0)
            and (self._order.max() < n)
            and (np.bincount(self._order, minlength=n) == 1).all()
        ):
            raise file.refuse("its order does not hold every position once")
        dtype = "uint8" if self.rerank is None else self.rerank
        self._whole = file.map("vectors", np.dtype(dtype).str, (n if self.rerank else 0, self.d))


@dataclass(frozen=True)
class _Found:
    """Results of a search, and what they cost."""

    distances: FloatMatrix
    ids: IdArray
    scanned: IdArray
    candidates: int


class _Stopwatch:
    """Adds up the seconds between one lap and the next under the name of the stage that ended."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _at_once(work: Callable[[int, int], object], n: int) -> None:
    work(0, n)


@_blas.one_thread()
def principal_axes(x: FloatMatrix, mean: NDArray[np.float64], count: int) -> FloatMatrix:
    """Return the ``count`` axes (d, count) float32 of largest variance, orthonormal.

    Of ``x`` (n, d) and its mean. The sign of an axis is such that its largest entry is positive.
    """
    centred = x - mean.astype(np.float32)
    covariance = (centred.T @ centred).astype(np.float64) / len(x)
    _, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, ::-1][:, :count]
    largest = np.abs(axes).argmax(axis=0)
    return np.asarray(axes * np.sign(axes[largest, np.arange(count)]), np.float32)


def _scale_of(rotated: FloatMatrix) -> np.float32:
    """Return how many steps of a byte one unit of length is."""
    sample = np.abs(rotated[sample_rows(len(rotated), 20_000, 0)])
    most = float(np.quantile(sample, CLIPPED))
    return np.float32(127 / most if most > 0 else 1.0)


def neighbours_side_by_side(centroids: FloatMatrix) -> IdArray:
    """Return an order of centroids (k, d) in which each is followed by the nearest one left."""
    k = len(centroids)
    norms = (centroids.astype(np.float64) ** 2).sum(axis=1)
    order = np.empty(k, np.int64)
    left = np.ones(k, bool)
    here = int(np.argmin(centroids[:, 0]))
    for i in range(k):
        order[i], left[here] = here, False
        if i + 1 < k:
            others = np.flatnonzero(left)
            distances = norms[others] - 2 * (centroids[others] @ centroids[here])
            here = int(others[np.argmin(distances)])
    return order
