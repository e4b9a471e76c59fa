"""What the world does: full disks, folders that may not be written, little memory, odd clocks."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import pqlib

TESTS = Path(__file__).parent

WRITERS = """
import sys, os, resource
from pathlib import Path
import numpy as np
import pandas as pd
import matplotlib.pyplot as plt
sys.path.insert(0, sys.argv[1])
place, what = Path(sys.argv[2]), sys.argv[3]
import faults
import pqlib
from pqlib import quantizers
from pqlib.study import save_table, sweep
from pqlib.study.pipeline.steps import write_atomically
from pqlib.study.plots import style

def figure():
    made, axes = plt.subplots(figsize=(4, 4))
    axes.plot(np.random.default_rng(0).random(3000))
    axes.set_xlabel("x"); axes.set_ylabel("y")
    return made

def index():
    x = np.random.default_rng(0).random((4000, 32)).astype(np.float32)
    return pqlib.KMeansIndex(32, 8, 2).train(x).add(x)

def sweeping():
    points = [{"m": m} for m in range(2000)]
    sweep(points, lambda m: {"text": "x" * 2000}, "long", place / "sweep", {})

WORK = {
    "index": lambda: index().save(place / "index"),
    "quantizer": lambda: quantizers.ProductQuantizer(64, 4, 8).train(
        np.random.default_rng(0).random((500, 64)).astype(np.float32)).save(place / "quantizer"),
    "table": lambda: save_table(pd.DataFrame({"a": range(100_000)}), place, "01_table"),
    "stamp": lambda: write_atomically(place / "stamp.json", b"x" * 400_000),
    "figure": lambda: style.show(figure(), place, "01_figure"),
    "sweep": sweeping,
}
def attempt():
    if sys.argv[4] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        WORK[what]()
    except OSError as problem:
        print(what, problem.errno, problem, flush=True)
        os._exit(7)
    os._exit(0)

