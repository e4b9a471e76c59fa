"""The figures of notebooks 05 and 06: drawn without flaws, showing what they are given."""

import itertools

import numpy as np
import pandas as pd
import pytest
from drawn import drawn, legend_words
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgba_array

from pqlib.study.plots import evaluation, sensitivity, style

METHODS = list(evaluation.METHOD_STYLE)
LONG_NAMES = [
    f"a method of the user's own, with a name that says it all, no. {i}" for i in range(7)
]
TWICE_AS_LONG = [f"{name}; {name}" for name in LONG_NAMES]
RING = "not beaten in all three"


def test_every_method_has_a_look_of_its_own():
    assert len(set(evaluation.METHOD_STYLE.values())) == len(METHODS)


def colored(lines, color: str) -> list:
    """Those of these lines, or of collections of them, that are drawn in this colour."""
    return [line for line in lines if to_hex(np.ravel(to_rgba_array(line.get_color()))) == color]


def spans(axes, color: str) -> np.ndarray:
    """The (n, 2, 2) ends of all interval bars of this colour."""
    bars = [c for c in axes.collections if isinstance(c, LineCollection)]
    return np.concatenate([bar.get_segments() for bar in colored(bars, color.lower())])


def ring(line) -> bool:
    """Whether a line is of hollow markers alone."""
    return line.get_linestyle() == "None" and line.get_markerfacecolor() == "none"


def limit_lines(axes) -> dict[str, float]:
    """The heights of the limits of recall, by the words at their lines."""
    lines = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
    words = {text.get_text(): text.xy[1] for text in axes.texts}
    heights = [line.get_ydata()[0] for line in lines if list(line.get_xdata()) == [0, 1]]
    assert sorted(heights) == sorted(words.values())
    return words


def tick_words(axis) -> list[str]:
    """The labels of the ticks in view, of a figure that was drawn already."""
    low, high = sorted(axis.get_view_interval())
    slack = 1e-9 * high
    ticks = [t for t in axis.get_major_ticks() if low - slack <= t.get_loc() <= high + slack]
    return [tick.label1.get_text() for tick in ticks if tick.label1.get_text()]


def inside(axes) -> bool:
    """Whether all points of the lines, and the ends of the interval bars, are in view."""
    points = [line.get_xydata() for line in axes.get_lines()]
    points += [
        np.reshape(bars.get_segments(), (-1, 2))
        for bars in axes.collections
        if isinstance(bars, LineCollection)
    ]
    places = np.concatenate([np.asarray(p, float) for p in points if len(p)])
    low, high = np.sort([axes.get_xlim(), axes.get_ylim()]).T
    # A line across the whole axes has 0 and 1 for an end, whatever the scale.
    across = np.isin(places, [0, 1]).any(axis=1)
    return bool(((low <= places) & (places <= high)).all(axis=1)[~across].all())


def methods_table(methods=METHODS, nprobes=(4, 1, 2), qps=40_000.0) -> pd.DataFrame:
    """Points as notebook 05 measures them; the rows of a method are not in order."""
    return pd.DataFrame(
        {
            "method": method,
            "nprobe": nprobe,
            "recall": 0.38 + 0.08 * number + 0.01 * nprobe,
            "recall_low": 0.37 + 0.08 * number + 0.01 * nprobe,
            "recall_high": 0.41 + 0.08 * number + 0.01 * nprobe,
            "qps": qps / (nprobe * (1 + number)),
            "qps_min": 0.75 * qps / (nprobe * (1 + number)),
            "qps_max": 1.1 * qps / (nprobe * (1 + number)),
            "bytes_per_vector": 20.0 * 2**number,
            "pareto": (number + nprobe) % 2 == 1,
        }
        for number, method in enumerate(methods)
        for nprobe in nprobes
    )


def test_trade_off_draws_each_method_and_its_best_recall():
    points = methods_table()
    figure = evaluation.trade_off(points, 10, 400)
    assert style.problems(figure) == []
    speed, memory = figure.axes
    lines = drawn(speed)
    assert list(lines) == [*METHODS, RING] == legend_words(figure)
    best = [line.get_xydata()[0] for line in memory.get_lines() if line.get_linestyle() != ":"]
    for place, method in zip(best, METHODS, strict=True):
        rows = points[points.method == method].sort_values("nprobe")
        np.testing.assert_allclose(lines[method], rows[["recall", "qps"]])
        np.testing.assert_allclose(place, [rows.bytes_per_vector.iloc[0], rows.recall.max()])
    assert limit_lines(memory) == {"exact": 1.0, "random": 10 / 400}
    assert inside(speed)
    assert inside(memory)


