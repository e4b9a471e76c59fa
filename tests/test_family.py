"""Every quantizer of the family: one interface, one oracle, the papers' claims on real vectors."""

import numpy as np
import pytest
from oracle import squared

import pqlib
from pqlib import quantizers as q
from pqlib.quantizers import base

D, N = 16, 900


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(3)
    mixed = rng.standard_normal((N, D)) @ rng.standard_normal((D, D))
    return (mixed + 5 * rng.integers(0, 3, (N, 1))).astype(np.float32)


MAKERS = {
    "PQ": lambda d=D: q.ProductQuantizer(d, 4, 4),
    "OPQ": lambda d=D: q.OptimizedProductQuantizer(d, 4, 4, iterations=5),
    "OPQ, parametric": lambda d=D: q.OptimizedProductQuantizer(d, 4, 4, 0, "parametric"),
    "OPQ, identity": lambda d=D: q.OptimizedProductQuantizer(d, 4, 4, 5, "identity"),
    "LOPQ": lambda d=D: q.LocallyOptimizedPQ(d, 4, 4, n_clusters=5),
    "RVQ": lambda d=D: q.ResidualQuantizer(d, 4, 4),
    "LSQ": lambda d=D: q.LocalSearchQuantizer(d, 4, 4, iterations=4),
    "PRQ": lambda d=D: q.ProductResidualQuantizer(d, 4, 4, splits=2),
    "PLSQ": lambda d=D: q.ProductLocalSearchQuantizer(d, 4, 4, splits=2, iterations=4),
    "CQ": lambda d=D: q.CompositeQuantizer(d, 4, 4, iterations=6),
    "anisotropic PQ": lambda d=D: q.AnisotropicProductQuantizer(d, 4, 4, threshold=0.4),
    "SQ": lambda d=D: q.ScalarQuantizer(d, 8),
    "RaBitQ": lambda d=D: q.RaBitQuantizer(d),
}
OF_CODEWORDS = [name for name in MAKERS if name not in ("LOPQ", "SQ", "RaBitQ")]
every = pytest.mark.parametrize("name", MAKERS)


@pytest.fixture(scope="module")
def trained(x):
    return {name: make().train(x) for name, make in MAKERS.items()}


def test_each_class_of_the_family_is_tried(trained):
    assert {type(quantizer).__name__ for quantizer in trained.values()} == set(q.FAMILY)


@every
def test_the_interface(trained, x, name):
    quantizer = trained[name]
    steps = []
    again = quantizer.fresh()
    assert not again.is_trained
    again.train(x, progress=steps.append)
    assert steps == sorted(steps)
    assert 1 <= steps[-1] <= again.steps
    codes = quantizer.encode(x)
    assert codes.dtype == np.uint8
    assert codes.shape == (N, quantizer.code_bytes)
    assert quantizer.code_bytes >= (quantizer.bits + 7) // 8
    decoded = quantizer.decode(codes)
    assert decoded.dtype == np.float32
    assert decoded.shape == x.shape
    assert quantizer.parameters_bytes > 0
    assert 0 < quantizer.n_train <= N
    assert len(quantizer.objective) >= 1
    assert set(quantizer.search_cost()) == {"multiplications", "lookups", "code_multiplications"}
    # Better than knowing nothing but the mean.
    spread = q.mean_squared_error(x, np.broadcast_to(x.mean(axis=0), x.shape))
    assert q.mean_squared_error(x, decoded) < 0.8 * spread
    assert name in ("LSQ", "PLSQ") or np.array_equal(again.encode(x), codes)


