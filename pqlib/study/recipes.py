"""What our index is compared with: other libraries as their documents advise, and faiss's parts
put together as well as we could.

Each entry names where its parameters come from. Kind "recipe" is an index as a library's own
documents set it up; only what they leave open (the lists probed, candidates, the length of a
search list) is swept. Kind "composition" is the strongest way that we found to combine parts of
faiss: principal components, inverted lists or a graph, short codes and exact re-ranking from bytes.
``pqlib.study.peers`` measures them; this file only says what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss

from pqlib._types import FloatMatrix
from pqlib.indexes import CascadeIndex, GraphIndex
from pqlib.study.builders import (
    EF_CONSTRUCTION,
    Builder,
    Built,
    Setting,
    clustering_seed,
    faiss_built,
    hnswlib,
    our_built,
    rabitq_hnsw,
    scann,
    setting_text,
    symphonyqg,
    usearch,
)
from pqlib.study.design import full_factorial
from pqlib.tuning import Tuned
from pqlib.tuning.compositions import DEGREES, SHORT_D

__all__ = ["Built", "Rival", "Setting", "faiss_built", "rivals", "setting_text"]


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
RABITQLIB = "https://vectordb-ntu.github.io/RaBitQ-Library/, index/qg.md and index/hnsw.md"
USEARCH = "https://github.com/unum-cloud/usearch/blob/main/README.md"
PARTS = "faiss's parts combined by us, " + FACTORY

PROBES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
"""Lists or leaves searched, as far as there are so many."""
LENGTHS = (10, 12, 14, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)
"""Candidates that the search of a graph keeps."""
LARGE_D = 256
"""Dimension from which on shorter codes, and only part of the principal components, are tried."""
SCANN_WITHOUT_TREE = 100_000
"""Below so many vectors ScaNN's documents advise codes without a partitioning."""


@dataclass(frozen=True)
class Rival:
    """An index to be measured, and where its parameters come from.

    Attributes
    ----------
    name : unique; of faiss the factory string
    library : module that has to be importable
    source : URL or section that the parameters are from
    settings : of the search, to be swept, the cheap ones first
    note : what its documents leave open and how it was decided
    """

    name: str
    kind: str
    library: str
    source: str
    build: Builder
    settings: tuple[Setting, ...]
    note: str = ""


def rivals(n: int, d: int, whole: bool) -> list[Rival]:
    """Return all rivals for ``n`` base vectors of dimension ``d``: recipes, then compositions.

    ``whole`` says that all values are whole numbers 0..255, so that re-ranking from bytes loses
    nothing; otherwise compositions re-rank from float16.
    """
    return [*_faiss_recipes(n, d), *_other_recipes(n), *_compositions(n, d, whole)]


def power_of_two(x: float) -> int:
    """Return the power of two nearest to ``x`` (at least 1) on a logarithmic scale."""
    return 1 << max(0, round(math.log2(max(x, 1.0))))


def divisor(d: int, most: int) -> int:
    """Return the largest divisor of ``d`` that is at most ``most``."""
    return max(m for m in range(1, max(1, most) + 1) if d % m == 0)


# Ours --------------------------------------------------------------------------------------


def cascade_entry(
    n_lists: int,
    components: int,
    settings: Iterable[tuple[int, int, float | None]],
    name: str = "CascadeIndex",
    rotation: str | None = "pca",
) -> Rival:
    """Return ``CascadeIndex`` as an entry of kind "ours".

    ``settings`` are (nprobe, candidates, margin) of each search.
    """

    def build(xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool) -> Built:
        store = "uint8" if whole else "float32"
        index = CascadeIndex(xb.shape[1], n_lists, components, rotation, store, seed=seed)
        index.train(xt).add(xb)
        index.search(xb[:1], 1, 1)  # puts the lists in order, which is part of building
        return our_built(index)

    names = ("nprobe", "candidates", "margin")
    swept = tuple(dict(zip(names, setting, strict=True)) for setting in settings)
    note = f"n_lists={n_lists}, components={components}, rotation={rotation}"
    return Rival(name, "ours", "pqlib", "pqlib/indexes/cascade.py", build, swept, note)