# What is imported is imported once; each attempt has a process of its own.
for what in sys.argv[3].split():
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        attempt()
    print(what, "ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

WHATS = ("index", "quantizer", "table", "stamp", "figure", "sweep")


def said(place, whats, limit="", prefix=()):
    """Try to write each of ``whats`` into a folder; return what each said of its failure."""
    command = [*prefix, sys.executable, "-c", WRITERS, TESTS, place, " ".join(whats), limit]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False,
        env={**os.environ, "MPLBACKEND": "agg", "PQLIB_STRICT_FIGURES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for what in whats:
        assert f"{what} ended with 7" in done.stdout, done.stdout + done.stderr
    return dict(re.findall(r"^(\w+) (\d+ .*)$", done.stdout, re.MULTILINE))


def snapshot(place):
    return {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*")
            if p.is_file() and not p.name.endswith(".lock")}  # fmt: skip


def test_a_file_that_cannot_be_written_to_its_end(tmp_path):
    """The limit on a file's size stands for a full disk: it strikes in the middle as well."""
    place = tmp_path / "place"
    place.mkdir()
    old = ("index", "quantizer", "stamp.json", "results/01_table.csv", "figures/01_figure.png")
    for name in old:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"what was there before")
    before = snapshot(place)
    errors = said(place, WHATS, "limit")
    assert list(errors) == list(WHATS)
    assert all(words.startswith(str(errno.EFBIG)) for words in errors.values())
    after = snapshot(place)
    stored = after.pop("sweep/long.jsonl").splitlines()
    # Points that fitted are there for the next run, each in full but the last.
    whole = [json.loads(line)["point"]["m"] for line in stored[1:-1]]
    assert whole == list(range(len(whole)))
    assert len(whole) > 10
    assert "points stored before are kept" in errors["sweep"]
    assert after == before


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A way to run a command in a mount namespace with a disk of 100 KB at {place}."""
    place = tmp_path_factory.mktemp("disk")
    script = f'mount -t tmpfs -o size=100k none "{place}" && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    works = shutil.which("unshare") and (
        subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    )
    return (place, command) if works else None


def test_a_disk_that_is_full(small_disk, tmp_path):
    """On a real one where the system lets us make one; elsewhere the limit above must do."""
    if small_disk is None:
        pytest.skip("this system lets nobody make a small disk; the limit above stands for it")
    place, prefix = small_disk
    # It goes with its namespace, so what is left on it is looked at in there.
    look = f'"$@"; (cd "{place}" && find . -type f | sort && cat index) > "{tmp_path}/left"'
    inside = [*prefix, "sh", "-c", f'echo -n old > "{place}/index"; {look}', "sh"]
    whats = ("index", "table", "figure", "stamp")
    errors = said(place, whats, prefix=inside)
    assert all(words.startswith(str(errno.ENOSPC)) for words in errors.values()), errors
    assert (tmp_path / "left").read_text() == "./index\nold"


# Permissions -------------------------------------------------------------------------------


def without_privileges():
    """The start of a command that has no more rights than the owner's, also when root runs it."""
    if os.geteuid() != 0:
        return []
    prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and there is no setpriv to give that up")
    return prefix


def test_a_folder_that_may_not_be_written(tmp_path):
    place = tmp_path / "place"
    (place / "results").mkdir(parents=True)
    (place / "figures").mkdir()
    folders = [place / "results", place / "figures", place]
    for folder in folders:
        folder.chmod(0o555)
    try:
        errors = said(place, WHATS, prefix=without_privileges())
        for words in errors.values():
            assert words.startswith(str(errno.EACCES))
            assert str(place) in words
        assert len(errors) == len(WHATS)
        assert snapshot(place) == {}
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_data_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "base.fvecs"
    path.write_bytes(b"x" * 100)
    path.chmod(0)
    command = [*without_privileges(), sys.executable, "-m", "pqlib.datasets", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cache_that_may_not_be_written_costs_time_only(tmp_path):
    """Ground truth is computed again, and a file walked again, without a word of complaint."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o555)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import faults, pqlib\n"
        "from pathlib import Path\nfaults.write_hdf5(Path(sys.argv[2]))\n"
        "for _ in range(2): print(pqlib.load_dataset(sys.argv[2], n_train=200).neighbors.sum())"
    )
    command = [*without_privileges(), sys.executable, "-c", code, str(TESTS)]
    done = subprocess.run(
        [*command, str(tmp_path / "set.hdf5")], capture_output=True, text=True, check=False,
        env={**os.environ, "PQLIB_CACHE": str(cache)},
    )  # fmt: skip
    cache.chmod(0o755)
    assert done.returncode == 0, done.stderr
    one, other = done.stdout.split()
    assert one == other
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("how", ["permission", "room"])
def test_a_checkout_that_cannot_be_written(tmp_path, how):
    """`make figures` says it in one message and ends with 1; what was there is as it was."""
    root = tmp_path / "checkout"
    (root / "notebooks").mkdir(parents=True)
    (root / "pqlib").mkdir()
    cells = '# %% tags=["parameters"]\ndataset = "photo-sift"\noutput = None\n\n# %%\n'
    cells += "from pathlib import Path\n"
    cells += "if output: (Path(output) / 'results').mkdir()\n"
    cells += "if output: (Path(output) / 'results/01_a.csv').write_text('a\\n' * 100_000)\n"
    (root / "notebooks/01_first.py").write_text(cells)
    words = [sys.executable, "-m", "pqlib.study.pipeline", "--root", str(root), "figures"]
    prefix = without_privileges()
    if how == "permission":
        root.chmod(0o555)
        words = [*prefix, *words]
    else:
        # The limit is inherited by the kernel; SIGXFSZ is ignored by Python.
        words = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    root.chmod(0o755)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    if how == "permission":
        assert "The file system refused" in said
        assert "Traceback" not in said
    else:
        assert "File too large" in said
    assert not (root / "results").exists()
    assert not (root / "figures").exists()


# Memory ------------------------------------------------------------------------------------


def limited(code, *arguments, spare=200 << 20):
    text = (
        "import sys; sys.path.insert(0, sys.argv[1]); import faults, pqlib\n"
        f"faults.limit_memory({spare})\n{code}"
    )
    return subprocess.run(
        [sys.executable, "-c", text, str(TESTS), *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_data_that_do_not_fit_into_memory(tmp_path):
    path = tmp_path / "base.u8bin"
    with path.open("wb") as file:
        file.write(np.array([2_000_000, 64], "<u4").tobytes())
        file.truncate(8 + 2_000_000 * 64)
    done = limited("from pqlib.datasets.__main__ import main; sys.exit(main([sys.argv[2]]))", path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {path}")
    assert "0.5 GiB as float32" in done.stderr
    assert "n_train" in done.stderr
    # As it says, fewer do fit.
    done = limited("print(pqlib.load_dataset(sys.argv[2], n_train=1000, n_test=10).n)", path)
    assert done.stdout == "1000\n", done.stderr


def test_an_index_that_does_not_fit_into_memory(tmp_path):
    index = pqlib.BruteForce(64).add(np.zeros((600_000, 64), np.float32))
    index.save(tmp_path / "index")
    done = limited("pqlib.load_index(sys.argv[2])", tmp_path / "index", spare=100 << 20)
    assert done.returncode == 1
    assert "MemoryError: " + str(tmp_path / "index") in done.stderr
    assert "mmap=True" in done.stderr
    # As it says, mapped it does: address space is what is limited here, so with more of that.
    code = "print(pqlib.load_index(sys.argv[2], mmap=True).ntotal)"
    assert limited(code, tmp_path / "index", spare=400 << 20).stdout == "600000\n"


# Clocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-10 * 365 * 86400.0, 10 * 365 * 86400.0])
def test_a_clock_that_jumps(tmp_path, monkeypatch, jump):
    """Sweeps and downloads measure with a clock that does not; what is stored stays valid."""
    from pqlib.study import sweep

    real, started = time.time, time.monotonic()
    monkeypatch.setattr(time, "time", lambda: real() + (jump if time.monotonic() % 2 < 1 else 0))
    points = [{"m": m} for m in range(5)]
    asked = []

    def measure(m):
        asked.append(m)
        for path in tmp_path.iterdir():
            os.utime(path, (real() + jump, real() + jump))
        return {"x": m}

    for _ in range(2):
        table = sweep(points, measure, "a sweep", tmp_path, {})
        assert table.x.tolist() == [0, 1, 2, 3, 4]
    assert asked == [0, 1, 2, 3, 4]
    assert time.monotonic() - started < 30


# Files that appear at once -------------------------------------------------------------------


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path):
    from pqlib._atomic import replacing

    final = tmp_path / "file (1)[*]"
    abandoned = tmp_path / ".file (1)[*].0123456789abcdef.part"
    abandoned.write_bytes(b"half")
    another = tmp_path / ".file (1)[*] of another name.0123.part"
    another.write_bytes(b"not ours")
    with replacing(final) as outer:
        outer.write(b"outer")
        assert not abandoned.exists()
        with replacing(final) as inner:  # a second writer finds the first one at work
            inner.write(b"inner")
        assert final.read_bytes() == b"inner"
    assert final.read_bytes() == b"outer"
    assert sorted(tmp_path.iterdir()) == sorted([final, another])
