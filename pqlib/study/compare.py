"""Methods compared: how sure a recall is, how fast each is, what holds at equal recall.

Works on the tables of ``pqlib.study.methods``: the methods, the ways to search, the points.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pqlib import evaluation
from pqlib.datasets import Dataset
from pqlib.indexes import BruteForce, KMeansIndex
from pqlib.study.methods import TRAINED, Builder
from pqlib.study.rates import at_recalls, speeds
from pqlib.study.routing import routed
from pqlib.study.sweeps import sweep

QUERIES = 1000
"""With other seeds, and of a timed batch, at most."""

# How sure a recall is ----------------------------------------------------------------------


def over_seeds(
    build: Builder,
    methods: pd.DataFrame,
    nprobes: Sequence[int],
    k: int,
    seeds: Sequence[int],
    resume: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Measure the recall of each method when all that is random is drawn with other seeds.

    ``methods`` are as for ``at_probes``; brute force is left out. A row for each "seed", "method"
    and "nprobe". ``resume`` is the folder of the sweep's store; None: nothing is kept.
    """
    methods = methods[[not isinstance(index, BruteForce) for index in methods["index"]]]
    ds = build.opened.ds
    xq = ds.test[:QUERIES]

    def with_seed(seed: int) -> Iterator[dict[str, Any]]:
        again = build if seed == build.seed else Builder(build.opened, seed)
        home = again.clustering.assign(ds.train)
        for index, ways in methods.groupby("index", sort=False):
            if isinstance(index, KMeansIndex):
                # It is exact in its lists: what they hold is what it finds.
                for way in ways.itertuples():
                    outer, most = way.options.get("nprobe_outer"), max(nprobes)
                    found = routed(again.clustering, ds, k, home, most, outer, nq=QUERIES)
                    for p in nprobes:
                        recall = found.recall[p - 1]
                        yield {"method": way.method, "nprobe": p, "recall": recall}
                continue
            if again is not build:
                index = again.codes(index.codebooks)
            for way, p in itertools.product(ways.itertuples(), nprobes):
                _, ids = index.search(xq, k, p, **way.options)
                recall = evaluation.recall_at_k(ids, ds, k)
                yield {"method": way.method, "nprobe": p, "recall": recall}

    ways = [(way.method, way.options) for way in methods.itertuples()]
    context = {"dataset": [ds.name, ds.n, ds.nq], "k": k, "queries": QUERIES, "methods": ways}
    context |= {"clusters": build.sizes, "max_train": TRAINED, "nprobes": list(nprobes)}
    points = [{"seed": seed} for seed in seeds]
    return sweep(points, with_seed, progress="seeds", store=resume, context=context)


def uncertainty(seeds: pd.DataFrame, recalls: pd.DataFrame) -> pd.DataFrame:
    """Return both intervals of each method and nprobe: over queries, and over seeds.

    ``seeds`` are of ``over_seeds``, ``recalls`` of ``measure``; columns are those of
    ``05_uncertainty.csv``.
    """
    rows = []
    for key, values in seeds.groupby(["method", "nprobe"], sort=False)["recall"]:
        measured = recalls[key][:QUERIES]
        low, high = evaluation.bootstrap_interval(measured, seed=int(seeds["seed"].iloc[0]))
        least, most = evaluation.prediction_interval(values)
        rows.append((*key, measured.mean(), low, high, values.mean(), values.std(), least, most))
    columns = ["method", "nprobe", "query_recall", "query_low", "query_high"]
    return pd.DataFrame(rows, columns=[*columns, "seed_mean", "seed_sd", "seed_low", "seed_high"])


def differences(
    recalls: pd.DataFrame, pairs: Iterable[tuple[str, str]], nprobe: int, seed: int = 0
) -> pd.DataFrame:
    """Return how much more recall the first of each pair of methods has, on the same queries.

    ``recalls`` are of ``measure``; the 95% interval is of a bootstrap over the queries'
    differences.
    """
    rows = []
    for one, other in pairs:
        gap = recalls[one, nprobe] - recalls[other, nprobe]
        rows.append(
            (one, other, gap.mean(), *evaluation.bootstrap_interval(gap, seed=seed), nprobe)
        )
    return pd.DataFrame(rows, columns=["one", "other", "difference", "low", "high", "nprobe"])


def which_is_wider(intervals: pd.DataFrame) -> str:
    """Say which of the two intervals of ``uncertainty`` is the wider one, and how wide both are."""
    queries = intervals["query_high"] - intervals["query_low"]
    seeds = intervals["seed_high"] - intervals["seed_low"]
    widest = intervals.loc[seeds.idxmax()]
    return (
        f"The interval over seeds is the wider one for {(seeds > queries).sum()} of {len(seeds)} "
        f"methods and numbers of probes. Over queries, intervals are {queries.min():.3f} to "
        f"{queries.max():.3f} wide, over seeds {seeds.min():.3f} to {seeds.max():.3f} "
        f"(*{widest['method']}*, nprobe {widest['nprobe']}). A smaller difference between two rows "
        "says nothing, unless both were measured on the same queries and over the same clusters, "
        "as the methods here were."
    )


