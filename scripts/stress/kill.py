"""Processes killed at random moments, with all that they started, and begun again.

After each kill what is on disk must be whole, the old or the new; after the last one, a run that
nobody disturbs must end where it would have ended anyway.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faults
import h5py
import numpy as np
import pandas as pd
import psutil

import pqlib
from pqlib import evaluation
from pqlib._file import IndexFile
from pqlib.datasets import truth

ROOT = Path(__file__).parents[2]
KILLS = {
    "reduced notebook": 40,  # takes longest, so it begins
    "download": 40,
    "sweep": 40,
    "index.save": 40,
    "ground-truth cache": 30,
    "tables and figures": 30,
    "make figures": 10,
}


def run(share: float, seed: int) -> list[dict[str, Any]]:
    """Kill what each scenario starts; return a row for each.

    Two at a time, since they mostly wait; but ``make figures``, which takes both cores, alone.
    """

    def one(name: str) -> dict[str, Any]:
        return _tried(name, max(2, round(KILLS[name] * share)), random.Random(f"{seed} {name}"))

    *small, whole = KILLS
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(one, small))
    return [*rows, one(whole)]


def _tried(name: str, kills: int, rng: random.Random) -> dict[str, Any]:
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="pqlib kill é ") as folder:
        try:
            done = SCENARIOS[name](Path(folder), kills, rng)
            note = f"{done} kills, then equal to an undisturbed run"
        except AssertionError as problem:
            wrong, note = 1, f"wrong: {problem}"
    print(f"  {name}: {note}", flush=True)
    return {"what": name, "tried": kills, "wrong": wrong, "note": note[:200]}


# Killing -----------------------------------------------------------------------------------


def _start(command: list[str], **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **variables},
        start_new_session=True,
    )


def _start_figures(root: Path, *more: str, **variables: str) -> subprocess.Popen[str]:
    """Start what ``make figures`` starts, in the checkout ``root``."""
    words = [sys.executable, "-u", "-m", "pqlib.study.pipeline", "--root", str(root), "figures"]
    return _start([*words, *more], **variables)


def _kill(process: subprocess.Popen[str], rng: random.Random) -> None:
    """Kill the process group; every other time also what has left it, such as kernels."""
    others = []
    if rng.random() < 0.5:
        with contextlib.suppress(psutil.Error):
            others = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for other in others:
        with contextlib.suppress(psutil.Error):
            other.kill()
    if process.stdout is not None:
        process.stdout.close()
    process.wait()


def _killed_often(
    start: Callable[[], subprocess.Popen[str]],
    check: Callable[[], None],
    reset: Callable[[], None],
    kills: int,
    longest: float,
    rng: random.Random,
) -> int:
    """Kill ``kills`` processes within ``longest`` seconds of their first line; return how many.

    One that ends by itself is checked too, and does not count.
    """
    done = 0
    for _ in range(20 * kills):
        if done == kills:
            break
        process = start()
        assert process.stdout is not None
        process.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, longest))
        ended = process.poll()
        _kill(process, rng)
        check()
        if ended is None:
            done += 1
        else:
            assert ended == 0, f"a run after a kill ended with {ended}"
            reset()
    assert done == kills, f"only {done} of {kills} runs lasted long enough to be killed"
    return done


def _hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".*") if not p.name.endswith(".lock")]


def _python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


# Scenarios ---------------------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    body = b""

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        begin = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.headers.get("If-Range") == '"v1"':
            begin = int(wanted[1])
        if begin >= len(self.body) > 0:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            size = len(self.body)
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(self.body) - begin))
        self.send_header("ETag", '"v1"')
        self.end_headers()
        with contextlib.suppress(OSError):
            for place in range(begin, len(self.body), 4000):
                self.wfile.write(self.body[place : place + 4000])
                time.sleep(0.004)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, address: Any) -> None:
        """Say nothing: a killed client is what this is about."""


DOWNLOAD = """
import sys
from pqlib.datasets import download, fetch, registry
registry.REGISTRY["toy"] = registry.DatasetInfo(
    "toy", "toy-8-euclidean.hdf5", 3000, 20, 8, "euclidean", 1, "a toy", "made here", "none")
