"""Cosine similarity and inner product, by vectors whose Euclidean distance ranks alike.

Inner product: with M no less than any |x|, let x' = [x, sqrt(M^2 - |x|^2)] and q' = [q, 0]. Then
|q' - x'|^2 = |q|^2 + M^2 - 2 <q, x>, so that the nearest x' has the largest product (Bachrach et
al., "Speeding up the Xbox recommender system using a Euclidean transformation for inner-product
spaces", RecSys 2014, section 3.2). It is exact, and whatever an index does for Euclidean distances,
it then does for products.

Cosine similarity: all vectors are scaled to unit length and M = 1. The added component is 0 then,
but for a zero vector, where it is 1: its similarity to everything is 0. A zero query has similarity
0 to everything too. ``faiss.IndexFlatIP`` over normalized vectors has the same rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._file import IndexFile, Section, array_section
from pqlib._metric import METRICS, norms, unit
from pqlib._types import FloatMatrix

SLACK = 1.05
"""M over the largest norm trained on, for vectors added later.

More of it costs product codes their precision: of 40,000 photo-sift descriptors of unit length
times lognormal norms (200 lists, 16 bytes, 16 probed), recall@10 is 0.62 with 1.0, 0.64 with 1.05
and 0.60 with 1.25; of a Gaussian mixture with such norms 0.82 to 0.83 with each.
"""

STRETCH = 2.0
"""Length of a query inside, over M: it changes no order of products.

