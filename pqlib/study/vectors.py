"""What vectors are like: their principal plane, and how well lists serve them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from pqlib import evaluation
from pqlib._types import FloatMatrix
from pqlib.clustering import default_sizes, sample_rows, two_level_kmeans
from pqlib.datasets import Dataset
from pqlib.indexes import BruteForce
from pqlib.study.routing import routed


def principal_plane(x: FloatMatrix) -> NDArray[np.float64]:
    """Return the two directions in which the vectors ``x`` (n, d) vary most, (d, 2).

    Where d is 1, the second direction is zero. An eigenvector's sign is arbitrary, and its last
    digits depend on the processor. Here the largest entry is positive and there are six digits,
    so that a picture of the plane is the same everywhere.
    """
    covariance = np.atleast_2d(np.cov(x, rowvar=False, dtype=np.float64))
    axes = np.linalg.eigh(covariance)[1][:, :-3:-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    axes = (axes * np.sign(largest)).round(6)
    return np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))


def set_beside(
    ds: Dataset, sets: Mapping[str, tuple[FloatMatrix, FloatMatrix]], k: int, seed: int
) -> tuple[dict[str, dict[str, NDArray[np.float64]]], pd.DataFrame, pd.DataFrame]:
    """Measure sets of vectors alike: how hard they are, and what k-means lists find in them.

    Parameters ---------- sets : by name, base (n, d) and queries (nq, d); each gets the default
    number of lists for its size k : true neighbours looked for; as many as ``ds`` lists are known

    Returns
    -------
    spreads : for each set "nearest" (nq,) and "random" (nq, 1000 at most), distances from the
        queries, in units of the mean distance to a random base vector
    curves, summary : the tables of ``01_structure.csv`` and ``01_difficulty.csv``
    """
    spreads, curves, summary = {}, [], []
    for name, (base, queries) in sets.items():
        exact = BruteForce(ds.d, copy=False).add(base)
        squared, neighbors = exact.search(queries, ds.neighbors.shape[1])
        true = np.sqrt(np.maximum(squared, 0))
        made = replace(ds, name=name, train=base, test=queries, neighbors=neighbors, distances=true)
        n_inner, n_outer = default_sizes(len(base))
        lists = two_level_kmeans(base, n_inner, n_outer, seed=seed)
        table = routed(lists, made, k, lists.assign(base), n_inner)
        curve = table.assign(data=name, scanned=table.vectors / len(base), found=table.recall)
        curves.append(curve[["data", "nprobe", "scanned", "found"]])
        pairs = cdist(queries, base[sample_rows(len(base), 1000, seed)])
        spreads[name] = {"nearest": true[:, 0] / pairs.mean(), "random": pairs / pairs.mean()}
        summary.append(
            {
                "data": name,
                "relative contrast": evaluation.relative_contrast(made, seed=seed),
                "intrinsic dimension": evaluation.intrinsic_dimension(true),
                f"{k} neighbours, nearest list": curve.found[0],
                "base scanned there": curve.scanned[0],
                "base scanned to find 90 %": curve.scanned[curve.found >= 0.9].iloc[0],
            }
        )
    return spreads, pd.concat(curves, ignore_index=True), pd.DataFrame(summary)
