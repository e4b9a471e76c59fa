"""Our index beside other libraries, in one run: ``pqlib.study.recipes`` says which.

What is compared, and how, is said at ``peers``; ``make bench PEERS=1`` runs it and writes the
tables.
"""

from __future__ import annotations

import importlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib import _checks, evaluation
from pqlib._threads import one_thread
from pqlib.datasets import Dataset
from pqlib.study.builders import Built, Setting, setting_text
from pqlib.study.choosing import (
    TARGETS,
    at_least_as_thorough,
    middle_first,
    needless,
    worth_timing,
)
from pqlib.study.rates import speeds
from pqlib.study.recipes import Rival, default_cascade, rivals

LATENCY_AT = 0.95
"""Recall that the setting of the single queries reaches."""
LONGEST_CALL = 4.0
"""Seconds of all queries in one call that a setting may take; slower ones are not timed."""
PACKAGES = ("faiss-cpu", "hnswlib", "scann", "usearch", "numba", "numpy")

LATENCIES = ["p50_ms", "p95_ms", "p99_ms"]
ABOUT = ["rival", "kind", "library"]
_POINTS = [*ABOUT, "setting", "recall", "qps", "qps_min", "qps_max", "bytes_per_vector", "build_s"]
_POINTS += ["status", "reason"]
_SUMMARY = [*ABOUT, "target", "qps", "how", "bytes_per_vector", "build_s", *LATENCIES]
_SUMMARY += ["status", "reason"]

_SCOUT_SECONDS = 0.03  # a first try lasts at least so long


@dataclass(frozen=True)
class Peers:
    """What one run measured: the tables of ``peers.csv`` and ``peers_at_recall.csv``.

    Attributes ---------- points : a row for each rival and setting that was timed; a rival that
    could not be measured is one row, with its reason and without the rest summary : a row for each
    rival and recall of ``TARGETS``; latencies are of calls with one query (with one thread of faiss
    or all of them, whichever is quicker), at the target ``LATENCY_AT`` only, at the fastest setting
    that reaches it entries : a row for each rival: "rival", "kind", "library", "threads" of its
    batches, "source" and "note" of its parameters parameters : name, sizes, versions and machine of
    this run
    """

    points: pd.DataFrame
    summary: pd.DataFrame
    entries: pd.DataFrame
    parameters: dict[str, Any]


@dataclass
class _Runner:
    """A rival on its way through the run; without ``built`` it is out, for a reason."""

    rival: Rival
    built: Built | None = None
    build_s: float = math.nan
    reason: str | None = None
    kept: tuple[Setting, ...] = ()

    @property
    def about(self) -> dict[str, Any]:
        rival = self.rival
        return {"rival": rival.name, "kind": rival.kind, "library": rival.library}

    def search(self, xq: NDArray[np.float32], k: int, setting: Setting) -> NDArray[np.int64]:
        assert self.built is not None
        return self.built.search(xq, k, setting)

    def out(self, reason: str) -> None:
        """Take it out of the run, and free its memory."""
        self.built, self.kept, self.reason = None, (), reason


