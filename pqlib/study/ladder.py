"""The ladder: from exact search to the tuned index, one idea a rung, measured side by side.

Each rung adds one idea to one before it, and says to which. All are swept over their search
parameters on the same queries in one run; what a rung costs in distance computations, bytes and
building stands beside its speed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import faiss
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib import _checks, evaluation
from pqlib.clustering import TwoLevelClustering, default_sizes, sample_rows, two_level_kmeans
from pqlib.datasets import Dataset
from pqlib.indexes import BruteForce, CascadeIndex, KMeansIndex, MultiLevelPQ
from pqlib.study.choosing import TARGETS, needless, worth_timing
from pqlib.study.recipes import Built, Setting, faiss_built, power_of_two, setting_text
from pqlib.tuning.search import Calibrated, Composition, Tuned

FloatMatrix = NDArray[np.float32]
IdArray = NDArray[np.int64]
Work = Callable[[FloatMatrix, int, Setting], Mapping[str, Any]]

CALL_SECONDS = 0.12
"""A timed call searches as many of the queries as take about so long, or all of them."""
FEWEST_QUERIES = 200
SCOUTED = 500
TRAIN = 20_000
OPQ_ITERATIONS, OPQ_TRAIN = 8, 10_000
CALIBRATED = 10  # settings up to which all are timed: they were chosen with care


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Attributes
    ----------
    name : short, as figures show it
    idea : what it adds, and to which rung, in a sentence
    build : makes the index and returns it with the function that counts its work
    settings : of the search, to be swept, the cheap ones first
    build_s : seconds that building took, where it was built before
    """

    name: str
    idea: str
    build: Callable[[], tuple[Built, Work]]
    settings: Sequence[Setting]
    build_s: float | None = None


@dataclass
class _Climbed:
    """A rung that is built, or was not, for a reason."""

    rung: Rung
    number: int
    built: Built | None = None
    work: Work | None = None
    build_s: float = math.nan
    reason: str = ""
    kept: list[tuple[Setting, float]] = field(default_factory=list)  # with seconds of a query


@dataclass(frozen=True)
class Ladder:
    """What was measured.

    Attributes
    ----------
    points : a row for each rung and setting: "number", "method" (the rung), "setting" (text),
        "recall" (all queries), "queries" of a timed call, "qps", "qps_min", "qps_max", and mean
        counts of a query: "centroids", "codes", "vectors" compared
    rungs : a row for each rung: "number", "method", "idea", "bytes_per_vector", "build_s",
        "highest" (recall reached), for each of ``TARGETS`` "qps_90" and so on (missing where not
        reached), "codes_95" and "vectors_95", the counts at recall 0.95, "reason" where it could
        not be built, and a "note" on what was
    """

    points: pd.DataFrame
    rungs: pd.DataFrame


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
    store = "uint8" if ds.whole_numbers else "float16"
    made = [
        Rung("exact search", "Compare each query with every vector.", parts.exact, [{}]),
        Rung(
            "k-means lists",
            "Scan the vectors of the nearest clusters only.",
            partial(parts.lists, False),
            _probes(parts.n_inner),
        ),
        Rung(
            "second level",
            "Rank the centroids of the nearest outer clusters only, instead of all.",
            partial(parts.lists, True),
            [
                setting
                for share in (0.35, 0.6, 0.8)
                for setting in _probes(
                    parts.n_inner, nprobe_outer=max(1, round(share * parts.n_outer))
                )
            ],
        ),
        Rung(
            "PQ of residuals",
            f"Scan codes of {parts.m} bytes, one codebook set for all lists, not vectors.",
            partial(parts.codes, "shared"),
            _probes(parts.n_inner),
        ),
        Rung(
            "codebooks per cluster",
            "Train a codebook set for each list, with all of its vectors.",
            partial(parts.codes, "per-cluster"),
            _probes(parts.n_inner),
        ),
        Rung(
            "PCA first",
            f"Rotate to principal components, keep {width}, then lists and shared codes.",
            partial(parts.rotated, "PCA"),
            _probes(parts.lists_of_components),
        ),
        Rung(
            "OPQ after PCA",
            "Turn the components so that sub-vectors share the variance (OPQ), then the same.",
            partial(parts.rotated, "OPQ"),
            _probes(parts.lists_of_components),
        ),
        Rung(
            "4-bit FastScan, residuals",
            f"One code of 4 bits for each of {width} components; tables in SIMD registers.",
            partial(parts.fast_scan, True, None),
            _probes(parts.lists_of_components),
        ),
        Rung(
            "4-bit FastScan, vectors",
            "Code the vectors themselves: one table serves all lists.",
            partial(parts.fast_scan, False, None),
            _probes(parts.lists_of_components),
        ),
        Rung(
            "re-rank, float32",
            "Compare the best candidates with the whole vectors.",
            partial(parts.fast_scan, False, "float32"),
            _refined(parts.lists_of_components),
        ),
        Rung(
            f"re-rank, {store}",
            "Keep the whole vectors as bytes, which loses nothing, in a quarter of the memory."
            if store == "uint8"
            else "Keep the whole vectors as float16, in half of the memory.",
            partial(parts.fast_scan, False, store),
            _refined(parts.lists_of_components),
        ),
    ]
    made.append(
        Rung(
            "stages in cache order",
            f"Our own loops ({pca}): components of 8 bits; lists, vectors and queries in one "
            "order; selection without a heap.",
            partial(_cascade, ours.index),
            ours.fixed,
            ours.build_s,
        )
    )
    made.append(
        Rung(
            "adaptive probing",
            "Probe fewer lists for easy queries, by a margin calibrated on held-back vectors.",
            partial(_cascade, ours.index),
            ours.adaptive,
            ours.build_s,
        )
    )
    made.append(
        Rung(
            "tuned whole",
            f"Lists, components and settings chosen by pqlib.tune: {tuned.composition}.",
            partial(_tuned, tuned),
            _tuned_settings(tuned),
            float(tuned.tried.build_s[tuned.tried.composition == str(tuned.composition)].iloc[0]),
        )
    )
    return made


