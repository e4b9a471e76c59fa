"""Runs the notebooks: for a data set (``figures``), or to store their outputs (``notebooks``).

``python -m pqlib.pipeline --help`` says how; ``make figures`` and ``make notebooks`` call it.

Nothing heavy is imported before a step really has to run, so that finding everything up to date
takes no time.
"""
