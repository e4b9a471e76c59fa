"""Recall as ann-benchmarks counts it, written from its description, beside ours."""

import dataclasses

import numpy as np
import pytest
from conftest import file_or_skip

import pqlib
from pqlib import evaluation
from pqlib.datasets import registry

EPSILON = 1e-3


def oracle(ids, ds, k):
    """A returned vector is right when it is no further than the k-th nearest and EPSILON."""
    right = 0
    for query, row, listed in zip(ds.test, ids, ds.distances, strict=False):
        found = row[:k][row[:k] >= 0]
        gaps = ds.train[found].astype(np.float64) - query.astype(np.float64)
        limit = float(listed[k - 1]) + EPSILON
        right += (np.sqrt((gaps**2).sum(axis=1)) <= limit).sum()
    return right / (len(ids) * k)


def searches(ds, queries, n_inner, n_outer, m):
    """Yield what each kind of index returns for the first queries: (name, ids)."""
    base, xq = ds.train, ds.test[:queries]
    clustering = pqlib.two_level_kmeans(base, n_inner, n_outer)
    yield "brute force", pqlib.BruteForce(ds.d, copy=False).add(base).search(xq, 100)[1]
    index = pqlib.KMeansIndex(ds.d, n_inner, n_outer).train(base, clustering).add(base)
    yield "k-means, flat", index.search(xq, 100, nprobe=3)[1]
    yield "k-means, two levels", index.search(xq, 100, nprobe=5, nprobe_outer=2)[1]
    for mode, nbits in (("shared", 8), ("per-cluster", 4)):
        index = pqlib.MultiLevelPQ(
            ds.d, n_inner, n_outer, m=m, nbits=nbits, codebooks=mode, rerank="uint8"
        )
        index.train(base, clustering).add(base)
        for rerank in (False, True):
            ids = index.search(xq, 100, nprobe=5, nprobe_outer=4, rerank=rerank)[1]
            yield f"{mode}, re-ranking {rerank}", ids


def agree_everywhere(ds, queries, n_inner, n_outer, m):
    recalls = []
    for name, ids in searches(ds, queries, n_inner, n_outer, m):
        for k in (1, 10, 100):
            wanted = pytest.approx(oracle(ids, ds, k), abs=1e-6)
            assert pqlib.recall_at_k(ids, ds, k) == wanted, (name, k)
            assert pqlib.recall_at_k(ids, ds, k, epsilon=EPSILON) == wanted, (name, k)
            recalls.append(wanted.expected)
    assert recalls[:3] == [1, 1, 1]
    assert min(recalls) < 0.9


def test_photo_sift():
    ds = pqlib.load_dataset("photo-sift", n_train=15_000, n_test=150)
    agree_everywhere(ds, 150, 60, 8, 8)


@pytest.mark.parametrize(("name", "m"), [("fashion-mnist", 8), ("bsds-sift", 8)])
def test_real_files(name, m, monkeypatch, tmp_path):
    path = file_or_skip(name)
    monkeypatch.setenv(registry.CACHE_VARIABLE, str(tmp_path))
    ds = pqlib.load_dataset(path, n_train=8_000, n_test=100, progress=False)
    agree_everywhere(ds, 100, 40, 6, m)


@pytest.fixture
def around(as_dataset):
    """Return a function: one query at 0, and base vectors at the given distances of it."""

    def make(distances, k=100):
        base = np.zeros((len(distances), 2), np.float32)
        base[:, 0] = distances
        return as_dataset(base, np.zeros((1, 2), np.float32), k)

    return make


def counted(ds, i, k=1, **given):
    return bool(evaluation.hits(np.array([[i]]), ds, k, **given)[0, 0])


@pytest.mark.parametrize("scale", [1500.0, 200.0])
def test_at_the_scale_of_real_data_the_slack_is_theirs(around, scale):
    ds = around([scale, scale + 9e-4, scale + 1.2e-3, scale + 0.01])
    for i, right in enumerate([True, True, False, False]):
        assert counted(ds, i) == counted(ds, i, epsilon=EPSILON) == right
        assert oracle(np.array([[i]]), ds, 1) == right
    assert counted(ds, 3, epsilon=0.02)
    assert not counted(ds, 1, epsilon=0)
    assert counted(ds, 0, epsilon=0)


