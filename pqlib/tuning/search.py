"""Choosing an index for given vectors: a search over compositions, by measurement.

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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib import _checks, evaluation
from pqlib.datasets import Dataset
from pqlib.indexes import BruteForce, CascadeIndex, Index, SearchSettings
from pqlib.tuning.calibration import Found, Lookup, Task, least_seconds, task_of

FloatMatrix = NDArray[np.float32]

OBJECTIVES = ("qps", "latency", "bytes")
"""What may be asked for: queries per second of a batch, time of one query, bytes per vector."""

CURVE = (0.95, 0.90, 0.99, 0.97, 0.80, 0.925, 0.98, 0.85, 0.995)
"""Recalls for which settings are looked up once the index is chosen, as far as there is time."""

COMPONENTS = (8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)
CLOSE = 1.25  # times as fast or slow: measured again side by side
WORSE = 1.5  # times slower than the best, in a first look: not looked at more closely
UNLIKE = 0.15
"""Kolmogorov-Smirnov distance from which two sets of queries are called unlike."""


@dataclass(frozen=True)
class Composition:
    """An index to try: exact search where ``n_lists`` is None."""

    n_lists: int | None
    components: int = 0
    rotation: str | None = None

    def __str__(self) -> str:
        if self.n_lists is None:
            return "exact search"
        rotation = f"PCA to {self.components}" if self.rotation else "no rotation"
        return f"{self.n_lists} lists, {rotation}"


@dataclass(frozen=True)
class Calibrated:
    """An index, and arguments of its search for several recalls.

    Attributes
    ----------
    index : holds the whole base
    build_s : seconds that it took to build
    fixed : arguments with which all queries probe as many lists
    adaptive : arguments with which easy queries probe fewer
    """

    index: CascadeIndex
    build_s: float
    fixed: list[dict[str, Any]]
    adaptive: list[dict[str, Any]]


@dataclass(frozen=True)
class Tuned:
    """What ``tune`` found.

    Attributes
    ----------
    index : holds the whole base; its search defaults reach the recall, as far as that was possible
    composition : what it is
    curve : a row for each recall that settings were looked up for: "target"; "recall" measured on
        the calibration queries; "qps"; "p50_ms"; "nprobe", "candidates", "margin" (missing for
        exact search, margin also where probing is not adaptive); "codes" and "vectors", counted
        distance computations of a query
    tried : a row for each composition: "composition", "outcome", "recall", "qps", "p50_ms",
        "bytes_per_vector", "build_s", and "seconds" that trying it took
    reached : whether the recall asked for was reached within the limits
    recall, k, objective, max_bytes : what was asked for
    seconds : what it all took
    """

    index: Index
    composition: Composition
    curve: pd.DataFrame
    tried: pd.DataFrame
    reached: bool
    recall: float
    k: int
    objective: str
    max_bytes: float | None
    seconds: float
    task: Task = field(repr=False)

    @property
    def calibration(self) -> FloatMatrix:
        """The queries (nq, d) that recall and speed were measured with."""
        return self.task.queries

    @property
    def held_back(self) -> bool:
        """Whether they are vectors of the base, held back from training."""
        return self.task.own is not None

    @property
    def best(self) -> pd.Series:
        """The row of ``curve`` that the index's defaults are of."""
        return _default_row(self.curve, self.recall)

    def settings(self, recall: float) -> dict[str, Any]:
        """Return the arguments of ``index.search`` that reach ``recall``, by the curve.

        Raises
        ------
        ValueError
            When no row of the curve reaches it.
        """
        enough = self.curve[self.curve.recall >= recall]
        if not len(enough):
            raise ValueError(
                f"recall={recall!r}: expected at most {self.curve.recall.max():.4f}, the highest "
                "of the curve. Tune for a higher recall."
            )
        if self.composition.n_lists is None:
            return {}
        row = enough.loc[enough.qps.idxmax()]
        margin = -1.0 if pd.isna(row.margin) else float(row.margin)
        return {
            "nprobe": int(row.nprobe),
            "candidates": int(row.candidates),
            "margin": margin,
        }

    def unlike(self, xq: FloatMatrix) -> float:
        """Return how unlike the calibration queries ``xq`` (nq, d) are, 0 to 1.

        It is the Kolmogorov-Smirnov distance between the two sets' distances to their nearest
        neighbour in the index. From ``UNLIKE`` on, the recall reached may be another than the
        one calibrated: tune again with a sample of the real queries.
        """
        xq = _checks.vectors("xq", xq, self.index.d)
        ours = _nearest(self.index, self.calibration, self.held_back)
        theirs = _nearest(self.index, xq[: len(self.calibration)], False)
        every = np.sort(np.concatenate([ours, theirs]))
        shares = [np.searchsorted(np.sort(x), every, "right") / len(x) for x in (ours, theirs)]
        return float(np.abs(shares[0] - shares[1]).max())

    def calibrate(self, composition: Composition, recalls: Sequence[float] = CURVE) -> Calibrated:
        """Build another composition and look up its settings, with the same queries.

        Parameters
        ----------
        composition : of lists
        recalls : to be reached; those that are not are left out
        """
        index, build_s = _build(composition, self.task)
        settings = Lookup(index, self.task)
        fixed: list[dict[str, Any]] = []
        adaptive: list[dict[str, Any]] = []
        for recall in sorted(recalls):
            found = settings.fixed(recall)
            if found is None:
                break
            fixed.append(found.arguments())
            margins = settings.adaptive(found, settings.wanted(recall))
            if margins:
                adaptive.append(max(margins, key=settings.qps_of).arguments())
        return Calibrated(index, build_s, fixed, adaptive)

    def report(self, xq: FloatMatrix | None = None) -> str:
        """Return as text what was chosen, what was tried, what was dropped and why.

        Parameters
        ----------
        xq : real queries (nq, d), to be told whether they are like those calibrated with
        """
        best = self.best
        asked = f"recall@{self.k} of {self.recall:g}, best {self.objective}"
        if self.max_bytes is not None:
            asked += f", at most {self.max_bytes:g} bytes per vector"
        source = "vectors of the base, held back from training" if self.held_back else "queries"
        lines = [
            f"Asked for: {asked}.",
            f"Chosen: {self.composition}. recall@{self.k} {best.recall:.4f} on "
            f"{len(self.calibration):,} {source}, {best.qps:,.0f} QPS, p50 {best.p50_ms:.3f} ms, "
            f"{self.index.bytes_per_vector:,.1f} bytes per vector.",
        ]
        if not self.reached:
            lines.append(
                f"NOT REACHED: the recall asked for, {self.recall:g}, was not reached within the "
                "limits; this is the best that was."
            )
        if isinstance(self.index, CascadeIndex):
            lines.append(
                "Search defaults: "
                + ", ".join(f"{a}={b}" for a, b in self.index.settings.arguments().items())
                + (" (-1: no adaptive probing)." if pd.isna(best.margin) else ".")
            )
        lines.append(f"Tried, in {self.seconds:.1f} s:")
        for row in self.tried.itertuples():
            figures = "" if pd.isna(row.qps) else f" {row.qps:,.0f} QPS,"
            size = "" if pd.isna(row.bytes_per_vector) else f" {row.bytes_per_vector:,.0f} B:"
            lines.append(f"  {row.composition}:{figures}{size} {row.outcome}")
        if xq is not None:
            found = self.unlike(xq)
            verdict = (
                "UNLIKE the calibration queries: tune again with a sample of them as queries="
                if found >= UNLIKE
                else "like the calibration queries"
            )
            lines.append(f"The queries given are {verdict} (distance {found:.2f}).")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.report()


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
) -> Tuned:
    """Find the index that answers best at a recall, for these vectors and on this machine.

    The queries of ``ds`` are not looked at.

    Parameters
    ----------
    ds : the base is its ``train``
    recall : recall@k asked for, above 0, at most 1
    k : neighbours
    max_bytes : bytes per vector allowed, everything counted; None: any number
    objective : "qps" (a batch), "latency" (one query at a time) or "bytes" (the smallest index)
    queries : (nq, d) a sample of the real queries; None: vectors of the base serve, which are held
        back from training and, in measuring recall, are not their own neighbours
    budget_s : seconds it may take
    seed : of samples and training
    progress : show a bar on a terminal

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
    if not 0 < recall <= 1:
        raise ValueError(f"recall={recall!r}: expected a number above 0 and at most 1.")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective={objective!r}: expected one of {', '.join(OBJECTIVES)}.")
    if not budget_s > 0:
        raise ValueError(f"budget_s={budget_s!r}: expected seconds, more than 0.")
    if max_bytes is not None and not max_bytes > 0:
        raise ValueError(f"max_bytes={max_bytes!r}: expected a positive number, or None.")
    if ds.n < 2:
        raise ValueError(f"ds has {ds.n} base vectors: expected at least 2, to choose among.")
    k = _checks.integer("k", k, 1, ds.n - 1, "There are fewer base vectors.")
    seed = _checks.seed(seed)
    task = task_of(ds, recall, k, max_bytes, objective, queries, seed, started + budget_s)
    with tqdm(desc="tuning", leave=False, disable=None if progress else True) as bar:
        search = _Search(task, bar)
        search.run()
    index, trial = search.best()
    return Tuned(
        index=index,
        composition=trial.composition,
        curve=search.curve(index, trial),
        tried=pd.DataFrame([_row(t) for t in search.trials]),
        reached=trial.reached,
        recall=recall,
        k=k,
        objective=objective,
        max_bytes=max_bytes,
        seconds=time.monotonic() - started,
        task=task,
    )


def _nearest(index: Index, xq: FloatMatrix, held_back: bool) -> NDArray[np.float32]:
    """Return distances to the nearest vector that is not the query itself, (nq,)."""
    distances, _ = index.search(xq, min(2, index.ntotal))
    return np.sqrt(distances[:, -1 if held_back else 0])


# Trials --------------------------------------------------------------------------------------


@dataclass
class _Trial:
    """A composition and what came of it."""

    composition: Composition
    outcome: str = ""
    settings: SearchSettings | None = None
    recall: float = math.nan
    qps: float = math.nan
    p50_ms: float = math.nan
    bytes_per_vector: float = math.nan
    build_s: float = math.nan
    seconds: float = math.nan
    reached: bool = False

    def score(self, objective: str) -> float:
        """Return how good it is; more is better."""
        if math.isnan(self.qps):
            return -math.inf
        return {
            "qps": self.qps,
            "latency": 1 / self.p50_ms,
            "bytes": 1 / self.bytes_per_vector,
        }[objective]


def _row(trial: _Trial) -> dict[str, Any]:
    row = asdict(trial)
    row["composition"] = str(trial.composition)
    del row["settings"]
    return row


@dataclass
class _Search:
    """The search over compositions."""

    task: Task
    bar: Any
    trials: list[_Trial] = field(default_factory=list)
    kept: tuple[Index, _Trial] | None = None

    def run(self) -> None:
        """Try compositions until no neighbour of the best is better, or time is up."""
        self._try_exact()
        n, d = self.task.xb.shape
        lists = 2 ** round(math.log2(math.sqrt(n)))
        first = min((c for c in COMPONENTS if c >= min(d, 64)), default=d)
        starts = [Composition(_lists(lists, self.task), min(first, d), "pca")]
        if d <= 512:
            starts.append(Composition(_lists(lists, self.task), d, None))
        for composition in starts:
            self._try(composition)
        while True:
            best = self._best_cascade()
            ahead = [c for c in self._around(best) if not self._known(c)]
            if not ahead or not self._try(ahead[0]):
                break

    def best(self) -> tuple[Index, _Trial]:
        """Return the index chosen and its trial."""
        if self.kept is None:
            limits = f"max_bytes={self.task.max_bytes:g}" if self.task.max_bytes else "the limits"
            needs = min(
                (t.bytes_per_vector for t in self.trials if t.bytes_per_vector > 0),
                default=math.nan,
            )
            raise ValueError(
                f"{limits}: no index of those known fits; the smallest tried needs "
                f"{math.ceil(needs):,} bytes per vector. Allow more, or give tune more time "
                "(budget_s)."
            )
        return self.kept

    def _known(self, composition: Composition) -> bool:
        return any(t.composition == composition for t in self.trials)

    def _best_cascade(self) -> Composition:
        """Return the composition to go on from: the best that fits, else the smallest."""
        cascades = [t for t in self.trials if t.composition.n_lists is not None]
        return max(cascades, key=self._promise).composition

    def _promise(self, trial: _Trial) -> tuple[bool, bool, float]:
        if math.isnan(trial.bytes_per_vector):
            return False, False, -math.inf
        if trial.settings is None or not self._fits(trial):
            return False, False, -trial.bytes_per_vector
        merit = trial.score(self.task.objective) if trial.reached else trial.recall
        return True, trial.reached, merit

    def _around(self, at: Composition) -> Iterator[Composition]:
        """Yield the neighbours of a composition: fewer and more components, lists."""
        d = self.task.xb.shape[1]
        assert at.n_lists is not None
        if at.rotation is not None:
            steps = sorted({c for c in COMPONENTS if c < d} | {d, at.components})
            here = steps.index(at.components)
            for there in (here + 1, here - 1):
                if 0 <= there < len(steps):
                    yield Composition(at.n_lists, steps[there], "pca")
        for lists in (at.n_lists * 2, at.n_lists // 2):
            allowed = _lists(lists, self.task)
            if allowed != at.n_lists:
                yield Composition(allowed, at.components, at.rotation)

    def _fits(self, trial: _Trial) -> bool:
        limit = self.task.max_bytes
        return limit is None or trial.bytes_per_vector <= limit

    def _try_exact(self) -> None:
        started = time.monotonic()
        index = BruteForce(self.task.xb.shape[1], copy=False)
        index.add(self.task.xb)
        trial = _Trial(Composition(None), recall=1.0, reached=True, build_s=0.0)
        trial.bytes_per_vector = index.bytes_per_vector
        few = self.task.queries[
            : max(1, min(len(self.task.queries), int(2e10 / self.task.xb.size)))
        ]
        trial.qps = len(few) / least_seconds(lambda: index.search(few, self.task.k), repeats=2)[0]
        one = few[:20]
        trial.p50_ms = evaluation.single_query_latency(
            lambda q: index.search(q, self.task.k), one, n=20
        )["p50_ms"]
        self._decide(trial, index, started)

    def _try(self, composition: Composition) -> bool:
        """Build and measure a composition; return False when there is no time for it."""
        task = self.task
        started = time.monotonic()
        trial = _Trial(composition)
        expected = _expected_bytes(composition, task)
        if task.max_bytes is not None and expected > task.max_bytes:
            trial.outcome = f"not built: would need {expected:,.0f} bytes per vector"
            trial.bytes_per_vector = expected
            self.trials.append(trial)
            return True
        longest = max((t.seconds for t in self.trials if t.settings is not None), default=0.0)
        if self.kept is not None and task.left() - task.reserve < 1.3 * longest:
            trial.outcome = "not tried: no time left"
            self.trials.append(trial)
            return False
        self.bar.set_description(f"tuning: {composition}")
        index, trial.build_s = _build(composition, task)
        trial.bytes_per_vector = index.bytes_per_vector
        found = Lookup(index, task, task.deadline - task.reserve).reach(
            task.recall, self._to_beat()
        )
        if found.settings is not None:
            index.settings = trial.settings = found.settings
        trial.recall, trial.reached = found.recall, found.reached
        trial.qps, trial.p50_ms, trial.outcome = found.qps, found.p50_ms, found.why
        self._decide(trial, index, started)
        return True

    def _to_beat(self) -> float:
        """Return the QPS below which settings need no closer look."""
        if self.task.objective != "qps" or self.kept is None or not self.kept[1].reached:
            return 0.0
        return self.kept[1].qps / WORSE

    def _decide(self, trial: _Trial, index: Index, started: float) -> None:
        """Keep the index if it is the best so far, and note why or why not."""
        trial.seconds = time.monotonic() - started
        self.trials.append(trial)
        self.bar.update()
        if not self._fits(trial):
            trial.outcome = "dropped: more bytes than allowed"
            return
        if trial.settings is None and trial.composition.n_lists is not None:
            return
        if self.kept is not None:
            self._measure_again(trial, index)
        merit = (trial.reached, trial.score(self.task.objective) if trial.reached else trial.recall)
        if self.kept is not None:
            other = self.kept[1]
            theirs = (
                other.reached,
                other.score(self.task.objective) if other.reached else other.recall,
            )
            if merit <= theirs:
                trial.outcome = trial.outcome or f"dropped: {other.composition} is better"
                return
            other.outcome = f"dropped: {trial.composition} is better"
        trial.outcome = "chosen"
        self.kept = (index, trial)

    def _measure_again(self, trial: _Trial, index: Index) -> None:
        """Measure the best and one that comes close to it side by side."""
        assert self.kept is not None
        best_index, best = self.kept
        indexes, trials = (best_index, index), (best, trial)
        close = 1 / CLOSE < trial.qps / best.qps < CLOSE
        if not (close and trial.reached and best.reached and trial.settings and best.settings):
            return
        xq, k = self.task.queries, self.task.k
        calls = [
            functools.partial(i.search, xq, k, **t.settings.arguments())  # type: ignore
            for i, t in zip(indexes, trials, strict=True)
        ]
        for t, seconds in zip(trials, least_seconds(*calls, repeats=15), strict=True):
            t.qps = len(xq) / seconds

    def curve(self, index: Index, trial: _Trial) -> pd.DataFrame:
        """Look up settings of the chosen index for several recalls."""
        if not isinstance(index, CascadeIndex):
            row = {
                "target": self.task.recall,
                "recall": 1.0,
                "qps": trial.qps,
                "p50_ms": trial.p50_ms,
                "nprobe": math.nan,
                "candidates": math.nan,
                "margin": math.nan,
                "codes": 0.0,
                "vectors": float(len(self.task.xb)),
            }
            return pd.DataFrame([row])
        settings = Lookup(index, self.task, self.task.deadline)
        rows = []
        for target in dict.fromkeys([self.task.recall, *CURVE]):
            self.bar.set_description(f"settings for recall {target:g}")
            last = target == self.task.recall
            if self.task.left() < 0 and not last:
                continue
            found = (
                Found(trial.settings, trial.recall, trial.qps, trial.p50_ms, trial.reached)
                if last
                else settings.reach(target, 0.0)
            )
            if found.settings is not None and (found.reached or last):
                rows.append(settings.row(target, found))
        return pd.DataFrame(rows).sort_values("target", ignore_index=True)


def _default_row(curve: pd.DataFrame, recall: float) -> pd.Series:
    return curve.iloc[int((curve.target - recall).abs().to_numpy().argmin())]


def _lists(wanted: int, task: Task) -> int:
    """Return a number of lists near the one wanted that training allows."""
    return max(1, min(wanted, len(task.training) // 8, 8192))


def _build(composition: Composition, task: Task) -> tuple[CascadeIndex, float]:
    """Return the index and the seconds that building it takes on its own."""
    axes = task.axes if composition.rotation else None
    start = time.perf_counter()
    n_lists = composition.n_lists
    assert n_lists is not None
    index = CascadeIndex(
        task.xb.shape[1],
        n_lists,
        composition.components,
        composition.rotation,
        task.store,
        seed=task.seed,
    )
    index.train(task.sample, axes)
    index.add(task.xb)
    index.memory()  # puts the lists in order
    seconds = time.perf_counter() - start
    return index, seconds if axes is None else seconds + task.axes_s


def _expected_bytes(composition: Composition, task: Task) -> float:
    n, d = task.xb.shape
    assert composition.n_lists is not None
    width = -(-composition.components // 4) * 4
    whole = {"uint8": d, "float32": 4 * d, None: 0}[task.store]
    lanes = 7.5 * composition.n_lists * (width + 2)  # unused, of the last block of each list
    shared = composition.n_lists * (5 * width + 18) + 4 * d * width + lanes
    return whole + width + 2 + 4 + shared / n
