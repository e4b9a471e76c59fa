"""The real download code against a local server that behaves well, and badly."""

import dataclasses
import errno
import hashlib
import http.server
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import filelock
import h5py
import numpy as np
import pytest
from oracle import exact_neighbors

from pqlib.datasets import DownloadError, download, fetch, locate, registry, validate, verify

INFO = registry.DatasetInfo(
    "toy", "toy-8-euclidean.hdf5", 3000, 20, 8, "euclidean", 1, "a toy", "made here", "none"
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A valid file's bytes."""
    path = tmp_path_factory.mktemp("good") / INFO.file
    rng = np.random.default_rng(0)
    base, queries = (rng.random((n, 8)).astype(np.float32) for n in (3000, 20))
    neighbors, distances = exact_neighbors(base, queries, 100)
    with h5py.File(path, "w") as file:
        file["train"], file["test"] = base, queries
        file["neighbors"], file["distances"] = neighbors.astype("i4"), distances.astype("f4")
        file.attrs["distance"] = "euclidean"
    return path.read_bytes()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``body``; ``behave`` may change what the n-th request gets."""

    daemon_threads = True

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.behave, self.seen, self.tag = body, lambda request, n: None, [], '"v1"'


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.seen.append(dict(self.headers))
        try:
            if self.server.behave(self, len(self.server.seen)) is None:
                self.serve()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def serve(self, ranges=True, cut=None, body=None, pace=0.0):
        """Send the file as a good server would, or up to ``cut`` bytes and then nothing more."""
        body = self.server.body if body is None else body
        start, wanted = 0, self.headers.get("Range")
        tag = self.server.tag
        if ranges and wanted and (tag is None or self.headers.get("If-Range", tag) == tag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        if tag is not None:
            self.send_header("ETag", tag)
        self.end_headers()
        stop = len(body) if cut is None else start + cut
        for place in range(start, stop, 20_000):
            self.wfile.write(body[place : min(stop, place + 20_000)])
            time.sleep(pace)
        if cut is not None:
            self.close_connection = True
        return True

    def answer(self, code, body=b"", kind="text/plain", **headers):
        self.send_response(code)
        for key, value in {"Content-Type": kind, "Content-Length": len(body), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)
        return True


@pytest.fixture
def server(good, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.REGISTRY, "toy", INFO)
    monkeypatch.setenv(registry.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(registry.DATA_VARIABLE, raising=False)
    # A proxy of this machine has no business here.
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "BACK_OFF", 0.01)
    monkeypatch.setattr(download, "LONGEST_WAIT", 0.05)
    # Small chunks, so that a cut connection leaves something to resume.
    monkeypatch.setattr(download, "CHUNK", 8192)
    with Server(good) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        monkeypatch.setenv(
            download.BASE_URL_VARIABLE, f"http://127.0.0.1:{running.server_address[1]}"
        )
        yield running
        running.shutdown()


def cache(tmp_path):
    found = {p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")}
    return found - {"walked"}  # notes of which files were looked at


WHOLE = {INFO.file, INFO.file + ".sha256"}


def test_serves_the_file(server, good, tmp_path):
    path = fetch("toy")
    assert path.read_bytes() == good
    assert cache(tmp_path) == WHOLE
    assert "pqlib" in server.seen[0]["User-Agent"]
    assert download.sum_file(path).read_text().split()[0] == hashlib.sha256(good).hexdigest()
    assert fetch("toy") == locate("toy") == path
    assert len(server.seen) == 1


def test_is_slow(server, good, monkeypatch):
    server.behave = lambda request, n: request.serve(pace=0.02)
    assert fetch("toy").read_bytes() == good


def test_stalls_then_goes_on(server, good, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (5, 0.3))

    def stall(request, n):
        if n == 1:
            request.serve(cut=50_000)
            time.sleep(0.8)
            return True
        return None

    server.behave = stall
    assert fetch("toy").read_bytes() == good


def test_cuts_the_connection_half_way_then_continues_on_range(server, good, tmp_path):
    server.behave = lambda request, n: request.serve(cut=60_000) if n <= 2 else None
    assert fetch("toy").read_bytes() == good
    assert cache(tmp_path) == WHOLE
    starts = [int(h["Range"][6:-1]) for h in server.seen[1:]]
    assert starts[0] > 40_000
    assert starts[1] > starts[0]
    assert server.seen[1]["If-Range"] == '"v1"'


def test_ignores_range(server, good):
    def ignore(request, n):
        return request.serve(cut=60_000) if n == 1 else request.serve(ranges=False)

    server.behave = ignore
    assert fetch("toy").read_bytes() == good
    assert "Range" in server.seen[1]


def test_changes_the_file_between_two_tries(server, good):
    other = good[:200] + bytes(len(good) - 200)

    def change(request, n):
        if n == 1:
            server.tag = '"v0"'
            request.serve(cut=60_000, body=other)
            server.tag = '"v1"'
            return True
        return None

    server.behave = change
    assert fetch("toy").read_bytes() == good


def test_changes_the_file_and_has_no_tag_for_it(server, good):
    other = good[:200] + bytes(len(good) - 200)
    server.tag = None
    server.behave = lambda request, n: request.serve(cut=60_000, body=other) if n == 1 else None
    assert fetch("toy").read_bytes() == good
    assert "Range" not in server.seen[1]


def test_changes_the_file_and_does_not_heed_if_range(server, good):
    other = good[:200] + bytes(len(good) - 200)

    def change(request, n):
        if n == 1:
            return request.serve(cut=60_000, body=other)
        if n == 2:
            start = int(request.headers["Range"][6:-1])
            span = f"bytes {start}-{len(good) - 1}/{len(good)}"
            return request.answer(206, good[start:], ETag='"v2"', Content_Range=span)
        return None

    server.behave = change
    assert fetch("toy").read_bytes() == good
    assert len(server.seen) == 3
    assert "Range" not in server.seen[2]


def test_always_cuts_and_ignores_range(server, tmp_path):
    cuts = [90_000, 30_000, 60_000]
    server.behave = lambda request, n: request.serve(ranges=False, cut=cuts[n % len(cuts)])
    with pytest.raises(DownloadError, match="gave up"):
        fetch("toy")
    assert len(server.seen) <= 3 * download.ATTEMPTS
    assert INFO.file not in cache(tmp_path)


def test_sends_another_range_than_asked_for(server, good):
    def wrong(request, n):
        if n == 1:
            return request.serve(cut=60_000)
        if n == 2:
            span = f"bytes 0-{len(good) - 1}/{len(good)}"
            return request.answer(206, good, "application/x-hdf5", Content_Range=span)
        return None

    server.behave = wrong
    assert fetch("toy").read_bytes() == good


@pytest.mark.parametrize("code", [403, 404, 410])
def test_refuses(server, tmp_path, code):
    server.behave = lambda request, n: request.answer(code)
    with pytest.raises(DownloadError, match=rf"toy.*{code}.*PQLIB_DATA_DIR"):
        fetch("toy")
    assert len(server.seen) == 1
    assert cache(tmp_path) == set()


@pytest.mark.parametrize("code", [500, 503, 429])
def test_fails_then_recovers(server, good, code):
    server.behave = lambda request, n: request.answer(code, Retry_After=1) if n <= 2 else None
    assert fetch("toy").read_bytes() == good
    assert len(server.seen) == 3


def test_gives_up_in_the_end_and_keeps_what_came(server, good, tmp_path):
    server.behave = lambda request, n: request.serve(cut=60_000) if n == 1 else request.answer(500)
    with pytest.raises(DownloadError, match=r"gave up.*500"):
        fetch("toy")
    assert INFO.file not in cache(tmp_path)
    asked = len(server.seen)
    server.behave = lambda request, n: None
    assert fetch("toy").read_bytes() == good
    assert int(server.seen[asked]["Range"][6:-1]) > 40_000


def test_serves_a_page_under_the_name(server, tmp_path):
    page = b"<!DOCTYPE html><html>please sign in</html>"
    server.behave = lambda request, n: request.answer(200, page, "text/html; charset=utf-8")
    with pytest.raises(DownloadError, match=r"text/html.*<!DOCTYPE.*proxy"):
        fetch("toy")
    assert cache(tmp_path) == set()


@pytest.mark.parametrize("damage", ["truncated", "values", "truth", "nan", "angular", "other"])
def test_serves_a_broken_file(server, good, tmp_path, damage, monkeypatch):
    path = tmp_path / "bad.hdf5"
    path.write_bytes(good)
    if damage == "truncated":
        path.write_bytes(good[: len(good) // 2])
    else:
        with h5py.File(path, "a") as file:
            if damage == "values":
                file["train"][...] = file["train"][...][::-1]
            elif damage == "angular":
                file.attrs["distance"] = "angular"
                file["neighbors"][...] = np.arange(100)
            elif damage == "other":
                info = dataclasses.replace(INFO, dimension=9)
                monkeypatch.setitem(registry.REGISTRY, "toy", info)
            elif damage == "truth":
                file["neighbors"][...] = np.roll(file["neighbors"][...], 1, axis=0)
            else:
                file["train"][7, 3] = np.nan
    server.body = path.read_bytes()
    with pytest.raises(ValueError, match=r"toy.*not the data set.*fetch it again"):
        fetch("toy")
    assert cache(tmp_path) == set()
    server.body = good
    monkeypatch.setitem(registry.REGISTRY, "toy", INFO)
    assert fetch("toy").read_bytes() == good


def test_full_disk_is_noticed_before(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match=r"full.*PQLIB_CACHE"):
        fetch("toy")
    assert cache(tmp_path) == set()


def test_full_disk_is_noticed_while_writing(server, good, tmp_path, monkeypatch):
    opened = download.Path.open

    def open_on_full_disk(path, mode="r", *arguments, **options):
        file = opened(path, mode, *arguments, **options)
        if path.suffix != ".part":
            return file
        write = file.write

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *problem):
                file.close()

            def write(self, data):
                if file.tell() > 50_000:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(data)

        return Full()

    with monkeypatch.context() as during:
        during.setattr(download.Path, "open", open_on_full_disk)
        with pytest.raises(DownloadError, match=r"full.*PQLIB_CACHE"):
            fetch("toy")
    assert INFO.file not in cache(tmp_path)
    assert fetch("toy").read_bytes() == good
    assert int(server.seen[1]["Range"][6:-1]) > 40_000


def test_no_server_at_all(server, monkeypatch, tmp_path):
    monkeypatch.setenv(download.BASE_URL_VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"cannot connect.*HTTPS_PROXY.*PQLIB_DATA_DIR"):
        fetch("toy")
    assert cache(tmp_path) == set()


def test_https_comes_first_and_http_only_where_it_cannot_connect(monkeypatch):
    monkeypatch.delenv(download.BASE_URL_VARIABLE, raising=False)
    assert download.urls(INFO) == [
        f"https://ann-benchmarks.com/{INFO.file}",
        f"http://ann-benchmarks.com/{INFO.file}",
    ]


def test_http_where_https_cannot_connect(server, good, monkeypatch, capsys):
    secure = f"https://127.0.0.1:9/{INFO.file}"
    plain = f"http://127.0.0.1:{server.server_address[1]}/{INFO.file}"
    monkeypatch.setattr(download, "urls", lambda info: [secure, plain])
    assert fetch("toy").read_bytes() == good
    assert "no connection by HTTPS" in capsys.readouterr().err


def test_no_http_where_https_is_not_to_be_trusted(server, monkeypatch, tmp_path):
    # The port answers, but not as whom the address names.
    address = f"127.0.0.1:{server.server_address[1]}/{INFO.file}"
    monkeypatch.setattr(download, "urls", lambda info: [f"https://{address}", f"http://{address}"])
    with pytest.raises(DownloadError, match=r"no secure connection.*REQUESTS_CA_BUNDLE"):
        fetch("toy")
    assert server.seen == []
    assert INFO.file not in cache(tmp_path)


@pytest.mark.parametrize("address", ["nonsense", "ftp://127.0.0.1", "http://[bad"])
def test_address_that_is_none(server, monkeypatch, address):
    monkeypatch.setenv(download.BASE_URL_VARIABLE, address)
    with pytest.raises(DownloadError, match=r"cannot be fetched.*PQLIB_BASE_URL sets"):
        fetch("toy")


def test_sets_that_are_kept_elsewhere(monkeypatch):
    monkeypatch.delenv(download.BASE_URL_VARIABLE, raising=False)
    (address,) = download.urls(registry.REGISTRY["coco-i2i"])
    assert address.startswith("https://github.com/")
    assert address.endswith("/coco-i2i-512-angular.hdf5")
    monkeypatch.setenv(download.BASE_URL_VARIABLE, "http://mirror/")
    assert download.urls(registry.REGISTRY["coco-i2i"]) == [
        "http://mirror/coco-i2i-512-angular.hdf5"
    ]


def test_cache_that_cannot_be_written(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(registry.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match=r"cannot write.*PQLIB_CACHE"):
        fetch("toy")


def _fetch_in_process(results):
    registry.REGISTRY["toy"] = INFO
    try:
        results.put(str(fetch("toy")))
    except Exception as problem:
        results.put(repr(problem))


def test_two_processes_at_once(server, good):
    server.behave = lambda request, n: request.serve(pace=0.02)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_fetch_in_process, args=(results,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    paths = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert paths == {str(locate("toy"))}
    assert locate("toy").read_bytes() == good
    assert len(server.seen) == 1


KILLED = """
from pqlib.datasets import fetch, registry, download
download.CHUNK = 8192
registry.REGISTRY["toy"] = registry.DatasetInfo(
    "toy", "toy-8-euclidean.hdf5", 3000, 20, 8, "euclidean", 1, "", "", "")
fetch("toy")
"""


def test_killed_half_way_then_completed(server, good, tmp_path):
    server.behave = lambda request, n: request.serve(pace=0.3) if n == 1 else None
    victim = subprocess.Popen([sys.executable, "-c", KILLED], env=os.environ)
    part = tmp_path / "cache" / (INFO.file + ".part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert locate("toy") is None
    assert 0 < part.stat().st_size < len(good)
    assert fetch("toy").read_bytes() == good
    assert server.seen[-1]["Range"].startswith("bytes=")
    assert cache(tmp_path) == WHOLE


def test_ended_before_the_check_does_not_fetch_twice(server, good, monkeypatch):
    def interrupted(path, info):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(validate, "check", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("toy")
    assert locate("toy") is None
    assert fetch("toy").read_bytes() == good
    assert len(server.seen) == 1


def test_says_that_it_waits_for_another_process(server, good, tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    with filelock.FileLock(tmp_path / "cache" / f".{INFO.file}.lock"):
        waiting = threading.Thread(target=fetch, args=("toy",))
        waiting.start()
        said = ""
        deadline = time.monotonic() + 20
        while "waiting for it" not in said and time.monotonic() < deadline:
            said += capsys.readouterr().err
            time.sleep(0.01)
        assert server.seen == []
    waiting.join(timeout=20)
    assert "waiting for it" in said
    assert locate("toy").read_bytes() == good


def test_verify(server, good, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="Fetch it first"):
        verify("toy")
    path = fetch("toy")
    assert "as recorded" in verify("toy")
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"SHA-256.*delete it and fetch"):
        verify("toy")
    other = tmp_path / "mine"
    other.mkdir()
    (other / INFO.file).write_bytes(good)
    monkeypatch.setenv(registry.DATA_VARIABLE, str(other))
    assert "content and ground truth are valid" in verify("toy")


def test_command_line(server, capsys, monkeypatch):
    from pqlib.datasets.__main__ import main

    assert main(["fetch", "toy"]) == 0
    assert capsys.readouterr().out.strip() == str(locate("toy"))
    for words in (["toy"], ["fetch", "toy", "--verify"]):
        assert main(words) == 0
        assert "as recorded" in capsys.readouterr().out
    assert main(["tyo"]) == 1
    assert "Did you mean toy" in capsys.readouterr().err
    for words in ([], ["list"]):
        assert main(words) == 0
        assert "fashion-mnist" in capsys.readouterr().out
    with pytest.raises(SystemExit) as status:
        main(["fetch"])
    assert status.value.code == 2
