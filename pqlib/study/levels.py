"""From how many inner clusters on a second level pays.

Flat probing ranks all K inner centroids. Two levels rank fewer and may overlook a list; probing
more lists makes up for that. Both are compared where they reach the same recall of the routing,
by counted distances and by time, for both ways to build the levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import faiss
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pqlib import evaluation
from pqlib._types import FloatMatrix, IdArray
from pqlib.clustering import (
    TOP_DOWN_ITERATIONS,
    TwoLevelClustering,
    two_level_kmeans,
    two_level_top_down,
)
from pqlib.datasets import Dataset
from pqlib.indexes import KMeansIndex
from pqlib.study.rates import speeds
from pqlib.study.routing import routed
from pqlib.study.shared import shown

Point = dict[str, float]

BUILDS = ("bottom-up", "top-down")
PROBINGS = ("flat", "two levels")
COUNTED, TIMED = 2000, 500
"""Queries that distances are counted with, and that a timed batch has, at most."""


def sweep_sizes(n: int, largest: int | None = None) -> tuple[list[int], list[int]]:
    """Return powers of two: numbers of inner clusters to count distances with, and to time.

    The first go from 8 to ``largest`` (None: as many as leave 24 of the ``n`` base vectors a
    cluster, at most 16,384) and are none where the base is too small. Those timed begin at a
    sixteenth of the last one, but at 64 at least and 256 at most: with fewer clusters the lists
    are long, and probing takes no time that could be told from theirs.
    """
    limit = min(n // 24, 16_384) if largest is None else min(largest, n)
    counted = [2**e for e in range(3, max(0, limit).bit_length())]
    first = max(64, min(256, counted[-1] // 16)) if counted else 0
    return counted, [size for size in counted if size >= first]


def build_levels(
    x: FloatMatrix, n_inner: int, n_outer: int, *, max_train: int, seed: int
) -> dict[str, TwoLevelClustering]:
    """Cluster ``x`` (n, d) from the bottom up and from the top down, on equal budgets.

    The same training vectors (as many as ``two_level_top_down`` takes of ``max_train``) and the
    same iterations.
    """
    top_down = two_level_top_down(x, n_inner, n_outer, max_train=max_train, seed=seed)
    bottom_up = two_level_kmeans(
        x, n_inner, n_outer, niter=TOP_DOWN_ITERATIONS, max_train=top_down.n_train, seed=seed
    )
    return dict(zip(BUILDS, (bottom_up, top_down), strict=True))


def assignment_of(index: KMeansIndex) -> IdArray:
    """Return the list that each vector of ``index`` lies in, (ntotal,) int64."""
    sizes = index.list_sizes
    home = np.empty(index.ntotal, np.int64)
    for number in map(int, np.flatnonzero(sizes)):
        home[faiss.rev_swig_ptr(index.lists.get_ids(number), int(sizes[number]))] = number
    return home


def fewest_lists(
    clustering: TwoLevelClustering,
    ds: Dataset,
    k: int,
    home: IdArray,
    target: float,
    *,
    nq: int,
    nprobe_outer: int | None = None,
    most: int | None = None,
) -> Point | None:
    """Return the row of ``routed`` for the fewest lists that hold ``target`` of the neighbours.

    "nprobe_outer" is added. None where ``most`` lists (None: all) hold a smaller share of the true
    ``k`` nearest. ``home``, ``nq`` and ``nprobe_outer`` are as for ``routed``.
    """
    _, outer = clustering.check_probes(1, nprobe_outer)
    most = min(most or clustering.n_inner, clustering.n_inner)
    nprobe = 0
    while nprobe < most:
        nprobe = min(max(16, 2 * nprobe), most)
        table = routed(clustering, ds, k, home, nprobe, outer, nq=nq)
        # Sums of shares: all of them may be a rounding error short of 1.
        enough = table[table.recall >= target - 1e-9]
        if len(enough):
            first = enough.iloc[0]
            return {**first, "nprobe": int(first.nprobe), "nprobe_outer": outer}
    return None


def compare_probing(
    clustering: TwoLevelClustering, ds: Dataset, k: int, home: IdArray, target: float, *, nq: int
) -> dict[str, Point]:
    """Return flat and two-level probing at the same recall: each as ``fewest_lists`` tells it.

    Of the numbers of outer clusters, two levels take the one with which they compute the fewest
    distances, scanned lists included. All outer clusters are flat probing.

    Raises ValueError when ``target`` is no share above 0.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target={target}: expected a share of the neighbours above 0, up to 1.")
    flat = fewest_lists(clustering, ds, k, home, target, nq=nq)
    assert flat is not None  # all lists hold all neighbours
    most = 4 * int(flat["nprobe"])
    best, least = flat, math.inf
    for outer in _ladder(clustering.n_outer):
        if sum(c.mean() for c in clustering.probe_cost(ds.test[:nq], outer)) >= least:
            break  # from here on the centroids alone cost more
        point = fewest_lists(clustering, ds, k, home, target, nq=nq, nprobe_outer=outer, most=most)
        if point and point["centroids"] + point["vectors"] < least:
            best, least = point, point["centroids"] + point["vectors"]
    return dict(zip(PROBINGS, (flat, best), strict=True))


