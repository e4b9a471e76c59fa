"""The file of an index: one safetensors file with checksums, which can be mapped into memory.

The layout is that of safetensors (https://github.com/huggingface/safetensors): the length of the
header, the header in JSON, and one array after the other. Its ``__metadata__`` holds what
safetensors does not know: the version of this layout, what kind of index it is, its parameters in
JSON, and the CRC-32 of each section and of the header itself. No section holds Python objects.

The section "lists" holds the inverted lists in the way that ``faiss.OnDiskInvertedLists`` maps: of
each list first the codes, then the int64 positions, both with room for a number of entries that
keeps the positions on multiples of 8 bytes.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from pqlib._atomic import replacing
from pqlib._types import IdArray

VERSION = "2"
NO_CRC = "0" * 8
OLD_MAGIC = b"PQLIBIDX"
"""First bytes of version 1, which had a layout of its own."""

ALIGNMENT = 64
CHUNK_BYTES = 4 << 20
DTYPES = {
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "|i1", "U8": "|u1", "I16": "<i2"},
    **{"U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8"},
}
"""Types that a section may have: NumPy's names by those of safetensors."""


@dataclass(frozen=True)
class Section:
    """An array of the file; to be written, its chunks may be made one after the other."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[Any] = ()
    offset: int = 0  # in a file, from the end of the header on

    @property
    def nbytes(self) -> int:
        """Bytes of the whole section."""
        return int(np.dtype(self.dtype).itemsize * math.prod(self.shape))


def array_section(name: str, array: NDArray[Any]) -> Section:
    """Return a section that holds ``array``."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return Section(name, little.dtype.str, array.shape, [little.reshape(-1).view(np.uint8)])


def list_sections(lists: faiss.InvertedLists) -> list[Section]:
    """Return the sections "list_sizes" and "lists" of inverted lists."""
    sizes = np.array([lists.list_size(c) for c in range(lists.nlist)], np.int64)
    room = _room(sizes, lists.code_size)

    def chunks() -> Iterator[NDArray[Any]]:
        for c, (size, held) in enumerate(zip(sizes.tolist(), room.tolist(), strict=True)):
            if held:
                codes, ids = np.zeros(held * lists.code_size, np.uint8), np.zeros(held, "<i8")
                used = size * lists.code_size
                codes[:used] = faiss.rev_swig_ptr(lists.get_codes(c), used)
                ids[:size] = faiss.rev_swig_ptr(lists.get_ids(c), size)
                yield codes
                yield ids.view(np.uint8)

    # As numbers of 8 bytes, which is what keeps the section on a multiple of 8 bytes.
    words = int((room * (lists.code_size + 8)).sum()) // 8
    return [array_section("list_sizes", sizes), Section("lists", "<i8", (words,), chunks())]


def write(
    path: str | os.PathLike[str],
    kind: str,
    parameters: Mapping[str, Any],
    sections: Sequence[Section],
) -> None:
    """Write an index file at once or not at all; until then, a file of that name stays."""
    # In this order each section begins on a multiple of its item size, and codes on one of 64.
    sections = sorted(
        sections, key=lambda s: (s.nbytes % ALIGNMENT > 0, -np.dtype(s.dtype).itemsize)
    )
    names = {numpy_name: name for name, numpy_name in DTYPES.items()}
    ends = np.cumsum([section.nbytes for section in sections], dtype=int).tolist()
    content: dict[str, Any] = {
        section.name: {
            "dtype": names[section.dtype],
            "shape": section.shape,
            "data_offsets": [end - section.nbytes, end],
        }
        for section, end in zip(sections, ends, strict=True)
    }
    metadata = {"crc32": NO_CRC, "version": VERSION, "kind": kind}
    metadata["parameters"] = json.dumps(dict(parameters))
    metadata |= {f"crc32 {name}": NO_CRC for name in content}
    content = {"__metadata__": metadata, **content}

    def header() -> bytes:  # of a fixed length, as checksums have a fixed number of digits
        text = json.dumps(content).encode()
        return text + b" " * (-(8 + len(text)) % ALIGNMENT)

    length = len(header())
    with replacing(path) as file:
        file.seek(8 + length)
        for section in sections:
            crc, written = 0, 0
            for chunk in section.chunks:
                crc = zlib.crc32(chunk, crc)
                written += file.write(chunk)
            assert written == section.nbytes, (section.name, written)
            metadata[f"crc32 {section.name}"] = f"{crc:08x}"
        metadata["crc32"] = f"{zlib.crc32(header()):08x}"
        file.truncate()
        file.seek(0)
        file.write(length.to_bytes(8, "little") + header())


class DamagedError(ValueError):
    """A file that is not, or no longer, what ``save`` wrote; names it and says what to do."""


