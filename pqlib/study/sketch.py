"""The sketch, the first draft of this study: its search, its choices, and what it got wrong."""

from __future__ import annotations

from collections.abc import Mapping

import faiss
import numpy as np
import pandas as pd

from pqlib import evaluation
from pqlib._types import FloatMatrix, IdArray
from pqlib.clustering import TwoLevelClustering, two_level_kmeans
from pqlib.datasets import Dataset
from pqlib.indexes import MultiLevelPQ
from pqlib.quantizers import ProductQuantizer, mean_squared_error

N_INNER, N_OUTER, NBITS, SAMPLE = 100, 10, 8, 50_000
"""What the sketch took for every data set; SAMPLE: vectors for k-means."""

TIE_TOLERANCE = 1e-5  # of a squared distance, which both searches sum in float32


def sketch_search(index: MultiLevelPQ, k: int, xq: FloatMatrix) -> tuple[FloatMatrix, IdArray]:
    """Search as the sketch did: one list a query, a Python loop over its codes.

    The only loop over codes in this package: it is what is measured. ``index`` is filled, without
    ids of its own; ``xq`` is (nq, d) float32. Returns squared distances (nq, k) float32, ascending,
    and ids (nq, k) int64: inf and -1 where the list holds fewer.
    """
    distances = np.full((len(xq), k), np.inf, np.float32)
    ids = np.full((len(xq), k), -1, np.int64)
    for row, query in enumerate(xq):
        cluster = int(index.clustering.probe(query[None], 1)[1][0, 0])
        positions, codes = index.list_content(cluster)
        if len(positions) == 0:
            continue
        quantizer = index.quantizer(cluster)
        table = quantizer.distance_table((query - index.clustering.inner[cluster])[None])[0]
        sums = []
        for code in quantizer.unpack(codes):
            sums.append(sum(table[j][code[j]] for j in range(quantizer.m)))
        best = np.argsort(sums, kind="stable")[:k]
        distances[row, : len(best)] = np.array(sums)[best]
        ids[row, : len(best)] = positions[best]
    return distances, ids


def check_same_answers(index: MultiLevelPQ, xq: FloatMatrix, ids: IdArray, other: IdArray) -> None:
    """Raise RuntimeError where ``ids`` and ``other`` (nq, k) differ by more than ties.

    An id that only one of the two has must lie as far from the query, by its code and in float64,
    as the last of ``ids``.
    """
    for query, one, two in zip(xq, ids, other, strict=True):
        found = [set(map(int, row[row >= 0])) for row in (one, two)]
        differing = found[0] ^ found[1]
        same = len(found[0]) == len(found[1])
        if differing and same:
            members = np.array(sorted(found[0] | found[1]))
            gap = index.reconstruct(members).astype(np.float64) - query
            distance = dict(zip(members.tolist(), (gap**2).sum(axis=1), strict=True))
            last = max(distance[i] for i in found[0])
            residual = index.clustering.probe(query[None], 1)[0][0, 0]
            allowed = TIE_TOLERANCE * max(last, float(residual))
            same = all(abs(distance[i] - last) <= allowed for i in differing)
        if not same:
            raise RuntimeError(
                "the sketch's search and the index with per-cluster codebooks found different "
                f"neighbours of a query: {sorted(found[1])} and {sorted(found[0])}. One of the "
                "two is wrong, and their times cannot be compared."
            )


def numpy_search(base: FloatMatrix, k: int, xq: FloatMatrix) -> IdArray:
    """Return the ids (nq, k) of the nearest by one NumPy pass over the base for each query."""
    passes = [np.argpartition(((base - query) ** 2).sum(axis=1), k)[:k] for query in xq]
    return np.array(passes)


