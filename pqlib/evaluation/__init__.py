"""Measuring: recall, time, uncertainty, memory, comparisons, and what a data set is like."""

from pqlib.evaluation.difficulty import (
    clusters_holding_neighbors,
    intrinsic_dimension,
    relative_contrast,
)
from pqlib.evaluation.operating import at_recall, pareto_front, pays_from, recall_at
from pqlib.evaluation.recall import (
    TIE_EPSILON,
    TIE_TOLERANCE,
    hits,
    loss_split,
    one_recall_at,
    query_recall,
    recall_at_k,
    relative_distance_error,
    returned_distances,
    routing_recall,
)
from pqlib.evaluation.residency import residency
from pqlib.evaluation.timing import (
    machine,
    single_query_latency,
    time_calls,
)
from pqlib.evaluation.uncertainty import bootstrap_interval, prediction_interval

__all__ = [
    "TIE_EPSILON",
    "TIE_TOLERANCE",
    "at_recall",
    "bootstrap_interval",
    "clusters_holding_neighbors",
    "hits",
    "intrinsic_dimension",
    "loss_split",
    "machine",
    "one_recall_at",
    "pareto_front",
    "pays_from",
    "prediction_interval",
    "query_recall",
    "recall_at",
    "recall_at_k",
    "relative_contrast",
    "relative_distance_error",
    "residency",
    "returned_distances",
    "routing_recall",
    "single_query_latency",
    "time_calls",
]
