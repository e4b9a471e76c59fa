"""Quantizers: what turns a vector into a few bytes and back.

A quantizer is trained on sample vectors, encodes vectors in ``code_bytes`` bytes each, decodes
them, and gives distance tables where its code allows it, from which the distance of a query to
every code is a sum of look-ups.
"""

from pqlib.quantizers.additive import (
    AdditiveQuantizer,
    LocalSearchQuantizer,
    ProductLocalSearchQuantizer,
    ProductResidualQuantizer,
    ResidualQuantizer,
)
from pqlib.quantizers.anisotropic import AnisotropicProductQuantizer
from pqlib.quantizers.base import Quantizer, mean_squared_error
from pqlib.quantizers.codewords import (
    POINTS_PER_CENTROID,
    CodebookQuantizer,
    code_entropy,
    inter_codebook,
)
from pqlib.quantizers.composite import CompositeQuantizer
from pqlib.quantizers.loading import FAMILY, load_quantizer, untrained
from pqlib.quantizers.local import LocallyOptimizedPQ
from pqlib.quantizers.product import PQ_ITERATIONS, ProductQuantizer
from pqlib.quantizers.rotated import OptimizedProductQuantizer, parametric_rotation
from pqlib.quantizers.scalar import RaBitQuantizer, ScalarQuantizer

__all__ = [
    "FAMILY",
    "POINTS_PER_CENTROID",
    "PQ_ITERATIONS",
    "AdditiveQuantizer",
    "AnisotropicProductQuantizer",
    "CodebookQuantizer",
    "CompositeQuantizer",
    "LocalSearchQuantizer",
    "LocallyOptimizedPQ",
    "OptimizedProductQuantizer",
    "ProductLocalSearchQuantizer",
    "ProductQuantizer",
    "ProductResidualQuantizer",
    "Quantizer",
    "RaBitQuantizer",
    "ResidualQuantizer",
    "ScalarQuantizer",
    "code_entropy",
    "inter_codebook",
    "load_quantizer",
    "mean_squared_error",
    "parametric_rotation",
    "untrained",
]
