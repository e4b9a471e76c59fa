"""The matrix kernels that faiss computes with.

The faiss-cpu wheels carry OpenBLAS 0.3.15 (2021), which takes Intel processors of a later date for
one of 2004 and multiplies with SSE3: two to five times slower than they can, in k-means, training,
encoding and distance tables. The variable OPENBLAS_CORETYPE names the right kernels; OpenBLAS reads
it once, when faiss is imported.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

VARIABLE = "OPENBLAS_CORETYPE"
AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


def kernel_for(cpuinfo: str) -> str | None:
    """Return the OpenBLAS kernels for an Intel processor by its ``/proc/cpuinfo``, else None.

    Other makers' processors are recognized by their family, which changes rarely.
    """
    found = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    if found is None or "GenuineIntel" not in cpuinfo:
        return None
    flags = set(found[1].split())
    if flags >= AVX512:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= flags else None


def name_kernel() -> None:
    """Name the kernels, unless that was done or is too late.

    It stays named, so that kernels of notebooks and other processes started from this one compute
    alike.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if VARIABLE in os.environ or "faiss" in sys.modules or not cpuinfo.exists():
        return
    kernel = kernel_for(cpuinfo.read_text())
    if kernel is not None:
        os.environ[VARIABLE] = kernel


def kernel_in_use() -> str:
    """Return what faiss computes matrix products with, such as "OpenBLAS SkylakeX".

    "unknown" where that cannot be told: not Linux, or faiss was built with another library.
    """
    maps = Path("/proc/self/maps")
    for path in set(re.findall(r"(/\S*openblas\S*)$", _text(maps), re.MULTILINE)):
        try:
            # numpy has an OpenBLAS of its own, whose functions have other names.
            name = ctypes.CDLL(path).openblas_get_corename
        except (OSError, AttributeError):
            continue
        name.restype = ctypes.c_char_p
        return f"OpenBLAS {name().decode()}"
    return "unknown"


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


name_kernel()
