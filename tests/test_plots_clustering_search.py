"""The figures of notebooks 02 and 04: they are drawn without flaws and show what they are given."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from drawn import legend_words, scattered
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection, PathCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgba_array
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from test_plots_data_encoding import area, lines, texts

from pqlib.study.plots import clustering, search, style


def tick_labels(axis: Axis) -> list[str]:
    """The labels of the ticks in view, as drawn; for a figure that was drawn already."""
    low, high = sorted(axis.get_view_interval())
    return [
        tick.label1.get_text()
        for tick in axis.get_major_ticks()
        if low <= tick.get_loc() <= high and tick.label1.get_text()
    ]


def unlabelled(axes: Axes) -> np.ndarray:
    """The (n, 2) points of the only scatter of an axes that has no label."""
    (found,) = (
        c
        for c in axes.collections
        if isinstance(c, PathCollection) and str(c.get_label()).startswith("_")
    )
    return np.array(found.get_offsets())


def cells(axes: Axes) -> PolyCollection:
    (found,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    return found


def band(filled: Collection, at: Sequence[float] | np.ndarray) -> np.ndarray:
    """The (n, 2) lower and upper ends of a filled band at these positions on the x axis."""
    (path,) = filled.get_paths()
    x, y = path.vertices.T
    ends = [y[np.isclose(x, place)] for place in at]
    return np.array([[values.min(), values.max()] for values in ends])


def inked(figure: Figure, axes: Axes) -> float:
    """The share of an axes' pixels that are not background."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1]
    x0, y0, x1, y1 = axes.bbox.extents.round().astype(int)
    inside = pixels[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4]
    return float((inside != 255).any(axis=2).mean())


# Both levels of clusters -------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [1, 2, 25])
def test_objective_shows_every_iteration_of_both_levels(iterations: int) -> None:
    inner = 40_000 + 20_000 * 0.7 ** np.arange(iterations)
    outer = 0.2 + 0.3 * 0.5 ** np.arange(iterations + 1)
    figure = clustering.objective(inner, outer)
    assert style.problems(figure) == []
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Inner level: vectors",
        "Outer level: centroids",
    ]
    assert figure.axes[0].get_ylabel() == "mean squared distance"
    for axes, values in zip(figure.axes, (inner, outer), strict=True):
        (line,) = axes.get_lines()
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, len(values) + 1))
        np.testing.assert_array_equal(line.get_ydata(), values)
        assert axes.get_xlabel() == "iteration"
        if iterations > 1:
            assert all(label.isdigit() for label in tick_labels(axes.xaxis))


def test_objective_labels_large_values_with_commas_and_small_ones_with_decimals() -> None:
    figure = clustering.objective([52_000.0, 41_000.0, 40_500.0], [0.0031, 0.0024, 0.0023])
    assert style.problems(figure) == []
    large, small = (tick_labels(axes.yaxis) for axes in figure.axes)
    assert "44,000" in large
    assert "0.0024" in small
    assert len(set(small)) == len(small)


@pytest.mark.parametrize(("n_inner", "n_outer"), [(1, 1), (300, 17)])
def test_list_sizes_shows_every_cluster_in_order_and_the_mean(n_inner: int, n_outer: int) -> None:
    rng = np.random.default_rng(1)
    # Some lists are empty; they have their place, too.
    given = (rng.poisson(2.0, n_inner) * 700 + (n_inner == 1), rng.integers(1, 25, n_outer))
    before = [values.copy() for values in given]
    figure = clustering.list_sizes(*given)
    assert style.problems(figure) == []
    words = (("inner cluster, by size", "vectors"), ("outer cluster, by size", "inner clusters"))
    for axes, values, kept, (xlabel, ylabel) in zip(figure.axes, given, before, words, strict=True):
        np.testing.assert_array_equal(values, kept)
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == sorted(values.tolist(), reverse=True)
        places = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
        np.testing.assert_allclose(places, np.arange(1, len(values) + 1))
        (mean,) = axes.get_lines()
        np.testing.assert_allclose(mean.get_ydata(), values.mean())
        assert (axes.get_xlabel(), axes.get_ylabel()) == (xlabel, ylabel)
        for axis in (axes.xaxis, axes.yaxis) if n_inner > 1 else (axes.yaxis,):
            assert all(label.replace(",", "").isdigit() for label in tick_labels(axis))
        # The bars fill the width.
        assert axes.get_xlim() == (0.5, len(values) + 0.5)
    assert texts(figure) == ["mean ", "mean "]


@pytest.mark.parametrize(
    "figure",
    [clustering.objective([5.0], [3.0]), clustering.list_sizes(np.array([7]), np.array([1]))],
    ids=["objective", "list_sizes"],
)
def test_one_iteration_or_cluster_is_counted_in_whole_numbers(figure: Figure) -> None:
    assert style.problems(figure) == []
    assert [tick_labels(axes.xaxis) for axes in figure.axes] == [["1"], ["1"]]