download.CHUNK = 8192
print("go", flush=True)
fetch("toy", progress=False)
"""


def _download(folder: Path, kills: int, rng: random.Random) -> int:
    source = folder / "source.hdf5"
    base, queries = faults.vectors(8000), faults.vectors(20, 1)
    neighbors, distances = truth.exact_neighbors(base, queries, 100, progress=False)
    with h5py.File(source, "w") as file:
        file["train"], file["test"] = base, queries
        file["neighbors"], file["distances"] = neighbors.astype("i4"), distances
        file.attrs["distance"] = "euclidean"
    _Handler.body = source.read_bytes()
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cache = folder / "cache"
    target = cache / "toy-8-euclidean.hdf5"
    variables = {
        "PQLIB_CACHE": str(cache),
        "PQLIB_DATA_DIR": "",
        "PQLIB_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}",
        "NO_PROXY": "*",
    }
    digest = hashlib.sha256(_Handler.body).hexdigest()

    def check() -> None:
        if target.exists():
            assert target.read_bytes() == _Handler.body, "a file under its own name is not whole"
            record = target.with_name(target.name + ".sha256")
            assert record.read_text().split()[0] == digest, "its checksum was not recorded"

    def start() -> subprocess.Popen[str]:
        return _start(_python(DOWNLOAD), **variables)

    try:
        done = _killed_often(start, check, lambda: shutil.rmtree(cache), kills, 1.5, rng)
        last = start()
        last.communicate()
        assert last.returncode == 0, "the last download failed"
        check()
        left = {p.name for p in cache.iterdir() if not p.name.endswith(".lock")} - {"walked"}
        assert left == {target.name, target.name + ".sha256"}, f"left behind: {left}"
    finally:
        server.shutdown()
    return done


SWEEP = """
import sys, time
sys.path.insert(0, sys.argv[2])
import faults
from pqlib.study import sweep
def slow(**point):
    time.sleep(0.03)
    return faults.measure(**point)
print("go", flush=True)
table = sweep(faults.SWEEP_POINTS, slow, "a sweep", sys.argv[1], {"seed": 0})
table.to_pickle(sys.argv[1] + "/table")
"""


def _sweep(folder: Path, kills: int, rng: random.Random) -> int:
    from pqlib.study import sweep

    expected = sweep(faults.SWEEP_POINTS, faults.measure)
    store = folder / "store"
    store.mkdir()

    def reset() -> None:
        assert pd.read_pickle(store / "table").equals(expected), "a resumed table differs"
        shutil.rmtree(store)
        store.mkdir()

    command = _python(SWEEP, store, ROOT / "tests")
    done = _killed_often(lambda: _start(command), lambda: None, reset, kills, 0.6, rng)
    last = _start(command)
    last.communicate()
    assert last.returncode == 0, "the last sweep failed"
    assert pd.read_pickle(store / "table").equals(expected), "the table differs"
    left = {p.name for p in store.iterdir() if not p.name.endswith(".lock")}
    assert left == {"table", "a-sweep.jsonl"}, f"left behind: {left}"
    return done


SAVE = """
import itertools, sys
import pqlib
both = [pqlib.load_index(path) for path in sys.argv[2:4]]
print("go", flush=True)
for turn in range(int(sys.argv[4])):
    both[turn % 2].save(sys.argv[1])
"""


def _save(folder: Path, kills: int, rng: random.Random) -> int:
    place = folder / "place"
    place.mkdir()
    versions = []
    for seed, name in enumerate(("one", "two")):
        x = np.random.default_rng(seed).random((30_000, 64)).astype(np.float32)
        index = pqlib.MultiLevelPQ(64, 20, 4, codebooks="shared", rerank="float32")
        index.train(x[:5000]).add(x).save(folder / name)
        versions.append((folder / name).read_bytes())
    target = place / "index"

    def check() -> None:
        if target.exists():
            assert target.read_bytes() in versions, "the saved index is neither of the two"
            pqlib.load_index(target)

    def start(turns: int = 10**6) -> subprocess.Popen[str]:
        return _start(_python(SAVE, target, folder / "one", folder / "two", turns))

    done = _killed_often(start, check, lambda: None, kills, 0.3, rng)
    last = start(2)
    last.communicate()
    assert last.returncode == 0, "the last save failed"
    assert target.read_bytes() == versions[1], "the last save is not what was saved"
    assert _hidden(place) == [], f"left behind: {_hidden(place)}"
    return done


TRUTH = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import faults
from pqlib.datasets import truth
print("go", flush=True)
for seed in range(int(sys.argv[3])):
    base, queries = faults.vectors(300, seed), faults.vectors(20, 10**6)
    truth.cached_neighbors(base, queries, Path(sys.argv[1]), f"set {seed}", False)
"""


