"""The figures of notebooks 05 and 06: drawn without flaws, showing what they are given."""

import numpy as np
import pandas as pd
import pytest
from drawn import drawn, legend_words

from pqlib.plots import evaluation, sensitivity, style

METHODS = list(evaluation.METHOD_STYLE)


def test_every_method_has_a_look_of_its_own():
    assert len(set(evaluation.METHOD_STYLE.values())) == len(METHODS)


def test_trade_off_draws_each_method_and_its_best_recall():
    points = pd.DataFrame(
        {
            "method": method,
            "nprobe": nprobe,
            "recall": 0.4 + 0.08 * number + 0.01 * nprobe,
            "qps": 40_000 / (nprobe * (1 + number)),
            "qps_min": 30_000 / (nprobe * (1 + number)),
            "qps_max": 45_000 / (nprobe * (1 + number)),
            "bytes_per_vector": 20.0 * 2**number,
        }
        for number, method in enumerate(METHODS)
        for nprobe in (4, 1, 2)
    )
    figure = evaluation.trade_off(points, 10)
    assert style.problems(figure) == []
    speed, memory = figure.axes
    lines = drawn(speed)
    assert list(lines) == METHODS == legend_words(figure)
    places = [line.get_xydata()[0] for line in memory.get_lines()]
    for place, method in zip(places, METHODS, strict=True):
        rows = points[points.method == method].sort_values("nprobe")
        np.testing.assert_allclose(lines[method], rows[["recall", "qps"]])
        np.testing.assert_allclose(place, [rows.bytes_per_vector.iloc[0], rows.recall.max()])


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
