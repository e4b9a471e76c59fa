"""Runs the benchmark for a data set and writes its tables and its figure."""

from __future__ import annotations

import tempfile
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pqlib import evaluation, load_dataset
from pqlib.experiments import save_table
from pqlib.experiments.bench import LOCAL, RIVAL, Bench, bench
from pqlib.pipeline.data import DataSource
from pqlib.pipeline.figures import KINDS, alone
from pqlib.pipeline.progress import duration
from pqlib.pipeline.steps import Layout, PipelineError, write_atomically
from pqlib.plots import bench as plots
from pqlib.plots import style

TEXT_WIDTH = 100


def run_bench(layout: Layout, dataset: str, **parameters: Any) -> int:
    """Measure ``dataset``, print the tables, write them and the figure; return the exit status.

    Written are bench.csv, bench_training.csv, bench_profile.csv and bench.txt in
    ``results/<label>/`` and bench.png and bench.svg in ``figures/<label>/``, when everything is
    measured and each at once. ``parameters`` go to ``pqlib.experiments.bench.bench``.

    Raises
    ------
    PipelineError
        When the data set cannot be had, or does not allow what is asked for.
    """
    try:
        source = DataSource.of(dataset, layout.package)
        source.fetch()
    except (ValueError, OSError) as problem:
        raise PipelineError(str(problem)) from None
    # The lock keeps a run of the notebooks from taking the processor meanwhile.
    with alone(layout):
        started = time.monotonic()
        try:
            ds = load_dataset(source.dataset)
            print(f"bench {source.label}: {ds.n:,} vectors, {ds.nq:,} queries", flush=True)
            measured = bench(ds, **parameters)
        except (ValueError, OSError) as problem:
            raise PipelineError(f"bench {source.label}: {problem}") from None
        text = report(measured)
        print(f"\n{text}", flush=True)
        written = _write(layout, source.label, measured, text)
        print(f"done in {duration(time.monotonic() - started)}; wrote {', '.join(written)}")
    return 0


def _write(layout: Layout, label: str, measured: Bench, text: str) -> list[str]:
    """Write the files of a run and return their names, by way of a folder that is thrown away."""
    machine = evaluation.machine()
    facts = {name: measured.parameters[name] for name in ("n_inner", "n_outer", "m", "nbits")}
    layout.staging.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=layout.staging) as folder:
        save_table(measured.methods.assign(**facts, **machine), folder, "bench")
        save_table(measured.training.assign(**machine), folder, "bench_training")
        save_table(measured.profile.assign(**machine), folder, "bench_profile")
        (Path(folder) / "results" / "bench.txt").write_text(text, encoding="utf-8")
        figure = plots.speed_and_latency(measured.methods, RIVAL, measured.parameters["k"])
        style.show(figure, folder, "bench")
        written = []
        for kind in KINDS:
            for path in sorted((Path(folder) / kind).iterdir()):
                final = layout.promoted(kind, label) / path.name
                write_atomically(final, path.read_bytes())
                written.append(final.relative_to(layout.root).as_posix())
    return written


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