def _truth(folder: Path, kills: int, rng: random.Random) -> int:
    place = folder / "cache"

    def check() -> None:
        for path in place.glob("*.neighbors"):
            held = IndexFile(path)
            seed = int(path.stem.split()[1])
            base, queries = faults.vectors(300, seed), faults.vectors(20, 10**6)
            exact, _ = truth.exact_neighbors(base, queries, progress=False)
            assert np.array_equal(held.read("neighbors"), exact), f"{path.name} is wrong"

    def start() -> subprocess.Popen[str]:
        return _start(_python(TRUTH, place, ROOT / "tests", 60))

    done = _killed_often(start, check, lambda: shutil.rmtree(place), kills, 0.5, rng)
    last = start()
    last.communicate()
    assert last.returncode == 0, "the last run failed"
    check()
    assert len(list(place.iterdir())) == 60, "not all are there, or more"
    return done


WRITES = """
import sys
import pandas as pd
from pathlib import Path
from pqlib.study import save_table
from pqlib.study.plots import style
import matplotlib.pyplot as plt
from pqlib.study.pipeline.steps import write_atomically
print("go", flush=True)
for turn in range(int(sys.argv[2])):
    table = pd.DataFrame({"a": range(2000), "turn": turn % 2})
    save_table(table, sys.argv[1], "01_table")
    write_atomically(Path(sys.argv[1]) / "stamp.json", b"0123456789" * 1000 * (1 + turn % 2))
    if turn % 5 == 0:
        figure, axes = plt.subplots(figsize=(2, 2))
        axes.plot([0, 1 + turn % 2]); axes.set_xlabel("x"); axes.set_ylabel("y")
        style.show(figure, sys.argv[1], "01_figure")
        plt.close(figure)
"""


def _writes(folder: Path, kills: int, rng: random.Random) -> int:
    def finished(turns: int, place: Path) -> dict[str, bytes]:
        last = _start(_python(WRITES, place, turns))
        last.communicate()
        assert last.returncode == 0, "a run failed"
        return {p.name: p.read_bytes() for p in place.rglob("*") if p.is_file()}

    whole = [finished(turns, folder / f"whole {turns}") for turns in (1, 6)]
    place = folder / "place"

    def check() -> None:
        for path in place.rglob("[!.]*"):
            if path.is_file():
                found = path.read_bytes()
                assert any(found == one[path.name] for one in whole), f"{path.name} is in part"

    command = _python(WRITES, place, 10**6)
    done = _killed_often(lambda: _start(command), check, lambda: None, kills, 0.6, rng)
    assert finished(6, place) == whole[1], "something is left behind, or differs"
    return done


NOTEBOOK = """# %% [markdown]
# # Look at numbers

# %% tags=["parameters"]
dataset = "photo-sift"
output = None
resume = None

# %%
import time
import matplotlib.pyplot as plt
import pandas as pd
import pqlib
from pqlib.study import save_table, sweep
from pqlib.study.plots import style
ds = pqlib.load_dataset(dataset, n_train=2000, n_test=50)

# %%
def measure(m):
    index = pqlib.MultiLevelPQ(ds.d, 10, 3, m=m, nbits=4, codebooks="shared").train(ds.train)
    index.add(ds.train)
    time.sleep(0.1)
    return {"recall": pqlib.recall_at_k(index.search(ds.test, 10, nprobe=3)[1], ds, 10)}

table = sweep([{"m": m} for m in (2, 4, 8, 16, 32)], measure, "m", resume, {"data": ds.fingerprint})
save_table(table, output, "01_recall")

# %%
figure, axes = plt.subplots(figsize=(4, 3))
axes.plot(table.m, table.recall)
axes.set_xlabel("m, numbers of a code")
axes.set_ylabel("recall@10")
style.show(figure, output, "01_recall")
"""


