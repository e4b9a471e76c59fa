"""Searchable structures: train, add, search, memory."""

from pqlib.indexes.base import Index
from pqlib.indexes.brute_force import BruteForce
from pqlib.indexes.cascade import CascadeIndex, SearchSettings
from pqlib.indexes.graph import GraphIndex, GraphSettings
from pqlib.indexes.inverted import InvertedFile
from pqlib.indexes.kmeans_index import KMeansIndex
from pqlib.indexes.loading import load_index
from pqlib.indexes.multilevel_pq import MultiLevelPQ

__all__ = [
    "BruteForce",
    "CascadeIndex",
    "GraphIndex",
    "GraphSettings",
    "Index",
    "InvertedFile",
    "KMeansIndex",
    "MultiLevelPQ",
    "SearchSettings",
    "load_index",
]
