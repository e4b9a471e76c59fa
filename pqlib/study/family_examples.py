"""Examples of single members of the family: toys in the plane, rotations, inner products, lists."""

from __future__ import annotations

from functools import partial
from typing import Any

import faiss
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pqlib import quantizers as q
from pqlib._types import FloatMatrix
from pqlib.indexes import MultiLevelPQ
from pqlib.study.family import NBITS, Family, K, numbers_of, recall
from pqlib.study.shared import clocked


def clouds(seed: int = 0) -> FloatMatrix:
    """Return vectors of two components in fifteen clouds, on a grid that is turned, (6000, 2)."""
    rng = np.random.default_rng(seed)
    turn = np.array([[np.cos(0.5), np.sin(0.5)], [-np.sin(0.5), np.cos(0.5)]])
    grid = np.stack(np.meshgrid(np.arange(5) * 2.0, np.arange(3) * 2.0), axis=-1).reshape(-1, 2)
    points = grid[rng.integers(len(grid), size=6000)] + 0.2 * rng.standard_normal((6000, 2))
    return (points @ turn).astype(np.float32)


def lost(quantizer: q.Quantizer, x: FloatMatrix) -> float:
    """Return the mean squared error of ``x`` (n, d) over its spread around the mean."""
    spread = q.mean_squared_error(x, np.broadcast_to(x.mean(axis=0), x.shape))
    return q.mean_squared_error(x, quantizer.decode(quantizer.encode(x))) / spread


def representable(quantizer: q.Quantizer) -> FloatMatrix:
    """Return every vector that a code of a small quantizer can stand for, (codes, d).

    Raises ValueError when there are more than 65,536 codes.
    """
    if quantizer.bits > 16:
        raise ValueError(f"{quantizer!r} has {quantizer.bits} bits: expected at most 16.")
    if isinstance(quantizer, q.LocallyOptimizedPQ):
        numbers = np.arange(1 << quantizer.m * quantizer.nbits)
        columns = [numbers >> (j * quantizer.nbits) for j in range(quantizer.m)]
        inner = np.stack(columns, axis=1) & ((1 << quantizer.nbits) - 1)
        packed = faiss.pack_bitstrings(inner.astype(np.int32), quantizer.nbits)
        parts = []
        for c in range(quantizer.n_clusters):
            head = np.full((len(packed), 1), c, "<u2").view(np.uint8)
            parts.append(np.concatenate([head, packed], axis=1))
        return quantizer.decode(np.concatenate(parts))
    every = np.arange(1 << quantizer.bits, dtype="<u2")[:, None].view(np.uint8)
    return quantizer.decode(np.ascontiguousarray(every[:, : quantizer.code_bytes]))


def look_ups_against_distances(quantizer: q.CompositeQuantizer, family: Family) -> dict[str, float]:
    """Return what ranking by look-ups alone costs a composite quantizer: ``08_composite.csv``.

    "deviation" is the standard deviation of the inner products of codewords with each other, summed
    over a code, over the mean squared norm of decoded vectors (less their mean).
    """
    codes = quantizer.encode(family.base)
    s = quantizer.offsets(codes).astype(np.float64)
    y = quantizer.decode(codes) - quantizer.mean
    recalls = []
    for exact in (False, True):
        found = quantizer.scan(family.queries, codes, K, exact=exact)[1]
        recalls.append(recall(found, family.neighbors))
    return {
        "deviation": float(s.std() / (y.astype(np.float64) ** 2).sum(axis=1).mean()),
        "recall_10": recalls[0],
        "recall_10_exact": recalls[1],
    }


def inner_products(family: Family, m: int, thresholds: tuple[float, ...]) -> pd.DataFrame:
    """Compare product codes for inner products: anisotropic ones by threshold, and plain ones.

    All vectors are scaled to length 1; the truth is the K largest inner products. The table is that
    of ``08_inner_products.csv``; the plain product quantizer has no threshold.
    """

    def unit(x: FloatMatrix) -> FloatMatrix:
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        return np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)

    train, base, queries = unit(family.train), unit(family.base), unit(family.queries)
    truth = faiss.knn(queries, base, K, faiss.METRIC_INNER_PRODUCT)[1]
    d = base.shape[1]
    rows = []
    for threshold in (None, *thresholds):
        quantizer = (
            q.ProductQuantizer(d, m, NBITS, family.seed)
            if threshold is None
            else q.AnisotropicProductQuantizer(d, m, NBITS, threshold, seed=family.seed)
        )
        _, seconds = clocked(partial(quantizer.train, train))
        decoded = quantizer.decode(quantizer.encode(base))
        found = faiss.knn(queries, decoded, K, faiss.METRIC_INNER_PRODUCT)[1]
        scaled = faiss.knn(queries, unit(decoded), K, faiss.METRIC_INNER_PRODUCT)[1]
        lengths = np.linalg.norm(decoded, axis=1)
        r = (base - decoded).astype(np.float64)
        along = np.einsum("ij,ij->i", r, base) ** 2
        rows.append(
            {
                "threshold": threshold,
                "ratio": getattr(quantizer, "ratio", 1.0),
                "recall_10": recall(found, truth),
                "recall_10_unit": recall(scaled, truth),
                "parallel": float(along.mean()),
                "orthogonal": float(((r**2).sum(axis=1) - along).mean()),
                "length": float(lengths.mean()),
                "length_found": float(lengths[found].mean()),
                "train_s": seconds,
            }
        )
    return pd.DataFrame(rows).astype({"threshold": float})


