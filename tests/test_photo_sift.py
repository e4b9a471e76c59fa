"""The embedded data set: its file, its exact ground truth, its credits."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
HDF5 = ROOT / "pqlib" / "data" / "photo-sift.hdf5"
CREDITS = HDF5.with_suffix(".md")
SCRIPT = ROOT / "scripts" / "make_photo_sift.py"
N, NQ, D, K = 40_000, 1_000, 128, 100


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """All arrays of the file by name."""
    with h5py.File(HDF5, "r") as f:
        return {name: f[name][...] for name in f}


@pytest.fixture(scope="module")
def attributes() -> dict[str, object]:
    """All attributes of the file by name."""
    with h5py.File(HDF5, "r") as f:
        return dict(f.attrs)


@pytest.fixture(scope="module")
def credit_rows(attributes: dict[str, object]) -> list[dict]:
    """The credits attribute: one entry per photograph, in the order of `photos`."""
    return json.loads(str(attributes["credits"]))


def test_size() -> None:
    assert HDF5.stat().st_size <= 6_000_000


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("train", (N, D), "uint8"),
        ("test", (NQ, D), "uint8"),
        ("neighbors", (NQ, K), "int32"),
        ("distances", (NQ, K), "float32"),
        ("train_photo", (N,), "uint8"),
        ("test_photo", (NQ,), "uint8"),
        ("train_keypoints", (N, 4), "float32"),
        ("test_keypoints", (NQ, 4), "float32"),
    ],
)
def test_shape_type_finite(
    arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: str
) -> None:
    assert arrays[name].shape == shape
    assert arrays[name].dtype == dtype
    assert np.isfinite(arrays[name]).all()


def test_ann_benchmarks_attributes(attributes: dict[str, object]) -> None:
    assert attributes["distance"] == "euclidean"
    assert attributes["type"] == "dense"
    assert attributes["point_type"] == "float"
    assert attributes["dimension"] == D


def test_ground_truth_is_exact(arrays: dict[str, np.ndarray]) -> None:
    # Squared distances of whole numbers are whole numbers, which float64 holds exactly; times n
    # plus the number of the base vector, they order by distance first and by number second.
    base = arrays["train"].astype(np.float64)
    norms = (base**2).sum(axis=1)
    for start in range(0, NQ, 100):
        block = slice(start, start + 100)
        q = arrays["test"][block].astype(np.float64)
        squared = (q**2).sum(axis=1)[:, None] + norms - 2.0 * (q @ base.T)
        rank = squared.astype(np.int64) * N + np.arange(N)
        best = np.sort(np.partition(rank, K - 1, axis=1)[:, :K], axis=1)
        np.testing.assert_array_equal(arrays["neighbors"][block], best % N)
        np.testing.assert_array_equal(
            arrays["distances"][block], np.sqrt((best // N).astype(np.float64)).astype(np.float32)
        )


def test_no_duplicates(arrays: dict[str, np.ndarray]) -> None:
    vectors = np.concatenate([arrays["train"], arrays["test"]])
    assert len({v.tobytes() for v in vectors}) == N + NQ


def test_descriptors_look_like_sift(arrays: dict[str, np.ndarray]) -> None:
    # OpenCV scales a descriptor to length 512 before it rounds and clips.
    lengths = np.linalg.norm(arrays["train"].astype(np.float64), axis=1)
    assert 490 < np.percentile(lengths, 1) < np.percentile(lengths, 99) < 530


def test_queries_have_a_photograph_of_their_own(
    arrays: dict[str, np.ndarray], credit_rows: list[dict]
) -> None:
    assert not set(arrays["train_photo"]) & set(arrays["test_photo"])
    counts = np.bincount(
        np.concatenate([arrays["train_photo"], arrays["test_photo"]]), minlength=len(credit_rows)
    )
    assert counts.tolist() == [c["taken"] for c in credit_rows]
    roles = ["queries" if i in arrays["test_photo"] else "base" for i in range(len(credit_rows))]
    assert roles == [c["role"] for c in credit_rows]
    assert [name.decode() for name in arrays["photos"]] == [c["name"] for c in credit_rows]


def test_many_queries_find_their_counterpart(arrays: dict[str, np.ndarray]) -> None:
    # The pair is rectified: a point of the right picture lies in the left one at the same height.
    nearest = arrays["neighbors"][:, 0]
    height = np.abs(arrays["train_keypoints"][nearest, 1] - arrays["test_keypoints"][:, 1])
    assert ((arrays["train_photo"][nearest] == 0) & (height < 1.5)).mean() > 0.4


def test_keypoints_lie_in_reasonable_ranges(arrays: dict[str, np.ndarray]) -> None:
    for name in ("train_keypoints", "test_keypoints"):
        x, y, size, angle = arrays[name].T
        assert min(x.min(), y.min()) >= 0
        assert max(x.max(), y.max()) < 800
        assert size.min() > 0
        assert 0 <= angle.min() <= angle.max() <= 360


def test_first_rows_are_a_sample_of_all_photographs(arrays: dict[str, np.ndarray]) -> None:
    photo = arrays["train_photo"]
    share = np.bincount(photo) / N
    first = np.bincount(photo[:4_000], minlength=len(share)) / 4_000
    np.testing.assert_allclose(first, share, atol=0.02)


def test_content_sha256(arrays: dict[str, np.ndarray], attributes: dict[str, object]) -> None:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape};".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    assert digest.hexdigest() == attributes["content_sha256"]
    assert f"`{attributes['content_sha256']}`" in CREDITS.read_text(encoding="utf-8")


def test_credits_agree_with_the_file(
    attributes: dict[str, object], credit_rows: list[dict]
) -> None:
    text = CREDITS.read_text(encoding="utf-8")
    photographs, inputs = text.split("## Exact inputs")
    rows = re.findall(r"^\| (\w+) \| (.*) \|$", photographs, flags=re.M)
    listed = [name for name, _ in rows if name != "photograph"]
    assert listed == [c["name"] for c in credit_rows]
    for c in credit_rows:
        assert (
            f"| {c['name']} | {c['author']} | {c['licence']} | {c['source']} | {c['role']} | "
            f"{c['taken']:,} of {c['found']:,} |"
        ) in photographs
        assert f"| `{c['file']}` | `{c['sha256']}` |" in inputs
        assert re.fullmatch(r"[0-9a-f]{64}", c["sha256"])
        assert all(c[key] for key in ("author", "licence", "source", "package"))
    made_with = json.loads(str(attributes["made_with"]))
    assert made_with
    for library, version in made_with.items():
        assert f"{library} {version}" in text


def test_script_pins_the_same_inputs(credit_rows: list[dict]) -> None:
    # Read, not imported: the script's libraries are not among the test's.
    strings = {
        node.value
        for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    hashes = {s for s in strings if re.fullmatch(r"[0-9a-f]{64}", s)}
    assert hashes == {c["sha256"] for c in credit_rows}
