"""Ways to search one base, held in one table and measured side by side.

The table of methods has a row a method: "method", its name; "index", filled; "options", what
``search`` and ``search_cost`` get besides the queries, k and nprobe. ``at_probes`` makes of it the
table of ways to search, a row for each method and nprobe; all measurements start from one of the
two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from pqlib import evaluation
from pqlib.clustering import TwoLevelClustering, two_level_kmeans
from pqlib.datasets import Dataset
from pqlib.indexes import BruteForce, KMeansIndex, MultiLevelPQ
from pqlib.indexes.base import Index
from pqlib.study.notebook import Study
from pqlib.study.shared import STORE, clocked, mean_cost, memory, with_interval

QUERIES, EXACT_QUERIES, TRAINED = 2000, 100, 20_000
"""Queries that are measured with, those of brute force, and vectors that train, at most."""
STAGES = {
    "cost_outer": "outer centroids",
    "cost_inner": "inner centroids",
    "cost_tables": "tables",
    "cost_codes": "codes",
    "cost_vectors": "exact, in lists",
    "cost_rerank": "exact, re-ranking",
}
"""Columns of ``measure`` that count the work of a stage, and what a figure calls them."""


class Builder:
    """Builds indexes over one clustering, all from one seed, and notes the seconds that each takes.

    ``seconds`` are of "clustering" and of each kind of index, by the name of its method.
    """

    def __init__(self, opened: Study, seed: int = 0) -> None:
        self.opened, self.seed = opened, seed
        self.seconds: dict[str, float] = {}
        self.sizes = sizes = opened.n_inner, opened.n_outer
        self.clustering: TwoLevelClustering = self._noted(
            "clustering",
            lambda: two_level_kmeans(opened.ds.train, *sizes, max_train=TRAINED, seed=seed),
        )

    def exact(self) -> BruteForce:
        """Return brute force. It holds the base itself, which may be gigabytes, not a copy."""
        ds = self.opened.ds
        return self._noted("brute force", lambda: BruteForce(ds.d, copy=False).add(ds.train))

    def lists(self) -> KMeansIndex:
        """Return the index whose lists hold whole vectors."""
        index = KMeansIndex(self.opened.ds.d, *self.sizes, seed=self.seed)
        return self._noted("k-means", lambda: self._filled(index))

    def codes(self, codebooks: str) -> MultiLevelPQ:
        """Return the index whose lists hold codes, of "shared" or "per-cluster" codebooks."""
        index = MultiLevelPQ(
            self.opened.ds.d,
            *self.sizes,
            codebooks=codebooks,
            rerank=self.opened.store,
            max_train=TRAINED,
            seed=self.seed,
            copy=False,
        )
        return self._noted(f"PQ {codebooks.replace('-', ' ')}", lambda: self._filled(index))

    def building(self, method: str) -> float:
        """Return the seconds of building a method: its index, and the clustering it shares.

        "PQ shared, re-ranked" has the index of "PQ shared". Brute force has no clustering.
        """
        own = max((name for name in self.seconds if method.startswith(name)), key=len, default="")
        shared = 0.0 if method == "brute force" else self.seconds["clustering"]
        return shared + self.seconds.get(own, 0.0)

    def _filled(self, index: Any) -> Any:
        train = self.opened.ds.train
        return index.train(train, self.clustering).add(train)

    def _noted(self, name: str, make: Callable[[], Any]) -> Any:
        made, self.seconds[name] = clocked(make)
        return made


def speed_of(search: Callable[[], Any]) -> tuple[Any, float]:
    """Return the ids (nq, k) that a search finds and its queries per second, timed once."""
    ids, seconds = clocked(search)
    return ids, len(ids) / seconds


def at_probes(methods: pd.DataFrame, nprobes: Iterable[int]) -> pd.DataFrame:
    """Return the ways to search, a row for each nprobe and method: its "options" hold nprobe.

    Brute force has no lists: it comes last, once, as nprobe 0.
    """
    exact = methods["index"].map(lambda index: isinstance(index, BruteForce)).to_numpy(bool)
    ways = [methods[~exact].assign(nprobe=p) for p in nprobes]
    ways = pd.concat([*ways, methods[exact].assign(nprobe=0)], ignore_index=True)
    probed = [{"nprobe": p} if p else {} for p in ways["nprobe"]]
    return ways.assign(options=[a | b for a, b in zip(ways["options"], probed, strict=True)])


def measure(
    ds: Dataset, ways: pd.DataFrame, k: int, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure what each way to search finds and what it counts.

    ``ways`` are of ``at_probes``. Returned are the points, a row for each way, see
    ``05_methods.csv`` in results/README.md, and the recall of each query, (queries, ways), with
    columns (method, nprobe) and without brute force.
    """
    rows, recalls = [], {}
    for way in ways.itertuples():
        exact = isinstance(way.index, BruteForce)
        xq = ds.test[: EXACT_QUERIES if exact else QUERIES]
        _, ids = way.index.search(xq, k, **way.options)
        found, each = with_interval(ids, ds, k, seed)
        if not exact:
            recalls[way.method, way.nprobe] = each
        cost = mean_cost(way.index, xq, k, way.options)
        rows.append(
            {
                "method": way.method,
                "nprobe": way.nprobe,
                **found,
                "one_recall": evaluation.one_recall_at(ids, ds, k),
                "relative_error": evaluation.relative_distance_error(ids, ds, k),
                "distance_computations": sum(cost.values()),
                "code_bytes": getattr(way.index, "code_bytes", 0),
                "bytes_per_vector": sum(memory(way.index, way.options).values()) / ds.n,
                **{f"cost_{stage}": count for stage, count in cost.items()},
            }
        )
    return pd.DataFrame(rows).fillna(0.0), pd.DataFrame(recalls).rename_axis(
        columns=["method", "nprobe"]
    )


