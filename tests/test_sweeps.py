"""Sweeps: what their stores keep, give back, refuse, and how they survive being killed."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from pqlib.study import NotRun, sweep, sweeps
from pqlib.study.pipeline.progress import about
from pqlib.study.pipeline.progress import sweep as shown
from pqlib.study.pipeline.watch import SweepState, Watch

NAME = "m, nbits"
CONTEXT = {"dataset": "toy", "seed": np.int64(0), "sizes": (10, 2)}


class Measure:
    """Measures points by a table of results, and knows which it was asked for."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.asked: list[dict] = []
        self.stop_at = stop_at

    def __call__(self, **point):
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(point)
        m = point["m"]
        if m == 3:
            raise NotRun("m=3 does not divide d=8")
        if m == 5:
            return []
        rows = [
            {
                "recall": np.float32(0.1) * m,
                "third": m / 3,
                "count": np.int32(m),
                "qps": None if m == 1 else math.nan,
                "name": f"größe \ud800 {m}",
                "flag": np.bool_(m > 1),
                "nprobe": p,
                "pair": (m, np.int64(p)),
            }
            for p in range(1, m)
        ]
        return rows if m > 1 else {"recall": 1, "count": 2**70, "far": math.inf}


# Two are the same, one gives no row.
POINTS = [{"m": m, "pair": (m, None), "who": np.str_("x")} for m in (1, 2, 3, 2, 4, 5)]


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    # Not pandas's own comparison: NaN within a list differs from itself there.
    assert one.dtypes.equals(other.dtypes)
    assert one.index.equals(other.index)
    for left, right in zip(one.to_dict("records"), other.to_dict("records"), strict=True):
        assert [(n, type(v), repr(v)) for n, v in left.items()] == [
            (n, type(v), repr(v)) for n, v in right.items()
        ]


def lines(store: Path, name: str = "m-nbits") -> list[dict]:
    return [json.loads(line) for line in (store / f"{name}.jsonl").read_bytes().splitlines()]


def test_a_store_changes_nothing_and_measures_nothing_twice(tmp_path):
    plain = sweep(POINTS, Measure())
    first, second = Measure(), Measure()
    same(plain, sweep(POINTS, first, NAME, tmp_path / "new" / "store", CONTEXT))
    assert first.asked == POINTS
    same(plain, sweep(iter(POINTS), second, NAME, tmp_path / "new" / "store", CONTEXT))
    assert second.asked == []
    header, *rest = lines(tmp_path / "new" / "store")
    assert header["format"] == sweeps.STORE_FORMAT
    assert header["context"]["seed"] == 0
    assert len(rest) == len(POINTS)
    assert plain.dtypes.astype(str).to_dict() == {
        "m": "int64", "pair": "object", "who": "str", "recall": "float64", "count": "object",
        "far": "float64", "status": "str", "reason": "str", "third": "float64", "qps": "float64",
        "name": plain.dtypes.astype(str)["name"], "flag": "object", "nprobe": "float64",
    }  # fmt: skip
    assert list(plain.status) == ["ok"] * 2 + ["not run"] + ["ok"] * 4
    assert plain.reason[2] == "m=3 does not divide d=8"


@pytest.mark.parametrize("stop", range(len(POINTS)))
def test_interrupted_anywhere_then_completed(tmp_path, stop):
    first, second = Measure(stop_at=stop), Measure()
    with pytest.raises(KeyboardInterrupt):
        sweep(POINTS, first, NAME, tmp_path, CONTEXT)
    assert len(lines(tmp_path)) == 1 + stop
    same(sweep(POINTS, Measure()), sweep(POINTS, second, NAME, tmp_path, CONTEXT))
    assert first.asked + second.asked == POINTS
    assert not (tmp_path / ".progress.json").exists()


