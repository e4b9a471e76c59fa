"""What compressing embeddings costs: neighbours found, and the task that they are found for.

Every way to compress is scored by exhaustive search over its codes, so that nothing but the code
counts. Recall asks whether the neighbours of the whole vectors are found. The task asks whether the
right answer is, for data sets that name one (``pqlib.datasets.embedded``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import faiss
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pqlib import evaluation
from pqlib import quantizers as q
from pqlib._metric import unit
from pqlib._types import FloatMatrix, IdArray
from pqlib.clustering import kmeans, sample_rows
from pqlib.datasets import Dataset
from pqlib.datasets.truth import exact_neighbors
from pqlib.indexes import CascadeIndex
from pqlib.indexes.kernels.layout import MOST_COMPONENTS
from pqlib.indexes.rotation import principal_axes
from pqlib.study.shared import clocked, shown
from pqlib.tuning import tune

QUERIES, TRAINED = 1000, 20_000
"""Queries that ways to compress are tried with, and vectors that train them, at most."""
FOUND = 100
"""Neighbours that a search returns: the reciprocal rank of a right answer behind is 0."""
RERANKED = 100
"""Candidates of binary signs that are put in order again."""

BEST = {"recall": "most_found", "rr": "best_rr"}
"""Columns that say which ways are the best of their share, but for chance, by a measure."""

Search = Callable[[FloatMatrix, FloatMatrix, int], tuple[IdArray, float]]
"""Compresses a base (n, d), searches it with queries (nq, d), returns ids (nq, FOUND) and the bytes
of what all vectors share."""


@dataclass(frozen=True)
class Way:
    """A way to compress: a method of a kind, the bytes of a vector, and how it searches."""

    method: str
    bytes: int
    search: Search


def ways(d: int) -> list[Way]:
    """Return the ways to compress vectors of dimension ``d``, each method by falling bytes."""
    signs = -(-d // 8)
    found = [
        Way("float32", 4 * d, _whole(np.float32)),
        Way("float16", 2 * d, _whole(np.float16)),
        Way("int8", d, _quantized(lambda: q.ScalarQuantizer(d, 8))),
        Way("int4", -(-d // 2), _quantized(lambda: q.ScalarQuantizer(d, 4))),
        Way("signs", signs, partial(_signs, reranked=0)),
        Way("signs, re-ranked by int8", signs + d, partial(_signs, reranked=RERANKED)),
        Way("RaBitQ", q.RaBitQuantizer(d).code_bytes, _rabitq),
    ]
    for part in (2, 4, 8, 16, 32):
        m = d // part
        if m < 4:
            continue
        found += [
            Way("first dimensions", m, partial(_fewer, kept=m, pca=False)),
            Way("PCA", m, partial(_fewer, kept=m, pca=True)),
        ]
        if part < 32 and m <= MOST_COMPONENTS:
            found.append(Way("cascade's codes", m, partial(_cascade, kept=m)))
        if part > 2 and d % m == 0:
            turned = partial(q.OptimizedProductQuantizer, d, m, iterations=0, start="parametric")
            found += [
                Way("PQ", m, _quantized(partial(q.ProductQuantizer, d, m))),
                Way("OPQ", m, _quantized(turned)),
            ]
        if part >= 16 and d % (splits := max(1, d // 64)) == 0 and m % splits == 0:
            sums = partial(q.ProductResidualQuantizer, d, m, splits=splits, progressive=False)
            found.append(Way("PRQ", m, _quantized(partial(sums, beam=2, encode_beam=4))))
    return sorted(found, key=lambda way: (way.method, -way.bytes))


# How each searches -------------------------------------------------------------------------


def _whole(dtype: Any) -> Search:
    def search(base: FloatMatrix, queries: FloatMatrix, seed: int) -> tuple[IdArray, float]:
        return _nearest(base.astype(dtype).astype(np.float32), queries), 0.0

    return search


def _quantized(make: Callable[[], q.Quantizer]) -> Search:
    def search(base: FloatMatrix, queries: FloatMatrix, seed: int) -> tuple[IdArray, float]:
        quantizer = make().train(base[sample_rows(len(base), TRAINED, seed)])
        codes = quantizer.encode(base)
        return quantizer.scan(queries, codes, min(FOUND, len(base)))[1], quantizer.parameters_bytes

    return search


def _rabitq(base: FloatMatrix, queries: FloatMatrix, seed: int) -> tuple[IdArray, float]:
    """Rank by RaBitQ's estimates, as products: a decoded vector has the estimated product.

    The same as ``RaBitQuantizer.scan``, and faster for many queries at once.
    """
    quantizer = q.RaBitQuantizer(base.shape[1], seed).train(base)
    mean = base.mean(axis=0, dtype=np.float64).astype(np.float32)
    decoded = quantizer.decode(quantizer.encode(base)) - mean
    norms = ((base - mean) ** 2).sum(axis=1, keepdims=True)
    asked = np.hstack([2 * (queries - mean), -np.ones((len(queries), 1), np.float32)])
    stored = np.hstack([decoded, norms])
    k = min(FOUND, len(base))
    ids = faiss.knn(asked, stored, k, metric=faiss.METRIC_INNER_PRODUCT)[1]
    return ids, quantizer.parameters_bytes


def _signs(
    base: FloatMatrix, queries: FloatMatrix, seed: int, reranked: int
) -> tuple[IdArray, float]:
    """Compare signs by Hamming distance; where asked for, re-rank the first by int8 vectors."""
    bits = [np.packbits(x > 0, axis=1) for x in (base, queries)]
    index = faiss.IndexBinaryFlat(8 * bits[0].shape[1])
    index.add(bits[0])
    found = index.search(bits[1], min(max(FOUND, reranked), len(base)))[1]
    if not reranked:
        return found, 0.0
    scalar = q.ScalarQuantizer(base.shape[1], 8).train(base)
    stored = scalar.decode(scalar.encode(base))
    pairs = zip(found, queries, strict=True)
    gaps = np.stack([((stored[row] - xq) ** 2).sum(axis=1) for row, xq in pairs])
    order = np.argsort(gaps, axis=1, kind="stable")
    return np.take_along_axis(found, order, 1), scalar.parameters_bytes


def _fewer(
    base: FloatMatrix, queries: FloatMatrix, seed: int, kept: int, pca: bool
) -> tuple[IdArray, float]:
    """Keep ``kept`` dimensions, a byte each: the first as they come, or principal ones."""
    shared = 0.0
    if pca:
        mean = base.mean(axis=0, dtype=np.float64)
        axes = principal_axes(base, mean, kept)
        base, queries = base @ axes, queries @ axes
        shared = axes.nbytes
    else:
        base, queries = (unit(np.ascontiguousarray(x[:, :kept])) for x in (base, queries))
    ids, more = _quantized(lambda: q.ScalarQuantizer(kept, 8))(base, queries, seed)
    return ids, shared + more


def _cascade(
    base: FloatMatrix, queries: FloatMatrix, seed: int, kept: int
) -> tuple[IdArray, float]:
    index = CascadeIndex(base.shape[1], 1, kept, rerank=None, seed=seed).train(base).add(base)
    ids = index.search(queries, min(FOUND, len(base)), 1, min(FOUND, len(base)))[1]
    shared = {part: held for part, held in index.memory().items() if part != "codes"}
    return ids, sum(shared.values())


def _nearest(base: FloatMatrix, queries: FloatMatrix) -> IdArray:
    return faiss.knn(queries, base, min(FOUND, len(base)))[1]


# What is measured ----------------------------------------------------------------------------


def answers(ids: IdArray, right: IdArray) -> dict[str, NDArray[np.float64]]:
    """Return of each query whether its right answer was found, (nq,) each.

    Parameters
    ----------
    ids : (nq, R) int64, what was found, nearest first
    right : (nq,) int64, the right answer; -1: there is none

    Returns
    -------
    dict
        "first": 1 where it comes first; "ten": among the first ten; "rr": one over its rank, 0
        where it was not found
    """
    hit = (ids == right[:, None]) & (right >= 0)[:, None]
    rank = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0, np.inf)
    return {"first": (rank == 1) * 1.0, "ten": (rank <= 10) * 1.0, "rr": 1 / rank}


def fewer_queries(ds: Dataset, most: int = QUERIES) -> tuple[Dataset, IdArray]:
    """Return a data set with at most so many of its queries, evenly taken, and their rows."""
    rows = np.unique(np.linspace(0, ds.nq - 1, min(most, ds.nq)).astype(np.int64))
    less = {name: getattr(ds, name)[rows] for name in ("test", "neighbors", "distances")}
    return replace(ds, **less), rows


class Compression:
    """A data set, its right answers, and what ways to compress it find; each is tried once.

    Attributes
    ----------
    found : ids (nq, FOUND) that each way found, by (method, bytes)
    each : the measures of each query (nq,), by (method, bytes) and measure
    """

    def __init__(self, ds: Dataset, right: IdArray | None, k: int = 10, seed: int = 0) -> None:
        self.ds, self.right, self.k, self.seed = ds, right, k, seed
        self.found: dict[tuple[str, int], IdArray] = {}
        self.each: dict[tuple[str, int], dict[str, NDArray[np.float64]]] = {}
        self._rows: dict[tuple[str, int], dict[str, Any]] = {}

    def measure(self, way: Way) -> dict[str, Any]:
        """Compress, search, and return a row of ``09_ways.csv``, see results/README.md."""
        key, ds = (way.method, way.bytes), self.ds
        if key not in self._rows:
            (ids, shared), seconds = clocked(lambda: way.search(ds.train, ds.test, self.seed))
            each = {"recall": evaluation.query_recall(ids, ds, self.k)}
            if self.right is not None:
                each |= answers(ids, self.right)
            self.found[key], self.each[key] = ids, each
            self._rows[key] = {
                "method": way.method, "bytes": way.bytes, "shared_bytes": shared / ds.n,
                "seconds": seconds, **self._means(each),
            }  # fmt: skip
        return self._rows[key]

    def run(self, progress: bool = True) -> pd.DataFrame:
        """Measure all ways; return a row each."""
        with shown(ways(self.ds.d), "ways to compress", progress) as bar:
            table = pd.DataFrame([self.measure(way) for way in bar])
        table["share"] = [2 ** int(math.log2(4 * self.ds.d / size)) for size in table.bytes]
        for measure, column in BEST.items():
            if measure in table:
                table[column] = self._tied(table, measure)
        return table.sort_values(["bytes", "recall"], ascending=False, ignore_index=True)

    def _tied(self, table: pd.DataFrame, measure: str) -> list[bool]:
        """Return of each way whether it is the best of its "share", but for chance.

        0 is then in the 95% interval of what it loses against the best, on the same queries.
        """
        best = table.loc[table.groupby("share")[measure].idxmax()].set_index("share")
        tied = []
        for row in table.itertuples():
            most = best.loc[row.share]
            more = self.each[most.method, most.bytes][measure]
            gap = more - self.each[row.method, row.bytes][measure]
            tied.append(bool(evaluation.bootstrap_interval(gap, seed=self.seed)[0] <= 0))
        return tied

    def lost(self) -> pd.DataFrame:
        """Return what each way loses against float32, on the same queries.

        A row a way: "method", "bytes", and for each measure what is lost, ``_low`` and ``_high``
        the 95% interval of the mean difference.
        """
        whole = self.each["float32", 4 * self.ds.d]
        ordered = sorted(self.each.items(), key=lambda item: (item[0][0], -item[0][1]))
        return pd.DataFrame(
            {
                "method": method,
                "bytes": size,
                **self._means({name: whole[name] - values for name, values in each.items()}),
            }
            for (method, size), each in ordered
        )

    def _means(self, each: dict[str, NDArray[np.float64]]) -> dict[str, float]:
        """Return the mean of each measure (nq,), and its 95% interval as ``_low`` and ``_high``."""
        row: dict[str, float] = {}
        for name, values in each.items():
            low, high = evaluation.bootstrap_interval(values, seed=self.seed)
            row |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
        return row


# What embeddings are like ------------------------------------------------------------------


def character(ds: Dataset, most: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Return what vectors are like, of at most ``most`` base vectors, in numbers.

    "mean_share": squared length of the mean over the mean squared length, what all vectors share;
    "components_50", "components_90": principal components that hold so much of the variance;
    "intrinsic_dimension" and "relative_contrast": see ``pqlib.evaluation``; "hubness": skewness of
    how often a vector is among the 10 nearest of others, and "never": the share that never is
    (Radovanovic, Nanopoulos, Ivanovic, "Hubs in space", JMLR 2010).
    """
    rng = np.random.default_rng(seed)
    x = ds.train if ds.n <= most else ds.train[np.sort(rng.choice(ds.n, most, replace=False))]
    mean = x.mean(axis=0, dtype=np.float64)
    share = variance_held(x)
    near, ids = faiss.knn(x, x, 101)
    # A vector is its own nearest; where it has duplicates, one of them may stand first.
    others = ids[:, 1:11]
    times = np.bincount(others.ravel(), minlength=len(x)).astype(np.float64)
    lengths = np.einsum("ij,ij->i", x, x, dtype=np.float64)
    return {
        "dataset": ds.name,
        "n": len(x),
        "d": ds.d,
        "mean_share": float(mean @ mean / lengths.mean()),
        "components_50": int((share < 0.5).sum() + 1),
        "components_90": int((share < 0.9).sum() + 1),
        "intrinsic_dimension": evaluation.intrinsic_dimension(np.sqrt(np.maximum(near[:, 1:], 0))),
        "relative_contrast": evaluation.relative_contrast(ds),
        "hubness": float(((times - times.mean()) ** 3).mean() / times.std() ** 3),
        "never": float((times == 0).mean()),
    }