It weighs products against the norms of decoded vectors, which should all be M and are not quite. In
the measurement of ``SLACK``, recall@10 is 0.36 with 0.3, 0.62 with 1, 0.64 with 2, 0.62 with 4 and
0.59 with 64. faiss's ``IndexIVFPQ`` of inner products, with as many lists, bytes and probes, has
0.50 on these descriptors (0.69 here, when trained on half of them) and 0.74 on the mixture (0.82);
it is ahead where a single list of the mixture is probed, 0.71 against 0.63. Under cosine, where
lengths are 1, photo-sift has 0.70 (faiss 0.54), and 2 would give 0.69.
"""


class Space:
    """Vectors as an index compares them, and what it returns: here the vectors themselves.

    As they are for "l2" and "ip", of unit length for "cosine" (zero vectors stay zero). This is
    for an index that computes products itself; ``Widened`` is for those that compute distances.

    Parameters
    ----------
    metric : one of ``METRICS``
    d : dimension of the vectors

    Attributes
    ----------
    width : dimension inside
    """

    def __init__(self, metric: str, d: int) -> None:
        self.metric = _checks.choice("metric", metric, METRICS)
        self.d = self.width = _checks.integer("d", d, 1)

    @property
    def converts(self) -> bool:
        """Whether what is inside differs from what is outside."""
        return self.metric == "cosine"

    def learn(self, xt: FloatMatrix) -> None:
        """Take from training vectors (n, d) what ``base`` needs to know."""

    def base(self, xb: FloatMatrix) -> FloatMatrix:
        """Return vectors (n, d) as they are inside, (n, width), never in place."""
        return unit(xb) if self.metric == "cosine" else xb

    def queries(self, xq: FloatMatrix) -> FloatMatrix:
        """Return queries (nq, d) as they are inside, (nq, width), never in place."""
        return self.base(xq)

    def outside(self, x: FloatMatrix) -> FloatMatrix:
        """Return vectors inside (n, width) as vectors (n, d), under cosine those of unit length."""
        return x

    def values(self, distances: FloatMatrix, xq: FloatMatrix) -> FloatMatrix:
        """Return what users get for what was computed inside, (nq, k), of queries ``xq``."""
        return distances

    def query_bytes(self, nq: int) -> int:
        """Return the most bytes that so many queries and their values take inside."""
        return 20 * self.width * nq if self.converts else 0

    def sections(self) -> list[Section]:
        """Return what a file keeps."""
        return []

    def restore(self, file: IndexFile) -> None:
        """Take back what ``sections`` returned."""


class Widened(Space):
    """Vectors with an added component, whose Euclidean distances rank as the similarities do.

    Parameters
    ----------
    metric, d : see ``Space``; for "l2" nothing is added
    groups : equal parts that the index cuts vectors into, a divisor of d. Each gets a component,
        which is zero but in the last one, so that the others are cut where they were
    """

    def __init__(self, metric: str, d: int, groups: int = 1) -> None:
        super().__init__(metric, d)
        self.groups = _checks.integer("groups", groups, 1)
        if self.converts:
            self.width = self.d + self.groups
        self.largest = 1.0

    @property
    def converts(self) -> bool:
        """Whether what is inside differs from what is outside."""
        return self.metric != "l2"

    def learn(self, xt: FloatMatrix) -> None:
        """Take M from training vectors (n, d)."""
        if self.metric == "ip":
            self.largest = SLACK * float(norms(xt).max()) or 1.0

    def base(self, xb: FloatMatrix) -> FloatMatrix:
        """Return vectors (n, d) with the added component: (n, width).

        Raises
        ------
        ValueError
            When the norm of one is above M.
        """
        if not self.converts:
            return xb
        lengths = norms(xb)
        if self.metric == "cosine":
            return self._laid_out(unit(xb, lengths), lengths == 0)
        row = int(lengths.argmax())
        if lengths[row] > self.largest:
            raise ValueError(
                f"xb[{row}] has norm {lengths[row]:.6g}: expected at most {self.largest:.6g}, "
                f"which is {SLACK} times the largest that metric='ip' was trained with. Train a "
                "new index with this vector among the training vectors, or scale all vectors."
            )
        # As a product, which keeps digits where the norm is close to M.
        rest = (self.largest - lengths) * (self.largest + lengths)
        return self._laid_out(xb, np.sqrt(rest))

    def _laid_out(self, x: FloatMatrix, added: NDArray[Any]) -> FloatMatrix:
        inside = np.zeros((len(x), self.groups, self.d // self.groups + 1), np.float32)
        inside[:, :, :-1] = x.reshape(len(x), self.groups, -1)
        inside[:, -1, -1] = added
        return inside.reshape(len(x), self.width)

    def queries(self, xq: FloatMatrix) -> FloatMatrix:
        """Return queries (nq, d) of length 1 (cosine) or STRETCH * M (ip), zero ones as they are.

        With the added component, which is zero: (nq, width).
        """
        if not self.converts:
            return xq
        lengths = norms(xq) / self._reach
        return self._laid_out(unit(xq, lengths), np.zeros(len(xq)))

    @property
    def _reach(self) -> float:
        """The length of queries inside."""
        return STRETCH * self.largest if self.metric == "ip" else 1.0

    def outside(self, x: FloatMatrix) -> FloatMatrix:
        """Return vectors inside (n, width) without the added component, (n, d)."""
        if not self.converts:
            return x
        parts = x.reshape(len(x), self.groups, -1)[:, :, :-1]
        return np.ascontiguousarray(parts.reshape(len(x), self.d))

    def values(self, distances: FloatMatrix, xq: FloatMatrix) -> FloatMatrix:
        """Return the similarities of squared distances (nq, k) inside; -inf for inf.

        Descending where distances ascend. A zero query has similarity 0 to everything.
        """
        if not self.converts:
            return distances
        lengths = norms(xq)[:, None]
        if self.metric == "cosine":
            lengths = (lengths > 0).astype(np.float64)
        missing = np.isinf(distances)
        half = np.where(missing, 0, distances).astype(np.float64) / (2 * self._reach)
        level = (self._reach + self.largest**2 / self._reach) / 2
        found = (lengths * (level - half)).astype(np.float32)
        found[missing] = -np.inf
        return found

    def query_bytes(self, nq: int) -> int:
        """Return the most bytes that so many queries take inside, while they are made."""
        return 24 * self.width * nq if self.converts else 0

    def sections(self) -> list[Section]:
        """Return M, for "ip"."""
        return [array_section("norm", np.array([self.largest]))] if self.metric == "ip" else []

    def restore(self, file: IndexFile) -> None:
        """Take back M, or raise where no training gives it."""
        if self.metric == "ip":
            self.largest = float(file.read("norm", "<f8", (1,))[0])
            if not 0 < self.largest < float(np.finfo(np.float32).max) ** 0.5:
                raise file.refuse(f"its largest norm is {self.largest}")


def refuse_bytes(metric: str, rerank: Any) -> None:
    """Raise ValueError where whole vectors would be kept in bytes, which hold no other metric."""
    if rerank == "uint8" and metric != "l2":
        raise ValueError(
            f"rerank='uint8' with metric={metric!r}: expected 'float32' or None, since vectors are "
            "scaled or widened inside and are no whole numbers then. Use rerank='float32'."
        )