def test_an_error_of_a_point_goes_through_and_spares_those_before(tmp_path):
    def measure(m):
        if m == 2:
            raise ZeroDivisionError("of m=2")
        return {"recall": m}

    points = [{"m": m} for m in range(4)]
    with pytest.raises(ZeroDivisionError, match="of m=2"):
        sweep(points, measure, NAME, tmp_path)
    asked = []
    table = sweep(points, lambda m: asked.append(m) or {"recall": m}, NAME, tmp_path)
    assert asked == [2, 3]
    assert list(table.recall) == [0, 1, 2, 3]


def test_a_generator_that_cannot_run_is_a_row_too(tmp_path):
    def measure(m):
        yield {"recall": 1}
        raise NotRun("too dear")

    for store in (None, tmp_path, tmp_path):
        table = sweep([{"m": 1}], measure, NAME, store)
        assert table.to_dict("records") == [{"m": 1, "status": "not run", "reason": "too dear"}]


def test_points_are_found_by_their_values(tmp_path):
    """Not by their types in NumPy, nor by the order of points or of their columns."""
    sweep([{"m": 4, "bits": np.uint8(8)}, {"m": 2, "bits": 8}], lambda m, bits: {"x": m}, NAME,
          tmp_path)  # fmt: skip
    measure = Measure()
    table = sweep([{"bits": 8, "m": np.int16(2)}, {"m": 4, "bits": 8}], measure, NAME, tmp_path)
    assert measure.asked == []
    assert list(table.columns) == ["bits", "m", "x", "status", "reason"]
    assert table.x.tolist() == [2, 4]
    # Others of the same name join them; one beyond those stored is measured.
    asked = []
    more = [{"m": 6, "bits": 8}, {"m": 2, "bits": 8}, {"m": 2, "bits": 8}]
    table = sweep(more, lambda m, bits: asked.append(m) or {"x": -m}, NAME, tmp_path)
    assert asked == [6, 2]
    assert table.x.tolist() == [-6, 2, -2]


@pytest.mark.parametrize(
    ("name", "context"),
    [
        (NAME, {**CONTEXT, "seed": 1}),
        (NAME, {**CONTEXT, "sizes": [10, 2]}),
        (NAME, None),
        ("m; nbits", CONTEXT),  # the same file, not the same sweep
    ],
)
def test_what_belongs_to_another_context_is_replaced(tmp_path, capsys, name, context):
    sweep(POINTS, Measure(), NAME, tmp_path, CONTEXT)
    again, after = Measure(), Measure()
    same(sweep(POINTS, Measure()), sweep(POINTS, again, name, tmp_path, context))
    assert again.asked == POINTS
    assert len(lines(tmp_path)) == 1 + len(POINTS)
    sweep(POINTS, after, name, tmp_path, context)
    assert after.asked == []
    assert "".join(capsys.readouterr()) == ""


def test_another_format_is_replaced(tmp_path, monkeypatch):
    sweep(POINTS, Measure(), NAME, tmp_path)
    monkeypatch.setattr(sweeps, "STORE_FORMAT", 2)
    again = Measure()
    sweep(POINTS, again, NAME, tmp_path)
    assert again.asked == POINTS


def test_cut_off_anywhere(tmp_path):
    """As if killed, or the disk filled up, at any byte; the rest of a line is written anew."""
    undisturbed = sweep(POINTS[:4], Measure(), NAME, tmp_path, CONTEXT)
    path = tmp_path / "m-nbits.jsonl"
    content = path.read_bytes()
    ends = [i for i, byte in enumerate(content, start=1) if byte == ord("\n")]
    for size in sorted({*range(0, len(content), 11), *ends, *(e - 1 for e in ends)}):
        path.write_bytes(content[:size])
        measure = Measure()
        same(undisturbed, sweep(POINTS[:4], measure, NAME, tmp_path, CONTEXT))
        whole = sum(size >= end for end in ends[1:])
        assert measure.asked == POINTS[whole:4]
        assert len(lines(tmp_path)) == 5
        assert path.read_bytes() == content


