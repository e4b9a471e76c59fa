"""Measuring: recall, the two losses, time, memory, and what a data set is like.

Ties at the k-th distance count as right, as ann-benchmarks counts them: two base vectors at
the same distance are equally good answers.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib import _blas, _checks
from pqlib.clustering import TwoLevelClustering
from pqlib.datasets import Dataset

FloatMatrix = NDArray[np.float32]
FloatVector = NDArray[np.float64]
IdArray = NDArray[np.int64]

TIE_TOLERANCE = 1e-5
"""Relative difference up to which two float32 distances count as equal."""


# Recall ------------------------------------------------------------------------------------


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


# Time --------------------------------------------------------------------------------------


def time_calls(
    calls: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    warmup: bool = True,
    min_seconds: float = 0.02,
    progress: bool = True,
) -> pd.DataFrame:
    """Time several calls side by side: interleaved repeats, medians.

    Interleaving spreads whatever else the machine does over all of them. A call that lasts less
    than ``min_seconds`` is repeated within one measurement until it does.

    Returns
    -------
    DataFrame with a row for each call, in order: "name", "median_s", "min_s", "max_s" (seconds
    of one call) and "repeats".
    """
    loops = {}
    for name, call in calls.items():
        if not warmup:
            loops[name] = 1
            continue
        start = time.perf_counter()
        call()
        loops[name] = max(1, round(min_seconds / max(1e-9, time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    rounds = [(r, name) for r in range(repeats) for name in calls]
    for _, name in tqdm(rounds, desc="timing", leave=False, disable=None if progress else True):
        start = time.perf_counter()
        for _ in range(loops[name]):
            calls[name]()
        seconds[name].append((time.perf_counter() - start) / loops[name])
    return pd.DataFrame(
        {
            "name": name,
            "median_s": float(np.median(values)),
            "min_s": min(values),
            "max_s": max(values),
            "repeats": repeats,
        }
        for name, values in seconds.items()
    )


def single_query_latency(
    search: Callable[[FloatMatrix], object], xq: FloatMatrix, n: int = 200
) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds of searching one query a call, over n queries.

    All are searched once before they are timed, so that what the first search of a list prepares
    for later ones is not taken for a latency.
    """
    n = min(n, len(xq))
    for i in range(n):
        search(xq[i : i + 1])
    seconds = []
    for i in range(n):
        start = time.perf_counter()
        search(xq[i : i + 1])
        seconds.append(time.perf_counter() - start)
    p50, p95, p99 = np.percentile(1e3 * np.array(seconds), [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def machine() -> dict[str, str]:
    """Say what the timings of this run were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "threads": str(faiss.omp_get_max_threads()),
        "simd": faiss.SIMDConfig.get_level_name(),
        "blas": _blas.kernel_in_use(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "faiss": faiss.__version__,
        "numpy": metadata.version("numpy"),
    }


# What a data set is like -------------------------------------------------------------------


def relative_contrast(ds: Dataset, sample: int = 1000, seed: int = 0) -> float:
    """Return the mean distance to a random base vector over the mean distance to the nearest.

    Near 1, "nearest" means little and every index struggles; real data lie well above
    (He, Kumar, Chang, "On the difficulty of nearest neighbor search", ICML 2012).
    """
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
