"""Two-level k-means: the coarse quantizer of every inverted file in this study.

The *inner* level is k-means of the vectors: K centroids, one inverted list each. The *outer* level
is k-means of those K centroids: L centroids, each owning the inner centroids nearest to it. A query
ranks all inner centroids (flat probing), or first the outer ones and then only the inner ones below
the best of them (multi-level probing), which computes fewer distances.

Sources: Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 1982 (k-means);
Jegou, Douze, Schmid, "Product quantization for nearest neighbor search", TPAMI 2011, section 4
(the coarse quantizer); Nister and Stewenius, "Scalable recognition with a vocabulary tree",
CVPR 2006 (quantizing through levels, built from the top down).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks
from pqlib._grid import on_grid, run_kmeans, training_grid
from pqlib._types import FloatMatrix, IdArray

FloatVector = NDArray[np.float64]

# Below this number of queries x dimensions, faiss 1.15 computes distances one by one. By default
# (128,000; earlier versions: 20 queries) k-means of sub-vectors takes up to ten times as long so.
_BLAS_FROM = 4096
if faiss.cvar.distance_compute_blas_threshold > _BLAS_FROM:
    faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM

KMEANS_ITERATIONS = 20
"""Iterations of both levels."""

TOP_DOWN_ITERATIONS = 25
"""The same when built from the top down: faiss's default."""

# Training vectors per cluster that faiss's own two_level_clustering uses at most.
_OUTER_POINTS = 2000
_INNER_POINTS = 256


@dataclass(frozen=True)
class KMeansResult:
    """Outcome of one k-means run.

    Attributes
    ----------
    centroids : (k, d) float32
    objective : (iterations,) float64, mean squared distance to the centroid *before* each update
    n_train : training vectors used, after sampling
    """

    centroids: FloatMatrix
    objective: FloatVector
    n_train: int


