"""What all indexes share: the verbs, their checks, external ids, and files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import numpy as np

from pqlib import _checks
from pqlib._file import IndexFile, Section, array_section, write
from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.indexes.blocks import rows_per_block, search_in_blocks
from pqlib.indexes.metric import Space, Widened


def _blocks(xb: Any) -> Iterator[Any]:
    """Yield what ``add`` was given: an array at once, an HDF5 data set or an iterator in parts.

    An array is not cut up, so that it is checked as a whole before any of it is added.
    """
    # Whoever holds an HDF5 data set has imported h5py; no one else needs it.
    h5py = sys.modules.get("h5py")
    if h5py is not None and isinstance(xb, h5py.Dataset):
        _checks.integer("dimensions of the HDF5 data set xb", xb.ndim, 2, 2)
        step = rows_per_block(4 * xb.shape[1])
        for start in range(0, xb.shape[0], step):
            yield xb[start : start + step]
    elif isinstance(xb, Iterator):
        yield from xb
    else:
        yield xb


class Index:
    """A searchable structure: train, add, search, memory.

    A subclass says how it learns (``train``), stores (``_add``), searches and counts its memory.
    To be saved, it also names what it saves (``SAVED``, ``_sections``) and takes it back
    (``_restore``).

    Parameters
    ----------
    d : dimension
    metric : "l2", "cosine" or "ip" (inner product), see ``pqlib.indexes.metric``. Under cosine, a
        zero vector has similarity 0 to everything

    Attributes
    ----------
    space : vectors as they are inside, of ``width`` components: centroids, codes and stores are of
        ``space.base(x)``
    ntotal : vectors held
    is_trained : whether ``train`` was called
    """

    SAVED: ClassVar[tuple[str, ...]] = ("d",)
    """Arguments of the constructor, attributes too, that make an index like this one."""

    mappable: tuple[str, ...] = ("ids",)
    """The parts of ``memory()`` that ``load_index(path, mmap=True)`` leaves in the file.

    A search reads only what it needs of them. The other parts have to be in memory.
    """

    def __init__(self, d: int, metric: str = "l2") -> None:
        self.space: Space = Widened(metric, d)
        self.d, self.metric = self.space.d, metric
        self.ntotal = 0
        self.is_trained = False
        # External ids; None as long as they are the positions 0, 1, 2, ...
        self._ids: IdArray | None = None
        self._mapped_from: str | None = None

    @property
    def width(self) -> int:
        """Dimension of vectors inside: d, and what another metric than "l2" adds."""
        return self.space.width

    # The verbs -----------------------------------------------------------------------------

    def train(self, xt: FloatMatrix) -> Self:
        """Learn from training vectors ``xt`` (n, d) what the index needs; return the index.

        Raises
        ------
        ValueError
            When xt is no finite (n, d) matrix, has too few vectors, or vectors were added before.
        """
        raise NotImplementedError

    def add(
        self,
        xb: Any,
        ids: IdArray | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Self:
        """Add vectors, under their positions or under given ids; return the index.

        Parameters
        ----------
        xb : (n, d) array; or an HDF5 data set of that shape, which is read in blocks; or an
            iterator of (n_i, d) blocks. The last two are never whole in memory
        ids : (n,) int64, one for each vector; for an iterator, of all blocks together
        progress : called after each block with the number of vectors added so far

        Raises
        ------
        ValueError
            When the index is not trained, xb is no finite (n, d) matrix, ids do not fit, or, under
            "ip", a norm is above all that were trained with (``metric.SLACK``). A wrong array adds
            nothing. Of blocks, those before the wrong one are added, as ``ntotal`` tells.
        """
        self._need_training("add")
        if self._mapped_from is not None:
            raise ValueError(
                f"add to an index opened with mmap=True: {self._mapped_from} is read only. Open "
                "it with mmap=False, add, and save it again."
            )
        before = self.ntotal
        given = None if ids is None else _checked_ids(ids)
        if given is not None and hasattr(xb, "shape"):
            _fit_ids(given, int(xb.shape[0]))
        for block in _blocks(xb):
            rows = _checks.vectors("xb", block, self.d)
            done = self.ntotal - before
            if given is not None and len(given) < done + len(rows):
                _fit_ids(given, done + len(rows))
            rows = self.space.base(rows)
            self._add_block(rows, None if given is None else given[done : done + len(rows)])
            if progress is not None:
                progress(self.ntotal - before)
        if given is not None:
            _fit_ids(given, self.ntotal - before)
        return self

    def _add_block(self, xb: FloatMatrix, new_ids: IdArray | None) -> None:
        positions = np.arange(self.ntotal, self.ntotal + len(xb), dtype=np.int64)
        self._add(xb, positions)
        if new_ids is not None or self._ids is not None:
            old = np.arange(self.ntotal, dtype=np.int64) if self._ids is None else self._ids
            self._ids = np.concatenate([old, positions if new_ids is None else new_ids])
        self.ntotal += len(xb)

    def _add(self, xb: FloatMatrix, positions: IdArray) -> None:
        """Store checked vectors (n, width) under ``positions`` (n,), or raise and store none."""
        raise NotImplementedError

    def search(self, xq: FloatMatrix, k: int = 10, *args: Any, **kwargs: Any) -> Found:
        """Return the ``k`` vectors that the index finds nearest to each query.

        Parameters
        ----------
        xq : (nq, d) float32
        k : neighbours, 1..ntotal
        args, kwargs : those of the kind of index, such as nprobe. All kinds take ``max_memory``:
            bytes that the search may take besides the index, the queries and the result. The
            queries are then searched in blocks; None: no limit. As faiss computes distances of
            few queries in another way, ties and last digits may differ then

        Returns
        -------
        distances : (nq, k) float32, squared L2, ascending, inf where fewer than k are found. With
            metric "cosine" or "ip" similarities, descending, -inf where fewer than k are found
        ids : (nq, k) int64; -1 where fewer than k are found

        Raises
        ------
        ValueError
            When the index is empty, xq is no finite (nq, d) matrix, an argument is out of range,
            or max_memory is too little for one query.
        """
        raise NotImplementedError

    def memory(self) -> dict[str, int]:
        """Return the bytes that the index holds, by part."""
        raise NotImplementedError

    @property
    def memory_bytes(self) -> int:
        """Bytes of all parts together."""
        return sum(self.memory().values())

    @property
    def bytes_per_vector(self) -> float:
        """Bytes of all parts, codebooks and centroids included, divided by ``ntotal``."""
        return self.memory_bytes / max(1, self.ntotal)

    def describe(self) -> str:
        """Return a printable summary: parameters, vectors, memory."""
        words = ", ".join(f"{name}={value!r}" for name, value in self._parameters().items())
        lines = [f"{type(self).__name__}({words})"]
        if not self.is_trained:
            return "\n".join([*lines, "not trained"])
        return "\n".join([*lines, f"vectors: {self.ntotal:,}", *self._memory_lines()])

    def _memory_lines(self) -> list[str]:
        lines = [f"memory: {self.memory_bytes:,} bytes"]
        lines += [f"  {part:<26}{held:>14,}" for part, held in self.memory().items() if held]
        if self.ntotal:
            lines.append(f"  {'bytes per vector':<26}{self.bytes_per_vector:>14,.1f}")
        return lines

    # Files ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, which ``pqlib.load_index`` opens.

        The file appears only when it is complete; an older one of that name stays until then.

        Raises
        ------
        ValueError
            When the index is not trained.
        OSError
            When the file cannot be written.
        """
        self._need_training("save")
        sections = [*self._sections(), *self.space.sections()]
        if self._ids is not None:
            sections.append(array_section("ids", self._ids))
        write(path, type(self).__name__, {**self._parameters(), "ntotal": self.ntotal}, sections)

    def _parameters(self) -> dict[str, Any]:
        """Return the arguments that make an index like this one, as JSON can hold them."""
        saved = {name: getattr(self, name) for name in self.SAVED}
        # Files that name no metric, as older ones, are of "l2".
        return saved if self.metric == "l2" else {**saved, "metric": self.metric}

    def _sections(self) -> list[Section]:
        """Return what the index has learnt and holds, ids apart."""
        raise NotImplementedError

    @classmethod
    def from_file(cls, file: IndexFile) -> Index:
        """Return the index of an opened file of this kind; ``load_index`` calls it.

        Raises
        ------
        ValueError
            When the file says what no ``save`` writes.
        """
        parameters = dict(file.parameters)
        try:
            ntotal = _checks.integer("ntotal", parameters.pop("ntotal", None), 0)
            index = cls(**cls._arguments(parameters))
        except (TypeError, ValueError, KeyError, ImportError) as problem:
            raise file.refuse(problem) from None
        if set(parameters) != set(index._parameters()):
            raise file.refuse(f"its parameters are {', '.join(parameters)}")
        index.ntotal, index.is_trained = ntotal, True
        index.space.restore(file)
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

        It must check what a search relies on: compiled loops check no bounds.
        """
        raise NotImplementedError

    # Ids and checks ------------------------------------------------------------------------

    def _id_memory(self) -> int:
        return 0 if self._ids is None else self._ids.nbytes

    def _in_blocks(
        self,
        search: Callable[[FloatMatrix], Found],
        xq: FloatMatrix,
        k: int,
        max_memory: int | None,
        need: Callable[[int], int],
        *args: Any,
    ) -> Found:
        """Return what ``search_in_blocks`` does, of queries (nq, d), as values of the metric.

        ``search`` and ``need`` are of queries inside.
        """
        space = self.space
        if not space.converts:
            return search_in_blocks(search, xq, k, max_memory, need, *args)

        def converting(block: FloatMatrix) -> Found:
            distances, found = search(space.queries(block))
            return space.values(distances, block), found

        def need_all(nq: int) -> int:
            return need(nq) + space.query_bytes(nq) + 24 * k * nq

        return search_in_blocks(converting, xq, k, max_memory, need_all, *args)

    def _named(self, found: Found) -> Found:
        """Return values, and ids for positions."""
        return found[0], self._to_ids(found[1])

    def _to_ids(self, positions: IdArray) -> IdArray:
        """Return the external ids of ``positions``, -1 staying -1."""
        if self._ids is None:
            return positions
        return np.where(positions < 0, np.int64(-1), self._ids[positions])

    def _to_positions(self, ids: Any) -> IdArray:
        """Return the positions of external ``ids`` (n,); of an id added twice, the first."""
        wanted = np.asarray(ids)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise ValueError(
                f"ids has dtype {wanted.dtype} and shape {wanted.shape}: expected a list of whole "
                "numbers (n,). For one vector, pass [id]."
            )
        wanted = wanted.astype(np.int64)
        known = np.arange(self.ntotal) if self._ids is None else self._ids
        missing = ~np.isin(wanted, known)
        if missing.any():
            raise ValueError(
                f"ids holds {wanted[missing][0]}: expected ids that were added to this index. "
                "Results hold -1 for 'not found'; leave these out."
            )
        order = np.argsort(known, kind="stable")
        return order[np.searchsorted(known, wanted, sorter=order)]

    def _need_training(self, what: str) -> None:
        if not self.is_trained:
            raise ValueError(
                f"{what} before train: {type(self).__name__} has learnt nothing yet. "
                "Call train(xt) first."
            )

    def _check_train(self, xt: FloatMatrix) -> FloatMatrix:
        """Return training vectors (n, d), checked, as they are inside: (n, width)."""
        if self.ntotal:
            raise ValueError(
                f"train after add: the {self.ntotal} vectors added so far are stored by the old "
                "centroids. Build a new index."
            )
        xt = _checks.vectors("xt", xt, self.d)
        self.space.learn(xt)
        return self.space.base(xt)

    def _check_search(
        self, xq: FloatMatrix, k: int, finite: bool = True
    ) -> tuple[FloatMatrix, int]:
        self._need_vectors()
        k = _checks.integer(
            "k", k, 1, self.ntotal, f"The index holds {self.ntotal} vectors (ntotal)."
        )
        # Of other metrics, lengths are computed, which have to be finite.
        finite = finite or self.space.converts
        return _checks.vectors("xq", xq, self.d, finite=finite), k

    def _need_vectors(self) -> None:
        if self.ntotal == 0:
            raise ValueError(
                f"search before add: {type(self).__name__} holds no vectors. "
                "Call train(xt) and add(xb) first."
            )


def _checked_ids(ids: Any) -> IdArray:
    array = np.asarray(ids)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (len(array) and array.min() < 0):
        raise ValueError(
            f"ids has dtype {array.dtype} and shape {array.shape}: expected whole numbers >= 0 "
            "(n,), one for each vector of xb (-1 means 'not found' in results)."
        )
    if len(array) and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"ids holds {array.max()}: expected at most 2**63 - 1 (int64).")
    return array.astype(np.int64)


def _fit_ids(ids: IdArray, n: int) -> None:
    if len(ids) != n:
        raise ValueError(
            f"ids has {len(ids)} numbers: expected {n}, one for each vector of xb. Pass as "
            "many as there are vectors."
        )
