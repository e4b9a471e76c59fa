"""Notebook 09's measurements against plain NumPy, and what its words and figures say of them."""

import numpy as np
import pandas as pd
import pytest

import pqlib
from pqlib import quantizers as q
from pqlib.datasets.embedded import Texts, load_texts
from pqlib.study import embeddings as study
from pqlib.study import embeddings_words as words
from pqlib.study.plots import embeddings as plots
from pqlib.study.plots import style

K = 10


@pytest.fixture(scope="module")
def ds():
    return pqlib.load_dataset("gloss-minilm", n_train=1500, n_test=120)


@pytest.fixture(scope="module")
def right(ds):
    # Of the whole base's right answers, those that the subset has; plus some made up to be found.
    found = load_texts(ds).right
    return np.where(found >= 0, found, ds.neighbors[:, 3])


@pytest.fixture(scope="module")
def compression(ds, right):
    return study.Compression(ds, right, K)


def way(method, bytes):
    (found,) = (w for w in study.ways(384) if (w.method, w.bytes) == (method, bytes))
    return found


def ranked(scores):
    """Positions by ascending score, ties by number, (nq, 100)."""
    return np.argsort(scores, axis=1, kind="stable")[:, :100]


def squared(x, y):
    return ((x[:, None, :].astype(np.float64) - y[None]) ** 2).sum(axis=2)


def recall_and_task(ids, ds, right):
    """By loops over queries and ranks, from exact distances."""
    true = ranked(squared(ds.test, ds.train))[:, :K]
    recall = [
        len(set(a[:K]) & set(b)) / K for a, b in zip(ids.tolist(), true.tolist(), strict=True)
    ]
    rr = []
    for row, wanted in zip(ids.tolist(), right.tolist(), strict=True):
        rr.append(1 / (row.index(wanted) + 1) if wanted in row else 0.0)
    rr = np.array(rr)
    return {
        "recall": np.mean(recall), "first": np.mean(rr == 1), "ten": np.mean(rr >= 0.1),
        "rr": np.mean(rr),
    }  # fmt: skip


def scores_of(method, ds):
    """What plain NumPy ranks by for a way to compress."""
    if method == "float32":
        return squared(ds.test, ds.train)
    if method == "signs":
        return (np.sign(ds.test)[:, None] * np.sign(ds.train)[None] < 0).sum(axis=2)
    if method == "int8":
        low, high = ds.train.min(axis=0), ds.train.max(axis=0)
        span = np.where(high > low, high - low, 1)  # one component is the same in all vectors
        steps = np.floor((ds.train - low) / span * 255).clip(0, 255)
        return squared(ds.test, low + (steps + 0.5) / 255 * (high - low))
    if method == "PQ":
        pq = q.ProductQuantizer(ds.d, 48).train(ds.train)
        numbers = pq.unpack(pq.encode(ds.train))
        decoded = np.hstack([pq.codebooks[j][numbers[:, j]] for j in range(48)])
        return squared(ds.test, decoded)
    mean = ds.train.mean(axis=0, dtype=np.float64)
    assert method == "RaBitQ"
    rabitq = q.RaBitQuantizer(ds.d).train(ds.train)
    rotation = rabitq.state()[0][1].astype(np.float64)
    o = (ds.train - mean) @ rotation.T
    norms = np.linalg.norm(o, axis=1)
    signs = np.where(o > 0, 1, -1) / np.sqrt(ds.d)
    inner = (o / norms[:, None] * signs).sum(axis=1)
    asked = (ds.test - mean) @ rotation.T
    return norms**2 - 2 * (asked @ signs.T) * norms / inner


@pytest.mark.parametrize(
    ("method", "bytes", "tolerance"),
    [("float32", 1536, 0), ("signs", 48, 0.02), ("int8", 384, 0.004), ("PQ", 48, 0.004),
     ("RaBitQ", 56, 0.004)],
)  # fmt: skip
def test_recall_and_task_agree_with_plain_numpy(compression, ds, right, method, bytes, tolerance):
    row = compression.measure(way(method, bytes))
    expected = recall_and_task(ranked(scores_of(method, ds)), ds, right)
    # Ties of Hamming distances may stand in any order.
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=tolerance + 1e-9), name
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_a_right_answer_is_looked_for_among_all_that_was_found():
    ids = np.array([[5, 3, 9], [1, 2, 4], [7, 8, 6]])
    found = study.answers(ids, np.array([9, 0, -1]))
    assert found["rr"].tolist() == [1 / 3, 0, 0]
    assert found["first"].tolist() == [0, 0, 0]
    assert found["ten"].tolist() == [1, 0, 0]


