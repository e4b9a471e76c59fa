"""The file of an index: one file, versioned, with checksums, that can be mapped into memory.

Layout, all numbers little-endian:

- 8 bytes ``PQLIBIDX``; uint32 version; uint32 length of the header; uint32 CRC-32 of the header;
  4 zero bytes
- the header, JSON: what kind of index, its parameters, the length of the file, and for each section
  its name, dtype, shape, offset (from the end of the header, rounded up to 64) and CRC-32
- the sections, each from a multiple of 64 bytes on

The section "lists" holds the inverted lists in the way that ``faiss.OnDiskInvertedLists`` maps: of
each list first the codes, then the int64 positions, both with room for a number of entries that
keeps the positions on multiples of 8 bytes. No section holds Python objects.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pqlib._atomic import replacing

MAGIC = b"PQLIBIDX"
VERSION = 1
ALIGNMENT = 64
CHUNK_BYTES = 4 << 20
PREFIX = struct.Struct("<8sIII4x")
IdArray = NDArray[np.int64]


@dataclass(frozen=True)
class Section:
    """An array to be written, in parts when it is made on the way."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole section."""
        return int(np.dtype(self.dtype).itemsize * math.prod(self.shape))


def array_section(name: str, array: NDArray[Any]) -> Section:
    """Return a section that holds ``array``."""
    array = np.ascontiguousarray(array)
    little = array.dtype.newbyteorder("<")
    flat = array.astype(little, copy=False).reshape(-1).view(np.uint8)
    chunks = (flat[i : i + CHUNK_BYTES] for i in range(0, len(flat), CHUNK_BYTES))
    return Section(name, little.str, array.shape, chunks)


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def write(
    path: str | os.PathLike[str],
    kind: str,
    parameters: Mapping[str, Any],
    sections: Sequence[Section],
) -> None:
    """Write an index file at once or not at all; a file of that name stays until then."""
    entries: list[dict[str, Any]] = []
    end = 0
    for section in sections:
        offset = _aligned(end)
        end = offset + section.nbytes
        entries.append(
            {
                "name": section.name,
                "dtype": section.dtype,
                "shape": section.shape,
                "offset": offset,
                "crc": "0" * 8,
            }
        )
    content = {"kind": kind, "parameters": dict(parameters), "data": end, "sections": entries}
    length = len(json.dumps(content).encode())  # checksums have a fixed number of digits
    start = _aligned(PREFIX.size + length)
    with replacing(path) as file:
        for section, entry in zip(sections, entries, strict=True):
            file.seek(start + entry["offset"])
            crc, written = 0, 0
            for chunk in section.chunks:
                crc = zlib.crc32(chunk, crc)
                written += file.write(chunk)
            assert written == section.nbytes, (section.name, written)
            entry["crc"] = f"{crc:08x}"
        header = json.dumps(content).encode()
        file.truncate(start + end)
        file.seek(0)
        file.write(PREFIX.pack(MAGIC, VERSION, len(header), zlib.crc32(header)))
        file.write(header)


class DamagedError(ValueError):
    """A file that is not, or no longer, what ``save`` wrote; names it and says what to do."""