@every
def test_bad_input(trained, x, name):
    quantizer, fresh = trained[name], MAKERS[name]()
    for call in ("encode", "decode"):
        with pytest.raises(ValueError, match=f"{call} before train"):
            getattr(fresh, call)(x)
    with pytest.raises(ValueError, match="before train"):
        fresh.save("nowhere")
    for bad, words in (
        (x[:, :-1], "dimension"),
        (x[0], "shape"),
        (np.where(np.arange(D) == 1, np.nan, x), "finite"),
        (x[:0], "at least one vector"),
    ):
        with pytest.raises(ValueError, match=words):
            fresh.train(bad)
        with pytest.raises(ValueError, match=words):
            quantizer.encode(bad)
    codes = quantizer.encode(x)
    for bad in (codes[:, :-1], codes.astype(np.int64), codes[0]):
        with pytest.raises(ValueError, match="codes has dtype"):
            quantizer.decode(bad)
    with pytest.raises(ValueError, match="k="):
        quantizer.scan(x[:3], codes, N + 1)
    with pytest.raises(ValueError, match="codes has dtype"):
        quantizer.scan(x[:3], codes[:, :-1], 1)
    with pytest.raises(ValueError, match="dimension"):
        quantizer.scan(x[:3, 1:], codes, 1)
    with pytest.raises(ValueError, match="scan before train"):
        fresh.scan(x[:3], codes, 1)
    if fresh.least_train > 1:
        with pytest.raises(ValueError, match=f"needs at least {fresh.least_train}"):
            fresh.train(x[: fresh.least_train - 1])
    assert not fresh.is_trained


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: q.OptimizedProductQuantizer(D, 3), "m=3"),
        (lambda: q.OptimizedProductQuantizer(D, 4, start="random"), "start='random'"),
        (lambda: q.OptimizedProductQuantizer(D, 4, iterations=-1), "iterations=-1"),
        (lambda: q.LocallyOptimizedPQ(D, 4, n_clusters=0), "n_clusters=0"),
        (lambda: q.ResidualQuantizer(D, 4, nbits=13), "nbits=13"),
        (lambda: q.ResidualQuantizer(D, 4, beam=0), "beam=0"),
        (lambda: q.LocalSearchQuantizer(D, 4, iterations=0), "iterations=0"),
        (lambda: q.LocalSearchQuantizer(D, 4, encode_rounds=2**31), "encode_rounds=2147483648"),
        (lambda: q.ProductQuantizer(D, 4, seed=2**31), "seed=2147483648"),
        (lambda: q.ResidualQuantizer(D, 8, 12), r"m \* 2\*\*nbits is 32,768"),
        (lambda: q.ProductResidualQuantizer(D, 4, splits=3), "splits=3"),
        (lambda: q.ProductLocalSearchQuantizer(D, 3, splits=2), "divisor of m=3"),
        (lambda: q.CompositeQuantizer(D, 5), "m=5"),
        (lambda: q.CompositeQuantizer(D, 4, spread=0), "spread=0"),
        (lambda: q.CompositeQuantizer(D, 4, spread="narrow"), "spread='narrow'"),
        (lambda: q.AnisotropicProductQuantizer(D, 4, threshold=1), "threshold=1"),
        (lambda: q.AnisotropicProductQuantizer(D, 4, threshold=None), "threshold=None"),
        (lambda: q.AnisotropicProductQuantizer(1), "d=1"),
        (lambda: q.ScalarQuantizer(D, 5), "nbits=5"),
        (lambda: q.RaBitQuantizer(0), "d=0"),
    ],
)
def test_arguments_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", OF_CODEWORDS)
def test_numbers_that_no_code_holds(trained, name):
    quantizer = trained[name]
    good = np.zeros((3, quantizer.m), int)
    assert not quantizer.pack(good).any()
    for wrong in (good - 1, good + quantizer.ksub, good[0], good[:, 1:], good + 0.5):
        with pytest.raises(ValueError, match="numbers"):
            quantizer.pack(wrong)


@pytest.mark.parametrize("name", ["OPQ", "LOPQ", "RVQ", "LSQ", "PRQ", "CQ"])
def test_training_again_is_training_anew(trained, x, name):
    """What encoding sets up, such as a beam, is not left over."""
    again = trained[name].fresh().train(x)
    first = {part: a.tobytes() for part, a in again.state()}
    again.encode(x)
    second = {part: a.tobytes() for part, a in again.train(x).state()}
    assert first == second == {part: a.tobytes() for part, a in trained[name].state()}


@pytest.mark.parametrize("name", ["PQ", "OPQ", "LOPQ", "RVQ", "CQ", "SQ"])
@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_vectors_of_any_size_are_saved_and_loaded(trained, x, name, scale, tmp_path):
    few = (x * scale).astype(np.float32)
    quantizer = trained[name].fresh().train(few)
    quantizer.save(tmp_path / "quantizer")
    loaded = q.load_quantizer(tmp_path / "quantizer")
    assert np.array_equal(loaded.encode(few), quantizer.encode(few))


def test_costs_before_training_are_those_at_most():
    quantizer = q.LocallyOptimizedPQ(D, 4, 4, n_clusters=3)
    assert quantizer.search_cost()["lookups"] == 4
    assert quantizer.parameters_bytes == 3 * (4 * D + 4 * D * D + 4 * 16 * D)


