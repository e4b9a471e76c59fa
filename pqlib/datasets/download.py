"""Fetching a registered data set: streamed, resumed, checked, and never half-written.

What is on disk under the file's own name is always whole and valid: a download grows under
another name (``.part``) and is renamed only when its length, its content and its ground truth
have been checked.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import filelock
import requests

from pqlib._atomic import replacing
from pqlib.datasets import registry, validate
from pqlib.datasets.checksums import byte_bar, recorded, sha256, sum_file, unaltered
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
    lock = filelock.FileLock(folder / f".{info.file}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"another process is downloading {info.name}; waiting for it", file=sys.stderr)
            held = lock.acquire()
        with held:
            if not target.is_file():
                _download(info, target, progress)
        return target
    except DownloadError:
        raise
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(info, folder) from None
        raise DownloadError(
            f"{info.name}: cannot write to {folder} ({problem}). Name a folder you may write to "
            f"with {registry.CACHE_VARIABLE}."
        ) from problem


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


def urls(info: DatasetInfo) -> list[str]:
    """Return the addresses to try, in order: HTTPS, then HTTP where that cannot connect."""
    base = (os.environ.get(BASE_URL_VARIABLE) or info.folder_url or BASE_URL).rstrip("/")
    first = f"{base}/{info.file}"
    return [first, first.replace("https://", "http://", 1)] if base == BASE_URL else [first]


def _download(info: DatasetInfo, target: Path, progress: bool) -> None:
    part = target.with_name(target.name + ".part")
    url = _from_any(info, part, progress)
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
    with replacing(sum_file(target)) as record:
        record.write(f"{digest}  {target.name}\n".encode("ascii"))
    part.replace(target)
    _facts(part).unlink(missing_ok=True)


def _from_any(info: DatasetInfo, part: Path, progress: bool) -> str:
    """Bring ``part`` to its full length from the first address that answers; return that."""
    by_hand = _by_hand(info)
    *others, last = urls(info)
    for url in (*others, last):
        try:
            _stream(info, url, part, progress)
            return url
        except requests.exceptions.SSLError as problem:
            raise DownloadError(
                f"{info.name}: no secure connection to {url} ({problem}). HTTP is not tried in "
                "its place, as somebody may stand in between. A proxy may need its own "
                f"certificate: set REQUESTS_CA_BUNDLE; or get the file and {by_hand}."
            ) from None
        except requests.exceptions.ConnectionError as problem:
            if url == last:
                raise DownloadError(
                    f"{info.name}: cannot connect to {url} ({problem}). Check the network and "
                    f"the proxy (HTTPS_PROXY), or get the file by other means and {by_hand}."
                ) from None
            print(
                f"no connection by HTTPS ({problem}); trying {last}, which does not prove who "
                "answers",
                file=sys.stderr,
            )
        except requests.exceptions.RequestException as problem:
            named = os.environ.get(BASE_URL_VARIABLE)
            which = f", which {BASE_URL_VARIABLE} sets" if named else ""
            raise DownloadError(
                f"{info.name}: {url} cannot be fetched ({problem}). Check the address{which}, or "
                f"get the file and {by_hand}."
            ) from None
    raise AssertionError("the last address returns or raises")


def _stream(info: DatasetInfo, url: str, part: Path, progress: bool) -> None:
    """Bring ``part`` to its full length, resuming and trying again as often as is sensible.

    urllib3's Retry ends where the body begins, and these files are lost in their bodies.
    """
    print(f"downloading {info.name}, about {info.megabytes:,} MB, from {url}", file=sys.stderr)
    failures, most = 0, _size(part)
    while True:
        try:
            return _attempt(info, url, part, progress)
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
            failures = 1 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            never_connected = isinstance(problem, requests.exceptions.ConnectionError)
            if never_connected and not part.exists() and failures >= 2:
                raise
            if failures >= ATTEMPTS:
                raise DownloadError(
                    f"{info.name}: gave up on {url} after {failures} tries in a row without "
                    f"progress ({problem}). What has come is kept, and the next try goes on "
                    "from there."
                ) from None
            wait = max(BACK_OFF * 2 ** (failures - 1), getattr(problem, "wait", 0.0))
            wait = min(LONGEST_WAIT, wait)
            print(f"{problem}; trying again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)


def _attempt(info: DatasetInfo, url: str, part: Path, progress: bool) -> None:
    facts = _read_facts(part)
    have = _size(part) if facts.get("url") == url else 0
    if have and have == facts.get("total"):
        # An earlier run was ended between the last byte and the check.
        return
    if not facts.get("tag"):
        have = 0  # the rest might be that of another file
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
        # What tells this version of the file from others; empty if the server has nothing.
        tag = answer.headers.get("ETag", "W/")
        tag = answer.headers.get("Last-Modified", "") if tag.startswith("W/") else tag
        if answer.status_code != 206:
            have = 0
        elif tag not in ("", facts.get("tag")) or total not in (None, facts.get("total")):
            # Not all servers heed If-Range.
            _forget(part)
            raise _TryAgainError("the server's file has changed since it was begun")
        begun = _size(part)
        if total is not None and shutil.disk_usage(part.parent).free + begun < total:
            raise _disk_full(info, part.parent, f"{(total - begun) / 1e6:,.0f} MB more")
        chunks = answer.iter_content(CHUNK)
        if have == 0:
            first = next(chunks, b"")
            _refuse_pages(info, url, answer, first)
            chunks = chain([first], chunks)
            # First, so that a kill in between cannot leave old bytes under the new tag.
            part.unlink(missing_ok=True)
            held = json.dumps({"url": url, "tag": tag, "total": total})
            _facts(part).write_text(held, encoding="utf-8")
        with (
            part.open("ab" if have else "wb") as file,
            byte_bar(info.file, total, progress, have) as bar,
        ):
            for chunk in chunks:
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    came = _size(part)
    if total is not None and came < total:
        raise _TryAgainError(f"the connection ended after {came:,} of {total:,} bytes")
    if total is not None and came > total:
        _forget(part)
        raise _TryAgainError(f"{came:,} bytes came where {total:,} were announced")


def _refuse_errors(info: DatasetInfo, url: str, answer: requests.Response) -> None:
    code = answer.status_code
    if code in (408, 425, 429) or code >= 500:
        wait = answer.headers.get("Retry-After", "")  # may be a date
        seconds = float(wait) if wait.isdigit() else 0.0
        raise _TryAgainError(f"the server answered {code} {answer.reason}", seconds)
    if code not in (200, 206):
        raise DownloadError(
            f"{info.name}: {url} answered {code} {answer.reason}. The file has moved, or access "
            f"is refused from here. Get the file by other means and {_by_hand(info)}."
        )


def _total_length(answer: requests.Response, have: int) -> int | None:
    whole = answer.headers.get("Content-Length", "")
    if answer.status_code == 206:
        span, _, whole = answer.headers.get("Content-Range", "").partition("/")
        if not span.startswith(f"bytes {have}-"):
            raise _TryAgainError(f"the server sent the range {span!r}, not the one asked for")
    return int(whole) if whole.isdigit() else None


def _refuse_pages(info: DatasetInfo, url: str, answer: requests.Response, first: bytes) -> None:
    """Raise DownloadError unless HDF5 begins so: pages come under any name."""
    if not first.startswith(MAGIC[: len(first)]):
        kind = answer.headers.get("Content-Type", "no type").split(";")[0]
        raise DownloadError(
            f"{info.name}: {url} sent something else than an HDF5 file ({kind}, beginning with "
            f"{first[:20]!r}). A proxy or a sign-in page may stand in between: open the address "
            f"in a browser, or get the file by other means and {_by_hand(info)}."
        )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


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


def _by_hand(info: DatasetInfo) -> str:
    return f"put it into a folder that {registry.DATA_VARIABLE} names, as {info.file}"


def _disk_full(info: DatasetInfo, folder: Path, needed: str = "more") -> DownloadError:
    return DownloadError(
        f"{info.name}: the disk of {folder} is full; {needed} is needed. Make room, or name "
        f"another folder with {registry.CACHE_VARIABLE}. What has come is kept and gone on with."
    )
