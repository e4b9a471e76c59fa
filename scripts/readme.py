"""Write the results table of README.md from results/fashion-mnist/05_methods.csv.

python scripts/readme.py            # rewrite the part between the two markers
python scripts/readme.py --check    # exit status 1 when it is not what the results say
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "fashion-mnist" / "05_methods.csv"
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
PROBES = (0, 1, 8)


def table() -> str:
    """Return the table in Markdown, with the machine it was measured on below it."""
    rows = pd.read_csv(RESULTS)
    lines = [
        "| method | nprobe | recall@10 | 1-recall@10 | queries/s | distance computations | "
        "bytes/vector | build, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in (
        rows[rows.nprobe.isin(PROBES)].sort_values(["nprobe", "bytes_per_vector"]).itertuples()
    ):
        probed = "all" if row.nprobe == 0 else row.nprobe
        lines.append(
            f"| {row.method} | {probed} | {row.recall:.3f} | {row.one_recall:.3f} | "
            f"{row.qps:,.0f} | {row.distance_computations:,.0f} | {row.bytes_per_vector:,.0f} | "
            f"{row.build_s:.1f} |"
        )
    first = rows.iloc[0]
    lines += [
        "",
        f"Measured on {first.machine}, {first.threads} threads, {first.simd}, faiss {first.faiss}: "
        "batches of 1,000 queries, medians of interleaved repeats. Bytes per vector count "
        "everything: codes, ids, centroids, codebooks, tables and the re-ranking store.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Rewrite or check README.md; return the exit status."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print(f"{readme}: expected the markers {BEGIN.strip()} and {END.strip()} once each")
        return 1
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    new = before + BEGIN + table() + END + after
    if "--check" in sys.argv[1:]:
        if new != text:
            print("README.md: its table is not what the results say; run `make readme`")
        return int(new != text)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
