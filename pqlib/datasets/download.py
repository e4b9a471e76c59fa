"""Fetching a registered data set: streamed, resumed, checked, and never half-written.

What is on disk under the file's own name is always whole and valid: a download grows under
another name (``.part``) and is renamed only when its length, its content and its ground truth
have been checked.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import requests
from tqdm import tqdm

from pqlib.datasets import registry, validate
from pqlib.datasets.registry import DatasetInfo

BASE_URL_VARIABLE = "PQLIB_BASE_URL"
BASE_URL = "https://ann-benchmarks.com"
# ann-benchmarks' host refuses requests without a User-Agent.
USER_AGENT = "pqlib/0.1 (product quantization study)"
TIMEOUT = (15.0, 60.0)
"""Seconds to connect, and to wait for the next bytes."""
ATTEMPTS = 6
"""Tries without progress before giving up; one that brought new bytes does not count."""
BACK_OFF = 1.0
"""Seconds before the second try, doubled each time."""
LONGEST_WAIT = 60.0
CHUNK = 1 << 20
SUMS = re.compile(
    r"^(?:\\?(?P<hex>[0-9a-fA-F]{64})(?:[ \t]+\*?(?P<named>.*))?"
    r"|SHA256 \((?P<name>.*)\) = (?P<digest>[0-9a-fA-F]{64}))\s*$",
    re.MULTILINE,
)
MAGIC = b"\x89HDF\r\n\x1a\n"


class DownloadError(OSError):
    """A data set could not be fetched; the message says why and what to do."""


class _TryAgainError(Exception):
    """Something that may pass: a cut connection, a busy server."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def fetch(name: str, progress: bool = True) -> Path:
    """Return the file of a registered data set, downloading it if it is not on this machine.

    Two processes may ask at once: one downloads, the other waits for it.

    Raises
    ------
    ValueError
        When the name is unknown, or what came is not the data set.
    DownloadError
        When it cannot be downloaded.
    """
    info = registry.lookup(name)
    found = registry.locate(name)
    if found is not None:
        return found
    if info.embedded:
        raise FileNotFoundError(
            f"{info.file} is missing from the package. Expected it under pqlib/data: install the "
            "package again."
        )
    folder = registry.cache_folder()
    target = folder / info.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f".{info.file}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"another process is downloading {info.name}; waiting for it", file=sys.stderr)
            lock.acquire()
        try:
            if not target.is_file():
                _download(info, target, progress)
        finally:
            lock.release()
    except DownloadError:
        raise
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(info, folder) from None
        raise DownloadError(
            f"{info.name}: cannot write to {folder} ({problem}). Name a folder you may write to "
            f"with {registry.CACHE_VARIABLE}."
        ) from problem
    return target


def verify(name: str, progress: bool = True) -> str:
    """Check a data set that is on this machine, and say what was found.

    Its SHA-256 is compared with the one recorded when it was downloaded; a file that was put
    there by hand has none, and its content is checked instead.

    Raises
    ------
    FileNotFoundError
        When it is not on this machine.
    ValueError
        When the file is not what was downloaded, or not valid.
    """
    info = registry.lookup(name)
    path = registry.locate(name)
    if path is None:
        raise FileNotFoundError(f"{info.name} is not on this machine. Fetch it first.")
    if unaltered(path, progress):
        return f"{path}: SHA-256 as recorded, {recorded(path)}"
    validate.check(path, info)
    return f"{path}: content and ground truth are valid (no SHA-256 was recorded for it)"


def recorded(path: Path) -> str | None:
    """Return the SHA-256 that is recorded beside a file, None where there is no record.

    The record may be what sha256sum writes, or BSD's sha256; a line that names the file counts, or
    the only one. Of a file that is not ours, something else of that name is no record.

    Raises
    ------
    ValueError
        When the record of a file that was downloaded, or came with the package, is no such thing.
    """
    record = sum_file(path)
    if not record.is_file():
        return None
    with record.open("rb") as file:
        text = file.read(1 << 16).decode("utf-8", "replace")
    found = [(m["named"] or m["name"] or "", m["hex"] or m["digest"]) for m in SUMS.finditer(text)]
    digests = [digest for name, digest in found if name.strip() == path.name]
    if not digests and len(found) == 1:
        digests = [found[0][1]]
    if digests:
        return digests[0].lower()
    if is_ours(path):
        raise ValueError(
            f"{record}: expected a SHA-256 of 64 hexadecimal digits, found {text[:80]!r}. Delete "
            f"it and {path.name}, and fetch the data again."
        )
    return None


def is_ours(path: Path) -> bool:
    """Tell whether a file lies where only this package writes: in itself, or in the cache."""
    folder = path.resolve().parent
    package = Path(__file__).resolve().parents[1] / "data"
    return folder in (package, registry.cache_folder().resolve())


