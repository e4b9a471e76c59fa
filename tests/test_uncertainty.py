"""Intervals over queries and over seeds, and shares of variance."""

import numpy as np
import pandas as pd
import pytest

import pqlib
from pqlib import evaluation
from pqlib.study.design import full_factorial, variance_shares


def test_bootstrap_is_the_resampling_it_says():
    values = np.repeat([0.1, 0.5, 0.9, 1.0], [10, 30, 40, 20])
    low, high = evaluation.bootstrap_interval(values)
    rng = np.random.default_rng(1)
    means = [rng.choice(values, len(values)).mean() for _ in range(4000)]
    np.testing.assert_allclose((low, high), np.quantile(means, [0.025, 0.975]), atol=0.006)
    assert evaluation.bootstrap_interval(values) == (low, high)
    assert evaluation.bootstrap_interval(values, seed=1) != (low, high)
    assert evaluation.bootstrap_interval(np.full(9, 0.3)) == pytest.approx((0.3, 0.3))


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(300):
        values = rng.binomial(10, 0.7, size=200) / 10
        low, high = evaluation.bootstrap_interval(values, 500, trial)
        inside += low <= 0.7 <= high
    assert 0.90 < inside / 300 < 0.98


def test_prediction_interval_by_hand():
    low, high = evaluation.prediction_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764 * np.sqrt(2.5) * np.sqrt(1.2)
    assert (low, high) == pytest.approx((3 - half, 3 + half))


@pytest.mark.parametrize("n", [2, 5, 31, 40])
def test_prediction_interval_holds_a_further_value_as_often_as_it_says(n):
    rng = np.random.default_rng(n)
    inside = 0
    for _ in range(2000):
        *seen, new = rng.normal(3, 0.2, n + 1)
        low, high = evaluation.prediction_interval(seen)
        inside += low <= new <= high
    assert 0.93 < inside / 2000 < 0.97


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: evaluation.bootstrap_interval(np.array([])), r"values has shape \(0,\)"),
        (lambda: evaluation.bootstrap_interval(np.array([1, np.nan])), "NaN"),
        (lambda: evaluation.bootstrap_interval(np.ones(3), 0), "resamples=0"),
        (lambda: evaluation.prediction_interval([1.0]), "at least 2"),
    ],
)
def test_errors_name_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_twenty_further_seeds_fall_into_the_interval_of_five():
    """Of every method and number of probes: at least 90 % inside the stated 95 % intervals."""
    ds = pqlib.load_dataset("photo-sift", n_train=2500, n_test=300)
    found = {}
    for seed in range(25):
        clusters = pqlib.two_level_kmeans(ds.train, 24, 5, seed=seed)
        for mode in ("shared", "per-cluster"):
            index = pqlib.MultiLevelPQ(
                ds.d, 24, 5, m=8, nbits=5, codebooks=mode, rerank="uint8", seed=seed
            )
            index.train(ds.train, clusters).add(ds.train)
            for nprobe in (1, 4):
                for rerank in (False, True):
                    _, ids = index.search(ds.test, 10, nprobe, rerank=rerank)
                    found.setdefault((mode, nprobe, rerank), []).append(
                        pqlib.recall_at_k(ids, ds, 10)
                    )
    inside = []
    for values in found.values():
        low, high = evaluation.prediction_interval(values[:5])
        inside += [low <= value <= high for value in values[5:]]
        assert 0 < high - low < 0.1
    assert len(inside) == 160
    assert np.mean(inside) >= 0.9


# Shares of variance ------------------------------------------------------------------------

LEVELS = {"a": [1, 2, 3], "b": [0, 1], "c": [5, 6]}


def designed(function):
    table = pd.DataFrame(full_factorial(LEVELS))
    return table.assign(y=function(table.a, table.b, table.c))


def test_full_factorial_turns_the_last_factor_fastest():
    points = full_factorial(LEVELS)
    assert len(points) == 12
    assert points[:3] == [
        {"a": 1, "b": 0, "c": 5},
        {"a": 1, "b": 0, "c": 6},
        {"a": 1, "b": 1, "c": 5},
    ]


def test_shares_of_a_sum_add_up_to_one():
    shares = variance_shares(designed(lambda a, b, c: 2.0 * a + b), list(LEVELS), "y")
    shares = shares.set_index("factor")
    # Variances: 4 * 2/3 of 2a, 1/4 of b.
    assert shares.main["a"] == pytest.approx((8 / 3) / (8 / 3 + 1 / 4))
    assert shares.main["c"] == shares.total["c"] == 0
    assert shares.main.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares.main, shares.total)
    assert list(shares.index) == ["a", "b", "c"]
    assert shares.levels["a"] == "1, 2, 3"


def test_what_acts_only_together_is_total_and_not_main():
    shares = variance_shares(
        designed(lambda a, b, c: (2 * b - 1.0) * (2 * (c - 5) - 1)), list(LEVELS), "y"
    ).set_index("factor")
    assert shares.main.abs().max() == pytest.approx(0)
    assert shares.total["b"] == shares.total["c"] == pytest.approx(1)
    assert shares.total["a"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.iloc[1:], "expected 12"),
        (lambda t: pd.concat([t.iloc[1:], t.iloc[1:2]]), "each combination"),
        (lambda t: t.assign(y=1.0), "nothing to share"),
        (lambda t: t.assign(y=t.y.where(t.a > 1)), "missing values"),
    ],
)
def test_an_incomplete_design_is_refused(change, words):
    table = change(designed(lambda a, b, c: a * 1.0))
    with pytest.raises(ValueError, match=words):
        variance_shares(table, list(LEVELS), "y")
