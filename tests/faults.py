"""Broken and hostile files: valid ones of every format, and ways to spoil them.

Used by ``test_hostile.py`` for a few, and by ``scripts/stress`` for many.
"""

from __future__ import annotations

import functools
import json
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import pqlib
from pqlib import _file, quantizers
from pqlib.datasets import truth
from pqlib.study import sweep

D = 8
SECONDS = 5.0
"""Longest that opening a file may take."""

SPARE_BYTES = 400 << 20
"""Memory beyond what a process already has that opening a file of some KB may ask for."""

INTERESTING = (0, 1, -1, 127, -128, 255, 2**15, 2**16, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, -2)


# Valid files -------------------------------------------------------------------------------


def vectors(n: int, seed: int = 0) -> np.ndarray:
    """Whole numbers 0..255 as float32, (n, D)."""
    return np.random.default_rng(seed).integers(0, 256, (n, D)).astype(np.float32)


def write_hdf5(path: Path, **how: Any) -> None:
    """Write a data set with its ground truth; ``how`` goes to h5py, such as compression."""
    base, queries = vectors(300), vectors(20, 1)
    neighbors, distances = truth.exact_neighbors(base, queries, 100, progress=False)
    parts = {"train": base, "test": queries, "neighbors": neighbors, "distances": distances}
    with h5py.File(path, "w") as file:
        for name, part in parts.items():
            if "chunks" in how:
                how["chunks"] = tuple(np.minimum(how["chunks"], part.shape).tolist())
            file.create_dataset(name, data=part, **how)
        file.attrs["distance"] = "euclidean"


def plain(ending: str) -> bytes:
    """The bytes of a plain file of vectors."""
    x = vectors(60)
    if ending == ".npy":
        import io

        buffer = io.BytesIO()
        np.save(buffer, x)
        return buffer.getvalue()
    kind = "<f4" if ending in (".fvecs", ".fbin") else "u1"
    if ending in (".fbin", ".u8bin", ".i8bin"):
        return struct.pack("<II", *x.shape) + x.astype(kind).tobytes()
    return b"".join(struct.pack("<i", D) + row.astype(kind).tobytes() for row in x)


@functools.cache
def indexes() -> dict[str, pqlib.indexes.Index]:
    """A small index of every kind, filled."""
    x = vectors(400)
    lists = dict(n_inner=6, n_outer=2)
    made = {
        "BruteForce": pqlib.BruteForce(D),
        "KMeansIndex": pqlib.KMeansIndex(D, **lists),
        "shared": pqlib.MultiLevelPQ(D, m=4, nbits=4, codebooks="shared", rerank="uint8", **lists),
        "per-cluster": pqlib.MultiLevelPQ(D, m=2, nbits=5, rerank="float32", **lists),
        "codec": pqlib.MultiLevelPQ(
            D, codec=quantizers.ResidualQuantizer(D, 2, 4), codebooks="per-cluster", **lists
        ),
        "CascadeIndex": pqlib.CascadeIndex(D, n_lists=5),
        "CascadeIndex, floats": pqlib.CascadeIndex(D, n_lists=5, rerank="float32", components=4),
        "GraphIndex": pqlib.GraphIndex(D, 6, ef_construction=10),
        "GraphIndex, whole": pqlib.GraphIndex(D, 6, rotation=None, ef_construction=10),
    }
    for name, index in made.items():
        index.train(x).add(x, ids=None if name == "shared" else np.arange(400)[::-1] * 7)
    return made