def tuned_entry(tuned: Tuned, name: str) -> Rival:
    """Return what ``pqlib.tune`` chose as an entry of kind "ours", with the settings it found.

    Raises ValueError when it chose exact search, which has no settings.
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


def graph_entry(
    components: int,
    settings: Iterable[tuple[int, int]],
    name: str = "GraphIndex",
    rotation: str | None = "pca",
    degree: int = DEGREES[1],
) -> Rival:
    """Return ``GraphIndex`` as an entry of kind "ours"; ``settings`` are (ef, candidates)."""

    def build(xb: FloatMatrix, xt: FloatMatrix, seed: int, whole: bool) -> Built:
        store = "uint8" if whole else "float32"
        coded = components if rotation else None
        index = GraphIndex(xb.shape[1], degree, coded, rotation, store, seed=seed)
        index.train(xt).add(xb)
        return our_built(index)  # its memory is counted, which builds the graph first

    swept = tuple({"ef": ef, "candidates": kept} for ef, kept in settings)
    note = f"degree={degree}, components={components}, rotation={rotation}"
    return Rival(name, "ours", "pqlib", "pqlib/indexes/graph.py", build, swept, note)


def default_graphs(d: int, whole: bool) -> list[Rival]:
    """Return graphs with sizes by rule, of few components and of more.

    Short vectors of whole numbers are their own codes; the graph has fewer edges then, so that both
    together are as small.
    """
    if whole and d <= SHORT_D:
        settings = [(ef, min(ef, 12)) for ef in LENGTHS]
        return [graph_entry(d, settings, "GraphIndex, whole vectors", None, DEGREES[0])]
    settings = [(ef, kept) for ef in LENGTHS for kept in (12, 15, 20, 30, 40) if kept <= ef]
    return [
        graph_entry(components, settings, f"GraphIndex, {components} components")
        for components in sorted({min(d, 128), min(d, 192)})
    ]


# Recipes -----------------------------------------------------------------------------------


def _faiss_recipes(n: int, d: int) -> list[Rival]:
    lists = power_of_two(4 * math.sqrt(n))
    half, eighth = divisor(d, d // 2), divisor(d, min(64, d // 8))
    # Tables of residuals are made anew for each list: codes so long take seconds where d is large.
    short = divisor(d, d // 8) if d >= LARGE_D else half
    k_note = f"K={lists}: the power of two nearest to 4*sqrt(n)"
    m_note = f"{k_note}; M, which the page leaves open, is d/{{}}".format
    turned, turned_note = f"RR{d},IVF{lists}", f"{k_note}; rotated, as the codes ask for"
    scanned = f"{GUIDELINES}; {FAST_SCAN}"
    few, more = (2, 4, 8), (4, 8, 16, 32)
    ivf = [
        (f"IVF{lists},Flat", (), GUIDELINES, k_note),
        (f"IVF{lists},PQ{half}x4fs,RFlat", few, scanned, m_note(d // half)),
        (f"IVF{lists},PQ{short}x4fs,RFlat", more, scanned, m_note(8)),
        (f"IVF{lists},PQ{short}x4fsr,RFlat", few, scanned, m_note(d // short)),
        (f"IVF{lists},PQ{eighth}np,RFlat", few, FACTORY, f"{k_note}; M=d/8, at most 64"),
        (f"IVF{lists},SQ8", (), GUIDELINES, k_note),
        (f"{turned},RaBitQ,RFlat", more, RABITQ, turned_note),
        (f"{turned},RaBitQfs,RFlat", more, RABITQ, turned_note),
    ]
    if short == half:
        del ivf[2]
    graph = _faiss(
        "HNSW32,Flat", "recipe", GUIDELINES, _graph(()), "efConstruction as faiss sets it"
    )
    return [graph] + [
        _faiss(factory, "recipe", source, _probing(lists, factors), note)
        for factory, factors, source, note in ivf
    ]


def _other_recipes(n: int) -> list[Rival]:
    leaves = max(1, round(math.sqrt(n)))
    tree = _grid(leaves=_up_to(leaves), reorder=(20, 40, 100, 200))
    flat = _grid(reorder=(15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500))
    ef, expansion = _grid(ef=LENGTHS), _grid(expansion_search=LENGTHS)
    of_tree = (
        "num_leaves=sqrt(n), dimensions_per_block=2, anisotropic_quantization_threshold=0.2 "
        "as in its examples; as saved, a code of 4 bits takes a byte"
    )
    of_flat = "what its documents advise below 100,000 vectors; parameters as with the tree"
    of_graph = f"M={{}} of the advised 12..48, ef_construction={EF_CONSTRUCTION}"
    as_set = "connectivity and expansion_add as it sets them, its default number type"
    of_quantized = f"max_degree=32 as in its examples, ef_construction={EF_CONSTRUCTION}, float32"
    of_codes = f"M=16, ef_construction={EF_CONSTRUCTION}, 16 clusters, codes of 5 bits"
    of_floats = "connectivity and expansion_add as it sets them, float32"
    entries = [
        (f"ScaNN tree {leaves}, AH, reorder", SCANN, partial(scann, leaves), tree, of_tree),
        ("ScaNN AH, reorder", SCANN, partial(scann, 0), flat, of_flat),
        ("hnswlib M16", HNSWLIB, partial(hnswlib, 16), ef, of_graph.format(16)),
        ("hnswlib M24", HNSWLIB, partial(hnswlib, 24), ef, of_graph.format(24)),
        ("rabitqlib SymphonyQG", RABITQLIB, partial(symphonyqg, 32, 0), ef, of_quantized),
        ("rabitqlib HNSW", RABITQLIB, partial(rabitq_hnsw, 16, 5), ef, of_codes),
        ("usearch", USEARCH, partial(usearch, None), expansion, as_set),
        ("usearch f32", USEARCH, partial(usearch, "f32"), expansion, of_floats),
    ]
    if n >= SCANN_WITHOUT_TREE:
        del entries[1]
    return [
        Rival(name, "recipe", name.split()[0].lower(), source, build, settings, note)
        for name, source, build, settings, note in entries
    ]


# Compositions ------------------------------------------------------------------------------


def _compositions(n: int, d: int, whole: bool) -> list[Rival]:
    refine = "Refine(SQ8_direct)" if whole else "Refine(SQfp16)"
    lists = power_of_two(math.sqrt(n))
    # Fewer components than d where there are many, all of them as well where there are few.
    widths = (64, 96) if d >= LARGE_D else tuple(sorted({min(64, d), d}))
    few, fine = (2, 3, 4, 8), (1.5, 2.5, 4, 8)
    parts: list[tuple[str, tuple[Setting, ...], str, bool | None]] = []
    for p in widths:
        pca, codes = f"PCA{p}," if p < d else "", f"PQ{p}x4fs"
        once, twice = f"{pca}IVF{lists}", f"{pca}IVF{2 * lists}"
        parts += [
            (f"{once},{codes}", _probing(lists, few), OF_VECTORS, None),
            (f"{once},{codes}r", _probing(lists, few), "codes of residuals", None),
            (f"{twice},{codes}", _probing(2 * lists, few), OF_VECTORS, None),
            (f"{once},SQ8", _probing(lists, fine), OF_VECTORS, False),
            (f"{twice},SQ8", _probing(2 * lists, fine), OF_VECTORS, False),
        ]
        note = f"efConstruction={EF_CONSTRUCTION}"
        for graph in ("HNSW16", "HNSW24", "HNSW24_SQ8"):
            parts.append((f"{pca}{graph}", _graph((1.5, 2.5, 4)), note, None))
    return [
        _faiss(f"{name},{refine}", "composition", PARTS, settings, note, by_residual)
        for name, settings, note, by_residual in parts
    ]


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
        prepare(index, seed, by_residual, EF_CONSTRUCTION if kind == "composition" else None)
        index.train(xt)
        index.add(xb)
        return faiss_built(index)

    return Rival(factory, kind, "faiss", source, build, settings, note)


def prepare(
    index: Any, seed: int, by_residual: bool | None = None, ef_construction: int | None = None
) -> None:
    """Set what a factory string cannot say in the index inside of ``index``; None: as it is."""
    inner = faiss.downcast_index(index)
    while isinstance(inner, faiss.IndexRefine | faiss.IndexPreTransform):
        within = inner.base_index if isinstance(inner, faiss.IndexRefine) else inner.index
        inner = faiss.downcast_index(within)
    if isinstance(inner, faiss.IndexHNSW) and ef_construction is not None:
        inner.hnsw.efConstruction = ef_construction
    if isinstance(inner, faiss.IndexIVF):
        inner.cp.seed = clustering_seed(seed)
        if by_residual is not None:
            inner.by_residual = by_residual


# Settings ----------------------------------------------------------------------------------


def _up_to(most: int) -> list[int]:
    """Return ``PROBES`` up to ``most`` lists, and all of them where these are few."""
    few = [most] if most < PROBES[-1] and most not in PROBES else []
    return [p for p in PROBES if p <= most] + few


def _grid(**values: Sequence[float]) -> tuple[Setting, ...]:
    """Return all combinations of the values of search parameters, those without values left out."""
    return tuple(full_factorial({name: each for name, each in values.items() if len(each)}))


def _probing(lists: int, factors: Sequence[float]) -> tuple[Setting, ...]:
    """Return settings of inverted lists, with each factor of candidates where there are any."""
    return _grid(nprobe=_up_to(lists), k_factor=factors)


def _graph(factors: Sequence[float]) -> tuple[Setting, ...]:
    """Return settings of a graph, with each factor of candidates where there are any."""
    return _grid(efSearch=LENGTHS, k_factor=factors)