class IndexFile:
    """An index file opened for reading.

    Whoever wrote it, it is not trusted before it is checked. The parser of safetensors refuses a
    header whose sections do not fill the file exactly, so no more memory is taken than the file
    has bytes. DamagedError says what is wrong, here of the header, in ``read``, ``map`` and
    ``read_lists`` of a section.

    ``mmap`` maps large sections instead of reading them. ``verify=False`` then does not compare
    them with their checksums, which would read them.
    """

    def __init__(
        self, path: str | os.PathLike[str], mmap: bool = False, verify: bool = True
    ) -> None:
        self.path, self.mmap, self.verify = Path(path), mmap, verify
        with open(self.path, "rb") as file:
            self._identity = _identity(file)
            start = file.read(8)
            if start == OLD_MAGIC:
                raise self._other_version("1")
            try:
                with safe_open(self.path, "np") as parsed:
                    metadata = parsed.metadata() or {}
                    tensors = {name: parsed.get_slice(name) for name in parsed.offset_keys()}
            except SafetensorError as problem:
                raise self._error(
                    "no index file, or not a whole one",
                    f"it is cut off, too long, damaged or of another kind ({problem}). Pass a "
                    "file that an index's save() wrote, or copy it again from where it was intact",
                ) from None
            except MemoryError:  # the parser maps the whole file for a moment
                raise self._too_large("it", self._identity[2]) from None
            header = file.read(int.from_bytes(start, "little"))
        if metadata.get("version") != VERSION:
            raise self._other_version(metadata.get("version"))
        self._metadata, self._start, end = metadata, 8 + len(header), 0
        crc = metadata.get("crc32", NO_CRC)
        header = header.replace(crc.encode(), NO_CRC.encode(), 1)
        self._compare("crc32", zlib.crc32(header), "its header")
        self._sections: dict[str, Section] = {}
        for name, tensor in tensors.items():
            dtype = DTYPES.get(tensor.get_dtype(), "")
            if not dtype:
                raise self.refuse(f"section {name!r} is of type {tensor.get_dtype()}")
            self._sections[name] = Section(name, dtype, tuple(tensor.get_shape()), offset=end)
            end += self._sections[name].nbytes
        self.size = self._start + end
        try:
            self.kind, self.parameters = metadata["kind"], dict(json.loads(metadata["parameters"]))
        except (KeyError, TypeError, ValueError, RecursionError) as problem:
            raise self.refuse(f"its kind or parameters cannot be read ({problem!r})") from None

    def __contains__(self, name: str) -> bool:
        return name in self._sections

    @property
    def names(self) -> list[str]:
        """Names of the sections."""
        return list(self._sections)

    def _error(self, what: str, more: str) -> DamagedError:
        return DamagedError(f"{self.path} is {what}: {more}.")

    def _other_version(self, found: str | None) -> DamagedError:
        return self._error(
            f"an index file of version {found}" if found else "no index file of pqlib",
            f"this pqlib reads version {VERSION}. Update pqlib if the file is newer; if it is not, "
            "build and save the index again",
        )

    def _compare(self, key: str, crc: int, part: str) -> None:
        """Raise an error when a part has another checksum than the header has under ``key``."""
        if f"{crc:08x}" != self._metadata.get(key):
            raise self._error(
                "damaged",
                f"{part} does not match its checksum. Copy the file again from where it was "
                "intact, or build and save the index again",
            )

    def refuse(self, problem: object) -> DamagedError:
        """Return the error of content that no ``save`` can have written."""
        return self._error(
            "no index file of pqlib",
            f"its checksums are right, but {str(problem).rstrip('.')}. Pass a file that an index's "
            "save() wrote",
        )

    def _too_large(self, part: str, nbytes: int) -> MemoryError:
        return MemoryError(
            f"{self.path}: {part} takes {nbytes:,} bytes, more than this process can have. Open it "
            "with mmap=True, or end other programs."
        )

    def _opened(self) -> Any:
        """Open the file again and make sure that it is still the one that was checked."""
        file = open(self.path, "rb")  # noqa: SIM115
        if _identity(file) != self._identity:
            file.close()
            raise self._error("another one now", "it was replaced while it was read. Load it again")
        return file

    def _entry(self, name: str, dtype: str | None, shape: tuple[int | None, ...] | None) -> Section:
        """Return a section after comparing that with what it must be."""
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
        return entry

    def _fill(self, name: str, buffers: Iterable[NDArray[Any]]) -> None:
        """Read a section into one buffer after the other; compare it with its checksum."""
        crc = 0
        with self._opened() as file:
            file.seek(self._start + self._sections[name].offset)
            for buffer in buffers:
                if file.readinto(buffer.data) < buffer.nbytes:
                    raise self._error("shorter now", "it was cut while it was read. Load it again")
                crc = zlib.crc32(buffer.data, crc)
        self._compare(f"crc32 {name}", crc, f"section {name!r}")

    def read(
        self, name: str, dtype: str | None = None, shape: tuple[int | None, ...] | None = None
    ) -> NDArray[Any]:
        """Return a section as an array in memory; None allows any ``dtype`` or length."""
        entry = self._entry(name, dtype, shape)
        try:
            array = np.empty(entry.shape, entry.dtype)
        except MemoryError:
            raise self._too_large(f"section {name!r}", entry.nbytes) from None
        self._fill(name, [array.reshape(-1).view(np.uint8)])
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def number(self, name: str) -> int:
        """Return the whole number that is a section's only entry."""
        return int(self.read(name, "<i8", (1,))[0])

    def map(
        self, name: str, dtype: str | None = None, shape: tuple[int | None, ...] | None = None
    ) -> NDArray[Any]:
        """Return a section that may be large: mapped if the file was opened so, otherwise read."""
        entry = self._entry(name, dtype, shape)
        if not self.mmap or not entry.nbytes:
            return self.read(name, dtype, shape)
        if self.verify:
            buffer = np.empty(min(entry.nbytes, CHUNK_BYTES), np.uint8)
            starts = range(0, entry.nbytes, CHUNK_BYTES)
            self._fill(name, (buffer[: entry.nbytes - start] for start in starts))
        # Writable in memory only, never in the file: compiled code has then one kind of array less.
        with self._opened() as file:
            place = self._start + entry.offset
            return np.asarray(np.memmap(file, entry.dtype, "c", place, entry.shape))

    def read_lists(self, n_lists: int, code_bytes: int, ntotal: int) -> faiss.InvertedLists:
        """Return the inverted lists, mapped or read; each position 0..ntotal - 1 is in one."""
        sizes = self.read("list_sizes", "<i8", (n_lists,))
        nbytes = self._entry("lists", "<i8", (None,)).nbytes
        # Compared one by one before they are added up: sums of hostile numbers wrap around.
        most = nbytes // (code_bytes + 8)
        if (sizes < 0).any() or (sizes > most).any() or sum(sizes.tolist()) != ntotal:
            raise self.refuse(f"its lists do not hold ntotal={ntotal} vectors together")
        room = _room(sizes, code_bytes)
        if sum(room.tolist()) * (code_bytes + 8) != nbytes:
            raise self.refuse(f"its lists do not fit the {nbytes:,} bytes of their section")
        mapped = self.mmap and nbytes > 0
        lists = None if mapped else faiss.ArrayInvertedLists(n_lists, code_bytes)
        if self.verify or lists is not None:
            self._check_lists(sizes, room, code_bytes, lists)
        return self._map_lists(sizes, room, code_bytes) if lists is None else lists

    def _check_lists(
        self, sizes: IdArray, room: IdArray, code_bytes: int, lists: faiss.InvertedLists | None
    ) -> None:
        """Compare the lists with their checksum, and fill ``lists`` if there are any to fill."""
        seen = np.zeros(int(sizes.sum()), bool)

        def buffers() -> Iterator[NDArray[np.uint8]]:
            for c, (size, held) in enumerate(zip(sizes.tolist(), room.tolist(), strict=True)):
                codes, ids = np.empty(held * code_bytes, np.uint8), np.empty(held, np.int64)
                yield codes
                yield ids.view(np.uint8)
                # Here both are filled.
                own = ids[:size]
                seen[own[(own >= 0) & (own < len(seen))]] = True
                if lists is not None and size:
                    lists.add_entries(c, size, faiss.swig_ptr(ids), faiss.swig_ptr(codes))

        self._fill("lists", buffers())
        if not seen.all():
            raise self.refuse(f"its lists lack position {int(np.argmin(seen))}")

    def _map_lists(
        self, sizes: IdArray, room: IdArray, code_bytes: int
    ) -> faiss.OnDiskInvertedLists:
        lists = faiss.OnDiskInvertedLists()
        lists.nlist, lists.code_size = len(sizes), code_bytes
        lists.filename, lists.totsize, lists.read_only = str(self.path), self.size, True
        # Its read-ahead starts threads in every search, for disks slower than any of today's.
        lists.prefetch_nthread = 0
        lists.lists.resize(len(sizes))
        nbytes = room * (code_bytes + 8)
        offsets = self._start + self._sections["lists"].offset + np.cumsum(nbytes) - nbytes
        # The fields of faiss's OnDiskOneList: size, capacity and offset.
        places = np.ascontiguousarray(np.stack([sizes, room, offsets], axis=1), np.uint64)
        faiss.memcpy(lists.lists.data(), faiss.swig_ptr(places), places.nbytes)
        lists.do_mmap()
        self._opened().close()  # faiss opened it by its name
        return lists


def _identity(file: Any) -> tuple[int, int, int, int]:
    """Return what tells an open file, in this state, from others."""
    facts = os.fstat(file.fileno())
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _room(sizes: IdArray, code_bytes: int) -> IdArray:
    """Return for how many entries each list has room, so that positions are aligned."""
    multiple = 8 // math.gcd(8, code_bytes)
    return -(-sizes // multiple) * multiple
