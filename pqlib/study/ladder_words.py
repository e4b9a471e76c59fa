"""What the ladder found, in words and checks, and the pieces of its notebook that only collect."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from pqlib.datasets import Dataset
from pqlib.indexes import CascadeIndex
from pqlib.study.design import full_factorial
from pqlib.study.growth import growth
from pqlib.study.ladder import Ladder, Rung
from pqlib.study.recipes import Rival, power_of_two, rivals
from pqlib.tuning import Calibrated, Tuned


def budget(ds: Dataset) -> float:
    """Return the seconds that tuning may take, by the size of the data: 8 to 75."""
    return float(np.clip(ds.n * ds.d / 6e5, 8, 75))


def ideas(rungs: list[Rung]) -> str:
    """Return a numbered list of the rungs' ideas; Markdown."""
    return "\n".join(f"{i}. **{rung.name}**: {rung.idea}" for i, rung in enumerate(rungs))


def gains(rungs: pd.DataFrame) -> str:
    """Return what each rung of ``Ladder.rungs`` gains over the one before; Markdown."""
    rows = list(rungs.itertuples())
    lines = []
    for a, b in itertools.pairwise(rows):
        if np.isnan(b.qps_95):
            speed = f"does not reach recall 0.95 (at most {b.highest:.3f})"
        elif np.isnan(a.qps_95):
            speed = f"reaches recall 0.95 again, at {b.qps_95:,.0f} QPS"
        else:
            factor = b.qps_95 / a.qps_95
            verdict = "which helps" if factor > 1.05 else "no gain" if factor > 0.95 else "a loss"
            speed = f"{factor:.2f} times the QPS at recall 0.95, {verdict}"
        note = f" ({b.note})" if isinstance(b.note, str) and b.note else ""
        memory = b.bytes_per_vector / a.bytes_per_vector
        lines.append(
            f"- **{b.method}**{note}, after *{a.method}*: {speed}; {memory:.2f} times the bytes."
        )
    first, last = rows[0], rows[-1]
    return "\n".join(lines) + (
        f"\n\nFrom the first rung to the last: {last.qps_95 / first.qps_95:,.0f} times the queries "
        f"per second at recall 0.95, with {last.bytes_per_vector / first.bytes_per_vector:.2f} "
        "times the bytes."
    )


def checks(ds: Dataset, climbed: Ladder, tuned: Tuned, k: int) -> pd.Series:
    """Return what must hold on any machine, and whether it does."""
    points = climbed.points
    store = "uint8" if ds.whole_numbers else "float16"
    floats, stored = (
        points[points.method == f"re-rank, {kind}"].set_index("setting").recall
        for kind in ("float32", store)
    )
    both = floats.index.intersection(stored.index)
    few = ds.train[:5000]

    def answers(engine: str | None) -> tuple[Any, Any]:
        kept = "uint8" if ds.whole_numbers else "float32"
        small = CascadeIndex(ds.d, 16, min(32, ds.d), rerank=kept, engine=engine)
        return small.train(few).add(few).search(ds.test[:50], k, nprobe=4, candidates=50)

    same = [np.array_equal(a, b) for a, b in zip(answers(None), answers("portable"), strict=True)]
    return pd.Series(
        {
            "exact search finds everything": bool((points[points.number == 0].recall == 1).all()),
            f"re-ranking from {store} finds what float32 does": bool(
                np.allclose(floats[both], stored[both], atol=0.002)
            ),
            "our fastest loops and plain NumPy give the same answers": all(same),
            "the tuned index holds every vector": tuned.index.ntotal == ds.n,
        }
    )


def stages(tuned: Tuned, by_rule: Calibrated) -> tuple[CascadeIndex, dict[str, Any]]:
    """Return an index that has stages and arguments of its search: the tuned one, if it is one."""
    if isinstance(tuned.index, CascadeIndex):
        return tuned.index, {}
    return by_rule.index, by_rule.fixed[-1]


def grow(
    ds: Dataset, index: CascadeIndex, k: int, recall: float, queries: int, seed: int
) -> pd.DataFrame:
    """Measure an index like ``index`` on parts of the base, beside a graph over components."""

    def sized(n: int) -> CascadeIndex:
        lists = min(power_of_two(n**0.5), n // 8)
        return CascadeIndex(ds.d, lists, index.components, index.rotation, index.rerank, seed=seed)

    def graph(n: int) -> Rival:
        entries = [r for r in rivals(n, ds.d, ds.whole_numbers) if r.kind == "composition"]
        return next(r for r in entries if "HNSW24," in r.name)

    nprobes = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    searches = full_factorial({"nprobe": nprobes, "candidates": (2 * k, 4 * k), "margin": (None,)})
    sizes = [ds.n // part for part in (8, 4, 2, 1)]
    return growth(ds, sizes, sized, graph, k, recall, queries, seed=seed, settings=searches)


def findings(climbed: Ladder, reached: float, recall: float) -> str:
    """Return what the notebook found, in at most five sentences."""
    rungs = climbed.rungs
    short = rungs[rungs.qps_95.isna()].method.tolist()
    step = (rungs.qps_95 / rungs.qps_95.ffill().shift()).idxmax()
    said = [
        f"The tuned index was asked for recall {recall:g} and reaches {reached:.4f} on queries "
        "that it had not seen.",
        f"The largest single step up is *{rungs.method[step]}*.",
        f"{len(short)} of {len(rungs)} rungs do not reach recall 0.95"
        + (f": {', '.join(f'*{name}*' for name in short)}." if short else "."),
    ]
    last = rungs.iloc[-1]
    said.append(
        f"The last rung takes {last.bytes_per_vector:,.0f} bytes per vector, exact search "
        f"{rungs.bytes_per_vector[0]:,.0f}."
    )
    return " ".join(said)
