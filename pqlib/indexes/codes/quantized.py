"""Inverted lists whose codes are of any quantizer, shared by the lists or one for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib._file import IndexFile, Section, array_section
from pqlib._threads import one_thread_each
from pqlib._types import Codes, FloatMatrix, Found, IdArray
from pqlib.clustering import TwoLevelClustering, sample_rows
from pqlib.indexes.codes.scan import scan_bytes, scan_lists
from pqlib.indexes.lists import rows_by_list
from pqlib.indexes.metric import Widened
from pqlib.quantizers import (
    AnisotropicProductQuantizer,
    LocallyOptimizedPQ,
    Quantizer,
    RaBitQuantizer,
    untrained,
)

SUBJECTS = ("residuals", "vectors")
"""What may be coded: vectors less their list's centroid, or as they are."""

SHARED = -1
"""Stands for the lists without a quantizer of their own."""


class ListCodes:
    """Quantizers of inverted lists: trains them, encodes, decodes and scans with them.

    Parameters
    ----------
    codec : an untrained quantizer, which stays untrained: those of the lists are made like it
    codebooks : "shared" or "per-cluster"
    subject : one of ``SUBJECTS``
    d : dimension of the index
    max_train, seed : vectors that a shared quantizer is trained on, at most, and of their choice
    metric : see ``pqlib.indexes.metric``

    Attributes
    ----------
    space : vectors as they are coded, which ``codec`` has the dimension of
    given : the quantizer given, which has the dimension of the index
    trained : the quantizers by list, ``SHARED`` for the one of all others
    own : lists with a quantizer of their own, ascending
    by_faiss : whether faiss scans the codes, and codebooks of single lists may stay in a file

    Raises
    ------
    ValueError
        When the quantizer is no such thing, is trained, has another dimension, or makes no sense
        here; the message says why.
    """

    by_faiss = False

    def __init__(
        self,
        codec: Quantizer,
        codebooks: str,
        subject: str,
        d: int,
        max_train: int | None,
        seed: int,
        metric: str = "l2",
    ) -> None:
        _check_codec(codec, codebooks == "per-cluster", subject, d)
        self.given, self.space = codec, Widened(metric, d, _sub_vectors(codec))
        self.codec = codec
        if self.space.converts:
            self.codec = untrained({**codec.parameters(), "d": self.space.width})
        self.per_cluster = codebooks == "per-cluster"
        self.subject, self.max_train, self.seed = subject, max_train, seed
        self.trained: dict[int, Any] = {}
        self.own: list[int] = []

    def use(self, clustering: TwoLevelClustering, lists: faiss.InvertedLists) -> None:
        """Encode for the centroids of ``clustering`` and scan ``lists`` from now on."""
        self.clustering, self.lists = clustering, lists

    def of(self, cluster: int) -> Any:
        """Return the trained quantizer of a list."""
        found = self.trained.get(cluster)
        return self.trained[SHARED] if found is None else found

    # Training ------------------------------------------------------------------------------

    def train(
        self,
        x: FloatMatrix,
        homes: IdArray,
        centroids: FloatMatrix,
        progress: Callable[[int], object] | None,
    ) -> None:
        """Train on ``x`` (n, d) in the lists ``homes`` (n,); see ``MultiLevelPQ.train``."""
        order, bounds = rows_by_list(homes, len(centroids))
        enough = np.diff(bounds) >= self.codec.least_train
        own = np.flatnonzero(enough & self.per_cluster).tolist()
        trained = {}
        if len(own) < len(centroids):
            trained[SHARED] = self._train_shared(x, homes, centroids)
            if progress is not None:
                progress(1)

        def one(c: int) -> Quantizer:
            rows = order[bounds[c] : bounds[c + 1]]
            return self.codec.fresh().train(self._subjects(x, rows, homes, centroids))

        with one_thread_each() as pool:
            for c, quantizer in zip(own, pool.map(one, own), strict=True):
                trained[c] = quantizer
                if progress is not None:
                    progress(len(trained))
        self.trained, self.own = trained, own

    def _train_shared(self, x: FloatMatrix, homes: IdArray, centroids: FloatMatrix) -> Any:
        rows = sample_rows(len(x), self.max_train or len(x), self.seed)
        return self.codec.fresh().train(self._subjects(x, rows, homes, centroids))

    def _subjects(
        self, x: FloatMatrix, rows: IdArray, homes: IdArray, centroids: FloatMatrix
    ) -> FloatMatrix:
        """Return what is coded of some ``rows`` of ``x``."""
        return x[rows] - centroids[homes[rows]] if self.subject == "residuals" else x[rows]

    # Codes ---------------------------------------------------------------------------------

    @property
    def code_bytes(self) -> int:
        """Bytes of one stored code."""
        return self.codec.code_bytes

    def encode(self, x: FloatMatrix, homes: IdArray) -> Codes:
        """Return the codes (n, code_bytes) of ``x`` (n, d) in the lists ``homes`` (n,)."""
        codes = np.empty((len(x), self.code_bytes), np.uint8)

        def encode(c: int, rows: IdArray) -> None:
            subjects = self._subjects(x, rows, homes, self.clustering.inner)
            codes[rows] = self.of(c).encode(subjects)

        self._for_each(encode, self._groups(homes))
        return codes

    def _for_each(
        self, work: Callable[[int, IdArray], None], groups: list[tuple[int, IdArray]]
    ) -> None:
        """Call ``work`` for all groups. A group stays whole: some codes depend on their company."""
        for group in groups:
            work(*group)

    def decode(self, codes: Codes, homes: IdArray) -> FloatMatrix:
        """Return the vectors (n, d) that codes in the lists ``homes`` (n,) stand for."""
        decoded = np.empty((len(codes), self.codec.d), np.float32)
        for c, rows in self._groups(homes):
            decoded[rows] = self.of(c).decode(codes[rows])
        if self.subject == "residuals":
            decoded += self.clustering.inner[homes]
        return decoded

    def _groups(self, homes: IdArray) -> list[tuple[int, IdArray]]:
        """Return for each quantizer that is needed its list, or SHARED, and its rows."""
        keys = np.where(np.isin(homes, self.own), homes, SHARED)
        order, bounds = rows_by_list(keys - SHARED, self.clustering.n_inner - SHARED)
        there = np.flatnonzero(np.diff(bounds)).tolist()
        return [(key + SHARED, order[bounds[key] : bounds[key + 1]]) for key in there]

    # Searching -----------------------------------------------------------------------------

    @property
    def ranks(self) -> bool:
        """Whether ``scan_nearest`` ranks the centroids itself."""
        return False

    def scan_nearest(self, xq: FloatMatrix, k: int, nprobe: int) -> Found:
        """Return the ``k`` best codes of the ``nprobe`` nearest of all lists, as ``scan`` does.

        Only where ``ranks`` is True.
        """
        raise NotImplementedError

    def scan(self, xq: FloatMatrix, coarse: FloatMatrix, keys: IdArray, k: int) -> Found:
        """Return the ``k`` best codes of the lists ``keys`` (nq, nprobe); see ``scan_lists``."""
        centroids = self.clustering.inner
        if self.subject == "vectors":
            centroids = np.zeros_like(centroids)
        return scan_lists(xq, coarse, keys, k, self.lists, centroids, self.of, None)

    def scan_bytes(self, nq: int, nprobe: int, k: int, longest: int) -> int:
        """Return the most bytes that ``scan`` takes for so many queries; longest: of the lists."""
        merged = 36 * nprobe * k * nq
        return merged + scan_bytes(nq, nprobe, longest, self.of(0), self.by_faiss)

    def table_cost(self, sizes: IdArray) -> IdArray:
        """Count look-up tables in d-dimensional distances, (nq,) int64, as ``search_cost`` says.

        ``sizes``: (nq, nprobe) int64, of the probed lists.
        """
        tables = (sizes > 0).sum(axis=1)
        once = np.minimum(tables, 1) if self._one_table() else tables
        return once * -(-self.of(0).search_cost()["multiplications"] // self.codec.d)

    def _one_table(self) -> bool:
        """Tell whether a query's tables serve all lists."""
        return self.subject == "vectors"

    # Memory and files ----------------------------------------------------------------------

    def memory(self) -> dict[str, int]:
        """Return the bytes of what all quantizers learnt, and of what is computed in advance."""
        learnt = sum(quantizer.parameters_bytes for quantizer in self.trained.values())
        return {"codebooks": learnt, "precomputed tables": 0}

    def words(self) -> tuple[str, str]:
        """Return the arguments that make such codes, and the size of one, to be printed."""
        return f"codec={self.given!r}, code_of={self.subject!r}", f"{self.codec.bits} bits"

    def parameters(self) -> dict[str, Any]:
        """Return the arguments of ``MultiLevelPQ`` that make such codes, for a file."""
        return {"codec": self.given.parameters(), "code_of": self.subject}

    def sections(self) -> list[Section]:
        """Return what was learnt."""
        named = [("codecs", np.array(sorted(self.trained), np.int64))]
        for c in sorted(self.trained):
            quantizer = self.trained[c]
            named.append((f"codec {c}/n_train", np.array([quantizer.n_train])))
            named += [(f"codec {c}/{name}", array) for name, array in quantizer.state()]
        return [array_section(*one) for one in named]

    def restore(self, file: IndexFile, n_lists: int) -> None:
        """Take back what ``sections`` returned, for ``n_lists``, or raise ValueError."""
        held = file.read("codecs").ravel().tolist()
        known = all(c == SHARED or 0 <= c < n_lists for c in held)
        if not known or held != sorted(set(held)):
            raise ValueError(f"codecs are those of lists {held}: expected some of {n_lists} lists.")
        if SHARED not in held and len(held) < n_lists:
            raise ValueError(f"codecs are those of {len(held)} lists: expected one for all others.")
        self.trained = {}
        for c in held:
            prefix = f"codec {c}/"
            state: Mapping[str, NDArray[Any]] = {
                name.removeprefix(prefix): file.read(name)
                for name in file.names
                if name.startswith(prefix)
            }
            self.trained[c] = self.codec.fresh().restore(state, int(state["n_train"][0]))
        self.own = [c for c in held if c != SHARED]


def _sub_vectors(codec: Any) -> int:
    """Return how many equal parts a quantizer cuts vectors into: a divisor of its d."""
    parts = int(getattr(codec, "splits", getattr(codec, "m", 1)))
    return parts if codec.d % parts == 0 else 1


def _check_codec(codec: Any, per_cluster: bool, subject: str, d: int) -> None:
    """Raise where a quantizer makes no sense in inverted lists."""
    if not isinstance(codec, Quantizer):
        raise ValueError(
            f"codec={codec!r}: expected an object of pqlib.quantizers, such as "
            "ResidualQuantizer(d, m=8)."
        )
    residuals = subject == "residuals"
    for wrong, words in (
        (subject not in SUBJECTS, f"code_of={subject!r}: expected one of {SUBJECTS}."),
        (codec.d != d, f"codec has d={codec.d}: expected d={d}, the dimension of the index."),
        (
            codec.is_trained,
            f"codec={codec!r} is trained: expected an untrained one, which train() trains on "
            f"the {subject}. Pass codec.fresh().",
        ),
        (
            isinstance(codec, LocallyOptimizedPQ),
            "codec=LocallyOptimizedPQ: it has clusters of its own, and the lists are clusters "
            "already. Pass OptimizedProductQuantizer(d, m, iterations=0) with "
            "codebooks='per-cluster', which is locally optimized PQ in these lists.",
        ),
        (
            isinstance(codec, AnisotropicProductQuantizer) and residuals,
            "codec=AnisotropicProductQuantizer with code_of='residuals': it weighs errors along "
            "the vector, which a residual no longer points along. Pass code_of='vectors'.",
        ),
        (
            per_cluster and not residuals,
            "codebooks='per-cluster' with code_of='vectors': codebooks of a single list would "
            "have to code its centroid again. Pass code_of='residuals', or codebooks='shared'.",
        ),
        (
            per_cluster and isinstance(codec, RaBitQuantizer),
            "codebooks='per-cluster' with RaBitQuantizer: it learns nothing but a mean, which the "
            "residuals of every list lack, and would keep the same rotation for each list. Pass "
            "codebooks='shared'.",
        ),
    ):
        if wrong:
            raise ValueError(words)
