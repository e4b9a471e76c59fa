"""What all routers share: a router says which inverted lists a query visits."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from pqlib import _checks
from pqlib._types import FloatMatrix, Found, IdArray
from pqlib.clustering import TwoLevelClustering
from pqlib.indexes.blocks import ranking_bytes


class Router(ABC):
    """Which inverted lists a query visits, in which order, at what counted cost.

    A subclass is known by its name as soon as its module lies in ``pqlib/indexes/routers/``:
    indexes then save and load it, and the tests of the interface find it. Its constructor has a
    default for each argument and keeps each as an attribute of the same name.

    Attributes
    ----------
    kinds : all routers by the names of their classes
    options : names of what ``probe`` takes besides xq and nprobe
    """

    kinds: ClassVar[dict[str, type[Router]]] = {}
    options: ClassVar[tuple[str, ...]] = ()
    _clustering: TwoLevelClustering | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Router.kinds[cls.__name__] = cls
        cls.options = tuple(signature(cls.probe).parameters)[3:]  # after self, xq and nprobe

    # What each class says of itself ----------------------------------------------------------

    @abstractmethod
    def probe(self, xq: FloatMatrix, nprobe: int, *args: Any, **options: Any) -> Found:
        """Return the lists that each query visits, in the order of the visits.

        Parameters
        ----------
        xq : (nq, d) float32
        nprobe : lists wanted, 1..n_inner
        args, options : those of the kind of router; passed by name, each has a default

        Returns
        -------
        distances : (nq, nprobe) float32, squared L2 to the centroids of the lists; inf for none
        lists : (nq, nprobe) int64, no list twice; after the last one -1 for none
        """

    @abstractmethod
    def cost(self, xq: FloatMatrix, nprobe: int, *args: Any, **options: Any) -> dict[str, IdArray]:
        """Count the distances to centroids that ``probe`` computes: by stage, (nq,) int64."""

    def ranks_all(self, *args: Any, **options: Any) -> bool:
        """Tell whether ``probe`` returns the nearest of all lists, nearest first.

        An index may then leave it to faiss to rank and scan in one go.
        """
        return False

    def memory(self) -> dict[str, int]:
        """Return the bytes held besides the clustering, by part."""
        return {}

    def working_bytes(self, nq: int, nprobe: int) -> int:
        """Return the most bytes that ``probe`` takes for so many queries."""
        clusters = self.clustering
        return ranking_bytes(nq, clusters.n_inner, nprobe, clusters.d) + 24 * nprobe * nq

    def _build(self) -> None:  # noqa: B027, most routers need nothing more
        """Make what ``probe`` needs besides the clustering."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what ``_build`` made and a file should keep, by name."""
        return {}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take back what ``state`` returned, checked: files may hold anything."""
        self._build()

    # The interface ---------------------------------------------------------------------------

    @property
    def clustering(self) -> TwoLevelClustering:
        """The centroids routed to.

        Raises
        ------
        ValueError
            When the router belongs to no trained index yet.
        """
        if self._clustering is None:
            raise ValueError(
                f"{type(self).__name__} has no centroids: call train(xt) of its index first."
            )
        return self._clustering

    def over(
        self, clustering: TwoLevelClustering, state: Mapping[str, NDArray[Any]] | None = None
    ) -> Self:
        """Return a router like this one over given centroids; this one stays as it is.

        ``state`` is what such a router's ``state`` returned; None: it is built anew.
        """
        router = copy.copy(self)
        router._clustering = clustering
        router._build() if state is None else router._restore(state)
        return router

    def check(self, nprobe: int, **options: Any) -> tuple[int, dict[str, Any]]:
        """Return nprobe and the options that are not None, for ``probe``, after checking them.

        Raises
        ------
        ValueError
            When nprobe or an option is out of range.
        TypeError
            When the router has no such option.
        """
        n = self.clustering.n_inner
        nprobe = _checks.integer("nprobe", nprobe, 1, n, "There are n_inner lists to probe.")
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            if name not in self.options:
                raise TypeError(
                    f"{name}={value!r}: expected an option of {type(self).__name__}, which has "
                    f"{', '.join(self.options) or 'none'}. Leave it out or use another router."
                )
        return nprobe, given

    def parameters(self) -> dict[str, Any]:
        """Return "kind", the name of the class, and the arguments of the constructor."""
        names = signature(type(self)).parameters
        return {"kind": type(self).__name__, **{name: getattr(self, name) for name in names}}


def router_of(parameters: Mapping[str, Any]) -> Router:
    """Return the router whose ``parameters()`` these are.

    Raises
    ------
    ValueError
        When there is no such kind, or an argument is out of range.
    """
    arguments = dict(parameters)
    kind = arguments.pop("kind")
    if not isinstance(kind, str) or kind not in Router.kinds:
        raise ValueError(
            f"router {kind!r}: expected one of {', '.join(Router.kinds)}. Update pqlib, or put "
            "its module into pqlib/indexes/routers/."
        )
    return Router.kinds[kind](**arguments)