def peers(
    ds: Dataset,
    ours: Sequence[Rival] | None = None,
    k: int = 10,
    repeats: int = 3,
    seed: int = 0,
    only: Iterable[str] | None = None,
    latency_queries: int = 500,
    scout_queries: int = 1000,
    progress: bool = True,
) -> Peers:
    """Measure our index beside other libraries on all of ``ds``, in one run.

    All rivals are built one after the other, with as many threads as faiss uses, and stay in
    memory. Of each, the settings are tried once on a part of the queries. Those that another
    setting of the same rival beats, or that take longer than ``LONGEST_CALL``, are left out. Of
    the rest as many are kept as it takes to read off speeds at ``TARGETS``. What is kept of all
    rivals is timed interleaved, all queries in a call, so that whatever else the machine does falls
    on all alike; ours are treated as the others are. Single queries come last, one rival after the
    other.

    Parameters
    ----------
    ds : the base (n, d), all of which is indexed and trained on, and the queries
    ours : entries of kind "ours"; None: ``recipes.default_cascade``
    repeats : timed batch calls of each setting
    seed : of what is drawn at random, where a library lets it be set
    only : parts of names, of libraries or of kinds; rivals that contain none of them are left out,
        except ours. None: all
    latency_queries, scout_queries : of the single calls, and that settings are tried on, at most

    Raises
    ------
    ValueError
        When an argument is out of range, or two entries have the same name.
    """
    held = ds.neighbors.shape[1]
    k = _checks.integer("k", k, 1, held, f"The ground truth of {ds.name} holds {held} neighbours.")
    repeats = _checks.integer("repeats", repeats, 1)
    latency_queries = _checks.integer("latency_queries", latency_queries, 1)
    scout_queries = _checks.integer("scout_queries", scout_queries, 1)
    ours = [default_cascade(ds.n, ds.d)] if ours is None else list(ours)
    runners = [_Runner(e) for e in [*ours, *_wanted(rivals(ds.n, ds.d, ds.whole_numbers), only)]]
    names = Counter(runner.rival.name for runner in runners)
    if names.total() > len(names):
        twice = min(name for name, count in names.items() if count > 1)
        raise ValueError(f"two entries are called {twice!r}: expected a name for each.")

    started = time.perf_counter()
    silent = None if progress else True
    with tqdm(runners, desc="building", leave=False, disable=silent) as bar:
        for runner in bar:
            bar.set_description(f"building {runner.rival.name}")
            _build(runner, ds, seed)
            if runner.built is not None:
                _scout(runner, ds, k, scout_queries)
    points = _points(runners, ds, k, repeats, progress)
    latencies = {
        runner.rival.name: _latency(runner, points, ds, k, latency_queries)
        for runner in tqdm(runners, desc="single queries", leave=False, disable=silent)
    }
    about = pd.DataFrame(
        {
            **runner.about,
            "threads": None if runner.built is None else runner.built.threads,
            "source": runner.rival.source,
            "note": runner.rival.note,
        }
        for runner in runners
    )
    parameters = {
        "dataset": ds.name,
        "n": ds.n,
        "d": ds.d,
        "queries": ds.nq,
        "k": k,
        "repeats": repeats,
        "seed": seed,
        "seconds": time.perf_counter() - started,
        "versions": {name: _version(name) for name in PACKAGES},
        **evaluation.machine(),
    }
    about = about.astype({"threads": "Int64"})
    return Peers(points, summarize(points, latencies), about, parameters)


# What is measured --------------------------------------------------------------------------


def _wanted(entries: list[Rival], only: Iterable[str] | None) -> list[Rival]:
    if only is None:
        return entries
    parts = [part.lower() for part in ([only] if isinstance(only, str) else only)]
    words = {entry.name: f"{entry.name} {entry.library} {entry.kind}".lower() for entry in entries}
    return [entry for entry in entries if any(part in words[entry.name] for part in parts)]


def _build(runner: _Runner, ds: Dataset, seed: int) -> None:
    """Build a rival; whatever keeps it from being built becomes the reason in its row."""
    rival = runner.rival
    try:
        importlib.import_module(rival.library)  # so that the import is not part of building
    except ImportError as problem:
        runner.out(f"{rival.library} is not installed or cannot be loaded: {_words(problem)}")
        return
    start = time.perf_counter()
    try:
        runner.built = rival.build(ds.train, ds.train, seed, ds.whole_numbers)
    except Exception as problem:  # of any library: one that fails must not end the run of all
        runner.out(f"building failed: {_words(problem)}")
    else:
        runner.build_s = time.perf_counter() - start


def _scout(runner: _Runner, ds: Dataset, k: int, queries: int) -> None:
    """Try the settings of a rival on some queries, and keep those worth timing."""
    xq = ds.test[:queries]
    tried: list[Setting] = []
    recalls: list[float] = []
    rates: list[float] = []
    slow: list[Setting] = []
    try:
        runner.search(xq, k, runner.rival.settings[0])
        for setting in middle_first(runner.rival.settings):
            slower = any(at_least_as_thorough(setting, other) for other in slow)
            if slower or needless(setting, tried, recalls):
                continue
            ids, seconds = _quickest(partial(runner.search, xq, k, setting))
            if seconds * ds.nq / len(xq) > LONGEST_CALL:
                slow.append(setting)
                continue
            tried.append(setting)
            recalls.append(evaluation.recall_at_k(ids, ds, k))
            rates.append(len(xq) / seconds)
    except Exception as problem:  # as in _build
        runner.out(f"searching failed: {_words(problem)}")
        return
    if not tried:
        runner.out(f"no setting answers all queries within {LONGEST_CALL:g} s")
        return
    chosen = worth_timing(np.array(recalls), np.array(rates), ds.nq)
    runner.kept = tuple(tried[i] for i in chosen)