def _ladder(n_outer: int) -> list[int]:
    """Return numbers of outer clusters below ``n_outer`` in steps of about a tenth."""
    steps = np.geomspace(1, n_outer, max(2, round(math.log(max(2, n_outer)) / math.log(1.1))))
    return [o for o in map(int, np.unique(steps.round())) if o < n_outer]


def recall_curve(
    index: KMeansIndex, ds: Dataset, k: int, home: IdArray, points: Mapping[str, Point], *, nq: int
) -> pd.DataFrame:
    """Return recall and "distances" of a query by "nprobe", around ``compare_probing``'s points.

    A row for each "probing", with its "nprobe_outer", and power of two up to twice the point's
    nprobe.
    """
    tables = []
    for probing, point in points.items():
        outer = int(point["nprobe_outer"])
        most = min(2 * int(point["nprobe"]), index.n_inner)
        table = routed(index.clustering, ds, k, home, most, outer, nq=nq)
        table = table[np.log2(table.nprobe) % 1 == 0]
        distances = table.centroids + table.vectors
        tables.append(table.assign(probing=probing, nprobe_outer=outer, distances=distances))
    columns = ["probing", "nprobe", "nprobe_outer", "recall", "distances"]
    return pd.concat(tables, ignore_index=True)[columns]


# Time --------------------------------------------------------------------------------------


def time_curve(
    index: KMeansIndex, xq: FloatMatrix, k: int, curve: pd.DataFrame, repeats: int = 5
) -> NDArray[np.float64]:
    """Return the queries per second of the whole search for each row of ``recall_curve``."""
    calls = {
        f"{row.Index}": partial(index.search, xq, k, row.nprobe, row.nprobe_outer)
        for row in curve.itertuples()
    }
    return speeds(len(xq), evaluation.time_calls(calls, repeats)).qps.to_numpy()


def time_probing(
    built: Mapping[str, tuple[KMeansIndex, Mapping[str, Point]]],
    xq: FloatMatrix,
    k: int,
    repeats: int = 5,
) -> pd.DataFrame:
    """Time both probings of all builds side by side, alone and with the lists scanned.

    ``built`` holds for each build its index and what ``compare_probing`` says of it. A row for
    each "build", "step" ("coarse": probing alone, "search": all of it) and "probing": the columns
    of ``rates.speeds``, in queries per second.
    """
    names, calls = [], {}
    for build, (index, points) in built.items():
        for probing, point in points.items():
            probes = int(point["nprobe"]), int(point["nprobe_outer"])
            steps = {
                "coarse": partial(index.clustering.probe, xq, *probes),
                "search": partial(index.search, xq, k, *probes),
            }
            names += [(build, step, probing) for step in steps]
            calls.update({f"{build} {step} {probing}": call for step, call in steps.items()})
    table = pd.DataFrame(names, columns=["build", "step", "probing"])
    return table.join(speeds(len(xq), evaluation.time_calls(calls, repeats)))