@functools.cache
def family() -> dict[str, quantizers.Quantizer]:
    """A small trained quantizer of every kind."""
    q = quantizers
    made = [
        q.ProductQuantizer(D, 4, 4),
        q.OptimizedProductQuantizer(D, 4, 4, iterations=2),
        q.LocallyOptimizedPQ(D, 4, 4, n_clusters=3),
        q.ResidualQuantizer(D, 2, 4),
        q.LocalSearchQuantizer(D, 2, 4, iterations=4),
        q.ProductResidualQuantizer(D, 4, 4),
        q.ProductLocalSearchQuantizer(D, 4, 4, iterations=4),
        q.CompositeQuantizer(D, 2, 4, iterations=2),
        q.AnisotropicProductQuantizer(D, 4, 4),
        q.ScalarQuantizer(D, 8),
        q.RaBitQuantizer(D),
    ]
    return {type(one).__name__: one.train(vectors(400)) for one in made}


# Opening them, and using what opened -------------------------------------------------------


def use_dataset(path: Path) -> object:
    """Load a data set; what loads must be whole."""
    ds = pqlib.load_dataset(path, progress=False)
    assert np.isfinite(ds.train).all()
    assert np.isfinite(ds.test).all()
    assert ds.neighbors.min() >= 0
    assert ds.neighbors.max() < ds.n
    return ds


def use_index(path: Path) -> object:
    """Load an index, read and mapped, and search it."""
    for mmap in (False, True):
        index = pqlib.load_index(path, mmap=mmap)
        if index.ntotal:
            how = {"nprobe": 3} if hasattr(index, "clustering") else {}
            k = min(5, index.ntotal)
            for count in (1, 25):
                found = index.search(np.full((count, index.d), 3, np.float32), k, **how)[1]
                assert found.shape == (count, k)
        index.memory()
    return index


def use_quantizer(path: Path) -> object:
    """Load a quantizer, encode and decode with it."""
    loaded = quantizers.load_quantizer(path)
    codes = loaded.encode(np.full((3, loaded.d), 3, np.float32))
    loaded.decode(codes)
    assert codes.shape == (3, loaded.code_bytes)
    return loaded


SWEEP_POINTS = [{"m": m, "mode": mode} for mode in ("a", "b") for m in range(6)]


def measure(m: int, mode: str) -> dict[str, float]:
    """What a point of the sweep gives."""
    return {"recall": m / 7, "qps": 3.0 * m}


def use_sweep(path: Path) -> object:
    """Finish a sweep whose store was spoilt; its table is right whatever was in the file."""
    table = sweep(SWEEP_POINTS, measure, "a sweep", path.parent, {"seed": 0})
    assert table.equals(sweep(SWEEP_POINTS, measure))
    return table


def use_truth(path: Path) -> object:
    """Ask for neighbours that a spoilt cache file holds; they are right whatever it says."""
    base, queries = vectors(300), vectors(20, 1)
    found = truth.cached_neighbors(base, queries, path.parent, path.stem, progress=False)
    assert all(
        np.array_equal(one, other)
        for one, other in zip(
            found, truth.exact_neighbors(base, queries, progress=False), strict=True
        )
    )
    return found


# Spoiling them -----------------------------------------------------------------------------


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a spoilt copy: bits, numbers, pieces cut out, doubled, moved, or cut off."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4, 16]))):
        if not data:
            break
        # Headers are short and decide most.
        span = len(data) if rng.random() < 0.5 else min(len(data), 256)
        at = int(rng.integers(span))
        match int(rng.integers(8)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.integers(256))
            case 2:
                width = int(rng.choice([2, 4, 8]))
                value = int(rng.choice(INTERESTING)) & ((1 << 8 * width) - 1)
                at -= at % width
                data[at : at + width] = value.to_bytes(width, "little")
            case 3:
                del data[at:]
            case 4:
                del data[at : at + int(rng.integers(1, 64))]
            case 5:
                piece = data[at : at + int(rng.integers(1, 64))]
                data[at:at] = piece
            case 6:
                data[at : at + int(rng.integers(1, 64))] = bytes(
                    rng.integers(0, 256, int(rng.integers(1, 64)), dtype=np.uint8)
                )
            case 7:
                data += bytes(int(rng.integers(1, 64)))
    return bytes(data)


