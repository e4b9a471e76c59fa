"""The ladder: from exact search to the tuned index, one idea a rung, measured side by side.

Each rung adds one idea to one before it, and says to which. All are swept over their search
parameters on the same queries in one run; what a rung costs in distance computations, bytes and
building stands beside its speed. ``pqlib.study.rungs`` says what the rungs are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pqlib import evaluation
from pqlib.datasets import Dataset
from pqlib.study.builders import Built, Setting, setting_text
from pqlib.study.choosing import TARGETS, trials, worth_timing
from pqlib.study.rates import speeds
from pqlib.study.rungs import Rung, by_rule, rungs
from pqlib.study.shared import checked_k, clocked, shown

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
    k = checked_k(ds, k)
    climbed = [_Climbed(rung, i) for i, rung in enumerate(steps)]
    with shown(climbed, "building", progress) as bar:
        for step in bar:
            bar.set_description(f"building {step.rung.name}")
            try:
                step.built, seconds = clocked(step.rung.build)
            except (ValueError, RuntimeError) as problem:  # of a size that some rung cannot take
                step.reason = str(problem)
                continue
            step.build_s = seconds if step.rung.build_s is None else step.rung.build_s
            step.kept = _scouted(step.built, step.rung.settings, ds, k)
    points = _points(climbed, ds, k, repeats, progress)
    return Ladder(points, _summary(climbed, points, ds))


def _scouted(
    built: Built, settings: Sequence[Setting], ds: Dataset, k: int
) -> list[tuple[Setting, float]]:
    """Try settings on a part of the queries; return those to time, with seconds of a query."""
    tried = trials(built.search, settings, ds, k, SCOUTED)
    if len(settings) > CALIBRATED:
        tried = tried.iloc[worth_timing(tried.recall.to_numpy(), tried.qps.to_numpy())]
    return [(settings[i], 1 / qps) for i, qps in zip(tried.index, tried.qps, strict=True)]


def _points(
    climbed: Sequence[_Climbed], ds: Dataset, k: int, repeats: int, progress: bool
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    calls: dict[str, Callable[[], object]] = {}
    every = [
        (step, step.built, setting, seconds)
        for step in climbed
        if step.built
        for setting, seconds in step.kept
    ]
    for step, built, setting, seconds in shown(every, "recall", progress):
        few = int(min(ds.nq, max(FEWEST_QUERIES, CALL_SECONDS / seconds)))
        # Exact search is slow, and its recall is known.
        whole = ds.nq * seconds < 40 * CALL_SECONDS
        ids = built.search(ds.test if whole else ds.test[:few], k, setting)
        cost = built.work(ds.test[:SCOUTED], k, setting)
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
        calls[str(len(calls))] = partial(built.search, ds.test[:few], k, setting)
    table = pd.DataFrame(rows)
    timings = evaluation.time_calls(calls, repeats, progress=progress)
    return table.join(speeds(table.queries, timings))


def _summary(climbed: Sequence[_Climbed], points: pd.DataFrame, ds: Dataset) -> pd.DataFrame:
    about = {step.rung.name: (step.number, step.rung.idea) for step in climbed}
    table = pd.DataFrame.from_dict(about, orient="index", columns=["number", "idea"])
    table["highest"] = points.groupby("method").recall.max()
    for target in TARGETS:
        at = evaluation.at_recall(points, target, "qps").set_index("method")
        table[f"qps_{round(100 * target)}"] = at.qps
    enough = points[points.recall >= 0.95].sort_values("recall", kind="stable")
    nearest = enough.drop_duplicates("method").set_index("method")[COUNTS]
    table = table.join(nearest.add_suffix("_95")).rename_axis("method").reset_index()
    table.insert(0, "number", table.pop("number"))
    return table.assign(
        bytes_per_vector=[step.built.bytes / ds.n if step.built else math.nan for step in climbed],
        build_s=[step.build_s for step in climbed],
        reason=[step.reason for step in climbed],
        note=[step.built.note if step.built else "" for step in climbed],
    )