def learnt(done: pd.DataFrame, curves: pd.Series, family: Family) -> dict[str, NDArray[np.float64]]:
    """Return the errors of training by iteration, at 64 bits, over the spread of the vectors."""
    return {
        row.method: np.array(curves[row.Index]) / family.spread
        for row in done[done.budget == 64].itertuples()
        if row.method in ("PQ", "OPQ", "CQ") and len(curves[row.Index]) > 1
    }


def rotations(family: Family) -> pd.DataFrame:
    """Compare ways to rotate in each of four clusters, on 3,000 vectors.

    A row for each "way": rotations "kept", and errors on the vectors "trained" on and on "others",
    over those without rotations.
    """
    train, others = family.train[:3000], family.base[:2000]
    rows = []
    ways: dict[str, dict[str, Any]] = {
        "no rotation": dict(rotate=False),
        "parametric, where better": dict(iterations=0),
        "alternating": dict(iterations=4),
    }
    for way, how in ways.items():
        made = q.LocallyOptimizedPQ(family.ds.d, None, 6, n_clusters=4, seed=family.seed, **how)
        made.train(train)
        errors = [q.mean_squared_error(x, made.decode(made.encode(x))) for x in (train, others)]
        rows.append({"way": way, "kept": made.n_rotated, "trained": errors[0], "others": errors[1]})
    table = pd.DataFrame(rows).set_index("way")
    for column in ("trained", "others"):
        table[column] = (table[column] / table[column]["no rotation"]).round(3)
    return table


def in_lists(family: Family) -> pd.DataFrame:
    """Measure members of the family as codes in the lists of ``MultiLevelPQ``: ``08_lists.csv``."""
    d, m = family.ds.d, numbers_of(family.ds.d)
    rows = []
    codes: dict[str, dict[str, Any]] = {
        "PQ": dict(codec=q.ProductQuantizer(d, m, 8)),
        "OPQ": dict(codec=q.OptimizedProductQuantizer(d, m, 8, iterations=5)),
        "RVQ": dict(codec=q.ResidualQuantizer(d, m, 8, progressive=False)),
        "CQ": dict(codec=q.CompositeQuantizer(d, m, 8, iterations=8)),
        "OPQ of vectors": dict(
            codec=q.OptimizedProductQuantizer(d, m, 8, iterations=5), code_of="vectors"
        ),
        "LOPQ, 6 bits": dict(
            codec=q.OptimizedProductQuantizer(d, m, 6, iterations=0), codebooks="per-cluster"
        ),
    }
    for name, how in codes.items():
        index = MultiLevelPQ(d, 20, 4, seed=family.seed, **how)
        index.train(family.train).add(family.base)
        found = index.search(family.queries, K, nprobe=5)[1]
        rows.append(
            {
                "method": name,
                "bits": index.quantizer(0).bits,
                "recall_10": recall(found, family.neighbors),
                "bytes_per_vector": index.bytes_per_vector,
            }
        )
    return pd.DataFrame(rows)


def checks(done: pd.DataFrame, looked: dict[str, float], small: bool) -> pd.Series:
    """Return what must hold on any machine, and whether it does.

    ``done`` has the rows that were run, ``looked`` is of ``look_ups_against_distances``; ``small``
    says that vectors are too few for sums of codewords to lose less on others.
    """
    unseen = done[done.budget == 64].set_index("method").error_unseen
    # Where 8 numbers do not divide d, there are no product codes of 64 bits to compare with.
    better = [n for n in (("OPQ",) if small else ("OPQ", "CQ")) if {n, "PQ"} <= set(unseen.index)]
    found = {f"{name} loses less than PQ": unseen[name] < unseen["PQ"] for name in better}
    found["products of codewords are nearly constant in CQ"] = looked["deviation"] <= 0.01
    found["look-ups alone lose at most half a point"] = (
        looked["recall_10"] >= looked["recall_10_exact"] - 0.005
    )
    found["product codes of more bits lose less"] = all(
        own.sort_values("budget").error_unseen.is_monotonic_decreasing
        for _, own in done[done.method.isin(["PQ", "OPQ", "LOPQ"])].groupby("method")
    )
    return pd.Series({name: bool(value) for name, value in found.items()})
