"""The embedded data set of text embeddings: its file, its ground truth, its model, its credits."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from pqlib.datasets import REGISTRY, load_dataset

ROOT = Path(__file__).resolve().parents[1]
HDF5 = ROOT / "pqlib" / "data" / "gloss-minilm.hdf5"
SCRIPT = ROOT / "scripts" / "make_gloss_minilm.py"
N, NQ, D, K = 12_000, 1_000, 384, 100


@pytest.fixture(scope="module")
def arrays():
    with h5py.File(HDF5, "r") as file:
        return {name: file[name][...] for name in file}


def unit(x):
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_the_file_is_small_and_has_its_parts(arrays):
    assert HDF5.stat().st_size < 10_000_000
    shapes = {name: (array.shape, array.dtype.kind) for name, array in arrays.items()}
    assert shapes == {
        "train": ((N, D), "f"),
        "test": ((NQ, D), "f"),
        "neighbors": ((NQ, K), "i"),
        "distances": ((NQ, K), "f"),
        "train_texts": ((N,), "S"),
        "test_texts": ((NQ,), "S"),
        "test_right": ((NQ,), "i"),
    }
    assert arrays["train"].dtype == arrays["test"].dtype == np.float16
    info = REGISTRY["gloss-minilm"]
    assert info.embedded
    assert (info.n_train, info.n_test, info.dimension) == (N, NQ, D)


def test_the_ground_truth_is_exact(arrays):
    cosines = unit(arrays["test"]) @ unit(arrays["train"]).T
    best = -np.sort(-cosines, axis=1)[:, :K]
    listed = np.take_along_axis(cosines, arrays["neighbors"].astype(np.int64), 1)
    np.testing.assert_allclose(listed, best, atol=1e-9)
    np.testing.assert_allclose(arrays["distances"], 1 - best, atol=1e-6)
    assert all(len(set(row)) == K for row in arrays["neighbors"].tolist())


def test_texts_and_right_answers_fit(arrays):
    texts = [text.decode() for text in arrays["train_texts"]]
    assert len(set(texts)) == N
    assert min(map(len, texts)) > 2
    assert len({text.decode() for text in arrays["test_texts"]}) == NQ
    right = arrays["test_right"]
    assert len(np.unique(right)) == NQ
    assert right.min() >= 0
    assert right.max() < N
    # One that can be looked up: the own definition of this example.
    row = arrays["test_texts"].tolist().index(b"the trimming on a hat")
    assert texts[right[row]] == "a decoration or adornment on a garment"


def test_vectors_are_those_of_sentence_transformers(arrays):
    """Of sentence-transformers 6.2.0 with PyTorch 2.13.0 for the same texts, to half precision."""
    with np.load(Path(__file__).with_name("gloss_reference.npz")) as kept:
        rows, expected = kept["rows"], kept["vectors"]
    assert len(rows) == 12
    np.testing.assert_allclose(arrays["train"][rows].astype(np.float32), expected, atol=1.5e-4)
    others = unit(arrays["train"]) @ expected.astype(np.float64).T
    assert (others.argmax(axis=0) == rows).all()


def test_it_loads_as_unit_vectors():
    ds = load_dataset("gloss-minilm")
    assert (ds.n, ds.nq, ds.d) == (N, NQ, D)
    assert ds.stored_dtype == "float16"
    assert "unit length" in ds.note
    assert "computed here" not in ds.note  # the file's own ground truth serves
    np.testing.assert_allclose(np.linalg.norm(ds.train, axis=1), 1, atol=1e-6)


def test_credits_name_inputs_licences_and_the_cost_of_rounding():
    text = HDF5.with_suffix(".md").read_text(encoding="utf-8")
    with h5py.File(HDF5, "r") as file:
        inputs = json.loads(str(file.attrs["inputs"]))
    assert len(inputs) == 2
    for name, digest in inputs.items():
        assert f"| `{name}` | `{digest}` |" in text
        assert digest in SCRIPT.read_text(encoding="utf-8")
    for words in ("Apache License 2.0", "Princeton University", "WordNet 3.0 Copyright 2006"):
        assert words in text
    same = re.search(r"100 nearest that are the same \| ([\d.]+)%", text)
    assert same is not None
    assert float(same[1]) > 99.9


@pytest.mark.skipif(
    "PQLIB_GLOSS_INPUTS" not in os.environ or importlib.util.find_spec("tokenizers") is None,
    reason="needs the model's weights in PQLIB_GLOSS_INPUTS, 84 MB, and the tokenizers package",
)
def test_the_script_makes_the_same_vectors(arrays, monkeypatch):
    spec = importlib.util.spec_from_file_location("make_gloss_minilm", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)  # its dataclasses look for their module
    spec.loader.exec_module(script)
    model = script.MiniLM(Path(os.environ["PQLIB_GLOSS_INPUTS"]) / script.MODEL)
    texts = [text.decode() for text in arrays["train_texts"][:64]]
    np.testing.assert_allclose(model.encode(texts), arrays["train"][:64], atol=3e-4)
    happy = model.encode(["That is a happy person", "That is a very happy person"])
    assert float(happy[0] @ happy[1]) == pytest.approx(0.943, abs=1e-3)  # the model's own page
