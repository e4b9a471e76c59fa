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

from pqlib import _checks
from pqlib._file import IndexFile, Section, array_section
from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.indexes.blocks import (
    PRODUCT_BYTES,
    SMALL_BATCH,
    SMALL_BYTES,
)
from pqlib.indexes.byte_index import ByteIndex
from pqlib.indexes.kernels import portable
from pqlib.indexes.kernels.batch import Loops
from pqlib.indexes.kernels.layout import GROUP, LANES
from pqlib.indexes.packed import PackedLists, unpack_keys
from pqlib.indexes.stages import Lap, SearchSettings, median_seconds, no_lap


class CascadeIndex(ByteIndex):
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
    STEP, COMPONENTS = GROUP, 64

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
        super().__init__(d, components, rotation, rerank, max_train, seed, metric, Loops(engine))
        self.n_lists = _checks.integer("n_lists", n_lists, 1)
        self._packed = PackedLists(self.n_lists, self.width, rerank)
        self.settings = SearchSettings(min(self.n_lists, max(1, self.n_lists // 32)), 50)

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
        sample = self._sample(xt)
        if len(sample) < self.n_lists:
            raise ValueError(
                f"xt has {len(xt)} training vectors (max_train={self.max_train}): "
                f"n_lists={self.n_lists} lists need at least as many. Pass more vectors or lower "
                "n_lists."
            )
        self._cluster(self._learn_bytes(sample, axes), self.n_lists)
        self.is_trained = True
        return self

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        whole = self._kept(xb)
        homes = np.empty(len(xb), np.int64)
        codes = np.empty((len(xb), self._width), np.int8)
        for part, rotated, codes[part] in self._rotated(xb):
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
        queries, offsets = self._asked(xq)
        vectors = self._whole_queries(xq)
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
        distances = self._distances(bits, offsets, vectors, missing)
        ids = self._to_ids(positions)
        lap("rest")
        return distances, ids, scanned

    # What it is ----------------------------------------------------------------------------

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
            *self._byte_sections(),
            *(self._packed.sections() if self.ntotal else []),
        ]

    def _restore(self, file: IndexFile) -> None:
        try:
            self.settings = SearchSettings.from_array(file.read("settings", "<f8", (3,)))
            _checks.integer("nprobe", self.settings.nprobe, 1, self.n_lists)
            _checks.integer("candidates", self.settings.candidates, 1)
        except (ValueError, OverflowError) as problem:
            raise file.refuse(problem) from None
        self._restore_bytes(file, self.n_lists)
        if self.ntotal:
            self._packed.restore(file, self.ntotal, self._width)
