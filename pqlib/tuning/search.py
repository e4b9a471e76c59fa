"""How time is spent: a search over the compositions of an index, by measurement.

What is chosen among: exact search, and ``CascadeIndex`` with every sensible number of lists and of
components, with a rotation or without. Each one tried is built on the whole base and measured on
queries that were held back from its training, at settings that just reach the recall asked for;
those that are clearly worse are dropped early, and the search goes on from the best until no
neighbour of it is better or the time is used up.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd
from tqdm import tqdm

from pqlib import _checks, evaluation
from pqlib._types import FloatMatrix
from pqlib.datasets import Dataset
from pqlib.indexes import BruteForce, CascadeIndex, GraphIndex, Index, SearchSettings
from pqlib.tuning.calibration import Found, Lookup, Task, least_seconds
from pqlib.tuning.compositions import (
    EXACT,
    Composition,
    build,
    expected_bytes,
    graphs,
    neighbors,
    starts,
)
from pqlib.tuning.report import CURVE, Tuned

CLOSE = 1.25  # times as fast or slow: measured again side by side
WORSE = 1.5  # times slower than the best, in a first look: not looked at more closely


@dataclass
class Trial(Found):
    """A composition and what came of it."""

    composition: Composition = EXACT
    bytes_per_vector: float = math.nan
    build_s: float = math.nan
    seconds: float = math.nan


OBJECTIVES: dict[str, Callable[[Trial], float]] = {
    "qps": lambda trial: trial.qps,
    "latency": lambda trial: 1 / trial.p50_ms,
    "bytes": lambda trial: 1 / trial.bytes_per_vector,
}
"""What may be asked for, and what is the more the better: queries per second of a batch, time of
one query, bytes per vector."""

TRIED = ("composition", "outcome", "recall", "qps", "p50_ms", "bytes_per_vector", "build_s")
"""Columns of ``Tuned.tried``, before "seconds" and "reached"."""


def tune(
    ds: Dataset,
    recall: float = 0.95,
    k: int = 10,
    max_bytes: float | None = None,
    objective: str = "qps",
    queries: FloatMatrix | None = None,
    budget_s: float = 180,
    seed: int = 0,
    progress: bool = True,
    graphs: bool = False,
) -> Tuned:
    """Find the index that answers best at a recall, for these vectors and on this machine.

    Neighbours of the queries of ``ds`` are not looked at. At most half of the queries themselves
    are, to see whether they are like vectors of the base; where not, these are calibrated with, by
    exact neighbours found here.

    Parameters
    ----------
    ds : the base is its ``train``; its metric is the index's
    recall : recall@k asked for, above 0, at most 1
    k : neighbours
    max_bytes : bytes per vector allowed, everything counted; None: any number
    objective : "qps" (a batch), "latency" (one query at a time) or "bytes" (the smallest index)
    queries : (nq, d) a sample of the real queries; None: vectors of the base serve, which are held
        back from training and, in measuring recall, are not their own neighbours, unless the
        queries of ``ds`` are unlike these
    budget_s : seconds it may take
    seed : of samples and training
    progress : show a bar on a terminal
    graphs : choose among graphs over codes too (``GraphIndex``), which are faster where neighbours
        are spread over many lists, and take longer to build. Then half of the queries of ``ds``
        are calibrated with, where no others are given

    Returns
    -------
    The index, filled and with search defaults that reach the recall; the settings for other
    recalls; what was tried.

    Raises
    ------
    ValueError
        When an argument is out of range, or no index of those known fits ``max_bytes``.
    """
    started = time.monotonic()
    recall = _checks.number("recall", recall, 0, 1, most=True)
    if objective not in OBJECTIVES:
        raise ValueError(f"objective={objective!r}: expected one of {', '.join(OBJECTIVES)}.")
    budget_s = _checks.number("budget_s", budget_s, 0, most=True, hint="It is in seconds.")
    if max_bytes is not None:
        max_bytes = _checks.number("max_bytes", max_bytes, 0, most=True, hint="Or None: any.")
    if ds.n < 2:
        raise ValueError(f"ds has {ds.n} base vectors: expected at least 2, to choose among.")
    k = _checks.integer("k", k, 1, ds.n - 1, "There are fewer base vectors.")
    seed = _checks.seed(seed)
    task = Task(ds, recall, k, max_bytes, objective, queries, seed, started + budget_s, graphs)
    with tqdm(desc="tuning", leave=False, disable=None if progress else True) as bar:
        search = _Search(task, bar)
        search.run(with_graphs=graphs)
    index, trial = search.settle()
    tried = pd.DataFrame([vars(t) | {"composition": str(t.composition)} for t in search.trials])
    return Tuned(
        index=index,
        composition=trial.composition,
        curve=search.curve(index, trial),
        tried=tried[[*TRIED, "seconds", "reached"]],
        reached=trial.reached,
        recall=recall,
        k=k,
        objective=objective,
        max_bytes=max_bytes,
        seconds=time.monotonic() - started,
        interval=search.interval(trial),
        task=task,
    )


class _Search:
    """The search over compositions."""

    def __init__(self, task: Task, bar: Any) -> None:
        self.task, self.bar = task, bar
        self.scout = task.scout()
        self.trials: list[Trial] = []
        self.kept: tuple[Index, Trial] | None = None
        self.lookup: Lookup | None = None  # of the index chosen, with all queries

    def run(self, with_graphs: bool) -> None:
        """Try compositions until no neighbour of the best is better, or time is up."""
        self._try_exact()
        for composition in chain(starts(self.task), graphs(self.task) if with_graphs else ()):
            self._try(composition)
        while True:
            others = [t for t in self.trials if t.composition != EXACT]
            best = max(others, key=self._promise).composition
            known = {t.composition for t in self.trials}
            ahead = [c for c in neighbors(best, self.task) if c not in known]
            if not ahead or not self._try(ahead[0]):
                break

    def settle(self) -> tuple[Index, Trial]:
        """Return the index chosen and its trial, looked up with all queries."""
        if self.kept is None:
            limits = f"max_bytes={self.task.max_bytes:g}" if self.task.max_bytes else "the limits"
            sizes = [t.bytes_per_vector for t in self.trials if t.bytes_per_vector > 0]
            raise ValueError(
                f"{limits}: no index of those known fits; the smallest tried needs "
                f"{math.ceil(min(sizes)):,} bytes per vector. Allow more, or give tune more time "
                "(budget_s)."
            )
        index, trial = self.kept
        if isinstance(index, CascadeIndex | GraphIndex):
            self.lookup = Lookup(index, self.task, self.task.deadline)
            if self.scout is not self.task:
                found = self.lookup.reach(self.task.recall, 0.0)
                _set(index, found)
                vars(trial).update(vars(found) | {"outcome": trial.outcome})
        return self.kept

    def interval(self, trial: Trial) -> tuple[float, float]:
        """Return where the recall of new queries lies, by 95%; of exact search, as measured."""
        if self.lookup is None or trial.settings is None:
            return trial.recall, 1.0
        return self.lookup.interval(trial.settings)

    def _merit(self, trial: Trial) -> tuple[bool, float]:
        """Return how good a measured trial is; more is better."""
        score = OBJECTIVES[self.task.objective](trial) if trial.reached else trial.recall
        return trial.reached, score

    def _promise(self, trial: Trial) -> tuple[bool, bool, float]:
        """Return how good a start a trial is: the best that fits, else the smallest."""
        if math.isnan(trial.bytes_per_vector):
            return False, False, -math.inf
        if trial.settings is None or not self._fits(trial):
            return False, False, -trial.bytes_per_vector
        return True, *self._merit(trial)

    def _fits(self, trial: Trial) -> bool:
        limit = self.task.max_bytes
        return limit is None or trial.bytes_per_vector <= limit

    def _try_exact(self) -> None:
        started = time.monotonic()
        xb, k = self.task.xb, self.task.k
        index = BruteForce(xb.shape[1], copy=False, metric=self.task.metric)
        index.add(xb)
        scout = self.scout.scout(max(1, int(2e10 / xb.size)))
        few = scout.queries
        # Far from the origin float32 is too short for exact search, too: by its ids, since the
        # distances that it returns are wrong then.
        recall = float(scout.recalls(index.search, exact=False).mean())
        seconds = least_seconds(lambda: index.search(few, k), repeats=2)[0]
        latency = evaluation.single_query_latency(lambda q: index.search(q, k), few, n=20)
        trial = Trial(None, recall, len(few) / seconds, latency["p50_ms"], build_s=0.0)
        trial.reached = recall >= self.task.recall
        trial.bytes_per_vector = index.bytes_per_vector
        self._decide(trial, index, started)

    def _try(self, composition: Composition) -> bool:
        """Build and measure a composition; return False when there is no time for it."""
        task = self.task
        started = time.monotonic()
        size = expected_bytes(composition, task)
        if task.max_bytes is not None and size > task.max_bytes:
            outcome = f"not built: would need {size:,.0f} bytes per vector"
            self.trials.append(
                Trial(outcome=outcome, composition=composition, bytes_per_vector=size)
            )
            return True
        longest = max((t.seconds for t in self.trials if t.settings is not None), default=0.0)
        if self.kept is not None and task.left() - task.reserve < 1.3 * longest:
            outcome = "not tried: no time left"
            self.trials.append(Trial(outcome=outcome, composition=composition))
            return False
        self.bar.set_description(f"tuning: {composition}")
        index, build_s = build(composition, task)
        settings = Lookup(index, self.scout, task.deadline - task.reserve)
        found = settings.reach(task.recall, self._to_beat())
        _set(index, found)
        trial = Trial(**vars(found), composition=composition, build_s=build_s)
        trial.bytes_per_vector = index.bytes_per_vector
        self._decide(trial, index, started)
        return True

    def _to_beat(self) -> float:
        """Return the QPS below which settings need no closer look."""
        if self.task.objective != "qps" or self.kept is None or not self.kept[1].reached:
            return 0.0
        return self.kept[1].qps / WORSE

    def _decide(self, trial: Trial, index: Index, started: float) -> None:
        """Keep the index if it is the best so far, and note why or why not."""
        trial.seconds = time.monotonic() - started
        self.trials.append(trial)
        self.bar.update()
        if not self._fits(trial):
            trial.outcome = "dropped: more bytes than allowed"
            return
        if self.kept is not None:
            self._measure_again((self.kept, (index, trial)))
            other = self.kept[1]
            if self._merit(trial) <= self._merit(other):
                trial.outcome = trial.outcome or f"dropped: {other.composition} is better"
                return
            other.outcome = f"dropped: {trial.composition} is better"
        trial.outcome = "chosen"
        self.kept = (index, trial)

    def _measure_again(self, both: tuple[tuple[Index, Trial], tuple[Index, Trial]]) -> None:
        """Measure the best and one that comes close to it side by side."""
        (_, best), (_, trial) = both
        if not 1 / CLOSE < trial.qps / best.qps < CLOSE:
            return
        xq, k = self.task.queries, self.task.k
        calls = []
        for index, t in both:
            if not t.reached or t.settings is None:
                return
            search: Callable[..., Any] = index.search
            calls.append(functools.partial(search, xq, k, **t.settings.arguments()))
        for (_, t), seconds in zip(both, least_seconds(*calls, repeats=15), strict=True):
            t.qps = len(xq) / seconds

    def curve(self, index: Index, trial: Trial) -> pd.DataFrame:
        """Look up settings of the chosen index for several recalls."""
        task = self.task
        found: dict[float, Found] = {task.recall: trial}
        if self.lookup is not None:
            for target in CURVE:
                if target in found or task.left() < 0:
                    continue
                self.bar.set_description(f"settings for recall {target:g}")
                reached = self.lookup.reach(target, 0.0)
                if reached.reached:
                    found[target] = reached
        rows = [self._row(index, target, its) for target, its in found.items()]
        return pd.DataFrame(rows).sort_values("target", ignore_index=True)

    def _row(self, index: Index, target: float, found: Found) -> dict[str, Any]:
        """Return the row of a curve: what was found for ``target``, with its counted work."""
        settings, cost = found.settings, {"codes": 0.0, "vectors": float(len(self.task.xb))}
        if settings is not None and isinstance(index, CascadeIndex | GraphIndex):
            counted = index.search_cost(self.task.queries, self.task.k, **settings.arguments())
            cost = {stage: float(counted[stage].mean()) for stage in cost}
        lists = settings if isinstance(settings, SearchSettings) else None
        row = {
            "target": target,
            "recall": found.recall,
            "qps": found.qps,
            "p50_ms": found.p50_ms,
            "nprobe": lists.nprobe if lists else math.nan,
            "candidates": settings.candidates if settings else math.nan,
            "margin": lists.margin if lists and lists.margin is not None else math.nan,
            **cost,
        }
        return row if isinstance(settings, SearchSettings | None) else {**row, "ef": settings.ef}


def _set(index: CascadeIndex | GraphIndex, found: Found) -> None:
    """Make what was found the defaults of an index."""
    assert found.settings is not None
    vars(index)["settings"] = found.settings
