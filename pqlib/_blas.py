"""The matrix kernels that faiss computes with, and the threads of those that NumPy and SciPy have.

The faiss-cpu wheels carry OpenBLAS 0.3.15 (2021), which takes Intel processors of a later date for
one of 2004 and multiplies with SSE3: two to five times slower than they can, in k-means, training,
encoding and distance tables. The variable OPENBLAS_CORETYPE names the right kernels; OpenBLAS reads
it once, when faiss is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    for library in _loaded():
        try:
            # NumPy and SciPy have an OpenBLAS of their own, whose functions have other names.
            name = library.openblas_get_corename
        except AttributeError:
            continue
        name.restype = ctypes.c_char_p
        return f"OpenBLAS {name().decode()}"
    return "unknown"


def _loaded() -> Iterator[ctypes.CDLL]:
    """Yield the OpenBLAS libraries that this process has loaded, on Linux."""
    maps = Path("/proc/self/maps")
    text = maps.read_text() if maps.exists() else ""
    for path in sorted(set(re.findall(r"(/\S.*openblas\S*)$", text, re.MULTILINE))):
        with contextlib.suppress(OSError):
            yield ctypes.CDLL(path)


# One thread for NumPy and SciPy ------------------------------------------------------------


@dataclass(frozen=True)
class Threads:
    """The number of threads of an OpenBLAS: how to ask for it and how to set it."""

    get: Callable[[], int]
    set: Callable[[int], object]


@functools.cache
def threads_of_numpy_and_scipy() -> tuple[Threads, ...]:
    """Return those of the libraries that the wheels of NumPy and SciPy carry.

    Empty where they have no OpenBLAS, or not on Linux: what is learnt there may depend, in its last
    digits, on the number of threads.
    """
    import scipy.linalg  # noqa: F401, loads the OpenBLAS of SciPy

    found = []
    for library in _loaded():
        for suffix in ("64_", ""):
            get, set_to = (f"scipy_openblas_{what}_num_threads{suffix}" for what in ("get", "set"))
            if hasattr(library, get) and hasattr(library, set_to):
                found.append(Threads(getattr(library, get), getattr(library, set_to)))
    return tuple(found)


_counting = threading.Lock()
_inside = 0
_before: list[int] = []


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let the BLAS of NumPy and of SciPy use one thread meanwhile, in the whole process.

    They share out sums among threads, in decompositions and in inner products of long vectors:
    without this, what is learnt from them would depend on the number of threads in its last digits.
    Of several threads of Python that are inside, the last one to leave gives the threads back.
    """
    global _inside, _before
    libraries = threads_of_numpy_and_scipy()
    with _counting:
        if not _inside:
            _before = [library.get() for library in libraries]
            for library in libraries:
                library.set(1)
        _inside += 1
    try:
        yield
    finally:
        with _counting:
            _inside -= 1
            if not _inside:
                for library, threads in zip(libraries, _before, strict=True):
                    library.set(threads)


name_kernel()