def climb(
    ds: Dataset,
    steps: Sequence[Rung],
    k: int = 10,
    repeats: int = 3,
    progress: bool = True,
) -> Ladder:
    """Build all rungs, sweep their searches and time them, interleaved.

    Settings are first tried on a part of the queries; those that others of the same rung beat are
    left out. The recall of the rest is of all queries. Slow searches are timed on as many of the
    queries as take ``CALL_SECONDS``.

    Parameters
    ----------
    ds : whose queries are searched
    steps : from ``rungs``
    k : neighbours
    repeats : timed calls of each setting, the median of which counts
    progress : show bars on a terminal

    Raises
    ------
    ValueError
        When k is more than the ground truth holds.
    """
    held = ds.neighbors.shape[1]
    k = _checks.integer("k", k, 1, held, f"The ground truth of {ds.name} holds {held} neighbours.")
    climbed = [_Climbed(rung, i) for i, rung in enumerate(steps)]
    with tqdm(climbed, leave=False, disable=None if progress else True) as bar:
        for step in bar:
            bar.set_description(f"building {step.rung.name}")
            start = time.perf_counter()
            try:
                step.built, step.work = step.rung.build()
            except (ValueError, RuntimeError) as problem:  # of a size that some rung cannot take
                step.reason = str(problem)
                continue
            seconds = time.perf_counter() - start
            step.build_s = seconds if step.rung.build_s is None else step.rung.build_s
            _scout(step, ds, k)
    points = _points(climbed, ds, k, repeats, progress)
    return Ladder(points, _summary(climbed, points, ds))


def _scout(step: _Climbed, ds: Dataset, k: int) -> None:
    assert step.built is not None
    xq = ds.test[:SCOUTED]
    settings: list[Setting] = []
    recalls: list[float] = []
    speeds: list[float] = []
    for setting in step.rung.settings:
        if needless(setting, settings, recalls):
            continue
        if not settings:
            step.built.search(xq[:50], k, setting)
        start = time.perf_counter()
        ids = step.built.search(xq, k, setting)
        speeds.append(len(xq) / (time.perf_counter() - start))
        settings.append(setting)
        recalls.append(evaluation.recall_at_k(ids, ds, k))
    few = len(step.rung.settings) <= CALIBRATED
    chosen = range(len(settings)) if few else worth_timing(np.array(recalls), np.array(speeds))
    step.kept = [(settings[i], 1 / speeds[i]) for i in chosen]


