"""What a search found: recall by both definitions, its two losses, and errors of distances.

Ties at the k-th distance count as right, as ann-benchmarks counts them: two base vectors at
the same distance are equally good answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks, _metric
from pqlib._types import FloatMatrix, IdArray
from pqlib.datasets import Dataset, truth

FloatVector = NDArray[np.float64]

TIE_EPSILON = 1e-3
"""How much further than the k-th true neighbour ann-benchmarks lets a right answer be."""

TIE_TOLERANCE = 1e-5
"""That, in units of the k-th distance, where ``TIE_EPSILON`` would be more: data of small scale."""

SIMILARITY_TOLERANCE = 1e-6
"""Slack of similarities, over the norms of both vectors: what sums in float32 err by."""

# One step of float32, relative: distances far above 1,000 are rounded by more than TIE_EPSILON.
_STEP = float(np.finfo(np.float32).eps)
_BLOCK_BYTES = 1 << 21  # of differences of vectors; larger ones leave the cache


def hits(ids: IdArray, ds: Dataset, k: int, *, epsilon: float | None = None) -> NDArray[np.bool_]:
    """Tell which returned ids are right among the true ``k`` nearest, ties included.

    Right is who is no further from the query than the k-th true neighbour plus a slack, whether
    the ground truth lists it or not. The slack is ann-benchmarks' 1e-3 where the k-th distance
    is at least 100, as in data of whole numbers; 1e-5 of that distance below, where 1e-3 could
    reach across many neighbours; and at least one step of float32, the type of the distances. With
    metric "cosine" or "ip", right is who is no less similar than the k-th, less 1e-6 (under "ip"
    times the norms of the query and of that neighbour).

    Parameters
    ----------
    ids : (nq, R) int64, row numbers of ``ds.train`` as a search over it returned them for the
        first nq queries of ``ds.test``; -1 where none was found
    ds : the data set with its ground truth
    k : true neighbours counted, 1..100 (as many as the ground truth holds)
    epsilon : the slack, in units of distance, or of similarity; 1e-3 is ann-benchmarks' on every
        data set. None: the rule above

    Returns
    -------
    (nq, R) bool. An id that is returned twice is right only once.

    Raises
    ------
    ValueError
        When the shapes do not fit, ids are no rows of the base, k exceeds the ground truth, or
        epsilon is negative.
    """
    ids, k = _checked(ids, ds, k)
    nq, held = len(ids), ds.neighbors.shape[1]
    threshold, sign = thresholds(ds, nq, k, epsilon), _sign(ds)
    farness = sign * ds.distances[:nq]  # similarities count downwards
    # All listed neighbours up to the threshold, as one sorted list of (query, id) keys.
    eligible = farness <= threshold[:, None]
    eligible[:, :k] = True
    query = np.arange(nq, dtype=np.int64)[:, None] * (ds.n + 1)
    keys = np.unique((query + ds.neighbors[:nq])[eligible])
    right = np.isin(query + ids, keys) & (ids >= 0)
    # Only where the list ends before the threshold may base vectors outside of it lie within.
    unended = (farness[:, -1] <= threshold) & (held < ds.n)
    rows, places = np.nonzero(unended[:, None] & ~right & (ids >= 0))
    if len(rows):
        far = sign * _pair_distances(ds, rows, ids[rows, places])
        right[rows, places] = far <= threshold[rows]
    return right & ~_repeated(ids)


def query_recall(ids: IdArray, ds: Dataset, k: int, *, epsilon: float | None = None) -> FloatVector:
    """Return recall@k of each query: right ones among the first k returned, over k: (nq,).

    Arguments and errors as for ``hits``.
    """
    ids, k = _checked(ids, ds, k)
    return hits(ids[:, :k], ds, k, epsilon=epsilon).sum(axis=1) / k


def recall_at_k(ids: IdArray, ds: Dataset, k: int, *, epsilon: float | None = None) -> float:
    """Return recall@k: |returned top k and true top k| / k, mean over queries.

    Not to be confused with ``one_recall_at``. Arguments and errors as for ``hits``.
    """
    return float(query_recall(ids, ds, k, epsilon=epsilon).mean())


def one_recall_at(ids: IdArray, ds: Dataset, R: int, *, epsilon: float | None = None) -> float:
    """Return 1-recall@R: the share of queries whose true nearest is among the R returned.

    The recall of Jegou, Douze, Schmid (TPAMI 2011, section 5.1). Needs ``ids`` of at least R
    columns; other arguments and errors as for ``hits``.
    """
    ids, _ = _checked(ids, ds, 1)
    R = _checks.integer("R", R, 1, ids.shape[1], "Search with k >= R to measure it.")
    return float(hits(ids[:, :R], ds, 1, epsilon=epsilon).any(axis=1).mean())


def returned_distances(ids: IdArray, ds: Dataset) -> FloatMatrix:
    """Return how far from its query each returned vector truly is.

    Parameters
    ----------
    ids : (nq, R) int64, as for ``hits``

    Returns
    -------
    (nq, R) float32, plain L2, computed in float64 and rounded as those of the ground truth are;
    inf where the id is -1. With metric "cosine" or "ip" the similarities, -inf where it is -1

    Raises
    ------
    ValueError
        When the shapes do not fit or ids are no rows of the base.
    """
    ids, _ = _checked(ids, ds, 1)
    distances = np.full(ids.shape, _sign(ds) * np.inf, np.float32)
    rows, places = np.nonzero(ids >= 0)
    distances[rows, places] = _pair_distances(ds, rows, ids[rows, places])
    return distances


def relative_distance_error(ids: IdArray, ds: Dataset, k: int) -> float:
    """Return how much further the returned are than the true nearest: 0 when no further at all.

    The sum of the true distances of a query's first k returned, over the sum of its k nearest
    distances, less 1; the mean over queries. It tells a near miss from a far one, which recall
    does not. Arguments and errors as for ``hits``.

    A search that found only r < k for a query is compared with the r nearest: what it did not
    find is for recall to count. (An id returned twice is found once.) Left out are queries with
    nothing found, and those whose nearest all lie at distance 0, where no error is relative to
    anything; nan when no query remains.

    ValueError too for a metric other than "l2": similarities may be 0 or negative, and no error is
    relative to these.
    """
    if ds.metric != "l2":
        raise ValueError(
            f"ds.metric={ds.metric!r}: expected 'l2', since similarities may be 0 or negative, and "
            "no error is relative to these. Use recall_at_k, or compare returned_distances."
        )
    ids, k = _checked(ids, ds, k)
    ids = ids[:, :k]
    found = returned_distances(ids, ds).astype(np.float64)
    counted = (ids >= 0) & ~_repeated(ids)
    distance = np.where(counted, found, 0).sum(axis=1)
    listed = np.arange(k) < counted.sum(axis=1)[:, None]
    nearest = np.where(listed, ds.distances[: len(ids), :k].astype(np.float64), 0).sum(axis=1)
    defined = nearest > 0
    if not defined.any():
        return float("nan")
    return float(((distance - nearest)[defined] / nearest[defined]).mean())


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
    found = [(homes == keys[:, p : p + 1]).sum() for p in range(nprobe)]
    return np.cumsum(found) / (nq * k)


def _checked(ids: Any, ds: Dataset, k: Any) -> tuple[IdArray, int]:
    """Return ``ids`` as (nq, R) int64 and ``k``, or raise ValueError."""
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or not 1 <= len(ids) <= ds.nq:
        raise ValueError(
            f"ids has dtype {ids.dtype} and shape {ids.shape}: expected whole numbers (nq, R) "
            f"with 1 <= nq <= {ds.nq}, the queries of {ds.name}. Pass what search returned for "
            "the first nq of them."
        )
    ids = ids.astype(np.int64, copy=False)
    if ids.size and (ids.min() < -1 or ids.max() >= ds.n):
        stray = int(ids.min() if ids.min() < -1 else ids.max())
        raise ValueError(
            f"ids holds {stray}: expected row numbers 0..{ds.n - 1} of the base of {ds.name}, or "
            "-1. Search an index of that base, and translate ids of your own into rows."
        )
    held = ds.neighbors.shape[1]
    k = _checks.integer("k", k, 1, held, f"The ground truth of {ds.name} holds {held} neighbours.")
    return ids, k


def thresholds(ds: Dataset, nq: int, k: int, epsilon: float | None) -> FloatVector:
    """Return up to which distance, or similarity with its sign changed, one is right, (nq,)."""
    kth = _sign(ds) * ds.distances[:nq, k - 1].astype(np.float64)
    if epsilon is None and ds.metric == "ip":
        lengths = _metric.norms(ds.train[ds.neighbors[:nq, k - 1]])
        return kth + SIMILARITY_TOLERANCE * lengths * _metric.norms(ds.test[:nq])
    if epsilon is None and ds.metric == "cosine":
        return kth + SIMILARITY_TOLERANCE
    if epsilon is None:
        slack = np.minimum(TIE_EPSILON, TIE_TOLERANCE * kth)
        return kth + np.maximum(slack, _STEP * kth)
    hint = f"It is in units of distance; {TIE_EPSILON} counts as ann-benchmarks does."
    return kth + _checks.number("epsilon", epsilon, 0, least=True, hint=hint)


def _pair_distances(ds: Dataset, rows: IdArray, ids: IdArray) -> NDArray[np.float32]:
    """Return distance or similarity of query ``rows[i]`` and vector ``ids[i]``, (len(ids),)."""
    distances = np.empty(len(ids), np.float32)
    step = max(1, _BLOCK_BYTES // (8 * ds.d))
    for start in range(0, len(ids), step):
        part = slice(start, start + step)
        if ds.metric != "l2":
            queries, its = ds.test[rows[part]], ids[part, None]
            distances[part] = truth.similarities(ds.train, queries, its, ds.metric)[:, 0]
            continue
        gap = ds.train[ids[part]].astype(np.float64)
        gap -= ds.test[rows[part]]
        distances[part] = np.sqrt(np.einsum("ij,ij->i", gap, gap))
    return distances


def _sign(ds: Dataset) -> int:
    """Return 1 where small values are near, -1 where they are far."""
    return 1 if ds.metric == "l2" else -1


def _repeated(ids: IdArray) -> NDArray[np.bool_]:
    """Tell which ids (nq, R) stand further left in their row already."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, 1)
    again = np.zeros(ids.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = np.empty_like(again)
    np.put_along_axis(repeated, order, again, 1)
    return repeated
