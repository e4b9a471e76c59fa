"""Two-level k-means: the coarse quantizer of every inverted file in this study.

The *inner* level is k-means of the vectors: K centroids, one inverted list each. The *outer*
level is k-means of those K centroids: L centroids, each owning the inner centroids nearest to
it. A query may rank all inner centroids (flat probing) or rank the outer ones first and only
the inner ones below them (multi-level probing), which computes fewer distances.

Sources: Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 1982 (k-means);
Jegou, Douze, Schmid, "Product quantization for nearest neighbor search", TPAMI 2011, section 4
(the coarse quantizer); Nister and Stewenius, "Scalable recognition with a vocabulary tree",
CVPR 2006 (quantizing through levels, built from the top down).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._grid import on_grid, run_kmeans, training_grid

FloatMatrix = NDArray[np.float32]
FloatVector = NDArray[np.float64]
IdArray = NDArray[np.int64]

# faiss 1.15 multiplies matrices only where queries x dimensions reach this number, by default
# 128,000 (before, it counted queries: 20). k-means of sub-vectors and of single clusters stays
# below, and is up to ten times slower for it.
_BLAS_FROM = 4096
if faiss.cvar.distance_compute_blas_threshold > _BLAS_FROM:
    faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM

KMEANS_ITERATIONS = 20
"""Iterations of both levels."""

TOP_DOWN_ITERATIONS = 25
"""Iterations of both levels when built from the top down: faiss's default, see there."""


@dataclass(frozen=True)
class KMeansResult:
    """Outcome of one k-means run.

    Attributes
    ----------
    centroids : (k, d) float32
    objective : (iterations,) float64, mean squared distance of a training vector to its
        centroid *before* each update
    n_train : training vectors used, after sampling
    """

    centroids: FloatMatrix
    objective: FloatVector
    n_train: int


def sample_rows(n: int, size: int, seed: int) -> IdArray:
    """Return ``min(n, size)`` distinct row numbers of ``n``, ascending, drawn by ``seed``."""
    if size >= n:
        return np.arange(n, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(n, size=size, replace=False))


def kmeans(
    x: FloatMatrix,
    k: int,
    *,
    niter: int = KMEANS_ITERATIONS,
    spherical: bool = False,
    max_train: int | None = None,
    seed: int = 0,
) -> KMeansResult:
    """Cluster ``x`` (n, d) into ``k`` clusters with faiss.

    faiss on its own silently trains on at most 256 vectors per centroid; here the only limit
    is ``max_train``, and the number used is returned.

    Raises
    ------
    ValueError
        When there are fewer training vectors than clusters, or the arguments are out of range.
    """
    x = _checks.vectors("x", x)
    k = _checks.integer("k", k, 1)
    niter = _checks.integer("niter", niter, 1)
    seed = _checks.seed(seed)
    rows = None
    if max_train is not None and _checks.integer("max_train", max_train, 1) < len(x):
        rows = sample_rows(len(x), max_train, seed)
    n = len(x) if rows is None else len(rows)
    if n < k:
        raise ValueError(
            f"k={k} clusters from {n} training vectors: expected at least as many vectors "
            f"as clusters. Pass at least {k} vectors (max_train >= {k}) or fewer clusters."
        )
    step = None if spherical else training_grid(x, rows)
    taken = x if rows is None or step is not None else x[rows]
    data = taken if step is None else on_grid(x, rows, step)
    centroids, objective = run_kmeans(
        data, k, niter, seed, spherical=spherical, int_centroids=step is not None
    )
    if step is not None:
        centroids *= np.float32(step)
        objective *= step**2
    if spherical:
        # faiss maximizes inner products then; |x|^2 - 2 <x, c> + 1 for unit centroids.
        objective = float((data.astype(np.float64) ** 2).sum()) - 2 * objective + n
    return KMeansResult(centroids, objective / n, n)


