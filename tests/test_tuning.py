"""The index that tune chooses: what it promises, on data it was not made for."""

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest
from generated import SETS, as_dataset, generate

import pqlib
from pqlib import Dataset, evaluation
from pqlib.indexes import BruteForce, CascadeIndex
from pqlib.tuning import UNLIKE, compositions

K = 10


def tune(ds, **arguments):
    return pqlib.tune(ds, **{"progress": False, "budget_s": 1, **arguments})


def assert_keeps_its_word(tuned, ds, k=K):
    """The recall asked for is reached on queries tuning has not seen, or said not to be."""
    _, ids = tuned.index.search(ds.test, k)
    each = evaluation.query_recall(ids, ds, k)
    # Both the calibration and this test are samples of queries.
    error = each.std() * math.sqrt(1 / len(each) + 1 / len(tuned.calibration))
    if tuned.reached:
        assert tuned.best.recall >= tuned.recall
        assert each.mean() >= tuned.recall - 0.005 - 3 * error
    assert abs(each.mean() - tuned.best.recall) <= 0.005 + 4 * max(error, 0.001)


def bytes_of_message(error):
    return int(re.search(r"needs ([\d,]+) bytes", str(error.value))[1].replace(",", ""))


@pytest.fixture(scope="module")
def fractional():
    return generate("mixture-25-small", n=4000, nq=1000, d=16)


@pytest.fixture(scope="module")
def whole():
    return generate("whole-100", n=4000, nq=1000, d=24)


@pytest.fixture(scope="module")
def tuned(fractional):
    return tune(fractional, budget_s=2)


@pytest.fixture(scope="module")
def tuned_whole(whole):
    return tune(whole, budget_s=2)


@pytest.mark.parametrize("name", sorted(SETS))
def test_generated_sets_are_what_they_say(name):
    recipe = SETS[name]
    assert 25 <= recipe.d <= 1536
    assert 10_000 <= recipe.n <= 1_000_000
    ds = generate(name, n=400, nq=20)
    assert (ds.n, ds.nq, ds.d) == (400, 20, recipe.d)
    again = generate(name, n=400, nq=20)
    np.testing.assert_array_equal(ds.train, again.train)
    assert not np.array_equal(ds.train, generate(name, n=400, nq=20, seed=1).train)
    assert ds.whole_numbers == (name.split("-")[0] in ("whole", "duplicates", "bits"))
    if name.startswith("unit"):
        np.testing.assert_allclose(np.linalg.norm(ds.train, axis=1), 1, rtol=1e-5)


# What is promised -----------------------------------------------------------------------------


def test_the_recall_is_reached_with_the_defaults_of_the_index(tuned, fractional):
    assert_keeps_its_word(tuned, fractional)
    assert tuned.reached
    assert tuned.index.ntotal == fractional.n
    best, settings = tuned.best, tuned.index.settings
    assert (best.nprobe, best.candidates) == (settings.nprobe, settings.candidates)
    assert (None if math.isnan(best.margin) else best.margin) == settings.margin


@pytest.mark.parametrize(
    ("name", "n", "d"),
    [
        ("far-64", 5000, 24),
        ("lengths-40", 5000, 24),
        ("duplicates-64", 8000, 32),
        ("heavy-tailed-48", 5000, 16),
        ("bits-256", 3000, 64),
        ("unit-768", 3000, 96),
    ],
)
def test_the_recall_calibrated_is_that_of_other_queries(name, n, d):
    ds = generate(name, n=n, nq=1000, d=d)
    assert_keeps_its_word(tune(ds, budget_s=0.6), ds)


def test_whole_numbers_are_kept_as_bytes_and_others_as_floats(tuned, tuned_whole, whole):
    assert tuned.index.rerank == "float32"
    assert tuned_whole.index.rerank == "uint8"
    assert_keeps_its_word(tuned_whole, whole)
    # One fraction, in the last vector, is enough.
    train = whole.train.copy()
    train[-1, -1] += 0.5
    one = tune(dataclasses.replace(whole, train=train), budget_s=0.5)
    assert isinstance(one.index, BruteForce) or one.index.rerank == "float32"


def test_fractional_queries_of_whole_numbers_are_measured_by_their_own_distances():
    ds = generate("bits-256", n=3000, nq=2000, d=64)
    rng = np.random.default_rng(0)
    queries = (ds.test + rng.uniform(-0.3, 0.3, ds.test.shape)).astype(np.float32)
    half = as_dataset(ds.train, queries[1000:])
    assert_keeps_its_word(tune(half, queries=queries[:1000]), half)


