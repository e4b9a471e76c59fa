"""An index under load: many threads, many queries, little memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2] / "tests"
GROWTH = 0.02
"""Share by which resident memory may grow over all single queries after the first 1,000."""


def run(share: float, seed: int) -> list[dict[str, Any]]:
    """Run each measurement in a process of its own; return a row for each."""
    rows = []
    for name in MEASUREMENTS:
        command = [sys.executable, __file__, name, str(share)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            row = json.loads(done.stdout.splitlines()[-1])
        else:
            row = {"tried": 1, "wrong": 1, "note": f"failed: {done.stderr[-600:]}"}
        print(f"  {name}: {row['note']}", flush=True)
        rows.append({"what": name, **row})
    return rows


def _made(n_train: int | None = None) -> dict[str, tuple[Any, dict[str, Any]]]:
    import pqlib

    ds = pqlib.load_dataset("photo-sift", n_train=n_train, progress=False)
    made: dict[str, tuple[Any, dict[str, Any]]] = {
        "BruteForce": (pqlib.BruteForce(ds.d), {}),
        "KMeansIndex": (pqlib.KMeansIndex(ds.d, 80, 9), dict(nprobe=8)),
        "shared": (pqlib.MultiLevelPQ(ds.d, 80, 9, codebooks="shared"), dict(nprobe=8)),
        "per cluster": (pqlib.MultiLevelPQ(ds.d, 80, 9, rerank="uint8"), dict(nprobe=8)),
        "CascadeIndex": (pqlib.CascadeIndex(ds.d, n_lists=128), dict(nprobe=8)),
        "GraphIndex": (pqlib.GraphIndex(ds.d), dict(ef=40)),
    }
    for index, _ in made.values():
        index.train(ds.train).add(ds.train)
    return {**made, "data": (ds, {})}


def threads(share: float) -> dict[str, Any]:
    """Search in 8 threads while another one loads and searches all indexes."""
    import itertools
    import threading
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    import pqlib

    made = _made()
    ds = made.pop("data")[0]
    queries = ds.test[:200]
    wrong = tried = 0

    def differ(found: Any, expected: Any) -> int:
        return int(not all(map(np.array_equal, found, expected)))

    with tempfile.TemporaryDirectory() as folder:
        right = {}
        for name, (index, how) in made.items():
            index.save(Path(folder) / name)
            right[name] = index.search(queries, 10, **how)
        for name, (index, how) in made.items():
            expected = right[name]
            single = [index.search(query[None], 10, **how) for query in queries]
            stop = threading.Event()
            loads = [0]

            def load(stop: Any = stop, loads: list[int] = loads) -> int:
                bad = 0
                for other, (_, its_how) in itertools.cycle(made.items()):
                    if stop.is_set():
                        return bad
                    # All are read, then all mapped, by turns.
                    mapped = loads[0] // len(made) % 2 == 1
                    loaded = pqlib.load_index(Path(folder) / other, mmap=mapped)
                    bad += differ(loaded.search(queries, 10, **its_how), right[other])
                    loads[0] += 1
                return bad

            def search(
                turn: int, index: Any = index, how: Any = how, expected: Any = expected,
                single: Any = single,
            ) -> int:  # fmt: skip
                if turn % 2:
                    return differ(index.search(queries, 10, **how), expected)
                place = turn % len(queries)
                return differ(index.search(queries[place : place + 1], 10, **how), single[place])

            with ThreadPoolExecutor(9) as pool:
                loading = pool.submit(load)
                turns = max(80, int(400 * share))
                found = list(pool.map(search, range(turns)))
                stop.set()
                wrong += sum(found) + loading.result()
            tried += turns + loads[0]
    of = f"{tried:,} searches and loads of {len(made)} indexes"
    note = f"{of}, all with the results of a single thread"
    return {"tried": tried, "wrong": wrong, "note": note if not wrong else f"{wrong} differ"}


def singles(share: float) -> dict[str, Any]:
    """Ask 100,000 single queries and watch resident memory."""
    made = _made()
    ds = made.pop("data")[0]
    count = max(2000, int(100_000 * share))
    wrong, notes = 0, []
    for name, (index, how) in made.items():
        if name == "BruteForce":
            continue  # a millisecond each, and no state
        before = 0
        for turn in range(count):
            if turn == 1000:
                before = _resident()
            place = turn % ds.nq
            index.search(ds.test[place : place + 1], 10, **how)
        grown = _resident() / before - 1
        wrong += grown > GROWTH
        notes.append(f"{name} {grown:+.2%}")
    note = f"resident memory after {count:,} against after 1,000: {', '.join(notes)}"
    return {"tried": count * len(notes), "wrong": wrong, "note": note}


def limited(share: float, count: int = 10_000, n_train: int | None = None) -> dict[str, Any]:
    """Search with ``max_memory`` and measure what the search took at most."""
    import numpy as np

    made = _made(n_train)
    ds = made.pop("data")[0]
    queries = np.tile(ds.test, (-(-count // ds.nq), 1))
    wrong = tried = 0
    worst = 0.0
    for index, how in made.values():
        checked = min(count, 1000)
        unlimited = index.search(queries[:checked], 10, **how)
        for limit in (4 << 20, 32 << 20, 128 << 20):
            try:
                index.search(queries[:40], 10, **how, max_memory=limit)
            except ValueError as problem:  # too little for one query, said before anything is done
                wrong += "max_memory" not in str(problem)
                continue
            some = count if type(index).__name__ != "BruteForce" else min(count, 1000)
            results = 12 * 10 * some
            peak = _peak(lambda: index.search(queries[:some], 10, **how, max_memory=limit))  # noqa: B023
            found = index.search(queries[:checked], 10, **how, max_memory=limit)
            same = np.isclose(found[0], unlimited[0], rtol=1e-4).mean()
            worst = max(worst, (peak - results) / limit)
            if peak - results > limit or same < 0.999:
                wrong += 1
                print(f"{index!r}: {limit:,}: {peak - results:,} taken, {same:.2%} the same")
            tried += 1
    note = f"at most {worst:.0%} of the bytes allowed were taken"
    return {"tried": tried, "wrong": wrong, "note": note}


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak(work: Callable[[], object]) -> int:
    """Return by how many bytes resident memory grew at most while ``work`` ran."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # else memory freed before would be used unseen
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is now
    before = _resident()
    work()
    status = Path("/proc/self/status").read_text()
    high = int(status.split("VmHWM:")[1].split()[0]) * 1024
    return high - before


MEASUREMENTS: dict[str, Callable[[float], dict[str, Any]]] = {
    "8 threads while another loads": threads,
    "single queries": singles,
    "search under max_memory": limited,
}

if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    print(json.dumps(MEASUREMENTS[sys.argv[1]](float(sys.argv[2]))))
