"""Opening a saved index, whatever its kind."""

from __future__ import annotations

import os

from pqlib._file import IndexFile
from pqlib.indexes.base import Index
from pqlib.indexes.brute_force import BruteForce
from pqlib.indexes.cascade import CascadeIndex
from pqlib.indexes.kmeans_index import KMeansIndex
from pqlib.indexes.multilevel_pq import MultiLevelPQ

KINDS: dict[str, type[Index]] = {
    cls.__name__: cls for cls in (BruteForce, CascadeIndex, KMeansIndex, MultiLevelPQ)
}


def load_index(path: str | os.PathLike[str], mmap: bool = False) -> Index:
    """Return the index that ``index.save(path)`` wrote.

    Parameters
    ----------
    path : the file
    mmap : map codes, ids, codebooks of single clusters and whole vectors instead of reading them.
        The index opens at once, memory is taken as far as searches touch it, and several
        processes share it. Vectors cannot be added, the file must stay as it is, and only the
        header and the small parts are compared with their checksums.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is no index file, cut off, damaged, or of a later version.
    """
    file = IndexFile(path, mmap)
    if file.kind not in KINDS:
        raise ValueError(
            f"{path} holds a {file.kind!r}: expected one of {', '.join(KINDS)}. Update pqlib."
        )
    return KINDS[file.kind].from_file(file)
