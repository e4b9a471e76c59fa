"""Runs the comparison with other libraries for a data set and writes its tables and figures."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pqlib.datasets import Dataset
from pqlib.study.peers import LATENCY_AT, LONGEST_CALL, TARGETS, Peers, peers
from pqlib.study.pipeline.bench import TEXT_WIDTH, aligned
from pqlib.study.pipeline.measuring import measure
from pqlib.study.pipeline.steps import Layout
from pqlib.study.plots import peers as plots
from pqlib.study.recipes import Rival, tuned_entry
from pqlib.tuning.search import tune

RECALL = 0.95
"""Recall that our index is tuned for; its settings for others are looked up with it."""


def run_peers(
    layout: Layout, dataset: str, max_bytes: float | None = None, **parameters: Any
) -> int:
    """Compare on ``dataset``, print the tables, write them and the figures; return exit status.

    Ours is what ``pqlib.tune`` chooses, without limit and, where ``max_bytes`` per vector are
    given, within those.

    Written are peers.csv, peers_at_recall.csv and peers.txt in ``results/<label>/``, and peers and
    peers_memory in ``figures/<label>/``; see ``pqlib.study.pipeline.measuring.measure``.
    ``parameters`` go to ``pqlib.study.peers.peers``.

    Raises
    ------
    PipelineError
        When the data set cannot be had, or does not allow what is asked for.
    """

    def measurement(ds: Dataset) -> Peers:
        return peers(ds, _ours(ds, max_bytes, parameters.get("seed", 0)), **parameters)

    return measure(layout, dataset, "peers", measurement, report, _tables, _figures)


def _tables(measured: Peers) -> dict[str, pd.DataFrame]:
    return {"peers": measured.points, "peers_at_recall": measured.summary}


def _figures(measured: Peers) -> dict[str, Figure]:
    if not (measured.points.status == "ok").any():
        return {}
    k = measured.parameters["k"]
    return {
        "peers": plots.speed(measured.points, measured.summary, k),
        "peers_memory": plots.memory(measured.summary),
    }


def _ours(ds: Dataset, max_bytes: float | None, seed: int) -> list[Rival] | None:
    """Return what tune chooses; None, for sizes by rule, where that is exact search."""
    found = []
    for limit in [None] if max_bytes is None else [None, max_bytes]:
        tuned = tune(ds, RECALL, max_bytes=limit, seed=seed)
        print(f"\n{tuned.report()}\n", flush=True)
        if tuned.composition.n_lists is not None:
            words = "tuned" if limit is None else f"tuned, at most {limit:g} B"
            found.append(tuned_entry(tuned, f"CascadeIndex, {words}"))
    return found or None


# The text ----------------------------------------------------------------------------------


def report(measured: Peers) -> str:
    """Return what was measured as text: aligned tables with what their columns mean."""
    facts, points = measured.parameters, measured.points
    machine = ", ".join(
        f"{name} {facts[name]}" for name in ("cpu", "cores", "simd", "blas", "system", "python")
    )
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    head = [
        f"{facts['dataset']}: {facts['n']:,} base vectors of dimension {facts['d']}, "
        f"{facts['queries']:,} queries, k={facts['k']}, seed={facts['seed']}",
        f"threads: {facts['threads']}, of all libraries, in building and in batches ({machine})",
        f"versions: {versions}",
    ]
    recall = f"recall@{facts['k']}"
    front = aligned(
        points[points.status == "ok"],
        {
            "rival": ("rival", "{}"),
            "setting": ("setting", "{}"),
            recall: ("recall", "{:.4f}"),
            "QPS": ("qps", "{:,.0f}"),
            "min": ("qps_min", "{:,.0f}"),
            "max": ("qps_max", "{:,.0f}"),
        },
    )
    sources = aligned(
        measured.entries, {"rival": ("rival", "{}"), "kind": ("kind", "{}"), "note": ("note", "{}")}
    )
    cited = "\n".join(
        f"- {source}: {', '.join(rows.rival)}"
        for source, rows in measured.entries.groupby("source", sort=False)
    )
    sections = [
        (
            "Speed at equal recall; memory; building; one query a call",
            _summary_text(measured.summary),
            "QPS at a recall: queries per second, all queries in one call, interpolated between "
            "measured points (linearly in recall, logarithmically in QPS); empty: not reached "
            f"by any setting tried that takes at most {LONGEST_CALL:g} s for all queries; "
            "> : the least thorough setting measured already finds more. bytes/vector: everything "
            "that the index holds when it is saved, over its vectors. build s: training and "
            f"adding. p50, p99: of calls with one query, at recall {LATENCY_AT:g}. Sorted by QPS "
            f"at recall {LATENCY_AT:g}.",
        ),
        (
            "All points timed",
            front,
            f"QPS: the median of {facts['repeats']} interleaved repeats, with minimum and maximum. "
            "Settings that another one of the same rival beats were left out after one try.",
        ),
        (
            "What the rivals are",
            sources,
            "recipe: as the library's documents advise. composition: the strongest way we found to "
            "combine faiss's parts. Names of faiss's indexes are their factory strings.",
        ),
    ]
    parts = ["\n".join(textwrap.fill(line, TEXT_WIDTH) for line in head)]
    for title, table, note in sections:
        parts.append(f"{title}\n{'=' * len(title)}\n{table}\n\n{textwrap.fill(note, TEXT_WIDTH)}")
    parts.append("Sources\n=======\n" + "\n".join(_hanging(line) for line in cited.splitlines()))
    return "\n\n".join(parts) + "\n"


def _summary_text(summary: pd.DataFrame) -> str:
    """Return the summary with a line for each rival, the fastest first, failures last."""
    wide = summary[summary.target == LATENCY_AT].set_index("rival").copy()
    for target in TARGETS:
        at = summary[summary.target == target].set_index("rival")
        values = [
            "" if pd.isna(row.qps) else f"{'> ' if row.how == 'exceeds' else ''}{row.qps:,.0f}"
            for row in at.itertuples()
        ]
        width = max(map(len, values), default=0)
        wide[f"at {target:.2f}"] = [value.rjust(width) for value in values]
    wide = wide.sort_values("qps", ascending=False, na_position="last", kind="stable")
    lines = aligned(
        wide.reset_index(),
        {
            "rival": ("rival", "{}"),
            "kind": ("kind", "{}"),
            **{f"QPS at {t:.2f}": (f"at {t:.2f}", "{}") for t in TARGETS},
            "bytes/vector": ("bytes_per_vector", "{:,.1f}"),
            "build s": ("build_s", "{:.2f}"),
            "p50 ms": ("p50_ms", "{:.3f}"),
            "p99 ms": ("p99_ms", "{:.3f}"),
        },
    )
    failed = wide[wide.status != "ok"]
    said = [_hanging(f"- {row.Index}: not run, {row.reason}") for row in failed.itertuples()]
    return lines + ("\n\nNot run:\n" + "\n".join(said) if said else "")


def _hanging(line: str) -> str:
    return textwrap.fill(
        line, TEXT_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
