"""Measuring: recall, time, uncertainty, memory, comparisons, and what a data set is like."""

from pqlib.evaluation.difficulty import (
    clusters_holding_neighbors,
    intrinsic_dimension,
    relative_contrast,
)
from pqlib.evaluation.recall import (
    TIE_TOLERANCE,
    hits,
    loss_split,
    one_recall_at,
    query_recall,
    recall_at_k,
    routing_recall,
)
from pqlib.evaluation.timing import (
    machine,
    single_query_latency,
    time_calls,
)

__all__ = [
    "TIE_TOLERANCE",
    "clusters_holding_neighbors",
    "hits",
    "intrinsic_dimension",
    "loss_split",
    "machine",
    "one_recall_at",
    "query_recall",
    "recall_at_k",
    "relative_contrast",
    "routing_recall",
    "single_query_latency",
    "time_calls",
]
