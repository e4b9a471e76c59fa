"""What all indexes share: the verbs, the checks, ids, and inverted lists filled in batches."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import h5py
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._file import IndexFile, Section, array_section, list_sections, write
from pqlib.clustering import TwoLevelClustering, from_centroids, two_level_kmeans

FloatMatrix = NDArray[np.float32]
IdArray = NDArray[np.int64]

BLOCK_BYTES = 64 << 20
"""Working memory of one block when vectors are processed in blocks."""


def rows_per_block(bytes_per_row: int, block_bytes: int = BLOCK_BYTES) -> int:
    """Return how many rows fit into ``block_bytes``, at least one."""
    return max(1, block_bytes // max(1, bytes_per_row))


BLAS_QUERIES, BLAS_WORK = 20, 4096
"""Queries, or queries times dimensions, from which on faiss takes matrix products in blocks."""

BLAS_BYTES = 4096 * 1024 * 4
"""Bytes of one such block: faiss takes it whole, however few the queries."""

PRODUCT_BYTES = 6 << 20
"""Allowance for what a library of matrix products keeps at hand."""

SMALL_BYTES = 1 << 20
"""Allowance for what any search takes besides: objects, threads' stacks, small arrays."""


def ranking_bytes(nq: int, n: int, k: int, d: int) -> int:
    """Return the bytes that faiss takes to find the ``k`` nearest of ``n`` vectors, at most."""
    heaps = 36 * k * nq if k < 100 else 60 * k * nq
    products = nq >= BLAS_QUERIES or nq * d >= BLAS_WORK
    return heaps + (BLAS_BYTES + 4 * (n + nq) if products else 0)


def queries_within(
    nq: int, max_memory: int | None, need: Callable[[int], int], most: int | None = None
) -> int:
    """Return how many of ``nq`` queries to search at a time.

    Parameters
    ----------
    max_memory : bytes that it may take; None: whatever it takes
    need : gives the bytes that a number of queries takes, at most; grows with it
    most : queries at a time that are never exceeded

    Raises
    ------
    ValueError
        When not even one query can be searched in so little.
    """
    nq = nq if most is None else min(nq, most)
    if max_memory is None:
        return nq
    limit = _checks.integer("max_memory", max_memory, 1)
    if need(1) > limit:
        raise ValueError(
            f"max_memory={limit:,}: expected at least {need(1):,} bytes, what a query alone takes "
            "with these arguments. Allow more, or lower k, nprobe or the number of candidates."
        )
    low, high = 1, nq
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if need(middle) <= limit else (low, middle - 1)
    return low


def search_lists(
    ivf: faiss.IndexIVF,
    xq: FloatMatrix,
    k: int,
    coarse: FloatMatrix,
    keys: IdArray,
    params: faiss.SearchParametersIVF,
) -> tuple[FloatMatrix, IdArray]:
    """Let faiss scan the lists ``keys`` (nq, nprobe) of ``ivf`` for each query.

    faiss's Python wrapper takes nprobe from the index alone, which two threads could not set
    differently; its C++ method takes it from ``params``.
    """
    xq, keys = np.ascontiguousarray(xq), np.ascontiguousarray(keys)
    coarse = np.ascontiguousarray(coarse)
    params.nprobe = keys.shape[1]
    # Mode 3 shares the queries out among threads. With the default 0 only faiss's ``search`` does
    # so, around its call of this method, which alone uses a single thread.
    ivf.parallel_mode = 3
    distances = np.empty((len(xq), k), np.float32)
    positions = np.empty((len(xq), k), np.int64)
    ivf.search_preassigned_c(
        len(xq),
        faiss.swig_ptr(xq),
        k,
        faiss.swig_ptr(keys),
        faiss.swig_ptr(coarse),
        faiss.swig_ptr(distances),
        faiss.swig_ptr(positions),
        False,
        params,
    )
    distances[positions < 0] = np.inf
    return distances, positions


def search_flat(
    ivf: faiss.IndexIVF, xq: FloatMatrix, k: int, nprobe: int
) -> tuple[FloatMatrix, IdArray]:
    """Let faiss rank all centroids of ``ivf`` and scan the ``nprobe`` nearest lists."""
    params = faiss.IVFPQSearchParameters(nprobe=nprobe)
    distances, positions = ivf.search(np.ascontiguousarray(xq), k, params=params)
    distances[positions < 0] = np.inf
    return distances, positions


