"""What is reported: the index that was chosen, its settings, and what was tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._types import FloatMatrix
from pqlib.indexes import CascadeIndex, GraphIndex, GraphSettings, Index, SearchSettings
from pqlib.tuning.calibration import Lookup, Task
from pqlib.tuning.compositions import Composition, build
from pqlib.tuning.shift import Shift, kolmogorov_smirnov

CURVE = (0.95, 0.90, 0.99, 0.97, 0.80, 0.925, 0.98, 0.85, 0.995)
"""Recalls for which settings are looked up once the index is chosen, as far as there is time."""

UNLIKE = 0.15
"""Kolmogorov-Smirnov distance from which two sets of queries are called unlike."""


@dataclass(frozen=True)
class Calibrated:
    """An index, and arguments of its search for several recalls.

    Attributes
    ----------
    index : holds the whole base
    build_s : seconds that it took to build
    fixed : arguments with which all queries probe as many lists
    adaptive : arguments with which easy queries probe fewer
    """

    index: CascadeIndex
    build_s: float
    fixed: list[dict[str, Any]]
    adaptive: list[dict[str, Any]]


@dataclass(frozen=True)
class Tuned:
    """What ``tune`` found.

    Attributes
    ----------
    index : holds the whole base; its search defaults reach the recall, as far as that was possible
    composition : what it is
    curve : a row for each recall that settings were looked up for: "target"; "recall" measured on
        the calibration queries; "qps"; "p50_ms"; "nprobe", "candidates", "margin" (missing for
        exact search, margin also where probing is not adaptive); "codes" and "vectors", counted
        distance computations of a query
    tried : a row for each composition: "composition", "outcome", "recall", "qps", "p50_ms",
        "bytes_per_vector", "build_s", and "seconds" that trying it took
    reached : whether the recall asked for was reached within the limits
    recall, k, objective, max_bytes : what was asked for
    seconds : what it all took
    interval : where the recall of 1,000 new queries like those calibrated with lies, by 95%
    """

    index: Index
    composition: Composition
    curve: pd.DataFrame
    tried: pd.DataFrame
    reached: bool
    recall: float
    k: int
    objective: str
    max_bytes: float | None
    seconds: float
    interval: tuple[float, float]
    task: Task = field(repr=False)

    @property
    def calibration(self) -> FloatMatrix:
        """The queries (nq, d) that recall and speed were measured with."""
        return self.task.queries

    @property
    def held_back(self) -> bool:
        """Whether they are vectors of the base, held back from training."""
        return self.task.held_back

    @property
    def shift(self) -> Shift | None:
        """How unlike the base the queries of the data set are; None where queries were given."""
        return self.task.shift

    @property
    def best(self) -> pd.Series:
        """The row of ``curve`` that the index's defaults are of."""
        return self.curve.iloc[int((self.curve.target - self.recall).abs().to_numpy().argmin())]

    def settings(self, recall: float) -> dict[str, Any]:
        """Return the arguments of ``index.search`` that reach ``recall``, by the curve.

        Raises
        ------
        ValueError
            When no row of the curve reaches it.
        """
        enough = self.curve[self.curve.recall >= recall]
        if not len(enough):
            raise ValueError(
                f"recall={recall!r}: expected at most {self.curve.recall.max():.4f}, the highest "
                "of the curve. Tune for a higher recall."
            )
        row = enough.loc[enough.qps.idxmax()]
        if isinstance(self.index, GraphIndex):
            return GraphSettings(int(row.ef), int(row.candidates)).arguments()
        if not isinstance(self.index, CascadeIndex):
            return {}
        margin = None if pd.isna(row.margin) else float(row.margin)
        return SearchSettings(int(row.nprobe), int(row.candidates), margin).arguments()

    def unlike(self, xq: FloatMatrix) -> float:
        """Return how unlike the calibration queries ``xq`` (nq, d) are, 0 to 1.

        It is the Kolmogorov-Smirnov distance between the two sets' distances to their nearest
        neighbour in the index. From ``UNLIKE`` on, the recall reached may be another than the
        one calibrated: tune again with a sample of the real queries.
        """
        xq = _checks.vectors("xq", xq, self.index.d)
        ours = _nearest(self.index, self.calibration, self.held_back)
        theirs = _nearest(self.index, xq[: len(self.calibration)], False)
        return kolmogorov_smirnov(ours, theirs)

    def calibrate(self, composition: Composition, recalls: Sequence[float] = CURVE) -> Calibrated:
        """Build another composition and look up its settings, with the same queries.

        Parameters
        ----------
        composition : of lists
        recalls : to be reached; those that are not are left out
        """
        index, build_s = build(composition, self.task)
        assert isinstance(index, CascadeIndex)
        found = Calibrated(index, build_s, [], [])
        settings = Lookup(found.index, self.task)
        for recall in sorted(recalls):
            fixed = settings.fixed(recall)
            if fixed is None:
                break
            found.fixed.append(fixed.arguments())
            margins = settings.adaptive(fixed, settings.wanted(recall))
            if margins:
                found.adaptive.append(max(margins, key=settings.qps_of).arguments())
        return found

    def report(self, xq: FloatMatrix | None = None) -> str:
        """Return as text what was chosen, what was tried, what was dropped and why.

        Parameters
        ----------
        xq : real queries (nq, d), to be told whether they are like those calibrated with
        """
        best = self.best
        asked = f"recall@{self.k} of {self.recall:g}, best {self.objective}"
        if self.max_bytes is not None:
            asked += f", at most {self.max_bytes:g} bytes per vector"
        source = "vectors of the base, held back from training" if self.held_back else "queries"
        if self.shift is not None and not self.held_back:
            source = "queries of the data set, by exact neighbours found here"
        low, high = self.interval
        lines = [
            f"Asked for: {asked}.",
            f"Chosen: {self.composition}. recall@{self.k} {best.recall:.4f} on "
            f"{len(self.calibration):,} {source}, {best.qps:,.0f} QPS, p50 {best.p50_ms:.3f} ms, "
            f"{self.index.bytes_per_vector:,.1f} bytes per vector.",
        ]
        if self.shift is not None:
            lines.append(str(self.shift))
        lines.append(
            f"Assumed: new queries are like these. The recall of 1,000 of them lies in {low:.4f} "
            f"to {high:.4f}, by 95%."
        )
        if not self.reached:
            lines.append(
                f"NOT REACHED: the recall asked for, {self.recall:g}, was not reached within the "
                "limits; this is the best that was."
            )
        if isinstance(self.index, CascadeIndex | GraphIndex):
            arguments = [f"{a}={b}" for a, b in self.index.settings.arguments().items()]
            lists = isinstance(self.index, CascadeIndex)
            end = " (-1: no adaptive probing)." if lists and pd.isna(best.margin) else "."
            lines.append(f"Search defaults: {', '.join(arguments)}{end}")
        lines.append(f"Tried, in {self.seconds:.1f} s:")
        for row in self.tried.itertuples():
            figures = "" if pd.isna(row.qps) else f" {row.qps:,.0f} QPS,"
            size = "" if pd.isna(row.bytes_per_vector) else f" {row.bytes_per_vector:,.0f} B:"
            lines.append(f"  {row.composition}:{figures}{size} {row.outcome}")
        if xq is not None:
            found = self.unlike(xq)
            verdict = (
                "UNLIKE the calibration queries: tune again with a sample of them as queries="
                if found >= UNLIKE
                else "like the calibration queries"
            )
            lines.append(f"The queries given are {verdict} (distance {found:.2f}).")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.report()


def _nearest(index: Index, xq: FloatMatrix, held_back: bool) -> NDArray[np.float32]:
    """Return distances to the nearest vector that is not the query itself, (nq,)."""
    distances, _ = index.search(xq, min(2, index.ntotal))
    nearest = distances[:, -1 if held_back else 0]
    return np.sqrt(nearest) if index.metric == "l2" else nearest
