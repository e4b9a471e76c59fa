"""Product quantization inside multi-level clustering: the package behind the notebooks."""

from pqlib import _blas  # noqa: F401  before anything imports faiss
from pqlib.clustering import (
    TwoLevelClustering,
    default_sizes,
    two_level_kmeans,
    two_level_top_down,
)
from pqlib.datasets import Dataset, load_dataset
from pqlib.evaluation import one_recall_at, recall_at_k
from pqlib.indexes import BruteForce, CascadeIndex, KMeansIndex, MultiLevelPQ, load_index
from pqlib.quantizers import ProductQuantizer
from pqlib.tuning.search import tune

__version__ = "0.1.0"

__all__ = [
    "BruteForce",
    "CascadeIndex",
    "Dataset",
    "KMeansIndex",
    "MultiLevelPQ",
    "ProductQuantizer",
    "TwoLevelClustering",
    "default_sizes",
    "load_dataset",
    "load_index",
    "one_recall_at",
    "recall_at_k",
    "tune",
    "two_level_kmeans",
    "two_level_top_down",
]