def test_damaged_anywhere(tmp_path):
    """A byte that changed costs its line, or all where it is the header's; nothing is believed."""
    undisturbed = sweep(POINTS[:4], Measure(), NAME, tmp_path, CONTEXT)
    path = tmp_path / "m-nbits.jsonl"
    content = path.read_bytes()
    header = content.index(b"\n") + 1
    for place in range(0, len(content), 7):
        for flip in (1, 0x80):
            damaged = bytearray(content)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            measure = Measure()
            table = sweep(POINTS[:4], measure, NAME, tmp_path, CONTEXT)
            same(undisturbed, table)
            assert len(measure.asked) in ((4,) if place < header else (1, 2))
            again = Measure()
            same(undisturbed, sweep(POINTS[:4], again, NAME, tmp_path, CONTEXT))
            assert again.asked == []


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just(math.nan),
    st.integers(-128, 127).map(np.int8), st.integers(0, 2**64 - 1).map(np.uint64),
    st.floats(width=32).map(np.float32), st.floats().map(np.float64), st.booleans().map(np.bool_),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(values, min_size=1, max_size=4), st.lists(scalars, min_size=1, max_size=4))
def test_values_come_back_as_they_were(tmp_path_factory, several, column):
    store = tmp_path_factory.mktemp("store")
    points = [{"point": value} for value in several]
    rows = [{"row": value} for value in column]
    first = sweep(points, lambda point: rows, NAME, store)
    again = sweep(points, Measure(), NAME, store)
    same(first, again)
    plain = sweep(points, lambda point: rows)
    assert first.dtypes.equals(plain.dtypes)
    assert repr(plain.row.tolist()) == repr(first.row.tolist())


@pytest.mark.parametrize("bad", [np.zeros(2), {1, 2}, object(), 1j, np.datetime64("2026-01-01")])
def test_values_that_cannot_be_kept_are_told(tmp_path, bad):
    with pytest.raises(ValueError, match=r"(?s)measured row's x=.* is a .*expected .*Convert"):
        sweep([{"m": 1}], lambda m: {"x": bad}, NAME, tmp_path)
    with pytest.raises(ValueError, match=r"(?s)point's m=.*expected"):
        # Before anything is measured: what cannot be kept would be lost.
        sweep([{"m": 0}, {"m": bad}], lambda m: pytest.fail("measured"), NAME, tmp_path)
    with pytest.raises(ValueError, match=r"(?s)context's m=.*expected"):
        sweep([{"m": 1}], lambda m: {"x": 1}, NAME, tmp_path, {"m": bad})
    # Without a store they are nobody's concern.
    assert len(sweep([{"m": bad}], lambda m: {"x": bad}, NAME)) == 1


def test_names_of_columns_that_cannot_be_kept_are_told(tmp_path):
    with pytest.raises(ValueError, match="column 1: expected a str"):
        sweep([{"m": 1}], lambda m: {1: 2}, NAME, tmp_path)


def test_a_store_needs_a_name(tmp_path):
    with pytest.raises(ValueError, match="progress=None: expected a name"):
        sweep(POINTS, Measure(), store=tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("m, nbits", "m-nbits"),
        ("../../etc/passwd", "etc-passwd"),
        ("größe", "größe"),
        ("?!", "sweep"),
        (".", "sweep"),
        ("\ud800", "sweep"),
        ("x" * 300, "x" * 80),
    ],
)
def test_names_of_files(tmp_path, name, file):
    sweep([{"m": 2}], Measure(), name, tmp_path / "s")
    assert [p.name for p in (tmp_path / "s").glob("[!.]*")] == [f"{file}.jsonl"]


def test_a_store_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"store=.*file/store.*cannot be kept there: Not a dir"):
        sweep(POINTS, Measure(), NAME, tmp_path / "file" / "store")
    with pytest.raises(FileExistsError, match=r"cannot be kept there: File exists"):
        sweep(POINTS, Measure(), NAME, tmp_path / "file")
    (tmp_path / "m-nbits.jsonl").mkdir()
    with pytest.raises(IsADirectoryError, match=r"cannot be kept there"):
        sweep(POINTS, Measure(), NAME, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_may_not_be_written_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"cannot be kept there: Permission denied"):
        sweep(POINTS, Measure(), NAME, tmp_path)


