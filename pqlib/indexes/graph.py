"""A graph over codes: walk from neighbour to neighbour, then re-rank.

Each vector is a node with edges to some near ones that lie in different directions. A query begins
at the nodes nearest to a few centroids and walks to ever nearer ones, so that it looks at a
thousand nodes where inverted lists scan many thousands. The walk compares codes, one byte for each
of the first principal components (as ``CascadeIndex``); the best are re-ranked by their whole
vectors.

Sources: Malkov, Yashunin, "Efficient and robust approximate nearest neighbor search using
hierarchical navigable small world graphs", TPAMI 2020 (the walk, and which edges are kept); Douze,
Sablayrolles, Jegou, "Link and code", CVPR 2018 (a graph over codes); Manohar and others,
"ParlayANN", PPoPP 2024, section 3 (inserting in batches). Instead of upper layers, centroids lead
to where a walk begins. Vectors with the same code share a node, so that duplicates do not fill the
edges.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._file import IndexFile, Section, array_section
from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.indexes.blocks import PRODUCT_BYTES, SMALL_BATCH, SMALL_BYTES, rows_per_block
from pqlib.indexes.byte_index import ByteIndex, signed
from pqlib.indexes.kernels.batch import ByteMatrix
from pqlib.indexes.kernels.graph import GraphLoops
from pqlib.indexes.kernels.layout import (
    ZERO,
    aligned_empty,
)
from pqlib.indexes.packed import unpack_keys

ENTRIES, STARTS = 512, 2
"""Centroids that lead into the graph, at most, and with how many of their nodes a walk begins."""
WIDTH = 64
"""Codes are of so many bytes, or a multiple."""


@dataclass(frozen=True)
class GraphSettings:
    """How thorough a walk is.

    Attributes
    ----------
    ef : nodes kept of a walk, which ends when all of them are expanded
    candidates : vectors that are re-ranked
    """

    ef: int
    candidates: int

    def arguments(self, more: int = 0) -> dict[str, Any]:
        """Return the arguments of a search at these settings, with ``more`` candidates."""
        return {"ef": self.ef + more, "candidates": self.candidates + more}


class GraphIndex(ByteIndex):
    """A navigable graph over codes of one byte a component, exact re-ranking.

    Vectors that are added wait until the graph is needed; then it is built, of all of them.

    Parameters
    ----------
    d : dimension
    degree : edges of a node, at most
    components : components coded, at most d: the first ones after the rotation. None: 128, or all
        where there are fewer or no rotation
    rotation : "pca", or None: components as they come, then all d of them are coded; with
        rerank="uint8" the codes are the vectors, which are not kept twice
    rerank : what whole vectors are kept as: "float32"; "uint8" for whole numbers 0..255; None:
        none, and distances are those of the codes
    ef_construction : nodes looked at to find the edges of one
    max_train : vectors trained on, at most
    seed : of the sample, of k-means and of the order in which nodes are inserted
    engine : "native" or "portable", see ``pqlib.indexes.kernels``; None: native where it can be
        used
    metric : see ``Index``; with another one than "l2", d is ``width`` in what is said above

    Attributes
    ----------
    settings : the ``GraphSettings`` of a search that is given none

    Raises
    ------
    ValueError
        When an argument is out of range.
    ImportError
        When the engine asked for is not there.
    """

    SAVED = (
        "d", "degree", "components", "rotation", "rerank", "ef_construction", "max_train", "seed",
    )  # fmt: skip
    mappable = ("codes", "edges", "vectors", "ids")
    STEP, COMPONENTS = WIDTH, 128

    def __init__(
        self,
        d: int,
        degree: int = 32,
        components: int | None = None,
        rotation: str | None = "pca",
        rerank: str | None = "uint8",
        ef_construction: int = 100,
        max_train: int | None = 50_000,
        seed: int = 0,
        engine: str | None = None,
        metric: str = "l2",
    ) -> None:
        loops = GraphLoops(engine)
        super().__init__(d, components, rotation, rerank, max_train, seed, metric, loops)
        self.degree = _checks.integer("degree", degree, 2, 1024)
        self.ef_construction = _checks.integer("ef_construction", ef_construction, 1)
        self._loops: GraphLoops = loops
        self.settings = GraphSettings(32, 20)
        self._lock = threading.Lock()
        self._codes = aligned_empty((0, self._width), np.uint8)
        self._pending: list[tuple[NDArray[np.uint8], NDArray[Any]]] = []

    @property
    def _whole_codes(self) -> bool:
        """Whether the codes are the vectors."""
        return self.rotation is None and self.rerank == "uint8"

    # Training and adding -------------------------------------------------------------------

    def train(self, xt: FloatMatrix, axes: FloatMatrix | None = None) -> Self:
        """Learn rotation, scale and centroids from ``xt`` (n, d); return the index.

        Parameters
        ----------
        xt : vectors to learn from
        axes : see ``CascadeIndex.train``

        Raises
        ------
        ValueError
            When vectors were already added, or one is not finite.
        """
        xt = self._check_train(xt)
        sample = self._sample(xt)
        rotated = self._learn_bytes(sample, axes)
        if self._whole_codes:
            self._turn.center[: self.width] = ZERO
            self._scale = np.float32(1)
            rotated = self._turn.apply(sample) - self._turn.center
        count = max(1, min(ENTRIES, len(sample) // 16))
        self._cluster(rotated, count)
        self.is_trained = True
        return self

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        whole = self._kept(xb)
        codes = np.full((len(xb), self._width), ZERO, np.uint8)
        if self._whole_codes:
            codes[:, : self.width] = whole
            whole = whole[:, :0]
        else:
            for part, _, one in self._rotated(xb):
                codes[part] = one.view(np.uint8) ^ np.uint8(ZERO)
        with self._lock:
            self._pending.append((codes, whole))

    def _built(self) -> None:
        """Build the graph of all vectors, where some were added since."""
        with self._lock:
            if not self._pending:
                return
            parts = self._pending
            if len(self._codes):
                by_position = np.argsort(self._order, kind="stable")
                nodes = np.repeat(np.arange(len(self._codes)), np.diff(self._firsts))
                parts = [(self._codes[nodes[by_position]], self._whole[by_position]), *parts]
            codes, whole = (
                held[0] if len(held) == 1 else np.concatenate(held)
                for held in zip(*parts, strict=True)
            )
            self._build(codes, whole)
            self._pending = []

    def _build(self, codes: NDArray[np.uint8], whole: NDArray[Any]) -> None:
        """Lay out codes (n, width) and vectors (n, d or 0), and connect them."""
        rows = codes.view(np.dtype((np.void, self._width))).ravel()
        _, examples, nodes = np.unique(rows, return_index=True, return_inverse=True)
        # Neighbouring nodes side by side, so that what a walk reads next is often near.
        homes = self._loops.route(self._coarse, len(self._centroids), signed(codes[examples]), 1)
        order = np.argsort(homes[0][:, 0], kind="stable")
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order))
        nodes = number[nodes]
        self._order = np.argsort(nodes, kind="stable").astype(np.int32)
        counts = np.bincount(nodes, minlength=len(order))
        self._firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self._codes = aligned_empty((len(order), self._width), np.uint8)
        np.take(codes, examples[order], axis=0, out=self._codes)
        self._whole = aligned_empty(whole.shape, whole.dtype)
        np.take(whole, self._order, axis=0, out=self._whole)
        self._halves = _halves(self._codes)
        self._entries = self._near_centroids()
        starts = self._starts(signed(self._codes))
        entries = np.unique(self._entries).astype(np.int64)
        ef = min(self.ef_construction, len(order))
        edges = self._loops.build(
            self._codes, self._halves, entries, starts, self.degree, ef, self.seed
        )
        self._edges = aligned_empty(edges.shape, np.int32)
        self._edges[:] = edges

    def _near_centroids(self) -> NDArray[np.int32]:
        """Return the node nearest to each centroid, (centroids,)."""
        count = len(self._centroids)
        best = np.full(count, -1, np.int64)
        centers = self._coarse.unpack().astype(np.float32)
        step = rows_per_block(8 * (self._width + count))
        for start in range(0, len(self._codes), step):
            part = self._codes[start : start + step]
            near, ids = faiss.knn(centers, signed(part).astype(np.float32), 1)
            keys = (near[:, 0].astype(np.int64) << 32) | (ids[:, 0] + start)
            best = np.where((best < 0) | (keys < best), keys, best)
        return (best & 0xFFFFFFFF).astype(np.int32)

    def _starts(self, queries: ByteMatrix) -> NDArray[np.int32]:
        """Return the nodes that the walk of each query (nq, width) begins with, (nq, s)."""
        count = len(self._centroids)
        near = self._loops.route(self._coarse, count, queries, min(STARTS, count))[0]
        return np.ascontiguousarray(self._entries[near])

    # Searching -----------------------------------------------------------------------------

    def search(
        self,
        xq: FloatMatrix,
        k: int = 10,
        ef: int | None = None,
        candidates: int | None = None,
        max_memory: int | None = None,
    ) -> Found:
        """Return the ``k`` nearest vectors of each query among those that a walk ends with.

        xq, k, max_memory, the result and the errors are those of ``Index.search``. Without
        re-ranking, distances are those of the codes. Arguments that are None come from
        ``settings``; both are at least k then.

        Parameters
        ----------
        ef : nodes kept of the walk, at least k
        candidates : vectors re-ranked, k..ef; more than the nodes where codes are shared
        """
        xq, k = self._check_search(xq, k, finite=False)
        chosen = self._chosen(k, ef, candidates)
        need = partial(self._search_bytes, k=k, chosen=chosen)
        return self._in_blocks(lambda block: self._run(block, k, chosen), xq, k, max_memory, need)

    def _chosen(
        self, k: int, ef: int | None = None, candidates: int | None = None
    ) -> GraphSettings:
        """Return the settings of a search, checked."""
        if ef is None:
            ef = max(k, self.settings.ef)
        ef = _checks.integer("ef", ef, k, None, f"The k={k} returned are chosen among them.")
        if candidates is None:
            candidates = min(ef, max(k, self.settings.candidates))
        candidates = _checks.integer(
            "candidates", candidates, k, ef, f"They are chosen among the ef={ef} of the walk."
        )
        return GraphSettings(min(ef, self.ntotal), min(candidates, self.ntotal))

    def _search_bytes(self, nq: int, k: int, chosen: GraphSettings) -> int:
        """Return the most bytes that a search of ``nq`` queries takes."""
        width, count = self._width, len(self._centroids)
        alone = self.ntotal // 8 + 16 * (chosen.ef + self.degree) + 8 * (count + 128) + 4096
        if self._loops.module.NAME == "portable":
            alone += 256 * self.ntotal + 8 * self.degree * width + 48 * 256 * count
        each = 10 * width + 8 * chosen.ef + 48 * k + self.width + 64
        products = PRODUCT_BYTES if nq > SMALL_BATCH else 0
        return SMALL_BYTES + products + nq * each + faiss.omp_get_max_threads() * alone

    def search_cost(
        self, xq: FloatMatrix, k: int = 10, *args: Any, **kwargs: Any
    ) -> dict[str, IdArray]:
        """Count the distance computations of a search by stage; same arguments as ``search``.

        Returns
        -------
        dict of (nq,) int64 arrays
            "inner": distances to centroids; "codes": codes compared; "vectors": exact distances;
            "hops": nodes expanded, which are no distance computations
        """
        xq, k = self._check_search(xq, k, finite=False)
        chosen = self._chosen(k, *args, **kwargs)
        keys, scored, hops, _ = self._walk(self.space.queries(xq), chosen.ef)
        none = keys == -1
        sizes = np.where(none, 0, np.diff(self._firsts)[np.where(none, 0, keys & 0xFFFFFFFF)])
        most = chosen.candidates if self.rerank else 0
        return {
            "inner": np.full(len(xq), len(self._centroids), np.int64),
            "codes": scored,
            "vectors": np.minimum(sizes.sum(axis=1), most),
            "hops": hops,
        }

    def _walk(
        self, xq: FloatMatrix, ef: int
    ) -> tuple[IdArray, IdArray, IdArray, NDArray[np.int32]]:
        """Return keys, and of each query scores computed, hops, and what a score lacks."""
        self._built()
        queries, offsets = self._asked(xq)
        starts = self._starts(queries)
        order = np.argsort(starts[:, 0], kind="stable")
        keys, scored, hops = self._loops.walk(
            self._codes, self._halves, self._edges, starts, queries, order, ef
        )
        return keys, scored, hops, offsets

    def _run(self, xq: FloatMatrix, k: int, chosen: GraphSettings) -> Found:
        """Return distances and ids."""
        keys, _, _, offsets = self._walk(xq, chosen.ef)
        store, vectors = self._stored(self._whole_queries(xq))
        keys = self._loops.finish(keys, self._firsts, store, vectors, chosen.candidates, k)
        bits, positions, missing = unpack_keys(keys, self._order)
        distances = self._distances(bits, offsets, vectors, missing)
        return distances, self._to_ids(positions)

    def _stored(self, vectors: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the whole vectors, by place or by node, and queries (nq, d) of their width."""
        if not self._whole_codes:
            return self._whole if self.rerank else self._codes[:0], vectors
        lacking = self._width - self.width
        if lacking:
            vectors = np.pad(vectors, ((0, 0), (0, lacking)), constant_values=ZERO)
        return self._codes, vectors

    # What it is ----------------------------------------------------------------------------

    @property
    def edges(self) -> NDArray[np.int32]:
        """The ends of each node's edges, (nodes, degree) int32; -1 after the last one."""
        self._need_vectors()
        self._built()
        return self._edges

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        if not self.is_trained:
            return {}
        parts = {
            "centroids": self._centroids.nbytes + self._coarse.nbytes,
            "rotation": 0 if self.rotation is None else self._turn.nbytes,
        }
        if self.ntotal:
            self._built()
            parts |= {
                "codes": self._codes.nbytes + self._halves.nbytes,
                "edges": self._edges.nbytes,
                "vectors": self._whole.nbytes,
                "ids": self._order.nbytes + self._firsts.nbytes + self._id_memory(),
            }
        return parts

    def describe(self) -> str:
        """Return a printable summary: parameters, graph, settings, memory."""
        lines = super().describe().splitlines()
        if self.ntotal:
            degrees = (self.edges >= 0).sum(axis=1)
            lines[2:2] = [
                f"  {len(degrees):,} nodes, {degrees.mean():.1f} edges each "
                f"({degrees.min()} to {degrees.max()}); loops: {self.engine} "
                f"({self._loops.module.VERSION})",
                f"  search: ef={self.settings.ef}, candidates={self.settings.candidates}",
            ]
        return "\n".join(lines)

    # Files ---------------------------------------------------------------------------------

    def _sections(self) -> list[Section]:
        found = [
            array_section("settings", np.array([self.settings.ef, self.settings.candidates])),
            *self._byte_sections(),
        ]
        if self.ntotal:
            self._built()
            found += [
                array_section("firsts", self._firsts),
                array_section("order", self._order),
                array_section("entries", self._entries),
                array_section("codes", self._codes),
                array_section("edges", self._edges),
                array_section("vectors", self._whole),
            ]
        return found

    def _restore(self, file: IndexFile) -> None:
        try:
            ef, candidates = map(int, file.read("settings", "<i8", (2,)))
            _checks.integer("ef", ef, 1)
            self.settings = GraphSettings(ef, _checks.integer("candidates", candidates, 1, ef))
        except ValueError as problem:
            raise file.refuse(problem) from None
        self._restore_bytes(file, None)
        if self.ntotal:
            self._restore_graph(file, self.ntotal)

    def _restore_graph(self, file: IndexFile, n: int) -> None:
        """Take back the graph of ``n`` vectors; the loops check no bounds."""
        firsts = file.read("firsts", "<i4", (None,))
        nodes = len(firsts) - 1
        # Of hostile numbers differences wrap around; of such as lie between 0 and n they do not.
        inside = nodes > 0 and bool(((firsts >= 0) & (firsts <= n)).all())
        if not inside or firsts[0] != 0 or firsts[-1] != n or (np.diff(firsts) < 1).any():
            raise file.refuse(f"its nodes do not hold ntotal={n} vectors together")
        self._firsts = firsts
        self._order = file.read("order", "<i4", (n,))
        if self._order.min() < 0 or self._order.max() >= n or len(np.unique(self._order)) < n:
            raise file.refuse("its order does not hold every position once")
        self._entries = file.read("entries", "<i4", (len(self._centroids),))
        self._codes = file.map("codes", "|u1", (nodes, self._width))
        self._edges = file.map("edges", "<i4", (nodes, self.degree))
        kept = 0 if self.rerank is None or self._whole_codes else self.width
        self._whole = file.map("vectors", np.dtype(self.rerank or "uint8").str, (n, kept))
        # A walk follows edges without looking; so they are always looked at here.
        step = rows_per_block(8 * self.degree)
        for start in range(0, nodes, step):
            part = self._edges[start : start + step]
            if part.min() < -1 or part.max() >= nodes:
                raise file.refuse(f"its edges lead to others than its {nodes} nodes")
        if self._entries.min() < 0 or self._entries.max() >= nodes:
            raise file.refuse(f"its entries are others than its {nodes} nodes")
        self._halves = _halves(self._codes)


def _halves(codes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return half the squared norm of each code (n, width) kept as c + 128, (n,) int32."""
    halves = np.empty(len(codes), np.int32)
    step = rows_per_block(8 * codes.shape[1])
    for start in range(0, len(codes), step):
        signed = codes[start : start + step].astype(np.int32) - ZERO
        halves[start : start + step] = np.einsum("ij,ij->i", signed, signed) // 2
    return halves
