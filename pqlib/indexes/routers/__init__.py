"""Routers: which inverted lists a query visits. Each module of this folder is imported here."""

import importlib
import pkgutil

from pqlib.indexes.routers.base import Router, router_of

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Router", "router_of"]