@pytest.mark.parametrize("name", OF_CODEWORDS)
def test_an_oracle_decodes_and_scores_every_code(trained, x, name):
    """In plain NumPy: codes to numbers by bits, numbers to codewords, codewords to distances."""
    quantizer = trained[name]
    codes = quantizer.encode(x)
    bits = np.unpackbits(codes, axis=1, bitorder="little")[:, : quantizer.m * quantizer.nbits]
    places = 1 << np.arange(quantizer.nbits)
    numbers = bits.reshape(N, quantizer.m, quantizer.nbits) @ places
    assert np.array_equal(quantizer.unpack(codes), numbers)
    words = quantizer.codewords().astype(np.float64)
    decoded = sum(words[j][numbers[:, j]] for j in range(quantizer.m))
    decoded = decoded + getattr(quantizer, "mean", 0)
    scale = float((x**2).sum(axis=1).max())
    assert np.allclose(quantizer.decode(codes), decoded, atol=1e-5 * scale**0.5)
    queries = x[:20] + 0.5
    truth = squared(queries, decoded)
    table = quantizer.distance_table(queries)
    looked = sum(table[:, j][:, numbers[:, j]] for j in range(quantizer.m))
    assert np.allclose(looked + quantizer.offsets(codes), truth, atol=2e-5 * scale)
    options = {"exact": True} if name == "CQ" else {}
    distances, rows = quantizer.scan(queries, codes, 10, **options)
    assert np.allclose(distances, np.sort(truth, axis=1)[:, :10], atol=2e-5 * scale)
    assert np.allclose(np.take_along_axis(truth, rows, 1), distances, atol=2e-5 * scale)
    if name == "CQ":
        distances, rows = quantizer.scan(queries, codes, 10)
        close = looked + quantizer.epsilon
        assert np.allclose(distances, np.sort(close, axis=1)[:, :10], atol=2e-5 * scale)


@pytest.mark.parametrize("name", ["LOPQ", "SQ"])
def test_scanning_without_tables(trained, x, name):
    quantizer = trained[name]
    codes = quantizer.encode(x)
    truth = squared(x[:20], quantizer.decode(codes))
    distances, rows = quantizer.scan(x[:20], codes, 10)
    assert np.allclose(distances, np.sort(truth, axis=1)[:, :10], atol=2e-5 * float((x**2).max()))
    with pytest.raises(ValueError, match="no codewords"):
        quantizer.distance_table(x)


def test_codes_in_several_blocks(trained, x, monkeypatch):
    quantizer = trained["RVQ"]
    codes = quantizer.encode(x)
    whole = quantizer.scan(x[:20], codes, 10)
    monkeypatch.setattr(base, "BLOCK", 100)
    parts = quantizer.scan(x[:20], codes, 10)
    assert np.allclose(whole[0], parts[0], rtol=1e-4, atol=1e-3)
    assert (whole[1] == parts[1]).mean() > 0.99


@every
def test_saved_and_loaded(trained, x, name, tmp_path):
    quantizer = trained[name]
    quantizer.save(tmp_path / "it")
    loaded = q.load_quantizer(tmp_path / "it")
    assert repr(loaded) == repr(quantizer)
    assert loaded.n_train == quantizer.n_train
    assert np.array_equal(loaded.objective, quantizer.objective)
    assert loaded.parameters_bytes == quantizer.parameters_bytes
    codes = quantizer.encode(x)
    assert np.array_equal(loaded.encode(x), codes)
    assert np.array_equal(loaded.decode(codes), quantizer.decode(codes))
    content = bytearray((tmp_path / "it").read_bytes())
    content[-3] ^= 1
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        q.load_quantizer(tmp_path / "it")


def test_a_file_of_something_else(tmp_path, x):
    index = pqlib.BruteForce(D)
    index.add(x)
    index.save(tmp_path / "index")
    with pytest.raises(ValueError, match="holds a 'BruteForce'"):
        q.load_quantizer(tmp_path / "index")


# Each of them ---------------------------------------------------------------------------------


def test_rotations_are_rotations(trained, x):
    for name in ("OPQ", "OPQ, parametric"):
        rotation = trained[name].rotation.astype(np.float64)
        assert np.allclose(rotation @ rotation.T, np.eye(D), atol=1e-5)
    turned = x @ trained["OPQ, parametric"].rotation.T
    covariance = np.cov(turned.T)
    assert np.abs(covariance - np.diag(np.diagonal(covariance))).max() < 1e-3 * covariance.max()
    logs = np.log(np.diagonal(covariance))
    dealt = logs.reshape(4, -1).sum(axis=1)
    in_order = np.sort(logs).reshape(4, -1).sum(axis=1)
    assert np.ptp(dealt) < 0.5 * np.ptp(in_order)


