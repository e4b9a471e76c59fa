"""Quantizers: what turns a vector into a few bytes and back.

A quantizer is trained on sample vectors, encodes vectors in ``code_bytes`` bytes each, decodes
them, and gives distance tables where its code allows it, from which the distance of a query to
every code is a sum of look-ups.
"""

from pqlib.quantizers.base import (
    CodebookQuantizer,
    Quantizer,
    code_entropy,
    inter_codebook,
    mean_squared_error,
)
from pqlib.quantizers.product import POINTS_PER_CENTROID, ProductQuantizer

__all__ = [
    "POINTS_PER_CENTROID",
    "CodebookQuantizer",
    "ProductQuantizer",
    "Quantizer",
    "code_entropy",
    "inter_codebook",
    "mean_squared_error",
]
