"""The ladder: its rungs, what is counted, what is read off, and how it is drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from generated import as_dataset

import pqlib
from pqlib.study import ladder
from pqlib.study import ladder_words as words
from pqlib.study.plots import rungs as plots
from pqlib.study.plots import style
from pqlib.study.recipes import setting_text


@pytest.fixture(scope="module")
def climbed():
    ds = pqlib.load_dataset("photo-sift", n_train=4000, n_test=60)
    tuned = pqlib.tune(ds, 0.9, budget_s=1, progress=False)
    ours = tuned.calibrate(ladder.by_rule(ds), (0.8, 0.95))
    steps = ladder.rungs(ds, ours, tuned)
    return ds, tuned, steps, ladder.climb(ds, steps, repeats=1, progress=False)


def test_every_rung_is_there_once_and_says_what_it_adds(climbed):
    _, _, steps, result = climbed
    names = [step.name for step in steps]
    assert len(set(names)) == len(names) == 14
    assert all(step.idea.endswith(".") for step in steps)
    assert result.rungs.method.tolist() == names
    built = result.rungs[result.rungs.reason == ""]
    assert built.bytes_per_vector.notna().all()
    assert set(result.points.method) == set(built.method)


def test_exact_search_finds_everything_by_comparing_everything(climbed):
    ds, _, _, result = climbed
    exact = result.points[result.points.number == 0]
    assert exact.recall.tolist() == [1.0]
    assert (exact.vectors == ds.n).all()
    assert result.rungs.bytes_per_vector[0] == 4 * ds.d


def test_counts_of_lists_and_of_codes(climbed):
    ds, _, steps, result = climbed
    by = dict(tuple(result.points.groupby("method")))
    lists = by["k-means lists"]
    assert (lists.codes == 0).all()
    assert (lists.vectors < ds.n).any()
    # Of all settings: which of them are timed depends on the machine.
    second = next(step for step in steps if step.name == "second level")
    work = second.build().work
    counted = {setting_text(s): work(ds.test, 10, s)["centroids"].mean() for s in second.settings}
    assert min(counted.values()) < lists.centroids.iloc[0]
    found = by["second level"].set_index("setting").centroids
    np.testing.assert_allclose(found, [counted[text] for text in found.index])
    codes = by["PQ of residuals"]
    assert (codes.vectors == 0).all()
    assert (codes.codes > 0).all()
    reranked = by["re-rank, uint8"]
    factors = reranked.setting.str.extract(r"k_factor=(\d+)")[0].astype(int)
    assert (reranked.vectors == 10 * factors).all()


def test_bytes_keep_what_float32_keeps(climbed):
    _, _, _, result = climbed
    floats, whole = (
        result.points[result.points.method == f"re-rank, {kind}"].set_index("setting").recall
        for kind in ("float32", "uint8")
    )
    both = floats.index.intersection(whole.index)
    np.testing.assert_allclose(floats[both], whole[both], atol=1e-12)
    sizes = result.rungs.set_index("method").bytes_per_vector
    assert sizes["re-rank, float32"] - sizes["re-rank, uint8"] == pytest.approx(3 * 128, abs=1)


def test_what_is_read_off_is_on_the_curve(climbed):
    _, _, _, result = climbed
    for row in result.rungs.itertuples():
        own = result.points[result.points.method == row.method]
        if row.reason:  # not built; of so few vectors, none of the clusters has its own codebooks
            assert row.method == "codebooks per cluster"
            assert not len(own)
            continue
        assert row.highest == own.recall.max()
        if row.highest < 0.95:
            assert np.isnan(row.qps_95)
            assert np.isnan(row.codes_95)
        else:
            assert own.qps.min() <= row.qps_95 <= own.qps.max()


def test_the_tuned_rung_is_the_tuned_index(climbed):
    _, tuned, _, result = climbed
    last = result.rungs.iloc[-1]
    assert last.bytes_per_vector == tuned.index.bytes_per_vector
    assert last.build_s > 0 or tuned.composition.n_lists is None


def test_too_many_neighbours_are_refused(climbed):
    ds, _, steps, _ = climbed
    with pytest.raises(ValueError, match="holds 100 neighbours"):
        ladder.climb(ds, steps, k=101)


def test_figures(climbed):
    _, _, steps, result = climbed
    ours = [step.name for step in steps[-3:]]
    assert style.problems(plots.ladder(result.rungs, ours)) == []
    assert style.problems(plots.adaptive(result.points, *ours[:2])) == []


def test_a_figure_of_rungs_that_were_not_built_or_reach_nothing():
    rungs = pd.DataFrame(
        {
            "number": [0, 1, 2],
            "method": ["exact search", "too big", "short codes"],
            "idea": "",
            "highest": [1.0, np.nan, 0.4],
            "qps_90": [100.0, np.nan, np.nan],
            "qps_95": [100.0, np.nan, np.nan],
            "qps_99": [100.0, np.nan, np.nan],
            "bytes_per_vector": [512.0, np.nan, 8.0],
            "build_s": [0.0, np.nan, 1.0],
            "reason": ["", "no memory", ""],
        }
    )
    figure = plots.ladder(rungs, [])
    assert style.problems(figure) == []
    words = [text.get_text() for text in figure.axes[0].texts]
    assert "cannot be built here" in words
    assert "recall 0.40 at most" in words


@pytest.mark.parametrize("slowest", [20_000, 5_000, 300])
def test_a_figure_of_rungs_that_are_alike_or_far_apart(slowest):
    """Labels of the axis do not overlap, and there are some."""
    rates = [45_000.0, slowest]
    rungs = pd.DataFrame({"number": [0, 1], "method": ["exact search", "lists"], "idea": ""})
    rungs = rungs.assign(
        **{f"qps_{t}": rates for t in (90, 95, 99)},
        highest=1.0, bytes_per_vector=512.0, build_s=1.0, reason="",
    )  # fmt: skip
    figure = plots.ladder(rungs, [])
    assert style.problems(figure) == []
    low, high = figure.axes[0].get_xlim()
    assert sum(low <= tick <= high for tick in figure.axes[0].get_xticks()) >= 2


# Words ----------------------------------------------------------------------------------------


def test_gains_say_what_each_rung_does():
    rungs = pd.DataFrame(
        {
            "method": ["exact", "codes", "better", "last"],
            "qps_95": [100.0, np.nan, 300.0, 303.0],
            "highest": [1, 0.6, 0.99, 0.99],
            "bytes_per_vector": [400.0, 40.0, 80.0, 100.0],
            "note": ["", "of fewer vectors", None, ""],
        }
    )
    lines = words.gains(rungs).splitlines()
    assert lines[0] == (
        "- **codes** (of fewer vectors), after *exact*: does not reach recall 0.95 (at most "
        "0.600); 0.10 times the bytes."
    )
    assert lines[1].endswith("reaches recall 0.95 again, at 300 QPS; 2.00 times the bytes.")
    assert "1.01 times the QPS at recall 0.95, no gain" in lines[2]
    assert "3 times the queries per second at recall 0.95, with 0.25 times" in lines[-1]


def test_tuning_gets_time_by_the_size_of_the_data():
    small = as_dataset(np.zeros((100, 4), np.float32), np.zeros((3, 4), np.float32))
    assert words.budget(small) == 8