@dataclass(frozen=True)
class TwoLevelClustering:
    """Inner and outer centroids, and how queries are routed through them.

    Attributes
    ----------
    inner : (K, d) float32, the centroids of the inverted lists
    outer : (L, d) float32, the centroids of the inner centroids
    inner_to_outer : (K,) int64, the outer cluster that owns each inner one
    inner_objective, outer_objective : (iterations,) float64, mean squared distance
    n_train : vectors that the inner level was trained on
    flat, nested : faiss's indexes of the inner centroids, which rank all of them, or those of the
        nearest outer clusters
    """

    inner: FloatMatrix
    outer: FloatMatrix
    inner_to_outer: IdArray
    inner_objective: FloatVector
    outer_objective: FloatVector
    n_train: int
    flat: faiss.IndexFlatL2 = field(repr=False)
    nested: faiss.IndexIVFFlat = field(repr=False)

    @property
    def n_inner(self) -> int:
        """Inner clusters, K."""
        return len(self.inner)

    @property
    def n_outer(self) -> int:
        """Outer clusters, L."""
        return len(self.outer)

    @property
    def d(self) -> int:
        """Dimension of the vectors."""
        return int(self.inner.shape[1])

    @property
    def outer_sizes(self) -> IdArray:
        """Inner centroids per outer cluster, (L,) int64."""
        return np.bincount(self.inner_to_outer, minlength=self.n_outer)

    def assign(self, x: FloatMatrix) -> IdArray:
        """Return the nearest inner centroid of each vector of ``x``, (n, d) float32: (n,) int64."""
        return self.flat.search(x, 1)[1].ravel()

    def probe(
        self, xq: FloatMatrix, nprobe: int, nprobe_outer: int | None = None
    ) -> tuple[FloatMatrix, IdArray]:
        """Rank the inner centroids for each query.

        Parameters
        ----------
        xq : (nq, d) float32
        nprobe : inner clusters to keep, 1..K
        nprobe_outer : outer clusters whose inner centroids are ranked, 1..L; None or L: all
            inner centroids are ranked without looking at the outer level

        Returns
        -------
        distances : (nq, nprobe) float32, squared L2 to the inner centroids, ascending
        keys : (nq, nprobe) int64, inner clusters; -1 (and inf) where the probed outer clusters
            own fewer than nprobe

        Raises
        ------
        ValueError
            When nprobe or nprobe_outer is out of range.
        """
        nprobe, nprobe_outer = self.check_probes(nprobe, nprobe_outer)
        if nprobe_outer == self.n_outer:
            return self.flat.search(xq, nprobe)
        distances, keys = self.nested.search(
            xq, nprobe, params=faiss.SearchParametersIVF(nprobe=nprobe_outer)
        )
        distances[keys < 0] = np.inf
        return distances, keys

    def check_probes(self, nprobe: int, nprobe_outer: int | None) -> tuple[int, int]:
        """Return ``(nprobe, nprobe_outer)`` with None resolved, or raise ValueError."""
        nprobe = _checks.integer(
            "nprobe", nprobe, 1, self.n_inner, "There are n_inner lists to probe."
        )
        if nprobe_outer is None:
            return nprobe, self.n_outer
        return nprobe, _checks.integer(
            "nprobe_outer", nprobe_outer, 1, self.n_outer, "There are n_outer outer clusters."
        )

    def probe_cost(
        self, xq: FloatMatrix, nprobe_outer: int | None = None
    ) -> tuple[IdArray, IdArray]:
        """Count the centroid distances that ``probe`` computes for each query.

        Returns
        -------
        outer, inner : (nq,) int64 each. Flat probing looks at no outer centroid and at all
            inner ones.
        """
        _, nprobe_outer = self.check_probes(1, nprobe_outer)
        if nprobe_outer == self.n_outer:
            return np.zeros(len(xq), np.int64), np.full(len(xq), self.n_inner)
        _, probed = self.nested.quantizer.search(xq, nprobe_outer)
        return np.full(len(xq), self.n_outer), self.outer_sizes[probed].sum(axis=1)

    def memory(self) -> dict[str, int]:
        """Bytes by part.

        The inner centroids are held twice: in one block for flat probing, and grouped by
        outer cluster for multi-level probing.
        """
        return {
            "inner centroids": self.inner.nbytes,
            "outer centroids": self.outer.nbytes,
            "inner centroids by outer": self.inner.nbytes + 8 * self.n_inner,
        }


def two_level_kmeans(
    x: FloatMatrix,
    n_inner: int,
    n_outer: int,
    *,
    niter: int = KMEANS_ITERATIONS,
    spherical: bool = False,
    max_train: int | None = 50_000,
    seed: int = 0,
) -> TwoLevelClustering:
    """Cluster ``x`` (n, d) into ``n_inner`` clusters, and their centroids into ``n_outer``.

    Parameters
    ----------
    x : (n, d) float32
    n_inner, n_outer : clusters of both levels, 1 <= n_outer <= n_inner <= n
    niter : k-means iterations of each level
    spherical : centroids of unit length
    max_train : train the inner level on at most so many vectors, sampled by ``seed``
    seed : of the sampling and of both k-means runs

    Returns
    -------
    The centroids of both levels, and the way to route queries through them.

    Raises
    ------
    ValueError
        When the numbers of clusters are out of range or there are too few vectors.
    """
    n_inner = _checks.integer("n_inner", n_inner, 1)
    n_outer = _checks.integer(
        "n_outer", n_outer, 1, n_inner, "An outer cluster is made of inner centroids."
    )
    inner = kmeans(x, n_inner, niter=niter, spherical=spherical, max_train=max_train, seed=seed)
    outer = kmeans(inner.centroids, n_outer, niter=niter, spherical=spherical, seed=seed)
    return from_centroids(
        inner.centroids, outer.centroids, inner.objective, outer.objective, inner.n_train
    )