def test_at_a_small_scale_it_is_relative(around):
    ds = around([1e-4, 1.000005e-4, 1.001e-4, 2e-4, 9e-4])
    assert [counted(ds, i) for i in range(5)] == [True, True, False, False, False]
    # Theirs takes all of them for the nearest.
    assert [counted(ds, i, epsilon=EPSILON) for i in range(5)] == [True] * 5


def test_at_a_large_scale_it_is_a_step_of_float32(around):
    far = np.float32(3e6)
    ds = around([far, np.nextafter(far, np.float32(np.inf)), far * np.float32(1 + 1e-5)])
    assert [counted(ds, i) for i in range(3)] == [True, True, False]
    assert [counted(ds, i, epsilon=EPSILON) for i in range(3)] == [True, False, False]


def test_whole_numbers_with_equal_squares_are_tied(as_dataset):
    # (a, b) and (b, a) with any signs have the same squared distance, rarely a float32 one.
    rng = np.random.default_rng(0)
    pairs = rng.integers(700, 2000, (500, 2))
    base = np.concatenate([pairs, pairs[:, ::-1], -pairs]).astype(np.float32)
    ds = as_dataset(base, np.zeros((1, 2), np.float32), k=1)
    first = int(ds.neighbors[0, 0])
    twins = [(first + s) % 1500 for s in (500, 1000)]
    for given in ({}, {"epsilon": EPSILON}, {"epsilon": 0}):
        assert all(counted(ds, i, **given) for i in (first, *twins))
    squares = (base.astype(np.int64) ** 2).sum(axis=1)
    further = int(np.flatnonzero(squares > squares[first] + 3)[0])
    assert not counted(ds, further)


def test_what_the_ground_truth_does_not_list_counts(around):
    distances = [500 + 1e-6 * i for i in range(150)] + [501 + 0.01 * i for i in range(50)]
    ds = around(distances)
    assert ds.neighbors.shape == (1, 100)
    beyond = np.array([[*range(100, 150)]])
    assert pqlib.recall_at_k(beyond, ds, 50) == oracle(beyond, ds, 50) == 1
    further = np.array([[149, 150, 199, -1]])
    assert list(evaluation.hits(further, ds, 10)[0]) == [True, False, False, False]
    assert list(evaluation.hits(further, ds, 10, epsilon=1.2)[0]) == [True, True, False, False]
    assert pqlib.one_recall_at(np.array([[199, 120]]), ds, 2) == 1
    assert pqlib.one_recall_at(np.array([[199, 198]]), ds, 2) == 0
    assert pqlib.one_recall_at(np.array([[199, 198]]), ds, 2, epsilon=2) == 1


def test_random_near_ties_agree_with_the_oracle(as_dataset):
    rng = np.random.default_rng(3)
    base = rng.integers(0, 3, (400, 6)).astype(np.float32) * 100
    base += rng.choice([0, 0.0005, 0.002], size=base.shape).astype(np.float32)
    queries = base[:40] + rng.integers(0, 2, (40, 6)).astype(np.float32) * 100
    for held in (7, 100):
        ds = as_dataset(base, queries, held)
        ids = np.array([rng.permutation(400) for _ in queries])
        ids[rng.random(ids.shape) < 0.1] = -1
        for k in (1, 5, 7):
            gap = base[None].astype(np.float64) - queries[:, None]
            near = np.sqrt((gap**2).sum(axis=2)).astype(np.float32)
            right = near <= ds.distances[:, k - 1 : k].astype(np.float64) + EPSILON
            wanted = np.take_along_axis(right, np.maximum(ids, 0), 1) & (ids >= 0)
            assert (evaluation.hits(ids, ds, k, epsilon=EPSILON) == wanted).all()
            theirs = oracle(ids, ds, k)
            assert pqlib.recall_at_k(ids, ds, k, epsilon=EPSILON) == pytest.approx(theirs)


def test_repeats_count_once_wherever_they_stand(around):
    ds = around([1, 2, 3, 4, 5])
    ids = np.array([[1, 0, 1, -1, 0, -1, 2]])
    assert list(evaluation.hits(ids, ds, 3)[0]) == [True, True, *4 * [False], True]


