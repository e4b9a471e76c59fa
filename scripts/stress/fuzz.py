"""Spoilt files of every format, opened and used in processes that are watched.

A worker takes a format and a range of seeds; it says which case it is at before it opens it, so
that a crash has a name. Its memory is limited, its cases are timed.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

PLAIN = (".fvecs", ".bvecs", ".fbin", ".u8bin", ".i8bin", ".npy")
CASES = {
    **{f"plain {ending}": 1500 for ending in PLAIN},
    "hdf5": 500,
    "hdf5 gzip": 500,
    "hdf5 with a checksum": 200,
    "parquet": 500,
    "index": 4000,
    "index forged": 6000,
    "quantizer": 1500,
    "quantizer forged": 3000,
    "sweep store": 1500,
    "ground truth cache": 1500,
}
WORKERS = 2
HANGS = 60.0
"""Seconds after which a case is taken for one that never ends."""

HARMLESS = ("accepted", "refused")
# What has a checksum must not be accepted with a byte changed.
CHECKED = ("index", "quantizer", "hdf5 with a checksum")


def run(share: float, seed: int) -> list[dict[str, Any]]:
    """Try all formats; return a row for each."""
    jobs = [(name, max(20, int(cases * share))) for name, cases in CASES.items()]
    # The slow ones first, so that no worker ends long after the other.
    jobs.sort(key=lambda job: -job[1] * (50 if job[0].startswith(("hdf5", "parquet")) else 1))
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(lambda job: _watched(*job, seed), jobs))


def _watched(name: str, cases: int, seed: int) -> dict[str, Any]:
    """Run the cases of a format in workers, a new one after each that crashed."""
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    first, worst = seed, 0.0
    end = seed + cases
    while first < end:
        command = [sys.executable, __file__, name, str(first), str(end)]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        at = first
        with tempfile.TemporaryFile("w+") as errors:
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables
            )
            assert child.stdout is not None
            for line in child.stdout:
                said = json.loads(line)
                at = said["case"]
                if "outcome" in said:
                    counts[said["outcome"] if said["outcome"] in HARMLESS else "wrong"] += 1
                    worst = max(worst, said["seconds"])
                    if said["outcome"] not in HARMLESS:
                        wrong.append(f"case {at}: {said['outcome'][:300]}")
                    at += 1
            if child.wait() == 0:
                break
            errors.seek(0)
            error = errors.read()[-1500:]
        wrong.append(f"case {at}: the process ended with {child.returncode} {error}")
        first = at + 1
    for line in wrong[:20]:
        print(f"  {name}: {line}", flush=True)
    tried = sum(counts.values()) + sum("the process ended" in line for line in wrong)
    note = f"{counts['refused']:,} refused, {counts['accepted']:,} accepted, longest {worst:.1f} s"
    print(f"  {name}: {tried:,} tried, {len(wrong)} wrong, {note}", flush=True)
    return {"what": name, "tried": tried, "wrong": len(wrong), "note": note}


# The worker --------------------------------------------------------------------------------


def _work(name: str, first: int, end: int) -> None:
    import faulthandler
    import hashlib
    import time

    import faults

    # A case without end is told by where it is, and ends the worker.
    faulthandler.dump_traceback_later(HANGS, exit=True)

    folder = Path(tempfile.mkdtemp(prefix="pqlib-fuzz-"))
    os.environ["PQLIB_CACHE"] = str(folder / "cache")
    originals, ending, use = _originals(name, folder)
    faults.limit_memory()
    for case in range(first, end):
        rng = np.random.default_rng(case)
        original = originals[int(rng.integers(len(originals)))]
        spoil = faults.forged if name.endswith("forged") else faults.mutated
        spoilt = spoil(original, rng)
        path = folder / f"spoilt{ending}"
        path.write_bytes(spoilt)
        if name == "hdf5 with a checksum":
            digest = hashlib.sha256(original).hexdigest()
            Path(f"{path}.sha256").write_text(f"{digest}  {path.name}\n")
        print(json.dumps({"case": case}), flush=True)
        faulthandler.dump_traceback_later(HANGS, exit=True)
        started = time.monotonic()
        outcome = faults.outcome(use, path)
        if outcome == "accepted" and name in CHECKED and spoilt not in originals:
            outcome = "an altered file was accepted"
        seconds = time.monotonic() - started
        print(json.dumps({"case": case, "outcome": outcome, "seconds": seconds}), flush=True)
        for left in folder.glob("spoilt*"):
            left.unlink()


def _originals(name: str, folder: Path) -> tuple[list[bytes], str, Any]:
    """Return valid files of a format, their ending, and what opens and uses one."""
    import faults

    from pqlib.datasets import truth
    from pqlib.study import sweep

    path = folder / "valid"
    if name.startswith("plain"):
        ending = name.split()[1]
        return [faults.plain(ending)], ending, faults.use_dataset
    if name.startswith("hdf5"):
        hows: list[dict[str, Any]] = [{}, {"chunks": (50, 8)}]
        if name == "hdf5 gzip":
            hows = [{"compression": "gzip"}, {"compression": "lzf", "shuffle": True}]
        originals = []
        for how in hows:
            if name == "hdf5 gzip":
                how["chunks"] = (20, 4)
            faults.write_hdf5(path, **how)
            originals.append(path.read_bytes())
        return originals, ".hdf5", faults.use_dataset
    if name == "parquet":
        import pyarrow as pa
        import pyarrow.parquet

        originals = []
        for how in ({}, {"compression": "none", "use_dictionary": False}, {"row_group_size": 20}):
            table = pa.table({"emb": list(faults.vectors(60)), "text": ["words"] * 60})
            pa.parquet.write_table(table, path, **how)
            originals.append(path.read_bytes())
        return originals, ".parquet", faults.use_dataset
    if name.startswith(("index", "quantizer")):
        made: dict[str, Any] = faults.indexes() if name.startswith("index") else faults.family()
        originals = []
        for one in made.values():
            one.save(path)
            originals.append(path.read_bytes())
        use = faults.use_index if name.startswith("index") else faults.use_quantizer
        return originals, ".pqlib", use
    if name == "sweep store":
        sweep(faults.SWEEP_POINTS, faults.measure, "a sweep", folder, {"seed": 0})
        content = (folder / "a-sweep.jsonl").read_bytes()

        def finish(spoilt: Path) -> object:
            place = spoilt.with_name("a-sweep.jsonl")
            spoilt.replace(place)
            return faults.use_sweep(place)

        return [content], "", finish
    truth.cached_neighbors(faults.vectors(300), faults.vectors(20, 1), folder, "spoilt", False)
    content = (folder / "spoilt.neighbors").read_bytes()
    return [content], ".neighbors", faults.use_truth


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    _work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