def _blocks(xb: Any) -> Iterator[Any]:
    """Yield what ``add`` was given: an array at once, a data set on disk or an iterator in parts.

    An array is not cut up, so that it is checked as a whole before any of it is added.
    """
    if isinstance(xb, h5py.Dataset):
        _checks.integer("dimensions of the HDF5 data set xb", xb.ndim, 2, 2)
        step = rows_per_block(4 * xb.shape[1])
        for start in range(0, xb.shape[0], step):
            yield xb[start : start + step]
    elif isinstance(xb, Iterator):
        yield from xb
    else:
        yield xb


class Index:
    """A searchable structure: train, add, search, memory."""

    def __init__(self, d: int) -> None:
        self.d = _checks.integer("d", d, 1)
        self.ntotal = 0
        self.is_trained = False
        # External ids; None as long as they are the positions 0, 1, 2, ...
        self._ids: IdArray | None = None
        self._mapped_from: str | None = None

    def train(self, xt: FloatMatrix) -> Index:
        """Learn from training vectors ``xt`` (n, d) what the index needs; return the index."""
        raise NotImplementedError

    def add(
        self,
        xb: Any,
        ids: IdArray | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Index:
        """Add vectors, by their positions or under given ids; return the index.

        Parameters
        ----------
        xb : (n, d) array, or an HDF5 data set of that shape, which is read in blocks, or an
            iterator of (n_i, d) blocks; neither of the last two is ever whole in memory
        ids : (n,) int64, one for each vector; for an iterator, of all blocks together
        progress : called after each block with the number of vectors added so far

        Raises
        ------
        ValueError
            When the index is not trained, xb is no finite (n, d) matrix, or ids do not fit. An
            array is then refused as a whole; of blocks, those before the faulty one were added,
            as ``ntotal`` tells.
        """
        if not self.is_trained:
            raise ValueError(
                f"add before train: {type(self).__name__} has learnt nothing yet. "
                "Call train(xt) first."
            )
        if self._mapped_from is not None:
            raise ValueError(
                f"add to an index opened with mmap=True: {self._mapped_from} is read only. Open "
                "it with mmap=False, add, and save it again."
            )
        before = self.ntotal
        given = None if ids is None else self._check_ids(ids)
        if given is not None and hasattr(xb, "shape"):
            self._fit_ids(given, int(xb.shape[0]))
        for block in _blocks(xb):
            rows = _checks.vectors("xb", block, self.d)
            done = self.ntotal - before
            if given is not None and len(given) < done + len(rows):
                self._fit_ids(given, done + len(rows))
            self._add_block(rows, None if given is None else given[done : done + len(rows)])
            if progress is not None:
                progress(self.ntotal - before)
        if given is not None:
            self._fit_ids(given, self.ntotal - before)
        return self

    def _add_block(self, xb: FloatMatrix, new_ids: IdArray | None) -> None:
        self._add(xb, np.arange(self.ntotal, self.ntotal + len(xb), dtype=np.int64))
        if new_ids is not None or self._ids is not None:
            old = np.arange(self.ntotal, dtype=np.int64) if self._ids is None else self._ids
            if new_ids is None:
                new_ids = np.arange(self.ntotal, self.ntotal + len(xb), dtype=np.int64)
            self._ids = np.concatenate([old, new_ids])
        self.ntotal += len(xb)

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        raise NotImplementedError

    def search(
        self, xq: FloatMatrix, k: int = 10, *args: Any, **kwargs: Any
    ) -> tuple[FloatMatrix, IdArray]:
        """Return the ``k`` vectors found nearest to each query.

        Parameters
        ----------
        xq : (nq, d) float32
        k : neighbours, 1..ntotal
        args, kwargs : of the kind of index, such as nprobe; all take ``max_memory``, bytes

        Returns
        -------
        distances : (nq, k) float32, squared L2, ascending; inf where fewer than k are found
        ids : (nq, k) int64; -1 there

        Raises
        ------
        ValueError
            When the index is empty, xq is no finite (nq, d) matrix or an argument is out of range.
        """
        raise NotImplementedError

    def memory(self) -> dict[str, int]:
        """Return the bytes that the index holds, by part."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return a printable summary: parameters, vectors, memory."""
        words = ", ".join(f"{name}={value!r}" for name, value in self._parameters().items())
        lines = [f"{type(self).__name__}({words})"]
        if not self.is_trained:
            return "\n".join([*lines, "not trained"])
        return "\n".join([*lines, f"vectors: {self.ntotal:,}", *self._memory_lines()])

    def _memory_lines(self) -> list[str]:
        lines = [f"memory: {self.memory_bytes:,} bytes"]
        for part, held in self.memory().items():
            if held:
                lines.append(f"  {part:<26}{held:>14,}")
        if self.ntotal:
            lines.append(f"  {'bytes per vector':<26}{self.bytes_per_vector:>14,.1f}")
        return lines

    @property
    def mappable(self) -> tuple[str, ...]:
        """The parts of ``memory()`` that ``load_index(path, mmap=True)`` leaves in the file.

        A search reads of them only what it needs; the others have to be in memory.
        """
        return ("ids",)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, which ``pqlib.load_index`` opens.

        The file appears at once, when it is complete; one of that name is replaced then.

        Raises
        ------
        ValueError
            When the index is not trained.
        OSError
            When the file cannot be written.
        """
        if not self.is_trained:
            raise ValueError(
                f"save before train: {type(self).__name__} has learnt nothing yet. "
                "Call train(xt) first."
            )
        sections = self._sections()
        if self._ids is not None:
            sections.append(array_section("ids", self._ids))
        write(path, type(self).__name__, {**self._parameters(), "ntotal": self.ntotal}, sections)

    def _parameters(self) -> dict[str, Any]:
        """Return the arguments that make an index like this one."""
        return {"d": self.d}

    def _sections(self) -> list[Section]:
        """Return what it has learnt and holds, ids apart."""
        raise NotImplementedError

    @classmethod
    def from_file(cls, file: IndexFile) -> Index:
        """Return the index of an opened file of this kind; ``load_index`` calls it."""
        parameters = dict(file.parameters)
        try:
            ntotal = _checks.integer("ntotal", parameters.pop("ntotal", None), 0)
            index = cls(**cls._arguments(parameters))
        except (TypeError, ValueError, KeyError, ImportError) as problem:
            raise file.refuse(problem) from None
        if set(parameters) != set(index._parameters()):
            raise file.refuse(f"its parameters are {', '.join(parameters)}")
        index.ntotal, index.is_trained = ntotal, True
        index._restore(file)
        if "ids" in file:
            index._ids = file.map("ids", "<i8", (ntotal,))
            if file.verify and ntotal and int(index._ids.min()) < 0:
                raise file.refuse(f"its ids hold {int(index._ids.min())}")
        index._mapped_from = str(file.path) if file.mmap else None
        return index

    @classmethod
    def _arguments(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the constructor for the parameters of a file."""
        return parameters

    def _restore(self, file: IndexFile) -> None:
        """Take from ``file`` what ``_sections`` wrote, for the ``ntotal`` vectors it says.

        What a search relies on is to be checked here: compiled loops look at no bounds.
        """
        raise NotImplementedError

    @property
    def memory_bytes(self) -> int:
        """Bytes of all parts together."""
        return sum(self.memory().values())

    @property
    def bytes_per_vector(self) -> float:
        """All bytes, codebooks and centroids included, over the vectors held."""
        return self.memory_bytes / max(1, self.ntotal)

    def _id_memory(self) -> int:
        return 0 if self._ids is None else self._ids.nbytes

    def _to_ids(self, positions: IdArray) -> IdArray:
        """Return the external ids of ``positions``, -1 staying -1."""
        if self._ids is None:
            return positions
        return np.where(positions < 0, np.int64(-1), self._ids[positions])

    def _to_positions(self, ids: Any) -> IdArray:
        """Return the positions of external ``ids`` (n,), the first added where one came twice."""
        wanted = np.asarray(ids)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise ValueError(
                f"ids has dtype {wanted.dtype} and shape {wanted.shape}: expected a list of whole "
                "numbers (n,). For one vector, pass [id]."
            )
        wanted = wanted.astype(np.int64)
        known = np.arange(self.ntotal) if self._ids is None else self._ids
        order = np.argsort(known, kind="stable")
        place = np.searchsorted(known[order], wanted)
        found = np.zeros(len(wanted), bool)
        inside = place < len(known)
        found[inside] = known[order[place[inside]]] == wanted[inside]
        if not found.all():
            raise ValueError(
                f"ids holds {wanted[~found][0]}: expected ids that the index holds. It was never "
                "added; -1 stands for 'not found' in results, so leave those out."
            )
        return order[place]

    def _check_ids(self, ids: Any) -> IdArray:
        array = np.asarray(ids)
        if array.ndim != 1 or array.dtype.kind not in "iu" or (len(array) and array.min() < 0):
            raise ValueError(
                f"ids has dtype {array.dtype} and shape {array.shape}: expected whole numbers >= 0 "
                "(n,), one for each vector of xb (-1 means 'not found' in results)."
            )
        if len(array) and array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"ids holds {array.max()}: expected at most 2**63 - 1 (int64).")
        return array.astype(np.int64)

    def _fit_ids(self, ids: IdArray, n: int) -> None:
        if len(ids) != n:
            raise ValueError(
                f"ids has {len(ids)} numbers: expected {n}, one for each vector of xb. Pass as "
                "many as there are vectors."
            )

    def _check_search(self, xq: FloatMatrix, k: int) -> tuple[FloatMatrix, int]:
        if self.ntotal == 0:
            raise ValueError(
                f"search before add: {type(self).__name__} holds no vectors. "
                "Call train(xt) and add(xb) first."
            )
        k = _checks.integer(
            "k", k, 1, self.ntotal, f"The index holds {self.ntotal} vectors (ntotal)."
        )
        return _checks.vectors("xq", xq, self.d), k