def two_level_top_down(
    x: FloatMatrix,
    n_inner: int,
    n_outer: int,
    *,
    max_train: int | None = 50_000,
    seed: int = 0,
) -> TwoLevelClustering:
    """Cluster ``x`` (n, d) into ``n_outer`` clusters, and split these into ``n_inner`` in all.

    The other way round than ``two_level_kmeans``, through
    ``faiss.contrib.clustering.two_level_clustering``: k-means of the vectors makes the outer
    clusters, and a k-means of its own splits each, into a share of the inner clusters that
    follows its share of the vectors. A training vector is compared with about
    n_outer + n_inner / n_outer centroids an iteration rather than n_inner, which makes large
    numbers of clusters trainable; the price is that no inner centroid adapts across the border of
    its outer cluster. All k-means runs take ``TOP_DOWN_ITERATIONS``: faiss's function has no
    argument for those of the split.

    As in ``two_level_kmeans``, an inner centroid belongs to the *nearest* outer one. For nearly
    all that is the one it was split from; for the others it is where a query beside them looks
    first.

    Parameters
    ----------
    x : (n, d) float32
    n_inner, n_outer : clusters of both levels, 1 <= n_outer <= n_inner <= n
    max_train : train both levels on at most so many vectors, sampled by ``seed``. faiss's
        function cuts its training sets at 2,000 vectors an outer cluster and 256 an inner one
        without telling; the sample is small enough that it never does (``n_train`` tells how
        many there were).
    seed : of the sampling and of all k-means runs

    Returns
    -------
    TwoLevelClustering, with exactly n_inner inner centroids. Both objectives are mean squared
    distances of training vectors. An outer cluster too small for an inner centroid (less than
    n_train / n_inner vectors) may get none.

    Raises
    ------
    ValueError
        When the numbers of clusters are out of range or there are too few vectors.
    """
    # Here, since it imports SciPy's sparse matrices, which takes a while.
    from faiss.contrib.clustering import two_level_clustering

    x = _checks.vectors("x", x)
    n_inner = _checks.integer("n_inner", n_inner, 1)
    n_outer = _checks.integer(
        "n_outer", n_outer, 1, n_inner, "An outer cluster is split into inner ones."
    )
    seed = _checks.seed(seed)
    # An outer cluster with a share of s centroids has less than s + 1 times the mean number of
    # vectors per centroid: with a mean of 128, at most 256 for each of its own.
    size = min(_OUTER_POINTS * n_outer, _INNER_POINTS // 2 * n_inner)
    if max_train is not None:
        size = min(size, _checks.integer("max_train", max_train, 1))
    x = x[sample_rows(len(x), size, seed)]
    if len(x) < n_inner:
        raise ValueError(
            f"n_inner={n_inner} clusters from {len(x)} training vectors: expected at least as "
            f"many vectors as clusters. Pass at least {n_inner} vectors (max_train >= {n_inner}), "
            f"fewer inner clusters, or more outer ones (at most {_OUTER_POINTS} vectors train "
            "each)."
        )
    step = training_grid(x)
    if step is not None:
        x = np.rint(x / np.float32(step))
    options = {
        "seed": seed,
        "int_centroids": step is not None,
        "min_points_per_centroid": 1,  # or C++ prints a warning
    }
    # The outer clusters, which faiss's function makes in the same way and does not return.
    run = faiss.Kmeans(
        x.shape[1],
        n_outer,
        niter=TOP_DOWN_ITERATIONS,
        max_points_per_centroid=_OUTER_POINTS,
        **options,
    )
    run.train(x)
    home = run.assign(x)[1]
    sizes = np.bincount(home, minlength=n_outer)
    split = (np.diff(np.cumsum(sizes) * n_inner // len(x), prepend=0) > 0)[home]
    inner, stats = two_level_clustering(
        _TrainingRows(x, split), n_outer, n_inner, clustering_niter=TOP_DOWN_ITERATIONS, **options
    )
    total = np.zeros(TOP_DOWN_ITERATIONS)
    for cluster in stats[1:]:
        # Runs stop where nothing moves any more; with as many vectors as centroids, at once.
        values = [iteration["obj"] for iteration in cluster] or [0.0]
        total += np.pad(values, (0, TOP_DOWN_ITERATIONS - len(values)), mode="edge")
    scale = 1.0 if step is None else step
    return from_centroids(
        np.asarray(inner, np.float32) * np.float32(scale),
        np.array(run.centroids, np.float32) * np.float32(scale),
        total * scale**2 / max(1, int(split.sum())),
        np.asarray(run.obj, np.float64) * scale**2 / len(x),
        len(x),
    )


# Training vectors per cluster beyond which two_level_clustering samples.
_OUTER_POINTS = 2000
_INNER_POINTS = 256


class _TrainingRows:
    """Training vectors (n, d) as ``two_level_clustering`` reads them: whole, or some rows.

    Rows come in ascending order, whatever the order asked for: that one comes from an argsort
    with many ties, which differs between processors, and k-means would start differently. Rows
    of clusters with no share of the centroids are left out, since k-means into no clusters works
    for no vectors only.
    """

    def __init__(self, x: FloatMatrix, split: NDArray[np.bool_]) -> None:
        self.x, self.split, self.shape = x, split, x.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> FloatMatrix:
        return self.x

    def __getitem__(self, rows: IdArray) -> FloatMatrix:
        return self.x[np.sort(rows[self.split[rows]])]


def from_centroids(
    inner: FloatMatrix,
    outer: FloatMatrix,
    inner_objective: FloatVector | None = None,
    outer_objective: FloatVector | None = None,
    n_train: int = 0,
) -> TwoLevelClustering:
    """Make a ``TwoLevelClustering`` of given centroids, ``inner`` (K, d) and ``outer`` (L, d)."""
    d = inner.shape[1]
    flat = faiss.IndexFlatL2(d)
    flat.add(inner)
    quantizer = faiss.IndexFlatL2(d)
    quantizer.add(outer)
    # faiss's inverted file over the inner centroids, with the outer ones as its coarse
    # quantizer, is multi-level probing in native code.
    nested = faiss.IndexIVFFlat(quantizer, d, len(outer))
    nested.add(inner)
    owner = quantizer.search(inner, 1)[1].ravel()
    nothing = np.zeros(0)
    return TwoLevelClustering(
        faiss_view(flat.get_xb(), inner.shape, flat),
        faiss_view(quantizer.get_xb(), outer.shape, quantizer),
        owner,
        nothing if inner_objective is None else inner_objective,
        nothing if outer_objective is None else outer_objective,
        n_train,
        flat,
        nested,
    )


class _FaissMemory:
    """Memory of a faiss object as NumPy sees it; keeps the object alive as long as the array."""

    def __init__(self, pointer: Any, shape: tuple[int, ...], owner: object) -> None:
        self.owner = owner
        flat = faiss.rev_swig_ptr(pointer, math.prod(shape))
        self.__array_interface__ = flat.reshape(shape).__array_interface__


def faiss_view(pointer: Any, shape: tuple[int, ...], owner: object) -> NDArray[Any]:
    """Return memory that belongs to the faiss object ``owner`` as a read-only array, uncopied."""
    array = np.asarray(_FaissMemory(pointer, shape, owner))
    array.flags.writeable = False
    return array


def default_sizes(n: int) -> tuple[int, int]:
    """Return ``(n_inner, n_outer)`` for ``n`` base vectors.

    sqrt(n / 6) lists and the square root of that outer clusters: 100 and 10 at 60,000 vectors,
    408 and 20 at a million. The number of lists grows with the square root of n so that what
    ranking them takes and what scanning one of them takes grow alike; scanning one takes six times
    the distances.

    Raises
    ------
    ValueError
        When n is no whole number of at least 1.
    """
    n = _checks.integer("n", n, 1)
    n_inner = max(1, min(n, round(math.sqrt(n / 6))))
    return n_inner, max(1, round(math.sqrt(n_inner)))


def imbalance(sizes: IdArray) -> float:
    """Return the imbalance factor of list sizes: 1 when all are equal.

    K * sum(size^2) / n^2: how many times more codes a query scans than with equal lists, when
    queries fall into lists as often as base vectors do (Jegou, Douze, Schmid 2011, section 4.2;
    faiss calls it the same).
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    total = sizes.sum()
    return float(len(sizes) * (sizes**2).sum() / total**2) if total else math.nan