@pytest.mark.parametrize("n_outer", [2, 9])
def test_nested_cells_shows_centroids_and_tints_cells_by_their_owner(n_outer: int) -> None:
    rng = np.random.default_rng(2)
    points, inner = rng.normal(size=(400, 2)), rng.normal(size=(25, 2))
    owner = rng.permutation(np.arange(25) % n_outer)
    outer = np.array([inner[owner == o].mean(axis=0) for o in range(n_outer)])
    figure = clustering.nested_cells(points, inner, owner, outer)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    shown = scattered(axes)
    np.testing.assert_array_equal(unlabelled(axes), points)
    np.testing.assert_array_equal(shown["inner centroids"], inner)
    np.testing.assert_array_equal(shown["outer centroids"], outer)
    assert legend_words(figure) == ["inner centroids", "outer centroids"]
    assert axes.get_xlabel() == "1st principal direction"
    assert axes.get_ylabel() == "2nd principal direction"
    # The cells fill the window and have the tint of their owner, which repeats after seven.
    drawn = cells(axes)
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    polygons = [path.vertices for path in drawn.get_paths()]
    assert sum(map(area, polygons)) == pytest.approx((x1 - x0) * (y1 - y0))
    tints = [clustering.TINTS[o % 7] for o in owner]
    np.testing.assert_allclose(drawn.get_facecolor(), to_rgba_array(tints))
    # Each outer cluster has its border.
    assert sum(isinstance(found, ContourSet) for found in axes.collections) == n_outer


def borders(axes: Axes) -> np.ndarray:
    found = [c for c in axes.collections if isinstance(c, ContourSet)]
    paths = [path.vertices for contour in found for path in contour.get_paths()]
    return np.concatenate([np.empty((0, 2)), *paths])


def test_nested_cells_draws_borders_between_outer_clusters_only() -> None:
    points = np.random.default_rng(3).uniform(-3, 3, (500, 2))
    inner = np.array([[-2.0, 1.0], [-2.0, -1.0], [1.0, 1.0], [1.0, -1.0]])
    outer = np.array([[-2.0, 0.0], [1.0, 0.0]])
    figure = clustering.nested_cells(points, inner, np.array([0, 0, 1, 1]), outer)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    x, y = borders(axes).T
    # Between the two columns of centroids, from edge to edge, within a step of the raster.
    np.testing.assert_allclose(x, -0.5, atol=0.02)
    assert [y.min(), y.max()] == pytest.approx(list(axes.get_ylim()))


@pytest.mark.parametrize("n_inner", [1, 5])
def test_nested_cells_of_one_outer_cluster_have_no_border(n_inner: int) -> None:
    points = np.random.default_rng(4).normal(size=(300, 2))
    owner = np.zeros(n_inner, int)
    figure = clustering.nested_cells(points, points[:n_inner], owner, points[:1])
    assert style.problems(figure) == []
    (axes,) = figure.axes
    assert len(borders(axes)) == 0
    assert len(cells(axes).get_paths()) == n_inner


def test_nested_cells_keeps_a_window_around_the_bulk_of_the_points() -> None:
    points = np.random.default_rng(5).uniform(-1, 1, (1000, 2))
    points[0] = 500.0
    figure = clustering.nested_cells(points, points[1:9], np.arange(8) % 2, points[1:3])
    assert style.problems(figure) == []
    (axes,) = figure.axes
    for low, high in (axes.get_xlim(), axes.get_ylim()):
        assert -1.4 < low < -1
        assert 1 < high < 1.4


# What routing loses ------------------------------------------------------------------------


