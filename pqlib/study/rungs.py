"""What the rungs of the ladder are, and the indexes that they are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib.clustering import TwoLevelClustering, default_sizes, sample_rows, two_level_kmeans
from pqlib.datasets import Dataset
from pqlib.indexes import BruteForce, KMeansIndex, MultiLevelPQ
from pqlib.study.builders import Built, Setting, clustering_seed, faiss_built, our_built
from pqlib.study.recipes import divisor, power_of_two
from pqlib.tuning import Calibrated, Composition, Tuned

FloatMatrix = NDArray[np.float32]

TRAIN = 20_000
OPQ_ITERATIONS, OPQ_TRAIN = 8, 10_000
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Attributes
    ----------
    name : short, as figures show it
    idea : what it adds, and to which rung, in a sentence
    build : makes the index, which counts its work
    settings : of the search, to be swept, the cheap ones first
    build_s : seconds that building took, where it was built before
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

    Parameters
    ----------
    ds : the base is indexed; settings of the last rungs are calibrated on held-back vectors, never
        on the queries of ``ds``
    ours : ``tuned.calibrate(by_rule(ds))``: the rungs before the last
    tuned : the last rung
    seed : of clusterings, samples and codebooks
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
        p = self.components
        m = divisor(p, 32)
        ivf = faiss.IndexIVFPQ(faiss.IndexFlatL2(p), p, self.lists_of_components, m, 8)
        index = self._transformed(ivf, m if kind == "OPQ" else None)
        return replace(faiss_built(index), work=partial(_faiss_work, index, ivf))

    def fast_scan(self, residuals: bool, store: str | None) -> Built:
        p, d = self.components, self.ds.d
        ivf = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(p), p, self.lists_of_components, p, 4)
        ivf.by_residual = residuals
        codes = self._transformed(ivf, None)
        index = codes
        if store is not None:
            keeps = faiss.index_factory(
                d, {"float32": "Flat", "uint8": "SQ8_direct", "float16": "SQfp16"}[store]
            )
            keeps.add(self.ds.train)
            index = faiss.IndexRefine(codes, keeps)
            index.ntotal = self.ds.n
        return replace(faiss_built(index), work=partial(_faiss_work, codes, ivf))

    def _transformed(self, ivf: Any, opq: int | None) -> Any:
        """Return ``ivf`` behind PCA, and behind OPQ for so many sub-vectors; trained, filled."""
        p = self.components
        ivf.cp.seed = clustering_seed(self.seed)
        index = faiss.IndexPreTransform(ivf)
        if opq is not None:
            matrix = faiss.OPQMatrix(p, opq)
            matrix.niter, matrix.max_train_points = OPQ_ITERATIONS, OPQ_TRAIN
            index.prepend_transform(matrix)
        index.prepend_transform(faiss.PCAMatrix(self.ds.d, p))
        index.train(self.sample)
        index.add(self.ds.train)
        return index


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
