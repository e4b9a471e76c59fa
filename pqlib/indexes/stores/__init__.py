"""Whole vectors kept beside the codes. Each module of this folder is imported here."""

import importlib
import pkgutil

from pqlib.indexes.stores.float32 import GATHER_BYTES, VectorStore

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["GATHER_BYTES", "VectorStore"]