def test_trade_off_draws_repeats_upright_and_queries_level():
    points = methods_table()
    figure = evaluation.trade_off(points, 10, 400)
    for method, (color, _) in evaluation.METHOD_STYLE.items():
        rows = points[points.method == method].sort_values("nprobe")
        upright, level = np.split(spans(figure.axes[0], color), 2)
        np.testing.assert_allclose(upright[:, :, 1], rows[["qps_min", "qps_max"]])
        np.testing.assert_allclose(upright[:, :, 0], rows[["recall", "recall"]])
        np.testing.assert_allclose(level[:, :, 0], rows[["recall_low", "recall_high"]])
        np.testing.assert_allclose(level[:, :, 1], rows[["qps", "qps"]])


def test_trade_off_names_methods_in_one_place_of_the_memory_panel():
    points = methods_table()
    apart = evaluation.trade_off(points, 10, 400).axes[1]
    assert not any("\n" in text.get_text() for text in apart.texts)
    hidden = points.method.isin(METHODS[:2])
    points.loc[hidden, ["bytes_per_vector", "recall"]] = [500.0, 0.9]
    memory = evaluation.trade_off(points, 10, 400).axes[1]
    (text,) = (text for text in memory.texts if "\n" in text.get_text())
    assert text.get_text() == "\n".join(METHODS[:2])
    np.testing.assert_allclose(text.xy, [500, 0.9])


def test_trade_off_rings_what_is_not_beaten_and_nothing_else():
    points = methods_table()
    (line,) = (li for li in evaluation.trade_off(points, 10, 400).axes[0].get_lines() if ring(li))
    np.testing.assert_allclose(line.get_xydata(), points[points.pareto][["recall", "qps"]])
    assert 0 < len(line.get_xydata()) < len(points)


@pytest.mark.parametrize(
    ("methods", "nprobes", "qps", "n"),
    [
        (METHODS[1:2], (4, 1, 2), 40_000, 400),
        (METHODS[:1], (1,), 40_000, 400),
        (METHODS[1:2], (1, 2), 8_000, 400),
        (LONG_NAMES, (4, 1, 2), 40_000, 400),
        (METHODS, (4, 1, 2), 40_000, 10),
        (METHODS, (4, 1, 2), 40_000, 12),
    ],
    ids=["one method", "one point", "within a decade", "long names", "k vectors", "few vectors"],
)
def test_trade_off_of_any_table_has_labels_that_can_be_read(methods, nprobes, qps, n):
    figure = evaluation.trade_off(methods_table(methods, nprobes, qps), 10, n)
    assert style.problems(figure) == []
    speed, memory = figure.axes
    assert len(tick_words(speed.yaxis)) > 1
    assert len(tick_words(memory.xaxis)) > 1
    assert inside(speed)
    assert [word for word in legend_words(figure) if word != RING] == list(methods)


