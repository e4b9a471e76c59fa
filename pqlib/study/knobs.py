"""The sweeps of notebook 06: each turns a knob of a ``Study`` and returns a tidy table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pqlib.study.design import complete_part, full_factorial, variance_shares
from pqlib.study.routing import routed
from pqlib.study.sensitivity import MODES, Study, at_no_more_memory, shared_rivals

PROBES = (1, 2, 4, 8, 16, 32)


def _searched(study: Study, knob: str, values: Sequence[int], **how: Any) -> tuple[Any, Any]:
    """Return a sweep's points and measure: an argument of the search, both kinds of codebooks."""

    def measure(codebooks: str, **turned: int) -> dict[str, Any]:
        return study.measure(study.held(codebooks), **{"nprobe": study.nprobe, **turned, **how})

    return full_factorial({"codebooks": MODES, knob: values}), measure


def probes(study: Study) -> pd.DataFrame:
    """Turn nprobe, with both kinds of codebooks; timed.

    "routing_limit" is the share of true neighbours in the probed lists: what codes without any
    error would find. Raises ValueError when neither kind of codebooks fits the budget.
    """
    tried = [p for p in PROBES if p <= study.n_inner]
    table = study.sweep("nprobe", *_searched(study, "nprobe", tried, timing=True))
    if not (table["status"] == "ok").any():
        raise ValueError(
            f"{table['reason'].iloc[0]}: no codebooks fit the budget. Raise `budget` or lower "
            "`nbits`."
        )
    clusters, home = study.clustering(study.n_inner), study.assignment(study.n_inner)
    limit = routed(clusters, study.ds, study.k, home, tried[-1], nq=study.nq).recall.to_numpy()
    return table.assign(routing_limit=limit[table["nprobe"].to_numpy() - 1])


def inner_clusters(study: Study) -> pd.DataFrame:
    """Turn the number of inner clusters, and nprobe, with shared codebooks."""
    counts = sorted({max(2, round(study.n_inner * f)) for f in (0.25, 0.5, 1, 2)})
    most = min(study.max_train or study.ds.n, study.ds.n) // 4

    def at_probes(n_inner: int) -> list[dict[str, Any]]:
        index = study.index(n_inner, "shared", study.m, study.nbits)
        tried = [p for p in PROBES if p <= min(n_inner, study.n_inner)]
        return [{"nprobe": p, **study.measure(index, nprobe=p)} for p in tried]

    return study.sweep("n_inner", [{"n_inner": c} for c in counts if c <= most], at_probes)


def outer_counts(study: Study) -> list[int]:
    """Return the numbers of outer clusters that are tried: half, once and twice the held one."""
    counts = sorted({max(2, round(study.n_outer * f)) for f in (0.5, 1, 2)})
    return [c for c in counts if c <= study.n_inner]


def outer_clusters(study: Study) -> pd.DataFrame:
    """Turn the number of outer clusters, and of those probed, over the same lists.

    "recall" is what codes without any error would find in the probed lists, "centroid_distances"
    counts both levels; "flat_recall" and "flat_distances" are the same when all centroids are
    ranked.
    """
    clusters, home = study.clustering(study.n_inner), study.assignment(study.n_inner)

    def at_probes(n_outer: int) -> list[dict[str, Any]]:
        nested = study.regrouped(study.n_inner, n_outer)
        rows = []
        for p in (1, 2, 3, 4, 6, 8, 12):
            if p < n_outer:
                at = routed(nested, study.ds, study.k, home, study.nprobe, p, nq=study.nq).iloc[-1]
                row = {"nprobe_outer": p, "recall": at.recall, "centroid_distances": at.centroids}
                rows.append(row)
        return rows

    table = study.sweep("n_outer", [{"n_outer": c} for c in outer_counts(study)], at_probes)
    flat = routed(clusters, study.ds, study.k, home, study.nprobe, nq=study.nq).recall.iloc[-1]
    return table.assign(flat_recall=flat, flat_distances=float(study.n_inner))


