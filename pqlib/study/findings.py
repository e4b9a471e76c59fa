"""What the tables of ``pqlib.study.knobs`` say, in sentences of Markdown."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from pqlib import evaluation
from pqlib.quantizers import ProductQuantizer
from pqlib.study.sensitivity import MODES, Study, at_no_more_memory


def measured(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Print why some rows of a sweep were not run, named by ``columns``; return the others."""
    missing = table[table["status"] != "ok"]
    for row in missing.to_dict("records"):
        print(", ".join(f"{name} {row[name]}" for name in columns) + f": {row['reason']}")
    return table[table["status"] == "ok"]


def at_equal_work(inner: pd.DataFrame, k: int) -> str:
    """Say with how many inner clusters recall is highest at equal work, between the points."""
    curves = {c: rows.sort_values("nprobe") for c, rows in inner.groupby("n_inner")}
    least = max(rows["distance_computations"].min() for rows in curves.values())
    most = min(rows["distance_computations"].max() for rows in curves.values())
    work = float(np.sqrt(least * most))
    recall = pd.Series(
        {
            c: np.interp(np.log(work), np.log(rows["distance_computations"]), rows["recall"])
            for c, rows in curves.items()
        }
    )
    size = inner.groupby("n_inner")["bytes_per_vector"].first()
    return (
        f"At about {work:,.0f} distance computations a query (between measured points), recall@{k} "
        f"is highest, {recall.max():.3f}, with {recall.idxmax():,} inner clusters and lowest, "
        f"{recall.min():.3f}, with {recall.idxmin():,}. From {min(curves):,} to {max(curves):,} "
        f"clusters the index grows from {size.iloc[0]:.1f} to {size.iloc[-1]:.1f} bytes per "
        "vector: centroids and precomputed tables."
    )


def second_level(outer: pd.DataFrame) -> str:
    """Say what the outer level saves of the distances to centroids, at nearly the same lists."""
    flat, work = outer["flat_recall"].iloc[0], outer["flat_distances"].iloc[0]
    enough = outer[outer["recall"] >= flat - 0.01]
    if len(enough) and enough["centroid_distances"].min() < work:
        best = enough.loc[enough["centroid_distances"].idxmin()]
        return (
            f"Within 0.01 of flat probing's {flat:.3f}, the cheapest routing compares "
            f"{best['centroid_distances']:.0f} centroids instead of {work:.0f} "
            f"({best['n_outer']:.0f} outer clusters, {best['nprobe_outer']:.0f} probed)."
        )
    return (
        f"No routing tried here comes within 0.01 of flat probing's {flat:.3f} with fewer than its "
        f"{work:.0f} centroid distances: with so few inner clusters the second level does not pay."
    )


def best_codes(codes: pd.DataFrame, k: int) -> str:
    """Say which code finds most, and what codebooks per cluster gain at equal size."""
    codes = codes[codes["status"] == "ok"]
    best = codes.loc[codes["recall"].idxmax()]
    said = [
        f"Highest recall@{k} of these codes: {best['recall']:.3f}, {best['codebooks']} codebooks, "
        f"m = {best['m']}, {best['nbits']} bits, {best['bytes_per_vector']:,.0f} bytes per vector "
        "in all."
    ]
    both = codes.pivot_table("recall", ["m", "nbits"], "codebooks").dropna()
    if set(MODES) <= set(both.columns) and len(both):
        gain = both["per-cluster"] - both["shared"]
        said.append(
            f"At equal code size, per-cluster codebooks change recall by {gain.min():+.3f} to "
            f"{gain.max():+.3f}."
        )
    shared = codes[codes["codebooks"] == "shared"]
    compared = at_no_more_memory(codes[codes["codebooks"] == "per-cluster"], shared)
    if len(compared):
        wins = int((compared["gain"].isna() | (compared["gain"] > 0)).sum())
        said.append(
            f"At no more total memory, {wins} of {len(compared)} per-cluster codes beat every "
            f"shared code tried here, the longest of which has {shared['code_bytes'].max():.0f} "
            "bytes."
        )
    return " ".join(said)


def sixteen_bits(study: Study) -> str:
    """Estimate how long 16-bit codebooks would train, from one small codebook's timing."""
    ds, small = study.ds, study.ds.train[:2048]
    start = time.perf_counter()
    ProductQuantizer(ds.d, study.m, 8, seed=study.seed).train(small)
    rate = ProductQuantizer.training_cost(len(small), ds.d, 8) / (time.perf_counter() - start)
    least, advised = (ProductQuantizer.training_cost(n << 16, ds.d, 16) for n in (1, 39))
    return (
        f"At {rate:.1e} multiplications per second, 16-bit codebooks take about "
        f"{least / rate / 60:,.1f} minutes to train on 65,536 vectors, one for each centroid, and "
        f"{advised / rate / 3600:,.1f} hours on the 39 for each that faiss asks for."
    )


def ranking(shares: pd.DataFrame) -> str:
    """Say which knob explains most of recall, work and memory."""
    recall, work, memory = (
        shares[shares["response"] == name].reset_index(drop=True)
        for name in ("recall", "work", "memory")
    )
    first, second, last = (recall.iloc[place] for place in (0, min(1, len(recall) - 1), -1))
    return (
        f"For recall, *{first['factor']}* matters most here: {first['total']:.0%} of the variance "
        f"with its interactions, {first['main']:.0%} alone; then *{second['factor']}* with "
        f"{second['total']:.0%}. Least: *{last['factor']}* with {last['total']:.0%}. For work it "
        f"is *{work['factor'][0]}*, for memory *{memory['factor'][0]}*."
    )


def pays_from(paired: pd.DataFrame) -> str:
    """Say from which cluster size on codebooks per cluster pay, a line for each number of bits."""
    said = []
    for bits, rows in paired.dropna(subset=["gain"]).groupby("nbits"):
        begins = evaluation.pays_from(rows["vectors_per_cluster"], rows["gain"])
        largest = rows["vectors_per_cluster"].max()
        pay = f"pay from about {begins:,.0f} vectors per cluster on (between measured points)"
        if begins == -np.inf:
            pay = "pay at every size tried"
        elif np.isinf(begins):
            pay = f"do not pay at the largest size tried, {largest:,.0f} vectors per cluster"
        said.append(f"- {bits} bits: codebooks per cluster {pay}.")
    return "\n".join(said)
