"""The family on real vectors, at 64 bits with a fixed seed: what the papers claim."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import dataset_or_skip

import pqlib
from pqlib import quantizers as q
from pqlib.study.family import recall

ROOT = Path(__file__).parents[1]
# 64 bits: m, nbits, vectors trained on, iterations of CQ. Sums of 8 numbers of 8 bits need many
# vectors before they lose less on others; sums of 16 numbers of 4 bits, with an eighth of the
# parameters, few.
SETS = {
    "photo-sift": (16, 4, 5_000, 8),
    "fashion-mnist": (16, 4, 3_000, 4),
    "bsds-sift": (8, 8, 20_000, 4),
}


def error(quantizer, x):
    return q.mean_squared_error(x, quantizer.decode(quantizer.encode(x)))


@pytest.fixture(scope="module", params=SETS)
def real(request):
    """Quantizers of 64 bits trained on some vectors, and their errors on 1,000 others."""
    ds = dataset_or_skip(request.param)
    m, nbits, n, composite = SETS[request.param]
    rows = np.random.default_rng(0).permutation(ds.n)[: n + 1000]
    train, unseen = ds.train[rows[:n]], ds.train[rows[n:]]
    made = {
        "PQ": q.ProductQuantizer(ds.d, m, nbits),
        "OPQ": q.OptimizedProductQuantizer(ds.d, m, nbits, iterations=2),
        "RVQ": q.ResidualQuantizer(ds.d, m, nbits, progressive=False),
        "CQ": q.CompositeQuantizer(ds.d, m, nbits, iterations=composite),
    }
    for quantizer in made.values():
        quantizer.train(train)
    errors = {name: error(quantizer, unseen) for name, quantizer in made.items()}
    return ds, train, unseen, made, errors


def test_order_of_errors(real):
    errors = real[-1]
    assert errors["OPQ"] < errors["PQ"]
    assert errors["RVQ"] < errors["PQ"]
    assert errors["CQ"] < errors["PQ"]


def test_searching_together_loses_less_than_one_after_the_other(real):
    """With codebooks that 5,000 vectors are enough for."""
    ds, train, unseen, made, errors = real
    few = train[:5000]
    together = q.LocalSearchQuantizer(ds.d, 16, 4, iterations=8, train_rounds=2).train(few)
    if made["PQ"].m != 16:
        made = {
            "PQ": q.ProductQuantizer(ds.d, 16, 4).train(few),
            "RVQ": q.ResidualQuantizer(ds.d, 16, 4, progressive=False).train(few),
        }
        errors = {name: error(one, unseen) for name, one in made.items()}
    assert error(together, unseen) < min(errors["PQ"], errors["RVQ"])


def test_locally_optimized_is_no_worse_than_per_cluster(real):
    ds, train = real[:2]
    few = train[:5000]
    turned, plain = (
        q.LocallyOptimizedPQ(ds.d, 8, 6, n_clusters=6, rotate=rotate).train(few)
        for rotate in (True, False)
    )
    assert error(turned, few) <= error(plain, few)


def test_composite_look_ups_rank_as_distances_do(real):
    ds, train, unseen, made, _ = real
    quantizer, queries, train = made["CQ"], unseen, train[:5000]
    codes = quantizer.encode(train)
    s = quantizer.offsets(codes).astype(np.float64)
    y = quantizer.decode(codes) - quantizer.mean
    assert s.std() <= 0.01 * (y**2).sum(axis=1).mean()
    nearest = pqlib.BruteForce(ds.d, copy=False).add(train).search(queries, 10)[1]
    by_look_ups, exactly = (
        recall(quantizer.scan(queries, codes, 10, exact=exact)[1], nearest)
        for exact in (False, True)
    )
    # On Fashion-MNIST 0.006 lower on an AMD EPYC with AVX2, within 0.005 on the Intel Xeons tried.
    assert by_look_ups >= exactly - 0.01


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("CQ", "bsds-sift"),  # the others take long
        ("LOPQ", "bsds-sift"),
        ("LOPQ", "fashion-mnist"),
        ("LOPQ", "photo-sift"),
    ],
)
def test_as_good_as_unhurried_training(name, method, monkeypatch):
    """At most 2% above the best of three seeds of scripts/reference_errors.py.

    On vectors not trained on: of those trained on, a composite quantizer goes on to learn the last
    details by heart, while the error of others grows.
    """
    monkeypatch.syspath_prepend(ROOT / "scripts")
    reference = __import__("reference_errors")
    table = pd.read_csv(ROOT / "results" / "reference" / "quantizer_reference.csv")
    table = table[table.dataset == name]
    ds = dataset_or_skip(name)
    train, unseen = reference.split(ds)
    made = {
        "CQ": q.CompositeQuantizer(ds.d, 8),
        "LOPQ": q.LocallyOptimizedPQ(ds.d, 8, 6, n_clusters=6),
    }[method].train(train)
    best = table[table.method == method].min(numeric_only=True)
    assert error(made, unseen) <= 1.02 * best.mse_unseen
    if method == "LOPQ":
        assert error(made, train) <= 1.02 * best.mse_train
