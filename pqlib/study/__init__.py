"""Sweeps over parameters, the tidy tables they leave, and how notebooks begin."""

from pqlib.study.notebook import Study, open_study
from pqlib.study.sweeps import NotRun, sweep, training_multiplications, within_budget
from pqlib.study.tables import save_table

__all__ = [
    "NotRun",
    "Study",
    "open_study",
    "save_table",
    "sweep",
    "training_multiplications",
    "within_budget",
]
