"""The comparison with other libraries on tiny data: what it returns and writes, never how fast."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import faiss
import h5py
import numpy as np
import pandas as pd
import pytest
from drawn import legend_words
from matplotlib.image import imread

import pqlib
from pqlib import _threads
from pqlib.study import peers as module
from pqlib.study.choosing import TARGETS, middle_first, needless, worth_timing
from pqlib.study.peers import peers, summarize
from pqlib.study.pipeline import cli
from pqlib.study.pipeline.peers import report, run_peers
from pqlib.study.pipeline.steps import Layout, PipelineError
from pqlib.study.plots import peers as plots
from pqlib.study.plots import style
from pqlib.study.recipes import (
    KINDS,
    Built,
    Rival,
    cascade_entry,
    default_cascade,
    default_graphs,
    power_of_two,
    rivals,
)

ROOT = Path(__file__).parents[1]
QUICK = {"repeats": 1, "latency_queries": 3, "scout_queries": 40, "progress": False}
FAISS = [entry for entry in rivals(2000, 128, True) if entry.library == "faiss"]


@pytest.fixture(scope="module")
def tiny():
    return pqlib.load_dataset("photo-sift", n_train=2000, n_test=60, progress=False)


@pytest.fixture(scope="module")
def without(tiny):
    """A run in which no other library is installed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("hnswlib", "scann", "usearch", "usearch.index"):
            patch.setitem(sys.modules, name, None)  # makes its import fail
        ours = [cascade_entry(32, 64, [(2, 20, None), (8, 20, None), (32, 40, None)])]
        only = ("hnswlib", "ScaNN", "usearch", "HNSW32,Flat", "PCA64,IVF32,SQ8,")
        with _threads.one_thread():
            return peers(tiny, ours, only=only, **QUICK)


def made_up():
    """Points of two rivals whose speed at each target is known, and of one that failed."""
    rows = [
        ("a", "ours", 0.90, 1000.0, 8.0, "ok", None),
        ("a", "ours", 0.98, 250.0, 8.0, "ok", None),
        ("b", "recipe", 0.96, 500.0, 16.0, "ok", None),
        ("b", "recipe", 0.995, 100.0, 16.0, "ok", None),
        ("c", "composition", np.nan, np.nan, np.nan, "not run", "it broke"),
    ]
    table = pd.DataFrame(
        rows, columns=["rival", "kind", "recall", "qps", "bytes_per_vector", "status", "reason"]
    )
    return table.assign(
        library="faiss", setting="nprobe=1", qps_min=table.qps, qps_max=table.qps, build_s=1.0
    )


@pytest.fixture
def one_thread():
    """Threads that wait for each other take far longer than such small pieces of work."""
    with _threads.one_thread():
        yield


# Recipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", FAISS, ids=lambda entry: entry.name)
@pytest.mark.usefixtures("one_thread")
def test_each_faiss_index_is_built_and_finds_neighbours(entry, tiny):
    built = entry.build(tiny.train, tiny.train, 0, True)
    assert built.threads == faiss.omp_get_max_threads()
    assert 20 * tiny.n < built.bytes < 1500 * tiny.n
    cheap, thorough = (built.search(tiny.test, 10, s) for s in (entry.settings[0], *_best(entry)))
    assert thorough.shape == (tiny.nq, 10)
    recalls = [pqlib.recall_at_k(ids, tiny, 10) for ids in (cheap, thorough)]
    assert recalls[0] <= recalls[1] + 0.02
    assert recalls[1] > 0.97
    assert built.search(tiny.test[:1], 10, entry.settings[0]).shape == (1, 10)


def _best(entry):
    return [max(entry.settings, key=lambda s: tuple(s.values()))]


@pytest.mark.parametrize(("n", "d"), [(60_000, 784), (400_000, 128), (1000, 7), (300, 1)])
def test_entries_fit_any_size(n, d):
    for whole in (True, False):
        entries = rivals(n, d, whole)
        assert len({entry.name for entry in entries}) == len(entries)
        for entry in entries:
            assert entry.kind in KINDS
            assert entry.source
            assert entry.settings
            if entry.library == "faiss":
                faiss.index_factory(d, entry.name)
                assert ("SQ8_direct" in entry.name) == (whole and entry.kind == "composition")