class Sketch:
    """What the sketch chose for a data set, and what follows from its choices.

    ``seed`` is of its clustering (the sketch had none); ``other`` is taken for the sketch's own
    clustering where it has as many clusters. Raises ValueError when there are fewer than 100 base
    vectors.

    Attributes
    ----------
    m : sub-quantizers, the largest of 8, 4, 2 and 1 that divides d
    threshold : residuals that a cluster had to hold, m * 2**nbits, to be product-quantized
    sizes : vectors in each inner cluster, (N_INNER,)
    skipped : clusters below the threshold
    sampled, trained_on : vectors given to k-means, and those that faiss used of them
    memory : bytes of the parts of the index that the sketch meant, and of the raw vectors
    numpy_queries : compared with the whole base in NumPy: 100 as there, fewer of a large base
    """

    def __init__(self, ds: Dataset, seed: int = 0, other: TwoLevelClustering | None = None) -> None:
        if ds.n < N_INNER:
            raise ValueError(
                f"{ds.name} has {ds.n} base vectors: expected at least {N_INNER}, one for each of "
                "the sketch's clusters. Use more of the data set."
            )
        if other is None or (other.n_inner, other.n_outer) != (N_INNER, N_OUTER):
            other = two_level_kmeans(ds.train, N_INNER, N_OUTER, seed=seed)
        self.ds, self.seed = ds, seed
        self.m = next(m for m in (8, 4, 2, 1) if ds.d % m == 0)
        self.threshold = self.m << NBITS
        self.sizes = np.bincount(other.assign(ds.train), minlength=N_INNER)
        self.skipped = int((self.sizes < self.threshold).sum())
        self.sampled = min(SAMPLE, ds.n)
        limit = faiss.ClusteringParameters().max_points_per_centroid
        self.trained_on = min(limit * N_INNER, self.sampled)
        self.memory = {
            "codes": ds.n * self.m * NBITS // 8,
            "codebooks": N_INNER * ds.d * 4 << NBITS,
            "centroids": (N_INNER + N_OUTER) * ds.d * 4,
            "ids": 8 * ds.n,
            "raw float32 vectors": 4 * ds.n * ds.d,
        }
        self.numpy_queries = min(100, ds.nq, max(10, int(6e9 / (ds.n * ds.d))))

    def findings(self) -> list[str]:
        """Say what the sketch did not notice: what trained, what was coded, what it weighed."""
        size = {part: held / 1e6 for part, held in self.memory.items()}
        largest = self.sizes.max()
        verdict = (
            "So its PQ search was brute force over the whole base, and the recall of 1.000 that it "
            "reported said nothing about product codes."
            if self.skipped == N_INNER
            else "Only the others had product codes to search."
        )
        weighed = (
            f"It counted {size['codes']:.2f} MB of codes, and neither {size['codebooks']:.1f} MB "
            f"of codebooks nor ids and centroids, nor the {size['raw float32 vectors']:.0f} MB of "
            "raw float32 vectors that its k-means index scanned."
        )
        if self.ds.whole_numbers:
            lossless = self.ds.n * self.ds.d
            more = "more" if self.memory["codebooks"] > lossless else "less"
            weighed += (
                f" The codebooks alone take {more} than all vectors as lossless uint8, "
                f"{lossless / 1e6:.0f} MB."
            )
        return [
            f"Of {self.sampled:,} vectors given to k-means, faiss used {self.trained_on:,} without "
            "a word: it has a limit for each centroid.",
            f"The threshold is {self.threshold:,} residuals; the clusters hold "
            f"{self.sizes.mean():,.0f} on average, {largest:,} at most. **{self.skipped} of "
            f"{N_INNER} were skipped.** {verdict}",
            weighed,
            self._other_bits(),
        ]

    def _other_bits(self) -> str:
        """Say why 4 and 16 bits failed: packed bytes taken for sub-codes, too few residuals."""
        some = self.ds.train[:2000]
        four = ProductQuantizer(self.ds.d, self.m, 4, seed=self.seed).train(some)
        packed = four.encode(some)
        return (
            f"With 4 bits two sub-codes share a byte: {self.m} take {packed.shape[1]} bytes. The "
            "sketch used the byte to index a table of 16 entries, which has no place for "
            f"{(packed > 15).mean():.0%} of them. With 16 bits a codebook needs 65,536 residuals, "
            f"and the largest cluster holds {self.sizes.max():,}."
        )

    def claims(self, k: int, codes: IdArray, lists: IdArray, three: IdArray) -> pd.DataFrame:
        """Return what the sketch stated, and what is true of it on this data set, as text.

        ``codes`` (nq, k) int64 are the ids that product codes find in one list, ``lists`` and
        ``three`` those that k-means search finds in one list and in three.
        """
        recall, flat, loose = (
            f"{evaluation.recall_at_k(ids, self.ds, k):.3f}" for ids in (codes, lists, three)
        )
        size = {part: held / 1e6 for part, held in self.memory.items()}
        positional = float((codes == self.ds.neighbors[: len(codes), :k]).mean())
        meant = size["codes"] + size["codebooks"] + size["centroids"] + size["ids"]
        own = size["centroids"] + size["ids"]
        coded = str(N_INNER - self.skipped)
        rows = [
            ("vectors that trained k-means", f"{self.sampled:,}", f"{self.trained_on:,}"),
            ("clusters searched with product codes", str(N_INNER), coded),
            (f"recall@{k} reported as PQ; of product codes in one list", "1.000", recall),
            (
                f"recall@{k} of product codes in one list, by position; by set",
                f"{positional:.3f}",
                recall,
            ),
            ("PQ index that it meant, MB", f"{size['codes']:.2f}", f"{meant:.2f}"),
            ("k-means index, MB", f"{own:.2f}", f"{own + size['raw float32 vectors']:.2f}"),
            (
                f"recall@{k} of k-means search: in its three lists; in one, as for PQ",
                loose,
                flat,
            ),
        ]
        if self.skipped < N_INNER:
            del rows[2]  # some clusters had codes: its recall is not known
        return pd.DataFrame(rows, columns=["what", "as the sketch counted", "as measured here"])


def codebook_errors(
    ds: Dataset, indexes: Mapping[str, MultiLevelPQ], seed: int = 0
) -> pd.DataFrame:
    """Return the error of codes on base vectors, which trained the codebooks, and on queries.

    Relative to the mean squared residual of each, as queries may lie farther from the centroids. At
    most 10,000 base vectors are drawn, and 2,000 queries taken. A row for each index, by name:
    "trained", "not trained" and the "ratio" of the two.
    """
    sample = np.random.default_rng(seed).choice(ds.n, size=min(ds.n, 10_000), replace=False)
    rows = {}
    for name, index in indexes.items():
        errors = []
        for x in (ds.train[sample], ds.test[:2000]):
            home = index.clustering.assign(x)
            residual = ((x - index.clustering.inner[home]) ** 2).sum(axis=1).mean()
            error = mean_squared_error(x, index.decode(index.encode(x, home), home))
            errors.append(error / float(residual))
        rows[name] = (*errors, errors[1] / errors[0])
    return pd.DataFrame.from_dict(rows, "index", columns=["trained", "not trained", "ratio"])
