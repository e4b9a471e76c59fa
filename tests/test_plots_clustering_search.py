"""The figures of notebooks 02 and 04: drawn without flaws, showing what they are given."""

import numpy as np
import pandas as pd
import pytest
from drawn import drawn, legend_words, scattered
from matplotlib.collections import PolyCollection

from pqlib.plots import clustering, search, style
from pqlib.plots.encoding import voronoi_cells

RNG = np.random.default_rng(3)
POINTS = RNG.normal(0, 100, (400, 2))
INNER = POINTS[:12].copy()
OUTER = POINTS[:3].copy()
OWNER = ((INNER[:, None] - OUTER[None]) ** 2).sum(axis=2).argmin(axis=1)


# Two levels of clusters --------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e6, 1.0, 1e-4])
def test_objective_counts_iterations_from_one(scale):
    inner, outer = [3 * scale, 2 * scale, 1.5 * scale], [scale]
    figure = clustering.objective(inner, outer)
    assert style.problems(figure) == []
    for axes, values in zip(figure.axes, (inner, outer), strict=True):
        (line,) = axes.get_lines()
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, len(values) + 1))
        np.testing.assert_array_equal(line.get_ydata(), values)


@pytest.mark.parametrize(
    ("sizes", "outer_sizes"),
    [([500, 0, 1200, 30], [3, 1]), ([7], [1]), (range(1000), [17, 5, 18, 2, 9]), ([1] * 9, [9])],
)
def test_list_sizes_are_drawn_from_large_to_small_with_whole_ticks(sizes, outer_sizes):
    figure = clustering.list_sizes(np.array(sizes), np.array(outer_sizes))
    assert style.problems(figure) == []
    for axes, values in zip(figure.axes, (sizes, outer_sizes), strict=True):
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == sorted(values, reverse=True)
        assert [line.get_ydata()[0] for line in axes.get_lines()] == [np.mean(values)]
        ticks = axes.yaxis.get_majorticklocs()
        np.testing.assert_array_equal(ticks, np.rint(ticks))


def test_nested_cells_color_each_cell_by_its_outer_cluster():
    figure = clustering.nested_cells(POINTS, INNER, OWNER, OUTER)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    cells = next(c for c in axes.collections if isinstance(c, PolyCollection))
    colors = [tuple(color) for color in cells.get_facecolors()]
    assert len(colors) == len(INNER)
    assert len(set(colors)) == len(set(OWNER))
    for color in set(colors):
        assert len({OWNER[i] for i in range(len(INNER)) if colors[i] == color}) == 1
    places = scattered(axes)
    np.testing.assert_allclose(places["inner centroids"], INNER)
    np.testing.assert_allclose(places["outer centroids"], OUTER)


def test_nested_cells_of_a_single_outer_cluster():
    figure = clustering.nested_cells(POINTS, INNER, np.zeros(12, int), POINTS[:1])
    assert style.problems(figure) == []


def test_boundary_miss_splits_the_neighbors_by_the_probed_cell():
    query = (INNER[0] + INNER[1]) / 2 + 0.02 * (INNER[0] - INNER[1])
    neighbors = query + RNG.normal(0, 10, (8, 2))
    homes = ((neighbors[:, None] - INNER[None]) ** 2).sum(axis=2).argmin(axis=1)
    probed = int(((query - INNER) ** 2).sum(axis=1).argmin())
    figure = clustering.boundary_miss(POINTS, INNER, OWNER, query, neighbors, probed, homes)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    places = scattered(axes)
    assert 0 < (homes == probed).sum() < len(homes)
    np.testing.assert_allclose(places["true neighbour, found"], neighbors[homes == probed])
    np.testing.assert_allclose(places["true neighbour, missed"], neighbors[homes != probed])
    np.testing.assert_allclose(places["query"], [query])
    cells = next(c for c in axes.collections if isinstance(c, PolyCollection))
    tinted = [i for i, c in enumerate(cells.get_facecolors()) if tuple(c) != tuple(_grey(cells))]
    assert tinted == [probed]
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    assert (low < neighbors).all()
    assert (neighbors < high).all()


