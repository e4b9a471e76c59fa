"""What our index is compared with: other libraries as their documents advise, and faiss's parts
put together as well as we could.

Each entry names where its parameters come from. Kind "recipe" is an index as a library's own
documents set it up; only what they leave open (the lists probed, candidates, the length of a
search list) is swept. Kind "composition" is the strongest way that we found to combine parts of
faiss: principal components, inverted lists or a graph, short codes and exact re-ranking from bytes.
``pqlib.study.peers`` measures them; this file only says what they are.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib.indexes import CascadeIndex, SearchSettings
from pqlib.tuning.search import Tuned

FloatMatrix = NDArray[np.float32]
IdArray = NDArray[np.int64]
Setting = Mapping[str, Any]
"""Search parameters by name; a larger value, and None, means a more thorough search."""

KINDS = ("ours", "recipe", "composition")

GUIDELINES = "https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index"
FACTORY = "https://github.com/facebookresearch/faiss/wiki/The-index-factory"
FAST_SCAN = (
    "https://github.com/facebookresearch/faiss/wiki/Fast-accumulation-of-PQ-and-AQ-codes-(FastScan)"
)
RABITQ = "https://github.com/facebookresearch/faiss/pull/4235, description"
SCANN = (
    "https://github.com/google-research/google-research/blob/master/scann/docs/algorithms.md, "
    "Rules-of-thumb"
)
HNSWLIB = "https://github.com/nmslib/hnswlib/blob/master/README.md, ALGO_PARAMS.md"
USEARCH = "https://github.com/unum-cloud/usearch/blob/main/README.md"
PARTS = "faiss's parts combined by us, " + FACTORY

PROBES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
"""Lists or leaves searched, as far as there are so many."""
LENGTHS = (10, 12, 14, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)
"""Candidates that the search of a graph keeps."""
EF_CONSTRUCTION = 200
"""Of hnswlib's README; for the graphs of our compositions as well, whose default in faiss is 40."""
LARGE_D = 256
"""Dimension from which on shorter codes, and only part of the principal components, are tried."""
SCANN_WITHOUT_TREE = 100_000
"""Below so many vectors ScaNN's documents advise codes without a partitioning."""


@dataclass(frozen=True)
class Built:
    """An index that is ready to be searched.

    Attributes
    ----------
    search : ``search(xq, k, setting)`` returns ids (nq, k) int64 of xq (nq, d) float32, -1 where
        fewer are found; nq = 1 goes the library's way for a single query
    bytes : all that the index holds, saved
    threads : that a search of several queries uses
    note : what is to be known about it
    """

    search: Callable[[FloatMatrix, int, Setting], IdArray]
    bytes: int
    threads: int
    note: str = ""


@dataclass(frozen=True)
class Rival:
    """An index to be measured, and where its parameters come from.

    Attributes
    ----------
    name : unique; of faiss the factory string
    kind : one of ``KINDS``
    library : module that has to be importable
    source : URL or section that the parameters are from
    build : ``build(xb, xt, seed, whole)`` trains on xt (n_t, d), adds xb (n, d), both float32,
        and returns a ``Built``; whole: all values are whole numbers 0..255
    settings : of the search, to be swept, the cheap ones first
    note : what its documents leave open and how it was decided
    """

    name: str
    kind: str
    library: str
    source: str
    build: Callable[[FloatMatrix, FloatMatrix, int, bool], Built]
    settings: tuple[Setting, ...]
    note: str = ""


def setting_text(setting: Setting) -> str:
    """Return search parameters as text, such as "nprobe=8 k_factor=4"."""
    return " ".join(f"{name}={value}" for name, value in setting.items())


def rivals(n: int, d: int, whole: bool) -> list[Rival]:
    """Return all rivals for ``n`` base vectors of dimension ``d``: recipes, then compositions.

    Parameters
    ----------
    n, d : of the base
    whole : all values are whole numbers 0..255, so that re-ranking from bytes loses nothing;
        otherwise compositions re-rank from float16
    """
    return [*_faiss_recipes(n, d), *_other_recipes(n), *_compositions(n, d, whole)]


def power_of_two(x: float) -> int:
    """Return the power of two nearest to ``x`` (at least 1) on a logarithmic scale."""
    return 1 << max(0, round(math.log2(max(x, 1.0))))


# Ours --------------------------------------------------------------------------------------


