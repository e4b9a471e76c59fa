"""Product codes of residuals, scanned by faiss."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._blocks import blocks
from pqlib._file import IndexFile, Section, array_section
from pqlib._threads import one_thread_each
from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.clustering import TwoLevelClustering, sample_rows
from pqlib.indexes.codes.quantized import SHARED, ListCodes
from pqlib.indexes.codes.scan import scan_lists
from pqlib.indexes.lists import search_flat, search_lists
from pqlib.quantizers import POINTS_PER_CENTROID, ProductQuantizer, Quantizer

CODEBOOK_MODES = ("shared", "per-cluster")
PART_BYTES = 4 << 20
TABLES = "tables"
"""Stands for the shared codebooks with tables computed in advance, among the scanners."""


def _residual_parts(
    x: FloatMatrix, centroids: FloatMatrix, rows: IdArray, homes: IdArray, m: int
) -> Iterator[FloatMatrix]:
    """Yield the residuals of ``rows`` one sub-space after the other, (n, d/m) each.

    All at once they would be as large as the vectors.
    """
    width = x.shape[1] // m
    for start in range(0, x.shape[1], width):
        columns = slice(start, start + width)
        part = np.ascontiguousarray(x[rows, columns])
        for block in blocks(len(part), 4 * width, PART_BYTES):
            part[block] -= centroids[homes[block], columns]
        yield part


class ProductCodes(ListCodes):
    """Product quantizers of inverted lists, one for all residuals or one for each list.

    Lists are scanned by faiss's own indexes over them, which share lists and codebooks with this
    object. Codebooks of single lists may stay in a mapped file; each is read when it is first
    used. Parameters are those of ``ListCodes``.
    """

    by_faiss = True
    codec: ProductQuantizer

    def __init__(
        self,
        codec: ProductQuantizer,
        codebooks: str,
        max_train: int | None,
        seed: int,
        metric: str = "l2",
    ) -> None:
        super().__init__(codec, codebooks, "residuals", codec.d, max_train, seed, metric)
        self.m, self.nbits = codec.m, codec.nbits
        self.mapped: NDArray[np.float32] | None = None  # of ``own``, in their order
        self._scanners: dict[int | str, faiss.IndexIVFPQ] = {}
        self._making = threading.RLock()

    def use(self, clustering: TwoLevelClustering, lists: faiss.InvertedLists) -> None:
        """Encode for the centroids of ``clustering`` and scan ``lists`` from now on."""
        super().use(clustering, lists)
        self._scanners = {}
        self._rows = {c: row for row, c in enumerate(self.own)}

    def of(self, cluster: int) -> ProductQuantizer:
        """Return the trained quantizer of a list."""
        if self.mapped is None or cluster not in self._rows:
            return super().of(cluster)
        with self._making:
            if cluster not in self.trained:
                codebooks = self.mapped[self._rows[cluster]]
                self.trained[cluster] = self.codec.fresh().set_codebooks(codebooks)
            return self.trained[cluster]

    def _train_shared(self, x: FloatMatrix, homes: IdArray, centroids: FloatMatrix) -> Any:
        usable = min(len(x), self.max_train or len(x))
        ksub = self.codec.least_train
        if usable < ksub:
            raise ValueError(
                f"xt gives {usable} training residuals (max_train={self.max_train}): "
                f"nbits={self.nbits} needs at least 2**nbits = {ksub}, one for each centroid of "
                "a codebook. Train on more vectors, raise max_train or lower nbits."
            )
        rows = sample_rows(len(x), min(usable, POINTS_PER_CENTROID * ksub), self.seed)
        parts = _residual_parts(x, centroids, rows, homes[rows], self.m)
        return self.codec.fresh().train_parts(parts)

    def take(self, codebooks: NDArray[np.float32]) -> None:
        """Use given codebooks (m, 2**nbits, d/m) for all lists instead of training."""
        self.trained, self.own = {SHARED: self.codec.fresh().set_codebooks(codebooks)}, []

    def _for_each(
        self, work: Callable[[int, IdArray], None], groups: list[tuple[int, IdArray]]
    ) -> None:
        """Call ``work`` for all groups: shared codebooks in blocks, own ones on a thread each."""
        if groups and groups[0][0] == SHARED:
            rows = groups[0][1]
            for block in blocks(len(rows), 4 * self.codec.d, PART_BYTES):
                work(SHARED, rows[block])
            groups = groups[1:]
        with one_thread_each() as pool:
            list(pool.map(lambda group: work(*group), groups))

    # Searching -----------------------------------------------------------------------------

    def _scanner(self, name: int | str) -> faiss.IndexIVFPQ:
        """Return faiss's index over the lists with the codebooks of a list.

        With ``TABLES``, those are the shared ones, and tables are computed in advance, which hold
        for no others.
        """
        if name != TABLES and name not in self._rows:
            name = SHARED
        found = self._scanners.get(name)
        if found is not None:
            return found
        with self._making:
            if name in self._scanners:
                return self._scanners[name]
            quantizer = self.of(SHARED if isinstance(name, str) else name)
            ivf = faiss.IndexIVFPQ(
                self.clustering.flat,
                self.codec.d,
                self.clustering.n_inner,
                self.m,
                self.nbits,
                faiss.METRIC_L2,
                False,  # no lists of its own
            )
            ivf.pq = quantizer.faiss
            # One copy of the codebooks: from here on ours is a view of what faiss searches.
            quantizer.adopt(ivf.pq, ivf)
            ivf.is_trained = True
            ivf.parallel_mode = 3
            ivf.replace_invlists(self.lists, False)
            # 0 is "not yet" to precompute_table(), which decides by their size, and "no" to the
            # search. -1 would be "never", yet make the search compute what only they need.
            ivf.use_precomputed_table = 0
            if name == TABLES:
                ivf.precompute_table()
            self._scanners[name] = ivf
            return ivf

    @property
    def ranks(self) -> bool:
        """Whether faiss may rank the centroids: each thread then ranks and scans for its own."""
        return not self.per_cluster

    def scan_nearest(self, xq: FloatMatrix, k: int, nprobe: int) -> Found:
        """Return the ``k`` best codes of the ``nprobe`` nearest of all lists, as ``scan`` does."""
        return search_flat(self._scanner(TABLES), xq, k, nprobe)

    def scan(self, xq: FloatMatrix, coarse: FloatMatrix, keys: IdArray, k: int) -> Found:
        """Return the ``k`` best codes of the lists ``keys`` (nq, nprobe); see ``scan_lists``."""
        if self.per_cluster:
            centroids = self.clustering.inner
            return scan_lists(xq, coarse, keys, k, self.lists, centroids, self.of, self._scanner)
        params = faiss.IVFPQSearchParameters()
        return search_lists(self._scanner(TABLES), xq, k, coarse, keys, params)

    def scan_bytes(self, nq: int, nprobe: int, k: int, longest: int) -> int:
        """Return the most bytes that ``scan`` takes for so many queries; longest: of the lists."""
        if self.per_cluster:
            return super().scan_bytes(nq, nprobe, k, longest)
        # A thread keeps the tables of one query, and what is precomputed adds to them.
        return faiss.omp_get_max_threads() * ((12 * self.m) << self.nbits)

    def _tables_bytes(self) -> int:
        return 0 if self.per_cluster else 4 * self._scanner(TABLES).precomputed_table.size()

    def _one_table(self) -> bool:
        return self._tables_bytes() > 0

    # Memory and files ----------------------------------------------------------------------

    def memory(self) -> dict[str, int]:
        """Return the bytes of all codebooks, mapped ones too, and of the precomputed tables."""
        quantizers = len(self.own) + (SHARED in self.trained)
        learnt = quantizers * self.codec.parameters_bytes
        return {"codebooks": learnt, "precomputed tables": self._tables_bytes()}

    def words(self) -> tuple[str, str]:
        """Return the arguments that make such codes, and the size of one, to be printed."""
        return f"m={self.m}, nbits={self.nbits}", f"{self.m} x {self.nbits} bits"

    def parameters(self) -> dict[str, Any]:
        """Return the arguments of ``MultiLevelPQ`` that make such codes, for a file."""
        return {"m": self.m, "nbits": self.nbits}

    def _shape(self) -> tuple[int, int, int]:
        """Return the shape of a list's codebooks, (m, 2**nbits, d/m)."""
        return self.m, 1 << self.nbits, self.codec.d // self.m

    def sections(self) -> list[Section]:
        """Return the codebooks."""
        sections = []
        if SHARED in self.trained:
            sections.append(array_section("shared_codebooks", self.of(SHARED).codebooks))
        if self.own:
            chunks = (self.of(c).codebooks.reshape(-1).view(np.uint8) for c in self.own)
            shape = (len(self.own), *self._shape())
            sections.append(array_section("own_codebooks_of", np.array(self.own, np.int64)))
            sections.append(Section("own_codebooks", "<f4", shape, chunks))
        return sections

    def restore(self, file: IndexFile, n_lists: int) -> None:
        """Take back what ``sections`` returned, for ``n_lists``, or raise ValueError."""
        own, shape = np.empty(0, np.int64), self._shape()
        if "own_codebooks" in file:
            own = file.read("own_codebooks_of", "<i8", (None,))
            if not (np.diff(own) > 0).all() or not ((own >= 0) & (own < n_lists)).all():
                raise ValueError("its own codebooks are not of clusters that there are")
        self.own, self.trained = own.tolist(), {}
        if len(own) < n_lists:
            shared = file.read("shared_codebooks", "<f4", shape)
            self.trained[SHARED] = self.codec.fresh().set_codebooks(shared)
        if len(own):
            codebooks = file.map("own_codebooks", "<f4", (len(own), *shape))
            if file.mmap:
                self.mapped = codebooks
                return
            for c, its in zip(self.own, codebooks, strict=True):
                self.trained[c] = self.codec.fresh().set_codebooks(its)


def list_codes(
    metric: str,
    d: int,
    m: int | None,
    nbits: int | None,
    codec: Quantizer | None,
    code_of: str,
    codebooks: str,
    max_train: int | None,
    seed: int,
) -> ListCodes:
    """Return what lists of an index hold; arguments and errors are those of ``MultiLevelPQ``."""
    _checks.choice("codebooks", codebooks, CODEBOOK_MODES)
    if codec is None:
        if code_of != "residuals":
            raise ValueError(
                f"code_of={code_of!r}: expected 'residuals' without a codec. Pass "
                "codec=ProductQuantizer(d, m, nbits) to code the vectors themselves."
            )
        product = ProductQuantizer(d, m, 8 if nbits is None else nbits, seed)
        return ProductCodes(product, codebooks, max_train, seed, metric)
    if m is not None or nbits is not None:
        raise ValueError(
            f"codec={codec!r} with m={m!r}, nbits={nbits!r}: expected one or the other. "
            "Give them to the codec."
        )
    return ListCodes(codec, codebooks, code_of, d, max_train, seed, metric)