def _grey(cells):
    """The colour that most cells have."""
    colors, counts = np.unique(cells.get_facecolors(), axis=0, return_counts=True)
    return colors[counts.argmax()]


def test_voronoi_cells_tile_the_window():
    low, high = np.array([-50.0, -50.0]), np.array([50.0, 50.0])
    cells = voronoi_cells(INNER, low, high)
    areas = [_area(np.asarray(cell)) for cell in cells]
    assert sum(areas) == pytest.approx(100 * 100)


def _area(polygon: np.ndarray) -> float:
    if len(polygon) < 3:
        return 0.0
    x, y = polygon.T
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


@pytest.mark.parametrize("n_probes", [1, 2, 40])
def test_routing_draws_each_k_by_lists_and_by_work(n_probes):
    scanned = np.linspace(0.02, 1, n_probes)
    curves = {k: np.sqrt(scanned) / (1 + 0.01 * i) for i, k in enumerate((1, 10, 100))}
    figure = clustering.routing(curves, scanned)
    assert style.problems(figure) == []
    by_lists, by_work = map(drawn, figure.axes)
    for k, found in curves.items():
        np.testing.assert_allclose(by_lists[str(k)].T, [np.arange(1, n_probes + 1), found])
        np.testing.assert_allclose(by_work[str(k)].T, [scanned, found])
    assert legend_words(figure) == ["1", "10", "100", "lists at random"]


def probing_table(probings: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "probing": probing,
            "nprobe": nprobe,
            "seed": seed,
            "recall": min(1.0, 0.5 + 0.1 * np.log2(nprobe) + 0.02 * number + 0.01 * seed),
            "centroids": 100.0 / (1 + number),
            "vectors": 300.0 * nprobe,
        }
        for number, probing in enumerate(probings)
        for nprobe in (1, 2, 4, 8, 16)
        for seed in (0, 1)
    )


@pytest.mark.parametrize("probings", [["flat"], ["flat", "1 of 9 outer", "3 of 9 outer"]])
def test_flat_or_nested_averages_over_seeds(probings):
    points = probing_table(probings)
    figure = clustering.flat_or_nested(points, 10)
    assert style.problems(figure) == []
    lines = drawn(figure.axes[1])
    assert list(lines) == probings
    for probing in probings:
        rows = points[points.probing == probing].groupby("nprobe")
        np.testing.assert_allclose(lines[probing][:, 1], rows.recall.mean())
        np.testing.assert_allclose(
            lines[probing][:, 0], rows.centroids.mean() + rows.vectors.mean()
        )
    assert "true 10" in figure.axes[0].get_ylabel()


def test_saving_draws_both_ways_on_whole_decades():
    points = pd.DataFrame(
        {"n_inner": [64, 256, 1024], "flat": [64, 256, 1024], "nested": [40.5, 80.0, 210.0]}
    )
    figure = clustering.saving(points, 10)
    assert style.problems(figure) == []
    lines = drawn(figure.axes[0])
    np.testing.assert_allclose(lines["flat"], points[["n_inner", "flat"]])
    np.testing.assert_allclose(lines["two levels"], points[["n_inner", "nested"]])
    assert figure.axes[0].get_xlim() == pytest.approx((10, 10_000))


# Search with codes -------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "ksub"), [(8, 256), (1, 16), (48, 64)])
@pytest.mark.parametrize("scale", [1e6, 0.5])
def test_distance_table_shows_the_entries_that_the_code_names(m, ksub, scale):
    table = RNG.uniform(0, scale, (m, ksub))
    code = RNG.integers(0, ksub, m)
    figure = search.distance_table(table, code)
    assert style.problems(figure) == []
    heat, sums, bar = figure.axes
    np.testing.assert_array_equal(heat.images[0].get_array(), table)
    (path,) = heat.get_lines()
    np.testing.assert_array_equal(path.get_xydata(), np.stack([code, np.arange(1, m + 1)], 1))
    entries = table[np.arange(m), code]
    widths = np.array([patch.get_width() for patch in sums.patches])
    np.testing.assert_allclose(widths, entries)
    last = sums.patches[-1]
    assert last.get_x() + last.get_width() == pytest.approx(entries.sum())
    assert bar.get_ylabel() == "squared distance"