def test_parameters_follow_the_documents():
    names = {entry.name for entry in rivals(60_000, 784, True)}
    assert {"IVF1024,PQ98x4fsr,RFlat", "IVF1024,PQ98x4fs,RFlat"} <= names
    assert {"IVF1024,Flat", "PCA64,IVF256,PQ64x4fs,Refine(SQ8_direct)"} <= names
    assert {"PCA96,IVF512,SQ8,Refine(SQ8_direct)", "ScaNN AH, reorder"} <= names
    names = {entry.name for entry in rivals(400_000, 128, False)}
    assert {"IVF2048,PQ64x4fs,RFlat", "IVF512,PQ128x4fs,Refine(SQfp16)"} <= names
    assert "ScaNN AH, reorder" not in names
    assert [power_of_two(x) for x in (0.1, 1, 3, 245, 1500)] == [1, 1, 4, 256, 2048]


@pytest.mark.usefixtures("one_thread")
def test_fractional_numbers_are_refined_from_float16(tiny):
    scaled = tiny.train / 255
    (entry,) = (e for e in rivals(2000, 128, False) if e.name.startswith("PCA64,IVF32,SQ8"))
    built = entry.build(scaled, scaled, 0, False)
    assert pqlib.recall_at_k(built.search(tiny.test / 255, 10, *_best(entry)), tiny, 10) > 0.95


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("whole", [True, False])
def test_a_graph_finds_more_the_longer_it_walks(tiny, whole):
    assert [r.note for r in default_graphs(784, True)] == [
        "degree=32, components=128, rotation=pca", "degree=32, components=192, rotation=pca",
    ]  # fmt: skip
    entry = default_graphs(tiny.d, whole)[0]
    built = entry.build(tiny.train, tiny.train, 0, tiny.whole_numbers)
    recalls = [
        pqlib.recall_at_k(built.search(tiny.test, 10, setting), tiny, 10)
        for setting in (entry.settings[0], entry.settings[-1])
    ]
    assert recalls[0] < recalls[1]
    assert recalls[1] > 0.99
    assert (built.work(tiny.test, 10, entry.settings[0])["codes"] > 10).all()
    assert ("whole vectors" in entry.name) == whole


def test_ours_finds_more_with_more_lists(tiny):
    entry = default_cascade(tiny.n, tiny.d)
    assert (entry.kind, entry.note) == ("ours", "n_lists=32, components=64, rotation=pca")
    built = entry.build(tiny.train, tiny.train, 0, True)
    found = [
        pqlib.recall_at_k(built.search(tiny.test, 10, s), tiny, 10)
        for s in (entry.settings[0], entry.settings[-1])
    ]
    assert found[0] < found[1]
    assert found[1] > 0.95
    assert tiny.d < built.bytes / tiny.n < 3 * tiny.d


# Which settings ----------------------------------------------------------------------------


def grid(values, factors):
    return [{"nprobe": p, "k_factor": f} for p in values for f in factors]


def test_the_middle_comes_first_and_nothing_is_lost():
    settings = grid(range(1, 8), (2, 4))
    order = middle_first(settings)
    assert order[:2] == grid([4], (2, 4))
    assert sorted(map(str, order)) == sorted(map(str, settings))


def test_settings_that_cannot_help_are_not_tried():
    at = lambda p, f: {"nprobe": p, "k_factor": f}  # noqa: E731
    assert needless(at(8, 4), [at(4, 4)], [1.0])
    assert not needless(at(8, 2), [at(4, 4)], [1.0])
    assert needless(at(2, 2), [at(4, 4)], [0.5])
    assert not needless(at(4, 8), [at(4, 4)], [0.5])
    assert needless(at(4, 8), [at(4, 2), at(4, 4)], [0.9, 0.9])
    assert not needless(at(4, 8), [at(4, 2), at(4, 4)], [0.9, 0.95])
    assert not needless(at(8, 8), [at(4, 2), at(4, 4)], [0.9, 0.9])
    margin = lambda m: {"margin": m}  # noqa: E731
    assert needless(margin(None), [margin(0.5)], [1.0])
    assert not needless(margin(0.5), [margin(None)], [1.0])


def test_what_is_timed_surrounds_the_targets_and_leaves_out_what_is_beaten():
    recalls = np.linspace(0.5, 0.999, 60)
    speeds = 1e5 * (1.02 - recalls)
    slow = np.concatenate([speeds, speeds / 3])
    kept = worth_timing(np.concatenate([recalls, recalls]), slow)
    assert max(kept) < 60
    found = recalls[kept]
    assert (np.diff(found) > 0).all()
    assert len(found) <= 10
    for target in TARGETS:
        assert 0 < target - found[found <= target].max() < 0.02
        assert 0 < found[found >= target].min() - target < 0.02
    few = worth_timing(recalls, speeds, queries=10**9)
    assert len(few) == 6
    assert set(few) <= set(kept)
    assert worth_timing(np.array([0.3]), np.array([5.0])) == [0]


# The run -----------------------------------------------------------------------------------