def sample_rows(n: int, size: int, seed: int) -> IdArray:
    """Return ``min(n, size)`` distinct row numbers below ``n``, ascending, drawn by ``seed``."""
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

    faiss itself trains on at most 256 vectors per centroid and says nothing. Here ``max_train`` is
    the only limit, and the result tells how many vectors were used.

    Raises
    ------
    ValueError
        When there are fewer training vectors than clusters, or an argument is out of range.
    """
    x = _checks.vectors("x", x)
    k = _checks.integer("k", k, 1)
    niter = _checks.integer("niter", niter, 1)
    seed = _checks.seed(seed)
    rows = None  # all of them, without a copy
    if max_train is not None and _checks.integer("max_train", max_train, 1) < len(x):
        rows = sample_rows(len(x), max_train, seed)
    n = len(x) if rows is None else len(rows)
    _check_enough("k", k, n, "fewer clusters")
    step = None if spherical else training_grid(x, rows)
    data = on_grid(x, rows, step)
    centroids, objective = run_kmeans(
        data, k, niter, seed, spherical=spherical, int_centroids=step is not None
    )
    if step is not None:
        centroids *= np.float32(step)
        objective *= step**2
    if spherical:
        # faiss maximizes inner products then: |x|^2 - 2 <x, c> + 1 for unit centroids.
        objective = float((data.astype(np.float64) ** 2).sum()) - 2 * objective + n
    return KMeansResult(centroids, objective / n, n)


def _check_enough(name: str, k: int, n: int, instead: str) -> None:
    if n < k:
        raise ValueError(
            f"{name}={k} clusters from {n} training vectors: expected at least as many vectors "
            f"as clusters. Pass at least {k} vectors (max_train >= {k}) or {instead}."
        )


@dataclass(frozen=True)
class TwoLevelClustering:
    """Inner and outer centroids, and the way of a query through them.

    Attributes
    ----------
    inner, outer : (K, d) and (L, d) float32, the centroids of both levels
    inner_to_outer : (K,) int64, the outer cluster that owns each inner one
    inner_objective, outer_objective : (iterations,) float64, mean squared distance
    n_train : vectors that the inner level was trained on
    flat, nested : faiss's indexes for flat and for multi-level probing
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
    def outer_sizes(self) -> IdArray:
        """Inner centroids per outer cluster, (L,) int64."""
        return np.bincount(self.inner_to_outer, minlength=self.n_outer)

    @property
    def n_outer(self) -> int:
        """Outer clusters, L."""
        return len(self.outer)

    @property
    def d(self) -> int:
        """Dimension of the vectors."""
        return int(self.inner.shape[1])

    def assign(self, x: FloatMatrix) -> IdArray:
        """Return the nearest inner centroid of each vector of ``x``, (n, d) float32: (n,) int64."""
        return self.flat.search(x, 1)[1].ravel()

    def probe(
        self, xq: FloatMatrix, nprobe: int, nprobe_outer: int | None = None
    ) -> tuple[FloatMatrix, IdArray]:
        """Rank the ``nprobe`` nearest inner centroids of each query of ``xq``, (nq, d) float32.

        Only those of the ``nprobe_outer`` nearest outer clusters are ranked. None or L: all inner
        centroids are, and the outer level is not used.

        Returns
        -------
        distances : (nq, nprobe) float32, squared L2 to the inner centroids, ascending
        keys : (nq, nprobe) int64, inner clusters. Where the probed outer clusters own fewer than
            nprobe, the rest is -1, at distance inf

        Raises
        ------
        ValueError
            When nprobe or nprobe_outer is out of range.
        """
        nprobe, nprobe_outer = self.check_probes(nprobe, nprobe_outer)
        if nprobe_outer == self.n_outer:
            return self.flat.search(xq, nprobe)
        params = faiss.SearchParametersIVF(nprobe=nprobe_outer)
        distances, keys = self.nested.search(xq, nprobe, params=params)
        distances[keys < 0] = np.inf
        return distances, keys

    def check_probes(self, nprobe: int, nprobe_outer: int | None) -> tuple[int, int]:
        """Return ``(nprobe, nprobe_outer)`` with None resolved, or raise ValueError."""
        hint = "There are n_inner lists to probe."
        nprobe = _checks.integer("nprobe", nprobe, 1, self.n_inner, hint)
        if nprobe_outer is None:
            return nprobe, self.n_outer
        hint = "There are n_outer outer clusters."
        return nprobe, _checks.integer("nprobe_outer", nprobe_outer, 1, self.n_outer, hint)

    def probe_cost(
        self, xq: FloatMatrix, nprobe_outer: int | None = None
    ) -> tuple[IdArray, IdArray]:
        """Count the distances to outer and to inner centroids that ``probe`` computes.

        They are (nq,) int64 each. Flat probing compares a query with all inner centroids and with
        no outer one.
        """
        _, nprobe_outer = self.check_probes(1, nprobe_outer)
        if nprobe_outer == self.n_outer:
            return np.zeros(len(xq), np.int64), np.full(len(xq), self.n_inner)
        _, probed = self.nested.quantizer.search(xq, nprobe_outer)
        return np.full(len(xq), self.n_outer), self.outer_sizes[probed].sum(axis=1)

    def memory(self) -> dict[str, int]:
        """Bytes by part. Flat and multi-level probing each hold the inner centroids."""
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
    """Cluster ``x`` into ``n_inner`` clusters, and their centroids into ``n_outer``.

    Parameters
    ----------
    x : (n, d) float32
    n_inner, n_outer : clusters of both levels, 1 <= n_outer <= n_inner <= n
    niter, seed : iterations and seed of both k-means runs
    spherical : centroids of unit length
    max_train : train the inner level on at most so many vectors, sampled by ``seed``

    Raises
    ------
    ValueError
        When the numbers of clusters are out of range or there are too few vectors.
    """
    n_inner, n_outer = _check_sizes(n_inner, n_outer)
    inner = kmeans(x, n_inner, niter=niter, spherical=spherical, max_train=max_train, seed=seed)
    outer = kmeans(inner.centroids, n_outer, niter=niter, spherical=spherical, seed=seed)
    return from_centroids(
        inner.centroids, outer.centroids, inner.objective, outer.objective, inner.n_train
    )


def _check_sizes(n_inner: Any, n_outer: Any) -> tuple[int, int]:
    n_inner = _checks.integer("n_inner", n_inner, 1)
    hint = "An outer cluster owns at least one inner cluster."
    return n_inner, _checks.integer("n_outer", n_outer, 1, n_inner, hint)