def variance_held(x: FloatMatrix) -> NDArray[np.float64]:
    """Return the share of the variance of ``x`` (n, d) in its first principal components, (d,)."""
    centred = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    variances = np.linalg.eigvalsh((centred.T @ centred).astype(np.float64) / len(x))[::-1]
    return np.cumsum(np.maximum(variances, 0)) / np.maximum(variances, 0).sum()


def spread_over_lists(ds: Dataset, k: int = 10, seed: int = 0) -> pd.DataFrame:
    """Return how far neighbours are spread over inverted lists.

    k-means with about sqrt(n) lists, of the whole vectors. A row a number of lists: "dataset",
    "of" (queries, or vectors of the base), "share" of the base in the nearest lists, "found": the
    share of the ``k`` true neighbours in them.
    """
    rng = np.random.default_rng(seed)
    n_lists = max(1, round(ds.n**0.5))
    centroids = kmeans(ds.train[sample_rows(ds.n, 20_000, seed)], n_lists, niter=10, seed=seed)
    homes = faiss.knn(ds.train, centroids.centroids, 1)[1][:, 0]
    sizes = np.bincount(homes, minlength=n_lists)
    own = np.sort(rng.choice(ds.n, min(QUERIES, ds.n), replace=False))
    near, _ = exact_neighbors(ds.train, ds.train[own], min(k + 1, ds.n), progress=False)
    others = np.stack([row[row != i][:k] for row, i in zip(near, own, strict=True)])
    base = replace(ds, test=ds.train[own], neighbors=others)
    tables = []
    for of, part in (("queries", fewer_queries(ds)[0]), ("vectors of the base", base)):
        keys = faiss.knn(part.test, centroids.centroids, n_lists)[1]
        found = evaluation.routing_recall(part, k, keys, homes)
        share = np.cumsum(sizes[keys], axis=1).mean(axis=0) / ds.n
        tables.append(pd.DataFrame({"share": share, "found": found}).assign(dataset=ds.name, of=of))
    return pd.concat(tables, ignore_index=True)