def test_a_full_disk_is_told_and_spares_the_points_before(tmp_path):
    sweep(POINTS[:2], Measure(), NAME, tmp_path)
    size = (tmp_path / "m-nbits.jsonl").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    first = Measure()
    # A write beyond the limit is cut short, then refused: as on a disk that fills up.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200, limits[1]))
    try:
        with pytest.raises(OSError, match=r"store=.*cannot be kept there: File too large. Make"):
            sweep(POINTS, first, NAME, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "m-nbits.jsonl").stat().st_size == size + 200
    second = Measure()
    same(sweep(POINTS, Measure()), sweep(POINTS, second, NAME, tmp_path))
    assert first.asked + second.asked == [*POINTS[2:4], *POINTS[3:]]


def test_the_disk_has_a_point_before_the_next_begins(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    seen = []

    def measure(m):
        seen.append(synced[-1])
        assert (tmp_path / "m-nbits.jsonl").stat().st_size == synced[-1]
        return {"x": m}

    sweep([{"m": m} for m in range(3)], measure, NAME, tmp_path)
    assert len(synced) == 4
    assert seen == synced[:3]


def test_two_processes_do_not_write_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "LOCK_SECONDS", 0.2)
    with (
        FileLock(tmp_path / ".m-nbits.lock"),
        pytest.raises(TimeoutError, match="another process has been at work"),
    ):
        sweep(POINTS, Measure(), NAME, tmp_path)
    # One that ends meanwhile, as a killed run's kernel does, is waited for.
    monkeypatch.setattr(sweeps, "LOCK_SECONDS", 20)
    lock = FileLock(tmp_path / ".m-nbits.lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.3, lock.release).start()
    same(sweep(POINTS, Measure()), sweep(POINTS, Measure(), NAME, tmp_path))


CHILD = """
import json, os, random, signal, sys, time
from pathlib import Path
from pqlib.study import NotRun, sweep

store, seed = Path(sys.argv[1]), int(sys.argv[2])
points = [{"m": m, "mode": mode} for mode in ("a", "b") for m in range(30)]
points.append({"m": 1, "mode": "a"})
side = os.open(store / "side", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

def measure(m, mode):
    os.write(side, f"{mode}{m}\\n".encode())
    time.sleep(0.002)
    if m % 7 == 3:
        raise NotRun(f"no {m}")
    return [{"recall": m / 7, "nprobe": p, "qps": None if p else 1.5} for p in range(m % 4)]

def whole():
    path = store / "a-sweep.jsonl"
    content = path.read_bytes() if path.exists() else b""
    lines = content[: content.rfind(b"\\n") + 1].splitlines()[1:]
    return ["{mode}{m}".format(**json.loads(line)["point"]) for line in lines]

random.seed(seed)
kills, longest = 0, 0.02
while True:
    before, asked = whole(), (store / "side").read_text().split()
    pid = os.fork()
    if pid == 0:
        sweep(points, measure, "a sweep", store, {"seed": 0}).to_pickle(store / "table")
        os._exit(0)
    # Some at the very beginning, most in the middle.
    time.sleep(random.uniform(0.0, longest))
    os.kill(pid, signal.SIGKILL)
    killed = os.waitpid(pid, 0)[1] != 0
    kills += killed
    # What was stored is not asked for again, but for the point that the sweep has twice.
    again = (store / "side").read_text().split()[len(asked):]
    for one in set(again):
        assert again.count(one) + before.count(one) <= 1 + (one == "a1"), one
    assert whole()[: len(before)] == before
    if len(whole()) == len(before):
        longest *= 1.2  # on a slow or busy machine a point takes longer
    if not killed:
        break
names = ["{mode}{m}".format(**point) for point in points]
assert sorted(whole()) == sorted(names)
undisturbed = sweep(points, measure)
undisturbed.to_pickle(store / "undisturbed")
print(kills, len((store / "side").read_text().split()) - 2 * len(points))
"""


@pytest.mark.parametrize("seed", range(3))
def test_killed_many_times_at_random_moments(tmp_path, seed):
    """Each point's result is there once, and none that was stored is measured again."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), str(seed)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kills, lost = map(int, done.stdout.split())
    assert kills >= 5
    assert lost <= kills  # the point under way, at most
    same(pd.read_pickle(tmp_path / "undisturbed"), pd.read_pickle(tmp_path / "table"))


# Progress ----------------------------------------------------------------------------------


def test_progress_is_seen_from_outside_while_a_sweep_runs(tmp_path):
    path = tmp_path / ".progress.json"
    seen = []

    def measure(m):
        seen.append(json.loads(path.read_text()))
        if m == 3:
            raise KeyboardInterrupt
        return {"x": m}

    points = [{"m": m} for m in (0, 1, 2, 3)]
    with pytest.raises(KeyboardInterrupt):
        sweep(points, measure, NAME, tmp_path)
    assert [(s["name"], s["done"], s["total"]) for s in seen] == [(NAME, d, 4) for d in range(4)]
    assert seen[0]["seconds_left"] is None
    assert all(0 <= s["seconds_left"] < 1 for s in seen[1:])
    assert not path.exists()
    # What was taken from the store is done, and says nothing of the pace.
    seen.clear()
    sweep([*points[:3], {"m": 4}, {"m": 5}], measure, NAME, tmp_path)
    assert [(s["done"], s["total"]) for s in seen] == [(3, 5), (4, 5)]
    assert seen[0]["seconds_left"] is None


def test_the_watch_reads_it(tmp_path):
    watch = Watch()
    watch.look()
    assert watch.sweep is None
    path = tmp_path / ".progress.json"
    path.write_text("{}")
    watch.follow(tmp_path)
    assert not path.exists()  # a killed run's
    for nothing in (b"", b"{", b"[]", b"3", b"{}", b"\xff", b'{"name": 1, "done": 2, "total": []}',
                    b'{"name": "a", "done": "x", "total": 3, "seconds_left": null}',
                    b'{"name": "a", "done": Infinity, "total": 3, "seconds_left": null}',
                    b'{"name": "a", "done": 1, "total": 3, "seconds_left": {}}'):  # fmt: skip
        path.write_bytes(nothing)
        watch.look()
        assert watch.sweep is None
        assert shown(watch.sweep) == ""
    state = {"name": "m,\n nbits", "done": 12, "total": 54, "seconds_left": None}
    for left, text in ((None, ""), (70.0, ", 1 min left"), (-1, ""), (math.inf, "")):
        path.write_text(json.dumps({**state, "seconds_left": left}))
        watch.look()
        assert shown(watch.sweep) == f" (m, nbits 12/54{text})"
    path.write_text(json.dumps({**state, "seconds_left": 70.0}))
    written = path.stat().st_mtime
    os.utime(path, (written - 50, written - 50))
    watch.look()
    assert watch.sweep is not None
    assert watch.sweep.seconds_left == pytest.approx(20, abs=2)
    path.unlink()
    watch.look()
    assert watch.sweep is None


def test_times_left_are_about():
    said = {0.2: "0 s", 12.3: "12 s", 59.6: "1 min", 240: "4 min", 3599: "1 h 00 min"}
    assert {seconds: about(seconds) for seconds in said} == said
    assert shown(SweepState("a", 1, 2, 240.0)) == " (a 1/2, 4 min left)"


def test_the_bar_counts_stored_points_but_not_their_time(tmp_path, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, **options):
            bars.append(options)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self):
            bars[-1]["initial"] += 1

    monkeypatch.setattr(sweeps, "tqdm", Bar)
    sweep(POINTS[:2], Measure(), NAME, tmp_path)
    sweep(POINTS, Measure(), NAME, tmp_path)
    sweep(POINTS, Measure())
    assert [(b["initial"], b["total"], b["disable"]) for b in bars] == [
        (2, 2, None), (6, 6, None), (6, 6, True),
    ]  # fmt: skip


def test_progress_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / ".progress.json").mkdir()
    same(sweep(POINTS, Measure()), sweep(POINTS, Measure(), NAME, tmp_path))
