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
from dataclasses import asdict
from functools import partial
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._file import IndexFile, Section, array_section
from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.clustering import kmeans, sample_rows
from pqlib.indexes.base import Index
from pqlib.indexes.blocks import (
    PRODUCT_BYTES,
    SMALL_BATCH,
    SMALL_BYTES,
    rows_per_block,
)
from pqlib.indexes.kernels import portable
from pqlib.indexes.kernels.batch import Loops
from pqlib.indexes.kernels.layout import GROUP, LANES, LARGEST_D, MOST_COMPONENTS, pack
from pqlib.indexes.metric import refuse_bytes
from pqlib.indexes.packed import PackedLists, neighbours_side_by_side, unpack_keys
from pqlib.indexes.rotation import ROTATIONS, Rotation, scale_of
from pqlib.indexes.stages import Lap, SearchSettings, median_seconds, no_lap
from pqlib.indexes.store import VectorStore

RERANKED = (None, "float32", "uint8")
COMPONENTS = 64
"""Components coded, where nothing is said."""
COARSE_ITERATIONS = 10


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
    engine : "native" or "portable", see ``pqlib.indexes.kernels``; None: native where it can be
        used
    metric : see ``Index``; with another one than "l2", d is ``width`` in what is said above

    Attributes
    ----------
    settings : the ``SearchSettings`` of a search that is given none

    Raises
    ------
    ValueError
        When an argument is out of range.
    ImportError
        When the engine asked for is not there.
    """

    SAVED = ("d", "n_lists", "components", "rotation", "rerank", "max_train", "seed")
    mappable = ("codes", "vectors", "ids")

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
        metric: str = "l2",
    ) -> None:
        super().__init__(d, metric)
        d = self.width
        refuse_bytes(metric, rerank)
        self.n_lists = _checks.integer("n_lists", n_lists, 1)
        if components is None:
            components = min(d, COMPONENTS) if rotation else d
        self.components = _checks.integer(
            "components", components, 1, d, "A rotation makes no more components than d."
        )
        self.rotation = _checks.choice("rotation", rotation, ROTATIONS)
        self.rerank = _checks.choice("rerank", rerank, RERANKED)
        for wrong, words in (
            (
                rotation is None and components != d,
                f"components={components} without a rotation: expected d={d}, since the first "
                "components are no better than others. Use rotation='pca' or code all of them.",
            ),
            (
                self.components > MOST_COMPONENTS,
                f"components={components}: expected at most {MOST_COMPONENTS}, for scores to fit "
                "32 bits. Use rotation='pca' with fewer components.",
            ),
            (
                rerank == "uint8" and d > LARGEST_D,
                f"d={d} with rerank='uint8': expected at most {LARGEST_D}, for distances to fit "
                "32 bits. Use rerank='float32'.",
            ),
        ):
            if wrong:
                raise ValueError(words)
        self.max_train = None if max_train is None else _checks.integer("max_train", max_train, 1)
        self.seed = _checks.seed(seed)
        self._loops = Loops(engine)
        self._packed = PackedLists(self.n_lists, d, rerank)
        self.settings = SearchSettings(min(self.n_lists, max(1, self.n_lists // 32)), 50)

    @property
    def _width(self) -> int:
        """Components of a code as it is laid out, in whole groups."""
        return -(-self.components // GROUP) * GROUP

    # Training and adding -------------------------------------------------------------------

    def train(self, xt: FloatMatrix, axes: FloatMatrix | None = None) -> Self:
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
        xt = self._check_train(xt)
        rows = sample_rows(len(xt), self.max_train or len(xt), self.seed)
        if len(rows) < self.n_lists:
            raise ValueError(
                f"xt has {len(xt)} training vectors (max_train={self.max_train}): "
                f"n_lists={self.n_lists} lists need at least as many. Pass more vectors or lower "
                "n_lists."
            )
        sample = xt if len(rows) == len(xt) else xt[rows]
        self._turn = Rotation.learn(sample, self.rotation, self.components, self._width, axes)
        rotated = self._turn.apply(sample) - self._turn.center
        self._scale = scale_of(rotated)
        if self.space.converts:
            # Queries lie elsewhere than vectors then, and have to fit the bytes too.
            asked = self.space.queries(self.space.outside(sample))
            asked = self._turn.apply(asked) - self._turn.center
            self._scale = min(self._scale, scale_of(asked))
        found = kmeans(rotated, self.n_lists, niter=COARSE_ITERATIONS, seed=self.seed)
        self._set_centroids(found.centroids[neighbours_side_by_side(found.centroids)])
        self.is_trained = True
        return self

    def _set_centroids(self, centroids: FloatMatrix) -> None:
        self._centroids, center = np.ascontiguousarray(centroids), np.zeros_like(centroids[0])
        codes, _ = self._loops.quantize(self._centroids, center, self._scale)
        self._coarse = pack(codes, np.array([0, self.n_lists], np.int64))

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        whole: NDArray[Any] = np.empty((len(xb), 0), np.uint8)
        if self.rerank is not None:
            whole = VectorStore.kinds[self.rerank](self.width).convert(xb)
        if whole is xb and not self.space.converts:
            whole = xb.copy()  # it is put in order later; until then the array is the caller's
        step = rows_per_block(4 * (self.width + self._width))
        homes = np.empty(len(xb), np.int64)
        codes = np.empty((len(xb), self._width), np.int8)
        for start in range(0, len(xb), step):
            part = slice(start, start + step)
            rotated = self._turn.apply(xb[part])
            codes[part], _ = self._loops.quantize(rotated, self._turn.center, self._scale)
            _, nearest = faiss.knn(rotated - self._turn.center, self._centroids, 1)
            homes[part] = nearest[:, 0]
        self._packed.add(homes, codes, whole)

    # Searching -----------------------------------------------------------------------------

    def search(
        self,
        xq: FloatMatrix,
        k: int = 10,
        nprobe: int | None = None,
        candidates: int | None = None,
        margin: float | None = None,
        max_memory: int | None = None,
    ) -> Found:
        """Return the ``k`` nearest vectors of each query among the candidates.

        xq, k, max_memory, the result and the errors are those of ``Index.search``. Without
        re-ranking, distances are those of the codes. Arguments that are None come from
        ``settings``; ``margin=-1`` switches adaptive probing off.

        Parameters
        ----------
        nprobe : inverted lists probed, 1..n_lists
        candidates : re-ranked, at least k
        margin : see ``SearchSettings``
        """
        xq, k = self._check_search(xq, k, finite=False)
        chosen = self._chosen(k, nprobe, candidates, margin)

        need = partial(self._search_bytes, k=k, chosen=chosen)
        return self._in_blocks(
            lambda block: self._run(block, k, chosen)[:2], xq, k, max_memory, need
        )

    def _chosen(
        self,
        k: int,
        nprobe: int | None = None,
        candidates: int | None = None,
        margin: float | None = None,
    ) -> SearchSettings:
        """Return the settings of a search, checked; no margin is -1."""
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
        return SearchSettings(nprobe, min(candidates, self.ntotal), float(margin))

    def _search_bytes(self, nq: int, k: int, chosen: SearchSettings) -> int:
        """Return the most bytes that a search of ``nq`` queries takes."""
        lists, kept = chosen.nprobe, chosen.candidates
        width, longest = self._width, int(self.list_sizes.max())
        # Of each thread: centroids' scores and places, those of codes, and what is kept of them.
        room = max(512, 8 * kept) + kept + longest + 4 * LANES
        alone = 8 * (self.n_lists + 4 * LANES) + 8 * room + 8 * (kept + lists)
        if self._loops.module.NAME == "portable":
            alone += portable.working_bytes(self.n_lists, lists, longest, width)
        each = 8 * width + 8 * lists + 48 * k + self.width + 32
        products = PRODUCT_BYTES if nq > SMALL_BATCH else 0
        return SMALL_BYTES + products + nq * each + faiss.omp_get_max_threads() * alone

    def search_cost(
        self, xq: FloatMatrix, k: int = 10, *args: Any, **kwargs: Any
    ) -> dict[str, IdArray]:
        """Count the distance computations of a search by stage; same arguments as ``search``.

        Returns
        -------
        dict of (nq,) int64 arrays
            "inner": distances to centroids; "codes": codes scanned; "vectors": exact distances
        """
        xq, k = self._check_search(xq, k, finite=False)
        chosen = self._chosen(k, *args, **kwargs)
        scanned = self._run(self.space.queries(xq), k, chosen)[2]
        reranked = np.minimum(scanned, chosen.candidates if self.rerank else 0)
        inner = np.full(len(xq), self.n_lists, np.int64)
        return {"inner": inner, "codes": scanned, "vectors": reranked}

    def profile(
        self, xq: FloatMatrix, k: int = 10, *args: Any, repeats: int = 5, **kwargs: Any
    ) -> dict[str, float]:
        """Measure what the stages of a search of this batch take; other arguments as ``search``.

        Parameters
        ----------
        repeats : timed searches, after one that is not

        Returns
        -------
        dict of float
            Median seconds of the batch, with all threads, of each of ``STAGES``: "rotation", with
            the quantization of the queries; "routing"; "scan"; "re-ranking", what the pass takes
            more than one without whole vectors; "rest": checks, order of queries, results

        Raises
        ------
        ValueError
            As ``search``, and when ``repeats`` is below 1.
        """

        def search(lap: Lap, rerank: bool) -> object:
            checked, most = self._check_search(xq, k, finite=False)
            return self._run(
                self.space.queries(checked), most, self._chosen(most, *args, **kwargs), lap, rerank
            )

        return median_seconds(search, self.rerank is not None, repeats)

    def _run(
        self,
        xq: FloatMatrix,
        k: int,
        chosen: SearchSettings,
        lap: Lap = no_lap,
        rerank: bool = True,
    ) -> tuple[FloatMatrix, IdArray, IdArray]:
        """Return distances, ids and codes scanned; ``lap`` is told the stages that end."""
        blocks, rows, whole = self._packed.content()
        lap("rest")
        rotated = self._turn.apply(xq)
        # NaN and infinity go through the product; looking at that is cheaper than at the queries.
        if not np.isfinite(rotated).all():
            _checks.vectors("xq", xq, self.width, large=True)
        queries, offsets = self._loops.quantize(rotated, self._turn.center, self._scale)
        vectors = self._loops.to_bytes(xq) if self.rerank == "uint8" else xq
        lap("rotation")
        routed = self._loops.route(self._coarse, self.n_lists, queries, chosen.nprobe)
        lap("routing")
        order = np.argsort(routed[0][:, 0], kind="stable")
        lap("rest")
        keys, scanned = self._loops.search(
            blocks, whole if rerank else whole[:0], order, routed, queries, offsets, vectors,
            k, **chosen.arguments(),
        )  # fmt: skip
        lap("scan")
        bits, positions, missing = unpack_keys(keys, rows)
        if self.rerank is None:
            half = bits.astype(np.float64) + offsets[:, None]
            distances = np.maximum(2 * half / float(self._scale) ** 2, 0).astype(np.float32)
        else:
            whole_numbers = vectors.dtype == np.uint8
            distances = bits.astype(np.float32) if whole_numbers else bits.view(np.float32)
        if missing is not None:
            distances[missing] = np.inf
        ids = self._to_ids(positions)
        lap("rest")
        return distances, ids, scanned

    # What it is ----------------------------------------------------------------------------

    @property
    def engine(self) -> str:
        """Which implementation runs: "native" or "portable"."""
        return str(self._loops.module.NAME)

    @property
    def list_sizes(self) -> IdArray:
        """Vectors in each inverted list, (n_lists,) int64."""
        self._need_vectors()
        return self._packed.sizes()

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        if not self.is_trained:
            return {}
        parts = {
            "centroids": self._centroids.nbytes + self._coarse.nbytes,
            "rotation": self._turn.nbytes,
        }
        if self.ntotal:
            parts |= self._packed.memory()
            parts["ids"] += self._id_memory()
        return parts

    def describe(self) -> str:
        """Return a printable summary: parameters, lists, settings, memory."""
        rotation = "PCA" if self.rotation == "pca" else "no rotation"
        settings = ", ".join(f"{name}={value}" for name, value in asdict(self.settings).items())
        lines = [
            f"CascadeIndex of {self.ntotal:,} vectors of dimension {self.d}"
            + ("" if self.metric == "l2" else f", by {self.metric}"),
            f"  {rotation}, {self.components} components in a byte each; {self.n_lists} lists",
            f"  re-ranking: {self.rerank or 'none'}; loops: {self._loops.module.NAME} "
            f"({self._loops.module.VERSION})",
            f"  search: {settings}",
        ]
        if self.ntotal:
            sizes = self.list_sizes
            lines.append(f"  list sizes {sizes.min()} to {sizes.max()}, mean {sizes.mean():.1f}")
            lines += self._memory_lines()
        return "\n".join(lines)

    # Files ---------------------------------------------------------------------------------

    def _sections(self) -> list[Section]:
        return [
            array_section("settings", self.settings.to_array()),
            *self._turn.sections(),
            array_section("scale", np.array([self._scale], np.float32)),
            array_section("centroids", self._centroids),
            *(self._packed.sections() if self.ntotal else []),
        ]

    def _restore(self, file: IndexFile) -> None:
        try:
            self.settings = SearchSettings.from_array(file.read("settings", "<f8", (3,)))
            _checks.integer("nprobe", self.settings.nprobe, 1, self.n_lists)
            _checks.integer("candidates", self.settings.candidates, 1)
        except (ValueError, OverflowError) as problem:
            raise file.refuse(problem) from None
        self._turn = Rotation.of_file(file, self.width, self._width, self.rotation is None)
        scale = file.read("scale", "<f4", (1,))
        centroids = file.read("centroids", "<f4", (self.n_lists, self._width))
        if not (np.isfinite(scale).all() and np.isfinite(centroids).all()):
            raise file.refuse("its scale or centroids are not finite")
        self._scale = np.float32(scale[0])
        self._set_centroids(centroids)
        if self.ntotal:
            self._packed.restore(file, self.ntotal, self._width)
