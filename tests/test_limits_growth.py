"""Where the time of a search goes, what bounds it, and how it grows with the base."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from drawn import drawn, legend_words

from pqlib.indexes import BruteForce, CascadeIndex
from pqlib.indexes.stages import STAGES
from pqlib.study import growth as growing
from pqlib.study import limits as limiting
from pqlib.study.plots import ladder, style
from pqlib.study.recipes import Built, Rival

SMALL = {"repeats": 2, "memory_bytes": 1 << 20, "matrix_size": 64, "progress": False}


def cascade(base, **options) -> CascadeIndex:
    options = {"n_lists": 12, "components": 10, **options}
    return CascadeIndex(base.shape[1], **options).train(base).add(base)


@pytest.fixture
def small_caches(monkeypatch):
    """Let the peaks be measured quickly."""
    monkeypatch.setattr(limiting, "cache_sizes", lambda: (1 << 16, 1 << 17))
    monkeypatch.setattr(limiting, "_PASSES", 4)


@pytest.fixture(scope="module")
def filled(clustered):
    return cascade(clustered[0])


# Stages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rerank", ["uint8", "float32", None])
@pytest.mark.parametrize("nq", [1, 50])
def test_stages_make_up_the_search(clustered, rerank, nq):
    base, queries = clustered
    index = cascade(base, rerank=rerank)
    asked = {"k": 5, "nprobe": 6, "candidates": 40}
    seconds = index.profile(queries[:nq], **asked, repeats=15)
    assert tuple(seconds) == STAGES
    assert all(value >= 0 for value in seconds.values())
    assert min(seconds[s] for s in ("rotation", "routing", "scan", "rest")) > 0
    if rerank is None:
        assert seconds["re-ranking"] == 0
    whole = []
    for _ in range(15):
        started = time.perf_counter()
        index.search(queries[:nq], **asked)
        whole.append(time.perf_counter() - started)
    # Other processes share the processor: the order of magnitude is what can be relied on.
    assert min(whole) / 4 < sum(seconds.values()) < 4 * max(whole)


def test_the_stopwatch_loses_nothing():
    index = cascade(np.random.default_rng(0).integers(0, 9, (200, 4)).astype(np.float32), n_lists=2,
                    components=4)  # fmt: skip
    laps = []
    started = time.perf_counter()
    index._run(np.ones((3, 4), np.float32), 2, index._chosen(2), laps.append)
    assert time.perf_counter() > started
    assert laps == ["rest", "rotation", "routing", "rest", "scan", "rest"]


def test_profiling_leaves_the_answers_alone(filled, clustered):
    before = filled.search(clustered[1], 5)
    filled.profile(clustered[1], 5, repeats=1)
    for one, two in zip(before, filled.search(clustered[1], 5), strict=True):
        np.testing.assert_array_equal(one, two)


def test_profile_checks_its_arguments(filled, clustered):
    with pytest.raises(ValueError, match="repeats=0"):
        filled.profile(clustered[1], repeats=0)
    with pytest.raises(ValueError, match="nprobe=13"):
        filled.profile(clustered[1], nprobe=13)


# Limits ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_caches")
@pytest.mark.parametrize(
    ("options", "width", "row", "turned"),
    [
        ({}, 12, 16, True),
        ({"rerank": "float32", "components": 16}, 16, 64, True),
        ({"rerank": None, "components": 4}, 4, 0, True),
        ({"rotation": None, "components": 16}, 16, 16, False),
    ],
)
def test_bytes_and_products_are_those_counted(clustered, options, width, row, turned):
    base, queries = clustered
    index = cascade(base, **options)
    settings = {"k": 5, "nprobe": 4, "candidates": 30, "margin": 0.2}
    found = limiting.limits(index, queries, **settings, **SMALL)
    table = found.table.set_index("stage")
    assert list(table.index) == list(STAGES)
    assert (table.queries == 50).all()
    assert table.share.sum() == pytest.approx(1)
    cost = {name: counts.mean() for name, counts in index.search_cost(queries, **settings).items()}
    assert cost["inner"] == 12
    assert 0 < cost["codes"] < 2000
    matrix = 16 * width if turned else 0
    expected = {
        "rotation": (4 * 16 + 4 * matrix / 50, matrix),
        "routing": (12 * (width + 2), 12 * width),
        "scan": (cost["codes"] * (width + 2), cost["codes"] * width),
        "re-ranking": (cost["vectors"] * row, cost["vectors"] * 16),
    }
    for stage, (size, products) in expected.items():
        assert table.bytes_per_query[stage] == pytest.approx(size)
        assert table.products_per_query[stage] == pytest.approx(products)
    assert np.isnan(table.bound_ms["rest"])

    peaks = found.peaks
    assert min(peaks.values()) > 0
    bounded = table.drop(index="rest").astype({"bound_ms": float})
    memory = 50 * bounded.bytes_per_query / (1e6 * peaks["memory_gb_per_s"])
    np.testing.assert_allclose(bounded.memory_ms, memory)
    scan = 50 * expected["scan"][1] / (1e6 * peaks["scan_gmadds_per_s"])
    assert table.products_ms["scan"] == pytest.approx(scan)
    rotation = 50 * matrix / (1e6 * peaks["matmul_gmadds_per_s"])
    assert table.products_ms["rotation"] == pytest.approx(rotation)
    np.testing.assert_array_equal(
        bounded.bound_ms, bounded[["memory_ms", "products_ms"]].max(axis=1)
    )
    done = bounded[bounded.bytes_per_query > 0]
    assert (done.bound_ms > 0).all()
    assert len(done) == 4 - (row == 0)
    np.testing.assert_allclose(done.times_bound, done.ms / done.bound_ms)
    np.testing.assert_allclose(done.times_cached_bound, done.ms / done.cached_bound_ms)
    assert found.parameters["nprobe"] == 4
    assert found.parameters["margin"] == 0.2
    report = str(found)
    assert "50 queries, nprobe=4, candidates=30" in report
    assert report.count("times the bound by") == len(done)


@pytest.mark.usefixtures("small_caches")
def test_limits_of_the_portable_engine(clustered):
    index = cascade(clustered[0], engine="portable")
    found = limiting.limits(index, clustered[1][:5], **{**SMALL, "repeats": 1})
    assert found.peaks["scan_gmadds_per_s"] > 0
    assert found.parameters["nprobe"] == index.settings.nprobe
    assert found.parameters["engine"] == "portable"


def test_sizes_of_caches(tmp_path):
    default = limiting.SECOND_CACHE, limiting.LARGEST_CACHE
    assert limiting.cache_sizes(tmp_path / "nowhere") == default
    for i, (level, kind, size) in enumerate(
        [(1, "Data", "48K"), (1, "Instruction", "9999999K"), (2, "Unified", "2048K"),
         (3, "Unified", "266240K")]
    ):  # fmt: skip
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    assert limiting.cache_sizes(tmp_path) == (2048 << 10, 266240 << 10)


# Growth ------------------------------------------------------------------------------------


def brute(n: int) -> Rival:
    """Exact search, with a setting that returns less than it found."""

    def build(xb, xt, seed, whole):
        index = BruteForce(xb.shape[1])
        index.add(xb)

        def search(xq, k, setting):
            ids = index.search(xq, k)[1].copy()
            if setting["effort"] == 1:
                ids[:, k // 2 :] = -1
            return ids

        return Built(search, index.memory_bytes, 1)

    settings = tuple({"effort": effort} for effort in (1, 2, 3))
    return Rival(f"exact of {n}", "composition", "faiss", "here", build, settings)


def test_growth_has_a_row_for_each_size_and_method(clustered, as_dataset):
    ds = as_dataset(*clustered)
    calls = []

    def ours(n):
        calls.append(n)
        return CascadeIndex(16, round(math.sqrt(n) / 4), 16)

    table = growing.growth(
        ds, [500, 2000], ours, brute, k=10, target=0.9, queries=40, progress=False
    )
    assert calls == [500, 2000]
    assert list(table.method) == ["CascadeIndex", "exact of 500"] * 2
    assert list(table.n) == [500, 500, 2000, 2000]
    assert list(table["index"]) == [
        "n_lists=6, components=16",
        "exact of 500",
        "n_lists=11, components=16",
        "exact of 2000",
    ]
    assert (table.queries == 40).all()
    assert (table.qps > 0).all()
    assert (table.recall >= 0.9).all()
    assert set(table.how) <= {"measured", "interpolated", "exceeds"}
    assert (table.build_s > 0).all()
    exact = table[table.method != "CascadeIndex"]
    np.testing.assert_allclose(exact.bytes_per_vector, 4 * 16)
    assert set(exact.setting) == {"effort=2"}
    index = cascade(clustered[0][:500], n_lists=6, components=16)
    assert table.bytes_per_vector[0] == pytest.approx(index.memory_bytes / 500)
    assert set(growing.slopes(table).points) == {2}


def test_a_recall_out_of_reach_has_no_speed(clustered, as_dataset):
    table = growing.growth(
        as_dataset(*clustered),
        [1000],
        lambda n: CascadeIndex(16, 8, 16),
        brute(1000),
        target=0.99,
        progress=False,
        settings=[{"nprobe": 1, "candidates": 10, "margin": None}],
    )
    assert list(table.how) == ["not reached", table.how[1]]
    assert np.isnan(table.qps[0])
    assert table.setting[0] == ""
    assert growing.slopes(table).exponent.isna().all()


def test_settings_more_thorough_than_needed_are_not_tried(clustered, as_dataset):
    tried = []
    points = {(1, 1): 0.5, (1, 2): 0.96, (2, 1): 0.6, (4, 1): 0.97}
    truth = as_dataset(*clustered)

    def search(xq, k, setting):
        tried.append((setting["a"], setting["b"]))
        ids = truth.neighbors[:, :k].copy()
        ids[: round(len(ids) * (1 - points[tried[-1]]))] = -1
        return ids

    settings = [{"a": a, "b": b} for a in (1, 2, 4, 8) for b in (1, 2, 3)]
    runner = growing._Runner("m", "m", Built(search, 1, 1), settings, 0.0)
    found = growing._tried(truth, runner, 10, 0.95)
    assert list(dict.fromkeys(tried)) == list(points)
    np.testing.assert_allclose(found.recall, list(points.values()), atol=0.011)
    assert list(found.index) == [0, 1, 3, 6]


def test_points_on_both_sides_of_the_target_are_looked_at():
    recall = np.linspace(0.7, 0.99, 30)
    points = pd.DataFrame({"recall": recall, "qps": 1 / recall})
    near = growing._near(points, 0.9)
    below, above = near[near.recall < 0.9], near[near.recall >= 0.9]
    np.testing.assert_allclose(above.recall, [0.9, 0.91, 0.92, 0.93])
    assert len(below) == 4
    assert below.recall.max() == pytest.approx(0.89)
    assert below.recall.min() > 0.78
    # A thorough setting that happened to look fastest does not leave the other side empty.
    points.loc[29, "qps"] = 100
    assert (growing._near(points, 0.9).recall < 0.9).sum() == 4
    short = growing._near(points, 1.0)
    assert 29 in short.index


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": []}, "at least one"),
        ({"sizes": [500, 500]}, "each once"),
        ({"sizes": [2001]}, "sizes=2001"),
        ({"target": 0}, "target=0"),
        ({"queries": 0}, "queries=0"),
    ],
)
def test_growth_checks_its_arguments(clustered, as_dataset, options, message):
    arguments = {"sizes": [500], "ours": lambda n: CascadeIndex(16, 4), "rival": brute, **options}
    with pytest.raises(ValueError, match=message):
        growing.growth(as_dataset(*clustered), progress=False, **arguments)


POWERS = {"CascadeIndex": (1.0, -0.5, 0.0), "a rival of a long name": (1.3, -0.25, -0.1)}


def power_laws(sizes=(1e4, 1e5, 1e6), close=1.0) -> pd.DataFrame:
    rows = []
    for place, (method, (build, speed, size)) in enumerate(POWERS.items()):
        for n in sizes:
            scale = close**place
            rows.append(
                {
                    "method": method,
                    "n": int(n),
                    "build_s": scale * 1e-4 * n**build,
                    "qps": scale * 1e6 * n**speed,
                    "bytes_per_vector": scale * 200 * n**size,
                    "how": "interpolated",
                }
            )
    return pd.DataFrame(rows)


def test_slopes_of_power_laws():
    table = power_laws()
    table.loc[0, ["qps", "how"]] = [np.nan, "not reached"]
    found = growing.slopes(table).set_index(["method", "column"])
    for method, exponents in POWERS.items():
        for column, exponent in zip(growing.MEASURES, exponents, strict=True):
            row = found.loc[(method, column)]
            missing = (method, column) == ("CascadeIndex", "qps")
            assert row.exponent == pytest.approx(exponent, abs=1e-9)
            assert row.points == 3 - missing
    assert found.factor[("CascadeIndex", "build_s")] == pytest.approx(1e-4)


# Figures -----------------------------------------------------------------------------------


def stage_table(memory: float = 7.0) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "stage": STAGES,
            "queries": 1000,
            "ms": [3.8, 1.5, 4.6, 0.7, 0.2],
            "bound_ms": [0.3, 16 / memory, 65 / memory, 4 / memory, np.nan],
            "bound_by": ["products", "memory", "memory", "memory", np.nan],
            "cached_bound_ms": [0.3, 0.5, 1.9, 0.1, np.nan],
        }
    )
    return table.assign(times_bound=table.ms / table.bound_ms)


@pytest.mark.parametrize("memory", [1.0, 7.0, 500.0])
def test_stages_are_drawn_beside_their_bounds(memory):
    table = stage_table(memory)
    figure = ladder.stages(table)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths[:5], table.ms)  # 1,000 queries: ms are their microseconds
    np.testing.assert_allclose(sorted(widths[5:]), sorted(table.bound_ms[:4]))
    assert axes.get_xlabel() == "microseconds per query"
    assert legend_words(figure) == [
        "measured",
        "bound by memory",
        "bound by products",
        "bound with all in the cache",
    ]


def test_stages_without_re_ranking_are_drawn_too():
    table = stage_table()
    table.loc[3, ["ms", "bound_ms", "times_bound", "cached_bound_ms"]] = [0, 0, np.nan, 0]
    assert style.problems(ladder.stages(table)) == []


@pytest.mark.parametrize(
    ("sizes", "close"),
    [
        ((1e4, 1e5, 1e6), 1.0),
        ((1e4, 1e5, 1e6), 0.01),
        ((2500, 5000, 10_000, 20_000), 1.02),
        ((1e5, 1e6, 1e7, 1e8, 1e9), 30.0),
        ((20_000,), 1.0),
    ],
)
def test_growth_shows_every_point_and_its_exponents(sizes, close):
    table = power_laws(sizes, close)
    figure = ladder.growth(table, growing.slopes(table), 0.95)
    assert style.problems(figure) == []
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Building",
        "Speed at recall 0.95",
        "Memory",
    ]
    for place, (axes, column) in enumerate(zip(figure.axes, growing.MEASURES, strict=True)):
        assert axes.get_xscale() == axes.get_yscale() == "log"
        shown = drawn(axes)
        for method, exponents in POWERS.items():
            rows = table[table.method == method]
            np.testing.assert_allclose(shown[method], rows[["n", column]])
            if len(sizes) > 1:
                words = f"$n^{{{exponents[place]:.2f}}}$"
                assert words in [text.get_text() for text in axes.texts]
    assert legend_words(figure) == list(POWERS)


def test_speeds_beyond_the_target_are_hollow_and_missing_ones_left_out():
    table = power_laws()
    table.loc[1, "how"] = "exceeds"
    table.loc[3:5, ["qps", "how"]] = [np.nan, "not reached"]
    figure = ladder.growth(table, growing.slopes(table), 0.95)
    assert style.problems(figure) == []
    assert legend_words(figure) == [*POWERS, "recall above the target"]
    speed = figure.axes[1]
    hollow = [line for line in speed.get_lines() if line.get_markerfacecolor() == "white"]
    np.testing.assert_allclose(hollow[0].get_xydata(), table.loc[[1], ["n", "qps"]])
    assert len(speed.texts) == 1


def test_growth_has_a_style_for_four_methods_at_most():
    table = pd.concat([power_laws().assign(method=name) for name in "abcde"])
    with pytest.raises(ValueError, match="5 methods"):
        ladder.growth(table, growing.slopes(table), 0.9)