def cascade_entry(
    n_lists: int,
    components: int,
    settings: Iterable[tuple[int, int, float | None]],
    name: str = "CascadeIndex",
    rotation: str | None = "pca",
) -> Rival:
    """Return ``CascadeIndex`` as an entry of kind "ours".

    Parameters
    ----------
    n_lists, components : of the index
    settings : (nprobe, candidates, margin) of each search
    name : of the entry
    rotation : of the index
    """

    def build(xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool) -> Built:
        store = "uint8" if whole else "float32"
        index = CascadeIndex(xb.shape[1], n_lists, components, rotation, store, seed=seed)
        index.train(xt).add(xb)
        index.search(xb[:1], 1, 1)  # puts the lists in order, which is part of building

        def search(xq: FloatMatrix, k: int, setting: Setting) -> IdArray:
            return index.search(xq, k, **SearchSettings(**setting).arguments())[1]

        return Built(search, index.memory_bytes, faiss.omp_get_max_threads())

    swept = tuple(
        {"nprobe": nprobe, "candidates": candidates, "margin": margin}
        for nprobe, candidates, margin in settings
    )
    note = f"n_lists={n_lists}, components={components}, rotation={rotation}"
    return Rival(name, "ours", "pqlib", "pqlib/indexes/cascade.py", build, swept, note)


def tuned_entry(tuned: Tuned, name: str) -> Rival:
    """Return what ``pqlib.tune`` chose as an entry of kind "ours", with the settings it found.

    Raises
    ------
    ValueError
        When it chose exact search, which has no settings.
    """
    chosen = tuned.composition
    if chosen.n_lists is None:
        raise ValueError("tune chose exact search: expected an index with lists.")
    settings = [
        (int(row.nprobe), int(row.candidates), None if math.isnan(row.margin) else row.margin)
        for row in tuned.curve.itertuples()
    ]
    return cascade_entry(chosen.n_lists, chosen.components, settings, name, chosen.rotation)


def default_cascade(n: int, d: int) -> Rival:
    """Return ``cascade_entry`` with sizes by rule: about sqrt(n) lists, at most 64 components."""
    n_lists = power_of_two(math.sqrt(n))
    settings = [(p, c, None) for p in _up_to(n_lists) for c in (15, 20, 30, 50, 80, 120)]
    return cascade_entry(n_lists, min(64, d), settings)


# Recipes -----------------------------------------------------------------------------------


