"""The benchmark on a tiny data set: what it returns and writes, never how fast it was."""

import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from drawn import legend_words
from matplotlib.image import imread

import pqlib
from pqlib.study import bench_methods as module
from pqlib.study.bench import LOCAL, RIVAL, SHARED, SKETCH, bench, default_parameters
from pqlib.study.pipeline import cli
from pqlib.study.pipeline.bench import report, run_bench
from pqlib.study.pipeline.steps import Layout, PipelineError
from pqlib.study.pipeline.text import aligned
from pqlib.study.plots import bench as plots
from pqlib.study.plots import style
from pqlib.study.sketch import check_same_answers, sketch_search

ROOT = Path(__file__).parents[1]
TINY = {
    "n_inner": 12,
    "n_outer": 4,
    "m": 4,
    "nbits": 4,
    "repeats": 2,
    "latency_queries": 5,
    "sketch_queries": 4,
    "matrix_size": 16,
    "progress": False,
}


@pytest.fixture(scope="module")
def tiny(clustered, as_dataset):
    return as_dataset(*clustered)


@pytest.fixture(scope="module")
def measured(tiny):
    return bench(tiny, **TINY)


@pytest.fixture(scope="module")
def index(tiny):
    made = pqlib.MultiLevelPQ(tiny.d, 12, 4, m=4, nbits=4)
    return made.train(tiny.train).add(tiny.train)


def row(table, method, nprobe=1):
    return table[(table.method == method) & (table.nprobe == nprobe)].squeeze()


def test_methods_at_every_nprobe_and_the_sketch_once(measured):
    table = measured.methods
    names = [
        RIVAL,
        SHARED,
        f"{SHARED}, two levels",
        LOCAL,
        f"{SHARED}, re-ranked",
        f"{LOCAL}, re-ranked",
    ]
    assert list(table.method) == [*names, SKETCH, *names]
    assert list(table.nprobe) == [1] * 7 + [10] * 6
    assert set(table.columns) >= {
        *("queries", "qps", "qps_min", "qps_max", "rival", "ratio", "recall@10"),
        *("distance_computations", "bytes_per_vector", "nprobe_outer"),
        *("p50_ms", "p95_ms", "p99_ms", "p50_ratio", "build_s"),
    }
    assert table.drop(columns="nprobe_outer").notna().all().all()
    assert set(table.nprobe_outer[table.method.str.endswith("two levels")]) == {2}
    assert (table.queries[table.method == SKETCH] == 4).all()


def test_ratios_are_to_the_rival_at_the_same_nprobe(measured):
    table = measured.methods
    assert set(table.rival) == {RIVAL}
    for one in table.itertuples():
        rival = row(table, RIVAL, one.nprobe)
        assert one.ratio == pytest.approx(one.qps / rival.qps)
        assert one.p50_ratio == pytest.approx(one.p50_ms / rival.p50_ms)
    assert (table.qps_min <= table.qps).all()
    assert (table.qps <= table.qps_max).all()


def test_rival_finds_and_computes_what_shared_codebooks_do(measured):
    for p in (1, 10):
        rival, shared = (row(measured.methods, name, p) for name in (RIVAL, SHARED))
        assert rival["recall@10"] == pytest.approx(shared["recall@10"], abs=0.01)
        assert rival.distance_computations == shared.distance_computations
        # Ours also holds the outer centroids and the inner ones once more.
        assert 0 < shared.bytes_per_vector - rival.bytes_per_vector < 1


def test_bytes_and_recall_of_the_store_are_told_apart(measured, tiny):
    table = measured.methods
    for method in (SHARED, LOCAL):
        plain, reranked = row(table, method), row(table, f"{method}, re-ranked")
        assert reranked.bytes_per_vector - plain.bytes_per_vector == pytest.approx(tiny.d)
        assert reranked["recall@10"] > plain["recall@10"]


def test_training_and_profile(measured, tiny):
    steps = set(zip(measured.training.step, measured.training.method, strict=True))
    assert {(s, m) for s in ("codebooks", "encoding", "add") for m in (SHARED, LOCAL)} <= steps
    assert ("clustering", "both levels") in steps
    assert (measured.training.seconds >= 0).all()
    profile = measured.profile.set_index("nprobe")
    assert profile.multiplications[1] == tiny.d * 2**4
    assert profile.multiplications[10] == 10 * tiny.d * 2**4
    codes = row(measured.methods, LOCAL).distance_computations - 12 - 2**4
    assert profile.lookups[1] == pytest.approx(4 * codes)
    together = profile.probing_ms + profile.tables_ms + profile.rest_ms
    assert np.allclose(together, profile.search_ms)


def test_text_has_all_tables_and_the_threads(measured):
    text = report(measured)
    for words in ("threads: ", RIVAL, SKETCH, "Training and encoding", "where the time goes"):
        assert words in text
    assert "nan" not in text.lower()
    assert max(map(len, text.splitlines())) <= 110


def test_aligned_text():
    table = pd.DataFrame({"a": ["x", "longer"], "b": [1000.0, np.nan]})
    looks = {"a": ("name", "{}"), "b": ("n", "{:,.0f}")}
    assert aligned(table, ["a", "b"], looks).splitlines() == [
        "name        n",
        "------  -----",
        "x       1,000",
        "longer",
    ]