def uncertain(methods, wide: float = 0.01) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Recalls of three seeds, and intervals as notebook 05 computes them."""
    seeds = pd.DataFrame(
        {"method": method, "seed": seed, "recall": 0.5 + 0.05 * number + wide * (seed - 1)}
        for seed in range(3)
        for number, method in enumerate(methods)
    )
    mean = 0.5 + 0.05 * np.arange(len(methods))
    intervals = pd.DataFrame(
        {
            "method": methods,
            "query_recall": mean + 0.02,
            "query_low": mean + 0.02 - 2 * wide,
            "query_high": mean + 0.02 + 3 * wide,
            "seed_mean": mean,
            "seed_low": mean - 4 * wide,
            "seed_high": mean + 4 * wide,
        }
    )
    return seeds, intervals


def test_uncertainty_draws_both_intervals_as_differences():
    methods = [*METHODS[:0:-1], "brute force"]
    figure = evaluation.uncertainty(*uncertain(methods), 10)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{method}: {0.5 + 0.05 * number:.3f}" for number, method in enumerate(methods)
    ]
    assert axes.yaxis_inverted()
    assert inside(axes)
    lines = [line for line in axes.get_lines() if str(line.get_label()).startswith("_child")]
    zero = lines.pop()
    assert list(zero.get_xdata()) == [0, 0]
    assert len(lines) == 3 * len(methods)
    for place, method in enumerate(methods):
        queries, another, seeds = lines[3 * place : 3 * place + 3]
        np.testing.assert_allclose(queries.get_xdata(), [-0.02, 0.03])
        np.testing.assert_allclose(another.get_xdata(), [-0.04, 0.04])
        np.testing.assert_allclose(seeds.get_xdata(), [-0.01, 0, 0.01], atol=1e-12)
        for line in (queries, another, seeds):
            assert (np.abs(line.get_ydata() - place) < 0.3).all()
        assert queries.get_ydata()[0] != another.get_ydata()[0] == seeds.get_ydata()[0]
        assert another.get_color() == seeds.get_color() == evaluation.METHOD_STYLE[method][0]
        assert queries.get_color() == style.GREY
    assert legend_words(figure) == ["other queries", "another seed", "seeds measured"]


@pytest.mark.parametrize("methods", [METHODS[1:2], LONG_NAMES[:1], TWICE_AS_LONG])
@pytest.mark.parametrize("wide", [0.01, 0.0])
def test_uncertainty_of_one_method_long_names_or_no_spread(methods, wide):
    figure = evaluation.uncertainty(*uncertain(methods, wide), 10)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    assert inside(axes)
    names = [" ".join(label.get_text().split()) for label in axes.get_yticklabels()]
    assert [name.rsplit(":", 1)[0] for name in names] == list(methods)
    # The axes keep most of the figure, however long the names.
    assert axes.get_position().width > 0.5


TARGETS = (0.8, 0.9, 0.95, 0.99)


def reached_table(reach: dict[str, int], targets=TARGETS) -> pd.DataFrame:
    """What each method has at the first so many targets; nothing at the others."""
    rows = pd.DataFrame(
        {
            "method": method,
            "target": target,
            "qps": 50_000.0 / (number + 1) / (place + 1),
            "distance_computations": 1000.0 * (number + 1) * (place + 1),
            "there": place < reach[method],
        }
        for place, target in reversed(list(enumerate(targets)))
        for number, method in enumerate(reach)
    )
    rows.loc[~rows.there, ["qps", "distance_computations"]] = np.nan
    return rows


def test_fixed_recall_leaves_out_what_is_not_reached():
    reach = {method: number % 5 for number, method in enumerate(METHODS)}
    reached = reached_table(reach)
    figure = evaluation.fixed_recall(reached, 10)
    assert style.problems(figure) == []
    there = [method for method, count in reach.items() if count]
    assert legend_words(figure) == there
    for axes, column in zip(figure.axes, ("qps", "distance_computations"), strict=True):
        lines = drawn(axes)
        assert list(lines) == there
        for method, points in lines.items():
            rows = reached[reached.method == method].set_index("target")
            values = [rows[column][target] for target in TARGETS[: reach[method]]]
            np.testing.assert_allclose(points.T, [range(reach[method]), values])
        assert tick_words(axes.xaxis) == ["0.8", "0.9", "0.95", "0.99"]
        assert len(tick_words(axes.yaxis)) > 1
        assert inside(axes)
        assert not axes.texts


def test_fixed_recall_closes_no_gap_with_an_invented_point():
    reached = reached_table({"k-means": 4})
    reached.loc[reached.target == 0.9, ["qps", "distance_computations"]] = np.nan
    figure = evaluation.fixed_recall(reached, 10)
    for axes in figure.axes:
        assert list(drawn(axes)["k-means"][:, 0]) == [0, 2, 3]
        assert [(text.get_text(), text.get_position()[0]) for text in axes.texts] == [
            ("not reached", 1)
        ]


@pytest.mark.parametrize(
    ("reach", "targets", "missing"),
    [
        (dict.fromkeys(METHODS, 0), TARGETS, [0, 1, 2, 3]),
        (dict.fromkeys(METHODS, 2), TARGETS, [2, 3]),
        ({"k-means": 0}, TARGETS, [0, 1, 2, 3]),
        ({"k-means": 1}, TARGETS, [1, 2, 3]),
        ({"k-means": 1}, (0.9,), []),
        (dict.fromkeys(LONG_NAMES, 3), TARGETS, [3]),
    ],
    ids=["nobody", "not the last", "one method", "one point", "one target", "long names"],
)
def test_fixed_recall_says_where_nobody_gets(reach, targets, missing):
    figure = evaluation.fixed_recall(reached_table(reach, targets), 10)
    assert style.problems(figure) == []
    assert legend_words(figure) == [method for method, count in reach.items() if count]
    for axes in figure.axes:
        words = [(text.get_text(), text.get_position()[0]) for text in axes.texts]
        assert words == [("not reached", place) for place in missing]
        # Without a value, the height of the axes means nothing.
        assert bool(tick_words(axes.yaxis)) == any(reach.values())


def test_two_recalls_marks_the_recall_of_the_same_search():
    curves = {m: ([1, 10, 100], [0.3, 0.7, 0.95], 0.4 + 0.1 * i) for i, m in enumerate(METHODS[:3])}
    figure = evaluation.two_recalls(curves)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    for method, (at, found, recall) in curves.items():
        np.testing.assert_allclose(drawn(axes)[method].T, [at, found])
        color = evaluation.METHOD_STYLE[method][0]
        dotted = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
        assert [recall] in [list(li.get_ydata())[:1] for li in dotted if li.get_color() == color]


def test_memory_by_part_adds_up():
    parts = pd.DataFrame(
        {"codes": [8.0, 8.0], "ids": [8.0, 8.0], "codebooks": [13.1, 1300.0]}, ["shared", "own"]
    )
    figure = evaluation.memory_by_part(parts, {"raw float32": 3136.0, "lossless uint8": 784.0})
    assert style.problems(figure) == []
    (axes,) = figure.axes
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches[-2:]]
    np.testing.assert_allclose(ends, parts.sum(axis=1))
    assert [text.get_text() for text in axes.texts] == ["29", "1,316"]
    np.testing.assert_allclose(drawn(axes)["raw float32"][:, 0], 3136)


def test_cost_by_stage_adds_up():
    costs = pd.DataFrame(
        {"inner centroids": [100.0, 100.0], "tables": [0.0, 256.0], "codes": [0.0, 900.4]},
        ["k-means", "PQ shared"],
    )
    figure = evaluation.cost_by_stage(costs)
    assert style.problems(figure) == []
    assert [text.get_text() for text in figure.axes[0].texts] == ["100", "1,256"]


@pytest.mark.parametrize(
    ("sizes", "skipped"), [([100, 200, 300], 3), ([100, 5000, 2048], 1), ([4000, 5000], 0)]
)
def test_sketch_skips_counts_clusters_below_the_threshold(sizes, skipped):
    figure = evaluation.sketch_skips(np.array(sizes), 2048)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    title = axes.get_title(loc="left") + axes.get_title()
    assert title.startswith(f"{skipped} of {len(sizes)} clusters skipped")
    bars = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert sorted(bars.get("skipped", [])) == sorted(size for size in sizes if size < 2048)
    assert sorted(height for heights in bars.values() for height in heights) == sorted(sizes)


def codes_table() -> pd.DataFrame:
    rows = pd.DataFrame(
        {
            "m": m,
            "nbits": nbits,
            "codebooks": mode,
            "recall": 0.1 + 0.02 * m + 0.03 * nbits,
            "qps": 30_000 / m,
            "code_bytes": m * nbits / 8,
            "bytes_per_vector": m * nbits / 8 + (30 if mode == "shared" else 1000),
        }
        for mode in ("shared", "per-cluster")
        for nbits in (4, 6, 8, 16)
        for m in (8, 4, 2)
    )
    rows.loc[rows.nbits == 16, ["recall", "qps", "bytes_per_vector"]] = np.nan
    return rows


@pytest.mark.parametrize("draw", [sensitivity.code_size, sensitivity.speed])
def test_what_was_not_run_is_not_drawn(draw):
    figure = draw(codes_table(), 10)
    assert style.problems(figure) == []
    assert not any("16 bits" in word for word in legend_words(figure))
    assert len(legend_words(figure)) == 6


def test_code_size_draws_code_and_total_bytes():
    points = codes_table()
    figure = sensitivity.code_size(points, 10)
    rows = points[(points.codebooks == "shared") & (points.nbits == 8)].sort_values("m")
    for axes, column in zip(figure.axes, ("code_bytes", "bytes_per_vector"), strict=True):
        np.testing.assert_allclose(drawn(axes)["shared, 8 bits"], rows[[column, "recall"]])


def test_probes_draws_the_limit_of_perfect_codes():
    nprobe = [1, 2, 4, 8]
    points = pd.concat(
        pd.DataFrame(
            {
                "codebooks": mode,
                "nprobe": nprobe,
                "recall": np.linspace(0.3, top, 4),
                "routing_limit": np.linspace(0.7, 1, 4),
                "distance_computations": 500.0 * np.array(nprobe),
            }
        )
        for mode, top in (("shared", 0.45), ("per-cluster", 0.6))
    )
    figure = sensitivity.probes(points, 10)
    assert style.problems(figure) == []
    found, work = map(drawn, figure.axes)
    np.testing.assert_allclose(found["perfect codes"].T, [nprobe, np.linspace(0.7, 1, 4)])
    np.testing.assert_allclose(found["per-cluster codebooks"][:, 1], np.linspace(0.3, 0.6, 4))
    np.testing.assert_allclose(work["shared codebooks"][:, 1], 500.0 * np.array(nprobe))


def test_inner_clusters_draws_a_line_for_each_number():
    points = pd.DataFrame(
        {
            "n_inner": n,
            "nprobe": p,
            "recall": 0.3 + 0.001 * n + 0.02 * p,
            "distance_computations": n + 60_000 * p / n,
        }
        for n in (50, 100, 1000)
        for p in (1, 2, 4)
    )
    figure = sensitivity.inner_clusters(points, 10)
    assert style.problems(figure) == []
    lines = drawn(figure.axes[0])
    assert list(lines) == ["50", "100", "1,000"]
    rows = points[points.n_inner == 1000]
    np.testing.assert_allclose(lines["1,000"], rows[["distance_computations", "recall"]])


def test_outer_clusters_shows_flat_probing_beside():
    points = pd.DataFrame(
        {"n_outer": n, "nprobe_outer": p, "recall": 0.9 + 0.01 * p, "centroid_distances": n + 9 * p}
        for n in (5, 10)
        for p in (4, 1, 2)
    )
    figure = sensitivity.outer_clusters(points, 10, (0.99, 100.0))
    assert style.problems(figure) == []
    lines = drawn(figure.axes[0])
    np.testing.assert_allclose(lines["flat"], [[100.0, 0.99]])
    np.testing.assert_allclose(lines["10"][:, 0], [19, 28, 46])


def knobs_table(knobs, values=(1, 2, 4, 8), modes=("shared", "per-cluster")) -> pd.DataFrame:
    """A row for each knob, mode and value, the second value being held elsewhere."""
    return pd.DataFrame(
        {
            "knob": knob,
            "value": f"{value:,}",
            "codebooks": mode,
            "recall": 0.2 + 0.1 * number + 0.05 * place + 0.2 * (mode != "shared"),
            "recall_low": 0.18 + 0.1 * number + 0.05 * place + 0.2 * (mode != "shared"),
            "recall_high": 0.23 + 0.1 * number + 0.05 * place + 0.2 * (mode != "shared"),
            "standard": place == 1,
        }
        for number, knob in enumerate(knobs)
        for mode in modes
        for place, value in enumerate(values)
    )


def check_panel(axes, rows: pd.DataFrame, values: list[str]) -> None:
    """Compare what is drawn in a panel of one_at_a_time with its rows."""
    lines = drawn(axes)
    for mode, of_mode in rows.groupby("codebooks"):
        of_mode = of_mode.assign(place=[values.index(v) for v in of_mode.value])
        of_mode = of_mode.sort_values("place")
        color, marker = sensitivity.MODE_STYLE[str(mode)]
        np.testing.assert_allclose(lines[f"{mode} codebooks"], of_mode[["place", "recall"]])
        bars = spans(axes, color)
        np.testing.assert_allclose(bars[:, :, 0], of_mode[["place", "place"]])
        np.testing.assert_allclose(bars[:, :, 1], of_mode[["recall_low", "recall_high"]])
        (band,) = (
            c
            for c in axes.collections
            if isinstance(c, PolyCollection) and to_hex(c.get_facecolor()[0]) == color.lower()
        )
        corners = {tuple(corner) for corner in band.get_paths()[0].vertices.round(9)}
        for row in of_mode.itertuples():
            assert {
                (row.place, round(row.recall_low, 9)),
                (row.place, round(row.recall_high, 9)),
            } <= corners
    assert [label.get_text() for label in axes.get_xticklabels()] == values
    rings = [tuple(place) for li in axes.get_lines() if ring(li) for place in li.get_xydata()]
    held = rows[rows.standard].itertuples()
    assert sorted(rings) == sorted((values.index(row.value), row.recall) for row in held)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_one_at_a_time_draws_a_panel_a_knob(count):
    knobs = ["m", "nbits", "nprobe", "n_inner", "a third probed", "b", "c", "d", "e"][:count]
    points = knobs_table(knobs)
    figure = sensitivity.one_at_a_time(points, 10, 400)
    assert style.problems(figure) == []
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in panels] == knobs
    for axes, knob in zip(panels, knobs, strict=True):
        check_panel(axes, points[points.knob == knob], ["1", "2", "4", "8"])
        assert limit_lines(axes) == {"exact": 1.0, "random": 10 / 400}
        assert axes.get_ylim()[0] < 0
        assert axes.get_ylim()[1] > 1
    # All the width is used, however few the knobs.
    assert max(axes.get_position().x1 for axes in panels) > 0.95
    assert legend_words(figure) == ["shared codebooks", "per-cluster codebooks", "held elsewhere"]


def test_one_at_a_time_leaves_out_what_was_not_run():
    points = knobs_table(["m", "n_inner"], (100, 1000, 10_000))
    gone = (points.knob == "m") & (points.codebooks == "shared") & (points.value == "1,000")
    gone |= (points.knob == "n_inner") & (points.codebooks == "per-cluster")
    # As words, these numbers have another order.
    points = points[~gone].sort_values("value", ascending=False, kind="stable")
    figure = sensitivity.one_at_a_time(points, 10, 400)
    assert style.problems(figure) == []
    for axes, knob in zip(figure.axes, ("m", "n_inner"), strict=True):
        check_panel(axes, points[points.knob == knob], ["100", "1,000", "10,000"])
    assert list(drawn(figure.axes[1])) == ["shared codebooks", "held elsewhere"]


def test_one_at_a_time_draws_words_in_their_order_and_no_ring_where_nothing_is_held():
    points = knobs_table(["codebook mode"], (0,)).assign(standard=False)
    points["value"] = points.codebooks
    figure = sensitivity.one_at_a_time(points, 10, 400)
    assert style.problems(figure) == []
    check_panel(figure.axes[0], points, ["shared", "per-cluster"])
    assert legend_words(figure) == ["shared codebooks", "per-cluster codebooks"]


def test_one_at_a_time_takes_an_interval_that_rounding_put_beside_its_mean():
    points = knobs_table(["m"])
    points["recall_low"] = points.recall + 1e-16
    points["recall_high"] = points.recall - 1e-16
    assert style.problems(sensitivity.one_at_a_time(points, 10, 400)) == []


@pytest.mark.parametrize("knobs", [["training vectors"], ["a", "b", "c"]])
@pytest.mark.parametrize(
    "values", [(62_500, 250_000, 500_000), 10 ** np.arange(7), 1_000_000 * np.arange(1, 5), (1,)]
)
def test_one_at_a_time_keeps_long_values_apart(knobs, values):
    figure = sensitivity.one_at_a_time(knobs_table(knobs, values), 10, 400)
    assert style.problems(figure) == []


@pytest.mark.parametrize("n", [10, 11, 13, 20])
def test_limits_of_a_tiny_base_do_not_cover_each_other(n):
    figure = sensitivity.one_at_a_time(knobs_table(["m"]), 10, n)
    assert style.problems(figure) == []
    assert limit_lines(figure.axes[0]) == {"exact": 1.0, "random": 10 / n}


def grid_table(values, index_name="nbits", columns_name="m") -> pd.DataFrame:
    values = np.array(values, float)
    return pd.DataFrame(
        values,
        pd.Index(500 * 2 ** np.arange(len(values)), name=index_name),
        pd.Index(2 ** np.arange(values.shape[1]), name=columns_name),
    )


def check_grids(figure, *tables: pd.DataFrame) -> None:
    """Compare the pictures of grids, and the numbers on them, with the tables."""
    assert style.problems(figure) == []
    *panels, bar = figure.axes
    assert bar.get_ylabel() == "recall@10"
    (picture,) = {axes.images[0].get_clim() for axes in panels}
    for axes, table in zip(panels, tables, strict=True):
        values = table.to_numpy()
        np.testing.assert_array_equal(axes.images[0].get_array().filled(np.nan), values)
        words = {text.get_position(): " ".join(text.get_text().split()) for text in axes.texts}
        assert words == {
            (column, row): "not run" if np.isnan(value) else f"{value:.2f}"
            for (row, column), value in np.ndenumerate(values)
        }
        assert [t.get_text() for t in axes.get_xticklabels()] == [f"{v:,}" for v in table.columns]
        assert [t.get_text() for t in axes.get_yticklabels()] == [f"{v:,}" for v in table.index]
        assert (axes.get_xlabel(), axes.get_ylabel()) == (table.columns.name, table.index.name)
        # Row 0 is at the bottom: in a picture, lower values are lower.
        assert axes.get_ylim() == (-0.5, len(table) - 0.5)
        for text in axes.texts:
            column, row = text.get_position()
            behind = axes.images[0].to_rgba(values)[row, column]
            assert contrast(text.get_color(), behind) > 3.5
    measured = np.concatenate([table.to_numpy().ravel() for table in tables])
    if not np.isnan(measured).all():
        assert picture[0] <= np.nanmin(measured) <= np.nanmax(measured) <= picture[1]


def contrast(color, behind) -> float:
    """The contrast of a colour to another, or to the white page where that is transparent."""
    inks = []
    for rgba in to_rgba_array([to_hex(color), behind]):
        rgb = rgba[:3] * rgba[3] + 1 - rgba[3]
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        inks.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(inks) / min(inks)


def test_grids_draw_both_tables_on_one_scale():
    left = grid_table([[0.11, 0.25, np.nan], [0.36, np.nan, 0.62]])
    right = grid_table(np.linspace(0.3, 0.97, 20).reshape(4, 5), "n_inner", "nprobe")
    figure = sensitivity.grids(left, right, 10)
    check_grids(figure, left, right)
    assert figure.axes[0].images[0].get_clim() == (0.11, 0.97)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([[0.2, 0.3, 0.4]], [[0.5], [0.6]]),
        ([[0.2]], [[0.3]]),
        ([[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5, 0.5]]),
        ([[0.0, 0.0]], [[np.nan, 0.0]]),
        ([[np.nan, np.nan]], [[0.1, 0.2]]),
        ([[np.nan]], [[np.nan]]),
        (np.full((3, 8), np.nan), np.linspace(0, 1, 32).reshape(4, 8)),
    ],
    ids=["a row", "a cell", "all equal", "all zero", "left not run", "nothing run", "wide"],
)
@pytest.mark.filterwarnings("error")
def test_grids_of_any_shape(left, right):
    tables = grid_table(left), grid_table(right)
    check_grids(sensitivity.grids(*tables, 10), *tables)


def test_grids_name_whole_numbers_that_pandas_made_floats():
    table = grid_table([[0.2, 0.3], [0.4, 0.5]])
    figure = sensitivity.grids(table, table.set_axis(table.columns.astype(float), axis=1), 10)
    check_grids(figure, table, table)
    figure = sensitivity.grids(table, table.set_axis(table.index.astype(float), axis=0), 10)
    check_grids(figure, table, table)


def shares_table(factors, responses=("recall", "work", "memory")) -> pd.DataFrame:
    """Shares of each response; the order of the factors is another one in each."""
    rows = [
        {
            "response": response,
            "factor": factor,
            "main": 0.5 / (1 + number + place),
            "total": 1.0 / (1 + number + place),
        }
        for number, response in enumerate(responses)
        for place, factor in enumerate(factors)
    ]
    return pd.DataFrame(rows[: len(factors)] + rows[len(factors) :][::-1])


@pytest.mark.parametrize(
    "factors",
    [
        ["rerank_factor", "m", "nbits", "nprobe", "codebooks", "n_inner"],
        ["m", "nbits"],
        ["m"],
        ["a factor whose name is as long as this", "nbits"],
    ],
)
@pytest.mark.parametrize("responses", [("recall", "work", "memory"), ("recall",)])
def test_importance_draws_the_shares_of_each_response(factors, responses):
    shares = shares_table(factors, responses)
    figure = sensitivity.importance(shares)
    assert style.problems(figure) == []
    assert legend_words(figure) == ["with others", "alone"]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == list(dict.fromkeys(shares.response)) == ["recall", *titles[1:]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == factors
    for axes, response in zip(figure.axes, titles, strict=True):
        rows = shares[shares.response == response].set_index("factor").loc[factors]
        assert axes.yaxis_inverted()
        for bars, column in zip(axes.containers, ("total", "main"), strict=True):
            assert bars.get_label() == {"total": "with others", "main": "alone"}[column]
            np.testing.assert_allclose([bar.get_width() for bar in bars], rows[column])
            middles = [bar.get_y() + bar.get_height() / 2 for bar in bars]
            np.testing.assert_allclose(middles, range(len(factors)))
        assert [text.get_text() for text in axes.texts] == [f"{total:.0%}" for total in rows.total]
    # The number of a full share, too, ends before the next panel begins.
    for axes, after in itertools.pairwise(figure.axes):
        assert all(text.get_window_extent().x1 < after.bbox.x0 for text in axes.texts)


def test_importance_writes_no_number_for_a_factor_that_a_response_lacks():
    shares = shares_table(["m", "nbits"], ("recall", "work"))
    shares = shares[(shares.response == "recall") | (shares.factor == "m")]
    figure = sensitivity.importance(shares)
    assert style.problems(figure) == []
    assert [len(axes.texts) for axes in figure.axes] == [2, 1]


def crossing_table(sizes, bits=(4, 8)) -> pd.DataFrame:
    """Gains that change their sign; the sizes are not in order."""
    rows = pd.DataFrame(
        {
            "nbits": nbits,
            "n_inner": round(40_000 / size),
            "vectors_per_cluster": float(size),
            "recall": 0.3 + 0.04 * nbits - 0.05 * place,
            "shared_recall": 0.3 + 0.03 * nbits + 0.06 * (len(sizes) / 2 - place),
        }
        for place, size in reversed(list(enumerate(sizes)))
        for nbits in bits
    )
    return rows.assign(gain=rows.recall - rows.shared_recall)


@pytest.mark.parametrize(
    ("sizes", "bits"),
    [
        ((488, 2000, 8000), (4, 8)),
        ((488,), (4, 8)),
        ((1000,), (8,)),
        ((200, 300, 400), (8,)),
        ((2.5, 40_000), (4, 16)),
    ],
    ids=["three sizes", "one size", "a power of ten", "within a decade", "far apart"],
)
def test_crossing_draws_both_recalls_and_what_is_gained(sizes, bits):
    points = crossing_table(sizes, bits)
    figure = sensitivity.crossing(points, 10)
    assert style.problems(figure) == []
    left, right = figure.axes
    lines = drawn(left)
    assert list(lines) == legend_words(figure)
    assert len(lines) == 2 * len(bits)
    *gains, zero = right.get_lines()
    assert list(zero.get_ydata()) == [0, 0]
    assert list(zero.get_xdata()) == [0, 1]
    assert zero.get_transform() == right.get_yaxis_transform()
    for line, nbits in zip(gains, bits, strict=True):
        rows = points[points.nbits == nbits].sort_values("vectors_per_cluster")
        size = "vectors_per_cluster"
        np.testing.assert_allclose(lines[f"per-cluster, {nbits} bits"], rows[[size, "recall"]])
        shared = lines[f"shared, as large as {nbits} bits"]
        np.testing.assert_allclose(shared, rows[[size, "shared_recall"]])
        np.testing.assert_allclose(line.get_xydata(), rows[[size, "gain"]])
        assert line.get_marker() == sensitivity.BITS_MARKER[nbits]
    for axes in (left, right):
        assert len(tick_words(axes.xaxis)) > 1
        assert inside(axes)
    low, high = right.get_ylim()
    assert low <= 0 <= high


def test_crossing_says_when_there_is_nothing_to_compare():
    figure = sensitivity.crossing(crossing_table((488,)).iloc[:0], 10)
    assert style.problems(figure) == []
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == [
        "no two codes to compare"
    ] * 2


def test_probes_within_a_decade_of_work_has_labels():
    points = pd.DataFrame(
        {
            "codebooks": "shared",
            "nprobe": [1, 2],
            "recall": [0.3, 0.4],
            "routing_limit": [0.5, 0.6],
            "distance_computations": [2000.0, 4000.0],
        }
    )
    figure = sensitivity.probes(points, 10)
    assert style.problems(figure) == []
    assert tick_words(figure.axes[1].yaxis) == ["1,000", "10,000"]