def _points(
    climbed: Sequence[_Climbed], ds: Dataset, k: int, repeats: int, progress: bool
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    calls: dict[str, Callable[[], object]] = {}
    every = [(step, setting, s) for step in climbed for setting, s in step.kept]
    for step, setting, seconds in tqdm(
        every, desc="recall", leave=False, disable=None if progress else True
    ):
        assert step.built is not None
        assert step.work is not None
        few = int(min(ds.nq, max(FEWEST_QUERIES, CALL_SECONDS / seconds)))
        # Exact search is slow, and its recall is known.
        whole = ds.nq * seconds < 40 * CALL_SECONDS
        ids = step.built.search(ds.test if whole else ds.test[:few], k, setting)
        cost = step.work(ds.test[: min(ds.nq, SCOUTED)], k, setting)
        rows.append(
            {
                "number": step.number,
                "method": step.rung.name,
                "setting": setting_text(setting),
                "recall": evaluation.recall_at_k(ids, ds, k),
                "queries": few,
                **{name: float(np.mean(cost[name])) for name in ("centroids", "codes", "vectors")},
            }
        )
        calls[str(len(rows) - 1)] = partial(step.built.search, ds.test[:few], k, setting)
    timings = evaluation.time_calls(calls, repeats, progress=progress)
    table = pd.DataFrame(rows)
    for name, column in (("qps", "median_s"), ("qps_min", "max_s"), ("qps_max", "min_s")):
        table[name] = table.queries / timings[column]
    return table


def _summary(climbed: Sequence[_Climbed], points: pd.DataFrame, ds: Dataset) -> pd.DataFrame:
    at = {
        target: evaluation.at_recall(points, target, "qps").set_index("method")
        for target in TARGETS
    }
    rows = []
    for step in climbed:
        own = points[points.method == step.rung.name]
        enough = own[own.recall >= 0.95]
        nearest = enough.loc[enough.recall.idxmin()] if len(enough) else None
        row: dict[str, Any] = {
            "number": step.number,
            "method": step.rung.name,
            "idea": step.rung.idea,
            "highest": own.recall.max() if len(own) else math.nan,
        }
        for target, table in at.items():
            there = step.rung.name in table.index
            row[f"qps_{round(100 * target)}"] = (
                float(table.qps[step.rung.name]) if there else math.nan
            )
        for name in ("centroids", "codes", "vectors"):
            row[f"{name}_95"] = math.nan if nearest is None else nearest[name]
        row["bytes_per_vector"] = math.nan if step.built is None else step.built.bytes / ds.n
        row["build_s"] = step.build_s
        row["reason"] = step.reason
        row["note"] = "" if step.built is None else step.built.note
        rows.append(row)
    return pd.DataFrame(rows)


# What rungs are made of ----------------------------------------------------------------------


@dataclass
class _Parts:
    """Builds the indexes of the rungs, with sizes that follow from the data."""

    ds: Dataset
    seed: int

    def __post_init__(self) -> None:
        n, d = self.ds.train.shape
        self.n_inner, self.n_outer = default_sizes(n)
        self.m = max(v for v in range(1, min(16, d) + 1) if d % v == 0)
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

    def exact(self) -> tuple[Built, Work]:
        index = BruteForce(self.ds.d, copy=False)
        index.add(self.ds.train)

        def work(xq: FloatMatrix, k: int, setting: Setting) -> dict[str, Any]:
            return {"centroids": 0, "codes": 0, "vectors": self.ds.n}

        return _ours(index, lambda xq, k, s: index.search(xq, k)[1]), work

    def lists(self, two_levels: bool) -> tuple[Built, Work]:
        index = KMeansIndex(self.ds.d, self.n_inner, self.n_outer, seed=self.seed)
        index.train(self.sample, clustering=self._clustering())
        index.add(self.ds.train)
        return self._multi_level(index)

    def codes(self, codebooks: str) -> tuple[Built, Work]:
        index = MultiLevelPQ(
            self.ds.d, self.n_inner, self.n_outer, self.m, codebooks=codebooks, seed=self.seed
        )
        # A list's own codebooks need 2**nbits of its vectors; a sample has too few.
        few = codebooks == "shared"
        index.train(self.sample if few else self.ds.train, clustering=self._clustering())
        index.add(self.ds.train)
        if few:
            return self._multi_level(index)
        own = index.n_inner - index.n_shared_clusters
        if not own:
            raise ValueError(f"none of {index.n_inner} clusters has {1 << index.nbits} vectors")
        built, work = self._multi_level(index)
        return replace(built, note=f"{own} of {index.n_inner} clusters have their own"), work

    def _multi_level(self, index: Any) -> tuple[Built, Work]:
        def work(xq: FloatMatrix, k: int, setting: Setting) -> dict[str, Any]:
            cost = index.search_cost(xq, k, **setting)
            return {
                "centroids": cost["outer"] + cost["inner"],
                "codes": cost.get("codes", 0),
                "vectors": cost.get("vectors", 0),
            }

        return _ours(index, lambda xq, k, s: index.search(xq, k, **s)[1]), work

    def rotated(self, kind: str) -> tuple[Built, Work]:
        p = self.components
        m = max(v for v in range(1, min(32, p) + 1) if p % v == 0)
        ivf = faiss.IndexIVFPQ(faiss.IndexFlatL2(p), p, self.lists_of_components, m, 8)
        index = self._transformed(ivf, m if kind == "OPQ" else None)
        return faiss_built(index), partial(_faiss_work, index, ivf)

    def fast_scan(self, residuals: bool, store: str | None) -> tuple[Built, Work]:
        p = self.components
        ivf = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(p), p, self.lists_of_components, p, 4)
        ivf.by_residual = residuals
        inner = self._transformed(ivf, None)
        work = partial(_faiss_work, inner, ivf)
        if store is None:
            return faiss_built(inner), work
        d, kinds = self.ds.d, faiss.ScalarQuantizer
        keeps = {
            "float32": lambda: faiss.IndexFlatL2(d),
            "uint8": lambda: faiss.IndexScalarQuantizer(d, kinds.QT_8bit_direct),
            "float16": lambda: faiss.IndexScalarQuantizer(d, kinds.QT_fp16),
        }[store]()
        keeps.add(self.ds.train)
        index = faiss.IndexRefine(inner, keeps)
        index.ntotal = self.ds.n
        return faiss_built(index), work

    def _transformed(self, ivf: Any, opq: int | None) -> Any:
        """Return ``ivf`` behind PCA, and behind OPQ for so many sub-vectors; trained, filled."""
        p = self.components
        ivf.cp.seed = 1234 + self.seed  # faiss's own for seed 0
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
        "vectors": setting["k_factor"] * k if "k_factor" in setting else 0,
    }