def test_the_ground_truth_of_the_data_set_is_not_looked_at(fractional):
    poisoned = dataclasses.replace(
        fractional,
        neighbors=np.full_like(fractional.neighbors, -7),
        distances=np.full_like(fractional.distances, np.nan),
    )
    assert_keeps_its_word(tune(poisoned), fractional)


def test_queries_given_are_those_calibrated_with(fractional):
    rng = np.random.default_rng(1)
    far = (fractional.test + rng.normal(size=fractional.test.shape)).astype(np.float32)
    tuned = tune(fractional, queries=far[:500])
    np.testing.assert_array_equal(tuned.calibration, far[:500])
    assert not tuned.held_back
    assert "500 queries" in tuned.report()
    assert_keeps_its_word(tuned, as_dataset(fractional.train, far[500:]))
    assert tuned.unlike(far[500:]) < UNLIKE
    assert tuned.unlike(fractional.test) >= UNLIKE
    assert tune(fractional, queries=far[:1], budget_s=0.5).calibration.shape == (1, 16)


@pytest.mark.parametrize("k", [1, 100])
def test_few_and_many_neighbours(fractional, k):
    tuned = tune(fractional, k=k)
    assert tuned.k == k
    assert_keeps_its_word(tuned, fractional, k)


def test_recall_of_one(fractional):
    tuned = tune(fractional, recall=1.0)
    assert tuned.reached
    assert tuned.best.recall == 1
    assert_keeps_its_word(tuned, fractional)


# Limits ---------------------------------------------------------------------------------------


def test_bytes_are_kept_or_refused_with_the_smallest_size(whole):
    with pytest.raises(ValueError, match=r"^max_bytes=1: no index") as error:
        tune(whole, max_bytes=1)
    smallest = bytes_of_message(error)
    assert whole.d < smallest < 4 * whole.d
    at_least = tune(whole, max_bytes=smallest + 1)
    assert at_least.index.bytes_per_vector <= smallest + 1
    with pytest.raises(ValueError, match=f"max_bytes={smallest - 1}"):
        tune(whole, max_bytes=smallest - 1)
    for limit in (48, 4 * whole.d):
        tuned = tune(whole, max_bytes=limit)
        assert tuned.index.bytes_per_vector <= limit
        assert f"at most {limit} bytes per vector" in tuned.report()
        assert_keeps_its_word(tuned, whole)


def test_fractional_vectors_take_what_exact_search_takes(fractional):
    with pytest.raises(ValueError, match="max_bytes=63") as error:
        tune(fractional, max_bytes=63)
    assert bytes_of_message(error) == 64
    tuned = tune(fractional, max_bytes=64)
    assert str(tuned.composition) == "exact search"
    assert tuned.index.bytes_per_vector == 64
    assert tuned.settings(0.99) == {}


def test_what_is_not_reached_is_said():
    x = np.random.default_rng(0).integers(0, 256, (5500, 48)).astype(np.float32)
    ds = as_dataset(x[:5000], x[5000:])
    with pytest.raises(ValueError, match="no index") as error:
        tune(ds, max_bytes=1)
    # So few bytes leave room for few components only, of numbers that are all as important.
    tuned = tune(ds, max_bytes=bytes_of_message(error) + 2, recall=0.999)
    assert not tuned.reached
    assert "NOT REACHED" in tuned.report()
    assert_keeps_its_word(tuned, ds)
    with pytest.raises(ValueError, match="Tune for a higher recall"):
        tuned.settings(1.0)


