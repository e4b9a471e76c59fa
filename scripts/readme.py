"""Write the results in README.md, table and findings, and check every other number in it.

python scripts/readme.py            # rewrite the part between the markers, and facts.csv
python scripts/readme.py --check    # exit status 1 when README is not what the results say

What stands between the markers is computed from results/. Each number outside of it has to be in
one of the texts of results/reference/facts.csv, which are computed from results, data and
metadata too.
"""

from __future__ import annotations

import math
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd

from pqlib import load_dataset
from pqlib.datasets import registry
from pqlib.evaluation import pays_from
from pqlib.study import levels
from pqlib.study.family import stuck

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
RESULTS = REFERENCE / "fashion-mnist"
LARGE = REFERENCE / "bsds-sift"
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
FACTS = REFERENCE / "facts.csv"
PROBES = (0, 1, 8)
WORTH = 0.05  # as in notebook 02: less may be chance
WHOLE = 784  # bytes of a vector kept losslessly, a pixel a byte


# Numbers: not parts of words, names or file names, such as 1-recall@10, uint8 or [01 Load ...].
NUMBER = re.compile(r"(?<![\w@./*-])(?!0\d)\d[\d,]*(?:\.\d+)?%?(?![\w@/-])(?!\.\d)")
# What holds no statement: code, addresses of links, comments, numbers of list items, years.
SILENT = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|<!--.*?-->|^\d+\. |(?<=[( ,])(?:19|20)\d\d(?=[),])",
    re.DOTALL | re.MULTILINE,
)


def minutes(dataset: str) -> int:
    """Return the whole minutes that all notebooks together took."""
    rows = pd.read_csv(REFERENCE / dataset / "run.csv")
    return max(1, round(float(rows.seconds.sum()) / 60))


