"""The comparison of the family: what is measured, on what, and how it is drawn."""

import numpy as np
import pandas as pd
import pytest
from drawn import drawn, legend_words

from pqlib import quantizers as q
from pqlib.study import family as study
from pqlib.study import family_examples as examples
from pqlib.study import family_words as words
from pqlib.study import sweep
from pqlib.study.plots import family as plots
from pqlib.study.plots import style
from pqlib.study.sweeps import NotRun


@pytest.fixture(scope="module")
def family(photo_sift):
    return study.Family(photo_sift, n_train=600, n_base=900, n_queries=50, seed=1)


def test_the_split(family, photo_sift):
    assert family.train.shape == (600, 128)
    assert family.base.shape == (900, 128)
    assert len(set(family.rows.tolist())) == 1500
    truth = ((family.queries[:, None] - family.base[None]) ** 2).sum(axis=2)
    assert np.array_equal(
        np.sort(truth, axis=1)[:, 0], truth[np.arange(50), family.neighbors[:, 0]]
    )
    again = study.Family(photo_sift, 600, 900, 50, seed=1)
    assert np.array_equal(again.rows, family.rows)
    other = study.Family(photo_sift, 600, 900, 50, seed=2)
    assert not np.array_equal(other.rows, family.rows)


def test_small_sets_are_halved(as_dataset):
    x = np.random.default_rng(0).standard_normal((101, 4)).astype(np.float32)
    family = study.Family(as_dataset(x, x[:5]))
    assert (family.n_train, family.n_base, family.n_queries) == (50, 51, 5)
    with pytest.raises(ValueError, match="ds has 12 base vectors"):
        study.Family(as_dataset(x[:12], x[:5]))
    with pytest.raises(ValueError, match="n_train=0"):
        study.Family(as_dataset(x, x[:5]), n_train=0)


