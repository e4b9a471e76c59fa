"""The best index for given vectors, chosen by measurement."""

from pqlib.tuning.search import UNLIKE, Calibrated, Composition, Tuned, tune

__all__ = ["UNLIKE", "Calibrated", "Composition", "Tuned", "tune"]
