"""How far a search is from what the machine allows: measured stages beside their bounds.

What is counted and assumed is said at ``limits``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd

from pqlib import _checks, evaluation
from pqlib._types import FloatMatrix
from pqlib.indexes import CascadeIndex, kernels
from pqlib.indexes.kernels.layout import GROUP, pack
from pqlib.indexes.stages import STAGES
from pqlib.study.rates import matmul_rate

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
"""Where Linux says how large the processor's caches are."""

SECOND_CACHE, LARGEST_CACHE = 1 << 20, 128 << 20
"""Bytes taken for the second and for the largest cache where the system does not say."""

_PASSES = 64  # over what stays in cache, in a call: a call alone costs as much as one of them


@dataclass(frozen=True)
class Limits:
    """What ``limits`` found.

    Attributes ---------- table : a row for each stage of ``CascadeIndex.profile``, the bounds
    missing for "rest": see ``07_limits.csv`` in results/README.md. Where "times_bound" is below 1,
    what is read was in a cache, brought there by another query of the batch or by the repeat before
    peaks : "memory_gb_per_s" and "cache_gb_per_s", read, in 10**9 bytes; "matmul_gmadds_per_s" and
    "scan_gmadds_per_s", in 10**9 products, each with its addition parameters : what was searched,
    how, and on which machine
    """

    table: pd.DataFrame
    peaks: dict[str, float]
    parameters: dict[str, Any]

    def __str__(self) -> str:
        p = self.parameters
        lines = [
            f"{p['queries']:,} queries, nprobe={p['nprobe']}, candidates={p['candidates']}: "
            f"{self.table.ms.sum():.3f} ms with {p['threads']} threads.",
            "Peaks: memory {memory_gb_per_s:.1f} GB/s, second cache {cache_gb_per_s:.1f} GB/s, "
            "matrix product {matmul_gmadds_per_s:.1f} and scan {scan_gmadds_per_s:.1f} * 10**9 "
            "products/s.".format(**self.peaks),
        ]
        for row in self.table.itertuples():
            line = f"  {row.stage}: {row.ms:.3f} ms, {row.share:.0%}"
            if row.bound_ms > 0:
                line += f"; {row.times_bound:.2f} times the bound by {row.bound_by}"
                if row.times_bound < 1:
                    line += ", as a cache held what it reads"
                line += f"; {row.times_cached_bound:.2f} times the bound with all in the cache"
            lines.append(line)
        return "\n".join(lines)


