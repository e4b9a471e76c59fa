"""The ladder: from exact search to the tuned index, one idea a rung, measured side by side.

Each rung adds one idea to one before it, and says to which. All are swept over their search
parameters on the same queries in one run; what a rung costs in distance computations, bytes and
building stands beside its speed. ``pqlib.study.rungs`` says what the rungs are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from pqlib import _checks, evaluation
from pqlib.datasets import Dataset
from pqlib.study.builders import Built, Setting, setting_text
from pqlib.study.choosing import TARGETS, needless, worth_timing
from pqlib.study.rates import speeds
from pqlib.study.rungs import Rung, by_rule, rungs

__all__ = ["Ladder", "Rung", "by_rule", "climb", "rungs"]

CALL_SECONDS = 0.12
"""A timed call searches as many of the queries as take about so long, or all of them."""
FEWEST_QUERIES = 200
SCOUTED = 500
CALIBRATED = 10  # settings up to which all are timed: they were chosen with care
COUNTS = ["centroids", "codes", "vectors"]


@dataclass(frozen=True)
class Ladder:
    """What was measured: the tables of ``07_points.csv`` and ``07_ladder.csv``.

    ``points`` has a row for each rung and setting that was timed, ``rungs`` one for each rung.
    """

    points: pd.DataFrame
    rungs: pd.DataFrame


@dataclass
class _Climbed:
    """A rung that is built, or was not, for a reason."""

    rung: Rung
    number: int
    built: Built | None = None
    build_s: float = math.nan
    reason: str = ""
    kept: list[tuple[Setting, float]] = field(default_factory=list)  # with seconds of a query


def climb(
    ds: Dataset,
    steps: Sequence[Rung],
    k: int = 10,
    repeats: int = 3,
    progress: bool = True,
) -> Ladder:
    """Build all rungs, sweep their searches and time them, interleaved.

    Settings are first tried on a part of the queries; those that others of the same rung beat are
    left out. The recall of the rest is of all queries. Slow searches are timed on as many of the
    queries as take ``CALL_SECONDS``; the median of ``repeats`` calls counts.

    Raises ValueError when k is more than the ground truth holds.
    """
    held = ds.neighbors.shape[1]
    k = _checks.integer("k", k, 1, held, f"The ground truth of {ds.name} holds {held} neighbours.")
    climbed = [_Climbed(rung, i) for i, rung in enumerate(steps)]
    with tqdm(climbed, leave=False, disable=None if progress else True) as bar:
        for step in bar:
            bar.set_description(f"building {step.rung.name}")
            start = time.perf_counter()
            try:
                step.built = step.rung.build()
            except (ValueError, RuntimeError) as problem:  # of a size that some rung cannot take
                step.reason = str(problem)
                continue
            seconds = time.perf_counter() - start
            step.build_s = seconds if step.rung.build_s is None else step.rung.build_s
            step.kept = _scouted(step.built, step.rung.settings, ds, k)
    points = _points(climbed, ds, k, repeats, progress)
    return Ladder(points, _summary(climbed, points, ds))


def _scouted(
    built: Built, settings: Sequence[Setting], ds: Dataset, k: int
) -> list[tuple[Setting, float]]:
    """Try settings on a part of the queries; return those to time, with seconds of a query."""
    xq = ds.test[:SCOUTED]
    tried: list[Setting] = []
    recalls: list[float] = []
    seconds: list[float] = []
    for setting in settings:
        if needless(setting, tried, recalls):
            continue
        if not tried:
            built.search(xq[:50], k, setting)  # the first search makes room
        start = time.perf_counter()
        ids = built.search(xq, k, setting)
        seconds.append((time.perf_counter() - start) / len(xq))
        tried.append(setting)
        recalls.append(evaluation.recall_at_k(ids, ds, k))
    chosen: Sequence[int] = range(len(tried))
    if len(settings) > CALIBRATED:
        chosen = worth_timing(np.array(recalls), 1 / np.array(seconds))
    return [(tried[i], seconds[i]) for i in chosen]


def _points(
    climbed: Sequence[_Climbed], ds: Dataset, k: int, repeats: int, progress: bool
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    calls: dict[str, Callable[[], object]] = {}
    every = [(step, setting, s) for step in climbed for setting, s in step.kept]
    for step, setting, seconds in tqdm(
        every, desc="recall", leave=False, disable=None if progress else True
    ):
        assert step.built is not None
        assert step.built.work is not None
        few = int(min(ds.nq, max(FEWEST_QUERIES, CALL_SECONDS / seconds)))
        # Exact search is slow, and its recall is known.
        whole = ds.nq * seconds < 40 * CALL_SECONDS
        ids = step.built.search(ds.test if whole else ds.test[:few], k, setting)
        cost = step.built.work(ds.test[:SCOUTED], k, setting)
        rows.append(
            {
                "number": step.number,
                "method": step.rung.name,
                "setting": setting_text(setting),
                "recall": evaluation.recall_at_k(ids, ds, k),
                "queries": few,
                **{name: float(np.mean(cost[name])) for name in COUNTS},
            }
        )
        calls[str(len(calls))] = partial(step.built.search, ds.test[:few], k, setting)
    table = pd.DataFrame(rows)
    timings = evaluation.time_calls(calls, repeats, progress=progress)
    return table.join(speeds(table.queries, timings))


def _summary(climbed: Sequence[_Climbed], points: pd.DataFrame, ds: Dataset) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "number": step.number,
            "method": step.rung.name,
            "idea": step.rung.idea,
            "bytes_per_vector": math.nan if step.built is None else step.built.bytes / ds.n,
            "build_s": step.build_s,
            "reason": step.reason,
            "note": "" if step.built is None else step.built.note,
        }
        for step in climbed
    )
    ends = [table.pop(name) for name in ("bytes_per_vector", "build_s", "reason", "note")]
    table = table.join(points.groupby("method").recall.max().rename("highest"), on="method")
    for target in TARGETS:
        at = evaluation.at_recall(points, target, "qps").set_index("method")
        table[f"qps_{round(100 * target)}"] = table.method.map(at.qps)
    enough = points[points.recall >= 0.95].sort_values("recall", kind="stable")
    nearest = enough.drop_duplicates("method").set_index("method")[COUNTS]
    return table.join(nearest.add_suffix("_95"), on="method").join(ends)
