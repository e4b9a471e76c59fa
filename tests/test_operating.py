"""Operating curves by hand, and the Pareto front against its definition."""

import numpy as np
import pandas as pd
import pytest
from conftest import REPEATABLE
from hypothesis import given, settings
from hypothesis import strategies as st

from pqlib.evaluation import at_recall, pareto_front, recall_at

PROFILE = settings(REPEATABLE, max_examples=60)


def points(**methods):
    """A table of (recall, qps) pairs; the work is 10**6 over qps."""
    rows = [
        {"method": name, "recall": recall, "qps": qps, "work": 1e6 / qps}
        for name, pairs in methods.items()
        for recall, qps in pairs
    ]
    return pd.DataFrame(rows)


def one(table):
    """Value, recall and how of the only row; the first two in the order of the columns."""
    (row,) = table.itertuples(index=False)
    return tuple(row[1:])


LINE = points(a=[(0.5, 1000.0), (0.7, 100.0), (0.9, 10.0)])


# At a fixed recall -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "value", "recall", "how"),
    [
        (0.7, 100.0, 0.7, "measured"),
        (0.9, 10.0, 0.9, "measured"),
        (0.5, 1000.0, 0.5, "measured"),
        (0.6, 10**2.5, 0.6, "interpolated"),  # halfway in recall: the geometric mean
        (0.75, 10**1.75, 0.75, "interpolated"),  # a quarter of the way
        (0.3, 1000.0, 0.5, "exceeds"),
        (0, 1000.0, 0.5, "exceeds"),
        (0.91, np.nan, 0.9, "not reached"),
    ],
)
def test_at_recall_by_hand(target, value, recall, how):
    found = at_recall(LINE, target, "qps")
    assert list(found.columns) == ["method", "qps", "recall", "how"]
    assert one(found) == (
        pytest.approx(value, nan_ok=True),
        pytest.approx(recall),
        how,
    )
    work = one(at_recall(LINE, target, "work", "less"))
    assert work == (pytest.approx(1e6 / value, nan_ok=True), pytest.approx(recall), how)


@pytest.mark.parametrize(
    ("value", "recall", "at", "how"),
    [
        (100.0, 0.7, 100.0, "measured"),
        (10**1.75, 0.75, 10**1.75, "interpolated"),
        (10**2.5, 0.6, 10**2.5, "interpolated"),
        (5.0, 0.9, 10.0, "exceeds"),  # all are faster than asked: the highest recall
        (2000.0, np.nan, 1000.0, "not reached"),
    ],
)
def test_recall_at_by_hand(value, recall, at, how):
    found = recall_at(LINE, "qps", value)
    assert list(found.columns) == ["method", "recall", "qps", "how"]
    assert one(found) == (pytest.approx(recall, nan_ok=True), pytest.approx(at), how)
    work = recall_at(LINE, "work", 1e6 / value, "less")
    assert one(work) == (pytest.approx(recall, nan_ok=True), pytest.approx(1e6 / at), how)


def test_only_points_that_a_method_does_not_beat_itself_make_its_curve():
    # 0.6 at 50 is slower than 0.7 at 100; 0.5 at 80 is both worse.
    dented = points(a=[(0.9, 10.0), (0.6, 50.0), (0.5, 1000.0), (0.7, 100.0), (0.5, 80.0)])
    for target in (0.5, 0.55, 0.6, 0.65, 0.7, 0.8):
        assert one(at_recall(dented, target, "qps")) == one(at_recall(LINE, target, "qps"))
    # A measured point that is beaten is not what the method can do at that recall.
    beaten = points(a=[(0.5, 100.0), (0.6, 200.0)])
    assert one(at_recall(beaten, 0.5, "qps")) == (200.0, 0.6, "exceeds")


def test_a_row_a_method_in_the_order_of_the_table():
    table = points(b=[(0.9, 10.0)], a=[(0.5, 3.0), (0.95, 1.0)], c=[(0.2, 9.0), (0.2, 9.0)])
    found = at_recall(table, 0.9, "qps")
    assert list(found.method) == ["b", "a", "c"]
    assert list(found.how) == ["measured", "interpolated", "not reached"]
    assert list(recall_at(table, "qps", 9.0).how) == ["exceeds", "not reached", "measured"]


CURVES = st.lists(
    st.tuples(st.integers(0, 20).map(lambda r: r / 20), st.integers(1, 50).map(float)),
    min_size=1,
    max_size=8,
)
BETTER = st.sampled_from(["more", "less"])


