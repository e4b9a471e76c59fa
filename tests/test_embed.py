"""A data set made of texts: streamed, resumed, and opened like any other."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pqlib
from pqlib.datasets import embed as embedding
from pqlib.datasets import texts
from pqlib.datasets.__main__ import main
from pqlib.datasets.embed import embed

WORDS = [f"the text, number {number}, of größere" for number in range(100)]


def vector(text):
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.frombuffer(digest, np.uint8).astype(np.float32) - 127.5


def encode(block):
    """A small model: the same text has the same vector."""
    return np.array([vector(text) for text in block])


class Counting:
    """A model that counts, and is interrupted at one of its calls."""

    def __init__(self, last=None, problem=KeyboardInterrupt):
        self.seen, self.last, self.problem = [], last, problem

    def __call__(self, block):
        if self.last is not None and len(self.seen) == self.last:
            raise self.problem
        self.seen.append(block)
        return encode(block)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("PQLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedding, "BLOCK", 16)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


def held(path):
    """The texts of base and queries, after comparing each with its vector."""
    with h5py.File(path) as file:
        parts = [[t.decode() for t in file[f"{name}_texts"]] for name in ("train", "test")]
        for name, words in zip(("train", "test"), parts, strict=True):
            assert file[name].dtype == np.float32
            assert (file[name][...] == encode(words)).all()
        return parts


def test_texts_become_a_data_set(tmp_path, source):
    out = embed(source, "a-model", tmp_path / "out.hdf5", encode=encode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.hdf5", "texts.txt"]
    train, test = held(out)
    chosen = set(np.random.default_rng(0).choice(100, 10, replace=False).tolist())
    assert train == [text for number, text in enumerate(WORDS) if number not in chosen]
    assert test == [text for number, text in enumerate(WORDS) if number in chosen]
    ds = pqlib.load_dataset(out)
    assert (ds.n, ds.nq, ds.d, ds.neighbors.shape) == (90, 10, 16, (10, 90))
    assert "angular" in ds.note
    unit = encode(train) / np.linalg.norm(encode(train), axis=1, keepdims=True)
    assert ds.train == pytest.approx(unit, abs=1e-6)
    with h5py.File(out) as file:
        assert (file.attrs["model"], file.attrs["distance"]) == ("a-model", "angular")
        assert file.attrs["skipped"] == 0


def test_formats_columns_and_blank_texts(tmp_path, source):
    expected = held(embed(source, "m", tmp_path / "0.hdf5", encode=encode))
    blank = [*WORDS[:40], "", " \t", *WORDS[40:], ""]
    (tmp_path / "1.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(blank).encode())
    for name, key in (("2", "text"), ("3", "body")):
        lines = [json.dumps({"id": 1, key: text}) for text in blank]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*lines, "", ""]))
    for name, key, kind in (("4", "text", pa.string()), ("5", "body", pa.large_string())):
        column = pa.array([text or None for text in blank], kind)
        table = {"title": ["x"] * len(blank), key: column}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet", row_group_size=30)
    pq.write_table(pa.table({"only": column, "n": range(103)}), tmp_path / "6.parquet")
    for name, key, skipped in (
        ("1.txt", None, 2), ("2.jsonl", None, 4), ("3.jsonl", "body", 4), ("4.parquet", None, 3),
        ("5.parquet", "body", 3), ("6.parquet", None, 3),
    ):  # fmt: skip
        out = embed(tmp_path / name, "m", tmp_path / f"{name}.hdf5", column=key, encode=encode)
        assert held(out) == expected, name
        with h5py.File(out) as file:
            # White texts, nulls, and lines of .jsonl without an object.
            assert file.attrs["skipped"] == skipped, name
    with pytest.raises(ValueError, match=r"5\.parquet has several columns .*: title, body"):
        embed(tmp_path / "5.parquet", "m", tmp_path / "x.hdf5", encode=encode)


def test_queries_of_their_own(tmp_path, source):
    (tmp_path / "asked.jsonl").write_text('{"text": "what?"}\n{"text": "who?"}\n')
    out = embed(source, "m", tmp_path / "out.h5", queries=tmp_path / "asked.jsonl", encode=encode)
    assert held(out) == [WORDS, ["what?", "who?"]]
    assert pqlib.load_dataset(out).n == 100


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError("the network is gone")])
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, source, problem, capsys):
    whole = embed(source, "m", tmp_path / "whole.hdf5", encode=encode)
    time.sleep(1.1)  # a time of creation would show
    out = tmp_path / "out.hdf5"
    for last in (0, 2, 3):
        model = Counting(last, problem)
        with pytest.raises((KeyboardInterrupt, OSError)):
            embed(source, "m", out, encode=model)
        assert not out.exists()
    assert "going on after 32 of 100 texts" in capsys.readouterr().err
    model = Counting()
    embed(source, "m", out, encode=model)
    assert [text for block in model.seen for text in block] == WORDS[80:]
    assert out.read_bytes() == whole.read_bytes()
    assert not out.with_name("out.hdf5.part").exists()
    # It is there: nothing is done, and nothing of it lost.
    assert embed(source, "m", out, encode=Counting(0)) == out


def test_a_killed_process_leaves_what_can_be_gone_on_with(tmp_path, source):
    out = tmp_path / "out.hdf5"
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); import test_embed\n"
        "test_embed.embedding.BLOCK = 16; model = test_embed.Counting()\n"
        "def encode(block):\n"
        "    if len(model.seen) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return model(block)\n"
        "test_embed.embed(sys.argv[2], 'm', sys.argv[3], encode=encode)\n"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parent), str(source), str(out)]
    assert subprocess.run(words, capture_output=True).returncode == -signal.SIGKILL
    model = Counting()
    embed(source, "m", out, encode=model)
    assert [text for block in model.seen for text in block] == WORDS[48:]
    assert sum(map(len, held(out))) == 100


@pytest.mark.parametrize("change", ["model", "texts", "queries", "damage"])
def test_a_work_file_of_something_else_is_begun_anew(tmp_path, source, change, capsys):
    out, part = tmp_path / "out.hdf5", tmp_path / "out.hdf5.part"
    with pytest.raises(KeyboardInterrupt):
        embed(source, "m", out, encode=Counting(3))
    with h5py.File(part) as file:
        assert file["done"][()] == 48
    how = {}
    if change == "texts":
        source.write_text("\n".join(WORDS[::-1]), encoding="utf-8")
    if change == "queries":
        how["queries"] = source
    if change == "damage":
        part.write_bytes(part.read_bytes()[:500])
    model = Counting()
    embed(source, "another" if change == "model" else "m", out, encode=model, **how)
    assert sum(map(len, model.seen)) == (200 if change == "queries" else 100)
    assert "anew" in capsys.readouterr().err
    held(out)
    with pytest.raises(FileExistsError, match=r"out\.hdf5.*not of these texts and this model"):
        embed(source, "a third", out, encode=encode)


def test_one_process_at_a_time(tmp_path, source):
    out = tmp_path / "out.hdf5"

    def second(block):
        with pytest.raises(OSError, match="another process is writing it"):
            embed(source, "m", out, encode=encode)
        return encode(block)

    assert sum(map(len, held(embed(source, "m", out, encode=second)))) == 100


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"one\ntwo\xff\n", "line 2: .*Expected UTF-8"),
        ("a.txt", b"one\ntw\0o\n", "line 2: holds a zero"),
        ("a.txt", b"one\n", r"too few texts, \[1\]. Expected at least 2"),
        ("a.txt", b"", "too few texts"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "x"}', "line 2: has no 'text'.*it has body"),
        ("a.jsonl", b'{"text": "x"}\n[1]', "line 2: has no 'text'.*a list"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 5}', "line 2: is 5. Expected text"),
        ("a.jsonl", b'{"text": "\\ud800"}', "line 1: holds a zero or half"),
        ("a.jsonl", b"{", "line 1: no JSON"),
        ("a.parquet", b"PAR1", r"a\.parquet: expected a parquet file"),
        ("a.csv", b"x", r"the ending '\.csv' is unknown.*\.jsonl"),
    ],
)
def test_files_that_hold_no_texts(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as refused:
        embed(tmp_path / name, "m", tmp_path / "out.hdf5", encode=encode)
    assert name in str(refused.value)


def test_models_that_give_no_vectors(tmp_path, source):
    out = tmp_path / "out.hdf5"
    wider = iter([16, 16, 8])
    for model, said in (
        (lambda block: encode(block)[0], "what m returned has shape"),
        (lambda block: encode(block)[1:], "m gave 15 vectors for 16 texts"),
        (lambda block: encode(block) * np.inf, "expected finite"),
        (lambda block: encode(block)[:, : next(wider)], "m gave vectors of dimension 8 after 16"),
    ):
        with pytest.raises(ValueError, match=said):
            embed(source, "m", out, encode=model)
    assert not out.exists()


def test_wrong_arguments(tmp_path, source):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "y"}')
    for how, error, said in (
        ({"out": "x.npy"}, ValueError, r"out='x\.npy': expected an ending of \.hdf5 or \.h5"),
        ({"out": tmp_path / "no" / "x.h5"}, FileNotFoundError, "there is no folder"),
        ({"source": "nowhere.txt"}, FileNotFoundError, r"texts='nowhere\.txt'"),
        ({"queries": "nowhere.txt"}, FileNotFoundError, r"texts='nowhere\.txt'"),
        ({"column": "text"}, ValueError, "column='text': .* has none"),
        ({"batch": 0}, ValueError, "batch=0"),
    ):
        arguments = {"source": source, "model": "m", "out": tmp_path / "out.h5", **how}
        with pytest.raises(error, match=said):
            embed(**arguments, encode=encode)
    assert list(texts.read(tmp_path / "a.jsonl")) == ["x", "y"]


class Toy:
    """What sentence-transformers' class does, of which the tests have none."""

    def __init__(self, name):
        assert name == "toy"

    def encode(self, block, batch_size, convert_to_numpy, show_progress_bar):
        assert (batch_size, convert_to_numpy, show_progress_bar) == (7, True, False)
        return encode(block)


def test_the_command(tmp_path, source, capsys, monkeypatch):
    out = tmp_path / "out.hdf5"
    command = ["embed", str(source), "--model", "toy", str(out), "--batch", "7"]
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert main(command) == 1
    assert "pip install 'pqlib[embed]'" in capsys.readouterr().err
    fake = type(sys)("sentence_transformers")
    fake.SentenceTransformer = Toy
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "encode", lambda self, block, **how: Counting(0)(block))
        assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(command) == 0
    assert capsys.readouterr().out == f"{out}\n"
    held(out)
    assert main([str(out)]) == 0
    assert "90 base vectors and 10 queries of dimension 16" in capsys.readouterr().out
