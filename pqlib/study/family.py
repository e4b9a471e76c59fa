"""The family of quantizers on equal terms: the same vectors, bits, queries and measures for all.

Base vectors are split: some to train on, others, which no quantizer has seen, to encode and to
search. Every code is scored by exhaustive search (ADC), so that nothing but the code counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pqlib import evaluation
from pqlib import quantizers as q
from pqlib._types import IdArray
from pqlib.datasets import Dataset
from pqlib.datasets.truth import exact_neighbors
from pqlib.study.shared import checked_counts, clocked
from pqlib.study.sweeps import NotRun

BITS = (32, 64, 128)
"""Bits of a code that methods with codewords are compared at."""

NBITS = 8
K = 10
LOCAL_CLUSTERS = 8
LEAST_EFFORT, LEAST_EFFORT_SPLIT = 0.5, 0.35
"""Of local search over 16 numbers, at once and in two halves: below, 128 bits were seen to lose
more than 64."""
REFERENCE = {"PQ": 23_743.0, "RVQ": 21_000.0, "LSQ": 17_335.0}
"""Mean squared errors on SIFT1M at 64 bits that faiss reports (its pull request 1906)."""


def recall(found: IdArray, truth: IdArray) -> float:
    """Return the share of ``truth`` (nq, k) that is among ``found`` (nq, k), by number."""
    return float(_each_recall(found, truth).mean())


def _each_recall(found: IdArray, truth: IdArray) -> NDArray[np.float64]:
    """Return that share of each query, (nq,)."""
    return (found[:, :, None] == truth[:, None, :]).any(axis=1).mean(axis=1)


@dataclass(frozen=True)
class Member:
    """A method of the comparison, by its name in figures.

    ``make(d, bits, seed)`` returns an untrained quantizer, or raises ``NotRun``; ``bits`` of a code
    are to be tried; None: whatever ``make`` has, once.
    """

    name: str
    make: Callable[[int, int, int], q.Quantizer]
    bits: tuple[int, ...] | None = BITS


def _code(
    kind: Callable[..., q.Quantizer],
    divides: bool = False,
    effort: float = 1.0,
    least: float = 0.0,
    **options: Any,
) -> Callable[[int, int, int], q.Quantizer]:
    """Return how a code of numbers of ``NBITS`` bits is made; divides: they have to divide d.

    With less than the ``least`` effort, a local search over many numbers is cut off long before its
    end.
    """

    def make(d: int, bits: int, seed: int) -> q.Quantizer:
        m = bits // NBITS
        if effort < least and bits > 64:
            raise NotRun(
                f"effort={effort:g}: a search over {m} numbers that is cut off so early gives "
                f"less than one over fewer; it takes {least:g} at least"
            )
        if divides and d % m:
            raise NotRun(f"m={m} sub-vectors of {NBITS} bits do not divide d={d}")
        return kind(d, m, NBITS, seed=seed, **options)

    return make


def members(effort: float = 1.0) -> list[Member]:
    """Return the family.

    ``effort`` scales the iterations of local search, which takes most of all; 1: 25, and residual
    codebooks by progressive k-means, as faiss has both. Below, composite codes take 6 iterations
    instead of 10.
    """
    local = partial(_code, q.LocallyOptimizedPQ, True, n_clusters=LOCAL_CLUSTERS)
    slow = {"progressive": effort >= 1}
    search = {"iterations": max(4, round(25 * effort)), "train_rounds": 2}
    halves = _code(q.ProductLocalSearchQuantizer, False, effort, LEAST_EFFORT_SPLIT, **search)
    return [
        Member("PQ", _code(q.ProductQuantizer, True)),
        Member("OPQ", _code(q.OptimizedProductQuantizer, True)),
        Member("per-cluster PQ", local(rotate=False)),
        Member("LOPQ", local(rotate=True)),
        Member("RVQ", _code(q.ResidualQuantizer, **slow)),
        Member("LSQ", _code(q.LocalSearchQuantizer, False, effort, LEAST_EFFORT, **search)),
        Member("PRQ", _code(q.ProductResidualQuantizer, **slow)),
        Member("PLSQ", halves),
        Member("CQ", _code(q.CompositeQuantizer, True, iterations=10 if effort >= 1 else 6)),
        Member("RaBitQ", lambda d, bits, seed: q.RaBitQuantizer(d, seed), None),
        Member("SQ, 4 bits", lambda d, bits, seed: q.ScalarQuantizer(d, 4), None),
        Member("SQ, 8 bits", lambda d, bits, seed: q.ScalarQuantizer(d, 8), None),
    ]


class Family:
    """A data set, split once, and what quantizers are measured on it.

    Of the base, at most ``n_train`` vectors are trained on and ``n_base`` others encoded and
    searched for at most ``n_queries`` queries. ``seed`` is of the split and of training.

    Attributes
    ----------
    rows : of the base vectors that are used, those trained on first
    train, base, queries : (n_train, d), (n_base, d), (n_queries, d)
    """

    def __init__(
        self,
        ds: Dataset,
        n_train: int = 20_000,
        n_base: int = 20_000,
        n_queries: int = 1000,
        seed: int = 0,
    ) -> None:
        checked_counts(n_train=n_train, n_base=n_base, n_queries=n_queries)
        if ds.n < 2 * K + 2:
            raise ValueError(f"ds has {ds.n} base vectors: expected at least {2 * K + 2}.")
        if n_train + n_base > ds.n:  # half and half, as far as there are enough
            n_train = max(1, min(n_train, ds.n // 2))
            n_base = min(n_base, ds.n - n_train)
        self.ds, self.seed = ds, seed
        self.n_train, self.n_base, self.n_queries = n_train, n_base, min(n_queries, ds.nq)
        self.rows = np.random.default_rng(seed).permutation(ds.n)[: n_train + n_base]
        self.train, self.base = (ds.train[np.sort(r)] for r in np.split(self.rows, [n_train]))
        self.queries = ds.test[:n_queries]

    def describe(self) -> str:
        """Return the sizes of the comparison, for printing."""
        return (
            f"{self.n_train:,} vectors to train on, {self.n_base:,} others to encode and search, "
            f"{self.n_queries:,} queries"
        )

    @cached_property
    def neighbors(self) -> IdArray:
        """The true ``K`` nearest of each query among ``base``, (n_queries, K) int64."""
        return exact_neighbors(self.base, self.queries, K, progress=False)[0]

    @cached_property
    def spread(self) -> float:
        """Mean squared distance of ``base`` to its mean: the error of knowing nothing else."""
        mean = np.broadcast_to(self.base.mean(axis=0), self.base.shape)
        return q.mean_squared_error(self.base, mean)

    def measure(
        self, quantizer: q.Quantizer, progress: Callable[[int], object] | None = None
    ) -> dict[str, Any]:
        """Train a quantizer, encode and search with it, and return what that took and gave.

        Keys are the columns of ``08_family.csv`` in results/README.md; "objective" is the curve of
        training, a list.
        """
        train, base, neighbors = self.train, self.base, self.neighbors
        _, train_s = clocked(lambda: quantizer.train(train, progress))
        codes, encode_s = clocked(lambda: quantizer.encode(base))
        seen = train[:: max(1, len(train) // 2000)]
        found = quantizer.scan(self.queries, codes, min(100, len(codes)))[1]
        mse = q.mean_squared_error(base, quantizer.decode(codes))
        of_seen = q.mean_squared_error(seen, quantizer.decode(quantizer.encode(seen)))
        nearest, each = neighbors[:, :1], _each_recall(found[:, :K], neighbors)
        return {
            "bits": quantizer.bits,
            "code_bytes": quantizer.code_bytes,
            "parameters_bytes": quantizer.parameters_bytes,
            "n_train": quantizer.n_train,
            "train_s": train_s,
            "encode_us": 1e6 * encode_s / len(codes),
            "error_train": of_seen / self.spread,
            "error_unseen": mse / self.spread,
            "mse_unseen": mse,
            **{
                f"one_recall_{r}": float((found[:, :r] == nearest).any(axis=1).mean())
                for r in (1, 10, 100)
            },
            "recall_10": float(each.mean()),
            "recall_10_se": float(each.std() / len(each) ** 0.5),
            **quantizer.search_cost(),
            "objective": [float(v) for v in quantizer.objective],
        }

    def member(self, method: str, budget: int, effort: float = 1.0) -> dict[str, Any]:
        """Measure a member of the family by name, at ``budget`` bits.

        Raises ``NotRun`` when the method has no such code for these vectors.
        """
        found = {m.name: m for m in members(effort)}[method]
        return self.measure(found.make(self.ds.d, budget, self.seed))


def points(effort: float = 1.0, bits: tuple[int, ...] = BITS) -> list[dict[str, Any]]:
    """Return the points of the sweep over the family: arguments of ``Family.member``.

    ``bits`` are budgets of the methods with codewords.
    """
    return [
        {"method": m.name, "budget": budget, "effort": effort}
        for m in members(effort)
        for budget in (bits if m.bits is not None else (0,))
    ]


EFFORTS: dict[str, tuple[Callable[..., Any], list[dict[str, int]]]] = {
    "OPQ": (
        partial(_code, q.OptimizedProductQuantizer, True),
        [{"iterations": i} for i in (0, 5, 40)],
    ),
    "RVQ": (
        partial(_code, q.ResidualQuantizer, progressive=False),
        [{"beam": beam, "encode_beam": 2 * beam} for beam in (1, 3, 8)],
    ),
    "LSQ": (
        partial(_code, q.LocalSearchQuantizer, train_rounds=2),
        [{"iterations": i} for i in (4, 16, 25)],
    ),
    "CQ": (
        partial(_code, q.CompositeQuantizer, True),
        [{"iterations": i} for i in (4, 10, 20)],
    ),
}
"""Methods whose training can be made longer or shorter, and their arguments by level."""


def efforts(family: Family, method: str, level: int) -> dict[str, Any]:
    """Measure a method at 64 bits with more or less work in training, ``level`` 0, 1 or 2.

    Returns what ``Family.measure`` does, and "setting", what was changed, in words. Raises
    ``NotRun`` when the method has no code of 64 bits for these vectors.
    """
    if method not in EFFORTS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(EFFORTS)}.")
    code, levels = EFFORTS[method]
    quantizer = code(**levels[level])(family.ds.d, 64, family.seed)
    setting = ", ".join(f"{name}={value}" for name, value in levels[level].items())
    return {"setting": setting, **family.measure(quantizer)}


def sized(ds: Dataset, seed: int = 0) -> Family:
    """Return the comparison on as many vectors of a data set as a few minutes allow."""
    if ds.n < 50_000:
        return Family(ds, n_train=4000, n_base=3000, n_queries=500, seed=seed)
    many = 6_500 if ds.d > 256 else 17_000
    return Family(ds, n_train=many, n_base=many, n_queries=1000, seed=seed)


def context(family: Family) -> dict[str, Any]:
    """Return what stored points of a sweep over the family depend on."""
    return {
        "data": [family.ds.name, family.ds.n, family.ds.d],
        "sizes": [family.n_train, family.n_base, family.n_queries],
        "seed": family.seed,
        "versions": list(evaluation.machine().values()),
    }


def numbers_of(d: int) -> int:
    """Return the numbers of a code used for one example: 8, or the most below that divide d."""
    return max(m for m in range(1, 9) if d % m == 0)


def counted(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Return a table of ``Family.member`` with counts as whole numbers, and its training curves."""
    curves = table.get("objective", pd.Series(dtype=object))
    counts = ["bits", "code_bytes", "parameters_bytes", "n_train"]
    counts += ["multiplications", "lookups", "code_multiplications"]
    # Not floats where one was not run.
    kept = table.drop(columns="objective", errors="ignore")
    return kept.astype(dict.fromkeys(counts, "Int64")), curves
