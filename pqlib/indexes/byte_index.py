"""What ``CascadeIndex`` and ``GraphIndex`` share: codes of a byte a component, and whole vectors.

Vectors are rotated, and each of the first components is rounded to a byte. A query becomes bytes in
the same way, so that the squared distance to a code is arithmetic on small whole numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._file import IndexFile, Section, array_section
from pqlib._types import FloatMatrix
from pqlib.clustering import kmeans, sample_rows
from pqlib.indexes.base import Index
from pqlib.indexes.blocks import rows_per_block
from pqlib.indexes.kernels.batch import ByteMatrix, Loops
from pqlib.indexes.kernels.layout import LARGEST_D, MOST_COMPONENTS, ZERO, pack
from pqlib.indexes.metric import refuse_bytes
from pqlib.indexes.packed import neighbours_side_by_side
from pqlib.indexes.rotation import ROTATIONS, Rotation, scale_of
from pqlib.indexes.store import VectorStore

RERANKED = (None, "float32", "uint8")
COARSE_ITERATIONS = 10


class ByteIndex(Index):
    """An index of rotated bytes; see ``CascadeIndex`` for the parameters.

    Parameters
    ----------
    loops : of the engine

    Attributes
    ----------
    STEP : the bytes of a code are a multiple of it
    COMPONENTS : components coded, where nothing is said
    """

    STEP: ClassVar[int]
    COMPONENTS: ClassVar[int]

    def __init__(
        self,
        d: int,
        components: int | None,
        rotation: str | None,
        rerank: str | None,
        max_train: int | None,
        seed: int,
        metric: str,
        loops: Loops,
    ) -> None:
        super().__init__(d, metric)
        d = self.width
        refuse_bytes(metric, rerank)
        if components is None:
            components = min(d, self.COMPONENTS) if rotation else d
        self.components = _checks.integer(
            "components", components, 1, d, "A rotation makes no more components than d."
        )
        self.rotation = _checks.choice("rotation", rotation, ROTATIONS)
        self.rerank = _checks.choice("rerank", rerank, RERANKED)
        for wrong, words in (
            (
                rotation is None and components != d,
                f"components={components} without a rotation: expected d={d}, since the first "
                "components are no better than others. Use rotation='pca' or code all of them.",
            ),
            (
                self.components > MOST_COMPONENTS,
                f"components={components}: expected at most {MOST_COMPONENTS}, for scores to fit "
                "32 bits. Use rotation='pca' with fewer components.",
            ),
            (
                rerank == "uint8" and d > LARGEST_D,
                f"d={d} with rerank='uint8': expected at most {LARGEST_D}, for distances to fit "
                "32 bits. Use rerank='float32'.",
            ),
        ):
            if wrong:
                raise ValueError(words)
        self.max_train = None if max_train is None else _checks.integer("max_train", max_train, 1)
        self.seed = _checks.seed(seed)
        self._loops = loops

    @property
    def engine(self) -> str:
        """Which implementation runs: "native" or "portable"."""
        return str(self._loops.module.NAME)

    @property
    def _width(self) -> int:
        """Bytes of a code as it is laid out."""
        return -(-self.components // self.STEP) * self.STEP

    # Learning ------------------------------------------------------------------------------

    def _sample(self, xt: FloatMatrix) -> FloatMatrix:
        """Return those of checked vectors that are trained on."""
        rows = sample_rows(len(xt), self.max_train or len(xt), self.seed)
        return xt if len(rows) == len(xt) else xt[rows]

    def _learn_bytes(self, sample: FloatMatrix, axes: FloatMatrix | None) -> FloatMatrix:
        """Learn rotation and scale; return the sample, rotated and centred: (n, width)."""
        self._turn = Rotation.learn(sample, self.rotation, self.components, self._width, axes)
        rotated = self._turn.apply(sample) - self._turn.center
        self._scale = scale_of(rotated)
        if self.space.converts:
            # Queries lie elsewhere than vectors then, and have to fit the bytes too.
            asked = self.space.queries(self.space.outside(sample))
            asked = self._turn.apply(asked) - self._turn.center
            self._scale = min(self._scale, scale_of(asked))
        return rotated

    def _cluster(self, rotated: FloatMatrix, count: int) -> None:
        """Find so many centroids."""
        found = kmeans(rotated, count, niter=COARSE_ITERATIONS, seed=self.seed)
        self._set_centroids(found.centroids[neighbours_side_by_side(found.centroids)])

    def _set_centroids(self, centroids: FloatMatrix) -> None:
        self._centroids, center = np.ascontiguousarray(centroids), np.zeros_like(centroids[0])
        codes, _ = self._loops.quantize(self._centroids, center, self._scale)
        self._coarse = pack(codes, np.array([0, len(centroids)], np.int64))

    # Vectors and queries -------------------------------------------------------------------

    def _kept(self, xb: FloatMatrix) -> NDArray[Any]:
        """Return vectors (n, width of the space) as they are kept whole; (n, 0): not at all."""
        if self.rerank is None:
            return np.empty((len(xb), 0), np.uint8)
        whole = VectorStore.kinds[self.rerank](self.width).convert(xb)
        # They are put in order later; until then the array is the caller's.
        return xb.copy() if whole is xb and not self.space.converts else whole

    def _rotated(self, xb: FloatMatrix) -> Iterator[tuple[slice, FloatMatrix, ByteMatrix]]:
        """Yield rows of ``xb`` block by block: which they are, rotated, and as codes."""
        step = rows_per_block(4 * (self.width + self._width))
        for start in range(0, len(xb), step):
            part = slice(start, start + step)
            rotated = self._turn.apply(xb[part])
            yield part, rotated, self._loops.quantize(rotated, self._turn.center, self._scale)[0]

    def _asked(self, xq: FloatMatrix) -> tuple[ByteMatrix, NDArray[np.int32]]:
        """Return queries as bytes (nq, width), and what their scores lack (nq,)."""
        rotated = self._turn.apply(xq)
        # NaN and infinity go through the product; looking at that is cheaper than at the queries.
        if not np.isfinite(rotated).all():
            _checks.vectors("xq", xq, self.width, large=True)
        return self._loops.quantize(rotated, self._turn.center, self._scale)

    def _whole_queries(self, xq: FloatMatrix) -> NDArray[Any]:
        """Return queries as they are compared with whole vectors."""
        return self._loops.to_bytes(xq) if self.rerank == "uint8" else xq

    def _distances(
        self,
        bits: NDArray[np.int32],
        offsets: NDArray[np.int32],
        vectors: NDArray[Any],
        missing: NDArray[np.bool_] | None,
    ) -> FloatMatrix:
        """Return the distances (nq, k) of ``bits``; inf where ``missing``."""
        if self.rerank is None:
            half = bits.astype(np.float64) + offsets[:, None]
            distances = np.maximum(2 * half / float(self._scale) ** 2, 0).astype(np.float32)
        else:
            whole_numbers = vectors.dtype == np.uint8
            distances = bits.astype(np.float32) if whole_numbers else bits.view(np.float32)
        if missing is not None:
            distances[missing] = np.inf
        return distances

    # Files ---------------------------------------------------------------------------------

    def _byte_sections(self) -> list[Section]:
        return [
            *self._turn.sections(),
            array_section("scale", np.array([self._scale], np.float32)),
            array_section("centroids", self._centroids),
        ]

    def _restore_bytes(self, file: IndexFile, count: int | None) -> None:
        """Take back what ``_byte_sections`` wrote, with so many centroids; None: any number."""
        self._turn = Rotation.of_file(file, self.width, self._width, self.rotation is None)
        scale = file.read("scale", "<f4", (1,))
        centroids = file.read("centroids", "<f4", (count, self._width))
        if not (np.isfinite(scale).all() and np.isfinite(centroids).all() and len(centroids)):
            raise file.refuse("its scale or centroids are not finite")
        self._scale = np.float32(scale[0])
        self._set_centroids(centroids)


def signed(codes: NDArray[np.uint8]) -> ByteMatrix:
    """Return codes kept as c + 128 as the numbers c."""
    return (codes ^ np.uint8(ZERO)).view(np.int8)
