"""How build time, speed and memory grow with the base: our index and one to compare it with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import linregress

from pqlib import _checks, evaluation
from pqlib.datasets import Dataset
from pqlib.datasets.truth import exact_neighbors
from pqlib.indexes import CascadeIndex
from pqlib.study.builders import Built, Setting, our_built, setting_text
from pqlib.study.choosing import at_least_as_thorough, trials
from pqlib.study.design import full_factorial
from pqlib.study.recipes import PROBES, Rival
from pqlib.study.shared import checked_counts, clocked, shown

OURS = "CascadeIndex"
"""What our index is called in the tables."""

FACTORS = (1.5, 2, 3, 5, 8, 12)
"""Candidates of our index that are tried, as multiples of k."""

MEASURES = ("build_s", "qps", "bytes_per_vector")
"""The columns whose growth is of interest."""

REPEATS = 5
KEPT = 4  # settings on either side of the recall that are timed
BELOW = 0.1  # by which recalls below it may fall short


@dataclass
class _Runner:
    """A method at one size, ready to be searched."""

    method: str
    index: str
    built: Built
    settings: Sequence[Setting]
    build_s: float


def growth(
    ds: Dataset,
    sizes: Sequence[int],
    ours: Callable[[int], CascadeIndex],
    rival: Rival | Callable[[int], Rival],
    k: int = 10,
    target: float = 0.95,
    queries: int = 1000,
    seed: int = 0,
    progress: bool = True,
    settings: Sequence[Setting] | None = None,
) -> pd.DataFrame:
    """Measure our index and a rival on the first n base vectors, for several n.

    Both are built anew for each n, on all n vectors. Of each, settings are tried in order, except
    those more thorough than one that has reached the target. What was fastest on either side of
    the target is then timed, both methods' calls interleaved, and the speed is read off at it.

    The first n rows stand for the data only where their order says nothing. It is the same
    queries at all sizes; what is nearest to them is computed for each, whatever ``ds`` holds.

    Parameters
    ----------
    sizes : of the base, each once
    ours : of n: the index to be trained on that many vectors; the number of lists should grow
        with the square root of n
    rival : what our index is compared with, an entry of ``recipes.rivals``, or a function of n
        that returns one
    target : recall@k at which speed is read off
    queries : at most; all in one call
    seed : of the rival; that of ours is in the index
    settings : of our index, mappings with "nprobe", "candidates" and "margin"; None: those of
        ``PROBES`` and ``FACTORS``, without margins

    Returns a row for each n and method, see ``07_growth.csv`` in results/README.md. Raises
    ValueError when an argument is out of range.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target={target!r}: expected a recall above 0, at most 1.")
    checked_counts(k=k, queries=queries)
    hint = f"{ds.name} has {ds.n} base vectors, of which k={k} are searched."
    sizes = [_checks.integer("sizes", n, k, ds.n, hint) for n in sizes]
    if not sizes or len(set(sizes)) != len(sizes):
        raise ValueError(f"sizes={sizes}: expected at least one, each once.")
    ds = replace(ds, test=ds.test[:queries])
    entry_of = rival if callable(rival) else lambda n: rival
    name = entry_of(sizes[0]).name
    rows = []
    with shown(None, "growth", progress, total=2 * len(sizes)) as bar:
        for n in sizes:
            bar.set_description(f"building for n={n:,}")
            part = _first(ds, n, k)
            runners = [_ours(part, ours(n), k, settings), _theirs(part, entry_of(n), name, seed)]
            bar.update()
            bar.set_description(f"searching n={n:,}")
            rows += _measured(part, runners, k, target)
            bar.update()
    return pd.DataFrame(rows)


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the exponents with which ``MEASURES`` grow with n, by least squares of logarithms.

    A speed that exceeds the target recall is fitted as it is; what is missing is left out. A row
    for each method and measure, see ``07_slopes.csv`` in results/README.md.
    """
    rows = []
    for (method, points), column in product(table.groupby("method", sort=False), MEASURES):
        there = points[np.isfinite(points[column]) & (points[column] > 0)]
        exponent = factor = math.nan
        if there.n.nunique() > 1:
            line = linregress(np.log(there.n), np.log(there[column]))
            exponent, factor = line.slope, math.exp(line.intercept)
        rows.append((method, column, exponent, factor, len(there)))
    return pd.DataFrame(rows, columns=["method", "column", "exponent", "factor", "points"])


def _first(ds: Dataset, n: int, k: int) -> Dataset:
    """Return the first ``n`` base vectors with their own ground truth."""
    base = ds.train[:n]
    neighbors, distances = exact_neighbors(base, ds.test, k, progress=False)
    return replace(ds, train=base, neighbors=neighbors, distances=distances)


def _ours(ds: Dataset, index: CascadeIndex, k: int, settings: Sequence[Setting] | None) -> _Runner:
    def build() -> Built:
        index.train(ds.train).add(ds.train)
        return our_built(index)  # its memory is counted, which puts the lists in order first

    built, seconds = clocked(build)
    if settings is None:
        nprobes = sorted({min(p, index.n_lists) for p in PROBES})
        candidates = [math.ceil(f * k) for f in FACTORS]
        settings = full_factorial({"nprobe": nprobes, "candidates": candidates})
    settings = [s for s in settings if s["nprobe"] <= index.n_lists]
    words = f"n_lists={index.n_lists}, components={index.components}"
    return _Runner(OURS, words, built, settings, seconds)


def _theirs(ds: Dataset, rival: Rival, method: str, seed: int) -> _Runner:
    built, seconds = clocked(partial(rival.build, ds.train, ds.train, seed, ds.whole_numbers))
    return _Runner(method, rival.name, built, rival.settings, seconds)


def _measured(
    ds: Dataset, runners: Sequence[_Runner], k: int, target: float
) -> list[dict[str, object]]:
    """Return a row for each method at one size."""
    near = {r.method: _near(_tried(ds, r, k, target), target) for r in runners}
    calls = {
        f"{r.method} {i}": partial(r.built.search, ds.test, k, r.settings[i])
        for r in runners
        for i in near[r.method].index
    }
    seconds = evaluation.time_calls(calls, REPEATS, progress=False).set_index("name").median_s
    rows = []
    for r in runners:
        points = near[r.method]
        points["qps"] = [len(ds.test) / seconds[f"{r.method} {i}"] for i in points.index]
        found = evaluation.at_recall(points, target, "qps").iloc[0]
        enough = points[points.recall >= target]
        rows.append(
            {
                "method": r.method,
                "n": ds.n,
                "index": r.index,
                "k": k,
                "target": target,
                "queries": ds.nq,
                "build_s": r.build_s,
                "bytes_per_vector": r.built.bytes / ds.n,
                "qps": found.qps,
                "recall": found.recall,
                "how": found.how,
                "setting": setting_text(r.settings[enough.qps.idxmax()]) if len(enough) else "",
            }
        )
    return rows


def _tried(ds: Dataset, runner: _Runner, k: int, target: float) -> pd.DataFrame:
    """Return recall and a first measurement of speed of settings, by their place."""

    def skip(setting: Setting, tried: Sequence[Setting], recalls: Sequence[float]) -> bool:
        return any(
            recall >= target and at_least_as_thorough(setting, other)
            for other, recall in zip(tried, recalls, strict=True)
        )

    found = trials(runner.built.search, runner.settings, ds, k, ds.nq, skip, least_s=0.02)
    return found.assign(method=runner.method)


def _near(points: pd.DataFrame, target: float) -> pd.DataFrame:
    """Return the points that are worth a closer look: the fastest on either side of the target.

    Below it they are spread over recalls, so that noise in their speeds does not decide which are
    on the curve; where none is above it, the highest recall is among them.
    """
    above = points[points.recall >= target].nlargest(KEPT, "qps")
    below = points[points.recall < target]
    if len(below):
        below = below[evaluation.pareto_front(below, {"recall": "more", "qps": "more"})]
        below = below[below.recall >= below.recall.max() - BELOW].sort_values("recall")
        below = below.iloc[np.unique(np.linspace(0, len(below) - 1, KEPT).round().astype(int))]
    return pd.concat([below, above])