@pytest.mark.parametrize("budget", [0.001, 0.5])
def test_a_tight_budget_gives_an_index_and_says_what_it_left_out(budget):
    ds = generate("cube-32", n=20_000, nq=200)
    tuned = tune(ds, budget_s=budget)
    assert tuned.seconds < 30
    assert tuned.tried.outcome.str.startswith("not tried: no time left").any()
    assert "not tried: no time left" in tuned.report()
    assert_keeps_its_word(tuned, ds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recall": 0}, "recall=0"),
        ({"recall": 1.5}, "recall=1.5"),
        ({"recall": math.nan}, "recall=nan"),
        ({"objective": "speed"}, "objective='speed'.*qps, latency, bytes"),
        ({"budget_s": 0}, "budget_s=0"),
        ({"budget_s": math.nan}, "budget_s=nan"),
        ({"max_bytes": 0}, "max_bytes=0"),
        ({"max_bytes": math.nan}, "max_bytes=nan"),
        ({"k": 0}, "k=0"),
        ({"k": 2.5}, "k=2.5"),
        ({"k": 4000}, "k=4000: expected a whole number in 1..3999"),
        ({"seed": -1}, "seed=-1"),
        ({"queries": np.zeros((5, 15), np.float32)}, "queries has vectors of dimension 15"),
        ({"queries": np.zeros(16, np.float32)}, "queries has shape"),
        ({"queries": np.zeros((0, 16), np.float32)}, "queries has shape"),
        ({"queries": np.full((5, 16), np.nan, np.float32)}, r"queries\[0, 0\] is nan"),
    ],
)
def test_wrong_arguments_are_named(fractional, arguments, message):
    with pytest.raises(ValueError, match=message):
        tune(fractional, **arguments)


def test_a_base_that_cannot_be_searched_is_refused(fractional):
    train = fractional.train.copy()
    train[77, 3] = np.nan
    with pytest.raises(ValueError, match=r"\[77, 3\] is nan"):
        tune(dataclasses.replace(fractional, train=train))
    with pytest.raises(ValueError, match="1 base vectors"):
        tune(dataclasses.replace(fractional, train=train[:1]), k=1)


@pytest.mark.parametrize(("n", "k"), [(2, 1), (3, 2), (11, 10), (50, 10)])
def test_very_few_vectors(n, k):
    x = np.random.default_rng(0).normal(size=(n + 100, 6)).astype(np.float32)
    ds = as_dataset(x[:n], x[n:])
    tuned = tune(ds, k=k)
    distances, ids = tuned.index.search(ds.test, k)
    assert ids.shape == (100, k)
    assert np.isfinite(distances).all()
    assert pqlib.recall_at_k(ids, ds, k) >= 0.8
    tune(ds, k=k, queries=ds.test)


def test_one_dimension_and_vectors_that_are_all_the_same():
    x = np.random.default_rng(0).normal(size=(6000, 1)).astype(np.float32)
    line = as_dataset(x[:5000], x[5000:])
    assert_keeps_its_word(tune(line), line)
    for value in (3.0, 0.3):
        same = as_dataset(np.full((2000, 8), value), np.full((10, 8), value))
        assert_keeps_its_word(tune(same, budget_s=0.3), same)


# What is chosen -------------------------------------------------------------------------------


def test_the_smallest_and_the_quickest(whole, tuned_whole, monkeypatch):
    smallest = tune(whole, objective="bytes", budget_s=2)
    assert smallest.index.bytes_per_vector <= tuned_whole.index.bytes_per_vector
    assert_keeps_its_word(smallest, whole)
    # Each measurement is quicker than the one before, whatever else the machine does.
    times = (1 / n for n in itertools.count(1))
    monkeypatch.setattr(
        "pqlib.evaluation.single_query_latency", lambda *_, **__: {"p50_ms": next(times)}
    )
    quickest = tune(whole, objective="latency")
    rows = quickest.tried[quickest.tried.reached]
    assert (rows.outcome == "chosen").sum() == 1
    assert rows.loc[rows.outcome == "chosen", "p50_ms"].item() == rows.p50_ms.min()
    assert_keeps_its_word(quickest, whole)


def test_components_follow_the_intrinsic_dimension():
    low = generate("latent-384", n=4000, nq=500, d=256)
    tuned = tune(low)
    assert tuned.composition.rotation == "pca"
    assert tuned.composition.components <= 80
    assert_keeps_its_word(tuned, low)
    # Variance is the same in all directions: half of the components are half of a distance.
    full = generate("cube-32", n=5000, nq=500)
    tuned = tune(full)
    assert tuned.composition.n_lists is None or tuned.composition.components > full.d / 2
    assert_keeps_its_word(tuned, full)


def test_more_time_is_used_to_look_around(fractional):
    tried = tune(fractional, budget_s=8).tried
    names = list(tried.composition)
    assert names[0] == "exact search"
    assert len(set(names)) == len(names)
    assert tried.seconds.notna().sum() >= 3


# What is told ---------------------------------------------------------------------------------