def test_every_rival_has_a_row_and_missing_libraries_say_so(without):
    points = without.points
    missing = points[points.status == "not run"]
    assert set(missing.library) == {"hnswlib", "scann", "usearch"}
    assert missing.reason.str.contains("is not installed").all()
    assert missing[["recall", "qps", "bytes_per_vector"]].isna().all().all()
    done = points[points.status == "ok"]
    assert set(done.kind) == set(KINDS)
    assert done.drop(columns="reason").notna().all().all()
    assert (done.qps_min <= done.qps).all()
    assert (done.qps <= done.qps_max).all()
    for _, rows in done.groupby("rival"):
        assert rows.setting.is_unique
        assert rows.recall.max() > 0.9
    names = set(points.rival)
    assert set(without.entries.rival) == names
    assert len(without.summary) == len(TARGETS) * len(names)
    timed = without.summary[without.summary.target == 0.95].set_index("rival")
    assert timed.p50_ms["CascadeIndex"] > 0
    assert np.isnan(timed.p50_ms["hnswlib M16"])
    assert without.parameters["versions"]["faiss-cpu"]


@pytest.mark.usefixtures("one_thread")
def test_a_rival_that_fails_is_a_row_with_its_reason(tiny):
    def refuse(*_):
        raise RuntimeError("no room left")

    good = cascade_entry(16, 32, [(4, 20, None)], name="good")
    bad = Rival("bad", "ours", "faiss", "here", refuse, ({"nprobe": 1},))
    built = lambda *_: Built(refuse, 1, 2)  # noqa: E731
    mute = Rival("mute", "ours", "faiss", "here", built, ({"nprobe": 1},))
    measured = peers(tiny, [bad, good, mute], only=(), **QUICK)
    table = measured.points.set_index("rival")
    assert table.status.to_dict() == {"bad": "not run", "good": "ok", "mute": "not run"}
    assert table.reason["bad"] == "building failed: no room left"
    assert table.reason["mute"] == "searching failed: no room left"
    text = report(measured)
    assert "- bad: not run, building failed: no room left" in text
    with pytest.raises(ValueError, match="two entries are called 'good'"):
        peers(tiny, [good, good], **QUICK)
    with pytest.raises(ValueError, match="repeats=0"):
        peers(tiny, [good], **{**QUICK, "repeats": 0})