def test_a_rotation_is_kept_only_where_it_lowers_the_error():
    # Of independent components with the same variance, no rotation is better than none.
    even = np.random.default_rng(0).uniform(size=(2000, D)).astype(np.float32)
    errors = []
    for start in ("parametric", "best"):
        found = q.OptimizedProductQuantizer(D, 4, 4, 0, start).train(even)
        errors.append(found.objective[-1])
    plain = q.ProductQuantizer(D, 4, 4).train(even)
    assert errors[1] <= min(errors[0], plain.objective[-1])
    skewed = even * np.geomspace(1, 100, D).astype(np.float32)
    found = q.OptimizedProductQuantizer(D, 4, 4, iterations=0).train(skewed)
    assert found.rotation is not None
    assert found.parameters_bytes == found.fresh().parameters_bytes
    assert found.objective[-1] < q.ProductQuantizer(D, 4, 4).train(skewed).objective[-1]


def test_small_clusters_share(x):
    found = q.LocallyOptimizedPQ(D, 4, 6, n_clusters=40).train(x)
    assert 0 < found.n_shared_clusters <= 40
    codes = found.encode(x)
    assert np.array_equal(found.clusters(codes), found._assign(x))
    codes[0, :2] = 255
    with pytest.raises(ValueError, match="name cluster 65535"):
        found.decode(codes)


def test_composite_products_are_nearly_constant(trained, x):
    quantizer = trained["CQ"]
    numbers = quantizer.unpack(quantizer.encode(x))
    s = q.inter_codebook(quantizer.codewords(), numbers)
    y = quantizer.decode(quantizer.encode(x)) - quantizer.mean
    assert s.std() <= 0.01 * (y**2).sum(axis=1).mean()


def test_composite_says_when_it_had_too_few_iterations(x):
    with pytest.warns(UserWarning, match="the product code at the start was kept"):
        found = q.CompositeQuantizer(D, 4, 4, iterations=1, spread=1e-9).train(x)
    assert np.abs(found.offsets(found.encode(x))).max() < 1e-3 * float((x**2).sum(axis=1).max())


def test_anisotropic_loss_is_what_the_definition_says(trained, x):
    quantizer = trained["anisotropic PQ"]
    y = quantizer.decode(quantizer.encode(x))
    r = (x - y).astype(np.float64)
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    along = (r * u).sum(axis=1, keepdims=True) * u
    expected = quantizer.ratio * (along**2).sum() + ((r - along) ** 2).sum()
    assert quantizer.loss(x, y) == pytest.approx(expected / N, rel=1e-6)
    assert quantizer.ratio == pytest.approx(15 * 0.16 / 0.84)
    plain = q.ProductQuantizer(D, 4, 4).train(x)
    assert quantizer.loss(x, y) < quantizer.loss(x, plain.decode(plain.encode(x)))
    assert (np.diff(quantizer.objective) < 1e-6 * quantizer.objective[0]).all()


def test_anisotropic_with_equal_weights_is_a_product_quantizer(x):
    equal = q.AnisotropicProductQuantizer(D, 4, 4, threshold=0, iterations=1).train(x)
    assert equal.ratio == 1
    plain = q.ProductQuantizer(D, 4, 4).set_codebooks(equal.codebooks)
    assert np.array_equal(equal.encode(x), plain.encode(x))


def test_zero_vectors_have_no_direction():
    zeros = np.zeros((40, D), np.float32)
    for name in ("anisotropic PQ", "OPQ", "CQ", "LOPQ", "RaBitQ"):
        quantizer = MAKERS[name]().train(zeros)
        assert np.allclose(quantizer.decode(quantizer.encode(zeros)), 0, atol=1e-6), name


def test_same_as_nanopq(x):
    nanopq = pytest.importorskip("nanopq")
    ours = q.ProductQuantizer(D, 4, 4).train(x)
    theirs = nanopq.PQ(M=4, Ks=16, verbose=False)
    theirs.Ds, theirs.codewords, theirs.code_dtype = 4, ours.codebooks.copy(), np.uint8
    assert np.array_equal(theirs.encode(x), ours.unpack(ours.encode(x)))
    for query in x[:5]:
        table = theirs.dtable(query).dtable
        assert np.allclose(table, ours.distance_table(query[None])[0], rtol=1e-4, atol=1e-3)
