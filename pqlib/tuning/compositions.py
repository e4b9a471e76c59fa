"""What is a candidate: the compositions of an index, their neighbours, sizes, and building them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pqlib.indexes import CascadeIndex, GraphIndex
from pqlib.indexes.graph import ENTRIES
from pqlib.tuning.calibration import Task

HELD = 0.75
SHORT_D = 128
"""Dimension up to which whole numbers need no shorter codes to walk by."""
DEGREES = (28, 32)
"""Edges of a node, where codes are whole vectors and where not: both together stay small."""
COMPONENTS = (8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)


@dataclass(frozen=True)
class Composition:
    """An index to try: of lists, or a graph of a degree, or exact search where both are None."""

    n_lists: int | None
    components: int = 0
    rotation: str | None = None
    degree: int | None = None

    def __str__(self) -> str:
        if self == EXACT:
            return "exact search"
        what = f"graph of degree {self.degree}" if self.degree else f"{self.n_lists} lists"
        return f"{what}, PCA to {self.components}" if self.rotation else f"{what}, no rotation"


EXACT = Composition(None)


def _lists(wanted: int, task: Task) -> int:
    """Return a number of lists near the one wanted that training allows."""
    return max(1, min(wanted, len(task.training) // 8, 8192))


def starts(task: Task) -> Iterator[Composition]:
    """Yield the compositions that the search starts from.

    Where few components hold ``HELD`` of the variance: about sqrt(n) lists, with a rotation and
    without. Where it takes many, as with text embeddings, neighbours are spread over many lists,
    and short codes leave many candidates: four times as many lists, and that many components.
    """
    n, d = task.xb.shape
    lists = _lists(2 ** round(math.log2(math.sqrt(n))), task)
    components = min((c for c in COMPONENTS if c >= min(d, 64)), default=d)
    flat = min((c for c in COMPONENTS if c >= task.components_holding(HELD)), default=d)
    if components < flat < d:
        yield Composition(_lists(4 * lists, task), flat, "pca")
        return
    yield Composition(lists, min(components, d), "pca")
    if d <= 512:
        yield Composition(lists, d)


def graphs(task: Task) -> Iterator[Composition]:
    """Yield graphs over codes that hold more of the variance, and less.

    Short vectors of whole numbers are codes themselves.
    """
    d = task.xb.shape[1]
    if task.store == "uint8" and d <= SHORT_D:
        yield Composition(None, d, None, DEGREES[0])
        return
    held = {min(d, _code_bytes(task.components_holding(share))) for share in (0.8, 0.9)}
    for components in sorted(held):
        yield Composition(None, components, "pca", DEGREES[1])


def _code_bytes(components: int) -> int:
    """Return the bytes of a code in a graph."""
    return -(-components // GraphIndex.STEP) * GraphIndex.STEP


def neighbors(at: Composition, task: Task) -> Iterator[Composition]:
    """Yield the neighbours of a composition: more and fewer components, lists."""
    d = task.xb.shape[1]
    if at.n_lists is None:
        if at.rotation:
            for components in (at.components + GraphIndex.STEP, at.components - GraphIndex.STEP):
                if 0 < components <= d:
                    yield Composition(None, components, "pca", at.degree)
        return
    if at.rotation is not None:
        steps = sorted({c for c in COMPONENTS if c < d} | {d, at.components})
        here = steps.index(at.components)
        for there in (here + 1, here - 1):
            if 0 <= there < len(steps):
                yield Composition(at.n_lists, steps[there], "pca")
    for lists in (at.n_lists * 2, at.n_lists // 2):
        allowed = _lists(lists, task)
        if allowed != at.n_lists:
            yield Composition(allowed, at.components, at.rotation)


def expected_bytes(composition: Composition, task: Task) -> float:
    """Return the bytes per vector that a composition will need."""
    n, d = task.xb.shape
    whole = {"uint8": d, "float32": 4 * d}[task.store]
    if composition.degree is not None:
        width = _code_bytes(composition.components)
        if composition.rotation is None:
            whole = 0
        shared = 4 * d * width * (composition.rotation is not None) + ENTRIES * 5 * width
        return whole + width + 12 + 4 * composition.degree + shared / n
    assert composition.n_lists is not None
    width = -(-composition.components // 4) * 4
    lanes = 7.5 * composition.n_lists * (width + 2)  # unused, of the last block of each list
    shared = composition.n_lists * (5 * width + 18) + 4 * d * width + lanes
    return whole + width + 2 + 4 + shared / n


def build(composition: Composition, task: Task) -> tuple[CascadeIndex | GraphIndex, float]:
    """Return the index and the seconds that building it takes on its own."""
    axes = task.axes if composition.rotation else None
    start = time.perf_counter()
    components = composition.components if composition.rotation else None
    index: CascadeIndex | GraphIndex
    how: dict[str, Any] = {
        "components": components, "rotation": composition.rotation, "rerank": task.store,
        "seed": task.seed, "metric": task.metric,
    }  # fmt: skip
    if composition.degree is not None:
        index = GraphIndex(task.xb.shape[1], composition.degree, **how)
    else:
        assert composition.n_lists is not None
        index = CascadeIndex(task.xb.shape[1], composition.n_lists, **how)
    index.train(task.sample, axes)
    index.add(task.xb)
    index.memory()  # puts the lists in order, or builds the graph
    seconds = time.perf_counter() - start
    return index, seconds if axes is None else seconds + task.axes_s
