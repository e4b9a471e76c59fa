"""What a search found: recall by both definitions, its two losses, and errors of distances.

Ties at the k-th distance count as right, as ann-benchmarks counts them: two base vectors at
the same distance are equally good answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib.datasets import Dataset

FloatVector = NDArray[np.float64]
IdArray = NDArray[np.int64]

TIE_TOLERANCE = 1e-5
"""Relative difference up to which two float32 distances count as equal."""


def hits(ids: IdArray, ds: Dataset, k: int) -> NDArray[np.bool_]:
    """Tell which returned ids are right among the true ``k`` nearest, ties included.

    Parameters
    ----------
    ids : (nq, R) int64, row numbers of ``ds.train`` as a search over it returned them for the
        first nq queries of ``ds.test``; -1 where none was found
    ds : the data set with its ground truth
    k : true neighbours counted, 1..100 (as many as the ground truth holds)

    Returns
    -------
    (nq, R) bool. An id that is returned twice is right only once.

    Raises
    ------
    ValueError
        When the shapes do not fit or k exceeds the ground truth.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or len(ids) > ds.nq:
        raise ValueError(
            f"ids has dtype {ids.dtype} and shape {ids.shape}: expected whole numbers (nq, R) "
            f"with nq <= {ds.nq}, the queries of {ds.name}."
        )
    held = ds.neighbors.shape[1]
    k = _checks.integer("k", k, 1, held, f"The ground truth of {ds.name} holds {held} neighbours.")
    nq = len(ids)
    threshold = ds.distances[:nq, k - 1].astype(np.float64) * (1 + TIE_TOLERANCE)
    # All listed neighbours up to the k-th distance, as one sorted list of (query, id) keys.
    eligible = ds.distances[:nq] <= threshold[:, None]
    eligible[:, :k] = True
    query = np.arange(nq, dtype=np.int64)[:, None] * (ds.n + 1)
    keys = np.unique((query + ds.neighbors[:nq])[eligible])
    right = np.isin(query + ids, keys) & (ids >= 0)
    # The list ends within a tie: further base vectors may lie at the same distance.
    for q in map(int, np.flatnonzero((ds.distances[:nq, -1] <= threshold) & (held < ds.n))):
        wrong = np.flatnonzero(~right[q] & (ids[q] >= 0))
        gap = ds.train[ids[q, wrong]].astype(np.float64) - ds.test[q]
        right[q, wrong] = np.sqrt((gap**2).sum(axis=1)) <= threshold[q]
    ordered = np.sort(ids, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1])[ordered[:, 1:] >= 0].any():
        for q in range(nq):
            first = np.unique(ids[q], return_index=True)[1]
            again = np.ones(ids.shape[1], bool)
            again[first] = False
            right[q, again] = False
    return right


def query_recall(ids: IdArray, ds: Dataset, k: int) -> FloatVector:
    """Return recall@k of each query: right ones among the first k returned, over k: (nq,)."""
    ids = np.asarray(ids)
    return np.minimum(hits(ids[:, :k], ds, k).sum(axis=1), k) / k


def recall_at_k(ids: IdArray, ds: Dataset, k: int) -> float:
    """Return recall@k: |returned top k and true top k| / k, mean over queries.

    Not to be confused with ``one_recall_at``. Arguments and errors as for ``hits``.
    """
    return float(query_recall(ids, ds, k).mean())


def one_recall_at(ids: IdArray, ds: Dataset, R: int) -> float:
    """Return 1-recall@R: the share of queries whose true nearest is among the R returned.

    The recall of Jegou, Douze, Schmid (TPAMI 2011, section 5.1). Needs ``ids`` of at least R
    columns; other arguments and errors as for ``hits``.
    """
    ids = np.asarray(ids)
    R = _checks.integer(
        "R", R, 1, ids.shape[1] if ids.ndim == 2 else None, "Search with k >= R to measure it."
    )
    return float(hits(ids[:, :R], ds, 1).any(axis=1).mean())


def loss_split(
    ids: IdArray, ds: Dataset, k: int, keys: IdArray, assignment: IdArray
) -> dict[str, float]:
    """Split what is missing of recall@k into its two causes.

    Parameters
    ----------
    ids : (nq, >= k) int64, what the search returned
    keys : (nq, nprobe) int64, the inner clusters that it probed, -1 for none
    assignment : (n,) int64, the inner cluster of each base vector

    Returns
    -------
    dict with "recall", "routing" (true neighbours in no probed list) and "quantization" (those
    in a probed list and ranked out by their codes); the three add up to 1.
    """
    recall = query_recall(ids, ds, k)
    nq = len(recall)
    homes = assignment[ds.neighbors[:nq, :k]]
    reachable = (homes[:, :, None] == keys[:, None, :]).any(axis=2)
    # With ties at the k-th distance another vector may have filled in for an unreachable one.
    routing = np.minimum((~reachable).sum(axis=1) / k, 1 - recall)
    return {
        "recall": float(recall.mean()),
        "routing": float(routing.mean()),
        "quantization": float((1 - recall - routing).mean()),
    }


def routing_recall(ds: Dataset, k: int, keys: IdArray, assignment: IdArray) -> FloatVector:
    """Return, for each number of probed lists, the share of true neighbours inside them.

    ``keys`` (nq, nprobe) in probing order; the result is (nprobe,) float64: what recall@k no
    search of these lists can exceed.
    """
    nq, nprobe = keys.shape
    homes = assignment[ds.neighbors[:nq, :k]]
    found = np.zeros(nprobe)
    for p in range(nprobe):
        found[p] = (homes == keys[:, p : p + 1]).sum()
    return np.cumsum(found) / (nq * k)
