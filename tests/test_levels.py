"""Flat and two-level probing at the same recall, and where the second level begins to pay."""

import math

import numpy as np
import pandas as pd
import pytest

import pqlib
from pqlib.clustering import TOP_DOWN_ITERATIONS, two_level_kmeans
from pqlib.study import levels


@pytest.fixture(scope="module")
def made(clustered, as_dataset):
    return as_dataset(*clustered)


@pytest.fixture(scope="module")
def index(made):
    clustering = two_level_kmeans(made.train, 40, 6)
    return pqlib.KMeansIndex(16, 40, 6).train(made.train, clustering).add(made.train)


def test_sizes_are_powers_of_two_with_room_in_every_cluster():
    assert levels.sweep_sizes(40_000)[0] == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert levels.sweep_sizes(40_000)[1] == [64, 128, 256, 512, 1024]
    assert levels.sweep_sizes(60_000)[1] == [128, 256, 512, 1024, 2048]
    for n in (400_000, 10**9):
        counted, timed = levels.sweep_sizes(n)
        assert (counted[0], counted[-1]) == (8, 16_384)
        assert (timed[0], timed[-1]) == (256, 16_384)
    assert levels.sweep_sizes(40_000, largest=100) == ([8, 16, 32, 64], [64])
    assert levels.sweep_sizes(30, largest=100) == ([8, 16], [])
    for n in (0, 7, 191):
        assert levels.sweep_sizes(n) == ([], [])


@pytest.mark.parametrize("n_inner", [16, 40])
def test_both_builds_have_the_same_budget(clustered, n_inner):
    built = levels.build_levels(clustered[0], n_inner, 5, max_train=700, seed=3)
    assert list(built) == ["bottom-up", "top-down"]
    for clustering in built.values():
        assert (clustering.n_inner, clustering.n_outer) == (n_inner, 5)
        assert clustering.n_train == 700
        assert len(clustering.inner_objective) <= TOP_DOWN_ITERATIONS


def test_budget_is_what_the_top_down_build_can_take(clustered):
    built = levels.build_levels(clustered[0], 4, 2, max_train=10_000, seed=0)
    assert {clustering.n_train for clustering in built.values()} == {128 * 4}


def test_assignment_is_that_of_the_lists(made, index):
    np.testing.assert_array_equal(levels.assignment_of(index), index.clustering.assign(made.train))


@pytest.mark.parametrize("nprobe_outer", [None, 2, 6])
@pytest.mark.parametrize("target", [0.5, 0.9, 1.0])
def test_fewest_lists_reach_the_target_and_one_less_does_not(made, index, nprobe_outer, target):
    home = levels.assignment_of(index)
    point = levels.fewest_lists(
        index.clustering, made, 10, home, target, nq=50, nprobe_outer=nprobe_outer
    )

    def reach(nprobe):
        keys = index.clustering.probe(made.test, nprobe, nprobe_outer)[1]
        homes = home[made.neighbors[:, :10]]
        return np.mean([np.isin(h, probed) for h, probed in zip(homes, keys, strict=True)])

    if point is None:
        assert nprobe_outer == 2
        assert reach(40) < target
        return
    nprobe = point["nprobe"]
    assert point["recall"] == pytest.approx(reach(nprobe))
    assert point["recall"] >= target - 1e-9
    assert nprobe == 1 or reach(nprobe - 1) < target
    cost = index.search_cost(made.test, 10, nprobe, nprobe_outer)
    assert point["centroids"] == pytest.approx((cost["outer"] + cost["inner"]).mean())
    assert point["vectors"] == pytest.approx(cost["vectors"].mean())


def test_fewest_lists_gives_up_where_told(made, index):
    home = levels.assignment_of(index)
    assert levels.fewest_lists(index.clustering, made, 10, home, 1.0, nq=50, most=1) is None


def test_two_levels_take_the_cheapest_way_to_the_target(made, index):
    home = levels.assignment_of(index)
    points = levels.compare_probing(index.clustering, made, 10, home, 0.9, nq=50)
    flat, two = points["flat"], points["two levels"]
    assert flat["centroids"] == 40
    assert flat["nprobe_outer"] == 6
    ways = [
        levels.fewest_lists(index.clustering, made, 10, home, 0.9, nq=50, nprobe_outer=outer)
        for outer in range(1, 6)
    ]
    assert two["centroids"] + two["vectors"] == min(
        way["centroids"] + way["vectors"] for way in ways if way
    )
    assert two in ways


