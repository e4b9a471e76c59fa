import time

import numpy as np
import pandas as pd
import pytest

import pqlib
from pqlib import evaluation
from pqlib.study import (
    NotRun,
    save_table,
    sweep,
    training_multiplications,
    within_budget,
)


@pytest.fixture
def line(as_dataset):
    """Base 0, 1, 2, ... on a line with ties: query at 10 has 9 and 11 equally near."""
    base = np.arange(300, dtype=np.float32)[:, None]
    return as_dataset(base, np.array([[10.0], [50.0]], np.float32))


def test_recall_compares_sets_and_counts_ties(line):
    assert pqlib.recall_at_k(np.array([[9, 10], [49, 50]]), line, 2) == 1
    # 9 and 11 are equally near: either is right, in any order.
    assert pqlib.recall_at_k(np.array([[11, 10], [51, 50]]), line, 2) == 1
    assert pqlib.recall_at_k(np.array([[10, 13], [50, 49]]), line, 2) == 0.75
    assert list(evaluation.query_recall(np.array([[10, 13], [50, 49]]), line, 2)) == [0.5, 1]


def test_recall_never_exceeds_one_and_ignores_padding_and_repeats(line):
    assert pqlib.recall_at_k(np.array([[10, 9, 11], [50, 49, 51]]), line, 2) == 1
    assert pqlib.recall_at_k(np.array([[10, -1], [-1, -1]]), line, 2) == 0.25
    assert pqlib.recall_at_k(np.array([[10, 10], [50, 50]]), line, 2) == 0.5


def test_ties_beyond_the_listed_neighbours_count(as_dataset):
    base = np.zeros((150, 2), np.float32)
    base[140:] = 5
    ds = as_dataset(base, np.zeros((1, 2), np.float32))
    assert pqlib.recall_at_k(np.array([[139, 138]]), ds, 2) == 1
    assert pqlib.recall_at_k(np.array([[139, 149]]), ds, 2) == 0.5


def test_one_recall_is_another_number(line):
    ids = np.array([[200, 10, 201], [50, 202, 203]])
    assert pqlib.one_recall_at(ids, line, 1) == 0.5
    assert pqlib.one_recall_at(ids, line, 2) == 1
    assert pqlib.recall_at_k(ids, line, 3) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda ds: pqlib.recall_at_k(np.zeros((2, 3)), ds, 1), "float64"),
        (lambda ds: pqlib.recall_at_k(np.zeros((3, 3), int), ds, 1), "nq <= 2"),
        (lambda ds: pqlib.recall_at_k(np.zeros((2, 3), int), ds, 101), "k=101"),
        (lambda ds: pqlib.one_recall_at(np.zeros((2, 3), int), ds, 4), "R=4"),
    ],
)
def test_errors_name_the_argument(line, call, words):
    with pytest.raises(ValueError, match=words):
        call(line)


def test_losses_add_up_and_know_their_cause(clustered, as_dataset):
    base, queries = clustered
    ds = as_dataset(base, queries)
    index = pqlib.MultiLevelPQ(16, 20, 5, m=2, nbits=4, rerank="float32").train(base).add(base)
    home = index.clustering.assign(base)
    for nprobe in (1, 3, 20):
        _, keys = index.clustering.probe(queries, nprobe)
        for rerank in (False, True):
            _, ids = index.search(queries, 10, nprobe, rerank_factor=200, rerank=rerank)
            split = evaluation.loss_split(ids, ds, 10, keys, home)
            assert sum(split.values()) == pytest.approx(1)
            assert min(split.values()) >= 0
            if nprobe == 20:
                assert split["routing"] == 0
            if rerank:
                assert split["quantization"] == pytest.approx(0, abs=1e-9)
            else:
                assert split["quantization"] > 0.05
    limits = evaluation.routing_recall(ds, 10, keys, home)
    _, ids = index.search(queries, 10, 3, rerank_factor=200)
    assert limits[2] == pytest.approx(pqlib.recall_at_k(ids, ds, 10), abs=0.01)
    assert limits[-1] == 1


def test_timing_interleaves_and_orders():
    order = []
    slow = lambda: (order.append("slow"), time.sleep(0.03))  # noqa: E731
    fast = lambda: (order.append("fast"), time.sleep(0.005))  # noqa: E731
    table = evaluation.time_calls({"slow": slow, "fast": fast}, repeats=3).set_index("name")
    assert table.median_s["slow"] > table.median_s["fast"] > 0.004
    assert (table.min_s <= table.median_s).all()
    assert (table.median_s <= table.max_s).all()
    assert order.index("fast") < len(order) - 1 - order[::-1].index("slow")


def test_latency_percentiles_are_ordered(clustered):
    found = evaluation.single_query_latency(lambda q: len(q) == 1 or 1 / 0, clustered[1], 30)
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]


def test_intrinsic_dimension_of_known_manifolds():
    rng = np.random.default_rng(0)
    for dimension in (2, 8):
        flat = rng.random((20_000, dimension))
        x = np.hstack([flat, np.zeros((20_000, 4))]).astype(np.float32)
        distances = np.sqrt(pqlib.BruteForce(x.shape[1]).add(x).search(x[:200], 31)[0])
        estimate = evaluation.intrinsic_dimension(distances[:, 1:])
        assert estimate == pytest.approx(dimension, rel=0.15)


def test_contrast_tells_structure_from_noise(clustered, as_dataset):
    base, queries = clustered
    rng = np.random.default_rng(0)
    noise = as_dataset(*(rng.random((n, 16), dtype=np.float32) for n in (2000, 50)))
    assert evaluation.relative_contrast(as_dataset(base, queries)) > 1.2 * (
        evaluation.relative_contrast(noise)
    )


def test_sweep_keeps_what_could_not_run(tmp_path):
    def measure(m):
        if m == 3:
            raise NotRun("m=3 needs more")
        return [{"recall": m / 10, "nprobe": p} for p in (1, 2)]

    table = sweep([{"m": 2}, {"m": 3}], measure)
    assert list(table.m) == [2, 2, 3]
    assert list(table.status) == ["ok", "ok", "not run"]
    assert table.reason.iloc[-1] == "m=3 needs more"
    save_table(table, tmp_path, "sweep")
    again = pd.read_csv(tmp_path / "results" / "sweep.csv")
    assert list(again.columns) == list(table.columns)
    assert again.recall.iloc[0] == 0.2
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["sweep.csv"]
    save_table(table, None, "sweep")


def test_training_cost_and_its_limits():
    sizes = np.array([600, 300, 100])
    both = training_multiplications(1000, 8, 8, "per-cluster", sizes, None)
    assert both == 25 * 8 * 256 * (600 + 300 + 1000)
    assert training_multiplications(1000, 8, 8, "shared", sizes, 500) == 25 * 8 * 256 * 500
    with pytest.raises(NotRun, match="65,536 residuals in a cluster; the largest has 600"):
        training_multiplications(1000, 8, 16, "per-cluster", sizes, None)
    with pytest.raises(NotRun, match="65,536 training vectors; there are 1,000"):
        training_multiplications(1000, 8, 16, "shared", sizes, None)
    with pytest.raises(NotRun, match="2.0 times the budget"):
        within_budget(2e9, 1e9)
