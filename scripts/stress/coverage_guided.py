"""A coverage-guided fuzzer (Atheris, on libFuzzer) on the openers, for a bounded time.

It is installed into a folder of its own for the run; where it cannot be, that is said and counts
as nothing tried.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TARGETS = ("index", "quantizer", "plain", "sweep store")
SECONDS = 45


def run(share: float, seed: int) -> list[dict[str, Any]]:
    """Fuzz each target for some time; return a row for each."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="pqlib-guided-") as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "atheris"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print("  atheris cannot be installed here: nothing tried", flush=True)
            return [{"what": t, "tried": 0, "wrong": 0, "note": "no atheris"} for t in TARGETS]
        for target in TARGETS:
            rows.append(_fuzzed(target, Path(folder), max(5, int(SECONDS * share)), seed))
    return rows


def _fuzzed(target: str, atheris: Path, seconds: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pqlib-corpus-") as corpus:
        options = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=2500"]
        options += [f"-seed={seed % 2**31 or 1}", "-max_len=20000", f"-artifact_prefix={corpus}/"]
        command = [sys.executable, __file__, target, corpus, *options]
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(atheris), str(ROOT), str(ROOT / "tests")]),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            command, capture_output=True, text=True, env=variables, check=False, cwd=corpus
        )
    said = done.stdout + done.stderr
    runs = [int(n) for n in re.findall(r"Done (\d+) runs", said)]
    covered = [int(n) for n in re.findall(r"\bcov: (\d+)", said)]
    tried = runs[-1] if runs else max(map(int, re.findall(r"^#(\d+)", said, re.M)), default=0)
    note = f"{seconds} s, {covered[-1] if covered else 0:,} edges of the code reached"
    wrong = int(done.returncode != 0)
    if wrong:
        _, found, why = said.partition("Uncaught Python exception")
        note = "failed: " + (why[:1500] if found else said[-1500:])
    print(f"  {target}: {tried:,} runs, {note}", flush=True)
    return {"what": target, "tried": tried, "wrong": wrong, "note": note[:200]}


# The fuzzing process -----------------------------------------------------------------------


def _fuzz(target: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["pqlib._file", "pqlib.datasets", "pqlib.indexes"]):
        import faults
        import fuzz
    folder = Path(tempfile.mkdtemp(prefix="pqlib-guided-"))
    os.environ["PQLIB_CACHE"] = str(folder / "cache")
    names = [f"plain {e}" for e in fuzz.PLAIN] if target == "plain" else [target]
    known = {name: fuzz._originals(name, folder) for name in names}
    corpus = Path(arguments[0])
    for place, (originals, _, _) in enumerate(known.values()):
        for number, content in enumerate(originals):
            (corpus / f"{place}-{number}").write_bytes(bytes([place]) + content)

    def one(data: bytes) -> None:
        if not data:
            return
        _, ending, use = list(known.values())[data[0] % len(known)]
        content = data[1:]
        if target in ("index", "quantizer"):
            content = _with_checksums(content)
        path = folder / f"spoilt{ending}"
        path.write_bytes(content)
        said = faults.outcome(use, path)
        if said not in fuzz.HARMLESS:
            raise RuntimeError(said)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def _with_checksums(content: bytes) -> bytes:
    """Mend the checksums of an index file, as a fuzzer does not find those by itself."""
    import faults

    try:
        return faults.assembled(*faults.apart(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return content


if __name__ == "__main__":
    _fuzz(sys.argv[1], sys.argv[2:])
