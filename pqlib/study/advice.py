"""Conclusions by rule: what a table of measured operating points says, whatever it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pqlib import _checks
from pqlib.evaluation.operating import at_recall
from pqlib.study.points import (
    BETTER,
    BRUTE,
    RECALL_TELLS,
    SAME,
    SHARE_TELLS,
    SIZE,
    SPEED,
    UNIT,
    WORK,
    Points,
    amount,
    change,
    fewer,
    instead,
    italic,
    join,
    number,
    value_of,
)

ONE_LEVEL, TWO_LEVELS = "k-means", "k-means, two levels"
SHARED, LOCAL, RERANKED = "shared", "per cluster", ", re-ranked"
CODES_COUNT = " (The sum of a code's table entries counts as one.)"


@dataclass(frozen=True)
class Advice:
    """What to take for which purpose, and why.

    ``table`` has a row a question, see ``05_advice.csv`` in results/README.md. Sentences, in
    Markdown, are ``counted`` or ``timed``, whichever they depend on.
    """

    table: pd.DataFrame
    counted: list[str]
    timed: list[str]

    @property
    def sentences(self) -> list[str]:
        """All sentences, the counted ones first."""
        return [*self.counted, *self.timed]


def advise(
    points: pd.DataFrame,
    k: int,
    recalls: Sequence[float] = (0.9, 0.95),
    bytes_limits: Sequence[float] = (32, 1000),
    parameters: Sequence[str] = ("nprobe",),
) -> Advice:
    """Draw conclusions from a table of measured points; nothing is known before it is read.

    A question whose columns or methods are not in the table is left out. Two speeds whose ranges
    overlap are not told apart. "brute force" is exact and an answer like any other.

    ``points`` and ``parameters`` are as for ``Points``; "code_bytes", where it is there, says which
    codes are of equal size, otherwise those with equal parameters are. ``recalls``, recall@k above
    0, are to be reached, ``bytes_limits``, of a vector, not to be exceeded.

    Raises ValueError when an argument is out of range, or the points are not as ``Points`` takes
    them.
    """
    k = _checks.integer("k", k, 1)
    for recall in recalls:
        if not 0 < recall <= 1:
            raise ValueError(f"recalls has {recall!r}: expected recalls above 0 and at most 1.")
    for limit in bytes_limits:
        if not 0 < limit < math.inf:
            raise ValueError(f"bytes_limits has {limit!r}: expected numbers of bytes above 0.")
    adviser = _Adviser(points, f"recall@{k}", parameters)
    for recall in recalls:
        adviser.with_recall(recall)
    if adviser.has(SIZE):
        for limit in bytes_limits:
            adviser.within(limit)
    adviser.second_level(recalls)
    for local, shared in adviser.pairs(LOCAL, SHARED):
        adviser.codebooks(local, shared)
    for reranked, plain in adviser.pairs(RERANKED, ""):
        adviser.reranking(reranked, plain)
    adviser.beside_brute_force()
    return adviser.advice()


class _Adviser(Points):
    """A checked table, and what has been said of it so far."""

    def __init__(self, points: pd.DataFrame, recall: str, parameters: Sequence[str]) -> None:
        super().__init__(points, parameters)
        self.recall = recall
        self.equal = f"equal {' and '.join(parameters)}" if parameters else "their one point"
        self.measured = [c for c in ("recall", SIZE, WORK, SPEED) if self.has(c)]
        self.rows: list[dict[str, Any]] = []
        self.counted: list[str] = []
        self.timed: list[str] = []

    def advice(self) -> Advice:
        """Return the answers noted so far."""
        columns = ["question", "timed", "method", *self.parameters, *self.measured, "note"]
        table = pd.DataFrame(self.rows, columns=columns)
        for name in self.parameters:
            table[name] = table[name].convert_dtypes()
        return Advice(table, self.counted, self.timed)

    def say(self, column: str, text: str) -> None:
        (self.timed if column == SPEED else self.counted).append(text)

    def note(self, question: str, column: str, note: str, method: str = "none", **at: Any) -> None:
        """Note an answer, with what was measured there."""
        answer = {"question": question, "timed": column == SPEED, "method": method}
        self.rows.append({**answer, **at, "note": note})

    def nothing(self, does: str, closest: str) -> None:
        """Say that no point does what was asked for."""
        self.counted.append(f"Nothing measured {does}: {closest}.")
        if self.has(SPEED):
            self.timed.append(f"Nothing measured {does}, so nothing is the fastest.")

    def compare(
        self,
        question: str,
        pair: tuple[str, str],
        differences: Sequence[float] | pd.Series,
        tells: float,
        note: str,
    ) -> None:
        """Note the first of a pair where all differences are positive, the other where negative."""
        low, high = min(differences), max(differences)
        better = pair[0] if low > tells else pair[1] if high < -tells else "none"
        self.note(question, "recall", note, better)

    def ask(
        self, question: str, column: str, good: pd.DataFrame, scope: str, what: str, missing: str
    ) -> str:
        """Note the best of ``good``; return the sentence: in this scope, what it is.

        Empty where the column was not measured, or no point is good, which is noted.
        """
        if not self.has(column):
            return ""
        if good.empty:
            self.note(question, column, missing)
            return ""
        best = self.first(good, column)
        close = self.close(good, best, column)
        rivals = close[close["method"] != best["method"]].groupby("method", sort=False)
        tied = [self.first(rows, column) for _, rows in rivals]
        note = "; ".join(f"not told apart from {self.named(t, '')}" for t in tied)
        at = {name: best[name] for name in ("method", *self.parameters, *self.measured)}
        self.note(question, column, note, **at)
        if tied and column == SPEED:
            others = [
                f"{self.named(t)} ({amount(t[SPEED])}, {value_of(t, 'recall')})" for t in tied
            ]
            return (
                f"{scope}, {self.named(best)} ({amount(best[SPEED])} {UNIT[SPEED]}, "
                f"{value_of(best, 'recall')}) cannot be told apart in speed from {join(others)}: "
                "their repeats overlap."
            )
        beside = SIZE if column == "recall" else "recall"
        text = f"{scope}, the {what} {self.named(best)}: {value_of(best, column)}"
        text += f", {value_of(best, beside)}" if self.has(beside) else ""
        rest = good[~good["method"].isin(close["method"])]
        if tied:
            others = [f"{self.named(t)} ({value_of(t, 'recall')})" for t in tied]
            how = f"Less than {RECALL_TELLS} behind" if column == "recall" else "Equal to it"
            text += f". {how}: {join(others)}"
        elif len(rest):
            after = self.first(rest, column)
            text += f"; next is {self.named(after)}, {value_of(after, column, brief=True)}"
        return text + "."

    def alone(self, good: pd.DataFrame) -> bool:
        """Say whether these are points of one method only, of several."""
        return good["method"].nunique() == 1 < len(self.methods)

    # Questions with one point as their answer ---------------------------------------------

    def with_recall(self, target: float) -> None:
        good, missing = self.points[self.points["recall"] >= target], ""
        reach = f"{self.recall} of at least {target:g}"
        if good.empty:
            best = self.first(self.points, "recall")
            highest = number(best["recall"], 3, target)
            missing = f"nothing reaches it; closest: {self.named(best, '')}, recall {highest}"
            self.nothing(f"has {reach}", f"the highest is {highest}, of {self.named(best)}")
        if self.alone(good):
            only = good["method"].iloc[0]
            rest = self.first(self.points[self.points["method"] != only], "recall")
            self.counted.append(
                f"Only {'brute force, which is exact,' if only == BRUTE else f'*{only}*'} has "
                f"{reach}: the highest of the others is {number(rest['recall'], 3, target)}, of "
                f"{self.named(rest)}."
            )
        whats = {"smallest index": SIZE, "least counted work": WORK, "fastest": SPEED}
        for what, column in whats.items():
            question = f"{what}, {self.recall} >= {target:g}"
            text = self.ask(question, column, good, f"With {reach}", f"{what} is", missing)
            if not text:
                continue
            if column == WORK and not any(CODES_COUNT in said for said in self.counted):
                text += CODES_COUNT if any("PQ" in method for method in self.methods) else ""
            if column != SIZE:
                text += self.between(good, target, column)
            if column == SPEED and self.alone(good):
                text += " Nothing else reaches that recall."
            self.say(column, text)

    def between(self, good: pd.DataFrame, target: float, column: str) -> str:
        """Name a method whose curve is ahead at this very recall, though no point of it is.

        Numbers of probes are steps: the next one may find, and cost, far more than was asked.
        """
        best = self.first(good, column)
        names = self.close(good, best, column)["method"].unique()
        curve = at_recall(self.points, target, column, BETTER[column]).set_index("method")
        sign = 1 if column == SPEED else -1
        ahead = str((sign * curve[column]).idxmax())
        value, how = curve[column][ahead], curve["how"][ahead]
        bound = best["qps_max"] if column == SPEED else best[column] * (1 - SHARE_TELLS)
        if ahead in names or how != "interpolated" or sign * value <= sign * bound:
            return ""
        return (
            f" Interpolated between its measured points, *{ahead}* is ahead at exactly "
            f"{target:g}: {amount(value)}."
        )

    def within(self, limit: float) -> None:
        good, missing = self.points[self.points[SIZE] <= limit], ""
        size = f"{limit:,g} {UNIT[SIZE]}"
        if good.empty:
            best = self.first(self.points, SIZE)
            takes = amount(best[SIZE], limit)
            missing = f"nothing fits; closest: {best['method']}, {takes} {UNIT[SIZE]}"
            self.nothing(
                f"fits into {size}", f"the smallest, {italic(best['method'])}, takes {takes}"
            )
        for what, verb, column, whatever in (
            (f"highest {self.recall}", "is that of", "recall", ""),
            ("fastest", "is", SPEED, ", whatever the recall"),
        ):
            scope = f"In at most {size}{whatever}"
            question = f"{what}, at most {size}"
            text = self.ask(question, column, good, scope, f"{what} {verb}", missing)
            if text:
                self.say(column, text + (" Nothing else fits." if self.alone(good) else ""))

    def second_level(self, recalls: Sequence[float]) -> None:
        if not {ONE_LEVEL, TWO_LEVELS} <= set(self.methods):
            return
        pair = (TWO_LEVELS, ONE_LEVEL)
        both = self.matched(*pair)
        said = []
        if self.has(WORK) and len(both):
            saved = 1 - both[WORK] / both[f"{WORK} of other"]
            what = f"{fewer(saved)} distance computations and has {change(both['gain'])}"
            said.append(
                f"Compared with one level at {self.equal}, k-means with a second level takes "
                f"{what}."
            )
            question = f"second level: less work, {self.equal}"
            self.compare(question, pair, saved, SHARE_TELLS, f"takes {what}")
        shares = self.work_saved(pair, recalls) if self.has(WORK) else {}
        for recall, share in shares.items():
            question = f"second level: less work, equal {self.recall} {number(recall, 3)}"
            self.compare(question, pair, [share], SHARE_TELLS, f"takes {fewer([share])}")
        if shares:
            listed = join([f"{fewer([s])} at {number(r, 3)}" for r, s in shares.items()])
            saves = [share > SHARE_TELLS for share in shares.values()]
            verdict = "saves work at some recalls only" if any(saves) else "saves no work"
            said.append(
                f"At equal {self.recall}, read off between measured points, it takes {listed}, "
                f"so it {'saves work' if all(saves) else verdict}."
            )
        self.counted += [" ".join(said)] if said else []
        if self.has(SPEED) and len(both):
            faster = int((both["qps_min"] > both["qps_max of other"]).sum())
            slower = int((both["qps_max"] < both["qps_min of other"]).sum())
            self.timed.append(
                f"At {self.equal}, k-means with a second level is faster in {faster} of "
                f"{len(both)} comparisons and slower in {slower}; in "
                f"{len(both) - faster - slower} the repeats overlap."
            )

    def work_saved(self, pair: tuple[str, str], recalls: Sequence[float]) -> dict[float, float]:
        """Return the share of work the first saves at each recall that both curves pass through.

        Where they pass through none of them, at the highest that they share, if any.
        """
        rows = self.of(*pair)
        highest = float(rows.groupby("method")["recall"].max().min())
        found: dict[float, float] = {}
        for target in (*recalls, highest):
            at = at_recall(rows, target, WORK, "less").set_index("method")
            # A point that exceeds the recall is not at equal recall.
            if at["how"].isin(["measured", "interpolated"]).all() and (
                target in recalls or not found
            ):
                found[target] = float(1 - at[WORK][pair[0]] / at[WORK][pair[1]])
        return found

    def codebooks(self, local: str, shared: str) -> None:
        both = self.matched(local, shared)
        best, plain = self.first(self.of(local), "recall"), self.first(self.of(shared), "recall")
        said = []
        if len(both):
            what = change(both["gain"])
            takes = instead(best[SIZE], plain[SIZE]) if self.has(SIZE) else ""
            said.append(
                f"With equal codes and {self.equal}, *{local}* has {what} compared with "
                f"*{shared}*{takes}."
            )
            question = f"{local} or {shared}, equal codes and {self.equal}"
            self.compare(question, (local, shared), both["gain"], RECALL_TELLS, what)
        if self.has(SIZE):
            question = f"{local} or shared codebooks, no more memory"
            fits = self.points[SIZE] <= best[SIZE] * (1 + SAME)
            rivals = self.points[fits & self.points["method"].str.contains(SHARED, regex=False)]
            if rivals.empty:
                self.note(question, SIZE, "nothing with shared codebooks is as small")
                said.append("Nothing measured with shared codebooks is as small.")
            else:
                top = self.first(rivals, "recall")
                gain = best["recall"] - top["recall"]
                mine, theirs = number(best["recall"], 3), number(top["recall"], 3)
                pair = (local, top["method"])
                self.compare(question, pair, [gain], RECALL_TELLS, f"{mine} against {theirs}")
                verdict = "draw" if abs(gain) < RECALL_TELLS else "win" if gain > 0 else "lose"
                said.append(
                    f"Of what was measured in no more memory, the highest {self.recall} with "
                    f"shared codebooks is {theirs} ({self.named(top)}, {value_of(top, SIZE)}) and "
                    f"with codebooks per cluster {mine}: codebooks per cluster {verdict}."
                )
        self.counted += [" ".join(said)] if said else []

    def reranking(self, reranked: str, plain: str) -> None:
        pair = (reranked, plain)
        after, before = (self.first(self.of(m), "recall") for m in pair)
        gain = after["recall"] - before["recall"]
        old, new = number(before["recall"], 3), number(after["recall"], 3)
        question = f"re-ranking {plain}: highest {self.recall}"
        self.compare(question, pair, [gain], RECALL_TELLS, f"{new} against {old}")
        same = abs(gain) < RECALL_TELLS
        verb = "leaves" if same else "raises" if gain > 0 else "lowers"
        text = f"Re-ranking {verb} the highest {self.recall} of *{plain}* "
        text += f"at {old}" if same else f"from {old} to {new}"
        if self.has(SIZE):
            text += instead(after[SIZE], before[SIZE])
        rows = self.of(*pair)
        rows = rows[rows["recall"] >= before["recall"]]
        reached = rows["method"].nunique() == 2
        # Positive where re-ranking pays, negative where it costs.
        pays = {"recall": 0 if same else gain}
        if self.has(WORK) and reached:
            with_it, without = (self.first(rows[rows["method"] == m], WORK)[WORK] for m in pair)
            pays["work"] = 1 - with_it / without
            text += (
                f". To reach {old} takes {amount(with_it)} {UNIT[WORK]} with it and "
                f"{amount(without)} without"
            )
        if self.has(SIZE):
            pays["memory"] = 1 - after[SIZE] / before[SIZE]
        good = [name for name, share in pays.items() if share > SAME]
        bad = [name for name, share in pays.items() if share < -SAME]
        text += f". So it pays in {join(good)}" if good else ". So it does not pay"
        text += f" and costs {join(bad)}" if good and bad else ""
        self.counted.append(f"{text}.")
        if self.has(SPEED) and reached:
            question = f"re-ranking {plain}: fastest, {self.recall} >= {old}"
            scope = f"To reach {self.recall} {old}, the most that *{plain}* has"
            self.timed.append(self.ask(question, SPEED, rows, scope, "faster way is", ""))

    def beside_brute_force(self) -> None:
        if not self.has(SPEED) or BRUTE not in self.methods or len(self.methods) == 1:
            return
        exact = self.of(BRUTE).iloc[0]
        others = self.points[self.points["method"] != BRUTE]
        slow = others[others["qps_min"] <= exact["qps_max"]]
        text = "All other points measured are clearly faster"
        if len(slow) == len(others):
            text = "No other point measured is clearly faster"
        elif len(slow):
            text += f", except {join([self.named(row) for _, row in slow.iterrows()])}"
        self.timed.append(f"Brute force answers {value_of(exact, SPEED)}. {text}.")