def limits(
    index: CascadeIndex,
    xq: FloatMatrix,
    k: int = 10,
    nprobe: int | None = None,
    candidates: int | None = None,
    margin: float | None = None,
    *,
    repeats: int = 5,
    memory_bytes: int | None = None,
    matrix_size: int = 2048,
    progress: bool = True,
) -> Limits:
    """Measure a search by stage and the machine's peaks, and hold one against the other.

    Of each stage it is counted what it cannot do without. With w = components, rounded up to a
    multiple of four:

    - rotation: reads the query (4 * d bytes) and its share of the matrix (4 * d * w bytes), which
      one product reads for all queries of the batch; multiplies d * w. Without a rotation there
      is no matrix and no product, unless w differs from d
    - routing: reads the code of each centroid, w + 2 bytes with its norm; multiplies w for each
    - scan: the same for each code of the probed lists
    - re-ranking: reads a whole vector for each candidate, d or 4 * d bytes; multiplies d for each

    What is not counted makes the true cost higher, never lower: the quantization of the queries,
    unused lanes of the last block of each list, the selection of candidates, whatever is written.

    "bound_ms" assumes that every query reads all this from memory, and nothing while it multiplies
    is in its way: bytes over the bandwidth of memory or products over their peak, whichever is
    more, all threads at work. It bounds queries that come one at a time from nowhere near each
    other, on an index too large for any cache. In a batch, codes that another query brought are
    found in the cache, and an index that fits the largest cache stays there from repeat to repeat:
    so what is measured may be less. "cached_bound_ms" assumes the opposite, that all is in the
    second cache already.

    Peaks are the best of ``repeats`` measurements, since whatever else the machine does only
    lowers them; the stages are medians. They are what software reached here, not what the
    processor's data sheet promises. Memory and cache are read by NumPy's maximum of an array, one
    part a thread. Products of floats have the rate of a product of two square matrices, with as
    many threads as NumPy takes; those of bytes that of the index's own loop over a list that
    stays in the second cache, with next to nothing to select. A search of few queries is made by
    one thread, yet held against the peaks of all.

    Parameters
    ----------
    index : filled
    xq : (nq, d) queries, one batch
    k, nprobe, candidates, margin : as for ``CascadeIndex.search``
    repeats : of each measurement
    memory_bytes : size of the array read to measure the bandwidth of memory; None: twice the
        largest cache, and at least 256 MB
    matrix_size : rows and columns of the matrices multiplied

    Raises
    ------
    ValueError
        When an argument is out of range.
    """
    repeats = _checks.integer("repeats", repeats, 1)
    second, largest = cache_sizes()
    if memory_bytes is None:
        memory_bytes = max(256 << 20, 2 * largest)
    memory_bytes = _checks.integer("memory_bytes", memory_bytes, 1 << 16)
    matrix_size = _checks.integer("matrix_size", matrix_size, 1)
    cost = index.search_cost(xq, k, nprobe, candidates, margin)
    measured = index.profile(xq, k, nprobe, candidates, margin, repeats=repeats)
    # The product last: NumPy's threads spin on for a while and would take the processor from the
    # others.
    peaks = {
        "memory_gb_per_s": 1e-9 * _memory_rate(memory_bytes, repeats, progress),
        "cache_gb_per_s": 1e-9 * _cache_rate(second // 2, repeats, progress),
        "scan_gmadds_per_s": 1e-9 * _scan_rate(index, second // 2, repeats, progress),
        "matmul_gmadds_per_s": 1e-9 * matmul_rate(matrix_size, repeats, 0, "min_s", progress),
    }
    table = pd.DataFrame({"stage": STAGES, "queries": len(xq)})
    table["ms"] = 1e3 * table.stage.map(measured)
    table["share"] = table.ms / table.ms.sum()
    work = _work(index, len(xq), {name: float(counts.mean()) for name, counts in cost.items()})
    table = _bounded(table.join(work, on="stage"), peaks)
    given = {"nprobe": nprobe, "candidates": candidates, "margin": margin}
    settings = asdict(index.settings) | {a: b for a, b in given.items() if b is not None}
    parameters = {
        "n": index.ntotal,
        "d": index.d,
        "queries": len(xq),
        "n_lists": index.n_lists,
        "components": index.components,
        "rerank": index.rerank,
        "k": k,
        **settings,
        "engine": index.engine,
        "repeats": repeats,
        "memory_bytes": memory_bytes,
        "second_cache": second,
        "largest_cache": largest,
        **evaluation.machine(),
    }
    return Limits(table, peaks, parameters)


# Counts and bounds -------------------------------------------------------------------------


def _work(index: CascadeIndex, nq: int, counted: dict[str, float]) -> pd.DataFrame:
    """Return what each stage reads and multiplies for a query, and which peak bounds the latter."""
    d, width = index.d, -(-index.components // GROUP) * GROUP
    matrix = d * width if index.rotation is not None or width != d else 0
    row = {"uint8": d, "float32": 4 * d, None: 0}[index.rerank]
    inner, codes, vectors = (counted[name] for name in ("inner", "codes", "vectors"))
    floats, whole = "matmul_gmadds_per_s", "scan_gmadds_per_s"
    work = {
        "rotation": (4 * d + 4 * matrix / nq, matrix, floats),
        "routing": (inner * (width + 2), inner * width, whole),
        "scan": (codes * (width + 2), codes * width, whole),
        "re-ranking": (vectors * row, vectors * d, floats if index.rerank == "float32" else whole),
    }
    columns = ["bytes_per_query", "products_per_query", "peak"]
    return pd.DataFrame.from_dict(work, orient="index", columns=columns)


def _bounded(table: pd.DataFrame, peaks: dict[str, float]) -> pd.DataFrame:
    """Return the table of ``Limits`` from what the stages took and do."""
    read, made = (
        1e-6 * table.queries * table[name] for name in ("bytes_per_query", "products_per_query")
    )
    # 10**9 a second are 10**6 a millisecond.
    table["memory_ms"] = read / peaks["memory_gb_per_s"]
    table["cache_ms"] = read / peaks["cache_gb_per_s"]
    table["products_ms"] = made / table.pop("peak").map(peaks)
    table["bound_ms"] = table[["memory_ms", "products_ms"]].max(axis=1)
    by = np.where(table.memory_ms >= table.products_ms, "memory", "products")
    table["bound_by"] = pd.Series(by, dtype=object).where(table.bound_ms.notna())
    table["times_bound"] = table.ms / table.bound_ms.replace(0, np.nan)
    table["cached_bound_ms"] = table[["cache_ms", "products_ms"]].max(axis=1)
    table["times_cached_bound"] = table.ms / table.cached_bound_ms.replace(0, np.nan)
    return table


# The machine's peaks -----------------------------------------------------------------------


def cache_sizes(folder: Path = CACHES) -> tuple[int, int]:
    """Return the bytes of a core's second cache and of the largest cache.

    ``SECOND_CACHE`` and ``LARGEST_CACHE`` where ``folder`` does not say.
    """
    sizes: dict[int, int] = {}
    try:
        for cache in folder.glob("index*"):
            size = re.fullmatch(r"(\d+)K", (cache / "size").read_text().strip())
            if size and (cache / "type").read_text().strip() != "Instruction":
                sizes[int((cache / "level").read_text())] = int(size[1]) << 10
    except (OSError, ValueError):
        pass
    return sizes.get(2, SECOND_CACHE), max(sizes.values(), default=LARGEST_CACHE)


def _best_seconds(
    call: Callable[[Any], object], parts: Sequence[Any], repeats: int, progress: bool
) -> float:
    """Return the seconds of ``call`` with each part in a thread of its own, at best."""
    with ThreadPoolExecutor(len(parts)) as pool:
        calls = {"peak": lambda: list(pool.map(call, parts))}
        return float(evaluation.time_calls(calls, repeats, progress=progress).min_s[0])


def _memory_rate(size: int, repeats: int, progress: bool) -> float:
    """Return the bytes a second that all threads read of an array of ``size`` bytes."""
    array = np.ones(size // 4, np.int32)
    parts = np.array_split(array, faiss.omp_get_max_threads())
    return array.nbytes / _best_seconds(np.max, parts, repeats, progress)


def _cache_rate(size: int, repeats: int, progress: bool) -> float:
    """Return the bytes a second that all threads read, each ``size`` bytes over and over."""
    threads = range(faiss.omp_get_max_threads())
    again = [np.broadcast_to(np.ones(size // 4, np.int32), (_PASSES, size // 4)) for _ in threads]
    seconds = _best_seconds(lambda rows: rows.max(axis=1), again, repeats, progress)
    return sum(rows.size * rows.itemsize for rows in again) / seconds


def _scan_rate(index: CascadeIndex, size: int, repeats: int, progress: bool) -> float:
    """Return the products a second of the index's loop over a list of ``size`` bytes.

    Codes of the index's width, in as many threads as faiss takes; one candidate is kept, none is
    re-ranked. A short list before the long one gives the bound that leaves next to nothing of
    that to select from.
    """
    engine: Any = kernels.engine(index.engine)
    width = -(-index.components // GROUP) * GROUP
    threads = faiss.omp_get_max_threads()
    first = 512
    rows = max(16 * first, size // (width + 2))
    rng = np.random.default_rng(0)
    blocks = pack(
        rng.integers(-127, 128, (rows, width)).astype(np.int8), np.array([0, first, rows])
    )
    nq = threads * _PASSES
    queries = rng.integers(-127, 128, (nq, width)).astype(np.int8)
    nothing = np.empty((0, index.d), np.uint8)
    vectors = np.zeros((nq, index.d), np.uint8)
    order = np.arange(nq)
    lists = np.tile(np.array([0, 1], np.int32), (nq, 1))
    scores, offsets = np.zeros((nq, 2), np.int32), np.zeros(nq, np.int32)
    keys, scanned = np.empty((nq, 1), np.int64), np.empty(nq, np.int64)

    def scan(thread: int) -> None:
        engine.search(
            blocks.codes, blocks.half_norms, np.int32(blocks.shift), blocks.block_starts,
            blocks.starts, nothing, index.d, order, thread * _PASSES, (thread + 1) * _PASSES,
            lists, scores, offsets, queries, vectors, 1, 1, -1.0, first, keys, scanned,
        )  # fmt: skip

    return nq * rows * width / _best_seconds(scan, range(threads), repeats, progress)
