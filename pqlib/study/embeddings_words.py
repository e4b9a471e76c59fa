"""What compression does to embeddings, in words, by rules from the tables."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import pandas as pd

from pqlib._types import IdArray
from pqlib.datasets import REGISTRY, Dataset, load_dataset, locate
from pqlib.datasets.embedded import Texts

NOTICED = 0.05
"""Loss of recall from which on it is asked whether the task notices."""


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
    if texts.right is not None and texts.right[query] >= 0:
        lines.append(f"its own definition: {texts.base[texts.right[query]]}")
    true = exact[query, :k].tolist()
    lines += ["true neighbours"] + [_line(texts, row, i + 1) for i, row in enumerate(true)]
    for name, ids in found.items():
        kept = ids[query, :k].tolist()
        lines.append(f"{name}: {len(set(true) & set(kept))} of {k}; new among its first {k}")
        new = [(i + 1, row) for i, row in enumerate(kept) if row not in true]
        lines += [_line(texts, row, i) for i, row in new] or ["     none"]
    return "\n".join(lines)


def _line(texts: Texts, row: int, rank: int) -> str:
    return f"  {rank:>2} {textwrap.shorten(texts.base[row], 88, placeholder=' ...')}"


def unnoticed(lost: pd.DataFrame) -> pd.DataFrame:
    """Return the ways that lose recall (interval above ``NOTICED``) but not the reciprocal rank.

    ``lost`` is of ``Compression.lost``: not to lose is to have 0 in the interval of the loss.
    """
    if "rr" not in lost:
        return lost.iloc[:0]
    return lost[(lost.recall_low > NOTICED) & (lost.rr_low <= 0)]


def findings(ways: pd.DataFrame, lost: pd.DataFrame, k: int) -> str:
    """Return by rule what loses least at each number of bytes, and what the task does not notice.

    ``ways`` has a row for each "method" and "bytes", ``lost`` is of ``Compression.lost``.
    """
    lines = []
    task = "rr" in ways
    whole = int(ways.bytes.max())
    for share, words in ((8, "an eighth"), (16, "a 16th"), (32, "a 32nd"), (64, "a 64th")):
        own = ways[ways.bytes <= whole / share]
        # Bytes that another number of vectors would share alike are not counted here.
        own = own[own.bytes > whole / share / 2]
        if not len(own):
            continue
        best = own.loc[own.recall.idxmax()]
        line = (
            f"- **{words} of float32, up to {whole // share} bytes**: *{best.method}* "
            f"({best.bytes} bytes) finds most, recall@{k} {best.recall:.3f}"
        )
        if task:
            top = own.loc[own.rr.idxmax()]
            line += f"; the mean reciprocal rank is highest with *{top.method}*, {top.rr:.3f}"
        lines.append(line + ".")
    if task:
        exact = ways[ways.method == "float32"].iloc[0]
        least = unnoticed(lost)
        lines.append(
            f"- **The task**: of whole vectors, the own definition is first for "
            f"{exact['first']:.1%} of the queries, among ten for {exact.ten:.1%}, and the mean "
            f"reciprocal rank is {exact.rr:.3f}."
        )
        if len(least):
            each = ", ".join(
                f"*{r.method}* at {r.bytes} bytes (recall less {r.recall:.3f})"
                for r in least.sort_values("bytes").itertuples()
            )
            lines.append(
                f"- **Recall falls, the task does not notice** (0 is in the 95% interval of what "
                f"the reciprocal rank loses): {each}."
            )
    return "\n".join(lines)


def promise_words(table: pd.DataFrame) -> str:
    """Return what ``promises`` found, a line each."""
    return "\n".join(
        f"- Asked for {row.asked:g}, calibrated with {row.calibrated}: promised "
        f"{row.promised:.3f} ({row.low:.3f} to {row.high:.3f}), unseen queries got "
        f"**{row.kept:.3f}**."
        for row in table.itertuples()
    )
