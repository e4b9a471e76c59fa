"""What probing finds and costs, before any vector or code of the lists is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from pqlib import evaluation
from pqlib._types import IdArray
from pqlib.clustering import TwoLevelClustering
from pqlib.datasets import Dataset


def routed(
    clustering: TwoLevelClustering,
    ds: Dataset,
    k: int,
    home: IdArray,
    nprobe: int,
    nprobe_outer: int | None = None,
    *,
    nq: int | None = None,
) -> pd.DataFrame:
    """Return what probing 1, 2, ... ``nprobe`` lists finds and costs.

    Parameters
    ----------
    home : (n,) int64, the inner cluster of each base vector
    nprobe_outer : see ``TwoLevelClustering.probe``
    nq : queries, the first of ``ds.test``; None: all

    Returns
    -------
    DataFrame with a row for each "nprobe": "recall" (share of the true ``k`` nearest that lies in
    the probed lists) and, per query, "centroids" and "vectors" (the distances computed)
    """
    queries = ds.test[:nq]
    keys = clustering.probe(queries, nprobe, nprobe_outer)[1]
    lengths = np.bincount(home, minlength=clustering.n_inner)
    return pd.DataFrame(
        {
            "nprobe": np.arange(1, nprobe + 1),
            "recall": evaluation.routing_recall(ds, k, keys, home),
            "centroids": sum(c.mean() for c in clustering.probe_cost(queries, nprobe_outer)),
            "vectors": np.where(keys >= 0, lengths[keys], 0).cumsum(axis=1).mean(axis=0),
        }
    )


def work(
    ds: Dataset,
    clusterings: Mapping[int, TwoLevelClustering],
    k: int,
    probes: Sequence[int],
    outers: Iterable[int],
    *,
    nq: int,
) -> pd.DataFrame:
    """Return ``routed`` of flat probing and of fewer outer clusters, by clustering.

    ``clusterings``, by seed, have as many clusters each; ``probes`` ascends; ``outers`` are numbers
    of outer clusters probed. A row for each "probing" ("flat" or "1 of 9 outer" ...), "nprobe" and
    "seed".
    """
    tables = []
    for seed, clustering in clusterings.items():
        home = clustering.assign(ds.train)
        for outer in (None, *outers):
            table = routed(clustering, ds, k, home, probes[-1], outer, nq=nq)
            name = "flat" if outer is None else f"{outer} of {clustering.n_outer} outer"
            tables.append(table[table.nprobe.isin(probes)].assign(probing=name, seed=seed))
    columns = ["probing", "nprobe", "seed", "recall", "centroids", "vectors"]
    return pd.concat(tables, ignore_index=True)[columns]