def crossing() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points, four centroids, a query, its ten nearest and their cells, of three of the four."""
    points = np.random.default_rng(6).normal(size=(400, 2))
    inner = np.array([[0.4, 0.5], [-0.6, 0.3], [0.3, -0.7], [9.0, 9.0]])
    query = np.array([-0.05, 0.02])
    near = points[np.linalg.norm(points - query, axis=1).argsort()[:10]]
    homes = np.linalg.norm(near[:, None] - inner, axis=2).argmin(axis=1)
    return points, inner, query, near, homes


@pytest.mark.parametrize("probed", [1, 3])
def test_boundary_miss_tells_found_from_missed_neighbours(probed: int) -> None:
    points, inner, query, near, homes = crossing()
    assert {0, 1, 2} == set(homes)
    figure = clustering.boundary_miss(points, inner, np.zeros(4, int), query, near, probed, homes)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    shown = scattered(axes)
    np.testing.assert_array_equal(shown["true neighbour, found"], near[homes == probed])
    np.testing.assert_array_equal(shown["true neighbour, missed"], near[homes != probed])
    np.testing.assert_array_equal(shown["query"], [query])
    assert legend_words(figure)[:3] == ["true neighbour, found", "true neighbour, missed", "query"]
    tinted = (cells(axes).get_facecolor() == to_rgba_array(clustering.TINTS[0])).all(axis=1)
    assert np.flatnonzero(tinted).tolist() == [probed]
    # The query is in the middle, its neighbours are around it, well in view.
    low, high = np.transpose([axes.get_xlim(), axes.get_ylim()])
    np.testing.assert_allclose((low + high) / 2, query)
    gaps = np.abs(near - query).max()
    assert gaps < (high - low).min() / 2 < 4 * gaps
    # Nothing is drawn that is out of view.
    inside = ((points > low) & (points < high)).all(axis=1)
    np.testing.assert_array_equal(unlabelled(axes), points[inside])
    inside = ((inner > low) & (inner < high)).all(axis=1)
    np.testing.assert_array_equal(shown["inner centroids"], inner[inside])
    assert axes.get_xlabel() == "1st principal direction"
    assert axes.get_ylabel() == "2nd principal direction"


def test_boundary_miss_names_no_centroids_when_none_is_in_view() -> None:
    points, _, query, near, _ = crossing()
    far, homes = np.array([[50.0, 50.0]]), np.zeros(10, int)
    figure = clustering.boundary_miss(points, far, homes[:1], query, near, 0, homes)
    assert style.problems(figure) == []
    assert "inner centroids" not in {*scattered(figure.axes[0]), *legend_words(figure)}
    # One cell, which is all there is to see.
    (polygon,) = (path.vertices for path in cells(figure.axes[0]).get_paths())
    (x0, x1), (y0, y1) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert area(polygon) == pytest.approx((x1 - x0) * (y1 - y0))


def test_boundary_miss_has_a_window_even_if_all_neighbours_equal_the_query() -> None:
    points, inner, query, _, _ = crossing()
    near = np.repeat(query[None], 10, axis=0)
    homes = np.zeros(10, int)
    figure = clustering.boundary_miss(points, inner, np.zeros(4, int), query, near, 0, homes)
    assert style.problems(figure) == []
    low, high = np.transpose([figure.axes[0].get_xlim(), figure.axes[0].get_ylim()])
    np.testing.assert_allclose((low + high) / 2, query)
    polygons = [path.vertices for path in cells(figure.axes[0]).get_paths()]
    assert sum(map(area, polygons)) == pytest.approx((high - low).prod())


def test_boundary_miss_shows_neighbours_that_all_lie_on_one_side() -> None:
    points, inner, query, _, homes = crossing()
    near = query - np.linspace(0.1, 1, 10)[:, None]
    figure = clustering.boundary_miss(points, inner, np.zeros(4, int), query, near, 0, homes)
    assert style.problems(figure) == []
    low, high = np.transpose([figure.axes[0].get_xlim(), figure.axes[0].get_ylim()])
    assert (low < near).all()
    assert (query < high).all()


def test_boundary_miss_needs_the_cell_of_every_neighbour() -> None:
    points, inner, query, near, homes = crossing()
    with pytest.raises(IndexError, match="boolean"):
        clustering.boundary_miss(points, inner, np.zeros(4, int), query, near, 0, homes[:-1])


@pytest.mark.parametrize(
    ("nearest", "n_lists"), [((1, 10, 100), 64), ((1,), 1), ((1, 10), 2), ((1,), 2000)]
)
def test_routing_shows_every_curve_by_lists_and_by_work(
    nearest: tuple[int, ...], n_lists: int
) -> None:
    nprobe = np.arange(1, n_lists + 1)
    scanned = (nprobe / n_lists) ** 0.8
    curves = {k: scanned ** (0.2 + 0.001 * k) for k in nearest}
    figure = clustering.routing(curves, scanned)
    assert style.problems(figure) == []
    left, right = figure.axes
    for k, found in curves.items():
        for axes, x in ((left, nprobe), (right, scanned)):
            np.testing.assert_array_equal(lines(axes, str(k))[str(k)], np.stack([x, found], 1))
    np.testing.assert_array_equal(
        lines(right, "lists at random")["lists at random"], [[0, 0], [1, 1]]
    )
    assert legend_words(figure) == [*map(str, nearest), "lists at random"]
    assert figure.legends[0].get_title().get_text() == "true nearest"
    # A marker at every power of two, so evenly spaced on the logarithmic axis.
    assert left.get_xscale() == "log"
    marked = nprobe[left.get_lines()[0].get_markevery()]
    assert marked.tolist() == [p for p in 2 ** np.arange(20) if p <= n_lists]
    assert left.get_xlabel() == "nprobe, lists probed"
    assert left.get_ylabel() == "true neighbours in probed lists"
    assert right.get_xlabel() == "share of the base scanned"
    for axis in (left.yaxis, right.xaxis):
        assert "100%" in tick_labels(axis)
    if n_lists > 1:
        assert tick_labels(left.xaxis) == [f"{p:,}" for p in (1, 10, 100, 1000) if p <= n_lists]


def test_routing_needs_a_share_scanned_for_every_nprobe() -> None:
    with pytest.raises(ValueError, match="same first dimension"):
        clustering.routing({1: np.linspace(0.5, 1, 8)}, np.linspace(0.1, 1, 7))


def work(probings: Sequence[str], probes: Sequence[int], seeds: int) -> pd.DataFrame:
    rows = [
        {
            "probing": probing,
            "nprobe": p,
            "seed": seed,
            "recall": 0.25 + 0.15 * np.log2(p) - 0.04 * number + 0.01 * seed**2,
            "centroids": 100 / (1 + number) + seed,
            "vectors": 60.0 * p + 3 * seed,
        }
        for seed in range(seeds)
        for number, probing in enumerate(probings)
        for p in probes
    ]
    return pd.DataFrame(rows)


PROBINGS = ["flat", "10 of 19 outer", "5 of 19 outer", "1 of 19 outer"]


@pytest.mark.parametrize(
    ("probings", "probes", "seeds"),
    [(PROBINGS, [1, 2, 4, 8, 16], 3), (PROBINGS[:2], [1], 2), (["flat"], [1], 1)],
)
def test_flat_or_nested_shows_means_and_ranges_over_the_seeds(
    probings: list[str], probes: list[int], seeds: int
) -> None:
    table = work(probings, probes, seeds)
    figure = clustering.flat_or_nested(table, 10)
    assert style.problems(figure) == []
    left, right = figure.axes
    assert legend_words(figure) == probings
    shown = lines(right, *probings)
    log2, square = np.log2(probes), np.arange(seeds) ** 2
    for number, (probing, filled) in enumerate(zip(probings, right.collections, strict=True)):
        x = 100 / (1 + number) + 60 * np.array(probes) + 4 * np.mean(np.arange(seeds))
        base = 0.25 + 0.15 * log2 - 0.04 * number
        y = base + 0.01 * square.mean()
        np.testing.assert_allclose(shown[probing], np.stack([x, y], 1))
        ends = np.stack([base, base + 0.01 * square.max()], 1)
        np.testing.assert_allclose(band(filled, x), ends)
    assert right.get_xscale() == "log"
    assert left.get_xlabel() == "distances to centroids"
    assert right.get_xlabel() == "distances to centroids and vectors"
    assert left.get_ylabel() == "true 10 in probed lists"


def test_flat_or_nested_marks_each_probing_alike_in_both_panels() -> None:
    figure = clustering.flat_or_nested(work(PROBINGS, [1, 2, 4, 8, 16, 32], 2), 10)
    assert style.problems(figure) == []
    left, right = figure.axes
    looks = [(line.get_color(), line.get_marker()) for line in right.get_lines()]
    assert len({color for color, _ in looks}) == len(PROBINGS)
    assert len({marker for _, marker in looks}) == len(PROBINGS)
    # Every second nprobe: a grey line through its points, ordered by work, and a mark on each.
    drawn = left.get_lines()
    assert len(drawn) == 3 * (1 + len(PROBINGS))
    for place, nprobe in enumerate([16, 4, 1]):
        line, *marks = drawn[place * 5 : place * 5 + 5]
        assert line.get_color() == style.GREY
        recall = 0.25 + 0.15 * np.log2(nprobe) - 0.04 * np.arange(4) + 0.005
        points = np.stack([100 / np.arange(1, 5) + 0.5, recall], 1)
        np.testing.assert_allclose(line.get_xydata(), points[::-1])
        np.testing.assert_allclose(np.concatenate([mark.get_xydata() for mark in marks]), points)
        assert [(mark.get_color(), mark.get_marker()) for mark in marks] == looks
    assert texts(figure) == ["nprobe 16", "nprobe 4", "nprobe 1"]
    assert [text.xy for text in left.texts] == [
        pytest.approx((100.5, 0.255 + 0.15 * bits)) for bits in (4, 2, 0)
    ]


def test_flat_or_nested_names_lines_together_whose_labels_would_lie_on_another() -> None:
    table = work(PROBINGS, [1, 2, 4], 1)
    figure = clustering.flat_or_nested(table.assign(recall=0.9 + 0.02 * table.nprobe), 10)
    assert style.problems(figure) == []
    assert texts(figure) == ["nprobe 4, 2, 1"]


def growth(counts: list[int], columns: tuple[str, ...]) -> pd.DataFrame:
    rows = [
        {"n_inner": count, "build": build, "probing": probing}
        | {c: (i + 1) * (j + 1) * count**0.5 * 10 ** (1 + h) for h, c in enumerate(columns)}
        for i, build in enumerate(("bottom-up", "top-down"))
        for count in counts
        for j, probing in enumerate(("flat", "two levels"))
    ]
    return pd.DataFrame(rows)


GROWTH_LINES = [
    f"{probing}, {build}"
    for build in ("bottom-up", "top-down")
    for probing in ("flat", "two levels")
]


def check_growth(
    figure: Figure, table: pd.DataFrame, panels: list[tuple[str, pd.DataFrame]], marks: list
) -> None:
    assert style.problems(figure) == []
    assert legend_words(figure) == GROWTH_LINES
    counts = sorted(set(table.n_inner))
    for axes, (column, rows), crossings in zip(figure.axes, panels, marks, strict=True):
        shown = lines(axes, *GROWTH_LINES)
        for name, points in shown.items():
            probing, build = name.split(", ")
            chosen = rows[(rows.build == build) & (rows.probing == probing)]
            np.testing.assert_array_equal(points, chosen[["n_inner", column]])
        looks = {
            str(line.get_label()): (line.get_color(), line.get_linestyle())
            for line in axes.get_lines()
            if not str(line.get_label()).startswith("_")
        }
        assert len(set(looks.values())) == 4
        assert {name for name, (_, dash) in looks.items() if dash == "--"} == set(GROWTH_LINES[::2])
        marked = [
            (float(line.get_xdata()[0]), line.get_color())
            for line in axes.get_lines()
            if line.get_linestyle() == ":"
        ]
        finite = {build: at for build, at in crossings.items() if np.isfinite(at)}
        assert marked == [(at, looks[f"flat, {build}"][0]) for build, at in finite.items()]
        words = [text.get_text() for text in axes.texts if text.get_text()]
        assert words == [f"pays from {at:,.0f}" for at in finite.values()]
        assert axes.get_xlabel() == "inner clusters K"
        for axis, values in ((axes.xaxis, counts), (axes.yaxis, rows[column])):
            assert axis.get_scale() == "log"
            low, high = axis.get_view_interval()
            assert low < min(values) <= max(values) < high
            assert len(tick_labels(axis)) >= min(2, len(counts))


NOWHERE = {"bottom-up": -np.inf, "top-down": np.inf}
FOUND = [
    NOWHERE,
    {"bottom-up": 40.0, "top-down": np.inf},
    {"bottom-up": 40.0, "top-down": 41.0},
    {"bottom-up": 9.0, "top-down": 15_000.0},
]


@pytest.mark.parametrize("counts", [[8, 64, 256, 1024, 16384], [64], [100]])
@pytest.mark.parametrize("found", FOUND)
def test_saving_shows_all_lines_and_the_crossings(counts: list[int], found: dict) -> None:
    found = {b: at if at > max(counts) else min(at, max(counts)) for b, at in found.items()}
    table = growth(counts, ("centroids", "distances"))
    figure = clustering.saving(table, {"centroids": found, "distances": NOWHERE})
    check_growth(figure, table, [("centroids", table), ("distances", table)], [found, NOWHERE])
    assert figure.axes[0].get_ylabel() == "distances per query"
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Centroids alone", "With the lists scanned"]


@pytest.mark.parametrize("counts", [[64, 256, 1024, 16384], [100]])
def test_saving_time_shows_speed_by_step(counts: list[int]) -> None:
    table = pd.concat(
        [
            growth(counts, ("qps",)).assign(step=step, qps=lambda t, f=factor: f * t.qps)
            for step, factor in (("coarse", 1000), ("search", 10))
        ]
    )
    table["qps_min"], table["qps_max"] = 0.9 * table.qps, 1.05 * table.qps
    found = {"coarse": {"bottom-up": 90.0, "top-down": np.inf}, "search": NOWHERE}
    figure = clustering.saving_time(table, found)
    panels = [("qps", table[table.step == step]) for step in ("coarse", "search")]
    check_growth(figure, table, panels, [found["coarse"], NOWHERE])
    assert figure.axes[0].get_ylabel() == "queries per second"
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Probing alone", "Whole search in the lists"]


@pytest.mark.parametrize("cost", ["distances", "qps"])
@pytest.mark.parametrize("probes", [[1, 2, 4, 8, 16, 32, 64], [1]])
def test_recall_cost_shows_all_lines_and_the_target(cost: str, probes: list[int]) -> None:
    table = growth(probes, (cost,)).rename(columns={"n_inner": "nprobe"}).assign(n_inner=1024)
    table["recall"] = 0.4 + 0.5 * table.nprobe / 64
    figure = clustering.recall_cost(table, cost, 0.9, 10)
    assert style.problems(figure) == []
    assert legend_words(figure) == [*GROWTH_LINES, "90%, where they are compared"]
    (axes,) = figure.axes
    for name, points in lines(axes, *GROWTH_LINES).items():
        probing, build = name.split(", ")
        chosen = table[(table.build == build) & (table.probing == probing)]
        np.testing.assert_array_equal(points, chosen[[cost, "recall"]])
    assert axes.get_title(loc="left") == "1,024 inner clusters"
    (target,) = (line for line in axes.get_lines() if line.get_linestyle() == ":")
    np.testing.assert_array_equal(target.get_ydata(), 0.9)
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "true 10 in probed lists"
    assert "per" in axes.get_xlabel()
    assert tick_labels(axes.yaxis)[-1] == "100%"


@pytest.mark.parametrize("spread", [1.0, 1.06, 1.5, 3.0, 8.0, 40.0, 1000.0])
@pytest.mark.parametrize("low", [340_000.0, 9_500.0, 12.0])
def test_costs_close_together_or_far_apart_have_labels_apart(spread: float, low: float) -> None:
    table = growth([1, 4, 16, 64], ("qps",)).rename(columns={"n_inner": "nprobe"})
    place = np.log(table.qps / table.qps.min()) / np.log(table.qps.max() / table.qps.min())
    table = table.assign(n_inner=1024, recall=0.5, qps=low * spread**place)
    figure = clustering.recall_cost(table, "qps", 0.9, 10)
    assert style.problems(figure) == []
    assert spread == 1 or len(tick_labels(figure.axes[0].xaxis)) >= 2


# Distances from tables ---------------------------------------------------------------------


@pytest.mark.parametrize(("m", "ksub", "scale"), [(8, 256, 40.0), (1, 16, 40.0), (64, 16, 1e-4)])
def test_distance_table_shows_the_entries_of_the_code_and_their_sum(
    m: int, ksub: int, scale: float
) -> None:
    rng = np.random.default_rng(7)
    table, code = rng.gamma(2.0, scale, (m, ksub)), rng.integers(0, ksub, m)
    figure = search.distance_table(table, code)
    assert style.problems(figure) == []
    heat, sums, bar = figure.axes
    (image,) = heat.images
    np.testing.assert_array_equal(image.get_array(), table)
    # The path goes through the middle of the pixels of the entries.
    (path,) = heat.get_lines()
    x0, x1, y0, y1 = image.get_extent()
    assert image.origin == "upper"
    column = (np.array(path.get_xdata()) - x0) / (x1 - x0) * ksub
    row = (np.array(path.get_ydata()) - y1) / (y0 - y1) * m
    np.testing.assert_allclose(column, code + 0.5)
    np.testing.assert_allclose(row, np.arange(m) + 0.5)
    assert heat.get_ylim() == sums.get_ylim()
    # Bars beside the rows, each beginning where the one above ends.
    entries = [table[j, code[j]] for j in range(m)]
    np.testing.assert_allclose([patch.get_width() for patch in sums.patches], entries)
    starts = [patch.get_x() for patch in sums.patches]
    np.testing.assert_allclose(starts, np.r_[0, np.cumsum(entries)[:-1]], atol=1e-12)
    middles = [patch.get_y() + patch.get_height() / 2 for patch in sums.patches]
    np.testing.assert_allclose(middles, path.get_ydata())
    assert sums.get_xlim()[1] >= sum(entries)
    assert (heat.get_xlabel(), heat.get_ylabel()) == ("sub-centroid", "sub-quantizer")
    assert sums.get_xlabel() == "squared distance"
    assert "squared distances" in heat.get_title(loc="left") + heat.get_title()
    for axis in (sums.xaxis, bar.yaxis):
        labels = tick_labels(axis)
        assert 2 <= len(labels) == len(set(labels))


def test_distance_table_writes_large_numbers_short_on_the_narrow_panel() -> None:
    table = np.tile(np.linspace(0, 20_000, 16), (8, 1))
    figure = search.distance_table(table, np.arange(8, 16))
    assert style.problems(figure) == []
    _, sums, bar = figure.axes
    assert "10,000" in tick_labels(bar.yaxis)
    assert [label.replace("\N{THIN SPACE}", " ") for label in tick_labels(sums.xaxis)][
        -1
    ] == "100 k"


@pytest.mark.parametrize(
    ("code", "error"),
    [([1, 2, 3], ValueError), ([1, 2, 3, 4, 5], ValueError), ([16] * 4, IndexError)],
)
def test_distance_table_refuses_a_code_that_does_not_fit(
    code: list[int], error: type[Exception]
) -> None:
    with pytest.raises(error, match="dimension|out of bounds"):
        search.distance_table(np.ones((4, 16)), np.array(code))


@pytest.mark.parametrize(("modes", "scale"), [(("shared",), 1.0), (("a", "b", "c"), 1e5)])
def test_estimates_shows_every_pair_on_one_scale(modes: tuple[str, ...], scale: float) -> None:
    rng = np.random.default_rng(8)
    true = scale * rng.uniform(100, 300, 200)
    estimated = {mode: true * rng.normal(0.9 - 0.1 * i, 0.05, 200) for i, mode in enumerate(modes)}
    figure = search.estimates(true, estimated)
    assert style.problems(figure) == []
    everything = np.concatenate([true, *estimated.values()])
    for axes, (mode, values) in zip(figure.axes, estimated.items(), strict=True):
        assert axes.get_title(loc="left") == f"{mode} codebooks"
        np.testing.assert_array_equal(unlabelled(axes), np.stack([true, values], 1))
        # All in view, and the diagonal goes from corner to corner.
        assert axes.get_xlim() == axes.get_ylim() == figure.axes[0].get_xlim()
        low, high = axes.get_xlim()
        assert low < everything.min() < everything.max() < high
        (diagonal,) = axes.get_lines()
        np.testing.assert_array_equal(diagonal.get_xydata(), [[low, low], [high, high]])
        assert axes.get_xlabel() == "true distance (L2)"
    assert figure.axes[0].get_ylabel() == "estimated distance (L2)"


def test_estimates_need_a_true_distance_each() -> None:
    with pytest.raises(ValueError, match="same size"):
        search.estimates(np.ones(5), {"shared": np.ones(4)})


@pytest.mark.parametrize(("modes", "limit"), [(("shared",), 1), (("shared", "per-cluster"), 500)])
def test_ranks_shows_the_share_by_place(modes: tuple[str, ...], limit: int) -> None:
    place = np.arange(1, limit + 1)
    found = {mode: 1 - 0.9 / place ** (0.5 + i) for i, mode in enumerate(modes)}
    figure = search.ranks(found, limit)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    names = [f"{mode} codebooks" for mode in modes]
    assert legend_words(figure) == names
    for points, share in zip(lines(axes, *names).values(), found.values(), strict=True):
        np.testing.assert_array_equal(points, np.stack([place, share], 1))
    assert len({line.get_color() for line in axes.get_lines()}) == len(modes)
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "first places in the order of the estimates"
    assert axes.get_ylabel() == "true neighbours among them"
    assert tick_labels(axes.yaxis)[-1] == "100%"
    low, high = axes.get_ylim()
    assert low == 0
    assert high > 1


@pytest.mark.parametrize("limit", [9, 11])
def test_ranks_need_a_share_for_every_place(limit: int) -> None:
    with pytest.raises(ValueError, match="same first dimension"):
        search.ranks({"shared": np.linspace(0.1, 1, 10)}, limit)


# What a search finds and loses -------------------------------------------------------------


@pytest.mark.parametrize(
    ("modes", "probings", "probes"),
    [
        (("shared", "per-cluster"), PROBINGS, (1, 2, 4, 8, 16)),
        (("per-cluster", "shared"), PROBINGS[:2], (1,)),
        (("shared",), ["flat"], (1,)),
    ],
)
def test_multilevel_shows_every_search(
    modes: tuple[str, ...], probings: list[str], probes: tuple[int, ...]
) -> None:
    rows = [
        (mode, probing, p, 0.2 + 0.15 * np.log2(p) + 0.05 * i - 0.03 * j, 90.0 * (1 + i + j) * p)
        for i, mode in enumerate(modes)
        for j, probing in enumerate(probings)
        for p in probes
    ]
    names = ["codebooks", "probing", "nprobe", "recall", "distance_computations"]
    table = pd.DataFrame(rows, columns=names)
    figure = search.multilevel(table, 10)
    assert style.problems(figure) == []
    looks = []
    for i, (axes, mode) in enumerate(zip(figure.axes, modes, strict=True)):
        assert axes.get_title(loc="left") == f"{mode} codebooks"
        shown = lines(axes, *probings)
        assert len(axes.get_lines()) == len(probings)
        for j, probing in enumerate(probings):
            x = 90.0 * (1 + i + j) * np.array(probes)
            y = 0.2 + 0.15 * np.log2(probes) + 0.05 * i - 0.03 * j
            np.testing.assert_allclose(shown[probing], np.stack([x, y], 1))
        looks.append([(line.get_color(), line.get_marker()) for line in axes.get_lines()])
        # A power of ten at the left end, all data between, the same axis for all modes.
        low, high = axes.get_xlim()
        x = table.distance_computations[table.codebooks == mode]
        assert low < x.min() <= x.max() < high
        np.testing.assert_allclose(np.log10(low) % 1, 0, atol=1e-9)
        assert (low, high) == figure.axes[0].get_xlim()
        assert len(tick_labels(axes.xaxis)) >= 1
        assert axes.get_xscale() == "log"
        assert axes.get_xlabel() == "distance computations of a query"
    assert figure.axes[0].get_ylabel() == "recall@10"
    # One legend serves all panels: what looks alike is alike.
    assert legend_words(figure) == probings
    assert len({color for color, _ in looks[0]}) == len(probings)
    assert len({marker for _, marker in looks[0]}) == len(probings)
    assert looks == [looks[0]] * len(modes)


@pytest.mark.parametrize(
    ("modes", "factors"),
    [(("shared", "per-cluster"), (1, 2, 4, 8, 16)), (("per-cluster",), (1,))],
)
def test_rerank_shows_candidates_estimates_and_the_limit(
    modes: tuple[str, ...], factors: tuple[int, ...]
) -> None:
    rows = [
        (mode, factor, 0.5 + 0.1 * i + 0.02 * factor)
        for i, mode in enumerate(modes)
        for factor in (0, *factors)
    ]
    table = pd.DataFrame(rows, columns=["codebooks", "rerank_factor", "recall"])
    figure = search.rerank(table, 0.96, 10)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    for i, mode in enumerate(modes):
        shown = lines(axes, mode, f"{mode}, estimates only")
        expected = [(10 * factor, 0.5 + 0.1 * i + 0.02 * factor) for factor in factors]
        np.testing.assert_allclose(shown[mode], expected)
        np.testing.assert_allclose(shown[f"{mode}, estimates only"][:, 1], 0.5 + 0.1 * i)
    name = "perfect codes, same lists"
    np.testing.assert_array_equal(lines(axes, name)[name][:, 1], 0.96)
    assert legend_words(figure) == [
        *(entry for mode in modes for entry in (mode, f"{mode}, estimates only")),
        name,
    ]
    assert tick_labels(axes.xaxis) == [f"{10 * factor}" for factor in factors]
    assert axes.xaxis.get_minorticklocs().size == 0
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "candidates compared exactly"
    assert axes.get_ylabel() == "recall@10"
    assert axes.get_ylim()[1] > 1


def test_rerank_needs_one_search_without_re_ranking() -> None:
    table = pd.DataFrame({"codebooks": "shared", "rerank_factor": [1, 2], "recall": [0.5, 0.6]})
    with pytest.raises(ValueError, match="size 1"):
        search.rerank(table, 0.9, 10)
    twice = pd.concat([table, table.assign(rerank_factor=0)])
    with pytest.raises(ValueError, match="size 1"):
        search.rerank(twice, 0.9, 10)


def split(probes: Sequence[int], recall: float) -> pd.DataFrame:
    routing = 0.5 / np.array(probes)
    found = recall * (1 - routing)
    return pd.DataFrame(
        {"nprobe": probes, "routing": routing, "recall": found, "quantization": 1 - found - routing}
    )


@pytest.mark.parametrize(
    ("methods", "probes"),
    [
        (("PQ shared", "PQ per cluster", "re-ranked"), (1, 2, 4, 8, 16, 32)),
        (("PQ shared",), (1, 1000)),
    ],
)
def test_losses_stack_what_is_found_on_what_is_lost(
    methods: tuple[str, ...], probes: tuple[int, ...]
) -> None:
    splits = {method: split(probes, 0.6 + 0.1 * i) for i, method in enumerate(methods)}
    figure = search.losses(splits, 10)
    assert style.problems(figure) == []
    colors = {"recall": style.BLUE, "quantization": style.YELLOW, "routing": style.ORANGE}
    for axes, (method, table) in zip(figure.axes, splits.items(), strict=True):
        assert axes.get_title(loc="left") == method
        floor = np.zeros(len(probes))
        for filled, (stage, color) in zip(axes.collections, colors.items(), strict=True):
            assert to_hex(filled.get_facecolor()[0]) == color.lower()
            ceiling = floor + table[stage]
            np.testing.assert_allclose(band(filled, probes), np.stack([floor, ceiling], 1))
            floor = ceiling
        # The whole is 100 %: from edge to edge.
        assert axes.get_ylim() == (0, 1)
        assert axes.get_xlim() == (probes[0], probes[-1])
        assert inked(figure, axes) == 1
        assert axes.get_xscale() == "log"
        assert tick_labels(axes.xaxis) == [f"{p:,}" for p in probes]
        assert axes.get_xlabel() == "nprobe, lists probed"
    assert figure.axes[0].get_ylabel() == "true neighbours"
    assert tick_labels(figure.axes[0].yaxis)[-1] == "100%"
    assert legend_words(figure) == [
        "found: recall@10",
        "ranked out by the codes",
        "in no probed list",
    ]


def test_losses_show_a_single_nprobe() -> None:
    figure = search.losses({"PQ shared": split([1], 0.6)}, 10)
    assert inked(figure, figure.axes[0]) > 0.1


def test_losses_need_every_stage() -> None:
    with pytest.raises(KeyError, match="routing"):
        search.losses({"PQ shared": split([1, 2], 0.6).drop(columns="routing")}, 10)
