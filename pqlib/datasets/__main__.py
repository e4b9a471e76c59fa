"""``python -m pqlib.datasets NAME``: fetch a data set and verify it; without a name, list all.

``fetch NAME`` fetches only, ``fetch NAME --verify`` is the same as NAME alone, and ``list`` lists.
"""

from __future__ import annotations

import argparse
import sys

from pqlib.datasets import REGISTRY, fetch, files, load_dataset, verify


def main(arguments: list[str] | None = None) -> int:
    """Fetch and verify one data set, or list what there is. Return exit status."""
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


if __name__ == "__main__":
    sys.exit(main())
