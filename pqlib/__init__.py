"""Product quantization inside multi-level clustering: the package behind the notebooks."""

from typing import TYPE_CHECKING, Any

from pqlib import _blas  # noqa: F401  before anything imports faiss
from pqlib.clustering import (
    TwoLevelClustering,
    default_sizes,
    two_level_kmeans,
    two_level_top_down,
)
from pqlib.datasets import Dataset, load_dataset
from pqlib.evaluation import one_recall_at, recall_at_k
from pqlib.indexes import (
    BruteForce,
    CascadeIndex,
    GraphIndex,
    KMeansIndex,
    MultiLevelPQ,
    load_index,
)
from pqlib.quantizers import ProductQuantizer

if TYPE_CHECKING:
    from pqlib.tuning import tune

__version__ = "0.1.0"

__all__ = [
    "BruteForce",
    "CascadeIndex",
    "Dataset",
    "GraphIndex",
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


def __getattr__(name: str) -> Any:
    """Import what needs pandas only when it is asked for."""
    if name == "tune":
        from pqlib.tuning import tune

        return tune
    raise AttributeError(f"module 'pqlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
