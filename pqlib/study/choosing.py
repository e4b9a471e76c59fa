"""Which settings of a search to try, and which of those tried to time.

A setting maps search parameters to values; a larger value, and None, means a more thorough search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pqlib import evaluation
from pqlib.datasets import Dataset
from pqlib.study.builders import Setting
from pqlib.study.shared import clocked

TARGETS = (0.90, 0.95, 0.99)
"""Recalls that speed is read off at."""
COUNTED_OUT = 0.9985
"""Settings that are more thorough than one of such a recall are not tried."""

_SLACK = 0.003  # by how much the recall of the queries tried first may differ from that of all
_NEAR = 0.95  # of a better setting's speed: what is slower when first tried is left out
_LOW, _HIGH = 0.85, 0.999  # recalls that the points of a curve should span
_DULL = 0.8  # recall below which nothing is of interest
_GAIN = 0.001  # of recall, less of which is not worth a more thorough search
_KEPT = 7  # points of a curve, more only where all of ``TARGETS`` need theirs
_QUICK = 0.5  # seconds of all queries in a call up to which a point more costs little


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
    order: list[Any] = []
    halves = [list(dict.fromkeys(setting[name] for setting in settings))]
    for half in halves:  # grows as it is walked
        middle = len(half) // 2
        if half:
            order.append(half[middle])
            halves += [half[:middle], half[middle + 1 :]]
    return [setting for value in order for setting in settings if setting[name] == value]


def needless(setting: Setting, tried: Sequence[Setting], recalls: Sequence[float]) -> bool:
    """Tell whether the settings tried say that another is not worth trying.

    There are three reasons. A less thorough one finds all but everything. A more thorough one
    finds too little to be of interest. Or two less thorough ones, which differ from it and from
    each other in one parameter only, find the same: going on in that direction gains nothing.
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
    found = [[recall for _, recall in sorted(pairs)] for pairs in line.values()]
    return any(b - a < _GAIN for along in found for a, b in pairwise(along))


def trials(
    search: Callable[..., Any],
    settings: Sequence[Setting],
    ds: Dataset,
    k: int,
    queries: int,
    skip: Callable[[Setting, Sequence[Setting], Sequence[float]], bool] = needless,
    least_s: float = 0.0,
    slowest_s: float = math.inf,
) -> pd.DataFrame:
    """Try settings on the first ``queries``; return "recall" and "qps", by place in ``settings``.

    ``skip`` says from the settings tried, and their recalls, which are not tried. A setting is
    searched with until ``least_s`` seconds are spent, and the quickest call counts. One that takes
    more than ``slowest_s`` a query is left out, with all that are more thorough.
    """
    xq = ds.test[:queries]
    search(xq[:50], k, settings[0])  # the first search makes room
    tried: list[Setting] = []
    slow: list[Setting] = []
    found: dict[int, tuple[float, float]] = {}
    for place, setting in enumerate(settings):
        recalls = [recall for recall, _ in found.values()]
        slower = any(at_least_as_thorough(setting, other) for other in slow)
        if slower or skip(setting, tried, recalls):
            continue
        best, spent = math.inf, 0.0
        while best == math.inf or spent < least_s:
            ids, seconds = clocked(partial(search, xq, k, setting))
            best, spent = min(best, seconds), spent + seconds
        if best > slowest_s * len(xq):
            slow.append(setting)
            continue
        tried.append(setting)
        found[place] = evaluation.recall_at_k(ids, ds, k), len(xq) / best
    return pd.DataFrame.from_dict(found, orient="index", columns=["recall", "qps"])


def worth_timing(
    recalls: NDArray[np.float64], speeds: NDArray[np.float64], queries: int = 0
) -> list[int]:
    """Return which of an index's settings (n,) to time, in the order of their recall.

    Only those that no other one beats clearly. Of these, around each of ``TARGETS`` the nearest
    one below, above and at it, and as many more as fill the widest gaps in between. Where all
    ``queries`` take long, only the ones below and above.
    """
    order = np.lexsort((speeds, recalls))[::-1]
    best_before = np.maximum.accumulate(np.append(0, speeds[order]))[:-1]
    front = order[speeds[order] >= _NEAR * best_before][::-1]
    place = recalls[front]
    quick = queries / speeds[front] <= _QUICK
    chosen: set[int] = set()
    for target in TARGETS:
        gap = place - target
        at = np.flatnonzero((np.abs(gap) < _SLACK) & quick)
        chosen.update(np.flatnonzero(gap <= -_SLACK)[-1:].tolist())
        chosen.update(np.flatnonzero(gap >= _SLACK)[:1].tolist())
        chosen.update(at[np.argsort(np.abs(gap[at]), kind="stable")][:1].tolist())
    if not chosen:
        chosen.add(len(front) - 1)
    missed = -np.log10(np.maximum(1 - place, 1e-4))
    inside = np.flatnonzero((place >= _LOW) & (place <= _HIGH) & quick).tolist()
    while len(chosen) < _KEPT:
        gaps = [(min(abs(missed[i] - missed[j]) for j in chosen), i) for i in inside]
        widest, i = max(gaps, default=(0.0, -1))
        if widest < 0.1:
            break
        chosen.add(i)
    return [int(front[i]) for i in sorted(chosen)]
