"""What sweeps over one data set share, and what is compared at equal memory."""

import math

import numpy as np
import pandas as pd
import pytest

import pqlib
from pqlib import evaluation
from pqlib.study import NotRun
from pqlib.study import sensitivity as study
from pqlib.study.design import complete_part, full_factorial


@pytest.fixture
def small(clustered, as_dataset):
    return study.Study(as_dataset(*clustered), nq=50, timed=20, seed=3)


def test_a_clustering_serves_all_codes_and_indexes_are_kept_as_asked(small, monkeypatch):
    made = []
    original = study.two_level_kmeans
    monkeypatch.setattr(
        study, "two_level_kmeans", lambda *a, **k: made.append(a[1]) or original(*a, **k)
    )
    small.hold = {(10, "shared", 4, 4, None)}
    first = small.index(10, "shared", 4, 4)
    other = small.index(10, "shared", 2, 4)
    own = small.index(10, "per-cluster", 4, 4)
    assert made == [10]
    assert first.clustering is other.clustering is own.clustering
    assert small.index(10, "shared", 4, 4) is first
    assert small.index(10, "per-cluster", 4, 4) is own
    assert small.index(10, "shared", 2, 4) is not other
    assert small.index(10, "shared", 2, 4, n_train=500).clustering.n_train == 500
    assert made == [10, 10]


def test_measured_is_what_the_index_says(small):
    index = small.index(10, "per-cluster", 4, 4)
    row = small.measure(index, nprobe=3)
    _, ids = index.search(small.ds.test, 10, 3, rerank=False)
    assert row["recall"] == pytest.approx(pqlib.recall_at_k(ids, small.ds, 10))
    assert row["recall_low"] < row["recall"] < row["recall_high"]
    store = index.memory()["re-ranking store"]
    assert row["bytes_per_vector"] * 2000 == pytest.approx(index.memory_bytes - store)
    cost = index.search_cost(small.ds.test, 10, 3, rerank=False)
    assert row["distance_computations"] == pytest.approx(sum(c.mean() for c in cost.values()))
    assert row["qps"] is None
    better = small.measure(index, nprobe=3, rerank_factor=20, timing=True)
    assert better["recall"] > row["recall"]
    assert better["bytes_per_vector"] * 2000 == pytest.approx(index.memory_bytes)
    assert better["qps"] > 0


def test_what_cannot_be_trained_says_so(small):
    with pytest.raises(NotRun, match="65,536 residuals"):
        small.index(10, "per-cluster", 4, 16)
    small.budget = 10.0
    with pytest.raises(NotRun, match="the budget"):
        small.index(10, "shared", 4, 5)
    with pytest.raises(ValueError, match="m=3"):
        small.index(10, "shared", 3, 4)


def test_regrouped_changes_the_outer_level_only(small):
    index = small.index(10, "shared", 4, 4)
    other = small.under(5, 10, "shared", 4, 4)
    assert (other.n_outer, index.n_outer) == (5, 3)
    for one, two in zip(
        index.search(small.ds.test, 10, 4), other.search(small.ds.test, 10, 4), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    few = [i.search_cost(small.ds.test, 10, 2, 1)["outer"][0] for i in (index, other)]
    assert few == [3, 5]
    with pytest.raises(ValueError, match="other inner centroids"):
        index.regrouped(small.clustering(11))


@pytest.mark.parametrize(
    ("value", "allowed", "expected"),
    [
        (8, [1, 2, 4, 8, 16, 32], [4, 8, 16]),
        (8, [1, 2, 4, 7, 8, 14, 49], [4, 8, 14]),
        (5, [1, 5, 25], [1, 5, 25]),
        (1, [1, 7], [1, 7]),
        (7, [7], [7]),
        (80, range(2, 1000), [40, 80, 160]),
    ],
)
def test_levels_around_a_standard(value, allowed, expected):
    assert study.neighbours_of(value, allowed) == expected


@pytest.mark.parametrize(("m", "nbits"), [(4, 4), (8, 6), (2, 8)])
def test_bytes_are_foreseen_exactly(small, m, nbits):
    index = small.index(10, "shared", m, nbits)
    without = index.memory_bytes - index.memory()["re-ranking store"]
    assert study.shared_bytes(2000, 16, 10, m, nbits) * 2000 == without


def test_the_shared_codes_to_beat_within_a_limit():
    limit = study.shared_bytes(10**6, 128, 100, 16, 8)
    assert study.shared_rivals(10**6, 128, 100, limit) == [(16, 8)]
    # A little less: of 8 bits half as long a code; worth 512, 576 and 512.
    assert study.shared_rivals(10**6, 128, 100, limit - 0.001) == [(8, 8), (16, 6), (32, 4)]
    for m, nbits in study.shared_rivals(10**6, 128, 100, limit - 0.001):
        assert study.shared_bytes(10**6, 128, 100, m, nbits) < limit
    assert study.shared_rivals(10**6, 128, 100, 8) == []
    assert max(m for m, _ in study.shared_rivals(10**6, 128, 100, 10**6)) == 64


def test_at_no_more_memory_takes_the_best_that_is_small_enough():
    own = pd.DataFrame(
        {
            "n_inner": [10, 20],
            "m": 8,
            "nbits": 8,
            "recall": [0.5, 0.6],
            "bytes_per_vector": [30.0, 5.0],
        }
    )
    shared = pd.DataFrame(
        {
            "n_inner": [10, 10, 10, 20],
            "m": [4, 8, 16, 4],
            "nbits": 8,
            "recall": [0.3, 0.45, 0.7, 0.2],
            "bytes_per_vector": [20.0, 30.0, 31.0, 20.0],
        }
    )
    first, second = study.at_no_more_memory(own, shared).to_dict("records")
    assert (first["shared_m"], first["shared_recall"]) == (8, 0.45)
    assert first["gain"] == pytest.approx(0.05)
    assert math.isnan(second["gain"])


def test_from_which_size_it_pays():
    assert evaluation.pays_from([100, 10_000], [-0.1, 0.1]) == pytest.approx(1000)
    assert evaluation.pays_from([10_000, 100], [0.1, -0.1]) == pytest.approx(1000)
    assert evaluation.pays_from([1, 10, 100, 1000], [0.1, -0.1, -0.1, 0.1]) == pytest.approx(
        316.2, 0.01
    )
    assert evaluation.pays_from([1, 10], [0.1, -0.1]) == math.inf
    assert evaluation.pays_from([1, 10], [0.1, 0.1]) == -math.inf
    with pytest.raises(ValueError, match="2 and 1"):
        evaluation.pays_from([1, 2], [0.1])


def test_the_complete_part_of_a_design():
    table = pd.DataFrame(full_factorial({"a": [1, 2, 3], "b": [4, 8], "c": [0, 1]}))
    whole, dropped = complete_part(table, ["a", "b", "c"])
    assert len(whole) == 12
    assert dropped == []
    holed = table[~((table.a == 3) & (table.b == 8))]
    whole, dropped = complete_part(holed, ["a", "b", "c"])
    assert dropped == ["a = 3"]
    assert len(whole) == 8
    most = table[(table.b == 4) | ((table.a == 1) & (table.c == 0))]
    whole, dropped = complete_part(most, ["a", "b", "c"])
    assert dropped == ["b = 8"]
    assert len(whole) == 6
