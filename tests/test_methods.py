"""The table of methods of notebook 05, what is measured from it, and the sketch's audit."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import pqlib
from pqlib.study import compare, methods, sketch
from pqlib.study.notebook import Study


@pytest.fixture(scope="module")
def build(clustered, as_dataset):
    return methods.Builder(Study(as_dataset(*clustered), 10, 3, "uint8"), seed=1)


@pytest.fixture(scope="module")
def table(build):
    lists, brute = build.lists(), build.exact()
    local = build.codes("per-cluster")
    rows = [
        ("brute force", brute, {}),
        ("k-means", lists, {}),
        ("k-means, two levels", lists, {"nprobe_outer": 1}),
        ("PQ per cluster", local, {"rerank": False}),
        ("PQ per cluster, re-ranked", local, {"rerank_factor": 4}),
    ]
    return pd.DataFrame(rows, columns=["method", "index", "options"])


@pytest.fixture(scope="module")
def measured(build, table):
    return methods.measure(build.opened.ds, methods.at_probes(table, (1, 3)), 10)


def test_ways_to_search_are_the_methods_at_each_nprobe_and_brute_force_once(table):
    ways = methods.at_probes(table, (1, 3))
    assert ways.nprobe.tolist() == [1] * 4 + [3] * 4 + [0]
    assert ways.method.tolist() == [*table.method[1:]] * 2 + ["brute force"]
    assert ways.options[1] == {"nprobe_outer": 1, "nprobe": 1}
    assert ways.options[8] == {}
    assert "nprobe" not in table.options[1]


def test_measured_is_what_the_indexes_say(build, table, measured):
    ds, (points, recalls) = build.opened.ds, measured
    local = table["index"][3]
    _, ids = local.search(ds.test, 10, 3, rerank=False)
    row = points[(points.method == "PQ per cluster") & (points.nprobe == 3)].iloc[0]
    assert row.recall == pytest.approx(pqlib.recall_at_k(ids, ds, 10))
    assert recalls["PQ per cluster", 3].mean() == pytest.approx(row.recall)
    store = local.memory()["re-ranking store"]
    assert row.bytes_per_vector * ds.n == pytest.approx(local.memory_bytes - store)
    assert row[list(methods.STAGES)].sum() == pytest.approx(row.distance_computations)
    exact = points.iloc[-1]
    assert (exact.method, exact.recall, exact.distance_computations) == ("brute force", 1, ds.n)


def test_memory_has_a_row_for_each_method_that_holds_something_of_its_own(build, table):
    held = methods.memory_by_part(build.opened.ds, table)
    assert held.index.tolist() == ["k-means", "PQ per cluster", "PQ per cluster, re-ranked"]
    parts = held.drop(columns=["total", "compression"])
    np.testing.assert_allclose(parts.sum(axis=1), held.total)
    assert held.total["k-means"] * 2000 == pytest.approx(table["index"][1].memory_bytes)


def test_seconds_of_building_are_of_the_clustering_and_the_own_index(build, table):
    seconds = build.seconds
    own = seconds["clustering"] + seconds["PQ per cluster"]
    assert build.building("PQ per cluster, re-ranked") == own
    assert build.building("brute force") == seconds["brute force"]


def test_the_first_seed_gives_what_was_measured(build, table, measured):
    seeds = compare.over_seeds(build, table, (1, 3), 10, (1, 2))
    assert len(seeds) == 2 * 2 * 4
    first = seeds[seeds.seed == 1].set_index(["method", "nprobe"]).recall
    _, recalls = measured
    for key in (("PQ per cluster", 1), ("PQ per cluster, re-ranked", 3)):
        assert first[key] == pytest.approx(recalls[key].mean())
    intervals = compare.uncertainty(seeds, recalls)
    assert (intervals.seed_low <= intervals.seed_mean).all()
    assert len(intervals) == 8


def test_differences_are_taken_query_by_query(measured):
    _, recalls = measured
    (row,) = compare.differences(recalls, [("k-means", "PQ per cluster")], 3).itertuples()
    gap = recalls["k-means", 3] - recalls["PQ per cluster", 3]
    assert row.difference == pytest.approx(gap.mean())
    assert row.low < row.difference < row.high


def test_the_sketchs_claims_on_a_set_too_small_for_its_threshold(build, table):
    ds = build.opened.ds
    draft = sketch.Sketch(ds)
    assert (draft.m, draft.threshold, draft.skipped) == (8, 2048, 100)
    numpy_ids = sketch.numpy_search(ds.train, 10, ds.test)
    assert pqlib.recall_at_k(numpy_ids, ds, 10) == 1
    claims = draft.claims(10, numpy_ids, numpy_ids, numpy_ids)
    truth = claims.set_index("what")["as measured here"]
    assert truth["clusters searched with product codes"] == "0"
    assert truth["k-means index, MB"] == f"{(110 * 64 + 2000 * 8 + 2000 * 64) / 1e6:.2f}"
    assert len(claims) == 7
    assert any("100 of 100 were skipped" in said for said in draft.findings())
    with pytest.raises(ValueError, match="at least 100"):
        sketch.Sketch(dataclasses.replace(ds, train=ds.train[:50]))