def work_by_stage(points: pd.DataFrame, nprobe: int) -> pd.DataFrame:
    """Return the distance computations of a query, methods by stages, at one nprobe."""
    rows = points[points["nprobe"] == nprobe].set_index("method")
    return rows[list(STAGES)].rename(columns=STAGES)


def memory_by_part(ds: Dataset, methods: pd.DataFrame) -> pd.DataFrame:
    """Return bytes per vector, methods by parts of the index, with "total" and "compression".

    Brute force, and ways to probe an index that is there already, have no row. "compression" is a
    float32 vector over the total.
    """
    held = {
        way.method: memory(way.index, way.options)
        for way in methods.itertuples()
        if not isinstance(way.index, BruteForce) and "nprobe_outer" not in way.options
    }
    parts = pd.DataFrame(held).T.fillna(0)
    parts["centroids"] = parts.filter(like="centroids").sum(axis=1)
    named = ["vectors", "codes", "ids", "codebooks", "precomputed tables", STORE, "centroids"]
    parts = parts[named].rename(columns={"vectors": "whole vectors"}) / ds.n
    total = parts.sum(axis=1)
    return parts.assign(total=total, compression=4 * ds.d / total).rename_axis("method")


def residency(ds: Dataset, ways: pd.DataFrame, k: int) -> pd.DataFrame:
    """Return which parts of each way's index have to be in memory, see ``evaluation.residency``."""
    tables = [
        evaluation.residency(
            way.index, mean_cost(way.index, ds.test[:QUERIES], k, way.options)
        ).assign(method=way.method, nprobe=way.nprobe)
        for way in ways.itertuples()
    ]
    return pd.concat(tables, ignore_index=True)


def one_recalls(
    ds: Dataset, index: Index, k: int, **options: Any
) -> tuple[list[int], list[float], float]:
    """Return R from 1 to 100, 1-recall@R, and recall@k of one and the same search."""
    at = [r for r in (1, 2, 5, 10, 20, 50, 100) if r <= ds.n]
    _, ids = index.search(ds.test[:QUERIES], at[-1], **options)
    found = [evaluation.one_recall_at(ids, ds, r) for r in at]
    return at, found, evaluation.recall_at_k(ids, ds, k)


def raw_sizes(ds: Dataset) -> dict[str, float]:
    """Return bytes of a vector that is kept whole, by how it is kept."""
    raw = {"raw float32": 4.0 * ds.d}
    return raw | ({"the same, lossless uint8": 1.0 * ds.d} if ds.whole_numbers else {})


def weight(ds: Dataset, parts: pd.DataFrame) -> str:
    """Say what the codes and the codebooks weigh in a table of ``memory_by_part``."""
    own = parts.loc["PQ per cluster"]
    text = (
        f"With codebooks per cluster, the codes take {own['codes']:.0f} bytes of a vector and the "
        f"codebooks {own['codebooks']:,.0f}. Everything counted, it takes {own['total']:,.0f} "
        f"bytes, float32 {own['compression']:.1f} times as many"
    )
    if ds.whole_numbers:
        total = parts["total"]
        text += (
            f", and that is {'less' if own['total'] < ds.d else 'more'} than the {ds.d} bytes "
            "that keep these whole numbers without loss. The k-means index holds float32; with "
            "its lists kept as uint8, not built here, it would take "
            f"{total['k-means'] - 3 * ds.d:,.0f} bytes where *PQ shared, re-ranked* takes "
            f"{total['PQ shared, re-ranked']:,.0f}"
        )
    return f"{text}."
