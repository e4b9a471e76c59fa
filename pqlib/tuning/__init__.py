"""The best index for given vectors, chosen by measurement."""

from pqlib.tuning.compositions import Composition
from pqlib.tuning.report import UNLIKE, Calibrated, Tuned
from pqlib.tuning.search import tune

__all__ = ["UNLIKE", "Calibrated", "Composition", "Tuned", "tune"]