def test_every_way_has_its_bytes_once_and_runs(compression, ds):
    ways = study.ways(ds.d)
    assert len({(w.method, w.bytes) for w in ways}) == len(ways)
    assert {w.method for w in ways} == set(plots.STYLES)
    assert min(w.bytes for w in ways) == ds.d // 32
    codes = {"PQ": 48, "PCA": 48, "cascade's codes": 48, "PRQ": 12, "first dimensions": 48}
    rows = {name: compression.measure(way(name, held)) for name, held in codes.items()}
    assert rows["PQ"]["recall"] > rows["PCA"]["recall"] > rows["first dimensions"]["recall"]
    assert rows["cascade's codes"]["recall"] == pytest.approx(rows["PCA"]["recall"], abs=0.03)


@pytest.mark.parametrize("d", [8, 25, 96, 100])
def test_other_dimensions_have_ways_too(d):
    ways = study.ways(d)
    assert all(w.bytes >= 1 for w in ways)
    small = pqlib.load_dataset("photo-sift", n_train=600, n_test=20)
    rng = np.random.default_rng(0)
    x = (small.train @ rng.normal(size=(128, d))).astype(np.float32)
    cut = pqlib.Dataset.of(x[20:], x[:20])
    compressed = study.Compression(cut, None)
    table = compressed.run(progress=False)
    assert table.set_index("method").recall["float32"] == 1
    assert "rr" not in table
    said = words.findings(table, compressed.lost(), K)
    assert "no right answers" in said
    assert "reciprocal rank" not in said


def test_what_the_task_does_not_notice_is_by_rule():
    lost = pd.DataFrame(
        {
            "method": ["a", "b", "c"], "bytes": [1, 2, 3], "recall": [0.1, 0.1, 0.01],
            "recall_low": [0.08, 0.08, 0.0], "rr": [0.0, 0.05, 0.0], "rr_high": [0.01, 0.02, 0.01],
        }
    )  # fmt: skip
    assert words.unnoticed(lost, whole=0.3).method.tolist() == ["a"]
    # A wide interval is no sign that little is lost.
    assert words.unnoticed(lost, whole=0.1).empty


def test_ways_that_differ_by_chance_alone_are_named_together(compression):
    sizes = [("PQ", 48), ("OPQ", 48), ("PCA", 48)]
    rows = pd.DataFrame([compression.measure(way(*one)) for one in sizes]).assign(share=32)
    tied = compression._tied(rows, "recall")
    each = {name: compression.each[name, 48]["recall"] for name, _ in sizes}
    best = max(each, key=lambda name: each[name].mean())
    for (name, _), same in zip(sizes, tied, strict=True):
        gap = each[best] - each[name]
        error = gap.std() / np.sqrt(len(gap))
        if abs(gap.mean() - 2 * error) > 0.5 * error:  # not on the edge
            assert same == (gap.mean() <= 2 * error)
    assert tied[0] or tied[1]
    assert not tied[2]


def test_words_tell_what_a_code_still_finds():
    texts = Texts(["zero", "one", "two", "three"], ["ask"], np.array([2]))
    said = words.neighbours(
        texts, 0, np.array([[0, 1, 2]]), {"8 bytes": np.array([[0, 3, 1]])}, k=3
    )
    assert "query: ask" in said
    assert "its right answer, number 3 of all: two" in said
    assert "8 bytes: finds 2 of the 3, and instead" in said
    assert "three" in said


def test_the_shift_is_in_the_distances(ds):
    far = study.to_centroids(ds)
    middle = far.groupby("of").distance.median()
    assert middle["queries"] > middle["held-back vectors of the base"] + 0.02
    table = study.quantiles(far)
    assert table[table["of"] == "queries"].distance.is_monotonic_increasing
    assert len(table) == 42


def test_lists_and_spectra_end_with_everything(ds):
    lists = study.spread_over_lists(ds, K)
    last = lists.groupby("of").last()
    assert last.found.tolist() == pytest.approx([1, 1])
    assert last.share.tolist() == pytest.approx([1, 1])
    spectra = study.components(ds)
    assert spectra.variance.iloc[-1] == pytest.approx(1)
    assert spectra.variance.is_monotonic_increasing
    assert style.problems(plots.why(spectra, lists, K)) == []


def test_vectors_in_general_position_have_no_hubs_and_a_flat_spectrum():
    rng = np.random.default_rng(0)
    flat = pqlib.Dataset.of(*(rng.normal(size=(n, 4)).astype(np.float32) for n in (2000, 200)))
    found = study.character(flat)
    assert found["components_50"] == 2
    assert found["components_90"] == 4
    assert found["mean_share"] < 0.01
    assert abs(found["intrinsic_dimension"] - 4) < 0.5
    assert found["hubness"] < 1
    shifted = pqlib.Dataset.of(flat.train + 10, flat.test + 10)
    assert study.character(shifted)["mean_share"] == pytest.approx(100 / 101, abs=0.01)
