"""Indexes over one data set that differ in a parameter at a time, built once and measured alike."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pqlib import _checks, evaluation
from pqlib._types import IdArray
from pqlib.clustering import (
    TwoLevelClustering,
    default_sizes,
    from_centroids,
    kmeans,
    two_level_kmeans,
)
from pqlib.datasets import Dataset
from pqlib.indexes import MultiLevelPQ
from pqlib.quantizers import ProductQuantizer
from pqlib.study.shared import mean_cost, memory, with_interval
from pqlib.study.sweeps import sweep, training_multiplications, within_budget

MODES = ("shared", "per-cluster")
"""Kinds of codebooks."""


@dataclass
class Study:
    """Builds indexes over a data set, sharing what they share, and measures them.

    A clustering is computed once for each number of inner clusters and training vectors, whatever
    codes are made over it. Of the indexes, the last one is kept, and those that ``hold`` names.

    Parameters
    ----------
    nq, timed : queries whose recall is measured, the first of ``ds.test``, and of a timed batch
    max_train : vectors that train k-means and shared codebooks where nothing else is asked for;
        None: as many as faiss takes
    budget : multiplications that one index may spend on training its codebooks; None: any number
    hold : arguments of ``index``, as tuples, of those to be kept; empty: both kinds of codebooks
        with the values held
    n_inner, m, nbits, nprobe : held while another knob turns; 0: those of ``default_sizes``, and
        the largest divisor of d that is at most 8
    resume : folder that keeps what sweeps measured, for a run that was cut off; None: none
    """

    ds: Dataset
    k: int = 10
    nq: int = 2000
    timed: int = 200
    max_train: int | None = None
    seed: int = 0
    budget: float | None = None
    hold: set[tuple[Any, ...]] = field(default_factory=set)
    n_inner: int = 0
    m: int = 0
    nbits: int = 8
    nprobe: int = 8
    resume: str | os.PathLike[str] | None = None
    _clusterings: dict[tuple[Any, ...], TwoLevelClustering] = field(default_factory=dict)
    _assignments: dict[tuple[Any, ...], IdArray] = field(default_factory=dict)
    _indexes: dict[tuple[Any, ...], MultiLevelPQ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.k = _checks.integer("k", self.k, 1, self.ds.neighbors.shape[1])
        self.nq = min(_checks.integer("nq", self.nq, 1), self.ds.nq)
        self.timed = min(_checks.integer("timed", self.timed, 1), self.ds.nq)
        self.store = "uint8" if self.ds.whole_numbers else "float32"
        self.n_inner = self.n_inner or default_sizes(self.ds.n)[0]
        self.n_outer = max(1, round(self.n_inner**0.5))
        self.m = ProductQuantizer(self.ds.d, self.m or None).m
        self.nprobe = min(self.nprobe, self.n_inner)
        self.hold = self.hold or {(self.n_inner, c, self.m, self.nbits, None) for c in MODES}

    @property
    def queries(self) -> NDArray[np.float32]:
        """The queries whose recall is measured, (nq, d)."""
        return self.ds.test[: self.nq]

    @property
    def divisors(self) -> list[int]:
        """Numbers of sub-quantizers that d allows, up to 64."""
        return [m for m in range(1, min(64, self.ds.d) + 1) if self.ds.d % m == 0]

    @property
    def around(self) -> dict[str, list[int]]:
        """Values of "n_inner" and "m" around those held, see ``neighbours_of``."""
        counts = range(2, max(3, self.ds.n // 40))
        return {
            "n_inner": neighbours_of(self.n_inner, counts),
            "m": neighbours_of(self.m, self.divisors),
        }

    @property
    def tried_m(self) -> list[int]:
        """Numbers of sub-quantizers that a grid over codes has: 4, the one held, 16."""
        return sorted({m for m in (4, self.m, 16) if m in self.divisors})

    def describe(self) -> str:
        """Return what is held while a knob turns, and what training and measuring see."""
        return (
            f"held: {self.n_inner} inner and {self.n_outer} outer clusters, m = {self.m}, "
            f"nbits = {self.nbits}, nprobe = {self.nprobe}, nothing re-ranked; k-means and shared "
            f"codebooks trained on {min(self.max_train or self.ds.n, self.ds.n):,} vectors, "
            f"codebooks per cluster on all {self.ds.n:,}; recall of {self.nq:,} queries"
        )

    def sweep(
        self, name: str, points: Sequence[Mapping[str, Any]], measure: Callable[..., Any]
    ) -> pd.DataFrame:
        """Measure every point, see ``pqlib.study.sweep``, with a store in ``resume``.

        ``name`` is the sweep's own in a notebook.
        """
        context = {"dataset": self.ds.name, "n": self.ds.n, "nq": self.ds.nq, "queries": self.nq}
        for knob in ("k", "seed", "max_train", "budget", "n_inner", "m", "nbits", "nprobe"):
            context[knob] = getattr(self, knob)
        return sweep(points, measure, progress=name, store=self.resume, context=context)

    def held(self, codebooks: str, n_train: int | None = None) -> MultiLevelPQ:
        """Return the index whose knobs are at the values held."""
        return self.index(self.n_inner, codebooks, self.m, self.nbits, n_train)

    def clustering(self, n_inner: int, n_train: int | None = None) -> TwoLevelClustering:
        """Return both levels over so many inner clusters, trained on the first ``n_train``."""
        key = (n_inner, n_train)
        if key not in self._clusterings:
            self._clusterings[key] = two_level_kmeans(
                self.ds.train[:n_train],
                n_inner,
                max(1, round(n_inner**0.5)),
                max_train=self.max_train if n_train is None else None,
                seed=self.seed,
            )
        return self._clusterings[key]

    def regrouped(self, n_inner: int, n_outer: int) -> TwoLevelClustering:
        """Return the same inner clusters under so many outer ones."""
        inner = self.clustering(n_inner).inner
        outer = kmeans(inner, n_outer, seed=self.seed)
        return from_centroids(inner, outer.centroids)

    def assignment(self, n_inner: int, n_train: int | None = None) -> IdArray:
        """Return the list of each base vector, (n,) int64."""
        key = (n_inner, n_train)
        if key not in self._assignments:
            self._assignments[key] = self.clustering(n_inner, n_train).assign(self.ds.train)
        return self._assignments[key]

    def index(
        self, n_inner: int, codebooks: str, m: int, nbits: int, n_train: int | None = None
    ) -> MultiLevelPQ:
        """Return the index of a code, filled with the whole base.

        The first ``n_train`` base vectors train clustering and codebooks; None: a sample of
        ``max_train`` of them, or for codebooks of a cluster all that lie in it.

        Raises ``NotRun`` when it cannot be trained, or not within the budget, ValueError when m
        does not divide d or nbits is out of range.
        """
        key = (n_inner, codebooks, m, nbits, n_train)
        if key in self._indexes:
            return self._indexes[key]
        m, nbits = _checks.product_quantizer_shape(self.ds.d, m, nbits)
        sizes = np.bincount(self.assignment(n_inner, n_train)[:n_train], minlength=n_inner)
        used = self.ds.n if n_train is None else n_train
        most = self.max_train if n_train is None else None
        cost = training_multiplications(used, self.ds.d, nbits, codebooks, sizes, most)
        within_budget(cost, math.inf if self.budget is None else self.budget)
        self._indexes = {k: index for k, index in self._indexes.items() if k in self.hold}
        clusters = self.clustering(n_inner, n_train)
        index = MultiLevelPQ(
            self.ds.d,
            n_inner,
            clusters.n_outer,
            m,
            nbits,
            codebooks,
            rerank=self.store,
            max_train=most,
            seed=self.seed,
            copy=False,
        )
        index.train(self.ds.train[:n_train], clusters).add(self.ds.train)
        self._indexes[key] = index
        return index

    def under(self, n_outer: int, n_inner: int, codebooks: str, m: int, nbits: int) -> MultiLevelPQ:
        """Return the index of a code whose inner clusters lie under so many outer ones."""
        clusters = self.regrouped(n_inner, n_outer)
        return self.index(n_inner, codebooks, m, nbits).regrouped(clusters)

    def measure(
        self, index: MultiLevelPQ, rerank_factor: int = 0, timing: bool = False, **options: Any
    ) -> dict[str, float | int | None]:
        """Return what an index, searched in one way, finds and costs.

        ``rerank_factor`` and ``options`` are of ``search``; with a factor of 0 nothing is re-ranked
        and the store is not counted. "qps" is the median of three batches, None without ``timing``.
        "recall_low" and "recall_high" are the bootstrap interval over queries; "clusters_on_shared"
        counts clusters too small for codebooks of their own.
        """
        how = {**options, "rerank": rerank_factor > 0, "rerank_factor": max(1, rerank_factor)}

        def search(xq: NDArray[np.float32]) -> Any:
            return index.search(xq, self.k, **how)

        found, _ = with_interval(search(self.queries)[1], self.ds, self.k, self.seed)
        cost = mean_cost(index, self.queries, self.k, how)
        return {
            **found,
            "distance_computations": sum(cost.values()),
            "centroid_distances": cost["outer"] + cost["inner"],
            "code_bytes": index.code_bytes,
            "bytes_per_vector": sum(memory(index, how).values()) / index.ntotal,
            "clusters_on_shared": (
                index.n_shared_clusters if index.codebooks == "per-cluster" else 0
            ),
            "qps": self.queries_per_second(search) if timing else None,
        }

    def queries_per_second(self, search: Any) -> float:
        """Return the median of three timed batches after a warm-up."""
        batch = self.ds.test[: self.timed]
        seconds = evaluation.time_calls({"": partial(search, batch)}, repeats=3, progress=False)
        return len(batch) / float(seconds.median_s.item())


def neighbours_of(value: int, allowed: Sequence[int]) -> list[int]:
    """Return ``value`` with half and double of it, or what of ``allowed`` is nearest to these.

    Three levels where there are as many, ascending: a design's choice around a standard.
    """
    pool = sorted(set(allowed) | {value})
    smaller = [a for a in pool if a < value]
    larger = [a for a in pool if a > value]
    chosen = [value]
    if smaller:
        chosen.append(min(smaller, key=lambda a: abs(math.log(a / (value / 2)))))
    if larger:
        chosen.append(min(larger, key=lambda a: abs(math.log(a / (value * 2)))))
    return sorted(chosen)


def shared_bytes(n: int, d: int, n_inner: int, m: int, nbits: int) -> float:
    """Return the bytes per vector of an index with shared codebooks, before it is built.

    As ``MultiLevelPQ.memory`` counts them, without a store: codes, ids, codebooks, centroids of
    both levels with their copies, and the precomputed tables that faiss makes up to 2 GiB.
    """
    n_outer = max(1, round(n_inner**0.5))
    tables = 4 * n_inner * m << nbits
    parts = (
        n * ((m * nbits + 7) // 8),
        8 * n,
        4 * d << nbits,
        4 * d * (2 * n_inner + n_outer) + 8 * n_inner,
        tables if tables <= 2 << 30 else 0,
    )
    return sum(parts) / n


def shared_rivals(
    n: int, d: int, n_inner: int, limit: float, bits: Sequence[int] = (8, 6, 4)
) -> list[tuple[int, int]]:
    """Return (m, nbits) of the shared codes to beat in an index of ``limit`` bytes per vector.

    Of each number of bits the longest code that fits, of at most 64 sub-quantizers, so that a
    sub-vector keeps dimensions to quantize together. Codes of fewer bits are longer for the same
    memory, but tell less by a byte: as a rule of thumb, a code is worth m * nbits**2, and those
    are returned that are worth at least 0.7 of the best, to be measured.
    """
    worth: dict[tuple[int, int], int] = {}
    for nbits in bits:
        fitting = [
            m
            for m in range(1, min(64, d) + 1)
            if d % m == 0 and shared_bytes(n, d, n_inner, m, nbits) <= limit
        ]
        if fitting:
            worth[max(fitting), nbits] = max(fitting) * nbits**2
    best = max(worth.values(), default=0)
    return [code for code, value in worth.items() if value >= 0.7 * best]


def at_no_more_memory(rows: pd.DataFrame, shared: pd.DataFrame) -> pd.DataFrame:
    """Return rows of per-cluster codes with the best shared code that takes no more memory.

    ``rows`` and ``shared`` have "n_inner", "recall", "bytes_per_vector", "m" and "nbits" of codes
    over the same lists, of either kind. Added are columns "shared_..." of that code, and "gain",
    the recall less its; missing where no shared code is so small.
    """
    rows = rows.reset_index(drop=True)
    rivals = shared[["n_inner", "recall", "m", "nbits", "bytes_per_vector"]]
    rivals = rivals.rename(columns=lambda name: name if name == "n_inner" else f"shared_{name}")
    pairs = rows[["n_inner", "bytes_per_vector"]].reset_index().merge(rivals, on="n_inner")
    pairs = pairs[pairs["shared_bytes_per_vector"] <= pairs["bytes_per_vector"]]
    best = pairs.loc[pairs.groupby("index")["shared_recall"].idxmax()].set_index("index")
    rows = rows.join(best[list(rivals.columns[1:])])
    return rows.assign(gain=rows["recall"] - rows["shared_recall"])
