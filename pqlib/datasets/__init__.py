"""What data there is; fetching, checking and opening it."""

from pqlib.datasets.dataset import Dataset, load_dataset
from pqlib.datasets.download import DownloadError, fetch, verify
from pqlib.datasets.registry import REGISTRY, DatasetInfo, locate, lookup
from pqlib.datasets.truth import exact_neighbors

__all__ = [
    "REGISTRY",
    "Dataset",
    "DatasetInfo",
    "DownloadError",
    "exact_neighbors",
    "fetch",
    "load_dataset",
    "locate",
    "lookup",
    "verify",
]