def _ours(index: Any, search: Callable[[FloatMatrix, int, Setting], IdArray]) -> Built:
    return Built(search, index.memory_bytes, faiss.omp_get_max_threads())


def _cascade(index: CascadeIndex) -> tuple[Built, Work]:
    def work(xq: FloatMatrix, k: int, setting: Setting) -> dict[str, Any]:
        cost = index.search_cost(xq, k, **setting)
        return {"centroids": cost["inner"], "codes": cost["codes"], "vectors": cost["vectors"]}

    return _ours(index, lambda xq, k, s: index.search(xq, k, **s)[1]), work


def _tuned(tuned: Tuned) -> tuple[Built, Work]:
    index = tuned.index
    if isinstance(index, CascadeIndex):
        return _cascade(index)

    def work(xq: FloatMatrix, k: int, setting: Setting) -> dict[str, Any]:
        return {"centroids": 0, "codes": 0, "vectors": index.ntotal}

    return _ours(index, lambda xq, k, s: index.search(xq, k)[1]), work


def _tuned_settings(tuned: Tuned) -> list[Setting]:
    if not isinstance(tuned.index, CascadeIndex):
        return [{}]
    return [tuned.settings(r) for r in tuned.curve.recall]


def _probes(lists: int, **more: Any) -> list[Setting]:
    probes = [p for p in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128) if p <= lists]
    return [{"nprobe": p, **more} for p in probes]


def _refined(lists: int) -> list[Setting]:
    return [{**s, "k_factor": f} for s in _probes(lists) for f in (2, 4, 8, 16)]