# By the number of inner clusters -----------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """Flat and two-level probing at the same recall, by the number of inner clusters.

    ``counted`` is by ``fewest_lists``, ``speed`` by ``time_probing``, and ``curve``, with the most
    inner clusters, by ``recall_curve``; columns are those of ``02_growth*.csv`` in
    results/README.md. The tables are empty where the base is too small.
    """

    counted: pd.DataFrame
    speed: pd.DataFrame
    curve: pd.DataFrame


def grow(ds: Dataset, k: int, reach: float, *, largest: int | None = None, seed: int = 0) -> Growth:
    """Compare flat and two-level probing at ``reach`` of the true ``k``, as the lists grow.

    ``COUNTED`` queries are counted with, and ``TIMED`` timed in one batch, at most; ``largest`` is
    as for ``sweep_sizes``.
    """
    counted, timed = sweep_sizes(ds.n, largest)
    budget = max(20_000, 4 * max(counted, default=0))
    # The longest lists are scanned in about a second.
    batch = ds.test[: min(TIMED, max(200, int(5e10 / (ds.n * ds.d))))]
    rows, speed, curves = [], [pd.DataFrame()], [pd.DataFrame()]
    for count in shown(counted, "inner clusters"):
        built = {}
        levels = build_levels(ds.train, count, round(count**0.5), max_train=budget, seed=seed)
        for build, clusters in levels.items():
            index = KMeansIndex(ds.d, count, clusters.n_outer).train(ds.train, clusters)
            index.add(ds.train)
            home = assignment_of(index)
            points = compare_probing(clusters, ds, k, home, reach, nq=COUNTED)
            about = {"n_inner": count, "n_outer": clusters.n_outer, "build": build}
            about["n_train"] = clusters.n_train
            rows += [about | {"probing": probing} | point for probing, point in points.items()]
            built[build] = index, points
            if count == counted[-1]:
                curve = recall_curve(index, ds, k, home, points, nq=COUNTED)
                qps = time_curve(index, batch, k, curve)
                curves.append(curve.assign(n_inner=count, build=build, qps=qps))
        if count in timed:
            speed.append(time_probing(built, batch, k).assign(n_inner=count))
        del index, built  # each index holds the whole base
    columns = ["n_inner", "n_outer", "build", "n_train", "probing", "nprobe", "nprobe_outer"]
    table = pd.DataFrame(rows, columns=[*columns, "recall", "centroids", "vectors"])
    times = pd.concat(speed, ignore_index=True)
    if len(times):
        times = times.merge(table[["n_inner", "build", "probing", "recall"]])
        columns = ["n_inner", "build", "step", "probing", "recall", "qps", "qps_min", "qps_max"]
        times = times[columns]
    table["distances"] = table.centroids + table.vectors
    return Growth(table, times, pd.concat(curves, ignore_index=True))


def begins_to_pay(
    n_inner: Sequence[float], flat: Sequence[float], two: Sequence[float], worth: float = 0.0
) -> float:
    """Return the number of inner clusters from which on two levels cost less than flat probing.

    ``flat`` and ``two`` (sizes,) are costs of a query, distances or seconds, by ``n_inner``
    (sizes,), ascending. Flat probing has to cost more by a share of ``worth``: for measured costs,
    more than measurements of the same thing differ by.

    It is the last crossing, interpolated between two sizes on logarithmic axes; -inf where two
    levels pay at every size, inf where they do not at the largest, even if they did before.

    Raises ValueError when the three are not equally long or empty.
    """
    if not 0 < len(n_inner) == len(flat) == len(two):
        raise ValueError(
            f"n_inner, flat and two have {len(n_inner)}, {len(flat)} and {len(two)} values: "
            "expected as many of each, at least one."
        )
    saved = np.log(np.asarray(flat, np.float64) / np.asarray(two, np.float64)) - math.log1p(worth)
    return evaluation.pays_from(n_inner, saved.tolist())


def crossings(table: pd.DataFrame, cost: str, worth: float = 0.0) -> dict[str, float]:
    """Return ``begins_to_pay`` of each build by the column ``cost``.

    ``table`` has a row for each "n_inner", "build" and "probing".
    """
    found = {}
    for build, rows in table.groupby("build", sort=False):
        costs = rows.pivot(index="n_inner", columns="probing", values=cost)
        flat, two = (costs[probing].to_numpy() for probing in PROBINGS)
        found[str(build)] = begins_to_pay(costs.index.to_numpy(), flat, two, worth)
    return found


def seconds(speed: pd.DataFrame) -> pd.DataFrame:
    """Return ``Growth.speed`` as seconds of a query: columns "coarse" and "search"."""
    if not len(speed):
        return pd.DataFrame()
    times = speed.assign(seconds=1 / speed.qps)
    names = ["n_inner", "build", "probing"]
    return times.pivot(index=names, columns="step", values="seconds").reset_index()


def payoff(table: pd.DataFrame, costs: Sequence[str], worth: float = 0.0) -> pd.DataFrame:
    """Return, by build and as text, from which K on two levels pay, and what they cost there.

    ``table`` and ``worth`` are as for ``crossings``. Of each cost "pays from K" ("always": at
    every K tried; "never": not at the largest), and it as a share of flat probing's at the largest.
    """
    if not len(table):
        return pd.DataFrame()
    most, said = table.n_inner.max(), {}
    last = table[table.n_inner == most].pivot(index="build", columns="probing", values=costs)
    for cost in costs:
        text = pd.Series(crossings(table, cost, worth)).map("{:,.0f}".format)
        said[cost, "pays from K"] = text.replace({"-inf": "always", "inf": "never"})
        share = last[cost, "two levels"] / last[cost, "flat"]
        said[cost, f"of flat at {most:,}"] = share.map("{:.0%}".format)
    return pd.DataFrame(said)
