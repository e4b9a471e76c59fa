"""Our index beside other libraries, in one run: ``pqlib.study.recipes`` says which.

What is compared, and how, is said at ``peers``; ``make bench PEERS=1`` runs it and writes the
tables.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib import _checks, evaluation
from pqlib._threads import one_thread
from pqlib.datasets import Dataset
from pqlib.study.recipes import (
    Built,
    Rival,
    Setting,
    default_cascade,
    rivals,
    setting_text,
)

TARGETS = (0.90, 0.95, 0.99)
"""Recalls that speed is read off at."""
LATENCY_AT = 0.95
"""Recall that the setting of the single queries reaches."""
COUNTED_OUT = 0.9985
"""Settings that are more thorough than one of such a recall are not tried."""
LONGEST_CALL = 4.0
"""Seconds of all queries in one call that a setting may take; slower ones are not timed."""
PACKAGES = ("faiss-cpu", "hnswlib", "scann", "usearch", "numba", "numpy")

_SLACK = 0.003  # by how much the recall of the queries tried first may differ from that of all
_NEAR = 0.95  # of a better setting's speed: what is slower when first tried is left out
_LOW, _HIGH = 0.85, 0.999  # recalls that the points of a curve should span
_DULL = 0.8  # recall below which nothing is of interest
_GAIN = 0.001  # of recall, less of which is not worth a more thorough search
_KEPT = 7  # points of a curve, more only where all of ``TARGETS`` need theirs
_QUICK = 0.5  # seconds of all queries in a call up to which a point more costs little
_SCOUT_SECONDS = 0.03  # a first try lasts at least so long


@dataclass(frozen=True)
class Peers:
    """What one run measured.

    Attributes
    ----------
    points : a row for each rival and setting that was timed. "rival", "kind", "library",
        "setting" (text); "recall" (recall@k, all queries); "qps" (queries per second of all
        queries in one call, median of the repeats), "qps_min", "qps_max"; "bytes_per_vector";
        "build_s", seconds of training and adding; "status", "ok" or "not run", and "reason".
        A rival that could not be measured is one row, with its reason and without the rest
    summary : a row for each rival and recall of ``TARGETS``. "rival", "kind", "library", "target";
        "qps" at that recall, by ``evaluation.at_recall``, and "how"; "bytes_per_vector",
        "build_s"; "p50_ms", "p95_ms", "p99_ms" of calls with one query (with one thread of faiss or
        all of them, whichever is quicker), at the target
        ``LATENCY_AT`` only, at the fastest setting that reaches it; "status" and "reason"
    entries : a row for each rival: "rival", "kind", "library", "threads" of its batches, "source"
        and "note" of its parameters
    parameters : name, sizes, versions and machine of this run
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
    memory. Of each, the settings are tried once on a part of the queries: those that another
    setting of the same rival beats, or that take longer than ``LONGEST_CALL``, are left out, and of
    the rest as many are kept as it takes to read off speeds at ``TARGETS``. What is kept of all
    rivals is timed interleaved, all queries in a call, so that whatever else the machine does falls
    on all alike; ours are treated as the others are. Single queries come last, one rival after the
    other.

    Parameters
    ----------
    ds : the base (n, d), all of which is indexed and trained on, and the queries, all of which are
        searched
    ours : entries of kind "ours"; None: ``recipes.default_cascade``
    k : neighbours
    repeats : timed batch calls of each setting
    seed : of what is drawn at random, where a library lets it be set
    only : parts of names, of libraries or of kinds; rivals that contain none of them are left out,
        except ours. None: all
    latency_queries : queries of the single calls, at most
    scout_queries : queries that settings are tried on, at most
    progress : show progress bars on a terminal

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
    entries = [*ours, *_wanted(rivals(ds.n, ds.d, ds.whole_numbers), only)]
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two entries are called {twice[0]!r}: expected a name for each.")

    started = time.perf_counter()
    runners = [_Runner(entry) for entry in entries]
    silent = None if progress else True
    with tqdm(runners, desc="building", leave=False, disable=silent) as bar:
        for runner in bar:
            bar.set_description(f"building {runner.rival.name}")
            _build(runner, ds, seed)
            if runner.built is not None:
                _scout(runner, ds, k, scout_queries)
    found: dict[tuple[str, str], NDArray[np.int64]] = {}

    def call(runner: _Runner, setting: Setting, key: tuple[str, str]) -> None:
        found[key] = runner.search(ds.test, k, setting)

    calls: dict[str, Callable[[], object]] = {}
    keys: dict[str, tuple[_Runner, Setting, tuple[str, str]]] = {}
    for runner in runners:
        for setting in runner.kept:
            key = (runner.rival.name, setting_text(setting))
            keys[str(key)] = (runner, setting, key)
            calls[str(key)] = partial(call, runner, setting, key)
    timings = pd.DataFrame()
    if calls:
        timings = evaluation.time_calls(calls, repeats, progress=progress).set_index("name")
    points = _points_table(runners, keys, timings, found, ds, k)
    with tqdm(runners, desc="single queries", leave=False, disable=silent) as bar:
        latencies = {
            runner.rival.name: _latency(runner, points, ds, k, latency_queries) for runner in bar
        }
    about = pd.DataFrame(
        {
            "rival": runner.rival.name,
            "kind": runner.rival.kind,
            "library": runner.rival.library,
            "threads": None if runner.built is None else runner.built.threads,
            "source": runner.rival.source,
            "note": runner.rival.note,
        }
        for runner in runners
    ).astype({"threads": "Int64"})
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
    return Peers(points, summarize(points, latencies), about, parameters)