def to_centroids(ds: Dataset, seed: int = 0) -> pd.DataFrame:
    """Return distances to the nearest of about sqrt(n) centroids: "of" what, and "distance".

    Of queries, and of as many vectors of the base, held back from the training of the centroids.
    """
    rng = np.random.default_rng(seed)
    back = np.sort(rng.choice(ds.n, min(ds.nq, ds.n // 4), replace=False))
    rest = np.delete(ds.train, back, axis=0)
    found = kmeans(rest, max(1, round(ds.n**0.5)), niter=10, seed=seed).centroids
    tables = [
        pd.DataFrame(
            {"of": of, "distance": np.sqrt(np.maximum(faiss.knn(x, found, 1)[0][:, 0], 0))}
        )
        for of, x in (("queries", ds.test), ("held-back vectors of the base", ds.train[back]))
    ]
    return pd.concat(tables, ignore_index=True)


def promises(
    ds: Dataset, recalls: Sequence[float], k: int, budget_s: float, seed: int = 0
) -> tuple[pd.DataFrame, str]:
    """Return what ``tune`` promises and keeps, calibrated with vectors of the base or for a shift.

    A row a recall asked for and a calibration: "asked", "calibrated" (with what), "promised" (the
    recall measured in tuning), "low", "high" (its interval of new queries), "kept" (recall of the
    queries that no tuning has looked at), "kept_low", "kept_high" (its interval), "qps" in tuning.
    And the report of the last one.
    """
    rows, report = [], ""
    # With a single query no shift is looked for: the base is all that tune can go by.
    blind = replace(
        ds, test=ds.test[:1], neighbors=ds.neighbors[:1], distances=ds.distances[:1]
    )  # fmt: skip
    for asked in recalls:
        seeing = tune(ds, asked, k, budget_s=budget_s, seed=seed, progress=False)
        shift = seeing.shift
        assert shift is not None
        unseen = np.delete(np.arange(ds.nq), shift.rows)
        words = "a sample of the queries" if shift.unlike else "the base: no shift seen"
        before = tune(blind, asked, k, budget_s=budget_s, seed=seed, progress=False)
        for calibrated, tuned in (("vectors of the base", before), (words, seeing)):
            ids = tuned.index.search(ds.test, k)[1]
            each = evaluation.query_recall(ids, ds, k)[unseen]
            low, high = tuned.interval
            kept = evaluation.bootstrap_interval(each, seed=seed)
            rows.append(
                {
                    "asked": asked, "calibrated": calibrated, "promised": tuned.best.recall,
                    "low": low, "high": high, "kept": float(each.mean()), "kept_low": kept[0],
                    "kept_high": kept[1], "qps": tuned.best.qps,
                }
            )  # fmt: skip
        report = seeing.report()
    return pd.DataFrame(rows), report


def components(ds: Dataset) -> pd.DataFrame:
    """Return the share of the variance that the first principal components hold.

    A row a component: "dataset", "component", its share of d, and "variance", cumulated.
    """
    held = variance_held(ds.train[:20_000])
    count = np.arange(1, ds.d + 1)
    return pd.DataFrame(
        {"dataset": ds.name, "component": count, "share": count / ds.d, "variance": held}
    )


SHOWN = ("method", "bytes", "recall", "first", "ten", "rr", "shared_bytes")
"""Columns of the table of ways that a reader needs."""
LOST = ("method", "bytes", "recall", "recall_low", "recall_high", "rr", "rr_low", "rr_high")
"""The same of what is lost."""


def quantiles(distances: pd.DataFrame) -> pd.DataFrame:
    """Return the quantiles of "distance", a row for each "of" and "quantile"."""
    grouped = distances.groupby("of", sort=False)["distance"]
    table = grouped.quantile([i / 20 for i in range(21)])
    return table.rename_axis(["of", "quantile"]).reset_index()


def checks(ways: pd.DataFrame) -> None:
    """Print what must hold for any vectors, True or False each."""
    recall = ways.set_index(["method", "bytes"]).recall
    gains = recall.sort_index().groupby("method").diff().dropna()
    print("float32 finds all:", bool(recall["float32"].iloc[0] == 1))
    print("float16 finds all but 1% at most:", bool(recall["float16"].iloc[0] > 0.99))
    print("more bytes of a method find no less (by 0.01):", bool((gains > -0.01).all()))
    print(
        "re-ranking mends signs:",
        bool(recall.filter(like="signs, re").max() > recall["signs"].max()),
    )
