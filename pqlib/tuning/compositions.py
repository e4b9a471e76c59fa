"""What is a candidate: the compositions of an index, their neighbours, sizes, and building them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pqlib.indexes import CascadeIndex
from pqlib.tuning.calibration import Task

HELD = 0.75
COMPONENTS = (8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)


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


def neighbors(at: Composition, task: Task) -> Iterator[Composition]:
    """Yield the neighbours of a composition: more and fewer components, lists."""
    d = task.xb.shape[1]
    assert at.n_lists is not None
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
    """Return the bytes per vector that a composition of lists will need."""
    n, d = task.xb.shape
    assert composition.n_lists is not None
    width = -(-composition.components // 4) * 4
    whole = {"uint8": d, "float32": 4 * d}[task.store]
    lanes = 7.5 * composition.n_lists * (width + 2)  # unused, of the last block of each list
    shared = composition.n_lists * (5 * width + 18) + 4 * d * width + lanes
    return whole + width + 2 + 4 + shared / n


def build(composition: Composition, task: Task) -> tuple[CascadeIndex, float]:
    """Return the index and the seconds that building it takes on its own."""
    axes = task.axes if composition.rotation else None
    start = time.perf_counter()
    n_lists, components = composition.n_lists, composition.components
    assert n_lists is not None
    index = CascadeIndex(
        task.xb.shape[1],
        n_lists,
        components if composition.rotation else None,
        composition.rotation,
        task.store,
        seed=task.seed,
        metric=task.metric,
    )
    index.train(task.sample, axes)
    index.add(task.xb)
    index.memory()  # puts the lists in order
    seconds = time.perf_counter() - start
    return index, seconds if axes is None else seconds + task.axes_s