def test_one_outer_cluster_leaves_flat_probing(made):
    clustering = two_level_kmeans(made.train, 8, 1)
    points = levels.compare_probing(clustering, made, 10, clustering.assign(made.train), 0.9, nq=50)
    assert points["two levels"] == points["flat"]


@pytest.mark.parametrize("target", [0, -1, 1.1, math.nan])
def test_target_is_a_share(made, index, target):
    with pytest.raises(ValueError, match="target="):
        levels.compare_probing(
            index.clustering, made, 10, levels.assignment_of(index), target, nq=50
        )


def test_timing_has_a_row_for_each_step_and_probing(made, index):
    points = levels.compare_probing(
        index.clustering, made, 10, levels.assignment_of(index), 0.9, nq=50
    )
    built = {"one": (index, points), "another": (index, points)}
    timed = levels.time_probing(built, made.test, 10, repeats=2)
    assert len(timed) == 8
    assert set(zip(timed.build, timed.step, timed.probing, strict=True)) == {
        (build, step, probing)
        for build in built
        for step in ("coarse", "search")
        for probing in ("flat", "two levels")
    }
    assert (timed.qps_min <= timed.qps).all()
    assert (timed.qps <= timed.qps_max).all()


def test_recall_curve_counts_what_each_nprobe_finds_and_costs(made, index):
    home = levels.assignment_of(index)
    points = levels.compare_probing(index.clustering, made, 10, home, 0.9, nq=50)
    curve = levels.recall_curve(index, made, 10, home, points, nq=50)
    assert set(curve.probing) == {"flat", "two levels"}
    for row in curve.itertuples():
        cost = index.search_cost(made.test, 10, row.nprobe, row.nprobe_outer)
        assert row.distances == pytest.approx(sum(part.mean() for part in cost.values()))
        found = index.search(made.test, 10, row.nprobe, row.nprobe_outer)[1]
        assert row.recall == pytest.approx(pqlib.recall_at_k(found, made, 10), abs=0.01)
        assert row.nprobe_outer == points[row.probing]["nprobe_outer"]
    qps = levels.time_curve(index, made.test, 10, curve, repeats=1)
    assert qps.shape == (len(curve),)
    assert (qps > 0).all()


def test_crossing_is_interpolated_on_logarithmic_axes():
    sizes = [4, 16, 64, 256]
    # The saving is sqrt(K / 32): lines of the same slope on logarithmic axes.
    two = [size / math.sqrt(size / 32) for size in sizes]
    assert levels.begins_to_pay(sizes, sizes, two) == pytest.approx(32)
    assert levels.begins_to_pay(sizes, [1, 2, 3, 4], [2, 2, 2, 2]) == pytest.approx(16)


def test_a_saving_has_to_be_worth_it():
    sizes = [100, 400, 1600]
    # Flat probing costs 1, 2 and 4 times as much.
    two = [100, 200, 400]
    assert levels.begins_to_pay(sizes, sizes, two) == pytest.approx(100)
    assert levels.begins_to_pay(sizes, sizes, two, worth=1.0) == pytest.approx(400)
    assert levels.begins_to_pay(sizes, sizes, two, worth=2**0.5 - 1) == pytest.approx(200)
    assert levels.begins_to_pay(sizes, sizes, two, worth=3.0) == math.inf


def test_the_last_crossing_counts():
    assert levels.begins_to_pay([1, 4, 16, 64], [2, 1, 1, 2], [1, 2, 2, 1]) == pytest.approx(32)


def test_no_crossing_is_said():
    assert levels.begins_to_pay([4, 8], [4, 8], [3, 5]) == -math.inf
    assert levels.begins_to_pay([4, 8], [4, 8], [3, 9]) == math.inf
    assert levels.begins_to_pay([4], [4], [4]) == math.inf
    with pytest.raises(ValueError, match="expected as many of each"):
        levels.begins_to_pay([], [], [])
    with pytest.raises(ValueError, match="2, 1 and 2 values"):
        levels.begins_to_pay([1, 2], [1], [1, 2])


def test_crossings_are_found_for_each_build_whatever_the_order_of_rows():
    rows = [
        (size, build, probing, cost)
        for build, factor in (("bottom-up", 1), ("top-down", 4))
        for size in (64, 4, 16)
        for probing, cost in (("two levels", factor * 8), ("flat", size))
    ]
    table = pd.DataFrame(rows, columns=["n_inner", "build", "probing", "cost"])
    assert levels.crossings(table, "cost") == {
        "bottom-up": pytest.approx(8),
        "top-down": pytest.approx(32),
    }