def two_level_top_down(
    x: FloatMatrix,
    n_inner: int,
    n_outer: int,
    *,
    max_train: int | None = 50_000,
    seed: int = 0,
) -> TwoLevelClustering:
    """Cluster ``x`` into ``n_outer`` clusters, and split these into ``n_inner`` in all.

    This is the method of ``faiss.contrib.clustering.two_level_clustering``, the other way round
    than ``two_level_kmeans``. k-means of the vectors makes the outer clusters. A k-means of its own
    then splits each of them into a share of the inner clusters that follows its share of the
    vectors. A training vector is compared with about n_outer + n_inner / n_outer centroids in an
    iteration, not with n_inner, so that large numbers of clusters can be trained. In return no
    inner centroid can adapt to vectors of another outer cluster.

    As in ``two_level_kmeans``, an inner centroid belongs to the *nearest* outer one: nearly always
    the one that it was split from. The others are thus found where a query beside them looks first.

    Parameters
    ----------
    x, n_inner, n_outer, seed : as for ``two_level_kmeans``
    max_train : train both levels on at most so many vectors, sampled by ``seed``; and on at most
        2,000 per outer and 128 per inner cluster. ``n_train`` of the result says how many.

    Returns
    -------
    TwoLevelClustering with exactly n_inner inner centroids. An outer cluster of less than
    n_train / n_inner vectors may get none.

    Raises
    ------
    ValueError
        When the numbers of clusters are out of range or there are too few vectors.
    """
    x = _checks.vectors("x", x)
    n_inner, n_outer = _check_sizes(n_inner, n_outer)
    seed = _checks.seed(seed)
    # An outer cluster with a share of s centroids has less than s + 1 times the mean number of
    # vectors per centroid: with a mean of 128, at most 256 for each of its own, as faiss allows.
    size = min(_OUTER_POINTS * n_outer, _INNER_POINTS // 2 * n_inner)
    if max_train is not None:
        size = min(size, _checks.integer("max_train", max_train, 1))
    x = x[sample_rows(len(x), size, seed)]
    n = len(x)
    most = f"at most {_OUTER_POINTS} vectors train each"
    _check_enough("n_inner", n_inner, n, f"fewer inner clusters, or more outer ones ({most})")
    step = training_grid(x)
    scale = 1.0 if step is None else step
    if step is not None:
        x = np.rint(x / np.float32(step))
    how = dict(niter=TOP_DOWN_ITERATIONS, seed=seed, int_centroids=step is not None)
    outer, outer_objective = run_kmeans(x, n_outer, **how)
    home = faiss.knn(x, outer, 1)[1].ravel()
    shares = np.diff(np.cumsum(np.bincount(home, minlength=n_outer)) * n_inner // n, prepend=0)
    parts, total, trained = [], np.zeros(TOP_DOWN_ITERATIONS), 0
    for cluster in np.flatnonzero(shares):
        rows = x[home == cluster]
        centroids, objective = run_kmeans(rows, int(shares[cluster]), **how)
        parts.append(centroids)
        trained += len(rows)
        # A run stops where nothing moves any more; with as many vectors as centroids, at once.
        missing = TOP_DOWN_ITERATIONS - len(objective)
        total += np.pad(objective, (0, missing), mode="edge" if len(objective) else "constant")
    return from_centroids(
        np.vstack(parts) * np.float32(scale),
        outer * np.float32(scale),
        total * scale**2 / trained,
        outer_objective * scale**2 / n,
        n,
    )


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
    # Multi-level probing in native code, with the outer centroids as its coarse quantizer.
    nested = faiss.IndexIVFFlat(quantizer, d, len(outer))
    nested.add(inner)
    owner = quantizer.search(inner, 1)[1].ravel()
    return TwoLevelClustering(
        faiss_view(flat.get_xb(), inner.shape, flat),
        faiss_view(quantizer.get_xb(), outer.shape, quantizer),
        owner,
        np.zeros(0) if inner_objective is None else inner_objective,
        np.zeros(0) if outer_objective is None else outer_objective,
        n_train,
        flat,
        nested,
    )


def faiss_view(pointer: Any, shape: tuple[int, ...], owner: object) -> NDArray[Any]:
    """Return memory of the faiss object ``owner`` as a read-only array, without a copy."""
    flat = faiss.rev_swig_ptr(pointer, math.prod(shape))
    # The array keeps the namespace, and that keeps the object, as long as the array is in use.
    interface = flat.reshape(shape).__array_interface__
    array = np.asarray(SimpleNamespace(owner=owner, __array_interface__=interface))
    array.flags.writeable = False
    return array


def default_sizes(n: int) -> tuple[int, int]:
    """Return ``(n_inner, n_outer)`` for ``n`` base vectors; ValueError unless n is 1 or more.

    There are sqrt(n / 6) lists, and the square root of that number of outer clusters: 100 and 10
    for 60,000 vectors, 408 and 20 for a million. So ranking the lists and scanning one of them grow
    alike with n: scanning one takes six times as many distances as ranking all.
    """
    n = _checks.integer("n", n, 1)
    n_inner = max(1, min(n, round(math.sqrt(n / 6))))
    return n_inner, max(1, round(math.sqrt(n_inner)))


def imbalance(sizes: IdArray) -> float:
    """Return the imbalance factor of list sizes, K * sum(size^2) / n^2: 1 when all are equal.

    So many times more codes a query scans than with equal lists, if queries are spread over the
    lists as the base vectors are (Jegou, Douze, Schmid 2011, section 4.2).
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    total = sizes.sum()
    return float(len(sizes) * (sizes**2).sum() / total**2) if total else math.nan
