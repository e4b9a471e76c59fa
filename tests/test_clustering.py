import os
import subprocess
import sys

import faiss
import numpy as np
import pytest
from faiss.contrib.clustering import two_level_clustering
from oracle import probe, squared

from pqlib.clustering import (
    default_sizes,
    from_centroids,
    imbalance,
    kmeans,
    training_grid,
    two_level_kmeans,
    two_level_top_down,
)


def test_kmeans_reaches_the_quality_of_faiss(clustered):
    base, _ = clustered
    ours = kmeans(base, 20, seed=1)
    theirs = faiss.Kmeans(16, 20, niter=20, seed=1, max_points_per_centroid=len(base))
    theirs.train(base)
    error = squared(base, ours.centroids).min(axis=1).mean()
    reference = squared(base, theirs.centroids).min(axis=1).mean()
    assert error == pytest.approx(reference, rel=0.05)
    assert ours.objective[-1] == pytest.approx(error, rel=0.02)
    assert ours.n_train == len(base)


def test_objective_is_in_the_units_of_the_data(clustered):
    base, _ = clustered
    for spherical in (False, True):
        small = kmeans(base / 64, 5, spherical=spherical).objective[-1]
        assert small < (base**2).sum(axis=1).mean() / 64**2
    assert kmeans(base * 8, 5).objective[-1] == pytest.approx(
        64 * kmeans(base, 5).objective[-1], rel=1e-6
    )


def test_spherical_centroids_have_unit_length(clustered):
    centroids = kmeans(clustered[0], 7, spherical=True).centroids
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(np.ones(7), abs=1e-5)


def test_training_uses_all_vectors_or_as_many_as_asked(clustered):
    base, _ = clustered
    assert kmeans(base, 2).n_train == 2000  # faiss alone would have used 512
    assert two_level_kmeans(base, 4, 2, max_train=300).n_train == 300


def test_grid_keeps_float32_exact_and_its_rounding_small(clustered):
    base, _ = clustered
    step = training_grid(base)
    assert np.log2(step) == int(np.log2(step))
    assert (base.astype(np.float64) ** 2).sum(axis=1).max() / step**2 <= 2**23
    outlier = np.vstack([base / 255, np.full((1, 16), 1e6, np.float32)])
    assert training_grid(outlier) ** 2 / 12 <= outlier.var(axis=0, dtype=np.float64).mean() / 700
    assert training_grid(np.ones((5, 3), np.float32)) is None


SAME_EVERYWHERE = """
import hashlib, numpy as np, pqlib
from pqlib.clustering import two_level_top_down
from pqlib.quantizers import ProductQuantizer
ds = pqlib.load_dataset("photo-sift", n_train=12_000)
c = pqlib.two_level_kmeans(ds.train, 40, 6, max_train=8000)
index = pqlib.MultiLevelPQ(128, 40, 6, m=16, nbits=6, max_train=8000).train(ds.train[:8000], c)
index.add(ds.train)
d, i = index.search(ds.test[:200], 10, nprobe=4)
t = two_level_top_down(ds.train, 100, 10)
parts = [c.inner, c.outer, t.inner, t.outer, i, d, *(index.list_content(l)[1] for l in range(40))]
parts += [index.quantizer(l).codebooks for l in range(40)]
print(hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest())
"""


def test_same_to_the_bit_on_every_processor_and_thread_count():
    results = set()
    for settings in (
        {},
        {"FAISS_SIMD_LEVEL": "NONE", "OMP_NUM_THREADS": "1"},
        {"FAISS_SIMD_LEVEL": "AVX2", "OMP_NUM_THREADS": "2"},
        {"OPENBLAS_CORETYPE": "Haswell"},
        # NumPy's sorts order ties differently on processors without these.
        {"NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3 AVX512F AVX2"},
    ):
        run = subprocess.run(
            [sys.executable, "-c", SAME_EVERYWHERE],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=True,
        )
        results.add(run.stdout.strip())
    assert len(results) == 1, results


@pytest.mark.parametrize(("nprobe", "nprobe_outer"), [(1, 1), (3, 2), (8, 4), (20, 5), (20, 1)])
def test_probing_is_what_the_definition_says(clustered, nprobe, nprobe_outer):
    base, queries = clustered
    clustering = two_level_kmeans(base, 20, 5)
    distances, keys = clustering.probe(queries, nprobe, nprobe_outer)
    outer_cost, inner_cost = clustering.probe_cost(queries, nprobe_outer)
    for q, query in enumerate(queries):
        expected = probe(query, clustering, nprobe, nprobe_outer)
        assert list(keys[q][keys[q] >= 0]) == list(expected)
        assert np.isinf(distances[q][keys[q] < 0]).all()
        exact = squared(query[None], clustering.inner[expected])[0]
        assert distances[q, : len(expected)] == pytest.approx(exact, rel=1e-4)
        reachable = probe(query, clustering, 20, nprobe_outer)
        assert inner_cost[q] == len(reachable)
        assert outer_cost[q] == (0 if nprobe_outer == 5 else 5)


def test_all_outer_clusters_equal_flat_probing(clustered):
    base, queries = clustered
    clustering = two_level_kmeans(base, 20, 5)
    for flat, nested in zip(
        clustering.probe(queries, 7), clustering.probe(queries, 7, 5), strict=True
    ):
        assert (flat == nested).all()