def unaltered(path: Path, progress: bool = False) -> bool:
    """Compare a file with the SHA-256 recorded beside it; False where none is recorded.

    Raises
    ------
    ValueError
        When they differ.
    """
    expected = recorded(path)
    if expected is None:
        return False
    actual = sha256(path, progress)
    if actual != expected:
        raise ValueError(
            f"{path}: its SHA-256 is {actual}, but {expected} was recorded when it was made or "
            "downloaded. The file was changed or damaged since: delete it and fetch it again."
        )
    return True


def sum_file(path: Path) -> Path:
    """Return where the SHA-256 of a downloaded file is recorded."""
    return path.with_name(path.name + ".sha256")


def sha256(path: Path, progress: bool = False) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    bar = tqdm(
        total=path.stat().st_size,
        desc="SHA-256",
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None if progress else True,
    )
    with path.open("rb") as file, bar:
        while block := file.read(CHUNK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def urls(info: DatasetInfo) -> list[str]:
    """Return the addresses to try, in order: HTTPS, then HTTP where that cannot connect."""
    base = os.environ.get(BASE_URL_VARIABLE) or info.folder_url or BASE_URL
    base = base.rstrip("/")
    first = f"{base}/{info.file}"
    if base == BASE_URL:
        return [first, first.replace("https://", "http://", 1)]
    return [first]


def _download(info: DatasetInfo, target: Path, progress: bool) -> None:
    part = target.with_name(target.name + ".part")
    addresses = urls(info)
    for number, url in enumerate(addresses):
        try:
            _stream(info, url, part, progress)
            break
        except requests.exceptions.SSLError as problem:
            raise DownloadError(
                f"{info.name}: no secure connection to {url} ({problem}). HTTP is not tried in "
                "its place, as somebody may stand in between. A proxy may need its own "
                "certificate: set REQUESTS_CA_BUNDLE; or put the file into a folder that "
                f"{registry.DATA_VARIABLE} names, as {info.file}."
            ) from None
        except requests.exceptions.ConnectionError as problem:
            if number + 1 == len(addresses):
                raise DownloadError(
                    f"{info.name}: cannot connect to {url} ({problem}). Check the network and "
                    "the proxy (HTTPS_PROXY), or get the file by other means and put it into a "
                    f"folder that {registry.DATA_VARIABLE} names, as {info.file}."
                ) from None
            print(
                f"no connection by HTTPS ({problem}); trying {addresses[number + 1]}, which does "
                "not prove who answers",
                file=sys.stderr,
            )
        except requests.exceptions.RequestException as problem:
            raise DownloadError(
                f"{info.name}: {url} cannot be fetched ({problem}). Check the address"
                + (f", which {BASE_URL_VARIABLE} sets" if os.environ.get(BASE_URL_VARIABLE) else "")
                + f", or put the file into a folder that {registry.DATA_VARIABLE} names, as "
                f"{info.file}."
            ) from None
    print(f"checking {info.file}", file=sys.stderr)
    try:
        validate.check(part, info)
    except ValueError as problem:
        _forget(part)
        raise ValueError(
            f"{info.name}: what {url} sent is complete but not the data set: {problem} It was "
            "removed; fetch it again, and if this repeats, report it to the source."
        ) from None
    digest = sha256(part, progress)
    record = sum_file(target)
    partial = record.with_name(record.name + ".new")
    partial.write_text(f"{digest}  {target.name}\n", encoding="ascii")
    partial.replace(record)
    part.replace(target)
    _facts(part).unlink(missing_ok=True)


def _stream(info: DatasetInfo, url: str, part: Path, progress: bool) -> None:
    """Bring ``part`` to its full length, resuming and trying again as often as is sensible."""
    print(f"downloading {info.name}, about {info.megabytes:,} MB, from {url}", file=sys.stderr)
    failures, wait = 0, BACK_OFF
    most = part.stat().st_size if part.exists() else 0
    while True:
        try:
            _attempt(info, url, part, progress)
            return
        except (
            _TryAgainError,
            requests.exceptions.ConnectionError,
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.Timeout,
        ) as problem:
            secure = isinstance(problem, requests.exceptions.SSLError)
            if secure and "CERTIFICATE" in str(problem).upper():
                raise
            # More than ever before: a server that always begins anew must come to an end too.
            size = part.stat().st_size if part.exists() else 0
            gained, most = size > most, max(size, most)
            failures = 1 if gained else failures + 1
            wait = BACK_OFF if gained else wait
            never_connected = isinstance(problem, requests.exceptions.ConnectionError)
            if never_connected and not part.exists() and failures >= 2:
                raise
            if failures >= ATTEMPTS:
                raise DownloadError(
                    f"{info.name}: gave up on {url} after {failures} tries in a row without "
                    f"progress ({problem}). What has come is kept, and the next try goes on "
                    "from there."
                ) from None
            pause = min(LONGEST_WAIT, max(wait, getattr(problem, "wait", 0.0)))
            print(f"{problem}; trying again in {pause:.0f} s", file=sys.stderr)
            time.sleep(pause)
            wait *= 2


def _attempt(info: DatasetInfo, url: str, part: Path, progress: bool) -> None:
    facts = _read_facts(part)
    have = part.stat().st_size if part.exists() and facts.get("url") == url else 0
    if have and have == facts.get("total"):
        # An earlier run was ended between the last byte and the check.
        return
    if not facts.get("tag"):
        # Without one, the rest might be that of another file.
        have = 0
    # "identity": a length and a range of compressed bytes would say nothing of the file's.
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        # The rest is wanted only if the file is still the one that was begun.
        headers["If-Range"] = facts["tag"]
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:
            _forget(part)
            raise _TryAgainError("the server's file is not longer than what has come")
        _refuse_errors(info, url, answer)
        total = _total_length(answer, have)
        tag = _tag(answer)
        if answer.status_code != 206:
            have = 0
        elif tag not in ("", facts["tag"]) or total not in (None, facts.get("total")):
            # Not all servers heed If-Range.
            _forget(part)
            raise _TryAgainError("the server's file has changed since it was begun")
        begun = part.stat().st_size if part.exists() else 0
        if total is not None and shutil.disk_usage(part.parent).free + begun < total:
            raise _disk_full(info, part.parent, total - begun)
        chunks = answer.iter_content(CHUNK)
        if have == 0:
            chunks = _checked_start(info, url, answer, chunks)
            # First, so that a kill in between cannot leave old bytes under the new tag.
            part.unlink(missing_ok=True)
            held = json.dumps({"url": url, "tag": tag, "total": total})
            _facts(part).write_text(held, encoding="utf-8")
        bar = tqdm(
            total=total,
            initial=have,
            desc=info.file,
            unit="B",
            unit_scale=True,
            disable=None if progress else True,
        )
        with part.open("ab" if have else "wb") as file, bar:
            for chunk in chunks:
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    came = part.stat().st_size
    if total is not None and came < total:
        raise _TryAgainError(f"the connection ended after {came:,} of {total:,} bytes")
    if total is not None and came > total:
        _forget(part)
        raise _TryAgainError(f"{came:,} bytes came where {total:,} were announced")


def _refuse_errors(info: DatasetInfo, url: str, answer: requests.Response) -> None:
    code = answer.status_code
    if code in (200, 206):
        return
    if code in (408, 425, 429) or code >= 500:
        try:
            wait = float(answer.headers.get("Retry-After", 0))
        except ValueError:
            wait = 0.0
        raise _TryAgainError(f"the server answered {code} {answer.reason}", wait)
    raise DownloadError(
        f"{info.name}: {url} answered {code} {answer.reason}. The file has moved, or access is "
        f"refused from here. Get {info.file} by other means and put it into a folder that "
        f"{registry.DATA_VARIABLE} names."
    )


def _total_length(answer: requests.Response, have: int) -> int | None:
    if answer.status_code == 206:
        span, _, whole = answer.headers.get("Content-Range", "").partition("/")
        if not span.startswith(f"bytes {have}-"):
            raise _TryAgainError(f"the server sent the range {span!r}, not the one asked for")
        return int(whole) if whole.isdigit() else None
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _tag(answer: requests.Response) -> str:
    """Return what tells this version of the file from others; empty if the server has nothing."""
    tag = answer.headers.get("ETag", "")
    return answer.headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag


def _checked_start(
    info: DatasetInfo, url: str, answer: requests.Response, chunks: Iterator[bytes]
) -> Iterator[bytes]:
    """Return the chunks again after looking at the first: pages come under any name."""
    first = next(chunks, b"")
    if first and not first.startswith(MAGIC[: len(first)]):
        kind = answer.headers.get("Content-Type", "no type").split(";")[0]
        raise DownloadError(
            f"{info.name}: {url} sent something else than an HDF5 file ({kind}, beginning with "
            f"{first[:20]!r}). A proxy or a sign-in page may stand in between: open the address "
            f"in a browser, or put {info.file} into a folder that {registry.DATA_VARIABLE} names."
        )

    def everything() -> Iterator[bytes]:
        yield first
        yield from chunks

    return everything()


def _facts(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_facts(part: Path) -> dict[str, Any]:
    try:
        facts = json.loads(_facts(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _facts(part).unlink(missing_ok=True)


def _disk_full(info: DatasetInfo, folder: Path, needed: int | None = None) -> DownloadError:
    amount = "more" if needed is None else f"{needed / 1e6:,.0f} MB more"
    return DownloadError(
        f"{info.name}: the disk of {folder} is full; {amount} is needed. Make room, or name "
        f"another folder with {registry.CACHE_VARIABLE}. What has come is kept and gone on with."
    )
