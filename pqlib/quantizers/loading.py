"""Opening a saved quantizer, whatever its kind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pqlib import _checks
from pqlib._file import DamagedError, IndexFile
from pqlib.quantizers import additive, anisotropic, composite, local, product, rotated, scalar
from pqlib.quantizers.base import Quantizer

FAMILY: dict[str, type[Quantizer]] = {
    cls.__name__: cls
    for cls in (
        product.ProductQuantizer,
        rotated.OptimizedProductQuantizer,
        local.LocallyOptimizedPQ,
        additive.ResidualQuantizer,
        additive.LocalSearchQuantizer,
        additive.ProductResidualQuantizer,
        additive.ProductLocalSearchQuantizer,
        composite.CompositeQuantizer,
        anisotropic.AnisotropicProductQuantizer,
        scalar.ScalarQuantizer,
        scalar.RaBitQuantizer,
    )
}
"""All quantizers, by the names of their classes."""


def load_quantizer(path: str | os.PathLike[str]) -> Quantizer:
    """Return the quantizer that ``quantizer.save(path)`` wrote.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is no quantizer's, cut off, damaged, or of a later version.
    """
    file = IndexFile(path)
    made = _class(file.kind, str(path))
    try:
        parameters = dict(file.parameters)
        n_train = _checks.integer("n_train", parameters.pop("n_train", None), 0)
        state = {name: file.read(name) for name in file.names}
        return made(**parameters).restore(state, n_train)
    except DamagedError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, RuntimeError) as problem:
        raise file.refuse(problem) from None


def untrained(parameters: Mapping[str, Any], source: str = "the file") -> Quantizer:
    """Return the quantizer whose ``parameters()`` these are, untrained.

    Raises
    ------
    ValueError
        When there is no such kind, or an argument is out of range.
    """
    arguments = dict(parameters)
    return _class(arguments.pop("kind"), source)(**arguments)


def _class(kind: object, source: str) -> type[Quantizer]:
    if not isinstance(kind, str) or kind not in FAMILY:
        raise ValueError(
            f"{source} holds a {kind!r}: expected one of {', '.join(FAMILY)}. Open an index "
            "with load_index, or update pqlib."
        )
    return FAMILY[kind]
