"""Indexes of this package and of other libraries, built and searched in one way.

``pqlib.study.recipes`` says with which parameters.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from pqlib._types import FloatMatrix, IdArray

Setting = Mapping[str, Any]
"""Search parameters by name; a larger value, and None, means a more thorough search."""

EF_CONSTRUCTION = 200
"""Of hnswlib's README; for the graphs of our compositions as well, whose default in faiss is 40."""


@dataclass(frozen=True)
class Built:
    """An index that is ready to be searched.

    Attributes
    ----------
    search : ``search(xq, k, setting)`` returns ids (nq, k) int64 of xq (nq, d) float32, -1 where
        fewer are found; nq = 1 goes the library's way for a single query
    bytes : all that the index holds, saved
    threads : that a search of several queries uses
    work : ``work(xq, k, setting)`` counts what such a search computes: "centroids", "codes" and
        "vectors" compared, each a number or (nq,); None: not counted
    """

    search: Callable[[FloatMatrix, int, Setting], IdArray]
    bytes: int
    threads: int
    note: str = ""
    work: Callable[[FloatMatrix, int, Setting], Mapping[str, Any]] | None = None


Builder = Callable[[FloatMatrix, FloatMatrix, int, bool], Built]
"""``build(xb, xt, seed, whole)`` trains on xt (n_t, d), adds xb (n, d), both float32; whole: all
values are whole numbers 0..255."""


def setting_text(setting: Setting) -> str:
    """Return search parameters as text, such as "nprobe=8 k_factor=4"."""
    return " ".join(f"{name}={value}" for name, value in setting.items())


def clustering_seed(seed: int) -> int:
    """Return what faiss's clusterings start from; for seed 0 it is faiss's own."""
    return 1234 + seed


def our_built(index: Any, note: str = "") -> Built:
    """Return a filled index of this package as what can be measured, counts included."""

    def arguments(setting: Setting) -> Setting:
        # None in a setting means no adaptive probing, None in a search what the index has.
        return {**setting, "margin": -1.0} if setting.get("margin", 0) is None else setting

    def search(xq: FloatMatrix, k: int, setting: Setting) -> IdArray:
        return index.search(xq, k, **arguments(setting))[1]

    def work(xq: FloatMatrix, k: int, setting: Setting) -> dict[str, Any]:
        cost = index.search_cost(xq, k, **arguments(setting))
        counts = {name: cost.get(name, 0) for name in ("codes", "vectors")}
        return {"centroids": cost.get("outer", 0) + cost.get("inner", 0), **counts}

    return Built(search, index.memory_bytes, faiss.omp_get_max_threads(), note, work)


def faiss_built(index: Any) -> Built:
    """Return a trained and filled faiss index as what can be measured.

    Settings are "nprobe" or "efSearch", and "k_factor" of an ``IndexRefine``.
    """
    refines = isinstance(faiss.downcast_index(index), faiss.IndexRefine)
    base = faiss.downcast_index(index.base_index) if refines else faiss.downcast_index(index)
    transforms = isinstance(base, faiss.IndexPreTransform)

    def search(xq: FloatMatrix, k: int, setting: Setting) -> IdArray:
        if "nprobe" in setting:
            given = faiss.SearchParametersIVF(nprobe=setting["nprobe"])
        else:
            given = faiss.SearchParametersHNSW(efSearch=setting["efSearch"])
        if transforms:
            given = faiss.SearchParametersPreTransform(index_params=given)
        if refines:
            given = faiss.IndexRefineSearchParameters(
                k_factor=setting["k_factor"], base_index_params=given
            )
        return index.search(xq, k, params=given)[1]

    return Built(search, len(faiss.serialize_index(index)), faiss.omp_get_max_threads())


# Other libraries ---------------------------------------------------------------------------


def scann(leaves: int, xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool) -> Built:
    """Build a ScaNN searcher of so many leaves; 0: without a tree."""
    ops = importlib.import_module("scann").scann_ops_pybind
    threads = faiss.omp_get_max_threads()
    builder = ops.builder(xb, 10, "squared_l2").set_n_training_threads(threads)
    if leaves:
        searched = max(1, leaves // 20)
        builder = builder.tree(
            num_leaves=leaves, num_leaves_to_search=searched, training_sample_size=len(xb)
        )
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100)
    searcher = builder.build()
    searcher.set_num_threads(threads)

    def search(xq: FloatMatrix, k: int, setting: Setting) -> IdArray:
        reorder = max(k, setting["reorder"])
        options = {"final_num_neighbors": k, "pre_reorder_num_neighbors": reorder}
        if leaves:
            options["leaves_to_search"] = setting["leaves"]
        if len(xq) == 1:
            return _padded([searcher.search(xq[0], **options)[0]], k)
        return _padded(searcher.search_batched_parallel(xq, **options)[0], k)

    with tempfile.TemporaryDirectory() as folder:
        searcher.serialize(folder)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return Built(search, size, threads)


