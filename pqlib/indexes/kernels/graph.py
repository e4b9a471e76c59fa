"""The loops of a graph, called for whole batches: building it, and walking it."""

from __future__ import annotations

import importlib
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib._types import IdArray
from pqlib.indexes.kernels.batch import ByteMatrix, IntMatrix, Loops

BATCH = 0.02
"""Share of the nodes that are inserted at a time, at most: they do not see each other."""

Codes = NDArray[np.uint8]


class GraphLoops(Loops):
    """``Loops``, and those of a graph; see ``portable_graph`` for what each computes."""

    def __init__(self, name: str | None) -> None:
        super().__init__(name)
        self.graph: Any = importlib.import_module(f"{self.module.__name__}_graph")

    def walk(
        self, codes: Codes, halves: NDArray[np.int32], edges: IntMatrix, starts: IntMatrix,
        queries: ByteMatrix, order: IdArray, ef: int,
    ) -> tuple[IdArray, IdArray, IdArray]:  # fmt: skip
        """Return keys (nq, ef), scores computed and hops, (nq,) each."""
        nq = len(queries)
        keys = np.empty((nq, ef), np.int64)
        scored, hops = np.empty(nq, np.int64), np.empty(nq, np.int64)

        def work(first: int, last: int) -> None:
            self.graph.walk(
                codes, halves, edges, starts, queries, order, first, last, ef, keys, scored, hops
            )

        self._each(work, nq)
        return keys, scored, hops

    def finish(
        self, keys: IdArray, firsts: NDArray[np.int32], store: NDArray[Any],
        vectors: NDArray[Any], kept: int, k: int,
    ) -> IdArray:  # fmt: skip
        """Return keys (nq, k) of places, best first."""
        out = np.empty((len(keys), k), np.int64)
        d = vectors.shape[1]

        def work(first: int, last: int) -> None:
            self.graph.finish(keys, first, last, firsts, store, d, vectors, kept, k, out)

        self._each(work, len(keys))
        return out

    def build(
        self, codes: Codes, halves: NDArray[np.int32], entries: IdArray, starts: IntMatrix,
        degree: int, ef: int, seed: int,
    ) -> IntMatrix:  # fmt: skip
        """Return the edges (nodes, degree) of a graph over all ``codes``.

        In batches, each at most as large as what is there, so that the same graph comes out with
        any number of threads (Manohar and others, "ParlayANN", PPoPP 2024, section 3).

        Parameters
        ----------
        entries : nodes that come first, since walks begin with some of them
        starts : (nodes, s) the entries with which the walk for each node begins
        ef : nodes looked at for each new one
        """
        edges = np.full((len(codes), degree), -1, np.int32)
        others = np.setdiff1d(np.arange(len(codes)), entries)
        np.random.default_rng(seed).shuffle(others)
        nodes = np.concatenate([entries, others])
        done = 1
        while done < len(nodes):
            size = min(done, max(1, int(BATCH * len(nodes))))
            if done < len(entries):
                size = min(size, len(entries) - done)
                began = np.full((size, 1), nodes[0], np.int32)
            else:
                began = starts[nodes[done : done + size]]
            self._insert(codes, halves, edges, began, nodes[done : done + size], ef)
            done += size
        _connect(edges, nodes)
        return edges

    def _insert(
        self, codes: Codes, halves: NDArray[np.int32], edges: IntMatrix, starts: IntMatrix,
        nodes: IdArray, ef: int,
    ) -> None:  # fmt: skip
        starts = np.ascontiguousarray(starts)
        self._each(
            lambda a, b: self.graph.insert(codes, halves, edges, starts, nodes, a, b, ef),
            len(nodes),
        )
        self.join(codes, edges, nodes)

    def join(self, codes: Codes, edges: IntMatrix, nodes: IdArray) -> None:
        """Give the ends of the edges of ``nodes`` edges back."""
        out = edges[nodes]
        sources = np.repeat(nodes, (out >= 0).sum(axis=1))
        ends = out[out >= 0].astype(np.int64)
        order = np.lexsort((sources, ends))
        sources, ends = sources[order], ends[order]
        targets, firsts = np.unique(ends, return_index=True)
        bounds = np.append(firsts, len(ends))
        self._each(
            lambda a, b: self.graph.join(codes, edges, targets, bounds, sources, a, b),
            len(targets),
        )


def _connect(edges: IntMatrix, nodes: IdArray) -> None:
    """Let every node be reached from the first of ``nodes``, in whose order they were inserted.

    Pruning may have left a node without an edge to it. It gets one from a node that is reached and
    that it has an edge to itself, where possible, in place of one that is not needed.
    """
    reached = np.zeros(len(edges), bool)
    parents = np.full(len(edges), -1, np.int64)  # of the tree by which nodes were reached
    _reach(edges, reached, parents, nodes[:1])
    for node in nodes[~reached[nodes]].tolist():
        if reached[node]:
            continue
        near = edges[node][edges[node] >= 0]
        for other in chain(near[reached[near]], np.flatnonzero(reached)):
            ends = edges[other]
            free = np.flatnonzero(ends < 0)
            spare = np.flatnonzero(parents[ends] != other) if not len(free) else free[:1]
            if len(spare):
                ends[spare[-1]] = node
                reached[node], parents[node] = True, other
                _reach(edges, reached, parents, np.array([node]))
                break


def _reach(edges: IntMatrix, reached: NDArray[np.bool_], parents: IdArray, ahead: IdArray) -> None:
    """Mark what can be reached from the nodes ``ahead``, and by which node."""
    reached[ahead] = True
    while len(ahead):
        ends = edges[ahead]
        fresh = (ends >= 0) & ~reached[ends]
        found, firsts = np.unique(ends[fresh], return_index=True)
        parents[found] = np.repeat(ahead, fresh.sum(axis=1))[firsts]
        reached[found] = True
        ahead = found.astype(np.int64)
