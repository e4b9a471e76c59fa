"""The benchmark: our index beside faiss's, in one run, over the same centroids and codebook.

What is compared, and how, is said at ``bench``; ``make bench`` runs it and writes the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pqlib import _checks, evaluation
from pqlib.clustering import default_sizes, two_level_kmeans
from pqlib.datasets import Dataset
from pqlib.indexes import MultiLevelPQ
from pqlib.study.bench_methods import (
    LOCAL,
    RIVAL,
    SHARED,
    SKETCH,
    Entry,
    Steps,
    make_tables,
    our_entries,
    rival_entry,
    rival_index,
    sketch_entry,
)
from pqlib.study.rates import matmul_rate, speeds
from pqlib.study.shared import checked_counts, checked_k, mean_cost, shown

__all__ = ["LOCAL", "RIVAL", "SHARED", "SKETCH", "Bench", "bench", "default_parameters"]

NPROBES = (1, 10)
"""Lists probed, where the caller names none."""

SIZES = {"fashion-mnist": (100, 10, 8), "bsds-sift": (256, 16, 16)}
"""(n_inner, n_outer, m) of the data sets that are compared from one version to the next."""


@dataclass(frozen=True)
class Bench:
    """What one run measured: the tables of ``bench.csv``, ``bench_training.csv`` and
    ``bench_profile.csv``, and name, sizes and machine.

    A step of ``training`` has no "vectors" where none went through it.
    """

    methods: pd.DataFrame
    training: pd.DataFrame
    profile: pd.DataFrame
    parameters: dict[str, Any]


def default_parameters(name: str, n: int) -> tuple[int, int, int | None]:
    """Return ``(n_inner, n_outer, m)`` for the data set ``name`` of ``n`` base vectors.

    Those of ``SIZES``, else ``default_sizes(n)`` and None, the index's own choice of m.
    """
    return SIZES[name] if name in SIZES else (*default_sizes(n), None)


def bench(
    ds: Dataset,
    *,
    n_inner: int | None = None,
    n_outer: int | None = None,
    m: int | None = None,
    nbits: int = 8,
    k: int = 10,
    nprobes: Sequence[int] | None = None,
    rerank_factor: int = 8,
    repeats: int = 9,
    latency_queries: int = 500,
    sketch_queries: int = 20,
    matrix_size: int = 2048,
    seed: int = 0,
    progress: bool = True,
) -> Bench:
    """Measure ``MultiLevelPQ`` beside faiss's ``IndexIVFPQ`` on all of ``ds``, in one run.

    All methods search lists of the same two-level clustering. The rival has the centroids and
    the shared codebook of ``MultiLevelPQ(codebooks="shared")`` and its own precomputed tables,
    and encodes the base itself. Batch calls are repeated interleaved, so that whatever else the
    machine does falls on all alike; single calls are one method after the other.

    The sketch's search runs on a few queries, over the index with per-cluster codebooks, and
    must find what that index finds.

    The profile takes the search with per-cluster codebooks apart: ranking the centroids, the
    residuals and tables alone, and the search, all timed apart; "rest_ms" is the search less the
    two. Multiplications, look-ups and the bytes of codebooks are counted, d * 2**nbits for each
    probed list that is not empty. Beside them stand what they would take at the rate of a product
    of two float32 matrices in NumPy, and of reading memory on one thread.

    Parameters
    ----------
    n_inner, n_outer, m : None: those of ``default_parameters``; n_outer of a given n_inner is
        its square root
    nprobes : lists probed; None: those of ``NPROBES`` that n_inner allows
    rerank_factor : rerank_factor * k candidates get exact distances
    latency_queries, sketch_queries : queries of the single calls and of the sketch, at most
    matrix_size : rows and columns of the matrices multiplied for the profile

    Raises ValueError when an argument is out of range, or the base is too small for the codebooks,
    RuntimeError when the sketch's search and the index disagree.
    """
    given, given_outer, given_m = default_parameters(ds.name, ds.n)
    if n_inner is not None:
        given, given_outer = n_inner, max(1, round(max(n_inner, 1) ** 0.5))
    n_inner = _checks.integer("n_inner", given, 1, ds.n, "A list needs a vector.")
    n_outer = _checks.integer(
        "n_outer", given_outer if n_outer is None else n_outer, 1, n_inner, "See n_inner."
    )
    m, nbits = _checks.product_quantizer_shape(ds.d, given_m if m is None else m, nbits)
    k = checked_k(ds, k)
    if nprobes is None:
        nprobes = [p for p in NPROBES if p <= n_inner]
    hint = f"There are n_inner={n_inner} lists to probe."
    nprobes = [_checks.integer("nprobes", p, 1, n_inner, hint) for p in nprobes]
    if len(set(nprobes)) != len(nprobes) or not nprobes:
        raise ValueError(f"nprobes={nprobes}: expected at least one number, each once.")
    checked_counts(
        rerank_factor=rerank_factor,
        repeats=repeats,
        latency_queries=latency_queries,
        sketch_queries=sketch_queries,
        matrix_size=matrix_size,
    )

    with shown(None, "building", progress, total=11) as bar:
        steps = Steps(bar)
        with steps("clustering", "both levels", ds.n):
            clustering = two_level_kmeans(ds.train, n_inner, n_outer, seed=seed)
        with steps("assignment", "base to lists", ds.n):
            assignment = clustering.assign(ds.train)
        store = "uint8" if ds.whole_numbers else "float32"
        options: dict[str, Any] = {"m": m, "nbits": nbits, "rerank": store, "seed": seed}
        indexes = {}
        for method, codebooks in ((SHARED, "shared"), (LOCAL, "per-cluster")):
            index = MultiLevelPQ(ds.d, n_inner, n_outer, codebooks=codebooks, copy=False, **options)
            with steps("codebooks", method, ds.n):
                index.train(ds.train, clustering)
            with steps("encoding", method, ds.n):
                index.encode(ds.train, assignment)
            with steps("add", method, ds.n):
                index.add(ds.train)
            indexes[method] = index
        with steps("precomputed tables", RIVAL, None):
            rival = rival_index(indexes[SHARED])
        with steps("add", RIVAL, ds.n):
            rival.add(ds.train)

    entries: list[Entry] = []
    for p in nprobes:
        entries.append(rival_entry(rival, indexes[SHARED], ds, k, p, steps))
        entries += our_entries(indexes, ds, k, p, rerank_factor, steps)
        if p == 1:
            like = next(entry for entry in entries if entry.method == LOCAL)
            entries.append(sketch_entry(indexes[LOCAL], like, k, sketch_queries))

    calls: dict[str, Callable[[], object]] = {
        entry.name: partial(entry.search, entry.queries) for entry in entries
    }
    for p in nprobes:
        _, keys = clustering.probe(ds.test, p)
        calls[f"probing {p}"] = partial(clustering.probe, ds.test, p)
        calls[f"tables {p}"] = partial(make_tables, indexes[LOCAL], ds.test, keys)
    timings = evaluation.time_calls(calls, repeats, progress=progress).set_index("name")
    own = timings.loc[[entry.name for entry in entries]]
    methods = _methods_table(entries, own, ds, k, latency_queries, progress)
    # Last, as NumPy's threads spin on for a while and would take the processor from the others.
    bound = matmul_rate(matrix_size, repeats, seed, "median_s", progress)
    reading = _reading_rate(repeats, progress)
    profile = _profile_table(indexes[LOCAL], ds, timings, methods, bound, reading)
    training = pd.DataFrame(steps.rows).astype({"vectors": "Int64"})
    parameters = {
        "dataset": ds.name,
        "n": ds.n,
        "d": ds.d,
        "queries": ds.nq,
        "n_inner": n_inner,
        "n_outer": n_outer,
        "m": m,
        "nbits": nbits,
        "k": k,
        "rerank": indexes[LOCAL].rerank,
        "rerank_factor": rerank_factor,
        "repeats": repeats,
        "seed": seed,
        "own_codebooks": n_inner - indexes[LOCAL].n_shared_clusters,
        **evaluation.machine(),
    }
    return Bench(methods, training, profile, parameters)


def _reading_rate(repeats: int, progress: bool) -> float:
    """Return the bytes a second that one thread reads from memory, far beyond any cache."""
    array = np.ones(1 << 26, np.float32)
    timings = evaluation.time_calls({"reading": array.max}, repeats, progress=progress)
    return array.nbytes / float(timings.median_s[0])


# The tables --------------------------------------------------------------------------------


def _methods_table(
    entries: Sequence[Entry],
    timings: pd.DataFrame,
    ds: Dataset,
    k: int,
    latency_queries: int,
    progress: bool,
) -> pd.DataFrame:
    rows = []
    for entry in shown(entries, "single queries", progress):
        rows.append(
            {
                "method": entry.method,
                "nprobe": entry.nprobe,
                "nprobe_outer": entry.nprobe_outer,
                "queries": len(entry.queries),
                "rival": RIVAL,
                f"recall@{k}": evaluation.recall_at_k(entry.search(entry.queries)[1], ds, k),
                "distance_computations": entry.work,
                "bytes_per_vector": entry.bytes_per_vector,
                **evaluation.single_query_latency(entry.search, entry.queries, latency_queries),
                "build_s": entry.build_s,
            }
        )
    table = pd.DataFrame(rows).astype({"nprobe_outer": "Int64"})
    table = table.join(speeds(table.queries, timings.reset_index(drop=True)))
    # The rival is measured once for each nprobe, in this run.
    rival = table[table.method == RIVAL].set_index("nprobe")
    table["ratio"] = table.qps / table.nprobe.map(rival.qps)
    table["p50_ratio"] = table.p50_ms / table.nprobe.map(rival.p50_ms)
    about = ["method", "nprobe", "nprobe_outer", "queries"]
    compared = ["qps", "qps_min", "qps_max", "rival", "ratio", f"recall@{k}"]
    size = ["distance_computations", "bytes_per_vector"]
    return table[[*about, *compared, *size, "p50_ms", "p95_ms", "p99_ms", "p50_ratio", "build_s"]]


def _profile_table(
    index: MultiLevelPQ,
    ds: Dataset,
    timings: pd.DataFrame,
    methods: pd.DataFrame,
    bound: float,
    reading: float,
) -> pd.DataFrame:
    """Return the profile.

    ``bound``: multiply-adds a second of a matrix product; ``reading``: bytes a second from memory.
    """
    own = methods[methods.method == LOCAL].reset_index(drop=True)
    table = own[["method", "nprobe", "queries"]].copy()
    options = [{"nprobe": p, "rerank": False} for p in table.nprobe]
    costs = pd.DataFrame([mean_cost(index, ds.test, 1, how) for how in options])
    table["multiplications"] = ds.d * costs.tables
    table["lookups"] = index.m * costs.codes
    for column, call in {
        "probing": "probing",
        "tables": "tables",
        "search": f"{LOCAL}, nprobe",
    }.items():
        names = [f"{call} {p}" for p in table.nprobe]
        table[f"{column}_ms"] = 1e3 * timings.median_s[names].to_numpy()
    products = ds.nq * table.multiplications
    table["rest_ms"] = table.search_ms - table.probing_ms - table.tables_ms
    table["tables_gmadds_per_s"] = 1e-6 * products / table.tables_ms
    table["matmul_gmadds_per_s"] = 1e-9 * bound
    table["tables_bound_ms"] = 1e3 * products / bound
    table["codebook_bytes"] = 4 * table.multiplications
    table["p50_ms"] = own.p50_ms
    table["reading_ms"] = 1e3 * table.codebook_bytes / reading
    table["memory_gb_per_s"] = 1e-9 * reading
    return table
