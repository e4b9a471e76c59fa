"""What several measurements do: check k, show progress, time a call, count what a search costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib import _checks, evaluation
from pqlib._types import IdArray
from pqlib.datasets import Dataset

STORE = "re-ranking store"
"""What indexes call it in ``memory``."""


def checked_k(ds: Dataset, k: int) -> int:
    """Return k; ValueError where the ground truth of ``ds`` holds fewer neighbours."""
    held = ds.neighbors.shape[1]
    return _checks.integer(
        "k", k, 1, held, f"The ground truth of {ds.name} holds {held} neighbours."
    )


def checked_counts(**values: Any) -> None:
    """Raise ValueError, with the name, where one of the values is no whole number above 0."""
    for name, value in values.items():
        _checks.integer(name, value, 1)


def shown(
    items: Iterable[Any] | None, desc: str, progress: bool = True, total: int | None = None
) -> tqdm[Any]:
    """Return a progress bar over ``items``; it shows on a terminal alone, and goes at its end."""
    return tqdm(items, desc, total, leave=False, disable=None if progress else True)


def clocked(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and the seconds it took."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def mean_cost(index: Any, xq: Any, k: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Return the distance computations of a query by stage, mean over the queries."""
    counts = index.search_cost(xq, k, **options)
    return {stage: float(count.mean()) for stage, count in counts.items()}


def with_interval(
    ids: IdArray, ds: Dataset, k: int, seed: int
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Return "recall", "recall_low" and "recall_high" of ids found, and the recalls of queries."""
    recalls = evaluation.query_recall(ids, ds, k)
    low, high = evaluation.bootstrap_interval(recalls, seed=seed)
    found = {"recall": float(recalls.mean()), "recall_low": low, "recall_high": high}
    return found, recalls


def memory(index: Any, options: Mapping[str, Any]) -> dict[str, int]:
    """Return the bytes of the parts that a search with these options needs."""
    held = index.memory()
    if options.get("rerank") is False:
        held.pop(STORE, None)
    return held
