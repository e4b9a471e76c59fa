"""``python -m pqlib.datasets NAME-or-path``: fetch a data set and verify it."""

from __future__ import annotations

import argparse
import sys

from pqlib.datasets import REGISTRY, fetch, files, load_dataset, verify


def main(arguments: list[str] | None = None) -> int:
    """Fetch and verify one data set; without a name, list what there is. Return exit status."""
    parser = argparse.ArgumentParser(prog="python -m pqlib.datasets", description=__doc__)
    parser.add_argument("dataset", nargs="?", help="a registered name or a path")
    name = parser.parse_args(arguments).dataset
    if name is None:
        for info in REGISTRY.values():
            size = "in the package" if info.embedded else f"{info.megabytes:,} MB"
            print(
                f"{info.name:<14}{info.n_train:>10,} x {info.dimension:<4}{info.metric:<10} "
                f"{size:>14}  {info.title}"
            )
        return 0
    try:
        if files.is_path(name):
            print(load_dataset(name).describe())
        else:
            fetch(name)
            print(verify(name))
    except (OSError, ValueError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
