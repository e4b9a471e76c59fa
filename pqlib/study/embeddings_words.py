"""What compression does to embeddings, in words, by rules from the tables."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd

from pqlib._types import IdArray
from pqlib.datasets import REGISTRY, Dataset, load_dataset, locate
from pqlib.datasets.embedded import Texts
from pqlib.study.embeddings import BEST

NOTICED, LITTLE = 0.05, 0.05
"""Loss of recall from which on it is asked whether the task notices, and the share of the mean
reciprocal rank that is little to lose."""
SHARES = {8: "an eighth", 16: "a 16th", 32: "a 32nd", 64: "a 64th", 128: "a 128th"}
"""Shares of a whole vector's bytes that the best ways are named for."""


def beside(ds: Dataset) -> list[Dataset]:
    """Return a data set and what it is compared with: SIFT, and pixels where they are here."""
    found = [ds]
    for name in ("photo-sift", "fashion-mnist"):
        if name != ds.name and locate(name) is not None:
            found.append(load_dataset(name, n_test=1000))
        elif name != ds.name:
            print(f"{name} ({REGISTRY[name].title}) is not on this machine: left out")
    return found


def neighbours(
    texts: Texts, query: int, exact: IdArray, found: Mapping[str, IdArray], k: int = 5
) -> str:
    """Return a query, its true neighbours, and which of them each code still finds.

    Parameters
    ----------
    query : row of the query
    exact : (nq, >= k) the true neighbours
    found : by name of a code, what it found, (nq, >= k)
    """
    lines = [f"query: {texts.queries[query]}"]
    right = -1 if texts.right is None else int(texts.right[query])
    if right >= 0:
        rank = np.flatnonzero(exact[query] == right)
        place = f"number {rank[0] + 1} of all" if len(rank) else f"behind the first {len(exact[0])}"
        lines.append(f"its right answer, {place}: {texts.base[right]}")
    true = exact[query, :k].tolist()
    lines += ["true neighbours"] + [_line(texts, row, i + 1) for i, row in enumerate(true)]
    for name, ids in found.items():
        kept = ids[query, :k].tolist()
        new = [(i + 1, row) for i, row in enumerate(kept) if row not in true]
        lines.append(f"{name}: finds {k - len(new)} of the {k}" + (", and instead" if new else ""))
        lines += [_line(texts, row, i) for i, row in new]
    return "\n".join(lines)


def _line(texts: Texts, row: int, rank: int) -> str:
    return f"  {rank:>2} {textwrap.shorten(texts.base[row], 88, placeholder=' ...')}"


def unnoticed(lost: pd.DataFrame, whole: float) -> pd.DataFrame:
    """Return the ways that clearly lose recall, while the task clearly loses little.

    By intervals of 95%: of recall more than ``NOTICED`` is lost, of the mean reciprocal rank, which
    is ``whole`` for whole vectors, less than the share ``LITTLE``. ``lost`` is of
    ``Compression.lost``.
    """
    if "rr" not in lost:
        return lost.iloc[:0]
    return lost[(lost.recall_low > NOTICED) & (lost.rr_high < LITTLE * whole)]


def _best(own: pd.DataFrame, measure: str) -> str:
    """Return the ways that are the best of ``own`` but for chance, with their value."""
    tied = own[own[BEST[measure]]].sort_values(measure, ascending=False)
    named = []
    for row in tied.itertuples():
        more = f" and {row.shared_bytes:,.0f} shared" if row.shared_bytes > row.bytes else ""
        named.append(f"*{row.method}* ({row.bytes} bytes{more}) {getattr(row, measure):.3f}")
    return ", ".join(named)


def findings(ways: pd.DataFrame, lost: pd.DataFrame, k: int) -> str:
    """Return by rule what loses least at each number of bytes, and what the task hardly notices.

    ``ways`` and ``lost`` are of ``Compression``.
    """
    task = "rr" in ways
    whole = int(ways.bytes.max())
    lines = [
        "Named are all that do not differ from the best by more than chance (95% intervals of "
        "paired differences over queries). *shared*: codebooks and the like, where they are more "
        "than the code."
    ]
    for share, words in SHARES.items():
        own = ways[ways.share == share]
        if not len(own):
            continue
        line = (
            f"- **{whole // share // 2 + 1} to {whole // share} bytes, {words} of float32.** Most "
            f"neighbours, recall@{k}: {_best(own, 'recall')}."
        )
        if task:
            line += f" Highest mean reciprocal rank: {_best(own, 'rr')}."
        lines.append(line)
    if not task:
        lines.append("- The file names no right answers, so only recall was measured.")
        return "\n".join(lines)
    exact = ways[ways.method == "float32"].iloc[0]
    lines.append(
        f"- **The task**: with whole vectors, the right answer is first for "
        f"{exact['first']:.1%} of the queries, among ten for {exact.ten:.1%}, and the mean "
        f"reciprocal rank is {exact.rr:.3f}. The others can hardly lose anything, so small losses "
        "of the task cannot be seen."
    )
    least = unnoticed(lost, exact.rr).sort_values("bytes", ascending=False)
    each = "; ".join(
        f"*{r.method}* at {r.bytes} bytes (recall falls by {r.recall:.3f}; reciprocal rank by "
        f"{r.rr:.3f}, interval {r.rr_low:.3f} to {r.rr_high:.3f})"
        for r in least.itertuples()
    )
    lines.append(
        f"- **Recall clearly falls, by more than {NOTICED:g}, and the task loses less than "
        f"{LITTLE:.0%} of its reciprocal rank**: {each or 'none'}."
    )
    return "\n".join(lines)


def promise_words(table: pd.DataFrame) -> str:
    """Return what ``promises`` found, a line each."""
    return "\n".join(
        f"- Asked for {row.asked:g}, calibrated with {row.calibrated}: measured "
        f"{row.promised:.3f} in tuning (new queries: {row.low:.3f} to {row.high:.3f}, by 95%). "
        f"The unseen queries got **{row.kept:.3f}** ({row.kept_low:.3f} to {row.kept_high:.3f})"
        f"{': less than asked' if row.kept_high < row.asked else ''}."
        for row in table.itertuples()
    )
