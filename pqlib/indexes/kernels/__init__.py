"""The hot loops of ``CascadeIndex``, twice: compiled by Numba, and in NumPy alone.

Both compute the same integers in the same order, so they return the same candidates; where whole
vectors are floating-point numbers they add up in the same order too, so that distances agree to
the bit. ``portable`` is what the method *is*, in array operations that can be read; ``native`` is
how it gets fast. Which one runs is said by ``CascadeIndex.describe()``.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

ENGINES = ("native", "portable")
"""Names of the two implementations."""

VARIABLE = "PQLIB_ENGINE"
"""Environment variable that names the implementation to use where none is asked for."""


def engine(name: str | None = None) -> ModuleType:
    """Return the module that implements the loops.

    Parameters
    ----------
    name : "native", "portable", or None: what the variable PQLIB_ENGINE says, else native where
        Numba is installed, else portable

    Raises
    ------
    ValueError
        When the name is neither.
    ImportError
        When "native" is asked for and Numba is not installed.
    """
    asked = name if name is not None else os.environ.get(VARIABLE) or None
    if asked is not None and asked not in ENGINES:
        where = "engine" if name is not None else VARIABLE
        raise ValueError(f"{where}={asked!r}: expected one of {', '.join(ENGINES)}, or None.")
    if asked != "portable":
        try:
            return importlib.import_module(f"{__name__}.native")
        # Numba raises RuntimeError where it finds no folder to keep what it compiled.
        except (ImportError, RuntimeError) as problem:
            if asked == "native":
                raise ImportError(
                    f"engine='native' needs Numba, which cannot be used ({problem}). Install it "
                    "with: pip install 'pqlib[fast]', or use engine='portable'."
                ) from None
    return importlib.import_module(f"{__name__}.portable")
