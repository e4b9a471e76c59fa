"""Runs the benchmark for a data set and writes its tables and its figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pqlib.study.bench import LOCAL, RIVAL, Bench, bench
from pqlib.study.pipeline.measuring import measure
from pqlib.study.pipeline.steps import Layout
from pqlib.study.plots import bench as plots

TEXT_WIDTH = 100


def run_bench(layout: Layout, dataset: str, **parameters: Any) -> int:
    """Measure ``dataset``, print the tables, write them and the figure; return the exit status.

    Written are bench.csv, bench_training.csv, bench_profile.csv and bench.txt in
    ``results/<label>/`` and bench in ``figures/<label>/``; see
    ``pqlib.study.pipeline.measuring.measure``. ``parameters`` go to
    ``pqlib.study.bench.bench``.

    Raises
    ------
    PipelineError
        When the data set cannot be had, or does not allow what is asked for.
    """
    return measure(
        layout,
        dataset,
        "bench",
        lambda ds: bench(ds, **parameters),
        report,
        _tables,
        lambda measured: {
            "bench": plots.speed_and_latency(measured.methods, RIVAL, measured.parameters["k"])
        },
    )


def _tables(measured: Bench) -> dict[str, pd.DataFrame]:
    facts = {name: measured.parameters[name] for name in ("n_inner", "n_outer", "m", "nbits")}
    return {
        "bench": measured.methods.assign(**facts),
        "bench_training": measured.training,
        "bench_profile": measured.profile,
    }


# The text ----------------------------------------------------------------------------------


def report(measured: Bench) -> str:
    """Return what was measured as text: aligned tables with what their columns mean."""
    facts, methods = measured.parameters, measured.methods
    recall = f"recall@{facts['k']}"
    machine = ", ".join(
        f"{name} {facts[name]}"
        for name in ("cpu", "cores", "simd", "blas", "python", "faiss", "numpy")
    )
    head = [
        f"{facts['dataset']}: {facts['n']:,} base vectors of dimension {facts['d']}, "
        f"{facts['queries']:,} queries, k={facts['k']}",
        f"n_inner={facts['n_inner']}, n_outer={facts['n_outer']}, m={facts['m']}, "
        f"nbits={facts['nbits']}, seed={facts['seed']}; {facts['own_codebooks']} lists with "
        f"codebooks of their own; re-ranking {facts['rerank_factor']} * k candidates from "
        f"{facts['rerank']}",
        f"threads: {facts['threads']} ({machine})",
    ]
    batch = aligned(
        methods,
        {
            "method": ("method", "{}"),
            "nprobe": ("nprobe", "{}"),
            "outer": ("nprobe_outer", "{}"),
            "QPS": ("qps", "{:,.0f}"),
            "min": ("qps_min", "{:,.0f}"),
            "max": ("qps_max", "{:,.0f}"),
            "ratio": ("ratio", "{:.4f}"),
            recall: (recall, "{:.3f}"),
            "distances": ("distance_computations", "{:,.0f}"),
        },
    )
    single = aligned(
        methods,
        {
            "method": ("method", "{}"),
            "nprobe": ("nprobe", "{}"),
            "p50 ms": ("p50_ms", "{:.3f}"),
            "p95 ms": ("p95_ms", "{:.3f}"),
            "p99 ms": ("p99_ms", "{:.3f}"),
            "p50 ratio": ("p50_ratio", "{:.2f}"),
            "bytes/vector": ("bytes_per_vector", "{:,.1f}"),
            "build s": ("build_s", "{:.2f}"),
        },
    )
    training = aligned(
        measured.training.assign(rate=measured.training.vectors / measured.training.seconds),
        {
            "step": ("step", "{}"),
            "of": ("method", "{}"),
            "seconds": ("seconds", "{:.3f}"),
            "vectors": ("vectors", "{:,}"),
            "vectors/s": ("rate", "{:,.0f}"),
        },
    )
    profile = aligned(
        measured.profile,
        {
            "nprobe": ("nprobe", "{}"),
            "multiplications": ("multiplications", "{:,.0f}"),
            "look-ups": ("lookups", "{:,.0f}"),
            "probing ms": ("probing_ms", "{:,.1f}"),
            "tables ms": ("tables_ms", "{:,.1f}"),
            "bound ms": ("tables_bound_ms", "{:,.1f}"),
            "search ms": ("search_ms", "{:,.1f}"),
            "rest ms": ("rest_ms", "{:,.1f}"),
        },
    )
    reading = aligned(
        measured.profile,
        {
            "nprobe": ("nprobe", "{}"),
            "codebooks, bytes": ("codebook_bytes", "{:,.0f}"),
            "reading ms": ("reading_ms", "{:.3f}"),
            "p50 ms": ("p50_ms", "{:.3f}"),
        },
    )
    rates = ", ".join(
        f"{row.tables_gmadds_per_s:.3g} at nprobe {row.nprobe}"
        for row in measured.profile.itertuples()
    )
    sections = [
        (
            "All queries in one call",
            batch,
            f"QPS: queries per second, the median of {facts['repeats']} interleaved repeats, with "
            f"minimum and maximum. ratio: QPS over that of {RIVAL} at the same nprobe, in this "
            "run. outer: outer clusters probed, where not all. distances: distance computations "
            "of a query, counted, mean." + _sketch_note(methods),
        ),
        (
            "One query a call; memory; building",
            single,
            f"p50 ratio: p50 over that of {RIVAL}; less is faster. bytes/vector: everything that "
            "the index holds, over its vectors. build s: codebooks and adding the base, without "
            f"the clustering, which all share; {RIVAL} has the shared codebook, and what that "
            "took is counted for it as well.",
        ),
        (
            "Training and encoding",
            training,
            "codebooks: train() with the clustering given, which also assigns the base to its "
            "lists. encoding: encode() with the assignment given. add: assignment, encoding and "
            "storing; here also the re-ranking store, which the rival has not.",
        ),
        (
            "Per-cluster search: where the time goes",
            profile,
            "Of a query: multiplications of its tables, d * 2**nbits for each list, and look-ups, "
            "m for each code. Of all queries in one call: ranking the centroids, residuals and "
            "tables alone, the whole search; the rest is the search less the two, all timed apart. "
            "bound: the tables at the rate of a matrix product. That rate is "
            f"{measured.profile.matmul_gmadds_per_s.iloc[0]:.3g} * 10**9 multiply-adds a second, "
            f"float32 in NumPy; the tables reach {rates}.",
        ),
        (
            "Per-cluster search of one query: what is read",
            reading,
            "The tables of one query are made of all codebooks of the lists it probes, which no "
            "other query shares. reading: what these bytes alone take at "
            f"{measured.profile.memory_gb_per_s.iloc[0]:.3g} * 10**9 bytes a second, measured on "
            "one thread with an array larger than any cache. p50: of the whole search.",
        ),
    ]
    parts = ["\n".join(textwrap.fill(line, TEXT_WIDTH) for line in head)]
    for title, table, note in sections:
        parts.append(f"{title}\n{'=' * len(title)}\n{table}\n\n{textwrap.fill(note, TEXT_WIDTH)}")
    return "\n\n".join(parts) + "\n"


def _sketch_note(methods: pd.DataFrame) -> str:
    sketch = methods[methods.queries < methods.queries.max()]
    ours = methods[methods.method == LOCAL].set_index("nprobe").qps
    return "".join(
        f" {row.method}: all of it measured on {row.queries} queries; {LOCAL}, which finds the "
        f"same, answers {ours[row.nprobe] / row.qps:,.0f} times as many a second."
        for row in sketch.itertuples()
    )


def aligned(table: pd.DataFrame, columns: Mapping[str, tuple[str, str]]) -> str:
    """Return a table as text: words to the left, numbers to the right, nothing where NaN.

    Parameters
    ----------
    table : what to show
    columns : for each heading, the column of ``table`` and the format of its values
    """
    cells = []
    for heading, (column, form) in columns.items():
        values = ["" if pd.isna(value) else form.format(value) for value in table[column]]
        width = max(map(len, [heading, *values]))
        words = not pd.api.types.is_numeric_dtype(table[column])
        padded = [v.ljust(width) if words else v.rjust(width) for v in [heading, *values]]
        cells.append([padded[0], "-" * width, *padded[1:]])
    return "\n".join("  ".join(row).rstrip() for row in zip(*cells, strict=True))
