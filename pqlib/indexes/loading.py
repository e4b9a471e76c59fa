"""Opening a saved index, whatever its kind."""

from __future__ import annotations

import os

from pqlib._file import IndexFile
from pqlib.indexes.base import Index
from pqlib.indexes.brute_force import BruteForce
from pqlib.indexes.cascade import CascadeIndex
from pqlib.indexes.graph import GraphIndex
from pqlib.indexes.kmeans_index import KMeansIndex
from pqlib.indexes.multilevel_pq import MultiLevelPQ

KINDS: dict[str, type[Index]] = {
    cls.__name__: cls for cls in (BruteForce, CascadeIndex, GraphIndex, KMeansIndex, MultiLevelPQ)
}


def load_index(path: str | os.PathLike[str], mmap: bool = False, verify: bool = True) -> Index:
    """Return the index that ``index.save(path)`` wrote.

    Parameters
    ----------
    path : the file
    mmap : map codes, ids, codebooks of single clusters and whole vectors instead of reading them.
        Memory is taken as far as searches touch it, and several processes share it. Vectors
        cannot be added, and the file must stay as it is.
    verify : with ``mmap=True``, False opens at once: mapped parts are not read through to compare
        them with their checksums. Only for a file that you have verified before and that nobody
        else can write: compiled loops trust what it says. Other parts are always compared.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is no index file, cut off, damaged, of a later version, or says what no
        ``save`` writes.
    """
    file = IndexFile(path, mmap, verify)
    if file.kind not in KINDS:
        raise ValueError(
            f"{path} holds a {file.kind!r}: expected one of {', '.join(KINDS)}. Update pqlib."
        )
    try:
        return KINDS[file.kind].from_file(file)
    except (OverflowError, RuntimeError) as problem:  # faiss's own words for what it refuses
        raise file.refuse(problem) from None
