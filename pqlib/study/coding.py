"""What product codes lose and weigh: shared codebooks, and codebooks of each cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import faiss
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pqlib._types import FloatMatrix, IdArray
from pqlib.clustering import TwoLevelClustering, default_sizes, sample_rows, two_level_kmeans
from pqlib.datasets import Dataset
from pqlib.indexes import MultiLevelPQ
from pqlib.quantizers import ProductQuantizer, mean_squared_error
from pqlib.study.notebook import Study

Quantizers = Mapping[int, ProductQuantizer]

CLUSTER_TRAIN = 50_000  # vectors that the clusters are trained on, at most
JUDGED = 10  # held-out vectors of a cluster from which on a ratio of errors means anything


@dataclass(frozen=True)
class Parts:
    """Base vectors to train on, base vectors held out of all training, and queries.

    Attributes
    ----------
    ds : the data set
    clustering : trained on no held-out vector
    assignment : (n,) int64, the inner cluster of each base vector
    fit, held : rows of the base that may be trained on, and that may not
    x : by kind ("trained", "held out", "queries") a sample of vectors, (n, d)
    a : by kind, the inner cluster of each, (n,)
    r : by kind, the residuals, (n, d)
    variance : of the vectors trained on, around their mean
    """

    ds: Dataset
    clustering: TwoLevelClustering
    assignment: IdArray
    fit: IdArray
    held: IdArray
    x: dict[str, FloatMatrix]
    a: dict[str, IdArray]
    r: dict[str, FloatMatrix]
    variance: float

    def lost(self, vectors: FloatMatrix, decoded: FloatMatrix) -> float:
        """Return the share of the variance that is lost in ``decoded`` (n, d)."""
        return mean_squared_error(vectors, decoded) / self.variance


def split(study: Study, size: int, seed: int) -> Parts:
    """Hold out a tenth of the base, cluster the rest, and draw up to ``size`` vectors a kind."""
    ds = study.ds
    order = np.random.default_rng(seed).permutation(ds.n)
    held, fit = np.sort(order[: ds.n // 10]), np.sort(order[ds.n // 10 :])
    some = fit[sample_rows(len(fit), CLUSTER_TRAIN, seed)]
    clustering = two_level_kmeans(
        ds.train[some], study.n_inner, study.n_outer, max_train=None, seed=seed
    )
    x = {
        "trained": ds.train[fit[sample_rows(len(fit), size, seed)]],
        "held out": ds.train[held[sample_rows(len(held), size, seed)]],
        "queries": ds.test[sample_rows(ds.nq, size, seed)],
    }
    a = {kind: clustering.assign(vectors) for kind, vectors in x.items()}
    r = {kind: x[kind] - clustering.inner[a[kind]] for kind in x}
    variance = float(x["trained"].var(axis=0, dtype=np.float64).sum())
    return Parts(ds, clustering, clustering.assign(ds.train), fit, held, x, a, r, variance)


def code_sizes(d: int) -> list[int]:
    """Return numbers of sub-quantizers to try: divisors of ``d`` near 2, 4, 8, ..., up to d / 8."""
    divisors = np.array([m for m in range(1, d + 1) if d % m == 0 and (m * 8 <= d or m == 1)])
    return sorted({int(divisors[np.abs(np.log2(divisors) - i).argmin()]) for i in range(1, 7)})


def plane_errors(
    points: Mapping[str, FloatMatrix], codebooks: Mapping[str, FloatMatrix]
) -> pd.DataFrame:
    """Return what held-out points of a plane lose when replaced by their nearest centroid.

    Parameters
    ----------
    points : by kind, (n, 2)
    codebooks : by name, centroids (cells, 2)

    Returns
    -------
    DataFrame with a row for each "code": "cells" and "lost", a share of the variance
    """
    variance = float(points["trained"].var(axis=0, dtype=np.float64).sum())
    rows = []
    for name, centroids in codebooks.items():
        squared, _ = faiss.knn(points["held out"], np.ascontiguousarray(centroids), 1)
        rows.append((name, len(centroids), float(squared.mean(dtype=np.float64)) / variance))
    return pd.DataFrame(rows, columns=["code", "cells", "lost"])


def errors(parts: Parts, quantizers: Quantizers, seed: int) -> pd.DataFrame:
    """Return what codes of residuals lose, and codes of the vectors themselves.

    Parameters
    ----------
    quantizers : by m, trained on the residuals

    Returns
    -------
    DataFrame with a row for each "m", "bytes" (of the code), "coded" ("residual" or "vector") and
    kind of "vectors": "lost", a share of the variance
    """
    rows = []
    for m, quantizer in quantizers.items():
        size = quantizer.code_bytes
        for kind, residuals in parts.r.items():
            decoded = quantizer.decode(quantizer.encode(residuals))
            rows.append((m, size, "residual", kind, parts.lost(residuals, decoded)))
        direct = ProductQuantizer(parts.ds.d, m, quantizer.nbits, seed).train(parts.x["trained"])
        decoded = direct.decode(direct.encode(parts.x["held out"]))
        rows.append((m, size, "vector", "held out", parts.lost(parts.x["held out"], decoded)))
    return pd.DataFrame(rows, columns=["m", "bytes", "coded", "vectors", "lost"])


def code_use(entropies: Mapping[int, NDArray[np.float64]]) -> pd.DataFrame:
    """Return entropies (m,) by m as a row for each "m" and "sub_quantizer": "entropy_bits"."""
    rows = [(m, j + 1, bits) for m, found in entropies.items() for j, bits in enumerate(found)]
    return pd.DataFrame(rows, columns=["m", "sub_quantizer", "entropy_bits"])


# Codebooks of each cluster -----------------------------------------------------------------


def some_clusters(parts: Parts, seed: int) -> dict[str, IdArray]:
    """Return rows of the base, "trained" and "held out", that lie in clusters drawn at random.

    Clusters are drawn until they hold as many vectors to train on as shared codebooks get.
    """
    sizes = np.bincount(parts.assignment[parts.fit], minlength=parts.clustering.n_inner)
    drawn = np.random.default_rng(seed).permutation(len(sizes))
    enough = np.searchsorted(sizes[drawn].cumsum(), len(parts.x["trained"]))
    inside = np.isin(parts.assignment, drawn[: int(enough) + 1])
    return {"trained": parts.fit[inside[parts.fit]], "held out": parts.held[inside[parts.held]]}


def per_cluster(
    parts: Parts, indexes: Mapping[int, MultiLevelPQ], rows: Mapping[str, IdArray]
) -> pd.DataFrame:
    """Return the squared error of each vector, coded by codebooks of its own cluster.

    Parameters
    ----------
    indexes : by m, trained on ``rows["trained"]``
    rows : what ``some_clusters`` returned

    Returns
    -------
    DataFrame with a row for each vector and m: "m", "vectors" ("trained" or "held out"),
    "cluster", "own" (whether the cluster is large enough to train codebooks) and "squared"
    """
    sizes = np.bincount(parts.assignment[parts.fit], minlength=parts.clustering.n_inner)
    tables = []
    for m, index in indexes.items():
        for kind, chosen in rows.items():
            x, home = parts.ds.train[chosen], parts.assignment[chosen]
            gap = (x - index.decode(index.encode(x, home), home)).astype(np.float64)
            table = pd.DataFrame({"cluster": home, "own": sizes[home] >= 2**index.nbits})
            tables.append(table.assign(m=m, vectors=kind, squared=(gap**2).sum(axis=1)))
    return pd.concat(tables, ignore_index=True)


def codebook_weights(parts: Parts, codebooks: ProductQuantizer) -> pd.Series:
    """Return bytes per base vector of one set of ``codebooks``, and of one for each cluster.

    A cluster with fewer vectors than a codebook has centroids uses shared ones.
    """
    own = int((np.bincount(parts.assignment) >= codebooks.ksub).sum())
    sets = {"shared": 1, "per-cluster": own + (own < parts.clustering.n_inner)}
    return pd.Series(sets) * codebooks.parameters_bytes / parts.ds.n


def modes(parts: Parts, quantizers: Quantizers, local: pd.DataFrame) -> pd.DataFrame:
    """Return what shared codebooks and those of each cluster lose, on the same clusters.

    Parameters
    ----------
    quantizers : by m, the shared ones
    local : what ``per_cluster`` returned

    Returns
    -------
    DataFrame with a row for each mode ("codebooks"), kind of "vectors" and "m": "bytes" (of the
    code), "lost" (share of the variance), "total" (bytes per vector with the codebooks)
    """
    mean = local.groupby(["m", "vectors"], sort=False).squared.mean() / parts.variance
    rows = [("per-cluster", kind, m, lost) for (m, kind), lost in mean.items()]
    drawn = local.cluster.unique()
    for m, quantizer in quantizers.items():
        for kind in ("trained", "held out"):
            residuals = parts.r[kind][np.isin(parts.a[kind], drawn)]
            decoded = quantizer.decode(quantizer.encode(residuals))
            rows.append(("shared", kind, m, parts.lost(residuals, decoded)))
    table = pd.DataFrame(rows, columns=["codebooks", "vectors", "m", "lost"])
    table.insert(3, "bytes", [quantizers[m].code_bytes for m in table.m])
    weights = codebook_weights(parts, quantizer)
    return table.assign(total=table.bytes + table.codebooks.map(weights))


def verdict(modes: pd.DataFrame, m: int) -> dict[str, str]:
    """Say how much more or less codebooks of each cluster lose at ``m``, by kind of vectors."""
    lost = modes[modes.m == m].pivot(index="vectors", columns="codebooks", values="lost")
    change = lost["per-cluster"] / lost["shared"] - 1
    return {str(kind): f"{abs(c):.0%} {'more' if c > 0 else 'less'}" for kind, c in change.items()}


def at_equal_memory(modes: pd.DataFrame, m: int) -> str:
    """Say what shared codebooks do in the memory that those of each cluster take at ``m``."""
    held = modes[modes.vectors == "held out"].set_index("codebooks")
    own = held[held.m == m].loc["per-cluster"]
    affordable = held[held.total <= own.total].loc[["shared"]]
    best = affordable.iloc[affordable.lost.argmin()]
    longest = " (the longest tried here)" if best.m == modes.m.max() else ""
    return (
        f"But codes and codebooks take {own.total:,.1f} bytes per vector. With no more than that, "
        f"shared codebooks of {best.bytes}-byte codes{longest} take {best.total:,.1f} bytes and "
        f"lose {best.lost:.1%} on held-out vectors, per-cluster ones {own.lost:.1%}."
    )


def memorized(
    parts: Parts, quantizer: ProductQuantizer, local: pd.DataFrame, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return how much more codebooks lose on held-out residuals, by how many trained them.

    Parameters
    ----------
    quantizer : shared codebooks, trained on all of ``parts.r["trained"]``
    local : rows of ``per_cluster`` for one m

    Returns
    -------
    pooled : shared codebooks, a row for each number "trained_on": "trained" and "held_out" (shares
        of the variance lost), their "ratio" and "codebooks" ("shared")
    clusters : "cluster", "trained_on", "ratio" and "codebooks" ("per-cluster"), for clusters with
        enough held-out vectors
    """
    r, rows = parts.r, []
    sizes = [s for s in (quantizer.ksub << power for power in (1, 2, 3)) if s < len(r["trained"])]
    for size in (*sizes, len(r["trained"])):
        part = r["trained"][sample_rows(len(r["trained"]), size, seed)]
        few = quantizer
        if size < len(r["trained"]):
            few = ProductQuantizer(quantizer.d, quantizer.m, quantizer.nbits, seed).train(part)
        errors = [parts.lost(v, few.decode(few.encode(v))) for v in (part, r["held out"])]
        rows.append((size, *errors, errors[1] / errors[0]))
    pooled = pd.DataFrame(rows, columns=["trained_on", "trained", "held_out", "ratio"])
    pooled["codebooks"] = "shared"

    by = local[local.own].groupby(["cluster", "vectors"]).squared
    counts = by.size().unstack().reindex(columns=["trained", "held out"]).fillna(0).astype(int)
    means = by.mean().unstack().reindex(columns=["trained", "held out"])
    clusters = pd.DataFrame(
        {"trained_on": counts["trained"], "ratio": means["held out"] / means["trained"]}
    ).assign(codebooks="per-cluster")[(counts["held out"] >= JUDGED) & (means["trained"] > 0)]
    return pooled, clusters.reset_index().sort_values(["trained_on", "cluster"], ignore_index=True)


def weight_by_size(n: int, codebook_bytes: int, code_bytes: float) -> tuple[pd.DataFrame, float]:
    """Return what codebooks weigh per vector as the base grows: arithmetic, no measurement.

    Parameters
    ----------
    n : base vectors at hand
    codebook_bytes : of one set
    code_bytes : of a code

    Returns
    -------
    costs : "n" and bytes per vector of codebooks "shared" and "per-cluster"
    turn : base vectors at which codebooks of each cluster weigh as much as the codes
    """
    turn = (codebook_bytes / code_bytes) ** 2 / 6
    first, last = min(4, int(np.log10(n))), max(9, int(np.ceil(np.log10(turn))))
    sizes = np.unique(np.round(np.logspace(first, last, 61)).astype(np.int64))
    lists = np.array([default_sizes(int(size))[0] for size in sizes])
    shared = codebook_bytes / sizes
    return pd.DataFrame({"n": sizes, "shared": shared, "per-cluster": shared * lists}), turn
