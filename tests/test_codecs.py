"""Any quantizer in the lists of MultiLevelPQ: what it stores and finds, and what is refused."""

import functools

import numpy as np
import pytest
from oracle import squared

import pqlib
from pqlib import quantizers as q

D = 16
CODECS = {
    "PQ": lambda: q.ProductQuantizer(D, 4, 4),
    "OPQ": lambda: q.OptimizedProductQuantizer(D, 4, 4, iterations=3),
    "RVQ": lambda: q.ResidualQuantizer(D, 4, 4),
    "LSQ": lambda: q.LocalSearchQuantizer(D, 4, 4, iterations=3),
    "PRQ": lambda: q.ProductResidualQuantizer(D, 4, 4),
    "PLSQ": lambda: q.ProductLocalSearchQuantizer(D, 4, 4, iterations=3),
    "CQ": lambda: q.CompositeQuantizer(D, 4, 4, iterations=4),
    "SQ": lambda: q.ScalarQuantizer(D, 8),
    "RaBitQ": lambda: q.RaBitQuantizer(D),
}
WAYS = [(name, "shared", "residuals") for name in CODECS]
WAYS += [(name, "shared", "vectors") for name in ("PQ", "OPQ", "RVQ", "SQ")]
WAYS += [(name, "per-cluster", "residuals") for name in ("PQ", "OPQ", "LSQ", "CQ", "SQ")]


@pytest.fixture(scope="module")
def built(clustered):
    """Return a function that builds an index of a codec, once; nothing may change it."""
    base, _ = clustered

    @functools.cache
    def build(name, codebooks="shared", code_of="residuals", rerank=None):
        made = {"codec": CODECS[name](), "codebooks": codebooks, "code_of": code_of}
        return pqlib.MultiLevelPQ(D, 12, 3, rerank=rerank, **made).train(base).add(base)

    return build


@pytest.mark.parametrize(("name", "codebooks", "code_of"), WAYS)
def test_what_is_stored_and_found(built, clustered, name, codebooks, code_of, tmp_path):
    base, xq = clustered
    index = built(name, codebooks, code_of)
    homes = index.clustering.assign(base)
    decoded = index.reconstruct(np.arange(len(base)))
    codes = index.encode(base, homes)
    for c in range(index.n_inner):
        positions, stored = index.list_content(c)
        assert np.array_equal(positions, np.flatnonzero(homes == c))
        # By local search, a vector's code depends on its place in the call.
        assert name in ("LSQ", "PLSQ") or np.array_equal(stored, codes[positions])
        center = index.clustering.inner[c] * (code_of == "residuals")
        assert np.allclose(
            decoded[positions], index.quantizer(c).decode(stored) + center, atol=1e-3
        )
    distances, ids = index.search(xq, 10, nprobe=4)
    _, keys = index.clustering.probe(xq, 4)
    truth = squared(xq, decoded)
    reached = (keys[:, :, None] == homes[ids][:, None]).any(axis=1)
    assert reached.all()
    if name not in ("RaBitQ", "CQ"):
        inside = (keys[:, :, None] == homes[None, None]).any(axis=1)
        best = np.sort(np.where(inside, truth, np.inf), axis=1)[:, :10]
        scale = float((base**2).sum(axis=1).max())
        assert np.allclose(distances, best, atol=1e-5 * scale)
    one = index.search(xq[:1], 10, nprobe=4)
    assert np.allclose(one[0][0], distances[0], rtol=1e-4, atol=1)
    # Saved, loaded, the same.
    index.save(tmp_path / "index")
    loaded = pqlib.load_index(tmp_path / "index")
    assert loaded.describe() == index.describe()
    for a, b in zip(loaded.search(xq, 10, nprobe=4), (distances, ids), strict=True):
        assert np.array_equal(a, b)
    assert index.memory()["codebooks"] > 0
    assert "codec=" in index.describe()


