"""The methods of the benchmark: what searches the same lists, and how each is built and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import faiss
import numpy as np
from tqdm import tqdm

from pqlib._threads import one_thread_each
from pqlib._types import FloatMatrix, IdArray
from pqlib.datasets import Dataset
from pqlib.indexes import MultiLevelPQ
from pqlib.study.shared import mean_cost, memory
from pqlib.study.sketch import check_same_answers, sketch_search

Search = Callable[[FloatMatrix], tuple[FloatMatrix, IdArray]]

RIVAL = "faiss IndexIVFPQ"
"""The method that every ratio is to."""

SKETCH = "sketch: Python loop over codes"
"""The first draft's search: a Python loop over the codes of one list."""

SHARED, LOCAL = "MultiLevelPQ shared", "MultiLevelPQ per-cluster"

TABLE_ROWS = 128  # queries whose tables are made in one call: 1 MB of them at m=8, nbits=8


@dataclass(frozen=True)
class Entry:
    """A method with one nprobe; ``work`` is the mean of a query's distance computations."""

    method: str
    nprobe: int
    search: Search
    queries: FloatMatrix
    work: float
    bytes_per_vector: float
    build_s: float
    nprobe_outer: int | None = None

    @property
    def name(self) -> str:
        """What its timing is called."""
        return f"{self.method}, nprobe {self.nprobe}"


@dataclass
class Steps:
    """Times the steps of building, and shows which of them is under way."""

    bar: tqdm[Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def __call__(self, step: str, method: str, vectors: int | None) -> Iterator[None]:
        """Time a step that ``vectors`` go through, in a with statement."""
        self.bar.set_description(f"{step}, {method}")
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.rows.append({"step": step, "method": method, "vectors": vectors, "seconds": seconds})
        self.bar.update()

    def seconds(self, step: str, method: str) -> float:
        """Return what a step took."""
        return next(r["seconds"] for r in self.rows if (r["step"], r["method"]) == (step, method))


def rival_index(shared: MultiLevelPQ) -> faiss.IndexIVFPQ:
    """Return faiss's index, still empty, as its own training would leave it."""
    coarse = faiss.IndexFlatL2(shared.d)
    coarse.add(shared.clustering.inner)
    rival = faiss.IndexIVFPQ(coarse, shared.d, shared.n_inner, shared.m, shared.nbits)
    faiss.copy_array_to_vector(shared.quantizer(0).codebooks.ravel(), rival.pq.centroids)
    rival.is_trained = True
    rival.use_precomputed_table = 0  # faiss's default: it decides by the tables' size
    rival.precompute_table()
    return rival


def rival_entry(
    rival: faiss.IndexIVFPQ, shared: MultiLevelPQ, ds: Dataset, k: int, nprobe: int, steps: Steps
) -> Entry:
    """Return faiss's search, over the lists and codes of ``shared``."""

    def search(xq: FloatMatrix) -> tuple[FloatMatrix, IdArray]:
        rival.nprobe = nprobe
        return rival.search(xq, k)

    numbers = rival.pq.centroids.size() + rival.precomputed_table.size()
    ids = 8 * rival.ntotal
    held = rival.code_size * rival.ntotal + ids + 4 * numbers + shared.clustering.inner.nbytes
    built = [("codebooks", SHARED), ("precomputed tables", RIVAL), ("add", RIVAL)]
    # The same lists are probed, and the same codes in them are scanned.
    work = _work(shared, ds, k, nprobe=nprobe, rerank=False)
    seconds = sum(steps.seconds(*step) for step in built)
    return Entry(RIVAL, nprobe, search, ds.test, work, held / rival.ntotal, seconds)


def our_entries(
    indexes: dict[str, MultiLevelPQ],
    ds: Dataset,
    k: int,
    nprobe: int,
    rerank_factor: int,
    steps: Steps,
) -> Iterator[Entry]:
    """Yield the searches of ``MultiLevelPQ``: plain, by two levels and re-ranked."""
    half = max(1, indexes[SHARED].n_outer // 2)
    plain: dict[str, Any] = {"nprobe": nprobe, "rerank": False}
    reranked: dict[str, Any] = {"nprobe": nprobe, "rerank_factor": rerank_factor}
    for method, words, options in (
        (SHARED, "", plain),
        (SHARED, ", two levels", {**plain, "nprobe_outer": half}),
        (LOCAL, "", plain),
        (SHARED, ", re-ranked", reranked),
        (LOCAL, ", re-ranked", reranked),
    ):
        index = indexes[method]
        yield Entry(
            method + words,
            nprobe,
            partial(index.search, k=k, **options),
            ds.test,
            _work(index, ds, k, **options),
            # One index serves with and without its store: each is charged for what it uses.
            sum(memory(index, options).values()) / index.ntotal,
            steps.seconds("codebooks", method) + steps.seconds("add", method),
            options.get("nprobe_outer"),
        )


def _work(index: MultiLevelPQ, ds: Dataset, k: int, **options: Any) -> float:
    """Return the distance computations of a query, counted, mean."""
    return sum(mean_cost(index, ds.test, k, options).values())


def sketch_entry(index: MultiLevelPQ, like: Entry, k: int, queries: int) -> Entry:
    """Return the sketch's search over ``index``, once it is known to find what ``like`` finds."""
    xq = like.queries[:queries]
    check_same_answers(index, xq, like.search(xq)[1], sketch_search(index, k, xq)[1])
    return replace(like, method=SKETCH, search=partial(sketch_search, index, k), queries=xq)


def make_tables(index: MultiLevelPQ, xq: FloatMatrix, keys: IdArray) -> None:
    """Make the distance tables of a search and throw them away, to time them alone.

    Each list's queries in blocks of ``TABLE_ROWS``, one list a thread, as the index does it.
    ``index`` has a quantizer for each list; ``keys`` (nq, nprobe) int64 are the lists that ``xq``
    (nq, d) float32 probes.
    """
    nprobe = keys.shape[1]
    order = np.argsort(keys.ravel(), kind="stable")
    bounds = np.searchsorted(keys.ravel()[order], np.arange(index.n_inner + 1))
    probed = (np.diff(bounds) > 0) & (index.list_sizes > 0)

    def tables_of(c: int) -> None:
        quantizer, centroid = index.quantizer(c), index.clustering.inner[c]
        for start in range(bounds[c], bounds[c + 1], TABLE_ROWS):
            pairs = order[start : min(start + TABLE_ROWS, bounds[c + 1])]
            quantizer.distance_table(xq[pairs // nprobe] - centroid)

    with one_thread_each() as pool:
        list(pool.map(tables_of, np.flatnonzero(probed).tolist()))
