"""What searches with codes find and lose: indexes of one clustering, searched in many ways.

``indexes`` are ``MultiLevelPQ`` by codebook mode. The first ``QUERIES`` queries are searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from pqlib import evaluation
from pqlib.datasets import Dataset
from pqlib.indexes import MultiLevelPQ

QUERIES = 2000


def pairs(
    ds: Dataset, indexes: Mapping[str, MultiLevelPQ], seed: int, nq: int = 60, nprobe: int = 4
) -> pd.DataFrame:
    """Return true and estimated distances (L2) of queries to vectors of the lists they probe.

    The first ``nq`` queries, at most 20 vectors of a list. Columns "true" and each mode.
    """
    rng = np.random.default_rng(seed)
    clustering = next(iter(indexes.values())).clustering
    _, probed = clustering.probe(ds.test[:nq], min(nprobe, clustering.n_inner))
    tables = []
    for query, lists in zip(ds.test[:nq, None], probed, strict=True):
        for c in map(int, lists[lists >= 0]):
            content = {mode: index.list_content(c) for mode, index in indexes.items()}
            members = next(iter(content.values()))[0]
            if len(members) == 0:
                continue
            chosen = np.sort(rng.choice(len(members), size=min(20, len(members)), replace=False))
            home = np.full(len(chosen), c)
            points = {"true": ds.train[members[chosen]]}
            for mode, (_, codes) in content.items():
                points[mode] = indexes[mode].decode(codes[chosen], home)
            tables.append(pd.DataFrame({name: cdist(query, x)[0] for name, x in points.items()}))
    return pd.concat(tables, ignore_index=True)


def measured(
    ds: Dataset,
    indexes: Mapping[str, MultiLevelPQ],
    k: int,
    ways: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> pd.DataFrame:
    """Search each index in each way.

    Parameters
    ----------
    ways : labels of a row, and what ``search`` gets for it

    Returns
    -------
    DataFrame with a row for each index and way: "codebooks" (the mode), the labels, "recall"
    (recall@k), "distance_computations" of a query
    """
    queries, rows, ways = ds.test[:QUERIES], [], list(ways)
    for mode, index in indexes.items():
        for labels, options in ways:
            _, ids = index.search(queries, k, **options)
            cost = index.search_cost(queries, k, **options)
            found = {
                "recall": evaluation.recall_at_k(ids, ds, k),
                "distance_computations": sum(count.mean() for count in cost.values()),
            }
            rows.append({"codebooks": mode, **labels, **found})
    return pd.DataFrame(rows)


def through_levels(
    ds: Dataset, indexes: Mapping[str, MultiLevelPQ], k: int, probes: Sequence[int]
) -> pd.DataFrame:
    """Measure estimates alone, with all outer clusters, a half, a quarter and one of them."""
    n_outer = next(iter(indexes.values())).n_outer
    fewer = sorted({1, round(n_outer / 4), round(n_outer / 2)} & set(range(1, n_outer)))
    names = {None: "flat"} | {outer: f"{outer} of {n_outer} outer" for outer in fewer}
    return measured(
        ds,
        indexes,
        k,
        (
            ({"probing": name, "nprobe": p}, dict(nprobe=p, nprobe_outer=outer, rerank=False))
            for outer, name in names.items()
            for p in probes
        ),
    )


def reranked(ds: Dataset, indexes: Mapping[str, MultiLevelPQ], k: int, nprobe: int) -> pd.DataFrame:
    """Measure recall by the number of candidates that get exact distances; 0: estimates alone."""
    ways = (
        (
            {"rerank_factor": factor},
            dict(nprobe=nprobe, rerank_factor=max(1, factor), rerank=factor > 0),
        )
        for factor in (0, 1, 2, 4, 8, 16)
    )
    return measured(ds, indexes, k, ways).drop(columns="distance_computations")


def split(
    ds: Dataset, index: MultiLevelPQ, k: int, probes: Iterable[int], **options: Any
) -> pd.DataFrame:
    """Return recall and the two losses for each "nprobe", see ``evaluation.loss_split``."""
    queries, home = ds.test[:QUERIES], index.clustering.assign(ds.train)
    rows = []
    for p in probes:
        _, ids = index.search(queries, k, nprobe=p, **options)
        _, keys = index.clustering.probe(queries, p)
        rows.append({"nprobe": p} | evaluation.loss_split(ids, ds, k, keys, home))
    return pd.DataFrame(rows)


def all_exact(
    ds: Dataset, index: MultiLevelPQ, k: int, rows: NDArray[np.int64], probes: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Return recall@k of some queries for each nprobe, all scanned candidates compared exactly."""
    if not len(rows):
        return [np.zeros(0) for _ in probes]
    part = replace(
        ds, test=ds.test[rows], neighbors=ds.neighbors[rows], distances=ds.distances[rows]
    )
    cost = index.search_cost(part.test, k, nprobe=max(probes), rerank=False)
    factor = -(-int(cost["codes"].max(initial=k)) // k)
    found = (index.search(part.test, k, nprobe=p, rerank_factor=factor)[1] for p in probes)
    return [evaluation.query_recall(ids, part, k) for ids in found]


def in_short(
    quality: pd.DataFrame,
    searches: pd.DataFrame,
    again: pd.DataFrame,
    limit: float,
    everything: Mapping[str, float],
    k: int,
) -> str:
    """Say in five sentences what the notebook's tables show."""
    error = quality.loc["root mean squared error / mean distance"]
    flat = searches[searches.probing == "flat"].set_index(["codebooks", "nprobe"]).recall
    most = searches.nprobe.max()
    part = searches[(searches.nprobe == most) & (searches.codebooks == "shared")]
    part = part.set_index("probing")
    best = part[part.recall >= part.recall["flat"] - 0.01].distance_computations.idxmin()
    by_factor = again[again.codebooks == "shared"].set_index("rerank_factor").recall
    saves = part.distance_computations["flat"] - part.distance_computations[best]
    return (
        f"An estimate is off by {error['shared']:.1%} of the mean distance with shared codebooks "
        f"and by {error['per-cluster']:.1%} with those per cluster. With {most} lists probed, "
        f"estimates alone give recall@{k} {flat['shared', most]:.3f} and "
        f"{flat['per-cluster', most]:.3f}. "
        f"Within 0.01 of that, *{best}* probing takes the fewest distances with shared codebooks"
        + (f", {saves:,.0f} fewer than flat. " if saves > 0 else ". ")
        + f"Exact distances of {16 * k} candidates lift shared codebooks from "
        f"{by_factor[0]:.3f} to {by_factor[16]:.3f}, where the probed lists allow {limit:.3f}. "
        f"With every list probed, routing loses {everything['routing']:.3f} and the codes "
        f"{everything['quantization']:.3f}."
    )
