"""What an index answers at which settings, measured with queries that it was not trained on."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks, evaluation
from pqlib._types import FloatMatrix, IdArray
from pqlib.datasets import Dataset
from pqlib.datasets.dataset import holds_bytes
from pqlib.datasets.truth import exact_neighbors
from pqlib.evaluation.recall import thresholds
from pqlib.indexes import CascadeIndex, GraphIndex, GraphSettings, SearchSettings
from pqlib.indexes.kernels.layout import LARGEST_D
from pqlib.indexes.metric import Widened
from pqlib.indexes.rotation import principal_axes
from pqlib.tuning.shift import Shift, shift

QUERIES = 2000
"""Vectors held back to measure with, where no queries are given."""

SCOUTS = 400
"""Of these, those that indexes are compared by; the index chosen is looked up with all."""

TRUTH_RATE = 2e10  # multiplications a second that exact search is taken to make, to plan with
CANDIDATES = (1, 1.2, 1.5, 2, 2.4, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 26, 32, 40)  # times k
MARGINS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2)
WALKS = 64  # times k: the most nodes kept of a walk
LATENCY_QUERIES = 200
MOST_TRAINING = 50_000  # vectors trained on
LONG_ENOUGH_S = 2.0  # of repeating a measurement
SPECTRUM = 5000  # vectors that variances along the axes are taken from
SPREAD = 0.55
"""Standard deviation of a query's recall over sqrt(r (1 - r)), at least: what is found and missed
of one query goes together, so that it is more than 1 / sqrt(k)."""
RESERVE = 0.25  # of the budget, for looking up the settings of the curve


class Task:
    """What all trials share: queries to calibrate with, their neighbours, vectors to train on.

    Arguments are those of ``tune``; ``deadline`` is of the monotonic clock.

    Attributes
    ----------
    queries : (nq, d) calibrated with: those given; else vectors of the base, unless the queries of
        the data set are unlike these or graphs are tried, then a sample of the queries
    own : rows of the base that the queries are; None where they are none
    shift : how unlike the queries of the data set are; None where queries were given
    """

    def __init__(
        self,
        ds: Dataset,
        recall: float,
        k: int,
        max_bytes: float | None,
        objective: str,
        queries: FloatMatrix | None,
        seed: int,
        deadline: float,
        graphs: bool = False,
    ) -> None:
        self.xb, self.recall, self.k, self.seed = ds.train, recall, k, seed
        self.metric = ds.metric
        self.max_bytes, self.objective, self.deadline = max_bytes, objective, deadline
        self.reserve = RESERVE * self.left()
        self.axes_s = 0.0  # that finding the axes took, part of building each index that has them
        rng = np.random.default_rng(seed)
        most = int(min(QUERIES, max(200, 0.08 * self.left() * TRUTH_RATE / ds.train.size)))
        self.own: IdArray | None = None
        self.shift: Shift | None = None
        if queries is None:
            self.own = _drawn(rng, ds.n, min(most, max(1, ds.n // 4)))
            self.queries = ds.train[self.own]
        else:
            given = _checks.vectors("queries", queries, ds.d)
            self.queries = given[_drawn(rng, len(given), min(most, len(given)))]
        near, values = self._neighbors(self.queries, self.own)
        if self.own is not None and ds.nq > 1:
            rows = _drawn(rng, ds.nq, min(most, ds.nq // 2))
            theirs = _checks.vectors("queries of ds", ds.test[rows], ds.d)
            found = self._neighbors(theirs, None)
            self.shift = shift(values[:, -1], found[1][:, -1], rows)
            # A vector of the base is a node of the graph itself: a walk that starts from it as a
            # query finds its neighbours as it finds them for no new query.
            if self.shift.unlike or graphs:
                self.own, self.queries, (near, values) = None, theirs, found
        if graphs and self.own is not None:
            raise ValueError(
                f"graphs=True with {ds.nq} queries in the data set: expected at least 2 to "
                "calibrate with, since vectors of the base are nodes of a graph themselves. Pass "
                "a sample of the real ones as queries=."
            )
        self.ds = replace(ds, test=self.queries, neighbors=near, distances=values)
        self.bounds, self.store = self._bounds(values[:, -1])
        self.training = np.arange(ds.n)
        if self.own is not None and ds.n > 2 * len(self.own):
            self.training = np.delete(self.training, self.own)
        if len(self.training) > MOST_TRAINING:
            self.training = np.sort(rng.choice(self.training, MOST_TRAINING, replace=False))

    def _neighbors(self, xq: FloatMatrix, own: IdArray | None) -> tuple[IdArray, FloatMatrix]:
        """Return the exact neighbours of queries, and their values; none is the query itself."""
        more = own is not None
        near, values = exact_neighbors(
            self.xb, xq, self.k + more, progress=False, metric=self.metric
        )
        if own is not None:
            values, near = _without(values, near, own)
        return near, values

    def _bounds(self, kth: FloatMatrix) -> tuple[NDArray[np.float32], str]:
        """Return up to which value a vector is a neighbour, (nq,), and what keeps vectors whole."""
        if self.metric != "l2":
            # As recall is judged; there, similarities have their sign changed.
            bounds = -thresholds(self.ds, len(self.queries), self.k, None)
            return bounds.astype(np.float32), "float32"
        squared = kth.astype(np.float64) ** 2
        # What rounding in float32 may add to a distance that is the same. Re-ranking adds up
        # squared differences, so it grows with the distance, not with the size of the vectors.
        slack = 1e-5 * squared
        whole = self.xb.shape[1] <= LARGEST_D and holds_bytes(self.xb)
        if whole and bool((self.queries == np.rint(self.queries)).all()):
            slack = np.full(len(squared), 0.5)  # distances of whole numbers are whole
        return (squared + slack).astype(np.float32), "uint8" if whole else "float32"

    def scout(self, most: int = SCOUTS) -> Task:
        """Return the same task with at most so many of the queries, to compare indexes by."""
        if len(self.queries) <= most:
            return self
        rows = np.linspace(0, len(self.queries) - 1, most).astype(np.int64)
        less = copy.copy(self)
        less.queries, less.bounds = self.queries[rows], self.bounds[rows]
        less.own = None if self.own is None else self.own[rows]
        truth = (self.ds.neighbors[rows], self.ds.distances[rows])
        less.ds = replace(self.ds, test=less.queries, neighbors=truth[0], distances=truth[1])
        return less

    @property
    def held_back(self) -> bool:
        """Whether the queries are vectors of the base."""
        return self.own is not None

    @cached_property
    def sample(self) -> FloatMatrix:
        """Vectors trained on."""
        return self.xb[self.training]

    @cached_property
    def axes(self) -> FloatMatrix:
        """Principal axes of the vectors as an index has them inside, found once for all trials."""
        start = time.perf_counter()
        inside = self.space.base(self.sample)
        found = principal_axes(inside, inside.mean(axis=0, dtype=np.float64), self.space.width)
        self.axes_s = time.perf_counter() - start
        return found

    @cached_property
    def space(self) -> Widened:
        """Vectors as an index has them inside."""
        space = Widened(self.metric, self.xb.shape[1])
        space.learn(self.sample)
        return space

    def components_holding(self, share: float) -> int:
        """Return how many principal components hold a share of the variance."""
        turned = self.space.base(self.sample[:SPECTRUM]) @ self.axes
        variances = turned.var(axis=0, dtype=np.float64)
        held = np.cumsum(variances) / max(float(variances.sum()), 1e-300)
        return int((held < share).sum()) + 1

    def left(self) -> float:
        """Return the seconds left of the budget."""
        return self.deadline - time.monotonic()

    def recalls(
        self, search: Callable[..., tuple[FloatMatrix, IdArray]], exact: bool
    ) -> NDArray[np.float64]:
        """Return the recall of each query of a search with these arguments, (nq,)."""
        values, ids = search(self.queries, min(self.k + self.held_back, len(self.xb)))
        if self.own is not None:
            values, ids = _without(values, ids, self.own)
        values, ids = values[:, : self.k], ids[:, : self.k]
        if not exact:
            return evaluation.query_recall(ids, self.ds, self.k)
        bounds = self.bounds[:, None]
        right = values <= bounds if self.metric == "l2" else values >= bounds
        return np.asarray(right).mean(axis=1)


def _drawn(rng: np.random.Generator, n: int, count: int) -> IdArray:
    """Return ``count`` of ``n`` rows, ascending: all of them where they are no more."""
    return np.sort(rng.choice(n, count, replace=False)) if count < n else np.arange(n)


def _without(distances: FloatMatrix, ids: IdArray, own: IdArray) -> tuple[FloatMatrix, IdArray]:
    """Return each row without the query itself; where it was not found, without the last."""
    drop = ids == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    shape = (len(ids), ids.shape[1] - 1)
    return distances[~drop].reshape(shape), ids[~drop].reshape(shape)


Settings = SearchSettings | GraphSettings


@dataclass
class Found:
    """Settings of an index and what they give."""

    settings: Settings | None = None
    recall: float = math.nan
    qps: float = math.nan
    p50_ms: float = math.nan
    reached: bool = False
    outcome: str = ""


@dataclass
class Lookup:
    """Settings of one index, looked up by recall; what was measured once is remembered."""

    index: CascadeIndex | GraphIndex
    task: Task
    until: float = math.inf  # of the monotonic clock: from then on only what is needed is tried
    recalls: dict[Settings, float] = field(default_factory=dict)
    speeds: dict[Settings, float] = field(default_factory=dict)
    errors: dict[Settings, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, k = self.index.ntotal, self.task.k
        if isinstance(self.index, CascadeIndex):
            least, most = 1, self.index.n_lists
        else:
            least, most = min(n, k), min(n, WALKS * k)
        steps = range(math.ceil(math.log(max(most / least, 1), 1.15)))
        # Lists probed, or nodes kept of a walk.
        self.efforts = sorted({least, most, *(round(least * 1.15**i) for i in steps)})
        self.candidates = sorted({min(n, math.ceil(f * k)) for f in CANDIDATES})
        # The most thorough: where even these fall short of a recall, nothing reaches it.
        self.most = self.settings(most, self.candidates[-1])

    def settings(self, effort: int, candidates: int) -> Settings:
        """Return the settings of so many lists probed or nodes kept."""
        if isinstance(self.index, CascadeIndex):
            return SearchSettings(effort, candidates)
        return GraphSettings(max(effort, candidates), candidates)

    def late(self) -> bool:
        """Return whether the time for refinements is over."""
        return time.monotonic() > self.until

    def recall_of(self, settings: Settings) -> float:
        """Return the recall that these settings have on the task's queries."""
        if settings not in self.recalls:
            arguments = settings.arguments(int(self.task.held_back))
            each = self.task.recalls(
                lambda xq, k: self.index.search(xq, k, **arguments), self.index.rerank is not None
            )
            self.recalls[settings] = float(each.mean())
            self.errors[settings] = float(each.std() / math.sqrt(len(each)))
        return self.recalls[settings]

    def interval(self, settings: Settings, new: int = 1000) -> tuple[float, float]:
        """Return where the recall of so many new queries like these lies, by 95%."""
        recall = self.recall_of(settings)
        half = 1.96 * self.errors[settings] * math.sqrt(1 + len(self.task.queries) / new)
        return max(0.0, recall - half), min(1.0, recall + half)

    def qps_of(self, settings: Settings) -> float:
        """Return the queries per second, all of the task's in one call."""
        if settings not in self.speeds:
            xq, arguments = self.task.queries, settings.arguments()
            least = least_seconds(lambda: self.index.search(xq, self.task.k, **arguments))
            self.speeds[settings] = len(xq) / least[0]
        return self.speeds[settings]

    def wanted(self, target: float) -> float:
        """Return the recall to aim at: a little more than the target.

        By half the standard error of a recall measured on so few queries, by all of it where a
        sample of other queries was calibrated with; but no more than the index reaches at its most
        thorough.
        """
        spread = max(SPREAD, self.task.k**-0.5)
        share = 0.5 if self.task.held_back else 1.0
        error = share * spread * math.sqrt(target * (1 - target) / len(self.task.queries))
        return max(target, min(target + error, self.recall_of(self.most)))

    def reach(self, target: float, to_beat: float) -> Found:
        """Return the fastest settings that reach ``target``; slow ones are not refined."""
        best = self.fixed(target)
        if best is None:
            highest = self.recall_of(self.most)
            return self._measured(
                self.most, f"dropped: reaches recall {highest:.4f} at most", reached=False
            )
        if self.qps_of(best) < to_beat:
            return self._measured(best, "dropped: clearly slower than the best at this recall")
        for tried in self.adaptive(best, self.wanted(target)):
            if self.qps_of(tried) > 1.02 * self.qps_of(best):
                best = tried
        return self._measured(best)

    def fixed(self, target: float) -> Settings | None:
        """Return the fastest settings without adaptive probing; None: it is not reached."""
        if self.recall_of(self.most) < target:
            return None
        wanted = self.wanted(target)
        best: Settings | None = None
        falling = 0
        start = len(self.efforts) - 1
        for candidates in self.candidates:
            effort = self._least_effort(candidates, wanted, start)
            if effort is None:
                continue
            start = self.efforts.index(effort)
            found = self.settings(effort, candidates)
            if best is None or self.qps_of(found) > self.qps_of(best):
                best, falling = found, 0
            else:
                falling += 1
            if falling == 4 or effort == self.efforts[0] or self.late():
                break  # more candidates cost more than fewer lists save
        return best or self.most

    def _least_effort(self, candidates: int, wanted: float, start: int) -> int | None:
        """Return the least effort with which so many candidates reach ``wanted``."""
        low, high, step = 0, start, 1
        if self.recall_of(self.settings(self.efforts[high], candidates)) < wanted:
            return None
        # More candidates need somewhat fewer lists than the last number of them: look nearby first.
        while high - step > low and start < len(self.efforts) - 1:
            if self.recall_of(self.settings(self.efforts[high - step], candidates)) < wanted:
                low = high - step + 1
                break
            high, step = high - step, 2 * step
        while low < high:
            middle = (low + high) // 2
            if self.recall_of(self.settings(self.efforts[middle], candidates)) >= wanted:
                high = middle
            else:
                low = middle + 1
        return self.efforts[high]

    def adaptive(self, fixed: Settings, wanted: float) -> list[SearchSettings]:
        """Return settings that reach ``wanted`` by more lists for the queries that need them."""
        found: list[SearchSettings] = []
        if isinstance(fixed, GraphSettings) or isinstance(self.index, GraphIndex):
            return found  # a walk ends earlier for easy queries by itself
        for factor in (1.5, 2.5):
            nprobe = min(self.index.n_lists, math.ceil(factor * fixed.nprobe))
            for margin in MARGINS:
                if self.late():
                    return found
                tried = SearchSettings(nprobe, fixed.candidates, margin)
                if self.recall_of(tried) >= wanted:
                    found.append(tried)
                    break
        return found

    def _measured(self, settings: Settings, outcome: str = "", reached: bool = True) -> Found:
        qps, arguments = self.qps_of(settings), settings.arguments()
        latency = evaluation.single_query_latency(
            lambda q: self.index.search(q, self.task.k, **arguments),
            self.task.queries,
            LATENCY_QUERIES,
        )
        recall = self.recall_of(settings)
        return Found(settings, recall, qps, latency["p50_ms"], reached, outcome)


def least_seconds(*calls: Callable[[], object], repeats: int = 5) -> list[float]:
    """Return the shortest of several repeats of each call, interleaved.

    To choose by, the shortest is better than the median: what else the machine does only adds.
    Calls that take seconds are not repeated.
    """
    least = [math.inf] * len(calls)
    begun = time.perf_counter()
    for repeat in range(repeats + 1):
        if repeat > 1 and time.perf_counter() - begun > LONG_ENOUGH_S:
            break
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if repeat:
                least[i] = min(least[i], time.perf_counter() - start)
    return least