def forged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return an index file whose header or sections are spoilt and whose checksums are right."""
    header, data = apart(content)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        if rng.random() < 0.5:
            _spoil_header(header, rng)
        elif data:
            at = int(rng.integers(len(data)))
            value = int(rng.choice(INTERESTING)) & (2**64 - 1)
            width = int(rng.choice([1, 4, 8]))
            at -= at % width
            data[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return assembled(header, data)


def apart(content: bytes) -> tuple[dict, bytearray]:
    """Return the header of an index file, its parameters decoded, and the bytes of its sections."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"]["parameters"] = json.loads(header["__metadata__"]["parameters"])
    return header, bytearray(content[end:])


def assembled(header: dict, data: bytes) -> bytes:
    """Return the index file of a header and its sections' bytes, with checksums that fit."""
    metadata = {"version": _file.VERSION, **header.get("__metadata__", {}), "crc32": _file.NO_CRC}
    metadata["parameters"] = json.dumps(metadata.get("parameters", {}))
    sections = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for name, entry in sections.items():
        begin, end = entry["data_offsets"]
        metadata[f"crc32 {name}"] = f"{zlib.crc32(bytes(data[begin:end])):08x}"
    content = {"__metadata__": metadata, **sections}
    metadata["crc32"] = f"{zlib.crc32(json.dumps(content).encode()):08x}"
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


WORDS = (None, True, -1, 0, 1, 3, 7, 2**31, 2**62, 10**30, 0.5, float("nan"), "", "x", [], {}, "O")
DTYPES = ("F32", "F64", "I32", "I64", "U8", "O", "BF16", "F4", "U16", "F16", "BOOL", "C64", 7, None)


def _spoil_header(header: dict, rng: np.random.Generator) -> None:
    """Change something in a header: a parameter, a section, a key."""
    choice = int(rng.integers(6))
    parameters = header["__metadata__"]["parameters"]
    names = [name for name in header if name != "__metadata__"]
    if choice == 0 and parameters:
        name = str(rng.choice(list(parameters)))
        old = parameters[name]
        new = WORDS[int(rng.integers(len(WORDS)))]
        if isinstance(old, dict) and old and rng.random() < 0.8:
            old[str(rng.choice(list(old)))] = new
        else:
            parameters[name] = new
    elif choice == 1 and parameters:
        del parameters[str(rng.choice(list(parameters)))]
    elif choice == 2:
        header["__metadata__"]["kind"] = ["MultiLevelPQ", "KMeansIndex", "os.system", 3][
            int(rng.integers(4))
        ]
    elif names:
        name = str(rng.choice(names))
        section = header[name]
        if choice == 3:
            section["dtype"] = DTYPES[int(rng.integers(len(DTYPES)))]
        elif choice == 4:
            value = int(rng.choice(INTERESTING))
            place = section["shape"] if rng.random() < 0.7 else section["data_offsets"]
            if place:
                place[int(rng.integers(len(place)))] = value
        else:
            header[str(rng.choice(["x", *names]))] = header.pop(name)


# Judging what happened ---------------------------------------------------------------------


def outcome(use: Callable[[Path], object], path: Path) -> str:
    """Return "accepted", "refused", or what went wrong, of a file that is opened and used."""
    started = time.monotonic()
    try:
        use(path)
        said = "accepted"
    except ValueError as problem:
        said = "refused" if str(path.name) in str(problem) else f"unclear: {problem!r}"
    except AssertionError as problem:
        said = f"wrong content accepted: {problem}"
    except Exception as problem:
        said = f"{type(problem).__name__}: {problem}"
    spent = time.monotonic() - started
    return said if spent < SECONDS else f"{spent:.1f} s: {said}"


def limit_memory(spare: int = SPARE_BYTES) -> None:
    """Let this process have so much memory more than it has; on other systems than Linux, any."""
    try:
        with open("/proc/self/statm", "rb") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (mapped + spare, hard))
    except (OSError, ValueError):
        pass