def test_without_any_rival_that_runs_there_are_still_tables(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    lost = Rival("lost", "ours", "no_such_library", "here", lambda *_: None, ({"nprobe": 1},))
    measured = peers(tiny, [lost], only="hnswlib", **QUICK)
    assert set(measured.summary.status) == {"not run"}
    assert "no_such_library is not installed" in report(measured)


def test_summary_reads_speeds_off_the_points():
    table = summarize(made_up(), {"a": {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}})
    at = table.set_index(["rival", "target"])
    assert at.qps["a", 0.90] == 1000
    assert at.how["a", 0.90] == "measured"
    assert at.qps["a", 0.95] == pytest.approx(1000 * 0.25 ** (5 / 8))
    assert at.how["a", 0.99] == "not reached"
    assert np.isnan(at.qps["a", 0.99])
    assert at.qps["b", 0.90] == 500
    assert at.how["b", 0.90] == "exceeds"
    assert at.p99_ms["a", 0.95] == 3
    assert np.isnan(at.p99_ms["a", 0.90])
    assert at.bytes_per_vector["b", 0.99] == 16
    assert (at.status["c"] == "not run").all()
    assert (at.reason["c"] == "it broke").all()


# Text and figures --------------------------------------------------------------------------


def test_text(without):
    text = report(without)
    for words in ("threads: ", "versions: faiss-cpu", "Not run:", "hnswlib M16: not run", "https:"):
        assert words in text
    assert "nan" not in text.lower()


def many(count=30):
    """Points of many rivals, some in the same place, one of ours and one that reaches little."""
    rng = np.random.default_rng(3)
    rows = []
    for i in range(count):
        kind = "ours" if i == 0 else ("recipe", "composition")[i % 2]
        name = f"PCA96,IVF512,PQ96x4fs{i},Refine(SQ8_direct)"
        speed = 10 ** rng.uniform(3, 5)
        for recall in (0.7, 0.91, 0.97, 0.992, 1.0) if i != 5 else (0.6, 0.8):
            size = (200, 900, 905)[i % 3]
            rows.append((name, kind, recall, speed * (1.05 - recall), size, "ok", None))
    table = pd.DataFrame(rows, columns=[*made_up().columns[:7]])
    return table.assign(library="faiss", setting="", build_s=1.0)


@pytest.mark.parametrize("points", [made_up(), many()], ids=["few", "many"])
def test_figures(points):
    summary = summarize(points)
    fast = plots.speed(points, summary, 10)
    assert style.problems(fast) == []
    measured = points[points.status == "ok"]
    assert len(fast.axes[0].get_lines()) == measured.rival.nunique()
    assert legend_words(fast)[0] == plots.short(points.rival[0])
    left, right = fast.axes[0].get_xlim()
    assert left == pytest.approx(0.2)
    assert right < 1e-3

    small = plots.memory(summary)
    assert style.problems(small) == []
    axes, key = small.axes
    reached = summary[(summary.target == 0.95) & summary.qps.notna()]
    drawn = np.concatenate([line.get_xydata() for line in axes.get_lines()])
    expected = reached[["bytes_per_vector", "qps"]].to_numpy()
    assert np.allclose(sorted(map(tuple, drawn)), sorted(map(tuple, expected)))
    words = [text.get_text() for text in key.texts]
    assert sum(word.startswith("-") for word in words) == points.rival.nunique() - len(reached)
    assert {text.get_text() for text in axes.texts} == {str(i) for i in range(1, len(reached) + 1)}


def test_names_in_figures_are_short():
    assert plots.short("PCA64,HNSW24,Refine(SQ8_direct)") == "PCA64,HNSW24 + bytes"
    assert plots.short("IVF64,SQ8,Refine(SQfp16)") == "IVF64,SQ8 + float16"


# The command -------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_files_are_written(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(style.STRICT_VARIABLE, "1")
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    quick = functools.partial(pqlib.tune, budget_s=1)
    monkeypatch.setattr("pqlib.study.pipeline.peers.tune", quick)
    path = tmp_path / "toy-128-euclidean.hdf5"
    with h5py.File(path, "w") as file:
        for name in ("train", "test", "neighbors", "distances"):
            file[name] = getattr(tiny, name)
    layout = Layout(tmp_path / "checkout")
    assert run_peers(layout, str(path), only=("hnswlib M16", "HNSW32,Flat"), **QUICK) == 0
    results, figures = (layout.promoted(kind, "toy") for kind in ("results", "figures"))
    assert sorted(p.name for p in results.iterdir()) == [
        *("peers.csv", "peers.txt", "peers_at_recall.csv")
    ]
    assert sorted(p.name for p in figures.iterdir()) == [
        *("peers.png", "peers.svg", "peers_memory.png", "peers_memory.svg")
    ]
    assert imread(figures / "peers.png").std() > 0
    table = pd.read_csv(results / "peers.csv")
    assert set(table.rival[table.kind != "ours"]) == {"HNSW32,Flat", "hnswlib M16"}
    assert (table.kind == "ours").any()
    assert {"threads", "cpu", "blas", "faiss"} <= set(table.columns)
    at = pd.read_csv(results / "peers_at_recall.csv")
    assert sorted(set(at.target)) == list(TARGETS)
    assert (results / "peers.txt").read_text(encoding="utf-8") in capsys.readouterr().out
    assert not layout.staging.exists()
    with pytest.raises(PipelineError, match=r"peers toy: k=0"):
        run_peers(layout, str(path), k=0, **QUICK)


def test_command_line(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "pqlib.study.pipeline.peers.run_peers", lambda *a, **b: asked.append((a, b)) or 0
    )
    root = ["--root", str(tmp_path), "bench"]
    assert cli.main([*root, "--peers", "--dataset", "sift", "--max-bytes", "64"]) == 0
    (where, dataset), options = asked[0]
    assert (where.root, dataset, options) == (tmp_path, "sift", {"max_bytes": 64})


def test_makefile_installs_the_libraries_only_where_asked_for():
    def make(*words):
        run = subprocess.run(
            ["make", "-n", "bench", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PEERS"},
        )
        return run.stdout

    assert "scripts/peers.py" in make("PEERS=1")
    assert "--peers" in make("PEERS=1")
    for words in ((), ("PEERS=",), ("PEERS=0",)):
        assert "peers" not in make(*words)


def test_a_library_that_cannot_be_installed_is_said_to_be(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = __import__("peers")
    monkeypatch.setattr(script, "wanted", lambda: ["numpy>=1", "no-such-library>=1"])
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: first\nERROR: no matching one\n")
    commands = []
    monkeypatch.setattr(script.subprocess, "run", lambda c, **_: commands.append(c) or failed)
    script.main()
    assert len(commands) == 1
    assert "no-such-library>=1" in commands[0]
    assert "will be left out: ERROR: no matching one" in capsys.readouterr().out
    monkeypatch.undo()
    assert all(part.partition(">")[0] in module.PACKAGES for part in script.wanted())
