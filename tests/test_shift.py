"""tune and queries that are unlike the base: noticed without ground truth, and calibrated for."""

import dataclasses

import numpy as np
import pytest
from generated import generate

import pqlib
from pqlib import evaluation
from pqlib.tuning.shift import kolmogorov_smirnov, shift

K = 10


def shifted(kind, n=6000, nq=1500, d=32, seed=0):
    """A data set whose queries are the base's kind, but for a shift."""
    ds = generate("mixture-25-small", n=n, nq=nq, d=d, seed=seed)
    rng = np.random.default_rng(seed)
    queries = ds.test.astype(np.float64)
    if kind == "rotated":
        queries = queries @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    elif kind == "scaled":
        queries = 1.4 * queries
    elif kind == "other clusters":
        # Each half way between two queries of different clusters.
        queries = (queries + queries[::-1]) / 2
    elif kind == "other noise":
        queries = queries + rng.normal(scale=0.5 * queries.std(), size=queries.shape)
    return pqlib.Dataset.of(ds.train, queries.astype(np.float32))


def tune(ds, recall=0.9, **arguments):
    return pqlib.tune(ds, recall, K, **{"progress": False, "budget_s": 1.5, **arguments})


@pytest.mark.parametrize("kind", ["rotated", "scaled", "other clusters", "other noise"])
def test_a_shift_is_noticed_and_the_recall_reached(kind):
    ds = shifted(kind)
    # What stands in the data set as ground truth is not looked at.
    poisoned = dataclasses.replace(
        ds,
        neighbors=np.zeros_like(ds.neighbors),
        distances=np.full_like(ds.distances, np.nan),
    )
    tuned = tune(poisoned)
    assert tuned.shift.unlike
    assert not tuned.held_back
    np.testing.assert_array_equal(tuned.calibration, ds.test[tuned.shift.rows])
    assert len(tuned.shift.rows) <= ds.nq // 2
    assert "UNLIKE vectors of the base" in tuned.report()
    each = evaluation.query_recall(tuned.index.search(ds.test, K)[1], ds, K)
    assert each.mean() >= 0.9 - 0.005
    unseen = np.delete(each, tuned.shift.rows).mean()
    low, high = tuned.interval
    error = each.std() / len(each) ** 0.5
    assert low - 2 * error <= unseen <= high + 2 * error
    assert low <= tuned.best.recall <= high


def test_without_a_shift_vectors_of_the_base_serve():
    tuned = tune(shifted("none"))
    assert not tuned.shift.unlike
    assert tuned.held_back
    assert "are like vectors of the base" in tuned.report()


def test_without_the_calibration_the_promise_would_not_hold():
    """The case that this is for: text queries against definitions."""
    ds = pqlib.load_dataset("gloss-minilm", n_train=5000)
    blind = tune(dataclasses.replace(ds, test=ds.train[: ds.nq]), 0.9, budget_s=3)
    kept = pqlib.recall_at_k(blind.index.search(ds.test, K)[1], ds, K)
    assert kept < 0.9 - 0.02
    seeing = tune(ds, 0.9, budget_s=3)
    assert seeing.shift.unlike
    assert pqlib.recall_at_k(seeing.index.search(ds.test, K)[1], ds, K) >= 0.9 - 0.005


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_other_metrics_are_tuned_too(metric):
    ds = shifted("none", n=3000, nq=300)
    ds = pqlib.Dataset.of(ds.train - ds.train.mean(axis=0), ds.test - ds.train.mean(axis=0), metric)
    tuned = tune(ds)
    assert tuned.reached
    assert tuned.index.metric == metric
    values, ids = tuned.index.search(ds.test, K)
    assert (np.diff(values, axis=1) <= 1e-6).all()
    assert pqlib.recall_at_k(ids, ds, K) >= 0.9 - 0.02
    assert tuned.unlike(ds.test) < 0.2


def test_the_distance_of_two_samples():
    a, b = np.arange(10.0), np.arange(10.0) + 5
    assert kolmogorov_smirnov(a, a) == 0
    assert kolmogorov_smirnov(a, b) == pytest.approx(0.5)
    assert kolmogorov_smirnov(a, a + 100) == 1
    rng = np.random.default_rng(0)
    rows = np.arange(500)
    false = [shift(rng.normal(size=1000), rng.normal(size=500), rows).unlike for _ in range(500)]
    assert sum(false) <= 15  # one in a hundred is meant


def test_queries_that_are_not_finite_are_named():
    ds = shifted("none", n=2000, nq=100)
    with pytest.raises(ValueError, match=r"queries of ds\[0, 0\] is nan"):
        tune(dataclasses.replace(ds, test=np.full_like(ds.test, np.nan)))