def test_a_product_codec_is_the_index_without_one(built, clustered):
    base, xq = clustered
    plain = pqlib.MultiLevelPQ(D, 12, 3, m=4, nbits=4, codebooks="shared", seed=0)
    plain.train(base).add(base)
    coded = built("PQ")
    ours, theirs = coded.search(xq, 10, nprobe=3), plain.search(xq, 10, nprobe=3)
    assert np.allclose(ours[0], theirs[0], rtol=1e-4, atol=2)
    assert coded.code_bytes == plain.code_bytes
    assert coded.memory()["codes"] == plain.memory()["codes"]
    with pytest.raises(ValueError, match="expected none, IndexIVFPQ"):
        coded.to_faiss()


def test_reranking_makes_distances_exact(built, clustered):
    base, xq = clustered
    index = built("RVQ", rerank="uint8")
    distances, ids = index.search(xq, 5, nprobe=12, rerank_factor=20)
    exact = ((xq[:, None].astype(np.float64) - base[ids]) ** 2).sum(axis=2)
    assert np.array_equal(distances, exact.astype(np.float32))
    assert index.n_shared_clusters == index.n_inner


def test_small_clusters_share(clustered):
    base, _ = clustered
    codec = q.OptimizedProductQuantizer(D, 4, 7, iterations=0)
    index = pqlib.MultiLevelPQ(D, 15, 3, codec=codec, codebooks="per-cluster").train(base)
    own = np.bincount(index.clustering.assign(base), minlength=15) >= 128
    assert index.n_shared_clusters == (~own).sum()
    assert 0 < own.sum() < 15
    assert f"{own.sum()} clusters have their own" in index.describe()
    assert not codec.is_trained


def test_counted_work(built, clustered):
    _, xq = clustered
    once = built("PQ", code_of="vectors").search_cost(xq, 10, nprobe=4)
    each = built("PQ").search_cost(xq, 10, nprobe=4)
    assert (once["tables"] == 16).all()
    assert (each["tables"] == 64).all()
    turned = built("OPQ").search_cost(xq, 10, nprobe=4)
    assert (turned["tables"] == 4 * (16 + D)).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(codec=q.ProductQuantizer(D, 4), m=4), "with m=4"),
        (dict(codec=q.ProductQuantizer(D, 4), nbits=8), "nbits=8: expected one or the other"),
        (dict(codec=q.ProductQuantizer(D + 4, 4)), "codec has d=20"),
        (dict(codec="PQ"), "codec='PQ': expected an object"),
        (dict(codec=q.LocallyOptimizedPQ(D, 4)), "the lists are clusters already"),
        (dict(codec=q.AnisotropicProductQuantizer(D, 4)), "no longer points along"),
        (dict(codec=q.RaBitQuantizer(D), codebooks="per-cluster"), "learns nothing but a mean"),
        (
            dict(codec=q.ProductQuantizer(D, 4), code_of="vectors", codebooks="per-cluster"),
            "code its centroid again",
        ),
        (dict(codec=q.ProductQuantizer(D, 4), code_of="both"), "code_of='both'"),
        (dict(code_of="vectors"), "without a codec"),
        (dict(codec=q.ProductQuantizer(D, 4), codebooks="own"), "codebooks='own'"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        pqlib.MultiLevelPQ(D, 12, 3, **arguments)


def test_a_trained_codec_is_refused(clustered):
    base, _ = clustered
    trained = q.ProductQuantizer(D, 4, 4).train(base)
    with pytest.raises(ValueError, match=r"is trained.*codec.fresh"):
        pqlib.MultiLevelPQ(D, 12, 3, codec=trained)
    pqlib.MultiLevelPQ(D, 12, 3, codec=trained.fresh())


def test_anisotropic_codes_of_vectors(clustered):
    base, xq = clustered
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    codec = q.AnisotropicProductQuantizer(D, 4, 4)
    index = pqlib.MultiLevelPQ(D, 12, 3, codec=codec, code_of="vectors").train(unit).add(unit)
    distances, ids = index.search(xq / np.linalg.norm(xq, axis=1, keepdims=True), 5, nprobe=3)
    assert (ids >= 0).all()
    assert np.isfinite(distances).all()
