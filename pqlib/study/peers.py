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

from pqlib import evaluation
from pqlib._threads import one_thread
from pqlib.datasets import Dataset
from pqlib.study.builders import Built, Setting, setting_text
from pqlib.study.choosing import TARGETS, middle_first, trials, worth_timing
from pqlib.study.rates import at_recalls, speeds
from pqlib.study.recipes import Rival, default_cascade, rivals
from pqlib.study.shared import checked_counts, checked_k, clocked, shown

LATENCY_AT = 0.95
"""Recall that the setting of the single queries reaches."""
LONGEST_CALL = 4.0
"""Seconds of all queries in one call that a setting may take; slower ones are not timed."""
PACKAGES = ("faiss-cpu", "hnswlib", "scann", "usearch", "rabitqlib", "numba", "numpy")

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

    A rival that could not be measured is one row of ``points``, with its reason. Latencies of
    ``summary`` are of calls with one query (with one thread of faiss or all of them, whichever is
    quicker), at the fastest setting that reaches ``LATENCY_AT``. ``entries`` has a row for each
    rival.
    """

    points: pd.DataFrame
    summary: pd.DataFrame
    entries: pd.DataFrame
    parameters: dict[str, Any]


@dataclass
class _Runner:
    """A rival in the run; without ``built`` it is out, for a reason."""

    rival: Rival
    built: Built | None = None
    build_s: float = math.nan
    kept: Sequence[Setting] = ()
    reason: str | None = None

    @property
    def about(self) -> dict[str, Any]:
        rival = self.rival
        return {"rival": rival.name, "kind": rival.kind, "library": rival.library}


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

    All rivals are built one after the other, on all of the base, with as many threads as faiss
    uses, and stay in memory. Of each, the settings are tried once on a part of the queries. Those
    that another setting of the same rival beats, or that take longer than ``LONGEST_CALL``, are
    left out. Of the rest as many are kept as it takes to read off speeds at ``TARGETS``. What is
    kept of all rivals is timed interleaved, all queries in a call, so that whatever else the
    machine does falls on all alike; ours are treated as the others are. Single queries come last,
    one rival after the other.

    Parameters
    ----------
    ours : entries of kind "ours"; None: ``recipes.default_cascade``
    seed : of what is drawn at random, where a library lets it be set
    only : parts of names, of libraries or of kinds; rivals that contain none of them are left out,
        except ours. None: all
    latency_queries, scout_queries : of the single calls, and that settings are tried on, at most

    Raises ValueError when an argument is out of range, or two entries have the same name.
    """
    k = checked_k(ds, k)
    checked_counts(repeats=repeats, latency_queries=latency_queries, scout_queries=scout_queries)
    ours = [default_cascade(ds.n, ds.d)] if ours is None else ours
    entries = [*ours, *_wanted(rivals(ds.n, ds.d, ds.whole_numbers), only)]
    names = Counter(entry.name for entry in entries)
    if names.total() > len(names):
        twice = min(name for name, count in names.items() if count > 1)
        raise ValueError(f"two entries are called {twice!r}: expected a name for each.")

    started = time.perf_counter()
    runners = []
    with shown(entries, "building", progress) as bar:
        for entry in bar:
            bar.set_description(f"building {entry.name}")
            runners.append(_prepared(entry, ds, k, seed, scout_queries))
    points = _points(runners, ds, k, repeats, progress)
    latencies = {
        runner.rival.name: _latency(runner, points, ds, k, latency_queries)
        for runner in shown(runners, "single queries", progress)
    }
    about = pd.DataFrame(
        {
            **runner.about,
            "threads": runner.built.threads if runner.built else None,
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


def _prepared(rival: Rival, ds: Dataset, k: int, seed: int, queries: int) -> _Runner:
    """Build a rival and choose the settings to time; what keeps it from that is its reason."""
    try:
        importlib.import_module(rival.library)  # so that the import is not part of building
    except ImportError as problem:
        lost = f"{rival.library} is not installed or cannot be loaded: {_words(problem)}"
        return _Runner(rival, reason=lost)
    doing = "building"
    try:
        built, build_s = clocked(partial(rival.build, ds.train, ds.train, seed, ds.whole_numbers))
        doing = "searching"
        settings = middle_first(rival.settings)
        longest = LONGEST_CALL / ds.nq
        tried = trials(
            built.search, settings, ds, k, queries, least_s=_SCOUT_SECONDS, slowest_s=longest
        )
    except Exception as problem:  # of any library: one that fails must not end the run of all
        return _Runner(rival, reason=f"{doing} failed: {_words(problem)}")
    if not len(tried):
        return _Runner(rival, reason=f"no setting answers all queries within {LONGEST_CALL:g} s")
    chosen = worth_timing(tried.recall.to_numpy(), tried.qps.to_numpy(), ds.nq)
    return _Runner(rival, built, build_s, [settings[i] for i in tried.index[chosen]])


def _points(
    runners: Sequence[_Runner], ds: Dataset, k: int, repeats: int, progress: bool
) -> pd.DataFrame:
    """Return the points of ``Peers``: what is kept of all rivals is timed interleaved."""
    jobs = [(r, r.built, setting) for r in runners if r.built for setting in r.kept]
    found: dict[int, NDArray[np.int64]] = {}

    def call(i: int) -> None:
        _, built, setting = jobs[i]
        found[i] = built.search(ds.test, k, setting)

    calls: dict[str, Callable[[], object]] = {str(i): partial(call, i) for i in range(len(jobs))}
    rows = pd.DataFrame(
        {
            **runner.about,
            "setting": setting_text(setting),
            "bytes_per_vector": built.bytes / ds.n,
            "build_s": runner.build_s,
            "status": "ok",
            "reason": None,
        }
        for runner, built, setting in jobs
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
    built = runner.built
    reached = points[(points.rival == runner.rival.name) & (points.recall >= LATENCY_AT)]
    if built is None or not len(reached):
        return {}
    text = reached.setting[reached.qps.idxmax()]
    (setting,) = (s for s in runner.kept if setting_text(s) == text)

    def measured() -> dict[str, float]:
        return evaluation.single_query_latency(
            lambda xq: built.search(xq, k, setting), ds.test, queries
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
    table = pd.DataFrame({"target": TARGETS}).merge(each, how="cross")
    if len(measured):
        at = at_recalls(measured, TARGETS, "qps").rename(columns={"method": "rival"})
        table = table.merge(at[["rival", "target", "qps", "how"]], how="left")
    if latencies:
        timed = pd.DataFrame.from_dict(latencies, orient="index", columns=LATENCIES)
        timed = timed.rename_axis("rival").reset_index().assign(target=LATENCY_AT)
        table = table.merge(timed, how="left")
    table = table.reindex(columns=_SUMMARY)
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
