"""Runs the benchmark for a data set and writes its tables and its figure."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pqlib.study.bench import LOCAL, RIVAL, Bench, bench
from pqlib.study.pipeline import text
from pqlib.study.pipeline.measuring import Files, measure
from pqlib.study.pipeline.steps import Layout
from pqlib.study.pipeline.text import aligned, section
from pqlib.study.plots import bench as plots


def run_bench(layout: Layout, dataset: str, **parameters: Any) -> int:
    """Measure ``dataset``, print the tables, write them and the figure; return the exit status.

    Written are bench.csv, bench_training.csv, bench_profile.csv and bench.txt in
    ``results/<label>/`` and bench in ``figures/<label>/``; see
    ``pqlib.study.pipeline.measuring.measure``. ``parameters`` go to
    ``pqlib.study.bench.bench``.
    """
    return measure(layout, dataset, "bench", lambda ds: bench(ds, **parameters), report, _files)


def _files(measured: Bench) -> Files:
    facts = {name: measured.parameters[name] for name in ("n_inner", "n_outer", "m", "nbits")}
    tables = {
        "bench": measured.methods.assign(**facts),
        "bench_training": measured.training,
        "bench_profile": measured.profile,
    }
    figure = plots.speed_and_latency(measured.methods, RIVAL, measured.parameters["k"])
    return tables, {"bench": figure}


def report(measured: Bench) -> str:
    """Return what was measured as text: aligned tables with what their columns mean."""
    facts, methods, profile = measured.parameters, measured.methods, measured.profile
    machine = text.facts_of(facts, ("cpu", "cores", "simd", "blas", "python", "faiss", "numpy"))
    head = [
        f"{facts['dataset']}: {facts['n']:,} base vectors of dimension {facts['d']}, "
        f"{facts['queries']:,} queries, k={facts['k']}",
        f"n_inner={facts['n_inner']}, n_outer={facts['n_outer']}, m={facts['m']}, "
        f"nbits={facts['nbits']}, seed={facts['seed']}; {facts['own_codebooks']} lists with "
        f"codebooks of their own; re-ranking {facts['rerank_factor']} * k candidates from "
        f"{facts['rerank']}",
        f"threads: {facts['threads']} ({machine})",
    ]
    recall = f"recall@{facts['k']}"
    batch = ["method", "nprobe", "nprobe_outer", "qps", "qps_min", "qps_max", "ratio"]
    single = ["method", "nprobe", "p50_ms", "p95_ms", "p99_ms", "p50_ratio"]
    parts = ["multiplications", "lookups", "probing_ms", "tables_ms", "tables_bound_ms"]
    steps = measured.training.assign(
        vectors_per_s=measured.training.vectors / measured.training.seconds
    )
    rates = ", ".join(
        f"{row.tables_gmadds_per_s:.3g} at nprobe {row.nprobe}" for row in profile.itertuples()
    )
    return text.report(
        head,
        [
            section(
                "All queries in one call",
                aligned(
                    methods, [*batch, recall, "distance_computations"], {recall: (recall, "{:.3f}")}
                ),
                f"QPS: queries per second, the median of {facts['repeats']} interleaved repeats, "
                f"with minimum and maximum. ratio: QPS over that of {RIVAL} at the same nprobe, in "
                "this run. outer: outer clusters probed, where not all. distances: distance "
                "computations of a query, counted, mean." + _sketch_note(methods),
            ),
            section(
                "One query a call; memory; building",
                aligned(methods, [*single, "bytes_per_vector", "build_s"]),
                f"p50 ratio: p50 over that of {RIVAL}; less is faster. bytes/vector: everything "
                "that the index holds, over its vectors. build s: codebooks and adding the base, "
                f"without the clustering, which all share; {RIVAL} has the shared codebook, and "
                "what that took is counted for it as well.",
            ),
            section(
                "Training and encoding",
                aligned(
                    steps,
                    ["step", "method", "seconds", "vectors", "vectors_per_s"],
                    {"method": ("of", "{}")},
                ),
                "codebooks: train() with the clustering given, which also assigns the base to its "
                "lists. encoding: encode() with the assignment given. add: assignment, encoding "
                "and storing; here also the re-ranking store, which the rival has not.",
            ),
            section(
                "Per-cluster search: where the time goes",
                aligned(profile, ["nprobe", *parts, "search_ms", "rest_ms"]),
                "Of a query: multiplications of its tables, d * 2**nbits for each list, and "
                "look-ups, m for each code. Of all queries in one call: ranking the centroids, "
                "residuals and tables alone, the whole search; the rest is the search less the "
                "two, all timed apart. bound: the tables at the rate of a matrix product. That "
                f"rate is {profile.matmul_gmadds_per_s.iloc[0]:.3g} * 10**9 multiply-adds a "
                f"second, float32 in NumPy; the tables reach {rates}.",
            ),
            section(
                "Per-cluster search of one query: what is read",
                aligned(profile, ["nprobe", "codebook_bytes", "reading_ms", "p50_ms"]),
                "The tables of one query are made of all codebooks of the lists it probes, which "
                "no other query shares. reading: what these bytes alone take at "
                f"{profile.memory_gb_per_s.iloc[0]:.3g} * 10**9 bytes a second, measured on one "
                "thread with an array larger than any cache. p50: of the whole search.",
            ),
        ],
    )


def _sketch_note(methods: pd.DataFrame) -> str:
    sketch = methods[methods.queries < methods.queries.max()]
    ours = methods[methods.method == LOCAL].set_index("nprobe").qps
    return "".join(
        f" {row.method}: all of it measured on {row.queries} queries; {LOCAL}, which finds the "
        f"same, answers {ours[row.nprobe] / row.qps:,.0f} times as many a second."
        for row in sketch.itertuples()
    )
