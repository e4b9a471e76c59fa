import functools

import faiss
import numpy as np
import pytest
from oracle import squared

from pqlib.quantizers import ProductQuantizer, code_entropy, mean_squared_error


@pytest.fixture(scope="module")
def trained(clustered):
    """Return a function that trains a quantizer of a shape, once."""
    return functools.cache(lambda m, nbits: ProductQuantizer(16, m, nbits).train(clustered[0]))


@pytest.mark.parametrize(("m", "nbits"), [(4, 8), (8, 4), (2, 6), (16, 5), (1, 4), (4, 10)])
def test_codes_are_the_nearest_centroids_of_every_sub_space(trained, clustered, m, nbits):
    quantizer, queries = trained(m, nbits), clustered[1]
    codes = quantizer.encode(queries)
    assert codes.shape == (50, (m * nbits + 7) // 8)
    numbers, decoded = quantizer.unpack(codes), quantizer.decode(codes)
    width = 16 // m
    for j in range(m):
        part = queries[:, j * width : (j + 1) * width]
        distances = squared(part, quantizer.codebooks[j])
        chosen = distances[np.arange(50), numbers[:, j]]
        assert (chosen == distances.min(axis=1)).all()
        assert (
            decoded[:, j * width : (j + 1) * width] == quantizer.codebooks[j][numbers[:, j]]
        ).all()
    # faiss packs and reads codes alike.
    assert (quantizer.faiss.decode(codes) == decoded).all()


def test_error_is_that_of_faiss(photo_sift):
    base = photo_sift.train[:12_000]
    ours = ProductQuantizer(128, 8, 8).train(base)
    theirs = faiss.ProductQuantizer(128, 8, 8)
    theirs.train(base)
    error = mean_squared_error(base, ours.decode(ours.encode(base)))
    reference = mean_squared_error(base, theirs.decode(theirs.compute_codes(base)))
    assert error == pytest.approx(reference, rel=0.01)


def test_tables_add_up_to_the_distance_of_the_decoded_code(trained, clustered):
    base, queries = clustered
    quantizer = trained(4, 8)
    codes = quantizer.encode(base)
    table, numbers = quantizer.distance_table(queries), quantizer.unpack(codes)
    sums = sum(table[:, j, :][:, numbers[:, j]] for j in range(4))
    exact = squared(queries, quantizer.decode(codes))
    assert sums == pytest.approx(exact, rel=1e-4, abs=1e-4 * exact.max())
    distances, positions = quantizer.scan(queries, codes, 7)
    assert distances == pytest.approx(np.sort(exact, axis=1)[:, :7], rel=1e-4, abs=1)
    found = np.take_along_axis(exact, positions, 1)
    assert found == pytest.approx(distances, rel=1e-4, abs=1)


def test_codebooks_outlive_the_quantizer_and_can_be_given(clustered):
    base, _ = clustered
    codebooks = ProductQuantizer(16, 4, 4).train(base).codebooks
    again = ProductQuantizer(16, 4, 4).set_codebooks(codebooks)
    other = ProductQuantizer(16, 4, 4).train(base)
    assert (again.encode(base) == other.encode(base)).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: ProductQuantizer(16, 5), "divisor of d=16.*1, 2, 4, 8, 16"),
        (lambda x: ProductQuantizer(16, 4, 3), "nbits=3"),
        (lambda x: ProductQuantizer(16, 4, 17), "nbits=17"),
        (lambda x: ProductQuantizer(16, 4, 8).train(x[:255]), "at least 256"),
        (lambda x: ProductQuantizer(16, 4, 8).encode(x), "encode before train"),
        (lambda x: ProductQuantizer(16, 4, 4).train(x[:, :8]), "d=16"),
        (lambda x: ProductQuantizer(16, 4, 4).train(x).decode(x), "uint8"),
        (lambda x: ProductQuantizer(16, 4, 4).set_codebooks(x), "shape"),
    ],
)
def test_errors_name_the_argument(clustered, call, words):
    with pytest.raises(ValueError, match=words):
        call(clustered[0])


def test_default_m_divides_every_dimension():
    assert [ProductQuantizer(d).m for d in (784, 128, 960, 100, 7, 25, 1, 11)] == [
        8, 8, 8, 5, 7, 5, 1, 1,
    ]  # fmt: skip


def test_entropy_of_codes():
    codes = np.array([[0, 0], [1, 0], [2, 0], [3, 0]])
    assert code_entropy(codes, 4) == pytest.approx([2, 0])