# What is measured --------------------------------------------------------------------------


def _wanted(entries: list[Rival], only: Iterable[str] | None) -> list[Rival]:
    if only is None:
        return entries
    parts = [only.lower()] if isinstance(only, str) else [part.lower() for part in only]
    return [
        entry
        for entry in entries
        if any(p in f"{entry.name} {entry.library} {entry.kind}".lower() for p in parts)
    ]


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
    speeds: list[float] = []
    slow: list[Setting] = []
    try:
        runner.search(xq, k, runner.rival.settings[0])
        for setting in middle_first(runner.rival.settings):
            if needless(setting, tried, recalls):
                continue
            if any(at_least_as_thorough(setting, other) for other in slow):
                continue
            ids, seconds = _quickest(partial(runner.search, xq, k, setting))
            if seconds * ds.nq / len(xq) > LONGEST_CALL:
                slow.append(setting)
                continue
            tried.append(setting)
            recalls.append(evaluation.recall_at_k(ids, ds, k))
            speeds.append(len(xq) / seconds)
    except Exception as problem:  # as in _build
        runner.out(f"searching failed: {_words(problem)}")
        return
    if not tried:
        runner.out(f"no setting answers all queries within {LONGEST_CALL:g} s")
        return
    chosen = worth_timing(np.array(recalls), np.array(speeds), ds.nq)
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


def _value(setting: Setting, name: str) -> float:
    return math.inf if setting[name] is None else float(setting[name])


def at_least_as_thorough(setting: Setting, other: Setting) -> bool:
    """Tell whether no search parameter of ``setting`` is below that of ``other``."""
    return set(setting) == set(other) and all(
        _value(setting, name) >= _value(other, name) for name in setting
    )


def middle_first(settings: Sequence[Setting]) -> list[Setting]:
    """Return settings in an order in which those that follow are most often needless.

    By their first parameter: its middle value, the middles of both halves, and so on, as in a
    binary search; those of equal value in their own order.
    """
    name = next(iter(settings[0]))
    values = list(dict.fromkeys(setting[name] for setting in settings))
    order: list[Any] = []
    halves = [values]
    while halves:
        half = halves.pop(0)
        middle = len(half) // 2
        if half:
            order.append(half[middle])
            halves += [half[:middle], half[middle + 1 :]]
    return [setting for value in order for setting in settings if setting[name] == value]


def needless(setting: Setting, tried: Sequence[Setting], recalls: Sequence[float]) -> bool:
    """Tell whether what was tried says that a setting is not worth trying.

    Because a less thorough one finds all but everything; because a more thorough one finds too
    little to be of interest; or because of two that differ from it, and from each other, in one
    parameter only and are less thorough, the better one finds no more.
    """
    line: dict[str, list[tuple[float, float]]] = {}
    for other, recall in zip(tried, recalls, strict=True):
        if recall >= COUNTED_OUT and at_least_as_thorough(setting, other):
            return True
        if recall < _DULL and at_least_as_thorough(other, setting):
            return True
        differing = [name for name in setting if setting[name] != other[name]]
        if len(differing) == 1 and at_least_as_thorough(setting, other):
            (name,) = differing
            line.setdefault(name, []).append((_value(other, name), recall))
    for pairs in line.values():
        found = [recall for _, recall in sorted(pairs)]
        if any(b - a < _GAIN for a, b in pairwise(found)):
            return True
    return False


