"""The stages of a cascade: how thorough they are, and how long they take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks

STAGES = ("rotation", "routing", "scan", "re-ranking", "rest")
"""What the time of a search is made of, see ``CascadeIndex.profile``."""

Lap = Callable[[str], object]


def no_lap(stage: str) -> None:
    """Note nothing: a search that nobody times."""


@dataclass(frozen=True)
class SearchSettings:
    """How thorough a search is.

    Attributes
    ----------
    nprobe : inverted lists probed
    candidates : codes of smallest distance that are re-ranked
    margin : adaptive probing, None for none. A list is left out when half the squared distance of
        its centroid exceeds that of the nearest one by more than ``margin`` times half the
        squared distance of the last candidate of the first lists: easy queries, whose candidates
        are near, then probe fewer lists.
    """

    nprobe: int
    candidates: int
    margin: float | None = None

    def arguments(self, more: int = 0) -> dict[str, Any]:
        """Return the arguments of a search at these settings, with ``more`` candidates."""
        return {
            "nprobe": self.nprobe,
            "candidates": self.candidates + more,
            "margin": -1.0 if self.margin is None else self.margin,
        }

    def to_array(self) -> NDArray[np.float64]:
        """Return the settings as (3,) float64, as a file keeps them; no margin is NaN."""
        return np.array([self.nprobe, self.candidates, self.margin], np.float64)

    @classmethod
    def from_array(cls, array: NDArray[np.float64]) -> SearchSettings:
        """Return the settings of ``to_array``; ValueError or OverflowError of no whole numbers."""
        nprobe, candidates, margin = array.tolist()
        return cls(int(nprobe), int(candidates), None if math.isnan(margin) else margin)


def _timed(search: Callable[[Lap, bool], object], rerank: bool) -> dict[str, float]:
    """Return the seconds of each stage: those between one lap and the next."""
    seconds, last = dict.fromkeys(STAGES, 0.0), time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[stage] += now - last
        last = now

    search(lap, rerank)
    return seconds


def median_seconds(
    search: Callable[[Lap, bool], object], reranks: bool, repeats: int
) -> dict[str, float]:
    """Return the median seconds of each stage over ``repeats`` searches, after one not timed.

    ``search`` calls its first argument at the end of each stage; with False as the second one it
    leaves whole vectors out. Where it ``reranks``, a second search without them tells re-ranking
    from scanning, since both are one pass over the queries.
    """
    repeats = _checks.integer("repeats", repeats, 1)
    whole, codes_only = [], []
    for _ in range(repeats + 1):
        whole.append(_timed(search, True))
        if reranks:
            codes_only.append(_timed(search, False)["scan"])
    result = {name: float(np.median([s[name] for s in whole[1:]])) for name in STAGES}
    if reranks:
        both = result["scan"]
        result["scan"] = min(both, float(np.median(codes_only[1:])))
        result["re-ranking"] = both - result["scan"]
    return result
