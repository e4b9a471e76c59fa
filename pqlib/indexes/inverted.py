"""Indexes of inverted lists: clustering, router and lists, whatever the lists hold."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Self

import faiss
import numpy as np
from faiss.contrib.inspect_tools import get_invlist_sizes

from pqlib import _checks
from pqlib._file import DamagedError, IndexFile, Section, array_section, list_sections
from pqlib._types import Codes, FloatMatrix, IdArray
from pqlib.clustering import TwoLevelClustering, from_centroids, two_level_kmeans
from pqlib.indexes.base import Index
from pqlib.indexes.lists import content
from pqlib.indexes.routers import Router, router_of
from pqlib.indexes.routers.two_level import TwoLevelRouter

PREFIX = "router/"  # of the names of a router's sections in a file


@contextlib.contextmanager
def refusing(file: IndexFile) -> Iterator[None]:
    """Turn errors about the content of ``file`` into the error that names it."""
    try:
        yield
    except DamagedError:
        raise
    except (ValueError, KeyError, TypeError, IndexError) as problem:
        raise file.refuse(problem) from None


class InvertedFile(Index):
    """An index whose vectors lie in inverted lists, one for each inner cluster.

    A subclass says how many bytes a vector takes in its list (``_entry_bytes``), and what they
    are.

    Parameters
    ----------
    d : dimension
    n_inner, n_outer : clusters of both levels
    spherical, max_train, seed : see ``pqlib.clustering.two_level_kmeans``
    router : which lists a query visits, a ``pqlib.indexes.routers.Router``. The index uses one
        like it. None: ``TwoLevelRouter()``
    metric : see ``Index``. Centroids are of vectors inside, as is a ``clustering`` that is given

    Raises
    ------
    ValueError
        When an argument is out of range.
    """

    SAVED = ("d", "n_inner", "n_outer", "spherical", "max_train", "seed")

    def __init__(
        self,
        d: int,
        n_inner: int = 100,
        n_outer: int = 10,
        spherical: bool = False,
        max_train: int | None = 50_000,
        seed: int = 0,
        router: Router | None = None,
        metric: str = "l2",
    ) -> None:
        super().__init__(d, metric)
        self.n_inner = _checks.integer("n_inner", n_inner, 1)
        self.n_outer = _checks.integer(
            "n_outer", n_outer, 1, self.n_inner, "An outer cluster is made of inner centroids."
        )
        self.spherical = bool(spherical)
        self.max_train = None if max_train is None else _checks.integer("max_train", max_train, 1)
        self.seed = _checks.seed(seed)
        if not isinstance(router, Router | None):
            raise ValueError(
                f"router={router!r}: expected an object of pqlib.indexes.routers, such as "
                "TwoLevelRouter(), or None."
            )
        self.router = TwoLevelRouter() if router is None else router
        self._clustering: TwoLevelClustering | None = None
        self._lists: faiss.InvertedLists | None = None

    @property
    def clustering(self) -> TwoLevelClustering:
        """Both levels of centroids; ValueError before training."""
        if self._clustering is None:
            raise ValueError("clustering before train: call train(xt) first.")
        return self._clustering

    @property
    def lists(self) -> faiss.InvertedLists:
        """The inverted lists as faiss holds them: codes and positions by inner cluster.

        ValueError before training.
        """
        if self._lists is None:
            raise ValueError("lists before train: call train(xt) first.")
        return self._lists

    @property
    def list_sizes(self) -> IdArray:
        """Vectors in each inverted list, (n_inner,) int64."""
        return get_invlist_sizes(self.lists)

    def _entry_bytes(self) -> int:
        """Return the bytes of a vector in its list, its position apart."""
        raise NotImplementedError

    # Training and adding ---------------------------------------------------------------------

    def _train_clustering(
        self, xt: FloatMatrix, clustering: TwoLevelClustering | None
    ) -> tuple[FloatMatrix, TwoLevelClustering]:
        """Return the training vectors inside and the clustering to use, checked."""
        xt = self._check_train(xt)
        if clustering is None:
            if len(xt) < self.n_inner or (self.max_train or self.n_inner) < self.n_inner:
                raise ValueError(
                    f"xt has {len(xt)} training vectors (max_train={self.max_train}): "
                    f"n_inner={self.n_inner} clusters need at least as many. Pass at least "
                    f"{self.n_inner} vectors or lower n_inner."
                )
            clustering = two_level_kmeans(
                xt,
                self.n_inner,
                self.n_outer,
                spherical=self.spherical,
                max_train=self.max_train,
                seed=self.seed,
            )
        expected = (self.n_inner, self.n_outer, self.width)
        found = (clustering.n_inner, clustering.n_outer, clustering.d)
        if found != expected:
            raise ValueError(
                f"clustering has (n_inner, n_outer, d) = {found}: expected {expected}, the "
                "index's own. Cluster with the same sizes or build the index with these."
            )
        return xt, clustering

    def _use(
        self,
        clustering: TwoLevelClustering,
        held: faiss.InvertedLists | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Route to ``clustering`` and store in the lists ``held``; None: in new, empty ones.

        ``state`` is that of the router, where there is one.
        """
        self.router = self.router.over(clustering, state)
        self._clustering = clustering
        if held is None:
            held = faiss.ArrayInvertedLists(self.n_inner, self._entry_bytes())
        self._lists = held
        self.is_trained = True

    def regrouped(self, clustering: TwoLevelClustering) -> Self:
        """Return an index over the same lists, under other outer clusters.

        It shares lists, codes and all else with this one, so that vectors must not be added to
        either from then on.

        Raises
        ------
        ValueError
            When ``clustering`` has other inner centroids than this index.
        """
        if not np.array_equal(clustering.inner, self.clustering.inner):
            raise ValueError(
                f"clustering has other inner centroids, {clustering.inner.shape}: expected those "
                f"of this index, {self.clustering.inner.shape}. Vectors lie in lists by them; "
                "build a new index."
            )
        other = copy.copy(self)
        other._clustering, other.n_outer = clustering, clustering.n_outer
        other.router = self.router.over(clustering)
        return other

    def list_content(self, cluster: int) -> tuple[IdArray, Codes]:
        """Return ``(positions, codes)`` of an inverted list: (n,) int64 and (n, bytes) uint8.

        Views of the index's memory: they hold until the next ``add``.
        """
        cluster = _checks.integer("cluster", cluster, 0, self.n_inner - 1)
        return content(self.lists, cluster)

    # Counting --------------------------------------------------------------------------------

    def _routed(
        self, xq: FloatMatrix, nprobe: int, **options: Any
    ) -> tuple[dict[str, IdArray], IdArray]:
        """Return the counted cost of routing, and the sizes of the probed lists, (nq, nprobe)."""
        nprobe, options = self.router.check(nprobe, **options)
        xq = self.space.queries(xq)
        _, keys = self.router.probe(xq, nprobe, **options)
        sizes = np.where(keys >= 0, self.list_sizes[keys], 0)
        return self.router.cost(xq, nprobe, **options), sizes

    # Files -----------------------------------------------------------------------------------

    def _parameters(self) -> dict[str, Any]:
        parameters, router = super()._parameters(), self.router.parameters()
        if router != TwoLevelRouter().parameters():  # files without a router have the default one
            parameters["router"] = router
        return parameters

    @classmethod
    def _arguments(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        if "router" in parameters:
            return {**parameters, "router": router_of(parameters["router"])}
        return parameters

    def _sections(self) -> list[Section]:
        clusters, state = self.clustering, self.router.state()
        return [
            array_section("inner", clusters.inner),
            array_section("outer", clusters.outer),
            array_section("inner_objective", clusters.inner_objective),
            array_section("outer_objective", clusters.outer_objective),
            array_section("n_train", np.array([clusters.n_train])),
            *(array_section(PREFIX + name, array) for name, array in state.items()),
            *list_sections(self.lists),
        ]

    def _restore(self, file: IndexFile) -> None:
        clustering = from_centroids(
            file.read("inner", "<f4", (self.n_inner, self.width)),
            file.read("outer", "<f4", (self.n_outer, self.width)),
            file.read("inner_objective", "<f8", (None,)),
            file.read("outer_objective", "<f8", (None,)),
            file.number("n_train"),
        )
        held = file.read_lists(self.n_inner, self._entry_bytes(), self.ntotal)
        names = [name for name in file.names if name.startswith(PREFIX)]
        with refusing(file):
            state = {name.removeprefix(PREFIX): file.read(name) for name in names}
            self._use(clustering, held, state)
