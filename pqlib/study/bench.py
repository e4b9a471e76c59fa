"""The benchmark: our index beside faiss's, in one run, over the same centroids and codebook.

What is compared, and how, is said at ``bench``; ``make bench`` runs it and writes the tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import faiss
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib import _checks, evaluation
from pqlib._threads import one_thread_each
from pqlib.clustering import TwoLevelClustering, default_sizes, two_level_kmeans
from pqlib.datasets import Dataset
from pqlib.indexes import MultiLevelPQ
from pqlib.study.sketch import check_same_answers, sketch_search

FloatMatrix = NDArray[np.float32]
IdArray = NDArray[np.int64]
Search = Callable[[FloatMatrix], tuple[FloatMatrix, IdArray]]

RIVAL = "faiss IndexIVFPQ"
"""The method that every ratio is to."""

SKETCH = "sketch: Python loop over codes"
"""The first draft's search: a Python loop over the codes of one list."""

SHARED, LOCAL = "MultiLevelPQ shared", "MultiLevelPQ per-cluster"

NPROBES = (1, 10)
"""Lists probed, where the caller names none."""

SIZES = {"fashion-mnist": (100, 10, 8), "bsds-sift": (256, 16, 16)}
"""(n_inner, n_outer, m) of the data sets that are compared from one version to the next."""

TABLE_ROWS = 128  # queries whose tables are made in one call: 1 MB of them at m=8, nbits=8


@dataclass(frozen=True)
class Bench:
    """What one run of the benchmark measured.

    Attributes
    ----------
    methods : a row for each method and nprobe, the rival's among them. "queries" in one call;
        "qps" (queries per second, median of the repeats), "qps_min", "qps_max"; "ratio", qps
        over that of "rival" at the same nprobe; "recall@<k>"; "distance_computations", mean of
        a query; "bytes_per_vector"; "p50_ms", "p95_ms", "p99_ms" of calls with one query, and
        "p50_ratio", p50 over the rival's; "build_s", seconds to train the codebooks and to add
        the base, clustering left out
    training : a row for each step of building: "step", "method", "vectors" that went through it
        (missing where none did), "seconds"
    profile : a row for each nprobe, see ``bench``
    parameters : name, sizes and machine of this run
    """

    methods: pd.DataFrame
    training: pd.DataFrame
    profile: pd.DataFrame
    parameters: dict[str, Any]


@dataclass(frozen=True)
class _Entry:
    """A method with one nprobe."""

    method: str
    nprobe: int
    nprobe_outer: int | None
    search: Search
    queries: FloatMatrix
    latency_queries: int
    distance_computations: float
    bytes_per_vector: float
    build_s: float

    @property
    def name(self) -> str:
        return f"{self.method}, nprobe {self.nprobe}"


