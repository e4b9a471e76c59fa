"""Write the results in README.md, table and findings, from results/fashion-mnist.

python scripts/readme.py            # rewrite the part between the two markers
python scripts/readme.py --check    # exit status 1 when it is not what the results say
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "fashion-mnist"
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
PROBES = (0, 1, 8)
WHOLE = 784  # bytes of a vector kept losslessly, a pixel a byte


def than(value: float, other: float) -> str:
    """Return "more than" or "less than"."""
    return "more than" if value > other else "less than"


def findings() -> list[str]:
    """Return what the numbers say, as a list in Markdown."""
    rows = pd.read_csv(RESULTS / "05_methods.csv")
    rows = rows[rows.nprobe.isin([0, 8])].set_index("method")
    parts = pd.read_csv(RESULTS / "05_memory.csv").set_index("method")
    recall, size, work, speed = (
        rows[name] for name in ("recall", "bytes_per_vector", "distance_computations", "qps")
    )
    lists = size["k-means"] - 3 * WHOLE  # float32 to uint8 saves three of four bytes
    saved = 1 - work["k-means, two levels"] / work["k-means"]
    sketch = pd.read_csv(RESULTS / "05_sketch.csv").set_index("what")
    quantized = sketch.loc["clusters searched with product codes"]
    reported = sketch.loc["recall@10 reported as PQ; of product codes in one list"]
    return [
        f"- Codes of 8 bytes alone order neighbours badly: {recall['PQ shared']:.3f} of the true "
        "ten are among the first ten. Re-ranking 80 candidates makes it "
        f"{recall['PQ shared, re-ranked']:.3f}, for the price of keeping the vectors.",
        f"- Codebooks for each cluster raise that to {recall['PQ per cluster']:.3f} and weigh "
        f"{parts.codebooks['PQ per cluster']:,.0f} bytes per vector beside the code's 8: "
        f"{than(size['PQ per cluster'], WHOLE)} the {WHOLE} bytes of an image kept without loss.",
        f"- k-means search keeps float32 here. With its lists as uint8 it would take {lists:,.0f} "
        f"bytes, {than(lists, size['PQ shared, re-ranked'])} the "
        f"{size['PQ shared, re-ranked']:,.0f} of *PQ shared, re-ranked*, which is "
        f"{speed['PQ shared, re-ranked'] / speed['k-means']:.1f} times as fast.",
        f"- With 100 lists the second level saves {saved:.1%} of the distance computations. It is "
        "for more lists (notebook 02).",
        f"- The first draft of this study reported a recall of {reported['the sketch']} for its PQ "
        f"search. {quantized['in truth']} of its {quantized['the sketch']} clusters used product "
        f"codes; with them in use, it is {reported['in truth']} (notebook 05).",
    ]


def table() -> str:
    """Return the table in Markdown, with the machine it was measured on and what it says below."""
    rows = pd.read_csv(RESULTS / "05_methods.csv")
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
        "What it says, at nprobe 8:",
        "",
        *findings(),
    ]
    return "\n".join(lines) + "\n"


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
            print("README.md: its results are not what the files say; run `make readme`")
        return int(new != text)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