def _faiss_recipes(n: int, d: int) -> list[Rival]:
    lists = power_of_two(4 * math.sqrt(n))
    half, eighth = _divisor(d, d // 2), _divisor(d, min(64, d // 8))
    # Tables of residuals are made anew for each list: codes so long take seconds where d is large.
    short = _divisor(d, d // 8) if d >= LARGE_D else half
    k_note = f"K={lists}: the power of two nearest to 4*sqrt(n)"
    m_note = f"{k_note}; M, which the page leaves open, is d/{{}}".format
    exact, few, more = (), (2, 4, 8), (4, 8, 16, 32)
    turned = f"RR{d},IVF{lists}"
    ivf = [
        (f"IVF{lists},Flat", exact, GUIDELINES, k_note),
        (f"IVF{lists},PQ{half}x4fs,RFlat", few, f"{GUIDELINES}; {FAST_SCAN}", m_note(d // half)),
        *(
            [(f"IVF{lists},PQ{short}x4fs,RFlat", more, f"{GUIDELINES}; {FAST_SCAN}", m_note(8))]
            if short != half
            else []
        ),
        (f"IVF{lists},PQ{short}x4fsr,RFlat", few, f"{GUIDELINES}; {FAST_SCAN}", m_note(d // short)),
        (f"IVF{lists},PQ{eighth}np,RFlat", few, FACTORY, f"{k_note}; M=d/8, at most 64"),
        (f"IVF{lists},SQ8", exact, GUIDELINES, k_note),
        (f"{turned},RaBitQ,RFlat", more, RABITQ, f"{k_note}; rotated, as the codes ask for"),
        (f"{turned},RaBitQfs,RFlat", more, RABITQ, f"{k_note}; rotated, as the codes ask for"),
    ]
    return [
        _faiss("HNSW32,Flat", "recipe", GUIDELINES, _graph(()), "efConstruction as faiss sets it"),
        *(
            _faiss(factory, "recipe", source, _probing(lists, factors), note)
            for factory, factors, source, note in ivf
        ),
    ]


def _other_recipes(n: int) -> list[Rival]:
    leaves = max(1, round(math.sqrt(n)))
    reorder = (20, 40, 100, 200)
    tree = tuple({"leaves": p, "reorder": r} for p in _up_to(leaves) for r in reorder)
    flat = tuple({"reorder": r} for r in (15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500))
    found = [
        Rival(
            f"ScaNN tree {leaves}, AH, reorder",
            "recipe",
            "scann",
            SCANN,
            _scann(leaves),
            tree,
            "num_leaves=sqrt(n), dimensions_per_block=2, anisotropic_quantization_threshold=0.2 "
            "as in its examples; as saved, a code of 4 bits takes a byte",
        )
    ]
    if n < SCANN_WITHOUT_TREE:
        note = "what its documents advise below 100,000 vectors; parameters as with the tree"
        found.append(Rival("ScaNN AH, reorder", "recipe", "scann", SCANN, _scann(0), flat, note))
    for m in (16, 24):
        note = f"M={m} of the advised 12..48, ef_construction={EF_CONSTRUCTION}"
        settings = tuple({"ef": ef} for ef in LENGTHS)
        found.append(
            Rival(f"hnswlib M{m}", "recipe", "hnswlib", HNSWLIB, _hnswlib(m), settings, note)
        )
    for dtype, words in ((None, "its default number type"), ("f32", "float32")):
        settings = tuple({"expansion_search": ef} for ef in LENGTHS)
        name = "usearch" if dtype is None else f"usearch {dtype}"
        note = f"connectivity and expansion_add as it sets them, {words}"
        found.append(Rival(name, "recipe", "usearch", USEARCH, _usearch(dtype), settings, note))
    return found


# Compositions ------------------------------------------------------------------------------


def _compositions(n: int, d: int, whole: bool) -> list[Rival]:
    refine = "Refine(SQ8_direct)" if whole else "Refine(SQfp16)"
    lists = power_of_two(math.sqrt(n))
    # Fewer components than d where there are many, all of them as well where there are few.
    widths = (64, 96) if d >= LARGE_D else tuple(sorted({min(64, d), d}))
    found = []
    for p in widths:
        pca = f"PCA{p}," if p < d else ""
        for k in (lists, 2 * lists):
            codes = f"{pca}IVF{k},PQ{p}x4fs"
            settings = _probing(k, (2, 3, 4, 8))
            found.append(_faiss(f"{codes},{refine}", "composition", PARTS, settings, OF_VECTORS))
            if k == lists:
                note = "codes of residuals"
                found.append(_faiss(f"{codes}r,{refine}", "composition", PARTS, settings, note))
        for k in (lists, 2 * lists):
            settings = _probing(k, (1.5, 2.5, 4, 8))
            found.append(
                _faiss(
                    f"{pca}IVF{k},SQ8,{refine}", "composition", PARTS, settings, OF_VECTORS, False
                )
            )
        note = f"efConstruction={EF_CONSTRUCTION}"
        for graph in ("HNSW16", "HNSW24", "HNSW24_SQ8"):
            found.append(
                _faiss(f"{pca}{graph},{refine}", "composition", PARTS, _graph((1.5, 2.5, 4)), note)
            )
    return found


OF_VECTORS = "codes of the vectors, not of residuals (by_residual=False)"


# faiss -------------------------------------------------------------------------------------


def _faiss(
    factory: str,
    kind: str,
    source: str,
    settings: tuple[Setting, ...],
    note: str,
    by_residual: bool | None = None,
) -> Rival:
    """Return an entry for a factory string; by_residual None: as the factory has it."""

    def build(xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool) -> Built:
        index = faiss.index_factory(xb.shape[1], factory)
        # A recipe says M and leaves the rest to faiss.
        _prepare(index, seed, by_residual, EF_CONSTRUCTION if kind == "composition" else None)
        index.train(xt)
        index.add(xb)
        return faiss_built(index)

    return Rival(factory, kind, "faiss", source, build, settings, note)


def faiss_built(index: Any) -> Built:
    """Return a trained and filled faiss index as what can be measured.

    It understands the settings "nprobe" or "efSearch", and "k_factor" when it is an
    ``IndexRefine``.
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


def _prepare(index: Any, seed: int, by_residual: bool | None, ef_construction: int | None) -> None:
    """Set what a factory string cannot say in the index inside of ``index``."""
    inner = faiss.downcast_index(index)
    while isinstance(inner, faiss.IndexRefine | faiss.IndexPreTransform):
        within = inner.base_index if isinstance(inner, faiss.IndexRefine) else inner.index
        inner = faiss.downcast_index(within)
    if isinstance(inner, faiss.IndexHNSW) and ef_construction is not None:
        inner.hnsw.efConstruction = ef_construction
    if isinstance(inner, faiss.IndexIVF):
        inner.cp.seed = 1234 + seed  # faiss's own for seed 0
        if by_residual is not None:
            inner.by_residual = by_residual


# Other libraries ---------------------------------------------------------------------------


def _scann(leaves: int) -> Callable[[FloatMatrix, FloatMatrix, int, bool], Built]:
    """Return the builder of a ScaNN searcher of so many leaves; 0: without a tree."""

    def build(xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool) -> Built:
        ops = importlib.import_module("scann").scann_ops_pybind
        threads = faiss.omp_get_max_threads()
        builder = ops.builder(xb, 10, "squared_l2").set_n_training_threads(threads)
        if leaves:
            builder = builder.tree(
                num_leaves=leaves,
                num_leaves_to_search=max(1, leaves // 20),
                training_sample_size=len(xb),
            )
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100)
        searcher = builder.build()
        searcher.set_num_threads(threads)

        def search(xq: FloatMatrix, k: int, setting: Setting) -> IdArray:
            options = {
                "final_num_neighbors": k,
                "pre_reorder_num_neighbors": max(k, setting["reorder"]),
            }
            if leaves:
                options["leaves_to_search"] = setting["leaves"]
            if len(xq) == 1:
                return _padded([searcher.search(xq[0], **options)[0]], k)
            return _padded(searcher.search_batched_parallel(xq, **options)[0], k)

        with tempfile.TemporaryDirectory() as folder:
            searcher.serialize(folder)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        return Built(search, size, threads)

    return build


def _hnswlib(m: int) -> Callable[[FloatMatrix, FloatMatrix, int, bool], Built]:
    def build(xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool) -> Built:
        hnswlib = importlib.import_module("hnswlib")
        threads = faiss.omp_get_max_threads()
        index = hnswlib.Index("l2", xb.shape[1])
        index.init_index(len(xb), ef_construction=EF_CONSTRUCTION, M=m, random_seed=100 + seed)
        index.set_num_threads(threads)
        index.add_items(xb)

        def search(xq: FloatMatrix, k: int, setting: Setting) -> IdArray:
            index.set_ef(max(k, setting["ef"]))
            return index.knn_query(xq, k)[0].astype(np.int64)

        return Built(search, int(index.index_file_size()), threads)

    return build


def _usearch(dtype: str | None) -> Callable[[FloatMatrix, FloatMatrix, int, bool], Built]:
    def build(xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool) -> Built:
        usearch = importlib.import_module("usearch.index")
        threads = faiss.omp_get_max_threads()
        index = usearch.Index(ndim=xb.shape[1], metric="l2sq", dtype=dtype)
        index.add(np.arange(len(xb)), xb, threads=threads)

        def search(xq: FloatMatrix, k: int, setting: Setting) -> IdArray:
            index.expansion_search = setting["expansion_search"]
            found = index.search(xq, k, threads=threads).keys
            return _padded(found.reshape(len(xq), -1).astype(np.int64), k)

        return Built(search, int(index.serialized_length), threads)

    return build


def _padded(ids: Any, k: int) -> IdArray:
    """Return ids (nq, up to k) as (nq, k) int64, with -1 where there are fewer."""
    full = np.full((len(ids), k), -1, np.int64)
    for row, found in zip(full, ids, strict=True) if isinstance(ids, list) else ():
        row[: len(found)] = found
    if not isinstance(ids, list):
        full[:, : ids.shape[1]] = ids
    return full


# Settings ----------------------------------------------------------------------------------


def _up_to(most: int) -> list[int]:
    """Return ``PROBES`` up to ``most`` lists, and all of them where these are few."""
    few = [most] if most < PROBES[-1] and most not in PROBES else []
    return [p for p in PROBES if p <= most] + few


def _probing(lists: int, factors: Sequence[float]) -> tuple[Setting, ...]:
    """Return settings of inverted lists, with each factor of candidates where there are any."""
    if not factors:
        return tuple({"nprobe": p} for p in _up_to(lists))
    return tuple({"nprobe": p, "k_factor": f} for p in _up_to(lists) for f in factors)


def _graph(factors: Sequence[float]) -> tuple[Setting, ...]:
    if not factors:
        return tuple({"efSearch": ef} for ef in LENGTHS)
    return tuple({"efSearch": ef, "k_factor": f} for ef in LENGTHS for f in factors)


def _divisor(d: int, most: int) -> int:
    """Return the largest divisor of ``d`` that is at most ``most``."""
    return max(m for m in range(1, max(1, most) + 1) if d % m == 0)
