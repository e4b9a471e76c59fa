"""Runs the notebooks for a data set (``figures``), or to store them (``notebooks``); ``bench``.

``python -m pqlib.study.pipeline --help`` says how; the Makefile's targets of these names call it.

Nothing heavy is imported before a step really has to run, so that finding everything up to date
takes no time.
"""
