"""Sweeps over parameters and the tidy tables they leave."""

from pqlib.study.sweeps import NotRun, sweep, training_multiplications, within_budget
from pqlib.study.tables import save_table

__all__ = ["NotRun", "save_table", "sweep", "training_multiplications", "within_budget"]
