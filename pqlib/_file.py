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

import contextlib
import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

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
    final = Path(path)
    partial = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
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
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, final)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


class IndexFile:
    """An index file opened for reading.

    Parameters
    ----------
    path : the file
    mmap : map large sections instead of reading them; their checksums are then not looked at

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is no index file, of a later version, shorter or longer than it was written, or
        its header was altered. ``read`` and ``read_lists`` raise it when a section was.
    """

    def __init__(self, path: str | os.PathLike[str], mmap: bool = False) -> None:
        self.path, self.mmap = Path(path), mmap
        with open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
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
            header = file.read(min(length, size))
        if len(header) < length or zlib.crc32(header) != crc:
            raise self._damaged("its header")
        content = json.loads(header)
        self.kind: str = content["kind"]
        self.parameters: dict[str, Any] = content["parameters"]
        self._start = _aligned(PREFIX.size + length)
        self._sections = {entry["name"]: entry for entry in content["sections"]}
        expected = self._start + content["data"]
        if size != expected:
            raise self._error(
                "cut off" if size < expected else "too long",
                f"it has {size:,} bytes, expected {expected:,}. Copy or save it again",
            )
        self.size = size

    def __contains__(self, name: str) -> bool:
        return name in self._sections

    @property
    def names(self) -> list[str]:
        """Names of the sections."""
        return list(self._sections)

    def _error(self, what: str, more: str) -> ValueError:
        return ValueError(f"{self.path} is {what}: {more}.")

    def _damaged(self, part: str) -> ValueError:
        return self._error(
            "damaged",
            f"{part} does not match its checksum. Copy it again from where it was intact, or "
            "build and save the index anew",
        )

    def _place(self, name: str) -> tuple[int, np.dtype[Any], tuple[int, ...]]:
        entry = self._sections[name]
        return (
            self._start + entry["offset"],
            np.dtype(entry["dtype"]),
            tuple(entry["shape"]),
        )

    def _check(self, name: str, crc: int) -> None:
        if f"{crc:08x}" != self._sections[name]["crc"]:
            raise self._damaged(f"section {name!r}")

    def read(self, name: str) -> NDArray[Any]:
        """Return a section as an array in memory, its checksum verified."""
        offset, dtype, shape = self._place(name)
        array = np.empty(shape, dtype)
        flat, crc = array.reshape(-1).view(np.uint8), 0
        with open(self.path, "rb", buffering=0) as file:
            file.seek(offset)
            for i in range(0, len(flat), CHUNK_BYTES):
                chunk = flat[i : i + CHUNK_BYTES]
                _read_into(file, chunk)
                crc = zlib.crc32(chunk.data, crc)
        self._check(name, crc)
        return array.astype(dtype.newbyteorder("="), copy=False)

    def map(self, name: str) -> NDArray[Any]:
        """Return a section that may be large: mapped, if the file was opened so, else read."""
        offset, dtype, shape = self._place(name)
        if not self.mmap or 0 in shape:
            return self.read(name)
        # Writable in memory only, never in the file: compiled code has then one kind of array less.
        return np.asarray(np.memmap(self.path, dtype, "c", offset, shape))

    def read_lists(self, code_bytes: int) -> faiss.InvertedLists:
        """Return the inverted lists, mapped or read."""
        sizes = self.read("list_sizes")
        offset, _, shape = self._place("lists")
        room = _room(sizes, code_bytes)
        if int((room * (code_bytes + 8)).sum()) != shape[0]:
            raise self._damaged("the length of its lists")
        if self.mmap and shape[0]:
            return self._map_lists(sizes, room, code_bytes, offset)
        lists = faiss.ArrayInvertedLists(len(sizes), code_bytes)
        crc = 0
        with open(self.path, "rb") as file:
            file.seek(offset)
            for c, (size, held) in enumerate(zip(sizes.tolist(), room.tolist(), strict=True)):
                codes = np.empty(held * code_bytes, np.uint8)
                ids = np.empty(held, np.int64)
                for part in (codes, ids.view(np.uint8)):
                    _read_into(file, part)
                    crc = zlib.crc32(part.data, crc)
                if size:
                    lists.add_entries(c, size, faiss.swig_ptr(ids), faiss.swig_ptr(codes))
        self._check("lists", crc)
        return lists

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