@PROFILE
@given(CURVES, BETTER)
def test_more_recall_never_costs_less(pairs, better):
    table = points(a=pairs)
    sign = 1 if better == "more" else -1
    found = [one(at_recall(table, t, "qps", better)) for t in np.linspace(0, 1, 21)]
    values = np.array([value for value, _, _ in found])
    reached = ~np.isnan(values)
    # Once out of reach, out of reach.
    assert (np.diff(reached.astype(int)) <= 0).all()
    assert (np.diff(sign * values[reached]) <= 1e-9 * values[reached][1:]).all()
    assert (values[reached] >= table.qps.min() * (1 - 1e-9)).all()
    assert (values[reached] <= table.qps.max() * (1 + 1e-9)).all()
    for (value, recall, how), t in zip(found, np.linspace(0, 1, 21), strict=True):
        best = table[table.recall >= t].qps
        if how in ("measured", "exceeds"):
            assert value == (best.max() if better == "more" else best.min())
            assert recall >= t
        assert (how == "not reached") == best.empty


@PROFILE
@given(CURVES, BETTER, st.floats(0.01, 0.99))
def test_the_two_are_inverse(pairs, better, share):
    table = points(a=pairs)
    target = share * table.recall.max()
    value, recall, how = one(at_recall(table, target, "qps", better))
    found, at, _ = one(recall_at(table, "qps", value, better))
    assert found == pytest.approx(recall)
    assert at == pytest.approx(value)
    assert how in ("interpolated", "exceeds", "measured")


# Pareto front ------------------------------------------------------------------------------


def beaten(rows, signs):
    """By the definition, one pair after the other."""
    front = []
    for row in rows:
        dominated = False
        for other in rows:
            gaps = [s * (o - r) for s, o, r in zip(signs, other, row, strict=True)]
            dominated |= min(gaps) >= 0 and max(gaps) > 0
        front.append(not dominated)
    return front


@PROFILE
@given(
    st.integers(1, 3).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=1, max_size=25),
            st.lists(BETTER, min_size=n, max_size=n),
        )
    )
)
def test_the_front_is_what_no_point_beats(case):
    rows, directions = case
    names = [f"c{i}" for i in range(len(directions))]
    table = pd.DataFrame(rows, columns=names)
    front = pareto_front(table, dict(zip(names, directions, strict=True)))
    assert front.dtype == bool
    assert list(front) == beaten(rows, [1 if d == "more" else -1 for d in directions])
    assert front.any()


def test_equal_points_are_all_kept_and_the_index_does_not_matter():
    table = pd.DataFrame({"recall": [0.9, 0.5, 0.9, 0.9], "bytes": [8, 8, 8, 9]}, [3, 3, 1, 0])
    columns = {"recall": "more", "bytes": "less"}
    assert list(pareto_front(table, columns)) == [True, False, True, False]


def test_blocks_of_rows_join():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.integers(0, 60, (2500, 2)), columns=["x", "y"])
    front = pareto_front(table, {"x": "more", "y": "less"})
    best = table.groupby("x").y.min()
    # Down from the highest x, a point is on the front where its y is below all before it.
    least = best[::-1].astype(float).cummin().shift(fill_value=np.inf)
    kept = {(x, y) for x, y in best.items() if y < least[x]}
    assert {tuple(row) for row in table[front].to_numpy()} == kept
    assert front.sum() == sum(tuple(row) in kept for row in table.to_numpy())


# Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: at_recall(LINE, 1.2, "qps"), "target=1.2"),
        (lambda: at_recall(LINE, float("nan"), "qps"), "target=nan"),
        (lambda: at_recall(LINE, 0.5, "speed"), "no column 'speed'.*'qps'"),
        (lambda: at_recall(LINE, 0.5, "recall"), "column='recall'"),
        (lambda: at_recall(LINE, 0.5, "qps", "most"), "better='most'"),
        (lambda: at_recall(LINE.iloc[:0], 0.5, "qps"), "no rows"),
        (lambda: at_recall(LINE.drop(columns="recall"), 0.5, "qps"), "'recall'"),
        (lambda: at_recall(LINE.assign(qps=0.0), 0.5, "qps"), "positive"),
        (lambda: at_recall(LINE.assign(qps=[1, np.nan, 2]), 0.5, "qps"), "row 1"),
        (lambda: at_recall(LINE.assign(qps="fast"), 0.5, "qps"), "'fast' in row 0"),
        (lambda: recall_at(LINE, "qps", 0), "value=0"),
        (lambda: recall_at(LINE, "qps", np.inf), "value=inf"),
        (lambda: recall_at(LINE, "qps", 5, "both"), "better='both'"),
        (lambda: pareto_front(LINE, {}), "columns is empty"),
        (lambda: pareto_front(LINE, {"qps": "up"}), r"columns\['qps'\]='up'"),
        (lambda: pareto_front(LINE, {"bytes": "less"}), "no column 'bytes'"),
        (lambda: pareto_front(LINE.iloc[:0], {"qps": "more"}), "no rows"),
    ],
)
def test_errors_name_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()