class IndexFile:
    """An index file opened for reading.

    Whoever wrote it, it is taken for hostile until it is checked: a header that is not exactly of
    this layout, a section outside of the file, another dtype than numbers, bytes between sections
    that are not zero are refused, so no more memory is taken than the file has bytes.

    Parameters
    ----------
    path : the file
    mmap : map large sections instead of reading them
    verify : False spares mapped sections the comparison with their checksums, which reads them

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is no index file, of a later version, shorter or longer than it was written, or
        its header was altered. ``read``, ``map`` and ``read_lists`` raise it when a section was.
    """

    def __init__(
        self, path: str | os.PathLike[str], mmap: bool = False, verify: bool = True
    ) -> None:
        self.path, self.mmap, self.verify = Path(path), mmap, verify
        with open(self.path, "rb") as file:
            self._identity = _identity(file)
            size = self._identity[2]
            prefix = file.read(PREFIX.size)
            if prefix[:8] != MAGIC or len(prefix) < PREFIX.size:
                raise self._error(
                    "no index file",
                    f"it starts with {prefix[:8]!r}, expected {MAGIC!r}. Pass a file that an "
                    "index's save() wrote",
                )
            _, version, length, crc = PREFIX.unpack(prefix)
            if version != VERSION:
                raise self._error(
                    f"an index file of version {version}",
                    f"this pqlib reads version {VERSION}. Update pqlib, or build and save the "
                    "index with this one",
                )
            if length > MOST_HEADER:
                raise self._damaged("its header")
            header = file.read(length)
            if len(header) < length or zlib.crc32(header) != crc or any(prefix[-4:]):
                raise self._damaged("its header")
            try:
                content = _Header.of(json.loads(header))
            except (ValueError, RecursionError) as problem:
                raise self._error(
                    "no index file of pqlib",
                    f"its header has the right checksum, but {problem}. Pass a file that an "
                    "index's save() wrote",
                ) from None
            self.kind, self.parameters = content.kind, content.parameters
            self._start = _aligned(PREFIX.size + length)
            self._sections = content.sections
            expected = self._start + content.data
            if size != expected:
                raise self._error(
                    "cut off" if size < expected else "too long",
                    f"it has {size:,} bytes, expected {expected:,}. Copy or save it again",
                )
            for begin, end in content.gaps(PREFIX.size + length - self._start):
                file.seek(self._start + begin)
                if any(file.read(end - begin)):
                    raise self._damaged("what lies between its sections")
        self.size = size

    def _opened(self) -> Any:
        """Open the file again, the same as before: what was checked is what is used."""
        file = open(self.path, "rb", buffering=0)  # noqa: SIM115
        if _identity(file) != self._identity:
            file.close()
            raise self._error("another one now", "it was replaced while it was read. Load it again")
        return file

    def __contains__(self, name: str) -> bool:
        return name in self._sections

    @property
    def names(self) -> list[str]:
        """Names of the sections."""
        return list(self._sections)

    def _error(self, what: str, more: str) -> DamagedError:
        return DamagedError(f"{self.path} is {what}: {more}.")

    def _damaged(self, part: str) -> DamagedError:
        return self._error(
            "damaged",
            f"{part} does not match its checksum. Copy it again from where it was intact, or "
            "build and save the index anew",
        )

    def refuse(self, problem: object) -> DamagedError:
        """Return the error of content that no ``save`` can have written."""
        return self._error(
            "no index file of pqlib",
            f"its checksums are right, but {str(problem).rstrip('.')}. Pass a file that an index's "
            "save() wrote",
        )

    def _place(
        self, name: str, dtype: str | None, shape: tuple[int | None, ...] | None
    ) -> tuple[int, np.dtype[Any], tuple[int, ...]]:
        """Return where a section lies and what it is, after comparing that with what it must be."""
        if name not in self._sections:
            raise self.refuse(f"section {name!r} is missing")
        entry = self._sections[name]
        if dtype is not None and entry.dtype != np.dtype(dtype).str:
            raise self.refuse(f"section {name!r} is {entry.dtype}, expected {np.dtype(dtype).str}")
        if shape is not None and (
            len(shape) != len(entry.shape)
            or any(w not in (None, h) for w, h in zip(shape, entry.shape, strict=True))
        ):
            words = str(tuple("any" if wanted is None else wanted for wanted in shape))
            raise self.refuse(f"section {name!r} has shape {entry.shape}, expected {words}")
        return self._start + entry.offset, np.dtype(entry.dtype), entry.shape

    def _check(self, name: str, crc: int) -> None:
        if f"{crc:08x}" != self._sections[name].crc:
            raise self._damaged(f"section {name!r}")

    def read(
        self, name: str, dtype: str | None = None, shape: tuple[int | None, ...] | None = None
    ) -> NDArray[Any]:
        """Return a section as an array in memory, its checksum verified.

        ``dtype`` and ``shape`` are what it must have; None there: anything.
        """
        offset, kind, found = self._place(name, dtype, shape)
        try:
            array = np.empty(found, kind)
        except MemoryError:
            raise MemoryError(
                f"{self.path}: section {name!r} takes {self._sections[name].nbytes:,} bytes, more "
                "than this process can have. Open it with mmap=True, or end other programs."
            ) from None
        flat, crc = array.reshape(-1).view(np.uint8), 0
        with self._opened() as file:
            file.seek(offset)
            for i in range(0, len(flat), CHUNK_BYTES):
                chunk = flat[i : i + CHUNK_BYTES]
                _read_into(file, chunk)
                crc = zlib.crc32(chunk.data, crc)
        self._check(name, crc)
        return array.astype(kind.newbyteorder("="), copy=False)

    def number(self, name: str) -> int:
        """Return the whole number that is a section's only entry."""
        return int(self.read(name, "<i8", (1,))[0])

    def map(
        self, name: str, dtype: str | None = None, shape: tuple[int | None, ...] | None = None
    ) -> NDArray[Any]:
        """Return a section that may be large: mapped, if the file was opened so, else read."""
        offset, kind, found = self._place(name, dtype, shape)
        if not self.mmap or 0 in found:
            return self.read(name, dtype, shape)
        if self.verify:
            self._verify(name)
        # Writable in memory only, never in the file: compiled code has then one kind of array less.
        with self._opened() as file:
            return np.asarray(np.memmap(file, kind, "c", offset, found))

    def _verify(self, name: str) -> None:
        """Compare a section with its checksum, through a small buffer."""
        entry, crc = self._sections[name], 0
        left = entry.nbytes
        buffer = np.empty(min(left, CHUNK_BYTES), np.uint8)
        with self._opened() as file:
            file.seek(self._start + entry.offset)
            while left:
                chunk = buffer[: min(left, len(buffer))]
                _read_into(file, chunk)
                crc = zlib.crc32(chunk.data, crc)
                left -= len(chunk)
        self._check(name, crc)

    def read_lists(self, n_lists: int, code_bytes: int, ntotal: int) -> faiss.InvertedLists:
        """Return the inverted lists, mapped or read; each position 0..ntotal - 1 is in one."""
        sizes = self.read("list_sizes", "<i8", (n_lists,))
        offset, _, shape = self._place("lists", "|u1", (None,))
        # Before they are added up: hostile numbers wrap around.
        most = shape[0] // (code_bytes + 8)
        if (sizes < 0).any() or (sizes > most).any() or sum(sizes.tolist()) != ntotal:
            raise self.refuse(f"its lists do not hold ntotal={ntotal} vectors together")
        room = _room(sizes, code_bytes)
        if sum(room.tolist()) * (code_bytes + 8) != shape[0]:
            raise self.refuse(f"its lists do not fit the {shape[0]:,} bytes of their section")
        mapped = self.mmap and shape[0] > 0
        lists = None if mapped else faiss.ArrayInvertedLists(n_lists, code_bytes)
        if self.verify or not mapped:
            self._check_lists(sizes, room, code_bytes, offset, lists)
        if lists is None:
            lists = self._map_lists(sizes, room, code_bytes, offset)
            self._opened().close()  # faiss opened it by its name
        return lists

    def _check_lists(
        self,
        sizes: IdArray,
        room: IdArray,
        code_bytes: int,
        offset: int,
        lists: faiss.InvertedLists | None,
    ) -> None:
        """Compare the lists with their checksum, and fill ``lists`` if there are any to fill."""
        crc, seen = 0, np.zeros(int(sizes.sum()), bool)
        with self._opened() as file:
            file.seek(offset)
            for c, (size, held) in enumerate(zip(sizes.tolist(), room.tolist(), strict=True)):
                codes = np.empty(held * code_bytes, np.uint8)
                ids = np.empty(held, np.int64)
                for part in (codes, ids.view(np.uint8)):
                    _read_into(file, part)
                    crc = zlib.crc32(part.data, crc)
                own = ids[:size]
                inside = own[(own >= 0) & (own < len(seen))]
                seen[inside] = True
                if lists is not None and size:
                    lists.add_entries(c, size, faiss.swig_ptr(ids), faiss.swig_ptr(codes))
        self._check("lists", crc)
        if not seen.all():
            raise self.refuse(f"its lists lack position {int(np.argmin(seen))}")

    def _map_lists(
        self, sizes: IdArray, room: IdArray, code_bytes: int, offset: int
    ) -> faiss.OnDiskInvertedLists:
        lists = faiss.OnDiskInvertedLists()
        lists.nlist, lists.code_size = len(sizes), code_bytes
        lists.filename, lists.totsize, lists.read_only = str(self.path), self.size, True
        # Its read-ahead starts threads in every search, for disks slower than any of today's.
        lists.prefetch_nthread = 0
        lists.lists.resize(len(sizes))
        ends = np.cumsum(room * (code_bytes + 8))
        places = np.stack([sizes, room, offset + ends - room * (code_bytes + 8)], axis=1)
        places = np.ascontiguousarray(places, np.uint64)  # size, capacity, offset of each list
        faiss.memcpy(lists.lists.data(), faiss.swig_ptr(places), places.nbytes)
        lists.do_mmap()
        return lists