def worth_timing(
    recalls: NDArray[np.float64], speeds: NDArray[np.float64], queries: int = 0
) -> list[int]:
    """Return which of a rival's settings (n,) to time, in the order of their recall.

    Those that no other one beats clearly; of these, around each of ``TARGETS`` the nearest one
    below, above and at it, and as many more as fill the widest gaps in between. Where all
    ``queries`` take long, only what is below and above.
    """
    order = np.lexsort((speeds, recalls))
    front: list[int] = []
    best = 0.0
    for i in order[::-1].tolist():
        if speeds[i] >= _NEAR * best:
            front.append(i)
        best = max(best, float(speeds[i]))
    front = front[::-1]
    place = recalls[front]
    quick = queries / speeds[front] <= _QUICK
    chosen: set[int] = set()
    for target in TARGETS:
        below = np.flatnonzero(place <= target - _SLACK)
        above = np.flatnonzero(place >= target + _SLACK)
        between = np.flatnonzero((np.abs(place - target) < _SLACK) & quick)
        if len(below):
            chosen.add(int(below[-1]))
        if len(above):
            chosen.add(int(above[0]))
        if len(between):
            chosen.add(int(between[np.argmin(np.abs(place[between] - target))]))
    if not chosen:
        chosen.add(len(front) - 1)
    missed = -np.log10(np.maximum(1 - place, 1e-4))
    inside = [i for i, r in enumerate(place) if _LOW <= r <= _HIGH and quick[i]]
    while len(chosen) < _KEPT:
        gaps = [(min(abs(missed[i] - missed[j]) for j in chosen), i) for i in inside]
        widest, i = max(gaps, default=(0.0, -1))
        if widest < 0.1:
            break
        chosen.add(i)
    return [front[i] for i in sorted(chosen)]


def _latency(
    runner: _Runner, points: pd.DataFrame, ds: Dataset, k: int, queries: int
) -> dict[str, float]:
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


# The tables --------------------------------------------------------------------------------


def _points_table(
    runners: Sequence[_Runner],
    keys: dict[str, tuple[_Runner, Setting, tuple[str, str]]],
    timings: pd.DataFrame,
    found: dict[tuple[str, str], NDArray[np.int64]],
    ds: Dataset,
    k: int,
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for runner in runners:
        about = {
            "rival": runner.rival.name,
            "kind": runner.rival.kind,
            "library": runner.rival.library,
        }
        if runner.built is None:
            rows.append({**about, "status": "not run", "reason": runner.reason})
        for name, (whose, _, key) in keys.items():
            if whose is not runner or runner.built is None:
                continue
            timing = timings.loc[name]
            rows.append(
                {
                    **about,
                    "setting": key[1],
                    "recall": evaluation.recall_at_k(found[key], ds, k),
                    "qps": ds.nq / timing.median_s,
                    "qps_min": ds.nq / timing.max_s,
                    "qps_max": ds.nq / timing.min_s,
                    "bytes_per_vector": runner.built.bytes / ds.n,
                    "build_s": runner.build_s,
                    "status": "ok",
                    "reason": None,
                }
            )
    columns = ["rival", "kind", "library", "setting", "recall", "qps", "qps_min", "qps_max"]
    columns += ["bytes_per_vector", "build_s", "status", "reason"]
    return pd.DataFrame(rows, columns=columns)


def summarize(
    points: pd.DataFrame, latencies: dict[str, dict[str, float]] | None = None
) -> pd.DataFrame:
    """Return the summary of ``Peers``, a row for each rival and target, from its points.

    Parameters
    ----------
    points : as in ``Peers``
    latencies : "p50_ms", "p95_ms" and "p99_ms" of rivals, by name
    """
    measured = points[points.status == "ok"].rename(columns={"rival": "method"})
    rows: list[dict[str, Any]] = []
    for target in TARGETS:
        at: dict[str, Any] = {}
        if len(measured):
            table = evaluation.at_recall(measured, target, "qps")
            at = {row.method: row for row in table.itertuples()}
        for row in points.drop_duplicates("rival").itertuples():
            one = at.get(row.rival)
            timed = (latencies or {}).get(row.rival, {}) if target == LATENCY_AT else {}
            rows.append(
                {
                    "rival": row.rival,
                    "kind": row.kind,
                    "library": row.library,
                    "target": target,
                    "qps": math.nan if one is None else one.qps,
                    "how": None if one is None else one.how,
                    "bytes_per_vector": row.bytes_per_vector,
                    "build_s": row.build_s,
                    **{name: timed.get(name, math.nan) for name in ("p50_ms", "p95_ms", "p99_ms")},
                    "status": row.status,
                    "reason": row.reason,
                }
            )
    return pd.DataFrame(rows)


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
