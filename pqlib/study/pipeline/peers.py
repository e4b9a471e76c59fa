"""Runs the comparison with other libraries for a data set and writes its tables and figures."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pqlib.datasets import Dataset
from pqlib.study.peers import LATENCY_AT, LONGEST_CALL, TARGETS, Peers, peers
from pqlib.study.pipeline import text
from pqlib.study.pipeline.measuring import Files, measure
from pqlib.study.pipeline.steps import Layout
from pqlib.study.pipeline.text import aligned, hanging, section
from pqlib.study.plots import peers as plots
from pqlib.study.recipes import Rival, default_graphs, tuned_entry
from pqlib.tuning import tune

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
    """

    def measurement(ds: Dataset) -> Peers:
        return peers(ds, _ours(ds, max_bytes, parameters.get("seed", 0)), **parameters)

    return measure(layout, dataset, "peers", measurement, report, _files)


def _files(measured: Peers) -> Files:
    points, summary = measured.points, measured.summary
    tables = {"peers": points, "peers_at_recall": summary}
    if not (points.status == "ok").any():
        return tables, {}
    speed = plots.speed(points, summary, measured.parameters["k"])
    return tables, {"peers": speed, "peers_memory": plots.memory(summary)}


def _ours(ds: Dataset, max_bytes: float | None, seed: int) -> list[Rival]:
    """Return what tune chooses, unless that is exact search, and graphs with sizes by rule."""
    found = default_graphs(ds.d, ds.whole_numbers)
    for limit in [None] if max_bytes is None else [None, max_bytes]:
        tuned = tune(ds, RECALL, max_bytes=limit, seed=seed)
        print(f"\n{tuned.report()}\n", flush=True)
        if tuned.composition.n_lists is not None:
            words = "tuned" if limit is None else f"tuned, at most {limit:g} B"
            found.append(tuned_entry(tuned, f"CascadeIndex, {words}"))
    return found


def report(measured: Peers) -> str:
    """Return what was measured as text: aligned tables with what their columns mean."""
    facts, points, entries = measured.parameters, measured.points, measured.entries
    machine = text.facts_of(facts, ("cpu", "cores", "simd", "blas", "system", "python"))
    head = [
        f"{facts['dataset']}: {facts['n']:,} base vectors of dimension {facts['d']}, "
        f"{facts['queries']:,} queries, k={facts['k']}, seed={facts['seed']}",
        f"threads: {facts['threads']}, of all libraries, in building and in batches ({machine})",
        f"versions: {text.facts_of(facts['versions'], facts['versions'])}",
    ]
    cited = [
        hanging(f"- {source}: {', '.join(rows.rival)}")
        for source, rows in entries.groupby("source", sort=False)
    ]
    timed = ["rival", "setting", "recall", "qps", "qps_min", "qps_max"]
    return text.report(
        head,
        [
            section(
                "Speed at equal recall; memory; building; one query a call",
                _summary_text(measured.summary),
                "QPS at a recall: queries per second, all queries in one call, interpolated "
                "between measured points (linearly in recall, logarithmically in QPS); empty: not "
                f"reached by any setting tried that takes at most {LONGEST_CALL:g} s for all "
                "queries; > : the least thorough setting measured already finds more. "
                "bytes/vector: everything that the index holds when it is saved, over its "
                "vectors. build s: training and adding. p50, p99: of calls with one query, at "
                f"recall {LATENCY_AT:g}. Sorted by QPS at recall {LATENCY_AT:g}.",
            ),
            section(
                "All points timed",
                aligned(
                    points[points.status == "ok"],
                    timed,
                    {"recall": (f"recall@{facts['k']}", "{:.4f}")},
                ),
                f"QPS: the median of {facts['repeats']} interleaved repeats, with minimum and "
                "maximum. Settings that another one of the same rival beats were left out after "
                "one try.",
            ),
            section(
                "What the rivals are",
                aligned(entries, ["rival", "kind", "note"]),
                "recipe: as the library's documents advise. composition: the strongest way we "
                "found to combine faiss's parts. Names of faiss's indexes are their factory "
                "strings.",
            ),
            section("Sources", "\n".join(cited)),
        ],
    )


def _summary_text(summary: pd.DataFrame) -> str:
    """Return the summary with a line for each rival, the fastest first, failures last."""
    wide = summary[summary.target == LATENCY_AT].set_index("rival")
    headings = [f"QPS at {target:.2f}" for target in TARGETS]
    for target, heading in zip(TARGETS, headings, strict=True):
        at = summary[summary.target == target].set_index("rival")
        above = at.how.eq("exceeds").map({True: "> ", False: ""})
        words = (above + at.qps.map("{:,.0f}".format)).where(at.qps.notna(), "")
        wide[heading] = words.str.rjust(words.str.len().max())
    wide = wide.sort_values("qps", ascending=False, na_position="last", kind="stable")
    sizes = ["bytes_per_vector", "build_s", "p50_ms", "p99_ms"]
    lines = aligned(wide.reset_index(), ["rival", "kind", *headings, *sizes])
    failed = wide[wide.status != "ok"]
    said = [hanging(f"- {row.Index}: not run, {row.reason}") for row in failed.itertuples()]
    return lines + ("\n\nNot run:\n" + "\n".join(said) if said else "")