def test_what_is_measured(family):
    row = family.measure(q.ProductQuantizer(128, 8, 4))
    again = q.ProductQuantizer(128, 8, 4).train(family.train)
    decoded = again.decode(again.encode(family.base))
    mse = ((family.base.astype(float) - decoded) ** 2).sum(axis=1).mean()
    assert row["mse_unseen"] == pytest.approx(mse)
    spread = ((family.base - family.base.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert row["error_unseen"] == pytest.approx(mse / spread, rel=1e-4)
    order = ((family.queries[:, None] - decoded[None]) ** 2).sum(axis=2).argsort(axis=1)
    first = order[:, :10]
    hits = [(a == b[0]).any() for a, b in zip(first, family.neighbors, strict=True)]
    assert row["one_recall_10"] == pytest.approx(np.mean(hits), abs=0.021)  # ties
    assert row["one_recall_1"] <= row["one_recall_10"] <= row["one_recall_100"]
    assert (row["bits"], row["lookups"], row["n_train"]) == (32, 8, 600)
    assert len(row["objective"]) > 1


def test_every_member_can_be_made():
    for member in study.members():
        for bits in member.bits or (0,):
            quantizer = member.make(128, bits, 0)
            assert isinstance(quantizer, q.Quantizer)
            extra = 3 if isinstance(quantizer, q.LocallyOptimizedPQ) else 0
            assert member.bits is None or quantizer.bits == bits + extra
        assert member.name in plots.STYLES
    with pytest.raises(NotRun, match="a search over 16 numbers"):
        {m.name: m for m in study.members(0.1)}["LSQ"].make(128, 128, 0)
    with pytest.raises(NotRun, match="do not divide d=10"):
        study.members()[0].make(10, 32, 0)


def test_the_sweep_names_what_cannot_be(as_dataset):
    x = np.random.default_rng(0).standard_normal((700, 10)).astype(np.float32)
    family = study.Family(as_dataset(x, x[:20]), 300, 300, 20)
    points = [p for p in study.points(0.1, bits=(32,)) if p["method"] in ("PQ", "RVQ")]
    table = sweep(points, family.member).set_index("method")
    assert table.status["PQ"] == "not run"
    assert "do not divide" in table.reason["PQ"]
    assert table.status["RVQ"] == "ok"


def test_efforts(family):
    rows = [study.efforts(family, "OPQ", level) for level in (0, 1)]
    assert len(rows[0]["objective"]) == 1 < len(rows[1]["objective"])
    with pytest.raises(ValueError, match="method='PQ'"):
        study.efforts(family, "PQ", 0)
    assert [row["setting"] for row in rows] == ["iterations=0", "iterations=5"]


def test_look_ups_against_distances(family):
    quantizer = q.CompositeQuantizer(128, 8, 4, iterations=5).train(family.train)
    found = examples.look_ups_against_distances(quantizer, family)
    assert 0 <= found["deviation"] <= 0.02  # of 600 vectors only
    assert abs(found["recall_10"] - found["recall_10_exact"]) < 0.1


def test_inner_products(family):
    table = examples.inner_products(family, 8, (0.0, 0.3))
    assert table.threshold.isna().tolist() == [True, False, False]
    # No weight is the plain code, a large one trades errors along for errors across.
    assert table.parallel[2] < table.parallel[1]
    assert table.orthogonal[2] > table.orthogonal[1]
    assert table.recall_10.between(0, 1).all()
    # Vectors of length 1 are ranked by angle alone, so badly coded long ones are no trouble.
    assert table.recall_10_unit.between(0, 1).all()
    assert (table.length > 0.5).all()
    assert table.length_found[0] > table.length[0]


def test_representable():
    x = np.random.default_rng(0).standard_normal((500, 2)).astype(np.float32)
    for quantizer, count in (
        (q.ProductQuantizer(2, 2, 4), 256),
        (q.ResidualQuantizer(2, 2, 4), 256),
        (q.LocallyOptimizedPQ(2, 2, 4, n_clusters=3), 768),
    ):
        quantizer.train(x)
        points = examples.representable(quantizer)
        assert points.shape == (count, 2)
        decoded = quantizer.decode(quantizer.encode(x))
        nearest = ((decoded[:, None] - points[None]) ** 2).sum(axis=2).min(axis=1)
        assert nearest.max() < 1e-9
    with pytest.raises(ValueError, match="expected at most 16"):
        examples.representable(q.ProductQuantizer(8, 8, 4))


# Figures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    rows = []
    for place, member in enumerate(study.members()):
        for budget in member.bits or (0,):
            bits = budget or (192, 512, 1024)[place % 3]
            error = 0.6 * (32 / bits) ** 0.5 * (1 - 0.02 * place)
            rows.append(
                {
                    "method": member.name,
                    "budget": budget,
                    "bits": bits,
                    "error_train": 0.8 * error,
                    "error_unseen": error,
                    "recall_10": 1 - error,
                    "recall_10_se": 0.004,
                    "one_recall_10": 1 - error**2,
                    "train_s": 0.1 * 2**place,
                    "encode_us": 1.5**place,
                    "lookups": 4 + place,
                }
            )
    return pd.DataFrame(rows)


def test_errors_are_drawn(table):
    figure = plots.errors(table)
    assert style.problems(figure) == []
    left, right = figure.axes
    own = table[(table.method == "OPQ") & (table.budget > 0)]
    assert np.allclose(drawn(right)["OPQ"], own[["bits", "error_unseen"]])
    assert np.allclose(drawn(left)["OPQ"], own[["bits", "error_train"]])
    assert "SQ, 8 bits" not in legend_words(figure)


def test_recalls_are_drawn(table):
    figure = plots.recalls(table)
    assert style.problems(figure) == []
    own = table[table.method == "LSQ"]
    assert np.allclose(drawn(figure.axes[0])["LSQ"], own[["bits", "recall_10"]])
    assert len(legend_words(figure)) == len(study.members())
    own = table[(table.method == "LSQ") & (table.budget > 0)].sort_values("bits")
    plain = table[(table.method == "PQ")].set_index("budget").recall_10
    gains = own.recall_10.to_numpy() - plain[own.budget].to_numpy()
    assert np.allclose(drawn(figure.axes[1])["LSQ"][:, 1], gains)


@pytest.mark.parametrize("widest", [1.1, 3, 9, 40, 2000])
def test_costs_are_drawn(table, widest):
    """However far apart they are: machines differ."""
    at = table[table.budget == 64]
    at = at.assign(train_s=0.15 * np.geomspace(1, widest, len(at)))
    longer = pd.concat([at[at.method == "LSQ"].assign(train_s=0.15 * s) for s in (1, widest)])
    figure = plots.costs(at, longer)
    assert style.problems(figure) == []
    own = at[at.method == "RVQ"]
    assert np.allclose(drawn(figure.axes[0])["RVQ"], own[["train_s", "recall_10"]])


def test_toy_and_objectives_and_inner_products_are_drawn():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 2)).astype(np.float32)
    names = ["PQ", "OPQ", "LOPQ", "RVQ"]
    figure = plots.toy(x, {n: x[:50] for n in names}, {n: 0.01 for n in names})
    assert style.problems(figure) == []
    figure = plots.objectives({"OPQ": [0.4, 0.2, 0.15], "CQ": [0.5, 0.4]})
    assert style.problems(figure) == []
    assert np.allclose(drawn(figure.axes[0])["OPQ"], [[1, 0.4], [2, 0.2], [3, 0.15]])
    found = pd.DataFrame(
        {
            "threshold": [np.nan, 0.1, 0.2],
            "recall_10": [0.5, 0.55, 0.6],
            "recall_10_unit": [0.6, 0.61, 0.62],
            "parallel": [2.0, 1.0, 0.5],
            "orthogonal": [2.0, 2.2, 3.0],
        }
    )
    figure = plots.anisotropic(found)
    assert style.problems(figure) == []
    assert np.allclose(drawn(figure.axes[1])["along the vector"][:, 1], [0.5, 0.25])


def test_stuck(table):
    assert words.stuck(table) == []
    flat = (table.method == "LSQ") & (table.budget == 128)
    (line,) = words.stuck(table.assign(error_train=table.error_train.where(~flat, 0.5)))
    assert line.startswith("LSQ, 128 bits: error 0.500 on the vectors trained on, with 64 bits")


def test_advice(table):
    said = words.advice(table, "made")
    assert all(f"**{bits} bits**" in said for bits in study.BITS)
    assert "*CQ* finds most" in said  # the last of those with budgets, by the rows above
    reversed_ = table.assign(recall_10=1 - table.recall_10)
    assert "*PQ* finds most" in words.advice(reversed_, "made")
    # What the queries do not tell apart is said to be alike; what has more bits, how many.
    near = words.advice(table.assign(recall_10_se=0.01), "made")
    assert "Within two standard errors of it: " in near
    longer = table.assign(bits=table.bits + 3 * (table.method == "CQ"))
    assert "*CQ* (35 bits) finds most" in words.advice(longer, "made")
