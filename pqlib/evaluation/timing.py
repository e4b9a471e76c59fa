"""How long it takes: medians of interleaved repeats, single-query latencies, on which machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np

from pqlib import _blas
from pqlib._types import FloatMatrix

if TYPE_CHECKING:
    import pandas as pd


def time_calls(
    calls: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    warmup: bool = True,
    min_seconds: float = 0.02,
    progress: bool = True,
) -> pd.DataFrame:
    """Time several calls side by side: interleaved repeats, medians.

    Interleaving spreads whatever else the machine does over all of them. A call that lasts less
    than ``min_seconds`` is repeated within one measurement until it does.

    Returns
    -------
    DataFrame with a row for each call, in order: "name", "median_s", "min_s", "max_s" (seconds
    of one call) and "repeats".
    """
    import pandas as pd
    from tqdm import tqdm

    def seconds_of(call: Callable[[], object], loops: int = 1) -> float:
        start = time.perf_counter()
        for _ in range(loops):
            call()
        return (time.perf_counter() - start) / loops

    loops = dict.fromkeys(calls, 1)
    if warmup:
        for name, call in calls.items():
            loops[name] = max(1, round(min_seconds / max(1e-9, seconds_of(call))))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    rounds = [(r, name) for r in range(repeats) for name in calls]
    for _, name in tqdm(rounds, desc="timing", leave=False, disable=None if progress else True):
        seconds[name].append(seconds_of(calls[name], loops[name]))
    return pd.DataFrame(
        {
            "name": name,
            "median_s": float(np.median(values)),
            "min_s": min(values),
            "max_s": max(values),
            "repeats": repeats,
        }
        for name, values in seconds.items()
    )


def single_query_latency(
    search: Callable[[FloatMatrix], object], xq: FloatMatrix, n: int = 200
) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds of searching one query a call, over n queries.

    All are searched once before they are timed, so that what the first search of a list prepares
    for later ones is not taken for a latency.
    """
    n = min(n, len(xq))
    for i in range(n):
        search(xq[i : i + 1])
    seconds = []
    for i in range(n):
        start = time.perf_counter()
        search(xq[i : i + 1])
        seconds.append(time.perf_counter() - start)
    p50, p95, p99 = np.percentile(1e3 * np.array(seconds), [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def _simd_level() -> str:
    """Return the SIMD level that faiss runs with, by its own name."""
    config = getattr(faiss, "SIMDConfig", None)
    if config is not None:
        return str(config.get_level_name())
    # Before it chose at run time, each level was a library of its own: "OPTIMIZE AVX2".
    return str(faiss.get_compile_options().split()[-1])


def machine() -> dict[str, str]:
    """Say what the timings of this run were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "threads": str(faiss.omp_get_max_threads()),
        "simd": _simd_level(),
        "blas": _blas.kernel_in_use(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "faiss": faiss.__version__,
        "numpy": metadata.version("numpy"),
    }