@pytest.mark.parametrize("modes", [["shared"], ["shared", "per-cluster"]])
def test_estimates_lie_on_equal_axes(modes):
    true = RNG.uniform(10, 20, 300)
    estimated = {mode: true * RNG.uniform(0.8, 1.0, 300) for mode in modes}
    figure = search.estimates(true, estimated)
    assert style.problems(figure) == []
    for axes, (mode, values) in zip(figure.axes, estimated.items(), strict=True):
        assert axes.get_xlim() == axes.get_ylim()
        assert axes.get_title(loc="left") + axes.get_title() == f"{mode} codebooks"
        dots = np.array(axes.collections[0].get_offsets())
        np.testing.assert_allclose(dots, np.stack([true, values], 1))


def test_ranks_start_at_the_first_place():
    shares = {"shared": np.linspace(0.1, 1, 50), "per-cluster": np.linspace(0.2, 1, 50)}
    figure = search.ranks(shares, 50)
    assert style.problems(figure) == []
    lines = drawn(figure.axes[0])
    for mode, share in shares.items():
        np.testing.assert_allclose(lines[f"{mode} codebooks"].T, [np.arange(1, 51), share])


def test_multilevel_gives_each_codebook_mode_a_panel():
    points = pd.concat(
        probing_table(["flat", "1 of 9 outer"]).query("seed == 0").assign(codebooks=mode)
        for mode in ("shared", "per-cluster")
    )
    points["distance_computations"] = points.centroids + points.vectors
    figure = search.multilevel(points, 10)
    assert style.problems(figure) == []
    for axes, mode in zip(figure.axes, ("shared", "per-cluster"), strict=True):
        lines = drawn(axes)
        for probing in ("flat", "1 of 9 outer"):
            rows = points[(points.codebooks == mode) & (points.probing == probing)]
            np.testing.assert_allclose(lines[probing], rows[["distance_computations", "recall"]])
    assert legend_words(figure) == ["flat", "1 of 9 outer"]


def test_rerank_counts_candidates_and_keeps_the_estimates_apart():
    points = pd.DataFrame(
        {
            "codebooks": ["shared"] * 4 + ["per-cluster"] * 4,
            "rerank_factor": [0, 1, 4, 16] * 2,
            "recall": [0.4, 0.4, 0.7, 0.9, 0.6, 0.6, 0.9, 0.98],
        }
    )
    figure = search.rerank(points, 0.99, 10)
    assert style.problems(figure) == []
    lines = drawn(figure.axes[0])
    np.testing.assert_allclose(lines["shared"], [[10, 0.4], [40, 0.7], [160, 0.9]])
    np.testing.assert_allclose(lines["per-cluster, estimates only"][:, 1], 0.6)
    np.testing.assert_allclose(lines["perfect codes, same lists"][:, 1], 0.99)


def test_losses_stack_to_one():
    table = pd.DataFrame({"nprobe": [1, 2, 4, 8], "routing": [0.3, 0.2, 0.1, 0.0]})
    table["quantization"] = [0.1, 0.15, 0.2, 0.25]
    table["recall"] = 1 - table.routing - table.quantization
    figure = search.losses({"PQ shared": table, "PQ per cluster": table}, 10)
    assert style.problems(figure) == []
    for axes in figure.axes:
        tops = [group.get_paths()[0].vertices[:, 1].max() for group in axes.collections]
        np.testing.assert_allclose(tops, [table.recall.max(), 1, 1])
        np.testing.assert_array_equal(axes.xaxis.get_majorticklocs(), table.nprobe)
    assert legend_words(figure)[0] == "found: recall@10"