def _quickest(search: Callable[[], NDArray[np.int64]]) -> tuple[NDArray[np.int64], float]:
    """Return what a search found, and the seconds of the quickest of a few calls."""
    best, spent = math.inf, 0.0
    while True:
        start = time.perf_counter()
        ids = search()
        seconds = time.perf_counter() - start
        best, spent = min(best, seconds), spent + seconds
        if spent >= _SCOUT_SECONDS:
            return ids, best


def _points(
    runners: Sequence[_Runner], ds: Dataset, k: int, repeats: int, progress: bool
) -> pd.DataFrame:
    """Return the points of ``Peers``: what is kept of all rivals is timed interleaved."""
    jobs = [(runner, setting) for runner in runners for setting in runner.kept]
    found: dict[int, NDArray[np.int64]] = {}

    def call(i: int) -> None:
        runner, setting = jobs[i]
        found[i] = runner.search(ds.test, k, setting)

    calls: dict[str, Callable[[], object]] = {str(i): partial(call, i) for i in range(len(jobs))}
    rows = pd.DataFrame(
        {
            **runner.about,
            "setting": setting_text(setting),
            "bytes_per_vector": runner.built.bytes / ds.n if runner.built else math.nan,
            "build_s": runner.build_s,
            "status": "ok",
            "reason": None,
        }
        for runner, setting in jobs
    )
    if jobs:
        rows = rows.join(speeds(ds.nq, evaluation.time_calls(calls, repeats, progress=progress)))
        rows["recall"] = [evaluation.recall_at_k(found[i], ds, k) for i in range(len(jobs))]
    lost = [
        {**runner.about, "status": "not run", "reason": runner.reason}
        for runner in runners
        if runner.built is None
    ]
    order = [runner.rival.name for runner in runners]
    table = pd.concat([rows, pd.DataFrame(lost)]).reindex(columns=_POINTS)
    return table.sort_values(
        "rival", key=lambda names: names.map(order.index), kind="stable", ignore_index=True
    )


def _latency(
    runner: _Runner, points: pd.DataFrame, ds: Dataset, k: int, queries: int
) -> dict[str, float]:
    """Return milliseconds of single queries at the fastest setting that reaches ``LATENCY_AT``."""
    reached = points[(points.rival == runner.rival.name) & (points.recall >= LATENCY_AT)]
    if runner.built is None or not len(reached):
        return {}
    text = reached.setting[reached.qps.idxmax()]
    (setting,) = (s for s in runner.kept if setting_text(s) == text)

    def measured() -> dict[str, float]:
        return evaluation.single_query_latency(
            lambda xq: runner.search(xq, k, setting), ds.test, queries
        )

    # faiss wakes all threads for a single query too, which a short search only loses time by.
    with one_thread():
        alone = measured()
    return min(alone, measured(), key=lambda found: found["p50_ms"])


def summarize(
    points: pd.DataFrame, latencies: dict[str, dict[str, float]] | None = None
) -> pd.DataFrame:
    """Return the summary of ``Peers`` from its points and the latencies of rivals, by name."""
    measured = points[points.status == "ok"].rename(columns={"rival": "method"})
    kept = [*ABOUT, "bytes_per_vector", "build_s", "status", "reason"]
    each = points.drop_duplicates("rival")[kept]
    parts = []
    for target in TARGETS:
        part = each.assign(target=target)
        if len(measured):
            at = evaluation.at_recall(measured, target, "qps").set_index("method")
            part = part.join(at[["qps", "how"]], on="rival")
        if target == LATENCY_AT and latencies:
            timed = pd.DataFrame.from_dict(latencies, orient="index", columns=LATENCIES)
            part = part.join(timed, on="rival")
        parts.append(part)
    table = pd.concat(parts, ignore_index=True).reindex(columns=_SUMMARY)
    return table.astype(dict.fromkeys(["qps", *LATENCIES], float))


def _words(problem: BaseException) -> str:
    """Return what an exception says, in one line of readable length."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    # faiss tells the whole signature of the function first.
    text = text.rsplit("Error: ", 1)[-1]
    return text if len(text) <= 160 else text[:157] + "..."


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
