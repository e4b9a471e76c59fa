"""Plain files of vectors, mapped: .fvecs, .bvecs, .fbin, .u8bin, .i8bin, .npy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pqlib._types import FloatMatrix

IdMatrix = NDArray[np.int64]

# big-ann-benchmarks' files: the numbers n and d as uint32, then the vectors.
_BINARY = {".fbin": "<f4", ".u8bin": "u1", ".i8bin": "i1"}
# corpus-texmex's: every vector preceded by its dimension as int32.
_VECS = {".fvecs": "<f4", ".bvecs": "u1"}
ENDINGS = (*_VECS, *_BINARY, ".npy")


def mapped(path: Path) -> Any:
    """Map a plain file of vectors, (n, d), after checking its size against its header.

    What is returned has ``shape`` and ``dtype``, and takes a slice or an array of rows in
    brackets; where ``dtype`` is not that of the file, ``stored`` names it. ValueError when the file
    is damaged or holds no matrix of numbers.
    """
    if path.suffix == ".npy":
        return _npy(path)
    size = path.stat().st_size
    if path.suffix in _BINARY:
        dtype = np.dtype(_BINARY[path.suffix])
        header = np.fromfile(path, "<u4", 2).tolist()
        n, d = header if len(header) == 2 else (0, 0)
        if n < 1 or d < 1 or size != 8 + n * d * dtype.itemsize:
            raise ValueError(
                f"{path}: its header says {n} vectors of dimension {d}, which does not fit its "
                f"{size} bytes. The file is damaged or of another format."
            )
        return np.memmap(path, dtype, "r", 8, (n, d))
    dtype = np.dtype(_VECS[path.suffix])
    first = np.fromfile(path, "<i4", 1).tolist()
    d = first[0] if first else 0
    if d < 1 or size % (4 + dtype.itemsize * d):
        raise ValueError(
            f"{path}: begins with dimension {d}, which does not fit its {size} bytes. The file is "
            "damaged or of another format."
        )
    return _Vecs(path, np.memmap(path, [("d", "<i4"), ("x", dtype, (d,))], "r"))


def _npy(path: Path) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as problem:  # its header is parsed as Python's literals are
        raise ValueError(f"{path}: expected a .npy file of numbers: {problem}.") from None
    # NumPy has no bfloat16: it writes ml_dtypes' as two bytes of no type.
    is_half = isinstance(array, np.ndarray) and array.dtype == np.dtype("V2")
    if not isinstance(array, np.ndarray) or array.ndim != 2 or not (
        is_half or array.dtype.kind in "iuf"
    ):  # fmt: skip
        raise ValueError(f"{path}: expected a matrix of numbers (n, d) in the .npy file.")
    if 0 in array.shape:
        raise ValueError(f"{path}: is empty, {array.shape}. Expected at least one vector.")
    return _Bfloat16(array.view("<u2")) if is_half else array


class _Bfloat16:
    """The upper halves of float32 numbers as a matrix (n, d) of float32."""

    stored = "bfloat16"
    dtype = np.dtype(np.float32)

    def __init__(self, halves: NDArray[np.uint16]) -> None:
        self.halves, self.shape = halves, halves.shape

    def __len__(self) -> int:
        return len(self.halves)

    def __getitem__(self, rows: slice | IdMatrix) -> FloatMatrix:
        return (np.asarray(self.halves[rows]).astype(np.uint32) << 16).view(np.float32)


class _Vecs:
    """Vectors of a .fvecs or .bvecs file as a matrix (n, d); read rows are checked, others not."""

    def __init__(self, path: Path, records: NDArray[Any]) -> None:
        self.path, self.records = path, records
        self.dtype, self.shape = records["x"].dtype, records["x"].shape

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows: slice | IdMatrix) -> NDArray[Any]:
        block = self.records[rows]
        if (block["d"] != self.shape[1]).any():
            raise ValueError(
                f"{self.path}: not all vectors have dimension {self.shape[1]}. The file is damaged."
            )
        return block["x"]
