"""The long harnesses: what the study withstands, tried many times over.

    python scripts/stress                     all of them, at most half an hour
    python scripts/stress fuzz kill           some
    python scripts/stress fuzz --share 0.1    a tenth of the cases

Each prints what it tried and what went wrong. The counts are kept in docs/reliability.csv, from
which docs/reliability.md has its numbers (python scripts/stress --table writes them there). The
exit status is 1 when anything went wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "tests")]

import coverage_guided  # noqa: E402
import fuzz  # noqa: E402
import kill  # noqa: E402
import load  # noqa: E402
import report  # noqa: E402
import same  # noqa: E402

HARNESSES = {
    "fuzz": fuzz.run,
    "guided": coverage_guided.run,
    "kill": kill.run,
    "same": same.run,
    "load": load.run,
}


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(HARNESSES)} (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases to try")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is random")
    parser.add_argument("--table", action="store_true", help="only write the counts into the docs")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in HARNESSES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. Known: {', '.join(HARNESSES)}")
    if args.table:
        report.write_table(ROOT)
        return 0
    print(f"seed {args.seed}", flush=True)
    rows = []
    for name in args.names or HARNESSES:
        started = time.monotonic()
        print(f"\n{name}", flush=True)
        found = HARNESSES[name](args.share, args.seed)
        seconds = time.monotonic() - started
        rows += [{"harness": name, **row} for row in found]
        print(f"{name}: {seconds:.0f} s", flush=True)
    report.summarize(rows)
    bad = {row["harness"] for row in rows if row["wrong"]}
    good = [row for row in rows if row["harness"] not in bad]
    if args.share == 1 and good:
        report.keep(ROOT, good)
        report.write_table(ROOT)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