@dataclass(frozen=True)
class _Entry:
    """A section as the header describes it."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    crc: str

    @property
    def nbytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * math.prod(self.shape))


@dataclass(frozen=True)
class _Header:
    """The header of an index file, checked."""

    kind: str
    parameters: dict[str, Any]
    data: int
    sections: dict[str, _Entry]

    @classmethod
    def of(cls, content: Any) -> _Header:
        """Return the header for what its JSON says.

        Raises
        ------
        ValueError
            When it is not of this layout; the words complete "its header ... but".
        """
        _expect(isinstance(content, dict), "it is no object")
        _expect(set(content) == {"kind", "parameters", "data", "sections"}, "it lacks a part")
        _expect(isinstance(content["kind"], str), "its kind is no name")
        _expect(isinstance(content["parameters"], dict), "its parameters are no object")
        _expect(_natural(content["data"]), "its length is no number")
        _expect(isinstance(content["sections"], list), "its sections are no list")
        sections: dict[str, _Entry] = {}
        end = 0
        for raw in content["sections"]:
            _expect(isinstance(raw, dict), "a section is no object")
            _expect(set(raw) == {"name", "dtype", "shape", "offset", "crc"}, "a section is partial")
            name, dtype, shape = raw["name"], raw["dtype"], raw["shape"]
            _expect(isinstance(name, str) and name not in sections, f"its section {name!r} repeats")
            _expect(isinstance(dtype, str) and bool(DTYPE.fullmatch(dtype)), f"{name!r} is {dtype}")
            _expect(isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS, f"{name!r} is big")
            _expect(all(map(_natural, shape)), f"{name!r} is of shape {shape}")
            _expect(isinstance(raw["crc"], str), f"{name!r} has no checksum")
            entry = _Entry(dtype, tuple(shape), raw["offset"], raw["crc"])
            # One after the other, as they are written.
            _expect(_natural(raw["offset"]) and raw["offset"] == _aligned(end), f"{name!r} is off")
            end = entry.offset + entry.nbytes
            sections[name] = entry
        _expect(end == content["data"], "its sections have another length than it says")
        return cls(content["kind"], content["parameters"], end, sections)

    def gaps(self, begin: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of the file between header and sections, from ``begin`` on."""
        for entry in self.sections.values():
            if entry.offset > begin:
                yield begin, entry.offset
            begin = entry.offset + entry.nbytes
        if begin < 0:
            yield begin, 0