def test_inner_clusters_belong_to_their_nearest_outer_one(clustered):
    clustering = two_level_kmeans(clustered[0], 20, 5)
    nearest = squared(clustering.inner, clustering.outer).argmin(axis=1)
    assert (clustering.inner_to_outer == nearest).all()
    assert clustering.outer_sizes.sum() == 20


def test_centroids_outlive_what_they_came_from(clustered):
    centroids = two_level_kmeans(clustered[0], 20, 5).inner
    assert (centroids == two_level_kmeans(clustered[0], 20, 5).inner.copy()).all()


def test_top_down_is_faiss_own_clustering(clustered):
    base, _ = clustered
    ours, step = two_level_top_down(base, 30, 5, seed=4), training_grid(base)
    theirs, _ = two_level_clustering(
        np.rint(base / step), 5, 30, seed=4, int_centroids=True, min_points_per_centroid=1
    )
    assert ours.n_train == 2000
    # The rows of a cluster reach its k-means in another order, hence other starts.
    error = squared(base, ours.inner).min(axis=1).mean()
    assert error == pytest.approx(squared(base, theirs * step).min(axis=1).mean(), rel=0.1)
    # A vector at a border may have a centroid beyond it nearer than its own.
    assert error <= ours.inner_objective[-1] <= 1.1 * error
    assert ours.outer_objective[-1] == pytest.approx(
        squared(base, ours.outer).min(axis=1).mean(), rel=0.05
    )
    outer = faiss.Kmeans(16, 5, seed=4, int_centroids=True, max_points_per_centroid=2000)
    outer.train(base / step)
    assert (ours.outer == outer.centroids * step).all()
    assert (ours.inner_to_outer == squared(ours.inner, ours.outer).argmin(axis=1)).all()


def test_top_down_is_the_same_for_the_same_seed(clustered):
    first, again, other = (two_level_top_down(clustered[0], 30, 5, seed=s) for s in (1, 1, 2))
    assert (first.inner == again.inner).all()
    assert (first.outer == again.outer).all()
    assert not (first.inner == other.inner).all()


@pytest.mark.parametrize(
    ("shape", "max_train", "expected"),
    [((8, 2), 300, 300), ((8, 2), None, 1024), ((100, 2), None, 2000), ((1, 1), None, 128)],
)
def test_top_down_trains_on_what_it_says(clustered, shape, max_train, expected):
    clustering = two_level_top_down(clustered[0], *shape, max_train=max_train)
    assert clustering.n_train == expected
    assert (clustering.n_inner, clustering.n_outer) == shape


def test_top_down_makes_as_many_centroids_as_asked_where_clusters_are_tiny(clustered, capfd):
    base = clustered[0][:500]
    far = np.vstack([base, [[9000.0] * 16], [[-9000.0] * 16]]).astype(np.float32)
    for x, n_inner, n_outer in (
        (far, 20, 5),
        (far, 502, 5),
        (base[:20], 20, 4),
        (np.ones((30, 3), np.float32), 7, 3),
    ):
        clustering = two_level_top_down(x, n_inner, n_outer)
        assert clustering.inner.shape == (n_inner, x.shape[1])
        assert np.isfinite(clustering.inner).all()
        assert clustering.outer_sizes.sum() == n_inner
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (6, 1)])
def test_degenerate_levels(clustered, shape):
    base, queries = clustered
    clustering = two_level_kmeans(base, *shape)
    keys = clustering.probe(queries, shape[0], shape[1])[1]
    assert (np.sort(keys, axis=1) == np.arange(shape[0])).all()


def test_equal_vectors_can_be_clustered():
    same = np.full((30, 4), 3.25, np.float32)
    clustering = from_centroids(kmeans(same, 3).centroids, same[:1])
    assert (clustering.assign(same) == clustering.assign(same)[0]).all()
    assert squared(same, clustering.inner).min(axis=1).max() < 1e-4


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: kmeans(x, 0), "k=0"),
        (lambda x: kmeans(x[:5], 6), "at least 6 vectors"),
        (lambda x: two_level_kmeans(x, 4, 5), "n_outer=5"),
        (lambda x: two_level_kmeans(x, 9, 3, max_train=8), "max_train"),
        (lambda x: two_level_top_down(x, 4, 5), "n_outer=5"),
        (lambda x: two_level_top_down(x, 9, 3, max_train=8), "max_train"),
        (lambda x: two_level_top_down(x[:8], 9, 3), "n_inner=9 clusters from 8"),
        (lambda x: two_level_top_down(x, 4, 2, seed=-1), "seed=-1"),
        (lambda x: two_level_kmeans(x, 4, 2).probe(x, 5), "nprobe=5"),
        (lambda x: two_level_kmeans(x, 4, 2).probe(x, 1, 3), "nprobe_outer=3"),
        (lambda x: two_level_kmeans(x, 4, 2).probe(x, 1.5), "nprobe=1.5"),
    ],
)
def test_errors_name_the_argument(clustered, call, words):
    with pytest.raises(ValueError, match=words):
        call(clustered[0])


def test_sizes_follow_the_data():
    assert default_sizes(60_000) == (100, 10)
    assert default_sizes(1_000_000) == (408, 20)
    assert default_sizes(3) == (1, 1)


def test_imbalance():
    assert imbalance(np.array([5, 5, 5])) == 1
    assert imbalance(np.array([9, 0, 0])) == 3