def test_the_report_names_what_was_dropped_and_why(tuned, fractional):
    text = tuned.report(fractional.test)
    assert (tuned.tried.outcome == "chosen").sum() == 1
    for row in tuned.tried.itertuples():
        assert re.search(rf"{re.escape(row.composition)}:.* {re.escape(row.outcome)}\n", text)
        assert re.match("chosen|dropped: |not built: |not tried: ", row.outcome)
    assert f"Chosen: {tuned.composition}." in text
    settings = tuned.index.settings
    assert f"Search defaults: nprobe={settings.nprobe}, candidates={settings.candidates}" in text
    assert "are like the calibration queries" in text
    assert "NOT REACHED" not in text
    assert "UNLIKE" in tuned.report(fractional.test + fractional.train.std())
    assert str(tuned) == tuned.report()


def test_queries_unlike_those_calibrated_with_are_noticed(tuned, tuned_whole, fractional, whole):
    for found, ds in ((tuned, fractional), (tuned_whole, whole)):
        assert found.unlike(ds.test) < UNLIKE
        assert found.unlike(ds.test + ds.train.std()) >= UNLIKE
    with pytest.raises(ValueError, match="xq has vectors of dimension 15"):
        tuned.unlike(fractional.test[:, :15])


def test_settings_for_other_recalls(tuned, fractional):
    # Recalls other than the one asked for are looked up as far as time is left.
    assert 0.95 in set(tuned.curve.target)
    for recall in (0.8, 0.9, 0.95):
        arguments = tuned.settings(recall)
        _, ids = tuned.index.search(fractional.test, K, **arguments)
        assert pqlib.recall_at_k(ids, fractional, K) >= recall - 0.02
    assert (tuned.curve.recall >= tuned.curve.target).all()
    with pytest.raises(ValueError, match=r"recall=1.1: expected at most"):
        tuned.settings(1.1)


def test_a_saved_index_keeps_defaults_and_answers(tuned, tuned_whole, fractional, whole, tmp_path):
    for found, ds in ((tuned, fractional), (tuned_whole, whole)):
        path = tmp_path / "tuned.pqlib"
        found.index.save(path)
        again = pqlib.load_index(path)
        assert isinstance(again, CascadeIndex)
        assert again.settings == found.index.settings
        for ours, theirs in zip(
            found.index.search(ds.test, K), again.search(ds.test, K), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


# Graphs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_graphs_are_chosen_among_where_asked_for(metric):
    ds = pqlib.load_dataset("gloss-minilm", n_train=4000, n_test=300)
    if metric == "ip":
        ds = Dataset.of(ds.train * 2, ds.test, metric="ip")
    tuned = tune(ds, recall=0.9, graphs=True, budget_s=15)
    tried = tuned.tried.composition.tolist()
    assert any(name.startswith("graph of degree") for name in tried)
    assert any("lists" in name for name in tried)
    assert_keeps_its_word(tuned, ds)
    without = tune(ds, recall=0.9, budget_s=2)
    assert not any("graph" in name for name in without.tried.composition)


def test_graphs_need_queries_to_calibrate_with():
    alone = generate("cube-32", n=2000, nq=1)
    with pytest.raises(ValueError, match="graphs=True with 1 queries"):
        tune(alone, graphs=True)
    tuned = tune(alone, graphs=True, queries=alone.train[:100] + np.float32(0.01))
    assert tuned.shift is None


def test_a_graph_that_is_chosen_has_settings_for_each_recall(monkeypatch):
    ds = pqlib.load_dataset("photo-sift", n_train=5000, n_test=300)
    # Whatever is faster on this machine: the graph is the only one tried.
    monkeypatch.setattr("pqlib.tuning.search.starts", lambda task: [])
    monkeypatch.setattr(pqlib.tuning.search._Search, "_try_exact", lambda self: None)
    tuned = tune(ds, recall=0.95, graphs=True, budget_s=10)
    assert str(tuned.composition) == "graph of degree 28, no rotation"
    settings = tuned.index.settings
    assert (settings.ef, settings.candidates) == (tuned.best.ef, tuned.best.candidates)
    assert (tuned.curve.ef >= tuned.curve.candidates).all()
    assert (tuned.curve.codes > tuned.curve.ef).all()
    assert "Search defaults: ef=" in tuned.report()
    assert_keeps_its_word(tuned, ds)
    given = tuned.index.search(ds.test, 10, **tuned.settings(0.9))[1]
    assert pqlib.recall_at_k(given, ds, 10) > 0.88
    size = tuned.index.bytes_per_vector
    planned = compositions.expected_bytes(tuned.composition, tuned.task)
    assert planned == pytest.approx(size, rel=0.1)