class InvertedFile(Index):
    """An index whose vectors lie in inverted lists, one for each inner cluster.

    Subclasses say how many bytes a vector takes in its list and what they are.
    """

    def __init__(
        self,
        d: int,
        n_inner: int,
        n_outer: int,
        spherical: bool,
        max_train: int | None,
        seed: int,
    ) -> None:
        super().__init__(d)
        self.n_inner = _checks.integer("n_inner", n_inner, 1)
        self.n_outer = _checks.integer(
            "n_outer", n_outer, 1, self.n_inner, "An outer cluster is made of inner centroids."
        )
        self.spherical = bool(spherical)
        self.max_train = None if max_train is None else _checks.integer("max_train", max_train, 1)
        self.seed = _checks.seed(seed)
        self._clustering: TwoLevelClustering | None = None
        self._lists: faiss.InvertedLists | None = None

    @property
    def clustering(self) -> TwoLevelClustering:
        """Both levels of centroids.

        Raises
        ------
        ValueError
            Before training.
        """
        if self._clustering is None:
            raise ValueError("clustering before train: call train(xt) first.")
        return self._clustering

    @property
    def lists(self) -> faiss.InvertedLists:
        """The inverted lists as faiss holds them: codes and positions by inner cluster.

        Raises
        ------
        ValueError
            Before training.
        """
        if self._lists is None:
            raise ValueError("lists before train: call train(xt) first.")
        return self._lists

    @property
    def list_sizes(self) -> IdArray:
        """Vectors in each inverted list, (n_inner,) int64."""
        return np.array([self.lists.list_size(c) for c in range(self.n_inner)], np.int64)

    def _parameters(self) -> dict[str, Any]:
        return {
            "d": self.d,
            "n_inner": self.n_inner,
            "n_outer": self.n_outer,
            "spherical": self.spherical,
            "max_train": self.max_train,
            "seed": self.seed,
        }

    def _sections(self) -> list[Section]:
        clusters = self.clustering
        return [
            array_section("inner", clusters.inner),
            array_section("outer", clusters.outer),
            array_section("inner_objective", clusters.inner_objective),
            array_section("outer_objective", clusters.outer_objective),
            array_section("n_train", np.array([clusters.n_train])),
            *list_sections(self.lists),
        ]

    def _restore(self, file: IndexFile) -> None:
        self._clustering = from_centroids(
            file.read("inner", "<f4", (self.n_inner, self.d)),
            file.read("outer", "<f4", (self.n_outer, self.d)),
            file.read("inner_objective", "<f8", (None,)),
            file.read("outer_objective", "<f8", (None,)),
            file.number("n_train"),
        )
        self._lists = file.read_lists(self.n_inner, self._entry_bytes(), self.ntotal)

    def _entry_bytes(self) -> int:
        """Return the bytes of a vector in its list, its position apart."""
        raise NotImplementedError

    def regrouped(self, clustering: TwoLevelClustering) -> InvertedFile:
        """Return an index over the same lists, under other outer clusters.

        It shares lists, codes and all else with this one, so vectors are to be added to neither
        from then on.

        Raises
        ------
        ValueError
            When ``clustering`` has other inner centroids than this index.
        """
        if not np.array_equal(clustering.inner, self.clustering.inner):
            raise ValueError(
                f"clustering has other inner centroids, {clustering.inner.shape}: expected those "
                f"of this index, {self.clustering.inner.shape}. Vectors lie in lists by them; "
                "build a new index."
            )
        other = copy.copy(self)
        other._clustering, other.n_outer = clustering, clustering.n_outer
        return other

    def _train_clustering(
        self, xt: FloatMatrix, clustering: TwoLevelClustering | None
    ) -> tuple[FloatMatrix, TwoLevelClustering]:
        if self.ntotal:
            raise ValueError(
                f"train after add: the {self.ntotal} vectors added so far are stored by the old "
                "centroids. Build a new index."
            )
        xt = _checks.vectors("xt", xt, self.d)
        if clustering is None:
            if len(xt) < self.n_inner or (
                self.max_train is not None and self.max_train < self.n_inner
            ):
                raise ValueError(
                    f"xt has {len(xt)} training vectors (max_train={self.max_train}): "
                    f"n_inner={self.n_inner} clusters need at least as many. Pass at least "
                    f"{self.n_inner} vectors or lower n_inner."
                )
            clustering = two_level_kmeans(
                xt,
                self.n_inner,
                self.n_outer,
                spherical=self.spherical,
                max_train=self.max_train,
                seed=self.seed,
            )
        expected = (self.n_inner, self.n_outer, self.d)
        found = (clustering.n_inner, clustering.n_outer, clustering.d)
        if found != expected:
            raise ValueError(
                f"clustering has (n_inner, n_outer, d) = {found}: expected {expected}, the "
                "index's own. Cluster with the same sizes or build the index with these."
            )
        return xt, clustering

    def _append(self, assignment: IdArray, positions: IdArray, codes: NDArray[np.uint8]) -> None:
        """Append ``codes`` (n, code bytes) to the lists that ``assignment`` (n,) names."""
        order = np.argsort(assignment, kind="stable")
        bounds = np.searchsorted(assignment[order], np.arange(self.n_inner + 1))
        for c in np.flatnonzero(np.diff(bounds)):
            rows = order[bounds[c] : bounds[c + 1]]
            # One call a list, so that its storage grows to exactly what it holds.
            list_ids, list_codes = positions[rows], np.ascontiguousarray(codes[rows])
            self.lists.add_entries(
                int(c), len(rows), faiss.swig_ptr(list_ids), faiss.swig_ptr(list_codes)
            )

    def search_cost(
        self, xq: FloatMatrix, k: int = 10, nprobe: int = 1, nprobe_outer: int | None = None
    ) -> dict[str, IdArray]:
        """Count the distance computations of a search by stage, without its timing noise.

        Returns
        -------
        dict of (nq,) int64 arrays
            "outer" and "inner": distances to centroids; "vectors": exact distances to base
            vectors. Same arguments as ``search``.
        """
        xq, k = self._check_search(xq, k)
        outer, inner = self.clustering.probe_cost(xq, nprobe_outer)
        return {
            "outer": outer,
            "inner": inner,
            "vectors": self._scanned(xq, nprobe, nprobe_outer),
        }

    def _routing_bytes(self, nq: int, nprobe: int) -> int:
        """Return the bytes that finding the lists to probe takes, at most."""
        return ranking_bytes(nq, self.n_inner, nprobe, self.d) + 24 * nprobe * nq

    def _scanned(self, xq: FloatMatrix, nprobe: int, nprobe_outer: int | None) -> IdArray:
        """Return how many stored vectors lie in the lists each query probes, (nq,) int64."""
        _, keys = self.clustering.probe(xq, nprobe, nprobe_outer)
        return np.where(keys >= 0, self.list_sizes[keys], 0).sum(axis=1)
