"""The figures of notebooks 01 and 03: they are drawn without flaws and show what they are given."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, StepPatch

from pqlib.study.plots import data, encoding, style

KINDS = {"image": (True, (28, 28), 784), "sift": (True, None, 128), "strip": (False, None, 96)}


def vectors(kind: str, *shape: int) -> np.ndarray:
    d = KINDS[kind][2]
    values = np.random.default_rng(1).gamma(1.0, 40.0, (*shape, d)).clip(0, 255)
    if KINDS[kind][0]:
        values = np.rint(values)
    return values.astype(np.float32)


def picture(kind: str) -> data.Picture:
    return data.picture_of(vectors(kind, 50), KINDS[kind][0], KINDS[kind][1])


def lines(axes, *labels: str) -> dict[str, np.ndarray]:
    """The (n, 2) points of the lines of an axes that carry these labels."""
    found = {line.get_label(): np.array(line.get_xydata()) for line in axes.get_lines()}
    return {label: found[label] for label in labels}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


# Vectors as pictures -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_vector_is_recognized(kind):
    assert picture(kind).kind == kind


@pytest.mark.parametrize(("whole", "low"), [(False, 0.0), (True, -5.0)])
def test_128_values_are_no_sift_when_fractional_or_negative(whole, low):
    x = vectors("sift", 50) + np.float32(low)
    assert data.picture_of(x, whole, None).kind == "strip"


def test_sift_rays_have_the_place_direction_and_length_of_their_value():
    x = np.zeros(128)
    # Cell in row 1 from the top, column 2, third direction: upwards. Half the largest value.
    x[(1 * 4 + 2) * 8 + 2] = 50.0
    _, rays = data._sift_paths(x, 100.0)
    np.testing.assert_allclose(rays.vertices, [[2.5 / 4, 2.5 / 4], [2.5 / 4, 2.75 / 4]])


def test_sift_rays_stay_in_their_cells():
    _, rays = data._sift_paths(np.full(128, 1e6), 1.0)
    ends = rays.vertices.reshape(-1, 2, 2)
    assert len(ends) == 128
    assert np.abs(ends[:, 1] - ends[:, 0]).max() <= 1 / 8 + 1e-12


@pytest.mark.parametrize("kind", ["image", "strip"])
def test_an_image_keeps_its_values_and_orientation(kind):
    _, ((axes,),) = style.new()
    x = vectors(kind, 1)[0]
    data.draw_vector(axes, x, (2, 3, 1, 1), picture(kind))
    shown = axes.images[0]
    np.testing.assert_array_equal(shown.get_array().ravel(), x)
    assert shown.origin == "upper"
    assert list(shown.get_extent()) == [2, 3, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [None, ["one", "two", "three"]])
def test_picture_table_shows_every_vector_caption_and_column(kind, rows):
    captions = [[f"{r}.{c}" for c in range(7)] for r in range(3)]
    columns = [f"neighbour {c}" for c in range(7)]
    figure = data.picture_table(
        vectors(kind, 3, 7), captions, columns, "Pictures", picture(kind), rows
    )
    assert style.problems(figure) == []
    axes = figure.axes[0]
    glyphs = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
    # A frame and rays for each SIFT descriptor.
    assert len(axes.images) + len(glyphs) / 2 == 21
    assert {*itertools.chain(*captions), *columns, *(rows or [])} <= set(texts(figure))


@pytest.mark.parametrize("kind", KINDS)
def test_samples_shows_every_vector(kind):
    x = vectors(kind, 24)
    figure = data.samples(x, "Vectors", picture(kind))
    assert style.problems(figure) == []
    axes = figure.axes[0]
    if kind == "strip":
        np.testing.assert_array_equal(axes.images[0].get_array(), x)
    else:
        assert len(axes.images) + len(axes.patches) / 2 == 24


# Distributions -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_spread_marks_where_90_percent_of_the_variance_is_held(kind):
    d = KINDS[kind][2]
    x = vectors(kind, 200)
    share = 0.5 ** np.arange(1, d + 1)
    mean, std = x.mean(axis=0), x.std(axis=0)
    figure = data.spread(mean, std, share, picture(kind))
    assert style.problems(figure) == []
    # 1/2 + 1/4 + 1/8 + 1/16 is the first sum above 0.9.
    assert "90 %: 4" in texts(figure)
    if kind == "image":
        for axes, values in zip(figure.axes, (mean, std), strict=False):
            np.testing.assert_array_equal(axes.images[0].get_array().ravel(), values)
    else:
        shown = lines(figure.axes[0], "mean", "standard deviation")
        np.testing.assert_array_equal(shown["mean"][:, 1], mean)
        np.testing.assert_array_equal(shown["standard deviation"][:, 1], std)


def test_distances_shows_three_distributions_and_every_rank():
    rng = np.random.default_rng(2)
    by_rank = pd.DataFrame({"rank": np.arange(1, 101), "median": np.linspace(90, 140, 100)})
    by_rank = by_rank.assign(low=by_rank["median"] - 20, high=by_rank["median"] + 20)
    figure = data.distances(
        rng.normal(90, 20, 300), rng.normal(140, 15, 300), rng.normal(300, 30, 5000), by_rank
    )
    assert style.problems(figure) == []
    left, right = figure.axes
    outlines = [p for p in left.patches if isinstance(p, StepPatch) and not p.get_fill()]
    assert [p.get_label() for p in outlines] == [
        "nearest neighbour",
        "neighbour 100",
        "random vectors",
    ]
    for outline in outlines:
        assert outline.get_data().values.sum() == pytest.approx(100)
    means = [np.average(p.get_data().edges[:-1], weights=p.get_data().values) for p in outlines]
    assert means == pytest.approx([90, 140, 300], abs=10)
    assert len(right.get_lines()[0].get_xdata()) == 100


def test_structure_shows_every_set_in_both_panels():
    rng = np.random.default_rng(3)
    names = ["real", "shuffled", "uniform"]
    spreads = {
        name: {"nearest": rng.normal(0.4 + 0.2 * i, 0.05, 200), "random": rng.normal(1, 0.1, 5000)}
        for i, name in enumerate(names)
    }
    curves = pd.concat(
        pd.DataFrame(
            {"data": name, "scanned": np.linspace(0.1, 1, 10), "found": np.linspace(0.3, 1, 10)}
        )
        for name in names
    )
    figure = data.structure(spreads, curves, 10)
    assert style.problems(figure) == []
    left, right = figure.axes
    # Each set's two distributions, filled and outlined.
    assert len(left.patches) == 12
    assert [label.get_text() for label in left.get_yticklabels()] == names[::-1]
    for points in lines(right, *names).values():
        # The origin and ten numbers of lists.
        assert points.shape == (11, 2)
        assert points[0].tolist() == [0, 0]


# The product grid --------------------------------------------------------------------------


def area(polygon: np.ndarray) -> float:
    if len(polygon) < 3:
        return 0.0
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def test_voronoi_cells_are_where_their_centroid_is_the_nearest():
    rng = np.random.default_rng(4)
    centroids = rng.normal(size=(20, 2))
    cells = encoding.voronoi_cells(centroids, np.array([-2, -2]), np.array([2, 2]))
    # Together they fill the box, and points drawn inside a cell have its centroid as nearest.
    assert sum(map(area, cells)) == pytest.approx(16)
    for i, cell in enumerate(cells):
        if area(cell) == 0:
            continue
        inside = rng.dirichlet(np.ones(len(cell)), 50) @ cell
        gaps = np.linalg.norm(inside[:, None] - centroids, axis=2)
        np.testing.assert_allclose(gaps[:, i], gaps.min(axis=1), atol=1e-9)


def test_voronoi_cells_of_centroids_outside_the_box_may_be_empty():
    cells = encoding.voronoi_cells(np.array([[0.5, 0.5], [9, 9]]), np.zeros(2), np.ones(2))
    assert [round(area(cell), 9) for cell in cells] == [1, 0]


def test_product_grid_shows_cells_and_centroids_of_every_code():
    rng = np.random.default_rng(5)
    points = rng.normal(size=(500, 2))
    grid = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2)
    codes = {
        "Product code": (grid, "loses 5 %"),
        "k-means": (points[:9], "loses 4 %"),
        "Points at random": (points[9:18], "loses 8 %"),
    }
    figure = encoding.product_grid(points, codes, np.array([-2, -2]), np.array([2, 2]))
    assert style.problems(figure) == []
    for axes, (title, (_, text)) in zip(figure.axes, codes.items(), strict=True):
        assert axes.get_title(loc="left") == title
        assert text in axes.get_xlabel()
        (cells,) = (c for c in axes.collections if isinstance(c, PolyCollection))
        assert len(cells.get_paths()) == 9
        cloud, centroids = axes.get_lines()
        assert len(centroids.get_xdata()) == 9
        assert len(cloud.get_xdata()) == (np.abs(points) <= 2).all(axis=1).sum()
    # A product code's cells are rectangles.
    cells = encoding.voronoi_cells(grid, np.array([-2, -2]), np.array([2, 2]))
    assert all(len(np.unique(cell[:, j].round(9))) == 2 for cell in cells for j in (0, 1))


@pytest.mark.parametrize(("d", "m"), [(128, 8), (784, 16), (24, 2)])
def test_code_of_one_cuts_the_residual_between_its_pieces(d, m):
    rng = np.random.default_rng(6)
    residual = rng.normal(size=d)
    figure = encoding.code_of_one(residual, residual.round(), list(range(200, 200 + m)))
    assert style.problems(figure) == []
    assert texts(figure) == [str(v) for v in range(200, 200 + m)]
    cuts = [line.get_xdata()[0] for line in figure.axes[0].get_lines()]
    assert cuts == [d // m * j for j in range(1, m)]
    shown, decoded = (patch.get_data().values for patch in figure.axes[0].patches)
    np.testing.assert_array_equal(shown, residual)
    np.testing.assert_array_equal(decoded, residual.round())


# Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.4, 0.01])
def test_error_by_bytes_shows_percent_on_the_left_and_ratios_on_the_right(scale):
    sizes = [2, 4, 8, 16]
    rows = []
    for place, size in enumerate(sizes):
        error = scale * 0.6**place
        rows.append((size, "residual", "trained", error))
        rows.append((size, "residual", "held out", 1.2 * error))
        rows.append((size, "residual", "queries", 1.5 * error))
        rows.append((size, "vector", "held out", 1.3 * error))
    errors = pd.DataFrame(rows, columns=["bytes", "coded", "vectors", "lost"])
    figure = encoding.error_by_bytes(errors, min(1.0, 3 * scale))
    assert style.problems(figure) == []
    left, right = figure.axes
    shown = lines(left, "code of the vector itself", "centroid + code of the residual")
    expected = 100 * scale * 0.6 ** np.arange(4)
    np.testing.assert_allclose(shown["centroid + code of the residual"][:, 1], 1.2 * expected)
    np.testing.assert_allclose(shown["code of the vector itself"][:, 1], 1.3 * expected)
    ratios = lines(right, "held out", "queries")
    np.testing.assert_allclose(ratios["held out"][:, 1], 1.2)
    np.testing.assert_allclose(ratios["queries"][:, 1], 1.5)
    for axes in (left, right):
        assert axes.get_xticks().tolist() == sizes


def test_codebook_use_shows_every_sub_quantizer_and_the_means():
    rng = np.random.default_rng(7)
    entropies = {m: rng.uniform(6.5, 7.9, m) for m in (2, 4, 8, 64)}
    figure = encoding.codebook_use(entropies, 8)
    assert style.problems(figure) == []
    drawn = figure.axes[0].get_lines()
    for place, values in enumerate(entropies.values()):
        dots, bar = drawn[2 * place : 2 * place + 2]
        np.testing.assert_array_equal(dots.get_ydata(), values)
        assert bar.get_ydata()[0] == pytest.approx(values.mean())
    assert figure.axes[0].get_yticks().max() <= 8


@pytest.mark.parametrize("n_clusters", [0, 40])
def test_overfitting_shows_every_cluster(n_clusters):
    rng = np.random.default_rng(8)
    clusters = pd.DataFrame(
        {
            "trained_on": rng.integers(260, 900, n_clusters),
            "ratio": rng.uniform(1.5, 300, n_clusters),
        }
    )
    pooled = pd.DataFrame({"trained_on": [512, 1024, 20_000], "ratio": [3.0, 1.8, 1.1]})
    figure = encoding.overfitting(clusters, pooled, 256)
    assert style.problems(figure) == []
    (axes,) = figure.axes
    name = "codebooks for residuals of all clusters"
    np.testing.assert_array_equal(lines(axes, name)[name], pooled)
    if n_clusters:
        name = "codebooks of one cluster, on its own residuals"
        np.testing.assert_array_equal(lines(axes, name)[name], clusters)
        assert axes.get_ylim()[1] > clusters["ratio"].max()


def test_shared_or_local_counts_the_codebooks_on_the_right_only():
    rows = []
    for codebooks, weight in (("shared", 3.0), ("per-cluster", 260.0)):
        for vectors_, factor in (("trained", 1.0), ("held out", 2.0)):
            for size in (4, 8):
                lost = factor * 0.4 / size
                rows.append((codebooks, vectors_, size, size + weight, lost))
    errors = pd.DataFrame(rows, columns=["codebooks", "vectors", "bytes", "total", "lost"])
    figure = encoding.shared_or_local(errors, {"float32": 512.0, "uint8, lossless": 128.0})
    assert style.problems(figure) == []
    left, right = figure.axes
    shown = lines(left, "per-cluster, held out")["per-cluster, held out"]
    np.testing.assert_allclose(shown, [[4, 20], [8, 10]])
    moved = [np.array(line.get_xydata()) for line in right.get_lines()]
    assert any(np.allclose(points, [[264, 20], [268, 10]]) for points in moved)
    assert {"float32", "uint8, lossless"} <= set(texts(figure))
    assert right.get_xlim()[1] > 512


@pytest.mark.parametrize("d", [16, 128, 960])
def test_codebook_bytes_shows_both_lines_and_this_base(d):
    n = np.logspace(4, 9, 31)
    costs = pd.DataFrame({"n": n, "shared": 1024 * d / n, "per-cluster": 1024 * d / np.sqrt(6 * n)})
    raw = {"float32": 4.0 * d, "uint8, lossless": float(d)}
    figure = encoding.codebook_bytes(costs, 60_000, 8, raw)
    assert style.problems(figure) == []
    drawn = [np.array(line.get_ydata(), float) for line in figure.axes[0].get_lines()]
    for column in ("shared", "per-cluster"):
        assert any(len(v) == len(n) and np.allclose(v, costs[column]) for v in drawn)
    assert {"this base, 60,000", "code, 8 bytes", *raw} <= set(texts(figure))
