"""What the rungs of the ladder are, and the indexes that they are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import faiss
import numpy as np

from pqlib._types import FloatMatrix
from pqlib.clustering import TwoLevelClustering, default_sizes, sample_rows, two_level_kmeans
from pqlib.datasets import Dataset
from pqlib.indexes import BruteForce, KMeansIndex, MultiLevelPQ
from pqlib.study.builders import Built, Setting, faiss_built, our_built
from pqlib.study.recipes import divisor, power_of_two, prepare
from pqlib.tuning import Calibrated, Composition, Tuned

TRAIN = 20_000
OPQ_ITERATIONS, OPQ_TRAIN = 8, 10_000
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: ``idea`` says what it adds, and to which rung, in a sentence.

    ``build`` makes the index, which counts its work; ``build_s`` are the seconds that it took,
    where it was built before. ``settings`` of the search are swept, the cheap ones first.
    """

    name: str
    idea: str
    build: Callable[[], Built]
    settings: Sequence[Setting]
    build_s: float | None = None


def by_rule(ds: Dataset) -> Composition:
    """Return the composition that rungs have before tuning: about sqrt(n) lists, 64 components."""
    parts = _Parts(ds, 0)
    rotation = "pca" if parts.components < ds.d else None
    return Composition(parts.lists_of_components, parts.components, rotation)


def rungs(ds: Dataset, ours: Calibrated, tuned: Tuned, seed: int = 0) -> list[Rung]:
    """Return the rungs for a data set, from exact search up.

    ``ours`` is ``tuned.calibrate(by_rule(ds))``, for the rungs before the last, ``tuned``. Their
    settings are calibrated on held-back vectors, never on the queries of ``ds``.
    """
    parts = _Parts(ds, seed)
    width = parts.components
    pca = f"PCA to {width}" if width < ds.d else "no rotation"
    probes, turned = _probes(parts.n_inner), _probes(parts.lists_of_components)
    refined = [{**setting, "k_factor": factor} for setting in turned for factor in (2, 4, 8, 16)]
    outer = [max(1, round(share * parts.n_outer)) for share in (0.35, 0.6, 0.8)]
    two_levels = [{**setting, "nprobe_outer": p} for p in outer for setting in probes]
    store, keep = "float16", "Keep the whole vectors as float16, in half of the memory."
    if ds.whole_numbers:
        store = "uint8"
        keep = "Keep the whole vectors as bytes, which loses nothing, in a quarter of the memory."
    scan = parts.fast_scan
    cascade = partial(our_built, ours.index)
    last = tuned.tried[tuned.tried.composition == str(tuned.composition)].iloc[0]
    settings: list[Setting] = [{}]  # exact search has none
    if tuned.composition.n_lists is not None:
        settings = [tuned.settings(recall) for recall in tuned.curve.recall]
    return [
        Rung("exact search", "Compare each query with every vector.", parts.exact, [{}]),
        Rung(
            "k-means lists", "Scan the vectors of the nearest clusters only.", parts.lists, probes
        ),
        Rung(
            "second level",
            "Rank the centroids of the nearest outer clusters only, instead of all.",
            parts.lists,
            two_levels,
        ),
        Rung(
            "PQ of residuals",
            f"Scan codes of {parts.m} bytes, one codebook set for all lists, not vectors.",
            partial(parts.codes, "shared"),
            probes,
        ),
        Rung(
            "codebooks per cluster",
            "Train a codebook set for each list, with all of its vectors.",
            partial(parts.codes, "per-cluster"),
            probes,
        ),
        Rung(
            "PCA first",
            f"Rotate to principal components, keep {width}, then lists and shared codes.",
            partial(parts.rotated, "PCA"),
            turned,
        ),
        Rung(
            "OPQ after PCA",
            "Turn the components so that sub-vectors share the variance (OPQ), then the same.",
            partial(parts.rotated, "OPQ"),
            turned,
        ),
        Rung(
            "4-bit FastScan, residuals",
            f"One code of 4 bits for each of {width} components; tables in SIMD registers.",
            partial(scan, True, None),
            turned,
        ),
        Rung(
            "4-bit FastScan, vectors",
            "Code the vectors themselves: one table serves all lists.",
            partial(scan, False, None),
            turned,
        ),
        Rung(
            "re-rank, float32",
            "Compare the best candidates with the whole vectors.",
            partial(scan, False, "float32"),
            refined,
        ),
        Rung(f"re-rank, {store}", keep, partial(scan, False, store), refined),
        Rung(
            "stages in cache order",
            f"Our own loops ({pca}): components of 8 bits; lists, vectors and queries in one "
            "order; selection without a heap.",
            cascade,
            ours.fixed,
            ours.build_s,
        ),
        Rung(
            "adaptive probing",
            "Probe fewer lists for easy queries, by a margin calibrated on held-back vectors.",
            cascade,
            ours.adaptive,
            ours.build_s,
        ),
        Rung(
            "tuned whole",
            f"Lists, components and settings chosen by pqlib.tune: {tuned.composition}.",
            partial(our_built, tuned.index),
            settings,
            float(last.build_s),
        ),
    ]