def codes(study: Study, pairs: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """Turn m and nbits together, with both kinds of codebooks; timed.

    ``pairs`` (m, nbits) are among the codes.
    """
    ds, m, nbits = study.ds, study.m, study.nbits
    # Codes long enough to be compared with per-cluster ones whose codebooks are counted.
    longest = max(v for v in study.divisors if v <= max(1, ds.d // 2))
    grid = [(v, bits) for v in study.tried_m for bits in (4, 6, nbits)]
    wanted: dict[str, Any] = {
        "shared": sorted({*pairs, (longest, nbits), *grid}),
        # Fewer where every cluster trains its own.
        "per-cluster": sorted({*pairs, (m, 4), (m, 6), (m, nbits)}),
    }
    table = study.sweep(
        "m and nbits",
        [{"codebooks": c, "m": v, "nbits": bits} for c in MODES for v, bits in wanted[c]],
        lambda **code: study.measure(
            study.index(study.n_inner, **code), nprobe=study.nprobe, timing=True
        ),
    )
    table = table.assign(n_inner=study.n_inner, nprobe=study.nprobe)
    return table.sort_values(["codebooks", "nbits", "m"], ascending=[False, True, True])


def training(study: Study) -> pd.DataFrame:
    """Turn the number of vectors that clusters and codebooks of both kinds are trained on."""
    sizes = [t for t in (study.ds.n // part for part in (16, 4, 2)) if t >= study.n_inner * 2]
    return study.sweep(
        "training vectors",
        full_factorial({"codebooks": MODES, "n_train": sorted(set(sizes))}),
        lambda **trained: study.measure(study.held(**trained), nprobe=study.nprobe),
    )


def reranking(study: Study) -> pd.DataFrame:
    """Turn the number of candidates that get exact distances; 0: none do."""
    return study.sweep("re-ranking", *_searched(study, "rerank_factor", (0, 1, 2, 4, 8, 16)))


def outer_probes(study: Study) -> pd.DataFrame:
    """Turn the number of outer clusters probed; all of them is flat probing."""
    tried = [p for p in sorted({1, 2, 4, 8, study.n_outer}) if p <= study.n_outer]
    return study.sweep("nprobe_outer", *_searched(study, "nprobe_outer", tried))


def one_at_a_time(
    study: Study,
    codes: pd.DataFrame,
    probing: pd.DataFrame,
    inner: pd.DataFrame,
    trained: pd.DataFrame,
    reranked: pd.DataFrame,
    outer: pd.DataFrame,
) -> pd.DataFrame:
    """Return every knob turned alone, a row for each value of a knob and kind of codebooks.

    The tables are of the functions above, ``outer`` of ``outer_probes``; what they lack is
    measured: n_inner with codebooks per cluster, n_outer. "standard" says whether a value is the
    one held elsewhere.
    """
    around = study.around["n_inner"]
    per_cluster = study.sweep(
        "n_inner, per-cluster",
        [{"n_inner": c} for c in around],
        lambda n_inner: study.measure(
            study.index(n_inner, "per-cluster", study.m, study.nbits),
            nprobe=min(study.nprobe, n_inner),
        ),
    ).assign(codebooks="per-cluster")
    shared = inner[(inner["nprobe"] == study.nprobe) & inner["n_inner"].isin(around)]
    both = pd.concat([shared.assign(codebooks="shared"), per_cluster])
    third = study.sweep(
        "n_outer, a third probed",
        [{"n_outer": c} for c in outer_counts(study)],
        lambda n_outer: study.measure(
            study.under(n_outer, study.n_inner, "shared", study.m, study.nbits),
            nprobe=study.nprobe,
            nprobe_outer=max(1, n_outer // 3),
        ),
    )
    same_m, same_bits = codes["m"] == study.m, codes["nbits"] == study.nbits
    panels = [
        ("m", "m", study.m, codes[same_bits]),
        ("nbits", "nbits", study.nbits, codes[same_m]),
        ("codebook mode", "codebooks", None, codes[same_m & same_bits]),
        ("nprobe", "nprobe", study.nprobe, probing),
        ("n_inner", "n_inner", study.n_inner, both),
        ("n_outer, a third probed", "n_outer", study.n_outer, third.assign(codebooks="shared")),
        ("nprobe_outer", "nprobe_outer", study.n_outer, outer),
        ("training vectors", "n_train", None, trained),
        ("rerank_factor, 0: none", "rerank_factor", 0, reranked),
    ]
    tables = []
    for knob, column, held, rows in panels:
        rows = rows[rows["status"] == "ok"]
        rows = rows.sort_values(["codebooks", column], ascending=[False, True])
        values = [f"{v:,}" if isinstance(v, int) else str(v) for v in rows[column].tolist()]
        kept = rows[["codebooks", "recall", "recall_low", "recall_high"]]
        table = kept.assign(knob=knob, value=values, standard=rows[column] == held)
        tables.append(table[["knob", "value", *kept.columns, "standard"]])
    return pd.concat(tables, ignore_index=True)


def full_design(study: Study) -> tuple[pd.DataFrame, dict[str, list[Any]]]:
    """Measure six knobs of two levels each in all combinations; return the table and the levels."""
    ends = {name: sorted({values[0], values[-1]}) for name, values in study.around.items()}
    built: dict[str, list[Any]] = {
        "n_inner": ends["n_inner"],
        "codebooks": list(MODES),
        "m": ends["m"],
        "nbits": sorted({4, study.nbits}),
    }
    searched: dict[str, list[Any]] = {
        "nprobe": sorted({max(1, study.nprobe // 4), study.nprobe}),
        "rerank_factor": [0, 8],
    }

    def of_code(**code: Any) -> list[dict[str, Any]]:
        index = study.index(**code)
        return [{**how, **study.measure(index, **how)} for how in full_factorial(searched)]

    return study.sweep("full design", full_factorial(built), of_code), {**built, **searched}


def importance(design: pd.DataFrame, factors: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return each knob's ``variance_shares`` of recall, work and memory over ``full_design``.

    Work and memory are taken as logarithms, since knobs multiply them. Returned too: the levels
    left out, as not all of their combinations could be trained.
    """
    whole, dropped = complete_part(design[design["status"] == "ok"], factors)
    turned = [name for name in factors if whole[name].nunique() > 1]
    responses = {
        "recall": whole["recall"],
        "work": np.log(whole["distance_computations"]),
        "memory": np.log(whole["bytes_per_vector"]),
    }
    shares = [
        variance_shares(whole.assign(response=values), turned, "response").assign(response=name)
        for name, values in responses.items()
    ]
    return pd.concat(shares, ignore_index=True), dropped


def crossing(study: Study, codes: pd.DataFrame) -> pd.DataFrame:
    """Set codes of codebooks per cluster beside the best shared code in no more memory.

    Over ever larger clusters; the rivals are ``codes`` and ``shared_rivals`` of 4, 6 and 8 bits
    over the same lists. Added to ``at_no_more_memory`` is "vectors_per_cluster", the mean.
    """
    ds, n_inner, m = study.ds, study.n_inner, study.m
    few = sorted({c for c in (n_inner // 64, n_inner // 16, n_inner // 4) if c >= 2})

    def measure(n_inner: int, codebooks: str, m: int, nbits: int) -> dict[str, Any]:
        index = study.index(n_inner, codebooks, m, nbits)
        return study.measure(index, nprobe=min(study.nprobe, n_inner))

    def own_code(n_inner: int, nbits: int) -> dict[str, Any]:
        about = {"codebooks": "per-cluster", "m": m, "nprobe": min(study.nprobe, n_inner)}
        about["vectors_per_cluster"] = ds.n / n_inner
        return about | measure(n_inner, "per-cluster", m, nbits)

    bits = sorted({4, study.nbits})
    own = study.sweep(
        "per-cluster codes", full_factorial({"n_inner": few, "nbits": bits}), own_code
    )
    measured = codes[codes["status"] == "ok"]
    before = measured[(measured["codebooks"] == "per-cluster") & (measured["m"] == m)]
    before = before[before["nbits"].isin(bits)].assign(vectors_per_cluster=ds.n / n_inner)
    own = pd.concat([own[own["status"] == "ok"], before], ignore_index=True)
    own = own.drop(columns="qps", errors="ignore")
    rivals = measured[measured["codebooks"] == "shared"]
    there = set(rivals[["n_inner", "m", "nbits"]].itertuples(index=False, name=None))
    as_large = {
        (row.n_inner, *code)
        for row in own.itertuples()
        for code in shared_rivals(ds.n, ds.d, row.n_inner, row.bytes_per_vector)
    }
    more = study.sweep(
        "shared codes as large",
        [{"n_inner": c, "m": v, "nbits": b} for c, v, b in sorted(as_large - there)],
        partial(measure, codebooks="shared"),
    )
    return at_no_more_memory(own, pd.concat([rivals, more], ignore_index=True))
