"""Try ``pqlib.tune`` on generated data sets that it was not made for.

    python scripts/try_tune.py                         all of them, several minutes
    python scripts/try_tune.py --list
    python scripts/try_tune.py cube-96 latent-384 --recall 0.9 --budget 30

For each, an index is tuned with the default arguments and searched with queries that tuning has
not seen. The verdict is "ok" when they reach the recall asked for, less 0.005, or the report says
that it was not reached. The exit status is 1 when any verdict is "NOT ok". The sets are those of
``tests/generated.py``; a set takes up to 1 GB of memory.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import pqlib
from pqlib import evaluation

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from generated import SETS, generate

TOLERANCE = 0.005
K = 10


def try_set(name: str, recall: float, budget: float, seed: int) -> dict[str, Any]:
    """Tune for a set and return a row: what was chosen, and what it reaches on the queries."""
    ds = generate(name, seed=seed)
    print(f"\n{name}: n={ds.n:,}, d={ds.d}. {SETS[name].title}", flush=True)
    started = time.monotonic()
    tuned = pqlib.tune(ds, recall=recall, k=K, budget_s=budget, seed=seed, progress=False)
    seconds = time.monotonic() - started
    _, ids = tuned.index.search(ds.test, K)
    each = evaluation.query_recall(ids, ds, K)
    reached = float(each.mean())
    exact = tuned.tried[tuned.tried.composition == "exact search"].iloc[0]
    print("  " + tuned.report(ds.test).replace("\n", "\n  "))
    row = {
        "name": name,
        "n": ds.n,
        "d": ds.d,
        "composition": str(tuned.composition),
        "recall_asked": recall,
        "recall_calibration": float(tuned.best.recall),
        "recall_test": reached,
        # Of the difference of the two: calibrated with other queries than tested with.
        "standard_error": float(each.std() * math.sqrt(1 / len(each) + 1 / len(tuned.calibration))),
        "said_reached": tuned.reached,
        "speed_up": float(tuned.best.qps / exact.qps),
        "bytes_per_vector": tuned.index.bytes_per_vector,
        "tried": int(tuned.tried.seconds.notna().sum()),
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,  # so far, of all
        "verdict": "ok" if reached >= recall - TOLERANCE or not tuned.reached else "NOT ok",
    }
    print(
        f"  recall@{K} asked {recall:g}, calibration {row['recall_calibration']:.4f}, "
        f"test {reached:.4f} (standard error of the difference {row['standard_error']:.4f}), "
        f"{'reached' if tuned.reached else 'said NOT reached'}, {seconds:.1f} s\n"
        f"  {row['verdict']}",
        flush=True,
    )
    return row


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="sets to try (default: all)")
    parser.add_argument("--recall", type=float, default=0.95, help="recall@10 asked for")
    parser.add_argument("--budget", type=float, default=180, help="seconds a set may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="list the sets and stop")
    parser.add_argument("--output", type=Path, help="write a row for each set to this CSV file")
    args = parser.parse_args()
    if args.list:
        for name, recipe in SETS.items():
            print(f"{name:<18} n={recipe.n:>9,}  d={recipe.d:>4}  {recipe.title}")
        return 0
    unknown = [name for name in args.names if name not in SETS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. Known: {', '.join(SETS)}")
    rows = []
    for name in args.names or SETS:
        rows.append(try_set(name, args.recall, args.budget, args.seed))
        if args.output is not None:
            pd.DataFrame(rows).to_csv(args.output, index=False)
    table = pd.DataFrame(rows)
    with pd.option_context("display.width", 250, "display.max_columns", None):
        print(f"\n{table.to_string(index=False, float_format=lambda x: f'{x:.4g}')}")
    bad = int(np.sum(table.verdict != "ok"))
    print(f"\n{len(rows)} sets, {bad} NOT ok")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
