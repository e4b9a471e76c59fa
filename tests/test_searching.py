"""The measurements of notebook 04."""

import numpy as np
import pytest

import pqlib
from pqlib.evaluation import query_recall
from pqlib.study import searching


@pytest.fixture(scope="module")
def made(clustered, as_dataset):
    base, queries = clustered
    ds = as_dataset(base, queries)
    modes = {
        mode: pqlib.MultiLevelPQ(16, 20, 5, m=4, nbits=4, codebooks=mode, rerank="float32", seed=3)
        for mode in ("shared", "per-cluster")
    }
    return ds, {mode: index.train(base).add(base) for mode, index in modes.items()}


def test_rows_are_the_searches_they_name(made):
    ds, indexes = made
    table = searching.through_levels(ds, indexes, 10, (1, 8))
    assert table.probing.unique().tolist() == ["flat", "1 of 5 outer", "2 of 5 outer"]
    assert len(table) == 2 * 3 * 2
    for row in table.itertuples():
        outer = None if row.probing == "flat" else int(row.probing[0])
        options = {"nprobe": row.nprobe, "nprobe_outer": outer, "rerank": False}
        index = indexes[row.codebooks]
        assert row.recall == pqlib.recall_at_k(index.search(ds.test, 10, **options)[1], ds, 10)
        cost = index.search_cost(ds.test, 10, **options)
        counted = sum(count.sum() for count in cost.values()) / ds.nq
        assert row.distance_computations == pytest.approx(counted)


def test_more_candidates_find_more_up_to_the_limit(made):
    ds, indexes = made
    table = searching.reranked(ds, indexes, 10, 4).set_index(["codebooks", "rerank_factor"]).recall
    (limit,) = searching.all_exact(ds, indexes["shared"], 10, np.arange(ds.nq), (4,))
    for mode in indexes:
        assert (np.diff(table[mode]) >= -1e-12).all()
        assert table[mode].iloc[-1] <= limit.mean() + 1e-12
    assert table["shared"].iloc[-1] > table["shared"].iloc[0]
    assert [len(found) for found in searching.all_exact(ds, indexes["shared"], 10, [], (1, 2))] == [
        0,
        0,
    ]


def test_pairs_are_true_and_estimated_distances(made):
    ds, indexes = made
    table = searching.pairs(ds, indexes, seed=0, nq=3, nprobe=2)
    index = indexes["shared"]
    _, probed = index.clustering.probe(ds.test[:1], 2)
    members, codes = index.list_content(int(probed[0, 0]))
    exact = np.linalg.norm(ds.train[members] - ds.test[0], axis=1)
    decoded = index.decode(codes, np.full(len(members), probed[0, 0]))
    coded = np.linalg.norm(decoded - ds.test[0], axis=1)
    near = np.abs(exact[:, None] - table.true.to_numpy()[:20]).argmin(axis=0)
    assert table.true[:20].to_numpy() == pytest.approx(exact[near], rel=1e-4)
    assert table.shared[:20].to_numpy() == pytest.approx(coded[near], rel=1e-4)


def test_what_is_lost_adds_up(made):
    ds, indexes = made
    table = searching.split(ds, indexes["shared"], 10, (2, 20), rerank=False).set_index("nprobe")
    ids = indexes["shared"].search(ds.test, 10, nprobe=2, rerank=False)[1]
    missed = 1 - query_recall(ids, ds, 10).mean()
    assert table.routing[2] + table.quantization[2] == pytest.approx(missed)
    assert table.routing[20] == 0 < table.routing[2]
