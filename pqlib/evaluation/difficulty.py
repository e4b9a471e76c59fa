"""What a data set is like: how hard nearest-neighbour search is on it."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib._types import IdArray
from pqlib.clustering import TwoLevelClustering
from pqlib.datasets import Dataset

FloatVector = NDArray[np.float64]


def relative_contrast(ds: Dataset, sample: int = 1000, seed: int = 0) -> float:
    """Return the mean distance to a random base vector over the mean distance to the nearest.

    Near 1, "nearest" means little and every index struggles; real data lie well above
    (He, Kumar, Chang, "On the difficulty of nearest neighbor search", ICML 2012).

    ValueError for a metric other than "l2": it is a ratio of distances.
    """
    if ds.metric != "l2":
        raise ValueError(
            f"ds.metric={ds.metric!r}: expected 'l2', relative contrast is a ratio of distances. "
            "Load the data set with metric='l2'."
        )
    rng = np.random.default_rng(seed)
    base = ds.train[rng.choice(ds.n, size=min(sample, ds.n), replace=False)]
    queries = ds.test[: min(sample, ds.nq)]
    squared = faiss.pairwise_distances(queries, base)
    mean = float(np.sqrt(np.maximum(squared, 0)).mean())
    return mean / float(ds.distances[: len(queries), 0].mean())


def intrinsic_dimension(distances: NDArray[np.floating]) -> float:
    """Return the maximum-likelihood estimate of the intrinsic dimension.

    Levina and Bickel, "Maximum likelihood estimation of intrinsic dimension", NIPS 2004, with
    the harmonic mean over queries of MacKay and Ghahramani (2005).

    Parameters
    ----------
    distances : (nq, k) plain L2 to the k nearest neighbours, ascending; queries with a
        neighbour at distance 0 are left out
    """
    r = distances[distances[:, 0] > 0].astype(np.float64)
    if len(r) == 0:
        return float("nan")
    inverse = np.log(r[:, -1:] / r[:, :-1]).mean(axis=1)
    # (k - 2) / (k - 1) makes the estimate unbiased.
    k = r.shape[1]
    return float((k - 2) / (k - 1) / inverse.mean())


def clusters_holding_neighbors(
    clustering: TwoLevelClustering, ds: Dataset, assignment: IdArray, k: int
) -> FloatVector:
    """Return how many different inner clusters hold each query's ``k`` nearest: (nq,)."""
    homes = np.sort(assignment[ds.neighbors[:, :k]], axis=1)
    return 1.0 + (homes[:, 1:] != homes[:, :-1]).sum(axis=1)
