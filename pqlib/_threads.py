"""Sharing work out among threads, each of which calls faiss for a part of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import faiss

T = TypeVar("T")
R = TypeVar("R")


def one_thread_each() -> ThreadPoolExecutor:
    """Return a pool of as many threads as faiss may use, in each of which faiss uses one.

    For many small pieces of work, such as lists and codebooks: faiss would lose more time to
    starting and joining threads within each than it gains by them.
    """
    return ThreadPoolExecutor(
        faiss.omp_get_max_threads(), initializer=faiss.omp_set_num_threads, initargs=(1,)
    )


def in_order(
    work: Callable[[T], R], pieces: Iterable[T], alone: Callable[[T], bool]
) -> Iterator[R]:
    """Yield ``work`` of each piece, in order.

    As many at a time as there are threads, except pieces that ``alone`` says are large: faiss
    shares out the work within those, and no two of them are worked on at once. Either all are or
    none is.
    """
    threads = faiss.omp_get_max_threads()
    batch: list[T] = []
    for piece in pieces:
        if threads == 1 or alone(piece):
            yield work(piece)
            continue
        batch.append(piece)
        if len(batch) == threads:
            yield from _at_once(work, batch)
            batch = []
    yield from _at_once(work, batch)


def _at_once(work: Callable[[T], R], batch: list[T]) -> list[R]:
    if not batch:
        return []
    with one_thread_each() as pool:
        return list(pool.map(work, batch))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let faiss use one thread in calls from this thread of Python, and only there."""
    with threads(1):
        yield


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let faiss use ``count`` threads in calls from this thread of Python, and only there."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