# Time --------------------------------------------------------------------------------------


def timed(
    ds: Dataset,
    ways: pd.DataFrame,
    points: pd.DataFrame,
    k: int,
    build: Builder,
) -> pd.DataFrame:
    """Return the points of ``measure`` with the speed of each way, timed in one interleaved run.

    A batch ("timed_queries") is smaller of a small set, where a search takes long, and for brute
    force. "pareto" says what no other point beats in recall, speed and memory.
    """
    slowest = points["distance_computations"][points["nprobe"] > 0].max()
    # Enough to time: half of a small set's queries, 10 ** 10 multiplications in the slowest call.
    size = min(QUERIES, max(100, ds.nq // 2), max(100, int(1e10 / (ds.d * slowest))), ds.nq)
    few = max(10, min(size, int(2e8 // (ds.n * ds.d) * 100)))
    sizes = np.where(points["nprobe"] > 0, size, min(few, size))
    calls = {
        f"{way.method} {way.nprobe}": partial(way.index.search, ds.test[:most], k, **way.options)
        for way, most in zip(ways.itertuples(), sizes, strict=True)
    }
    points = points.join(speeds(sizes, evaluation.time_calls(calls, repeats=3)))
    points["build_s"] = points["method"].map(build.building)
    better = {"recall": "more", "qps": "more", "bytes_per_vector": "less"}
    return points.assign(pareto=evaluation.pareto_front(points, better), timed_queries=sizes)


def latency(ds: Dataset, ways: pd.DataFrame, k: int) -> pd.DataFrame:
    """Return "p50_ms", "p95_ms" and "p99_ms" of calls with one query, a row for each way."""
    rows = [
        {
            "method": way.method,
            **evaluation.single_query_latency(
                partial(way.index.search, k=k, **way.options), ds.test
            ),
            "nprobe": way.nprobe,
        }
        for way in ways.itertuples()
    ]
    return pd.DataFrame(rows)


def fixed_recall(points: pd.DataFrame, targets: Sequence[float]) -> pd.DataFrame:
    """Return the speed and the work of each method at each recall, see ``evaluation.at_recall``."""
    at = at_recalls(points, targets, "qps")
    work = at_recalls(points, targets, "distance_computations", "less")
    table = at.merge(work.rename(columns={"how": "work_how"}), on=["method", "target"])
    size = points.groupby("method")["bytes_per_vector"].first()
    table["bytes_per_vector"] = table["method"].map(size)
    columns = ["method", "target", "qps", "how", "distance_computations", "work_how"]
    return table[[*columns, "bytes_per_vector"]]


def recall_at_speeds(points: pd.DataFrame) -> pd.DataFrame:
    """Return the recall of each method at round speeds, a column for each power of ten."""
    rates = [10.0**e for e in range(2, 6)]
    low, high = points["qps"].min(), points["qps"].max()
    return pd.DataFrame(
        {
            f"{s:,.0f} queries/s": evaluation.recall_at(points, "qps", s, "more").set_index(
                "method"
            )["recall"]
            for s in rates
            if low <= s <= high
        }
    )


def in_short(
    ds: Dataset, points: pd.DataFrame, parts: pd.DataFrame, intervals: pd.DataFrame, k: int
) -> str:
    """Say in four sentences what the tables show, without a timing."""
    best = points[points["nprobe"] > 0].groupby("method")["recall"].max()
    high, low = best.idxmax(), best.idxmin()
    small, large = parts["total"].idxmin(), parts["total"].idxmax()
    seeds = (intervals["seed_high"] - intervals["seed_low"]).mean()
    queries = (intervals["query_high"] - intervals["query_low"]).mean()
    return (
        f"**In short.** Of the methods with lists, *{high}* reaches the highest recall@{k}, "
        f"{best[high]:.3f}, and *{low}* the lowest, {best[low]:.3f}. *{small}* takes the least "
        f"memory, {parts['total'][small]:,.0f} bytes per vector, and *{large}* the most, "
        f"{parts['total'][large]:,.0f}, where a float32 vector is {4 * ds.d:,}. Re-ranking "
        f"takes the recall of *PQ shared* from {best['PQ shared']:.3f} to "
        f"{best['PQ shared, re-ranked']:.3f}. A recall is sure to about {queries / 2:.3f} over "
        f"queries and {seeds / 2:.3f} over seeds."
    )