def _state(root: Path) -> dict[str, bytes]:
    """What a run is to leave behind, apart from what holds times."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for kind in ("figures", "results")
        for p in sorted((root / kind).rglob("*"))
        if p.is_file() and p.name != "run.csv"
    }


def _reduced(folder: Path, kills: int, rng: random.Random) -> int:
    def checkout(name: str) -> Path:
        root = folder / name
        (root / "notebooks").mkdir(parents=True)
        (root / "pqlib").mkdir()
        (root / "notebooks" / "01_first.py").write_text(NOTEBOOK)
        return root

    def start(root: Path) -> subprocess.Popen[str]:
        return _start_figures(root, PQLIB_CACHE=str(folder / "cache"))

    undisturbed = checkout("undisturbed")
    first = start(undisturbed)
    first.communicate()
    assert first.returncode == 0, "the undisturbed run failed"
    expected, root = _state(undisturbed), checkout("disturbed")
    assert len(expected) == 3, f"expected a table and a figure twice, found {list(expected)}"

    def check() -> None:
        now = _state(root)
        assert all(expected[name] == content for name, content in now.items()), "a file is in part"

    def reset() -> None:
        assert _state(root) == expected, "a completed run differs from the undisturbed one"
        shutil.rmtree(root)
        checkout("disturbed")

    done = _killed_often(lambda: start(root), check, reset, kills, 5.0, rng)
    last = start(root)
    last.communicate()
    assert last.returncode == 0, "the last run failed"
    assert _state(root) == expected, "the end differs from the undisturbed one"
    assert not (root / "runs" / ".staging").exists(), "the staging folder is left behind"
    return done


def _figures(folder: Path, kills: int, rng: random.Random) -> int:
    """Kill ``make figures``'s run of a checkout and compare with what is committed here.

    What differs may come from another kind of processor, see docs/reliability.md: the notebooks of
    such tables are run undisturbed on this one too, and compared with that.
    """
    names = subprocess.run(
        ["git", "ls-files", "-z", "pqlib", "notebooks"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    def checkout(called: str) -> Path:
        place = folder / called
        for name in filter(None, names.split("\0")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
        return place

    def start(place: Path, *more: str) -> subprocess.Popen[str]:
        variables = {"PYTHONPATH": str(place), "PQLIB_CACHE": str(folder / "cache")}
        return _start_figures(place, *more, **variables)

    def finish(place: Path, *more: str) -> None:
        run = start(place, *more)
        said, _ = run.communicate()
        assert run.returncode == 0, f"the last run failed: {said[-1000:]}"

    root = checkout("checkout")
    done = 0
    for _ in range(kills):
        process = start(root)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=rng.uniform(0, 45))
        assert process.returncode in (None, 0), "a run after a kill failed"
        done += process.returncode is None
        _kill(process, rng)
    finish(root)
    there, here = _tables(root / "results"), _tables(ROOT / "results" / "reference")
    assert there.keys() == here.keys(), f"other files: {sorted(there.keys() ^ here.keys())}"
    differing = [name for name in here if not there[name].equals(here[name])]
    if differing:
        undisturbed = checkout("undisturbed")
        finish(undisturbed, "--notebooks", " ".join(sorted({name[:2] for name in differing})))
        here = _tables(undisturbed / "results")
        differing = [name for name in differing if not there[name].equals(here[name])]
    assert not differing, f"tables differ from those of an undisturbed run: {differing}"
    places = (root / "figures", ROOT / "figures" / "reference")
    figures = [{p.name for p in (place / "photo-sift").iterdir()} for place in places]
    own = {name for name in figures[1] if name[:2].isdigit()}
    assert figures[0] == own, f"other figures: {sorted(figures[0] ^ own)}"
    return done


def _tables(results: Path) -> dict[str, pd.DataFrame]:
    """Return the tables in a folder of results, without what holds times or follows from them."""
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    section = text.split("## Which values a re-run changes")[1].split("\n## ")[0]
    timed = set(re.findall(r"`(\w+)`", section.split("**What follows")[0]))
    dropped = timed | set(evaluation.machine()) | {"pareto", "how"}
    found = {}
    for path in sorted((results / "photo-sift").glob("[0-9][0-9]_*.csv")):
        if path.name.startswith("07_"):  # what tune chooses follows from timings
            continue
        table = pd.read_csv(path)
        if "timed" in table:
            table = table[~table.timed].reset_index(drop=True)
        found[path.name] = table.drop(columns=[name for name in table if name in dropped])
    return found


SCENARIOS: dict[str, Callable[[Path, int, random.Random], int]] = {
    "download": _download,
    "sweep": _sweep,
    "index.save": _save,
    "ground-truth cache": _truth,
    "tables and figures": _writes,
    "reduced notebook": _reduced,
    "make figures": _figures,
}