DTYPE = re.compile(r"<f[248]|<[iu][248]|\|[iu]1")
MOST_DIMENSIONS = 8
MOST_HEADER = 64 << 20
"""Bytes: an index of a million lists with quantizers of their own is far below."""


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _expect(condition: bool, words: str) -> None:
    if not condition:
        raise ValueError(words)


def _identity(file: Any) -> tuple[int, int, int, int]:
    """Return what tells an open file, in this state, from others."""
    facts = os.fstat(file.fileno())
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _read_into(file: Any, array: NDArray[np.uint8]) -> None:
    view = array.data
    while len(view):
        count = file.readinto(view)
        if not count:
            raise ValueError(f"{file.name} became shorter while it was read. Load it again.")
        view = view[count:]


def _room(sizes: IdArray, code_bytes: int) -> IdArray:
    """Return for how many entries each list has room, so that positions are aligned."""
    multiple = 8 // math.gcd(8, code_bytes)
    return -(-sizes // multiple) * multiple


def list_sections(lists: faiss.InvertedLists) -> list[Section]:
    """Return the sections "list_sizes" and "lists" of inverted lists."""
    sizes = np.array([lists.list_size(c) for c in range(lists.nlist)], np.int64)
    room = _room(sizes, lists.code_size)

    def chunks() -> Iterator[NDArray[np.uint8]]:
        for c, (size, held) in enumerate(zip(sizes.tolist(), room.tolist(), strict=True)):
            if held:
                codes = np.zeros(held * lists.code_size, np.uint8)
                ids = np.zeros(held, "<i8")
                used = size * lists.code_size
                codes[:used] = faiss.rev_swig_ptr(lists.get_codes(c), used)
                ids[:size] = faiss.rev_swig_ptr(lists.get_ids(c), size)
                yield codes
                yield ids.view(np.uint8)

    total = int((room * (lists.code_size + 8)).sum())
    return [array_section("list_sizes", sizes), Section("lists", "|u1", (total,), chunks())]
