"""Whether queries are like the base: a shift that a calibration on the base would not see.

Vectors that are held back from the base have their neighbours nearer, and in fewer lists, than
queries that come from elsewhere: sentences against definitions, other photographs. An index
calibrated with the former then finds less for the latter than it promised. Unlabelled queries are
enough to see that, and exact neighbours of a sample of them to calibrate for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pqlib._types import IdArray

LEVEL = 1.63
"""Of the Kolmogorov-Smirnov test at 1% (Smirnov, "Table for estimating the goodness of fit of
empirical distributions", Annals of Mathematical Statistics 1948), times sqrt(1/n + 1/m)."""


@dataclass(frozen=True)
class Shift:
    """How unlike the queries of a data set vectors of its base are.

    Attributes
    ----------
    distance : Kolmogorov-Smirnov distance, 0 to 1, between how far both sets' k-th neighbours are
    limit : what the distance between two samples of one kind exceeds once in a hundred times
    rows : (m,) of the data set's queries, those looked at, at most half of them
    """

    distance: float
    limit: float
    rows: IdArray

    @property
    def unlike(self) -> bool:
        """Whether the queries are to be calibrated with, rather than vectors of the base."""
        return self.distance > self.limit

    def __str__(self) -> str:
        verdict = "UNLIKE vectors of the base" if self.unlike else "like vectors of the base"
        return (
            f"Queries of the data set, {len(self.rows):,} looked at without their ground truth, "
            f"are {verdict}: how far their k-th neighbours are is distributed otherwise by "
            f"{self.distance:.3f} (Kolmogorov-Smirnov, 0 to 1); two samples of one kind differ by "
            f"more than {self.limit:.3f} once in a hundred times."
        )


def kolmogorov_smirnov(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the largest difference of the shares of ``a`` (n,) and ``b`` (m,) up to a value."""
    every = np.sort(np.concatenate([a, b]))
    shares = [np.searchsorted(np.sort(x), every, "right") / len(x) for x in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def shift(base: NDArray[np.floating], queries: NDArray[np.floating], rows: IdArray) -> Shift:
    """Return the shift between distances of k-th neighbours: of base vectors (n,), queries (m,)."""
    limit = LEVEL * math.sqrt(1 / len(base) + 1 / len(queries))
    return Shift(kolmogorov_smirnov(base, queries), limit, rows)