def test_figure(measured):
    figure = plots.speed_and_latency(measured.methods, RIVAL, 10)
    assert style.problems(figure) == []
    assert legend_words(figure) == ["nprobe 1", "nprobe 10"]
    speed, found, _ = figure.axes
    others = measured.methods[measured.methods.method != RIVAL]
    widths = sorted(bar.get_width() for bar in speed.patches)
    assert np.allclose(widths, sorted(others.ratio - 1))
    drawn = np.concatenate([line.get_xdata() for line in found.get_lines()[:2]])
    assert np.allclose(sorted(drawn), sorted(measured.methods["recall@10"]))
    with pytest.raises(ValueError, match="5 values of nprobe"):
        plots.speed_and_latency(
            pd.concat(measured.methods.assign(nprobe=p) for p in range(5)), RIVAL, 10
        )


def test_the_sketch_pads_and_is_compared_up_to_ties(index, tiny):
    queries = tiny.test[:3]
    distances, ids = sketch_search(index, 2000, queries)
    assert distances.shape == ids.shape == (3, 2000)
    assert ((ids < 0) == np.isinf(distances)).all()
    native = index.search(queries, 10)[1]
    check_same_answers(index, queries, native, ids[:, :10])
    # Vectors of equal codes are equally far: the next one will do for the last.
    pair = np.array([[0, 1]])
    same = pqlib.MultiLevelPQ(tiny.d, 12, 4, m=4, nbits=4).train(tiny.train)
    same.add(np.repeat(tiny.train[:1], 3, axis=0))
    check_same_answers(same, queries[:1], pair, np.array([[0, 2]]))
    wrong = ids[:, :10].copy()
    wrong[0, 0] = ids[0][ids[0] >= 0][-1]
    with pytest.raises(RuntimeError, match="found different neighbours"):
        check_same_answers(index, queries, native, wrong)
    with pytest.raises(RuntimeError, match="found different neighbours"):
        check_same_answers(index, queries, native, np.full_like(native, -1))


def test_a_sketch_that_finds_something_else_stops_the_run(tiny, monkeypatch):
    spoilt = lambda index, k, xq: (None, np.zeros((len(xq), k), np.int64))  # noqa: E731
    monkeypatch.setattr(module, "sketch_search", spoilt)
    with pytest.raises(RuntimeError, match="cannot be compared"):
        bench(tiny, **TINY)


def test_default_parameters():
    assert default_parameters("fashion-mnist", 60_000) == (100, 10, 8)
    assert default_parameters("bsds-sift", 400_000) == (256, 16, 16)
    assert default_parameters("other", 60_000) == (*pqlib.default_sizes(60_000), None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"n_inner": 0}, "n_inner=0"),
        ({"n_outer": 13}, "n_outer=13"),
        ({"m": 5}, "m=5: expected a divisor of d=16"),
        ({"k": 101}, "k=101"),
        ({"nprobes": (1, 13)}, "nprobes=13: expected a whole number in 1..12"),
        ({"nprobes": ()}, "at least one number"),
        ({"nprobes": (1, 1)}, "each once"),
        ({"repeats": 0}, "repeats=0"),
        ({"nbits": 11}, "needs at least 2\\*\\*nbits = 2048"),
    ],
)
def test_errors_say_what_is_wrong(tiny, wrong, words):
    with pytest.raises(ValueError, match=words):
        bench(tiny, **{**TINY, **wrong})


def test_files_are_written(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(style.STRICT_VARIABLE, "1")
    path = tmp_path / "toy-16-euclidean.hdf5"
    with h5py.File(path, "w") as file:
        for name in ("train", "test", "neighbors", "distances"):
            file[name] = getattr(tiny, name)
    layout = Layout(tmp_path / "checkout")
    assert run_bench(layout, str(path), nprobes=(1,), **TINY) == 0
    results, figures = (layout.promoted(kind, "toy") for kind in ("results", "figures"))
    assert sorted(p.name for p in results.iterdir()) == [
        *("bench.csv", "bench.txt", "bench_profile.csv", "bench_training.csv")
    ]
    assert sorted(p.name for p in figures.iterdir()) == ["bench.png", "bench.svg"]
    assert imread(figures / "bench.png").std() > 0
    table = pd.read_csv(results / "bench.csv")
    assert set(table.method) >= {RIVAL, SHARED, LOCAL, SKETCH}
    assert {"threads", "cpu", "blas", "n_inner", "m"} <= set(table.columns)
    text = (results / "bench.txt").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert not layout.staging.exists()

    before = {p: p.read_bytes() for p in (*results.iterdir(), *figures.iterdir())}
    with pytest.raises(PipelineError, match=r"bench toy: m=5: expected a divisor"):
        run_bench(layout, str(path), **{**TINY, "m": 5})
    assert {p: p.read_bytes() for p in before} == before


def test_command_line_says_what_is_wrong_with_a_data_set(tmp_path, capsys):
    root = ["--root", str(tmp_path), "bench", "--dataset"]
    assert cli.main([*root, "no-such-set"]) == 1
    assert "expected one of" in capsys.readouterr().err
    assert cli.main([*root, "nowhere/x.hdf5"]) == 1
    assert "expected a file at" in capsys.readouterr().err


def test_makefile_passes_the_data_set_and_the_wait_policy():
    run = subprocess.run(
        ["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, env={**os.environ}
    )
    assert "OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}" in run.stdout
    assert "pipeline bench" in run.stdout
    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "  bench " in helped
