"""What the comparison of the family found, in words, by rules from its tables."""

from __future__ import annotations

import pandas as pd

from pqlib.study.family import REFERENCE, K


def anisotropic_words(products: pd.DataFrame) -> str:
    """Return what ``inner_products`` found, in words; without a threshold it is plain PQ."""
    plain = products[products.threshold.isna()].iloc[0]
    rows = products[products.threshold.notna()]
    best, scaled = rows.loc[rows.recall_10.idxmax()], rows.loc[rows.recall_10_unit.idxmax()]
    return (
        f"recall@{K} by inner products as decoded: PQ {plain.recall_10:.3f}, anisotropic at best "
        f"{best.recall_10:.3f} (T = {best.threshold:g}). Of vectors scaled to length 1: PQ "
        f"{plain.recall_10_unit:.3f}, anisotropic at best {scaled.recall_10_unit:.3f} "
        f"(T = {scaled.threshold:g})."
    )


def stuck(table: pd.DataFrame) -> list[str]:
    """Return, in words, which methods lose no less with more bits on the vectors trained on.

    ``table`` has a row for each "method" and "budget", with "error_train".
    """
    lines = []
    for method, own in table[table.budget > 0].groupby("method", sort=False):
        own = own.sort_values("budget")
        for fewer, more in zip(own.index[:-1], own.index[1:], strict=True):
            if own.error_train[more] > 0.98 * own.error_train[fewer]:
                lines.append(
                    f"{method}, {own.budget[more]} bits: error {own.error_train[more]:.3f} on the "
                    f"vectors trained on, with {own.budget[fewer]} bits "
                    f"{own.error_train[fewer]:.3f}. Its search does not find the sums that there "
                    "are: too few vectors, rounds or iterations. It says nothing of the method."
                )
    return lines


def advice(table: pd.DataFrame, name: str) -> str:
    """Return, by rules from the table of ``Family.measure``, which code to use when; Markdown."""
    lines = []
    for budget in sorted(set(table.budget) - {0}):
        own = table[table.budget == budget].set_index("method")
        if "PQ" not in own.index:
            continue
        best = own.recall_10.idxmax()
        plain = own.recall_10["PQ"]
        # What queries of another draw might turn round is no difference.
        near = own[own.recall_10 >= own.recall_10[best] - 2 * own.recall_10_se[best]]
        line = (
            f"- **{budget} bits** on {name}: *{best}*{_more_bits(own, best)} finds most, recall@10 "
            f"{own.recall_10[best]:.3f} (PQ: {plain:.3f}), for {own.train_s[best]:.1f} s of "
            f"training and {own.encode_us[best]:,.0f} microseconds a vector."
        )
        others = [method for method in near.index if method != best]
        if others:
            words = ", ".join(f"*{o}* {own.recall_10[o]:.3f}{_more_bits(own, o)}" for o in others)
            line += f" Within two standard errors of it: {words}."
        quick = own[(own.lookups <= own.lookups["PQ"]) & (own.bits == budget)]
        fast = quick.recall_10.idxmax()
        if fast not in near.index:
            line += (
                f" With no more bits and look-ups than PQ, *{fast}*: {own.recall_10[fast]:.3f}, "
                f"{own.train_s[fast]:.1f} s and {own.encode_us[fast]:,.0f} microseconds."
            )
        cheap = own[own.train_s <= 2 * own.train_s["PQ"]]
        thrifty = cheap.recall_10.idxmax()
        if thrifty not in (*near.index, fast, "PQ"):
            line += (
                f" Within twice PQ's training, *{thrifty}*{_more_bits(own, thrifty)}: "
                f"{own.recall_10[thrifty]:.3f}."
            )
        lines.append(line)
    large = table[table.budget == 0].sort_values("bits")
    for row in large.itertuples():
        lines.append(
            f"- **{row.method}**, {row.bits:,} bits: recall@10 {row.recall_10:.3f}, trained in "
            f"{row.train_s:.2f} s."
        )
    return "\n".join(lines)


def _more_bits(own: pd.DataFrame, method: str) -> str:
    """Return the bits of a code in brackets, where they are more than the others'."""
    bits = own.bits[method]
    return f" ({bits} bits)" if bits > own.bits.min() else ""


def missing(table: pd.DataFrame) -> str:
    """Return which members were not run and why, and whose search got stuck; a line each."""
    ok = table.status == "ok"
    lines = [f"{r.method}, {r.budget} bits: not run, {r.reason}" for r in table[~ok].itertuples()]
    return "\n".join(lines + stuck(table[ok]))


def composite_words(looked: dict[str, float], m: int) -> str:
    """Return what ``look_ups_against_distances`` found with codes of m numbers."""
    return (
        f"Standard deviation of s: {looked['deviation']:.2%} of the mean squared norm. recall@{K} "
        f"by {m} look-ups a code: {looked['recall_10']:.4f}; by distances to the decoded vectors: "
        f"{looked['recall_10_exact']:.4f}."
    )


def beside_reference(done: pd.DataFrame, name: str) -> str:
    """Return errors at 64 bits beside those that faiss reports; for SIFT1M only."""
    if name != "sift":
        return ""
    ours = done[done.budget == 64].set_index("method").mse_unseen
    return "\n".join(
        f"{method}: {ours[method]:,.0f} here; {value:,.0f} by faiss, on the whole base"
        for method, value in REFERENCE.items()
    )