def _probes(lists: int) -> list[Setting]:
    return [{"nprobe": p} for p in PROBES if p <= lists]


@dataclass
class _Parts:
    """Builds the indexes of the rungs, with sizes that follow from the data."""

    ds: Dataset
    seed: int

    def __post_init__(self) -> None:
        n, d = self.ds.train.shape
        self.n_inner, self.n_outer = default_sizes(n)
        self.m = divisor(d, 16)
        self.components = min(64, d)
        # A list needs eight training vectors, as in tuning.
        self.lists_of_components = max(1, min(power_of_two(math.sqrt(n)), n // 8))

    @cached_property
    def sample(self) -> FloatMatrix:
        """Return the vectors that are trained on."""
        return self.ds.train[sample_rows(self.ds.n, TRAIN, self.seed)]

    def _clustering(self) -> TwoLevelClustering:
        # Made anew for each rung: what building takes is shown, and this is most of it.
        return two_level_kmeans(self.sample, self.n_inner, self.n_outer, seed=self.seed)

    def exact(self) -> Built:
        index = BruteForce(self.ds.d, copy=False)
        index.add(self.ds.train)
        return our_built(index)

    def lists(self) -> Built:
        index = KMeansIndex(self.ds.d, self.n_inner, self.n_outer, seed=self.seed)
        index.train(self.sample, clustering=self._clustering())
        index.add(self.ds.train)
        return our_built(index)

    def codes(self, codebooks: str) -> Built:
        index = MultiLevelPQ(
            self.ds.d, self.n_inner, self.n_outer, self.m, codebooks=codebooks, seed=self.seed
        )
        # A list's own codebooks need 2**nbits of its vectors; a sample has too few.
        shared = codebooks == "shared"
        index.train(self.sample if shared else self.ds.train, clustering=self._clustering())
        index.add(self.ds.train)
        if shared:
            return our_built(index)
        own = index.n_inner - index.n_shared_clusters
        if not own:
            raise ValueError(f"none of {index.n_inner} clusters has {1 << index.nbits} vectors")
        return our_built(index, f"{own} of {index.n_inner} clusters have their own")

    def rotated(self, kind: str) -> Built:
        m = divisor(self.components, 32)
        return self._faiss(f"PQ{m}", True, m if kind == "OPQ" else None)

    def fast_scan(self, residuals: bool, store: str | None) -> Built:
        refine = {None: "", "float32": ",RFlat", "uint8": ",Refine(SQ8_direct)"}
        refine["float16"] = ",Refine(SQfp16)"
        return self._faiss(f"PQ{self.components}x4fs{refine[store]}", residuals)

    def _faiss(self, code: str, residuals: bool, opq: int | None = None) -> Built:
        """Return lists of a code behind PCA, and behind OPQ for so many sub-vectors."""
        turned = f"PCA{self.components}," + (f"OPQ{opq}," if opq else "")
        index = faiss.index_factory(self.ds.d, f"{turned}IVF{self.lists_of_components},{code}")
        prepare(index, self.seed, residuals)
        codes = faiss.downcast_index(index)
        if isinstance(codes, faiss.IndexRefine):
            codes = faiss.downcast_index(codes.base_index)
        if opq:
            matrix = faiss.downcast_VectorTransform(codes.chain.at(1))
            matrix.niter, matrix.max_train_points = OPQ_ITERATIONS, OPQ_TRAIN
        index.train(self.sample)
        index.add(self.ds.train)
        work = partial(_faiss_work, codes, faiss.extract_index_ivf(codes))
        return replace(faiss_built(index), work=work)


def _faiss_work(index: Any, ivf: Any, xq: FloatMatrix, k: int, setting: Setting) -> dict[str, Any]:
    x = xq
    for i in range(index.chain.size()):
        x = index.chain.at(i).apply(x)
    _, keys = ivf.quantizer.search(x, setting["nprobe"])
    sizes = np.array([ivf.invlists.list_size(c) for c in range(ivf.nlist)])
    return {
        "centroids": ivf.nlist,
        "codes": sizes[keys].sum(axis=1),
        "vectors": setting.get("k_factor", 0) * k,
    }