def facts() -> pd.DataFrame:
    """Return the texts with numbers that README may use: "text" and "source"."""
    embedded = load_dataset("photo-sift")
    rows = pd.read_csv(RESULTS / "05_methods.csv").set_index("method")
    exact = rows.loc["brute force"]
    bench = pd.read_csv(RESULTS / "bench.csv").iloc[0]
    large = int(pd.read_csv(LARGE / "bench_training.csv").vectors.max())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pythons = [
        c.rsplit(" ", 1)[1] for c in project["classifiers"] if re.search(r"Python :: 3\.", c)
    ]
    asked = pd.read_csv(RESULTS / "07_tried.csv").recall_asked.iloc[0]
    code = int(bench.m * bench.nbits // 8)
    pixels = math.isqrt(int(exact.bytes_per_vector // 4))
    made = [
        (f"{embedded.n:,} SIFT descriptors", "photo-sift"),
        (f"{embedded.d} numbers each", "photo-sift"),
        (f"{int(exact.distance_computations):,} images of {pixels**2} pixels", "05_methods"),
        (f"{large:,} SIFT descriptors", "bsds-sift bench_training"),
        (f"{minutes('photo-sift')} minutes", "photo-sift run"),
        (f"{minutes('fashion-mnist')} minutes", "fashion-mnist run"),
        (f"downloads {registry.REGISTRY['fashion-mnist'].megabytes} MB", "pqlib.datasets.registry"),
        (f"Python {', '.join(pythons[:-1])} or {pythons[-1]}", "pyproject.toml"),
        (f"it finds {asked:g} of the true ten", "fashion-mnist 07_tried"),
        (f"(recall {asked:g})", "fashion-mnist 07_tried"),
        (f"keep {code} bytes", "fashion-mnist bench"),
        (f"cut into m = {bench.m} pieces", "fashion-mnist bench"),
        (f"the nearest of {1 << int(bench.nbits)} centroids", "fashion-mnist bench"),
        (f"exact distance of {pixels**2} dimensions or a sum of {bench.m} table", "05_methods"),
    ]
    return pd.DataFrame(made, columns=["text", "source"])


def unsupported(text: str, known: list[str]) -> list[str]:
    """Return the numbers of README outside of the results that stand in none of the known texts.

    Each with its line.
    """
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    found = []
    for part, first in ((before, 1), (after, text[: len(text) - len(after)].count("\n") + 1)):
        # Blanks of the same length, so that lines stay where they are.
        silent = SILENT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), part)
        for words in known:
            pattern = r"(?<![\d,.])" + r"\s+".join(map(re.escape, words.split())) + r"(?![\d%])"
            silent = re.sub(pattern, lambda m: re.sub(r"[^\n]", " ", m[0]), silent)
        for match in NUMBER.finditer(silent):
            line = first + silent.count("\n", 0, match.start())
            found.append(f"line {line}: {match[0]}")
    return found


def than(value: float, other: float) -> str:
    """Return "more than" or "less than"."""
    return "more than" if value > other else "less than"


def how_sure() -> str:
    """Return what other queries and another seed would change."""
    rows = pd.read_csv(RESULTS / "05_uncertainty.csv")
    seeds = pd.read_csv(RESULTS / "05_seeds.csv").seed.nunique()
    said = []
    for nprobe, some in rows.groupby("nprobe"):
        of = some.set_index("method")
        by_query = (of.query_high - of.query_low) / 2
        by_seed = (of.seed_high - of.seed_low) / 2
        said.append(
            f"with nprobe {nprobe} by up to {by_query.max():.3f} and {by_seed.max():.3f} "
            f"(*{by_query.idxmax()}*, *{by_seed.idxmax()}*)"
        )
    return (
        "- How sure are these recalls? Other queries of the same kind, and another seed of "
        f"clustering and codebooks, would move them {', '.join(said)}: half the widths of 95% "
        f"intervals, of the bootstrap and of the prediction from {seeds} seeds. Other numbers of "
        "probes were not measured so."
    )


def what_matters() -> str:
    """Return which knobs explain the variance of recall, for both data sets."""
    said = []
    for title, folder in (("Fashion-MNIST", RESULTS), ("`bsds-sift`", LARGE)):
        rows = pd.read_csv(folder / "06_importance.csv")
        rows = rows[rows.response == "recall"]
        first, second = rows.factor[:2]
        said.append(
            f"on {title} `{first}` explains {rows.total.iloc[0]:.0%} of the variance of recall and "
            f"`{second}` {rows.total.iloc[1]:.0%}"
        )
    return (
        f"- Of six knobs of two levels, turned in all combinations, {said[0]}, {said[1]}, what it "
        "does together with others included (`rerank_factor`: candidates that are re-ranked, for "
        "each neighbour asked for; `nbits`: bits of each number of a code, 8 in the table; "
        "[notebook 06](notebooks/06_sensitivity.ipynb))."
    )


def when_codebooks_pay() -> str:
    """Return from which cluster size on codebooks per cluster pay."""
    said = []
    for title, folder in (("Fashion-MNIST", RESULTS), ("`bsds-sift`", LARGE)):
        rows = pd.read_csv(folder / "06_crossing.csv").dropna(subset=["gain"])
        for nbits, of_bits in rows.groupby("nbits"):
            begins = pays_from(of_bits.vectors_per_cluster.tolist(), of_bits.gain.tolist())
            largest = of_bits.vectors_per_cluster.max()
            what = f"{nbits} bits on {title}"
            if np.isfinite(begins):
                sizes = of_bits.vectors_per_cluster
                below, above = sizes[sizes <= begins].max(), sizes[sizes >= begins].min()
                said.append(
                    f"from between {below:,.0f} and {above:,.0f} vectors per cluster on with {what}"
                )
            elif begins < 0:
                said.append(f"at every size tried with {what}")
            else:
                said.append(f"not up to {largest:,.0f} vectors per cluster with {what}")
    return (
        "- At no more total memory, against the best shared code of at most 64 numbers over the "
        f"same lists, codebooks per cluster pay {'; '.join(said)}."
    )


def beside_faiss() -> str:
    """Return what the benchmark says."""
    rows = pd.read_csv(RESULTS / "bench.csv").set_index(["method", "nprobe"])
    profile = pd.read_csv(RESULTS / "bench_profile.csv").set_index("nprobe")
    ours, rival = "MultiLevelPQ", "faiss IndexIVFPQ"
    ratio, single = (
        {
            mode: " and ".join(f"{rows.loc[(f'{ours} {mode}', p), column]:.2f}" for p in (1, 10))
            for mode in ("shared", "per-cluster")
        }
        for column in ("ratio", "p50_ratio")
    )
    recall = rows["recall@10"]
    sketch = rows.xs(1, level="nprobe").qps
    (loop,) = (name for name in sketch.index if name.startswith("sketch"))
    return (
        "- Beside faiss's `IndexIVFPQ` with the same centroids and the same shared codebook "
        "(`make bench`, all 10,000 queries in one call, nprobe 1 and 10): with shared codebooks "
        f"{ratio['shared']} times its queries per second, with codebooks per cluster "
        f"{ratio['per-cluster']} times, at recall@10 "
        f"{recall[f'{ours} per-cluster', 1]:.3f} and {recall[f'{ours} per-cluster', 10]:.3f} "
        f"instead of {recall[rival, 1]:.3f} and {recall[rival, 10]:.3f}. Batches in the table "
        "above are smaller, so that fewer queries share a list's codebooks.\n"
        "- A single query takes "
        f"{single['shared']} times as long as there with shared codebooks and "
        f"{single['per-cluster']} times with codebooks per cluster. At nprobe 10 such a query "
        f"reads {profile.codebook_bytes[10] / 1e6:.0f} MB of codebooks; reading alone takes "
        f"{profile.reading_ms[10]:.2f} of its {profile.p50_ms[10]:.2f} ms. In a batch at nprobe 1 "
        f"the index answers {sketch[f'{ours} per-cluster'] / sketch[loop]:,.0f} times as many "
        "queries a second as the sketch's Python loop over the same codes "
        "([all figures](results/reference/fashion-mnist/bench.txt))."
    )


def second_level() -> str:
    """Return from which number of lists on a second level pays."""
    growth = pd.read_csv(LARGE / "02_growth.csv")
    times = pd.read_csv(LARGE / "02_growth_time.csv")
    times["seconds"] = 1 / times.qps
    most = growth.n_inner.max()
    at = growth[growth.n_inner == most].set_index(["build", "probing"])
    share = {b: at.centroids[b, "two levels"] / at.centroids[b, "flat"] for b in levels.BUILDS}
    said = {}
    for step, rows in times.groupby("step"):
        begins = levels.crossings(rows, "seconds", WORTH)
        said[step] = " and ".join(
            f"from {begins[build]:,.0f} lists on ({build})"
            if np.isfinite(begins[build])
            else f"{'at any number' if begins[build] < 0 else 'at no number'} tried ({build})"
            for build in levels.BUILDS
        )
    return (
        f"- With {most:,} lists of 400,000 SIFT descriptors (`bsds-sift`), a second level reaches "
        f"the same recall with {share['bottom-up']:.0%} of the centroid distances (built "
        f"bottom-up) or {share['top-down']:.0%} (top-down). Measured time is another matter, as "
        "one large matrix product ranks all centroids for a whole batch: ranking gets faster by at "
        f"least {WORTH:.0%} {said['coarse']}, the whole search {said['search']}."
    )


KINDS = {
    "ours": "ours, by `pqlib.tune`",
    "recipe": "best documented recipe",
    "composition": "best composition of faiss's parts",
}
TARGETS = (0.9, 0.95, 0.99)


def beside_libraries() -> list[str]:
    """Return the table of our index beside other libraries, with what it says."""
    lines = [
        "| data set | index | QPS at 0.90 | 0.95 | 0.99 | bytes/vector | build, s | p50, ms |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    said = []
    for title, folder in (("Fashion-MNIST", RESULTS), ("`bsds-sift`", LARGE)):
        rows = pd.read_csv(folder / "peers_at_recall.csv")
        rows = rows[rows.status == "ok"]
        speeds = rows.pivot(index="rival", columns="target", values="qps")
        least = rows.pivot(index="rival", columns="target", values="how") == "exceeds"
        about = rows[rows.target == 0.95].set_index("rival")
        smallest = about[about.kind == "ours"].bytes_per_vector.idxmin()
        ratios = {}
        for kind, words in KINDS.items():
            names = about.index[about.kind == kind]
            best = smallest if kind == "ours" else speeds.loc[names, 0.95].idxmax()
            fast = " | ".join(
                "not reached"
                if math.isnan(speeds.loc[best, t])
                else f"{'> ' if least.loc[best, t] else ''}{speeds.loc[best, t]:,.0f}"
                for t in TARGETS
            )
            row = about.loc[best]
            what = words if kind == "ours" else f"{words}: {best}"
            lines.append(
                f"| {title} | {what} | {fast} | {row.bytes_per_vector:,.0f} | {row.build_s:.1f} | "
                f"{row.p50_ms:.3f} |"
            )
            # Of each kind the best at each recall, which may be another than the one shown.
            ratios[kind] = speeds.loc[smallest] / speeds.loc[names].max()
        times = {k: " / ".join(f"{ratios[k][t]:.1f}" for t in TARGETS) for k in KINDS}
        quickest = about[about.kind != "ours"].p50_ms
        own = about.p50_ms[smallest]
        said.append(
            f"- On {title} our index answers {times['recipe']} times the queries per second of the "
            f"best documented recipe at recall 0.90 / 0.95 / 0.99, and {times['composition']} "
            "times those of the composition of faiss's parts that is fastest at that recall, which "
            "is not always the one in the table, at whatever memory. A "
            f"single query takes {own:.3f} ms (p50), with the quickest of the others, "
            f"{quickest.idxmin()}, {quickest.min():.3f} ms ([all]({link(folder)}))."
        )
    words = (
        "Names of faiss's indexes are its factory strings: PCA64 keeps 64 principal components, "
        "IVF is inverted lists, PQ98x4fs product codes scanned in registers, SQ8 bytes for "
        "components, HNSW a graph, RFlat and Refine re-ranking from whole vectors, as floats or "
        'bytes (in figures "+ bytes"). Ours is a `CascadeIndex`. QPS: queries per second, all in '
        "one call; > : already the least thorough setting finds more, and counts with its speed, "
        "here and below. p50: half of the single queries take no longer."
    )
    return [*lines, "", words, "", *said]


def link(folder: Path) -> str:
    """Return the path of the text with all peers, from README."""
    return (folder / "peers.txt").relative_to(ROOT).as_posix()


def climbed() -> str:
    """Return what the ladder's ends are."""
    rows = pd.read_csv(RESULTS / "07_ladder.csv").set_index("number")
    first, last = rows.loc[0], rows.iloc[-1]
    return (
        f"- From exact search to the tuned index, {len(rows)} rungs: from {first.qps_95:,.0f} to "
        f"{last.qps_95:,.0f} queries per second at recall 0.95, from {first.bytes_per_vector:,.0f} "
        f"to {last.bytes_per_vector:,.0f} bytes per vector "
        "([notebook 07](notebooks/07_ladder.ipynb))."
    )


def kin() -> str:
    """Return how the quantizers of the family compare at 64 bits."""
    said = []
    for title, folder in (("Fashion-MNIST", RESULTS), ("`bsds-sift`", LARGE)):
        rows = pd.read_csv(folder / "08_family.csv")
        rows = rows[rows.status == "ok"]
        at = rows[rows.budget == 64].set_index("method")
        ranked = at.recall_10.sort_values(ascending=False)
        caught = [line.split(",")[0] for line in stuck(rows) if ", 64 bits:" in line]
        names = {name: f"{name} (its search got stuck)" for name in caught}
        words = ", ".join(f"{names.get(name, name)} {value:.3f}" for name, value in ranked.items())
        said.append(f"on {title} {words} (standard error {at.recall_10_se.max():.3f})")
    return (
        "- recall@10 of codes of 64 bits (per-cluster PQ and LOPQ: 67), exhaustive search of "
        "vectors not trained on: "
        f"{'; '.join(said)}. OPQ and LOPQ rotate before they cut, for all vectors and for each "
        "cluster; RVQ, LSQ and CQ add up whole vectors, PRQ and PLSQ pieces "
        "([notebook 08](notebooks/08_family.ipynb))."
    )


def findings() -> list[str]:
    """Return what the numbers say, as a list in Markdown."""
    all_rows = pd.read_csv(RESULTS / "05_methods.csv")
    rows = all_rows[all_rows.nprobe.isin([0, 8])].set_index("method")
    parts = pd.read_csv(RESULTS / "05_memory.csv").set_index("method")
    recall, size, work, speed = (
        rows[name] for name in ("recall", "bytes_per_vector", "distance_computations", "qps")
    )
    lists = size["k-means"] - 3 * WHOLE  # float32 to uint8 saves three of four bytes
    saved = 1 - work["k-means, two levels"] / work["k-means"]
    fixed = pd.read_csv(RESULTS / "05_fixed_recall.csv")
    fast = fixed[fixed.target == 0.9].set_index("method").qps
    sketch = pd.read_csv(RESULTS / "05_sketch.csv").set_index("what")["as measured here"]
    return [
        f"- Codes of 8 bytes alone order neighbours badly: {recall['PQ shared']:.3f} of the true "
        "ten are among the first ten (nprobe 8). Re-ranking 80 candidates makes it "
        f"{recall['PQ shared, re-ranked']:.3f}, for the price of keeping the vectors.",
        "- Without re-ranking, codebooks for each cluster raise recall from "
        f"{recall['PQ shared']:.3f} to {recall['PQ per cluster']:.3f}. They weigh "
        f"{parts.codebooks['PQ per cluster']:,.0f} bytes per vector beside the code's 8: "
        f"{than(parts.codebooks['PQ per cluster'], WHOLE)} the {WHOLE} bytes of an image kept "
        "without loss.",
        f"- At recall 0.9 (between measured points) *PQ shared, re-ranked* answers "
        f"{fast['PQ shared, re-ranked']:,.0f} queries per second, k-means {fast['k-means']:,.0f}, "
        f"brute force, exact, {speed['brute force']:,.0f}. They take "
        f"{size['PQ shared, re-ranked']:,.0f}, {size['k-means']:,.0f} and "
        f"{size['brute force']:,.0f} bytes per vector; k-means lists of uint8 would take "
        f"{lists:,.0f} (computed, not built).",
        f"- With 100 lists and nprobe 8 the second level saves {saved:.1%} of the distance "
        "computations. It is for more lists ([notebook 02](notebooks/02_clustering.ipynb)).",
        how_sure(),
        what_matters(),
        when_codebooks_pay(),
        second_level(),
        beside_faiss(),
        "- The sketch, the first draft of this study, reported a recall of 1.000 for its PQ "
        "search. By its own threshold, "
        f"{sketch['clusters searched with product codes']} of its 100 clusters had product codes; "
        "with them in use and one list probed, recall is "
        f"{sketch['recall@10 reported as PQ; of product codes in one list']} "
        "([notebook 05](notebooks/05_evaluation.ipynb)).",
        climbed(),
        kin(),
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
        f"Measured on {first.cpu}, {first.threads} threads, {first.simd}, {first.blas}, faiss "
        f"{first.faiss}: batches of {first.timed_queries:,} queries, medians of interleaved "
        "repeats; build times of one run. "
        "Bytes per vector count "
        "everything: codes, ids, centroids, codebooks, tables and the re-ranking store.",
        "",
        "What it says:",
        "",
        *findings(),
        "",
        "Beside other libraries, all in one run (`make bench PEERS=1`), all queries in one call, "
        f"{first.threads} threads:",
        "",
        *beside_libraries(),
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
    known = facts()
    csv = known.to_csv(index=False, lineterminator="\n")
    wrong = unsupported(text, known.text.tolist())
    for place in wrong:
        print(f"README.md, {place}: in no committed result; see facts() in scripts/readme.py")
    if "--check" in sys.argv[1:]:
        stale = new != text or not FACTS.exists() or FACTS.read_text(encoding="utf-8") != csv
        if stale:
            print("README.md: its results are not what the files say; run `make readme`")
        return int(stale or bool(wrong))
    readme.write_text(new, encoding="utf-8")
    FACTS.write_text(csv, encoding="utf-8")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