@dataclass
class _Steps:
    """Times the steps of building, and shows which of them is under way."""

    bar: tqdm[Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def __call__(self, step: str, method: str, vectors: int | None) -> Iterator[None]:
        self.bar.set_description(f"{step}, {method}")
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.rows.append({"step": step, "method": method, "vectors": vectors, "seconds": seconds})
        self.bar.update()

    def seconds(self, step: str, method: str) -> float:
        """Return what a step took."""
        return next(r["seconds"] for r in self.rows if (r["step"], r["method"]) == (step, method))


def default_parameters(name: str, n: int) -> tuple[int, int, int | None]:
    """Return ``(n_inner, n_outer, m)`` for the data set ``name`` of ``n`` base vectors.

    Those of ``SIZES``, else ``default_sizes(n)`` and None, the index's own choice of m.
    """
    return SIZES[name] if name in SIZES else (*default_sizes(n), None)


def bench(
    ds: Dataset,
    *,
    n_inner: int | None = None,
    n_outer: int | None = None,
    m: int | None = None,
    nbits: int = 8,
    k: int = 10,
    nprobes: Sequence[int] | None = None,
    rerank_factor: int = 8,
    repeats: int = 9,
    latency_queries: int = 500,
    sketch_queries: int = 20,
    matrix_size: int = 2048,
    seed: int = 0,
    progress: bool = True,
) -> Bench:
    """Measure ``MultiLevelPQ`` beside faiss's ``IndexIVFPQ`` on all of ``ds``, in one run.

    All methods search lists of the same two-level clustering. The rival has the centroids and
    the shared codebook of ``MultiLevelPQ(codebooks="shared")`` and its own precomputed tables,
    and encodes the base itself. Batch calls are repeated interleaved, so that whatever else the
    machine does falls on all alike; single calls are one method after the other.

    The sketch's search runs on a few queries, over the index with per-cluster codebooks, and
    must find what that index finds.

    The profile takes the search with per-cluster codebooks apart. Of a query, "multiplications"
    that its tables take (d * 2**nbits for each probed list that is not empty) and "lookups"
    (codes * m). Of the whole batch, milliseconds of ranking the centroids ("probing_ms"), of
    the residuals and tables alone ("tables_ms") and of the search ("search_ms"); "rest_ms" is
    the search less the two, all timed apart. "tables_gmadds_per_s" is the rate of the tables and
    "matmul_gmadds_per_s" that of a product of two float32 matrices in NumPy, in 10**9
    multiply-adds a second; "tables_bound_ms" is what the tables would take at that rate. Of a
    single query, "codebook_bytes" that its tables are made of (4 * d * 2**nbits for each list),
    "p50_ms" of its search, and "reading_ms" that reading so many bytes from memory takes at
    "memory_gb_per_s", 10**9 bytes a second.

    Parameters
    ----------
    ds : the base (n, d), all of which is indexed, and the queries, all of which are searched
    n_inner, n_outer, m : None: those of ``default_parameters``; n_outer of a given n_inner is
        its square root
    nbits : bits of a sub-quantizer
    k : neighbours
    nprobes : lists probed; None: those of ``NPROBES`` that n_inner allows
    rerank_factor : rerank_factor * k candidates get exact distances
    repeats : timed batch calls of each method
    latency_queries, sketch_queries : queries of the single calls and of the sketch, at most
    matrix_size : rows and columns of the matrices multiplied for the profile
    seed : of clustering and codebooks
    progress : show progress bars on a terminal

    Raises
    ------
    ValueError
        When an argument is out of range, or the base is too small for the codebooks.
    RuntimeError
        When the sketch's search and the index disagree.
    """
    given, given_outer, given_m = default_parameters(ds.name, ds.n)
    if n_inner is not None:
        given, given_outer = n_inner, max(1, round(max(n_inner, 1) ** 0.5))
    n_inner = _checks.integer("n_inner", given, 1, ds.n, "A list needs a vector.")
    n_outer = _checks.integer(
        "n_outer", given_outer if n_outer is None else n_outer, 1, n_inner, "See n_inner."
    )
    m, nbits = _checks.product_quantizer_shape(ds.d, given_m if m is None else m, nbits)
    held = ds.neighbors.shape[1]
    k = _checks.integer("k", k, 1, held, f"The ground truth of {ds.name} holds {held} neighbours.")
    if nprobes is None:
        nprobes = [p for p in NPROBES if p <= n_inner]
    hint = f"There are n_inner={n_inner} lists to probe."
    nprobes = [_checks.integer("nprobes", p, 1, n_inner, hint) for p in nprobes]
    if len(set(nprobes)) != len(nprobes) or not nprobes:
        raise ValueError(f"nprobes={nprobes}: expected at least one number, each once.")
    rerank_factor = _checks.integer("rerank_factor", rerank_factor, 1)
    repeats = _checks.integer("repeats", repeats, 1)
    latency_queries = _checks.integer("latency_queries", latency_queries, 1)
    sketch_queries = _checks.integer("sketch_queries", sketch_queries, 1)
    matrix_size = _checks.integer("matrix_size", matrix_size, 1)

    silent = None if progress else True
    with tqdm(total=11, desc="building", leave=False, disable=silent) as bar:
        steps = _Steps(bar)
        with steps("clustering", "both levels", ds.n):
            clustering = two_level_kmeans(ds.train, n_inner, n_outer, seed=seed)
        with steps("assignment", "base to lists", ds.n):
            assignment = clustering.assign(ds.train)
        indexes = {}
        for method, codebooks in ((SHARED, "shared"), (LOCAL, "per-cluster")):
            index = MultiLevelPQ(
                ds.d,
                n_inner,
                n_outer,
                m=m,
                nbits=nbits,
                codebooks=codebooks,
                rerank="uint8" if ds.whole_numbers else "float32",
                seed=seed,
                copy=False,
            )
            indexes[method] = _build(index, method, ds, clustering, assignment, steps)
        with steps("precomputed tables", RIVAL, None):
            rival = _rival(indexes[SHARED])
        with steps("add", RIVAL, ds.n):
            rival.add(ds.train)

    entries: list[_Entry] = []
    for p in nprobes:
        entries.append(_rival_entry(rival, indexes[SHARED], ds, k, p, latency_queries, steps))
        entries += _our_entries(indexes, ds, k, p, rerank_factor, latency_queries, steps)
        if p == 1:
            like = next(entry for entry in entries if entry.method == LOCAL)
            entries.append(_sketch_entry(indexes[LOCAL], like, k, sketch_queries))

    calls: dict[str, Callable[[], object]] = {
        entry.name: partial(entry.search, entry.queries) for entry in entries
    }
    for p in nprobes:
        _, keys = clustering.probe(ds.test, p)
        calls[f"probing {p}"] = partial(clustering.probe, ds.test, p)
        calls[f"tables {p}"] = partial(make_tables, indexes[LOCAL], ds.test, keys)
    timings = evaluation.time_calls(calls, repeats, progress=progress).set_index("name")

    parameters = {
        "dataset": ds.name,
        "n": ds.n,
        "d": ds.d,
        "queries": ds.nq,
        "n_inner": n_inner,
        "n_outer": n_outer,
        "m": m,
        "nbits": nbits,
        "k": k,
        "rerank": indexes[LOCAL].rerank,
        "rerank_factor": rerank_factor,
        "repeats": repeats,
        "seed": seed,
        "own_codebooks": n_inner - indexes[LOCAL].n_shared_clusters,
        **evaluation.machine(),
    }
    methods = _methods_table(entries, timings, ds, k, progress)
    # Last, as NumPy's threads spin on for a while and would take the processor from the others.
    bound = _matmul_rate(matrix_size, repeats, seed, progress)
    reading = _reading_rate(repeats, progress)
    profile = _profile_table(indexes[LOCAL], ds, nprobes, timings, methods, bound, reading)
    training = pd.DataFrame(steps.rows).astype({"vectors": "Int64"})
    return Bench(methods, training, profile, parameters)


# What is measured --------------------------------------------------------------------------


def _build(
    index: MultiLevelPQ,
    method: str,
    ds: Dataset,
    clustering: TwoLevelClustering,
    assignment: IdArray,
    steps: _Steps,
) -> MultiLevelPQ:
    with steps("codebooks", method, ds.n):
        index.train(ds.train, clustering)
    with steps("encoding", method, ds.n):
        index.encode(ds.train, assignment)
    with steps("add", method, ds.n):
        index.add(ds.train)
    return index


def _rival(shared: MultiLevelPQ) -> faiss.IndexIVFPQ:
    """Return faiss's index, still empty, as its own training would leave it."""
    coarse = faiss.IndexFlatL2(shared.d)
    coarse.add(shared.clustering.inner)
    rival = faiss.IndexIVFPQ(coarse, shared.d, shared.n_inner, shared.m, shared.nbits)
    faiss.copy_array_to_vector(shared.quantizer(0).codebooks.ravel(), rival.pq.centroids)
    rival.is_trained = True
    rival.use_precomputed_table = 0  # faiss's default: it decides by the tables' size
    rival.precompute_table()
    return rival


def _search_rival(
    rival: faiss.IndexIVFPQ, k: int, nprobe: int, xq: FloatMatrix
) -> tuple[FloatMatrix, IdArray]:
    rival.nprobe = nprobe
    return rival.search(xq, k)


def _rival_entry(
    rival: faiss.IndexIVFPQ,
    shared: MultiLevelPQ,
    ds: Dataset,
    k: int,
    nprobe: int,
    latency_queries: int,
    steps: _Steps,
) -> _Entry:
    held = (
        rival.code_size * rival.ntotal
        + 8 * rival.ntotal  # ids
        + 4 * rival.pq.centroids.size()
        + 4 * rival.precomputed_table.size()
        + shared.clustering.inner.nbytes
    )
    # The same lists are probed, and the same codes in them are scanned.
    cost = shared.search_cost(ds.test, k, nprobe, rerank=False)
    built = [("codebooks", SHARED), ("precomputed tables", RIVAL), ("add", RIVAL)]
    return _Entry(
        RIVAL,
        nprobe,
        None,
        partial(_search_rival, rival, k, nprobe),
        ds.test,
        latency_queries,
        float(sum(counts.mean() for counts in cost.values())),
        held / rival.ntotal,
        sum(steps.seconds(*step) for step in built),
    )


def _our_entries(
    indexes: dict[str, MultiLevelPQ],
    ds: Dataset,
    k: int,
    nprobe: int,
    rerank_factor: int,
    latency_queries: int,
    steps: _Steps,
) -> Iterator[_Entry]:
    half = max(1, indexes[SHARED].n_outer // 2)
    plain: dict[str, Any] = {"nprobe": nprobe, "rerank": False}
    reranked: dict[str, Any] = {"nprobe": nprobe, "rerank_factor": rerank_factor}
    for method, name, options in (
        (SHARED, SHARED, plain),
        (SHARED, f"{SHARED}, two levels", {**plain, "nprobe_outer": half}),
        (LOCAL, LOCAL, plain),
        (SHARED, f"{SHARED}, re-ranked", reranked),
        (LOCAL, f"{LOCAL}, re-ranked", reranked),
    ):
        index = indexes[method]
        cost = index.search_cost(ds.test, k, **options)
        # One index serves with and without its store: each is charged for what it uses.
        unused = 0 if options is reranked else index.memory()["re-ranking store"]
        yield _Entry(
            name,
            nprobe,
            options.get("nprobe_outer"),
            partial(index.search, k=k, **options),
            ds.test,
            latency_queries,
            float(sum(counts.mean() for counts in cost.values())),
            index.bytes_per_vector - unused / index.ntotal,
            steps.seconds("codebooks", method) + steps.seconds("add", method),
        )


def _sketch_entry(index: MultiLevelPQ, like: _Entry, k: int, queries: int) -> _Entry:
    """Return the sketch's search over ``index``, once it is known to find what ``like`` finds."""
    xq = like.queries[:queries]
    check_same_answers(index, xq, like.search(xq)[1], sketch_search(index, k, xq)[1])
    return _Entry(
        SKETCH,
        1,
        None,
        partial(sketch_search, index, k),
        xq,
        len(xq),
        like.distance_computations,
        like.bytes_per_vector,
        like.build_s,
    )


def make_tables(index: MultiLevelPQ, xq: FloatMatrix, keys: IdArray) -> None:
    """Make the distance tables of a search and throw them away, to time them alone.

    Each list's queries in blocks of ``TABLE_ROWS``, one list a thread, as the index does it.

    Parameters
    ----------
    index : with a quantizer for each list
    xq : (nq, d) float32
    keys : (nq, nprobe) int64, the lists that each query probes
    """
    nprobe = keys.shape[1]
    order = np.argsort(keys.ravel(), kind="stable")
    bounds = np.searchsorted(keys.ravel()[order], np.arange(index.n_inner + 1))
    probed = (np.diff(bounds) > 0) & (index.list_sizes > 0)

    def tables_of(c: int) -> None:
        quantizer, centroid = index.quantizer(c), index.clustering.inner[c]
        for start in range(bounds[c], bounds[c + 1], TABLE_ROWS):
            pairs = order[start : min(start + TABLE_ROWS, bounds[c + 1])]
            quantizer.distance_table(xq[pairs // nprobe] - centroid)

    with one_thread_each() as pool:
        list(pool.map(tables_of, np.flatnonzero(probed).tolist()))


def _matmul_rate(size: int, repeats: int, seed: int, progress: bool) -> float:
    """Return the multiply-adds a second of a product of two (size, size) float32 matrices."""
    one, other = np.random.default_rng(seed).random((2, size, size), np.float32)
    product = np.empty((size, size), np.float32)
    calls = {"matmul": lambda: np.matmul(one, other, out=product)}
    return size**3 / float(evaluation.time_calls(calls, repeats, progress=progress).median_s[0])


def _reading_rate(repeats: int, progress: bool) -> float:
    """Return the bytes a second that one thread reads from memory, far beyond any cache."""
    array = np.ones(1 << 26, np.float32)
    timings = evaluation.time_calls({"reading": array.max}, repeats, progress=progress)
    return array.nbytes / float(timings.median_s[0])


# The tables --------------------------------------------------------------------------------


def _methods_table(
    entries: Sequence[_Entry], timings: pd.DataFrame, ds: Dataset, k: int, progress: bool
) -> pd.DataFrame:
    rows = []
    silent = None if progress else True
    for entry in tqdm(entries, desc="single queries", leave=False, disable=silent):
        timing, nq = timings.loc[entry.name], len(entry.queries)
        _, ids = entry.search(entry.queries)
        rows.append(
            {
                "method": entry.method,
                "nprobe": entry.nprobe,
                "nprobe_outer": entry.nprobe_outer,
                "queries": nq,
                "qps": nq / timing.median_s,
                "qps_min": nq / timing.max_s,
                "qps_max": nq / timing.min_s,
                "rival": RIVAL,
                f"recall@{k}": evaluation.recall_at_k(ids, ds, k),
                "distance_computations": entry.distance_computations,
                "bytes_per_vector": entry.bytes_per_vector,
                **evaluation.single_query_latency(entry.search, ds.test, entry.latency_queries),
                "build_s": entry.build_s,
            }
        )
    table = pd.DataFrame(rows)
    table["nprobe_outer"] = table.nprobe_outer.astype("Int64")
    # The rival is measured once for each nprobe, in this run.
    rival = table[table.method == RIVAL].set_index("nprobe")
    table.insert(
        table.columns.get_loc("rival") + 1, "ratio", table.qps / table.nprobe.map(rival.qps)
    )
    table.insert(
        table.columns.get_loc("p99_ms") + 1,
        "p50_ratio",
        table.p50_ms / table.nprobe.map(rival.p50_ms),
    )
    return table


def _profile_table(
    index: MultiLevelPQ,
    ds: Dataset,
    nprobes: Sequence[int],
    timings: pd.DataFrame,
    methods: pd.DataFrame,
    bound: float,
    reading: float,
) -> pd.DataFrame:
    """Return the profile.

    ``bound``: multiply-adds a second of a matrix product; ``reading``: bytes a second from memory.
    """
    single = methods[methods.method == LOCAL].set_index("nprobe").p50_ms
    rows = []
    for p in nprobes:
        cost = index.search_cost(ds.test, nprobe=p, k=1, rerank=False)
        multiplications = ds.d * float(cost["tables"].mean())
        probing, tables, search = (
            1e3 * timings.median_s[name]
            for name in (f"probing {p}", f"tables {p}", f"{LOCAL}, nprobe {p}")
        )
        rows.append(
            {
                "method": LOCAL,
                "nprobe": p,
                "queries": ds.nq,
                "multiplications": multiplications,
                "lookups": index.m * float(cost["codes"].mean()),
                "probing_ms": probing,
                "tables_ms": tables,
                "search_ms": search,
                "rest_ms": search - probing - tables,
                "tables_gmadds_per_s": 1e-6 * ds.nq * multiplications / tables,
                "matmul_gmadds_per_s": 1e-9 * bound,
                "tables_bound_ms": 1e3 * ds.nq * multiplications / bound,
                "codebook_bytes": 4 * multiplications,
                "p50_ms": float(single[p]),
                "reading_ms": 1e3 * 4 * multiplications / reading,
                "memory_gb_per_s": 1e-9 * reading,
            }
        )
    return pd.DataFrame(rows)
