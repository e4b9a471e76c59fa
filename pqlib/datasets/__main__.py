"""``python -m pqlib.datasets NAME``: fetch a data set and verify it; without a name, list all.

``fetch NAME`` fetches only, ``fetch NAME --verify`` is the same as NAME alone, and ``list`` lists.
``embed TEXTS --model MODEL OUT.hdf5`` makes a data set of texts; ``embed --help`` says how.
"""

from __future__ import annotations

import argparse
import sys

from pqlib.datasets import REGISTRY, embed, fetch, files, load_dataset, verify


def main(arguments: list[str] | None = None) -> int:
    """Fetch and verify one data set, list what there is, or make one. Return exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["embed"]:
        return _embed(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m pqlib.datasets", description=__doc__)
    parser.add_argument(
        "words", nargs="*", metavar="[fetch] NAME | list", help="a registered name or a path"
    )
    parser.add_argument("--verify", action="store_true", help="after fetch: check the file as well")
    options = parser.parse_args(arguments)
    words = options.words
    if words in ([], ["list"]):
        for info in REGISTRY.values():
            size = "in the package" if info.embedded else f"{info.megabytes:,} MB"
            print(
                f"{info.name:<14}{info.n_train:>10,} x {info.dimension:<4}{info.metric:<10} "
                f"{size:>14}  {info.title}"
            )
        return 0
    fetch_only = words[0] == "fetch" and not options.verify
    if words[0] == "fetch":
        words = words[1:]
    if len(words) != 1:
        parser.error(f"{len(words)} data sets given: expected one")
    (name,) = words
    try:
        if files.is_path(name):
            print(load_dataset(name).describe())
        else:
            path = fetch(name)
            print(path if fetch_only else verify(name))
    except (OSError, ValueError, MemoryError, ImportError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def _embed(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pqlib.datasets embed",
        description="Make a data set of texts, with sentence-transformers. Blank texts are left "
        "out. Interrupted, the same command goes on where it stopped.",
    )
    parser.add_argument("texts", help=".txt, a text a line; .jsonl; .parquet")
    parser.add_argument("out", help="the file to write, .hdf5")
    parser.add_argument("--model", required=True, help="a name or a path")
    parser.add_argument("--column", help="key or column of the texts; otherwise text")
    parser.add_argument("--queries", help="a file of queries; otherwise texts drawn at random")
    parser.add_argument("--batch", type=int, default=64, help="texts at a time (64)")
    options = parser.parse_args(arguments)
    try:
        out = embed.embed(
            options.texts, options.model, options.out, column=options.column,
            queries=options.queries, batch=options.batch,
        )  # fmt: skip
    except (OSError, ValueError, MemoryError, ImportError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return 130
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