def test_returned_distances_are_those_of_the_ground_truth(photo_sift):
    ds = photo_sift
    assert (evaluation.returned_distances(ds.neighbors[:50], ds) == ds.distances[:50]).all()
    found = evaluation.returned_distances(np.array([[-1, 5]]), ds)
    assert found.dtype == np.float32
    assert found[0, 0] == np.inf
    assert found[0, 1] == pytest.approx(np.linalg.norm(ds.train[5] - ds.test[0]))


def test_relative_error_by_hand(around):
    ds = around([1, 2, 4, 8, 16])
    error = lambda *ids, k=2: evaluation.relative_distance_error(np.array(ids), ds, k)  # noqa: E731
    assert error([0, 1]) == error([1, 0]) == 0
    assert error([0, 3]) == pytest.approx(9 / 3 - 1)
    assert error([0, 1, 4]) == 0
    # One of two found is compared with the nearest one, wherever -1 stands.
    assert error([2, -1]) == error([-1, 2]) == error([2]) == pytest.approx(4 - 1)
    assert error([2, 2]) == pytest.approx(4 - 1)
    assert np.isnan(error([-1, -1]))


def test_relative_error_leaves_out_what_has_none(as_dataset):
    base = np.arange(6, dtype=np.float32)[:, None]
    queries = np.array([[0], [0], [2.25], [3.0]], np.float32)
    ds = as_dataset(base, queries)
    ids = np.array([[0], [5], [3], [-1]])
    # Of the first two, the nearest lies at 0; the last found nothing.
    assert evaluation.relative_distance_error(ids, ds, 1) == pytest.approx(0.75 / 0.25 - 1)
    assert np.isnan(evaluation.relative_distance_error(ids[:2], ds, 1))
    pair = np.array([[0, 5], [1, 0], [2, 3], [-1, 4]])
    assert evaluation.relative_distance_error(pair[:2], ds, 2) == pytest.approx((4 + 0) / 2)


def test_relative_error_of_a_search_falls_with_effort(photo_sift):
    ds = photo_sift
    index = pqlib.KMeansIndex(ds.d, 50, 5).train(ds.train[:8000]).add(ds.train)
    errors = [
        evaluation.relative_distance_error(index.search(ds.test[:100], 10, nprobe=p)[1], ds, 10)
        for p in (1, 5, 50)
    ]
    assert errors[0] > errors[1] > errors[2] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda ds: pqlib.recall_at_k([[0]], ds, 1, epsilon=-1e-3), r"epsilon=-0.001.*>= 0"),
        (lambda ds: pqlib.recall_at_k([[0]], ds, 1, epsilon=np.nan), "epsilon=nan"),
        (lambda ds: pqlib.recall_at_k([[0]], ds, 1, epsilon="1e-3"), "epsilon='1e-3'"),
        (lambda ds: pqlib.recall_at_k([0], ds, 1), r"shape \(1,\)"),
        (lambda ds: pqlib.recall_at_k([[5]], ds, 1), r"ids holds 5.*rows? numbers 0\.\.4"),
        (lambda ds: pqlib.recall_at_k([[-2]], ds, 1), "ids holds -2"),
        (lambda ds: pqlib.recall_at_k(np.empty((0, 3), int), ds, 1), r"shape \(0, 3\)"),
        (lambda ds: evaluation.relative_distance_error([[0]], ds, 6), "k=6"),
        (lambda ds: evaluation.returned_distances([[0.5]], ds), "float64"),
    ],
)
def test_errors_name_the_argument(around, call, words):
    with pytest.raises(ValueError, match=words):
        call(around([1, 2, 3, 4, 5]))


def test_a_large_slack_costs_no_loop_over_queries(photo_sift):
    # Every list then ends within the slack; all returned are compared in blocks.
    ds = dataclasses.replace(
        photo_sift, neighbors=photo_sift.neighbors[:, :10], distances=photo_sift.distances[:, :10]
    )
    ids = np.tile(np.arange(0, 40_000, 400), (len(ds.test), 1))
    limit = ds.distances[:, 9:].astype(np.float64) + 100
    wanted = evaluation.returned_distances(ids, ds) <= limit
    assert 0 < wanted.mean() < 0.5
    assert (evaluation.hits(ids, ds, 10, epsilon=100) == wanted).all()