def hnswlib(m: int, xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool) -> Built:
    """Build a graph of hnswlib with ``m`` links a vector."""
    threads = faiss.omp_get_max_threads()
    index = importlib.import_module("hnswlib").Index("l2", xb.shape[1])
    index.init_index(len(xb), ef_construction=EF_CONSTRUCTION, M=m, random_seed=100 + seed)
    index.set_num_threads(threads)
    index.add_items(xb)

    def search(xq: FloatMatrix, k: int, setting: Setting) -> IdArray:
        index.set_ef(max(k, setting["ef"]))
        return index.knn_query(xq, k)[0].astype(np.int64)

    return Built(search, int(index.index_file_size()), threads)


def usearch(dtype: str | None, xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool) -> Built:
    """Build a graph of usearch over numbers of a type; None: its default."""
    threads = faiss.omp_get_max_threads()
    module = importlib.import_module("usearch.index")
    index = module.Index(ndim=xb.shape[1], metric="l2sq", dtype=dtype)
    index.add(np.arange(len(xb)), xb, threads=threads)

    def search(xq: FloatMatrix, k: int, setting: Setting) -> IdArray:
        index.expansion_search = setting["expansion_search"]
        found = index.search(xq, k, threads=threads).keys
        return _padded(found.reshape(len(xq), -1).astype(np.int64), k)

    return Built(search, int(index.serialized_length), threads)


def symphonyqg(
    degree: int, bits: int, xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool
) -> Built:
    """Build rabitqlib's SymphonyQG of so many links; ``bits`` of a stored component, 0: float32."""
    threads = faiss.omp_get_max_threads()
    index = importlib.import_module("rabitqlib").SymqgIndex(
        xb.shape[1], degree, quantization_bits=bits
    )
    index.build(xb, EF_CONSTRUCTION, num_threads=threads)

    def search(xq: FloatMatrix, k: int, setting: Setting) -> IdArray:
        call = index.search_batch if len(xq) > 1 else index.search
        ids = call(xq, k, max(k, setting["ef"]), num_threads=threads)[0]
        return np.asarray(ids).reshape(len(xq), k).astype(np.int64)

    return Built(search, _saved_bytes(index), threads)


def rabitq_hnsw(
    m: int, bits: int, xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool
) -> Built:
    """Build rabitqlib's HNSW of ``m`` links over codes of ``bits`` a component, of 16 clusters."""
    threads = faiss.omp_get_max_threads()
    index = importlib.import_module("rabitqlib").HnswIndex(
        xb.shape[1], len(xb), m, EF_CONSTRUCTION, bits, random_seed=100 + seed
    )
    means = faiss.Kmeans(xb.shape[1], 16, seed=clustering_seed(seed))
    means.train(xt)
    homes = means.index.search(xb, 1)[1][:, 0].astype(np.uint32)
    index.build(xb, means.centroids, homes, num_threads=threads)

    def search(xq: FloatMatrix, k: int, setting: Setting) -> IdArray:
        ids = index.search(xq, k, max(k, setting["ef"]), num_threads=threads)[0]
        return np.asarray(ids).reshape(len(xq), k).astype(np.int64)

    return Built(search, _saved_bytes(index), threads)


def _saved_bytes(index: Any) -> int:
    """Return the bytes of an index as it saves itself."""
    with tempfile.TemporaryDirectory() as folder:
        index.save(str(Path(folder) / "index"))
        return sum(path.stat().st_size for path in Path(folder).iterdir())


def _padded(ids: Any, k: int) -> IdArray:
    """Return ids (nq, up to k), an array or a list of rows, as (nq, k) int64, -1 where missing."""
    full = np.full((len(ids), k), -1, np.int64)
    if isinstance(ids, list):
        for row, found in zip(full, ids, strict=True):
            row[: len(found)] = found
    else:
        full[:, : ids.shape[1]] = ids
    return full
