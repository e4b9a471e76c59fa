"""The loops of ``GraphIndex`` in NumPy: what ``native_graph`` computes, a node at a time.

Nodes are rows of ``codes``. A *key* is a score in the upper 32 bits and a node in the lower ones,
so that keys are ordered by score, then by node; -1 stands for none.
"""

from __future__ import annotations

import bisect

import numpy as np

from pqlib.indexes.kernels.layout import ZERO
from pqlib.indexes.kernels.portable import distance_bits


def _scores(codes, halves, nodes, query):
    dots = codes[nodes].astype(np.int32) @ query.astype(np.int32)
    return (halves[nodes] - dots).tolist()


def _walk_one(codes, halves, edges, starts, query, ef):
    """Return the keys that one query ends with, scores computed and hops."""
    beam: list[tuple[int, int]] = []
    near = list(dict.fromkeys(starts.tolist()))
    seen, expanded = set(near), set[int]()
    scored = 0
    while True:
        for key in zip(_scores(codes, halves, near, query), near, strict=True):
            if len(beam) < ef or key[0] < beam[-1][0]:
                bisect.insort(beam, key)
                del beam[ef:]
        scored += len(near)
        node = next((node for _, node in beam if node not in expanded), None)
        if node is None:
            return beam, scored, len(expanded)
        expanded.add(node)
        others = edges[node].tolist()
        near = [other for other in others if other >= 0 and other not in seen]
        seen.update(near)


def _keys(pairs):
    return np.array([(score << 32) | node for score, node in pairs], np.int64)


def walk(codes, halves, edges, starts, queries, order, first, last, ef, keys_out, scored, hops):
    """Walk the graph for each query: expand the best node met, until the best ``ef`` are expanded.

    Malkov, Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical
    navigable small world graphs", TPAMI 2020, algorithm 2, of one layer.

    Parameters
    ----------
    codes : (nodes, width) uint8
    halves : (nodes,) int32, half of a code's squared norm
    edges : (nodes, degree) int32, the ends of a node's edges; -1 after the last one
    starts : (nq, s) int32, the nodes that a walk begins with
    queries : (nq, width) int8
    order : the queries in the order in which they are worked on, ``first`` to ``last`` of them
    ef : nodes kept of each query, of equal scores those met first
    keys_out : (nq, ef) int64, written: what is kept, ascending
    scored, hops : (nq,) int64, written: scores computed, nodes expanded
    """
    for query in order[first:last]:
        found, scored[query], hops[query] = _walk_one(
            codes, halves, edges, starts[query], queries[query], ef
        )
        keys_out[query, : len(found)] = _keys(found)
        keys_out[query, len(found) :] = -1


def finish(keys, first, last, firsts, store, d, vectors, kept, k, keys_out):
    """Return the vectors of the best nodes, in the order of exact distances where they are kept.

    Parameters
    ----------
    keys : (nq, ef), what ``walk`` wrote
    first, last : the queries that are worked on
    firsts : (nodes + 1,) the place of the first vector of each node; a node stands for several
        where these have the same code
    store : whole vectors by place (n, d) or by node (nodes, d); or (0, d): none, so that scores
        rank
    vectors : (nq, d) the queries
    kept : vectors of the best nodes that are looked at
    k : at most kept
    keys_out : (nq, k) int64, written: distance or score, and place, ascending; -1 where fewer were
        found
    """
    by_node = len(store) == len(firsts) - 1
    for query in range(first, last):
        found, rows = [], []
        for key in keys[query][keys[query] != -1].tolist():
            node = key & 0xFFFFFFFF
            for place in range(firsts[node], firsts[node + 1]):
                found.append((key >> 32 << 32) | place)
                rows.append(node if by_node else place)
            if len(found) >= kept:
                break
        best = np.array(found[:kept], np.int64)
        if len(store):
            bits = distance_bits(store[rows[:kept]], vectors[query], d)
            best = (bits.astype(np.int64) << 32) | (best & 0xFFFFFFFF)
        best = np.sort(best)[:k]
        keys_out[query, : len(best)] = best
        keys_out[query, len(best) :] = -1


def _gaps(codes, nodes, node):
    return distance_bits(codes[nodes], codes[node], codes.shape[1]).tolist()


def _prune(codes, node, found, degree):
    """Return which of ``found``, ascending pairs of distance and node, become edges of ``node``."""
    kept: list[int] = []
    for far, other in found:
        if other == node:
            continue
        if all(gap >= far and gap > 0 for gap in _gaps(codes, kept, other)):
            kept.append(other)
        if len(kept) == degree:
            break
    return kept


def _write(edges, node, kept):
    edges[node, : len(kept)] = kept
    edges[node, len(kept) :] = -1


def insert(codes, halves, edges, starts, nodes, first, last, ef):
    """Give new nodes edges: to those found by a walk that are nearer to it than to each other.

    Malkov, Yashunin, as for ``walk``, algorithm 4.

    Parameters
    ----------
    starts : (m, s) int32, where the walk for each node begins
    nodes : (m,) int64, of which ``first`` to ``last`` are worked on; their ``edges`` are written
    ef : nodes that are looked at
    """
    for at in range(first, last):
        node = int(nodes[at])
        query = (codes[node].astype(np.int16) - ZERO).astype(np.int8)
        found = [other for _, other in _walk_one(codes, halves, edges, starts[at], query, ef)[0]]
        pairs = sorted(zip(_gaps(codes, found, node), found, strict=True))
        _write(edges, node, _prune(codes, node, pairs, edges.shape[1]))


def join(codes, edges, targets, bounds, sources, first, last):
    """Give nodes edges back to those that have one to them, and prune where they are too many.

    Parameters
    ----------
    targets : (m,) int64, of which ``first`` to ``last`` are worked on; their ``edges`` are written
    bounds : (m + 1,) int64, where the sources of each begin in ``sources``
    sources : int64, the nodes with an edge to it
    """
    for at in range(first, last):
        node = int(targets[at])
        ends = edges[node]
        others = sorted({*ends[ends >= 0].tolist(), *sources[bounds[at] : bounds[at + 1]].tolist()})
        pairs = sorted(zip(_gaps(codes, others, node), others, strict=True))
        if len(pairs) <= edges.shape[1]:
            _write(edges, node, [other for _, other in pairs])
        else:
            _write(edges, node, _prune(codes, node, pairs, edges.shape[1]))
