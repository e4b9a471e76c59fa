"""The arrays that go from module to module, by the names that signatures use."""

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]
"""Vectors, (n, d), or distances, (nq, k)."""

IdArray = NDArray[np.int64]
"""Ids, positions, numbers of clusters, or counts."""

Codes = NDArray[np.uint8]
"""Codes, (n, code bytes)."""

Found = tuple[FloatMatrix, IdArray]
"""Distances and positions (or ids) of what was found, (nq, k) each."""
