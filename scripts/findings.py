"""The passages of README.md and docs/ that hold numbers, each a function of the committed results.

``PASSAGES`` names them; ``scripts/readme.py`` puts them where the pages ask for them. Sentences are
short and hold few numbers; many numbers make a table.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from pqlib.datasets import registry
from pqlib.evaluation import pays_from
from pqlib.study import levels
from pqlib.study.embeddings_words import unnoticed
from pqlib.study.family_words import stuck

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
SETS = {"Fashion-MNIST": "fashion-mnist", "`bsds-sift`": "bsds-sift"}
EMBEDDINGS = "gloss-minilm"
WHOLE = 784  # bytes of an image kept losslessly, a pixel a byte
WORTH = 0.05  # as in notebook 02: a smaller gain may be chance
TARGETS = (0.9, 0.95, 0.99)
PROBES = 8  # lists probed in the short table

PASSAGES: dict[str, Callable[[], str]] = {}


def passage(function: Callable[[], str]) -> Callable[[], str]:
    """Register a passage under its function's name, with dashes."""
    PASSAGES[function.__name__.replace("_", "-")] = function
    return function


@cache
def read(table: str, data: str = "fashion-mnist") -> pd.DataFrame:
    """Return a committed table of a data set."""
    return pd.read_csv(REFERENCE / data / f"{table}.csv")


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; heads that start with ">" are columns of numbers."""
    names = [head.removeprefix(">") for head in heads]
    lines = ["---:" if head.startswith(">") else "---" for head in heads]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, lines, *rows))


# What the pages say in passing --------------------------------------------------------------


@passage
def images() -> str:
    """Return what Fashion-MNIST is."""
    exact = read("05_methods").set_index("method").loc["brute force"]
    pixels = int(exact.bytes_per_vector) // 4
    return f"{int(exact.distance_computations):,} images of {pixels} pixels"


@passage
def large() -> str:
    """Return what bsds-sift is."""
    return f"{int(read('bench_training', 'bsds-sift').vectors.max()):,} SIFT descriptors"


@passage
def recall_asked() -> str:
    """Return the recall that the ladder compares speeds at."""
    return f"{read('07_tried').recall_asked.iloc[0]:g} of the true ten nearest neighbours"


@passage
def pythons() -> str:
    """Return the versions of Python that the package names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if re.search(r"Python :: 3\.", c)]
    return f"Python {', '.join(found[:-1])} or {found[-1]}"


def minutes(data: str) -> str:
    """Return the whole minutes that all notebooks took together on the reference machine."""
    seconds = float(read("run", data).seconds.sum())
    if data == "photo-sift":  # the run of the default data set, with notebook 09 on its own
        seconds += float(read("run", EMBEDDINGS).seconds.sum())
    whole = max(1, round(seconds / 60))
    return f"{whole} minute{'s' if whole > 1 else ''}"


for name in ("photo-sift", "fashion-mnist"):
    PASSAGES[f"minutes-{name}"] = partial(minutes, name)


@passage
def download() -> str:
    """Return the size of Fashion-MNIST's file."""
    return f"{registry.REGISTRY['fashion-mnist'].megabytes} MB"


@passage
def code() -> str:
    """Return what a product code of the tables is."""
    m, nbits = (int(read("bench")[name].iloc[0]) for name in ("m", "nbits"))
    pieces = f"the residual is cut into {m} pieces"
    nearest = f"the number of the nearest of {1 << nbits} centroids"
    return f"{m * nbits // 8} bytes: {pieces}, and each is replaced by {nearest}"


@passage
def machine() -> str:
    """Return where the table of methods was measured, and how."""
    first = read("05_methods").iloc[0]
    return (
        f"Measured on {first.cpu}, {first.threads} threads, {first.simd}, {first.blas}, faiss "
        f"{first.faiss}: batches of {first.timed_queries:,} queries, medians of interleaved "
        "repeats; building times of one run."
    )


# Embeddings ---------------------------------------------------------------------------------


@passage
def data_sets() -> str:
    """Return the table of the data sets that the pages show."""
    rows = []
    for name in ("photo-sift", "fashion-mnist", EMBEDDINGS):
        info = registry.REGISTRY[name]
        held = "in the repository" if info.embedded else f"{info.megabytes} MB, downloaded"
        what = info.title.split(";")[0]
        rows.append((f"`{name}`", what, f"{info.n_train:,}", str(info.dimension), held))
    return markdown(["data set", "what", ">vectors", ">dimension", "where"], rows)


def way(method: str, size: int, table: str = "09_ways") -> pd.Series:
    """Return the row of a way to compress."""
    rows = read(table, EMBEDDINGS)
    return rows[(rows.method == method) & (rows.bytes == size)].iloc[0]


@passage
def embeddings_found() -> str:
    """Return what notebook 09 found, in two sentences."""
    ways, lost = read("09_ways", EMBEDDINGS), read("09_lost", EMBEDDINGS)
    whole = way("float32", int(ways.bytes.max()))
    least = unnoticed(lost, whole.rr).sort_values(["bytes", "recall"]).iloc[0]
    kept = way(least.method, least.bytes)
    blind, seeing = promised(0.95)
    return (
        f"At {least.bytes} of {whole.bytes:,} bytes, {least.method} finds {kept.recall:.1%} of "
        f"the true ten nearest, yet the mean reciprocal rank of the right answer (one over its "
        f"rank, averaged) loses {least.rr:.3f} of {whole.rr:.3f} ({least.rr_low:.3f} to "
        f"{least.rr_high:.3f}). An index tuned for recall {blind.asked:g} on the base reaches "
        f"{blind.kept:.2f} for these queries; `pqlib.tune` sees that they are unlike it, and "
        f"reaches {seeing.kept:.2f}."
    )


def promised(asked: float) -> tuple[pd.Series, pd.Series]:
    """Return what tuning promised and kept at a recall: on the base, and on queries."""
    rows = read("09_promises", EMBEDDINGS)
    blind, seeing = (row for _, row in rows[rows.asked == asked].iterrows())
    return blind, seeing


@passage
def embeddings() -> str:
    """Return what the ways to compress keep of embeddings."""
    rows = read("09_ways", EMBEDDINGS).sort_values(["bytes", "recall"], ascending=False)
    heads = ["method", ">bytes", ">recall@10", ">right answer first", ">among ten", ">MRR"]
    shares = ["recall", "first", "ten", "rr"]
    cells = [(r.method, str(r.bytes), *(f"{r[s]:.3f}" for s in shares)) for _, r in rows.iterrows()]
    return markdown(heads, cells)


@passage
def promises() -> str:
    """Return what tuning promised and kept of recall."""
    rows = [
        (f"{r.asked:g}", r.calibrated, f"{r.promised:.3f}", f"{r.low:.3f} to {r.high:.3f}",
         f"{r.kept:.3f}")
        for r in read("09_promises", EMBEDDINGS).itertuples()
    ]  # fmt: skip
    heads = [">asked for", "calibrated with", ">measured", "95% interval for new queries"]
    heads += [">unseen queries got"]
    return markdown(heads, rows)


@passage
def embeddings_unlike() -> str:
    """Return what tells embeddings from the other vectors."""
    rows = read("09_character", EMBEDDINGS).set_index("dataset")
    parts = [f"{rows.components_90[o]} of {rows.d[o]} for `{o}`" for o in rows.index[1:]]
    own = f"{rows.components_90[EMBEDDINGS]} of {rows.d[EMBEDDINGS]} principal components"
    return f"Nine tenths of the variance take {own} ({', '.join(parts)})."


# Tables of methods --------------------------------------------------------------------------


def methods(probes: Sequence[int]) -> str:
    """Return the table of methods at some numbers of probed lists, 0 for exact search."""
    rows = read("05_methods")
    rows = rows[rows.nprobe.isin(probes)].sort_values(["nprobe", "bytes_per_vector"])
    heads = ["method", ">nprobe", ">recall@10", ">1-recall@10", ">queries/s"]
    heads += [">distance computations", ">bytes/vector", ">build, s"]
    return markdown(
        heads,
        [
            (
                row.method,
                "all" if row.nprobe == 0 else f"{row.nprobe}",
                f"{row.recall:.3f}",
                f"{row.one_recall:.3f}",
                f"{row.qps:,.0f}",
                f"{row.distance_computations:,.0f}",
                f"{row.bytes_per_vector:,.0f}",
                f"{row.build_s:.1f}",
            )
            for row in rows.itertuples()
        ],
    )


@passage
def table() -> str:
    """Return the short table, of README."""
    return methods([0, PROBES])


@passage
def all_methods() -> str:
    """Return the long table."""
    return methods([0, 1, 2, 4, PROBES, 16])


# Findings of the notebooks ------------------------------------------------------------------


def at_probes() -> pd.DataFrame:
    """Return the methods of the short table, by name."""
    rows = read("05_methods")
    return rows[rows.nprobe.isin([0, PROBES])].set_index("method")


@passage
def codes_alone() -> str:
    """Return what codes find without and with re-ranking."""
    recall = at_probes().recall
    return (
        f"With nprobe {PROBES}, codes of 8 bytes alone find {recall['PQ shared']:.3f} of the true "
        f"ten. Re-ranking 80 candidates by their whole vectors finds "
        f"{recall['PQ shared, re-ranked']:.3f}, for the price of keeping the vectors."
    )


@passage
def codebooks_weigh() -> str:
    """Return what codebooks for each cluster buy and weigh."""
    recall = at_probes().recall
    weight = read("05_memory").set_index("method").codebooks["PQ per cluster"]
    than = "more" if weight > WHOLE else "less"
    return (
        f"Codebooks for each cluster raise the recall of codes alone from "
        f"{recall['PQ shared']:.3f} to {recall['PQ per cluster']:.3f}. They weigh {weight:,.0f} "
        f"bytes per vector beside the code's 8. That is {than} than the {WHOLE} bytes of an image "
        "kept without loss."
    )


@passage
def codebooks_pay() -> str:
    """Return from which cluster size on codebooks per cluster pay."""
    rows = []
    for title, data in SETS.items():
        for nbits, found in read("06_crossing", data).dropna(subset=["gain"]).groupby("nbits"):
            sizes = found.vectors_per_cluster
            begins = pays_from(sizes.tolist(), found.gain.tolist())
            if np.isfinite(begins):
                low, high = sizes[sizes <= begins].max(), sizes[sizes >= begins].min()
                words = f"between {low:,.0f} and {high:,.0f}"
            else:
                words = "every size tried" if begins < 0 else f"none up to {sizes.max():,.0f}"
            rows.append((title, f"{nbits}", words))
    return markdown(["data", ">bits of a number", "pays from so many vectors per cluster"], rows)


@passage
def at_equal_recall() -> str:
    """Return speeds and bytes at recall 0.9."""
    fixed = read("05_fixed_recall")
    fixed = fixed[fixed.target == 0.9].set_index("method")
    rows = at_probes()
    names = ("PQ shared, re-ranked", "k-means", "brute force")
    speed = {**fixed.qps, "brute force": rows.qps["brute force"]}
    text = markdown(
        ["method", ">queries/s at recall 0.9", ">bytes/vector"],
        [(n, f"{speed[n]:,.0f}", f"{rows.bytes_per_vector[n]:,.0f}") for n in names],
    )
    lists = rows.bytes_per_vector["k-means"] - 3 * WHOLE  # uint8 takes one byte of four
    return f"{text}\n\nk-means lists of uint8 would take {lists:,.0f} (computed, not built)."


@passage
def second_level_here() -> str:
    """Return what the second level saves on Fashion-MNIST."""
    work = at_probes().distance_computations
    saved = 1 - work["k-means, two levels"] / work["k-means"]
    return (
        f"With 100 lists and nprobe {PROBES} the second level saves {saved:.1%} of the distance "
        "computations. It is for more lists."
    )


@passage
def second_level() -> str:
    """Return from which number of lists on a second level pays."""
    growth, times = read("02_growth", "bsds-sift"), read("02_growth_time", "bsds-sift").copy()
    times["seconds"] = 1 / times.qps
    most = growth.n_inner.max()
    at = growth[growth.n_inner == most].set_index(["build", "probing"]).centroids
    begins = {s: levels.crossings(rows, "seconds", WORTH) for s, rows in times.groupby("step")}

    def words(value: float) -> str:
        if np.isfinite(value):
            return f"{value:,.0f} lists"
        return "any number tried" if value < 0 else "no number tried"

    heads = ["built", f">centroid distances, {most:,} lists", "probing is faster from"]
    return markdown(
        [*heads, "the whole search is faster from"],
        [
            (
                build,
                f"{at[build, 'two levels'] / at[build, 'flat']:.0%} of flat probing's",
                words(begins["coarse"][build]),
                words(begins["search"][build]),
            )
            for build in levels.BUILDS
        ],
    )


@passage
def how_sure() -> str:
    """Return what other queries and another seed would change."""
    rows = read("05_uncertainty")
    seeds = read("05_seeds").seed.nunique()
    lines = []
    for nprobe, some in rows.groupby("nprobe"):
        of = some.set_index("method")
        halves = [(of[f"{by}_high"] - of[f"{by}_low"]) / 2 for by in ("query", "seed")]
        lines.append([f"{nprobe}", *(f"{h.max():.3f} (*{h.idxmax()}*)" for h in halves)])
    text = markdown([">nprobe", "other queries, at most", "another seed, at most"], lines)
    return (
        f"{text}\n\nHalf the widths of 95% intervals: of the bootstrap over queries, and of the "
        f"prediction for one more seed, from {seeds} seeds."
    )


@passage
def what_matters() -> str:
    """Return which knobs explain the variance of recall."""
    rows = []
    for title, data in SETS.items():
        found = read("06_importance", data)
        found = found[found.response == "recall"].head(2)
        rows.append([title, *(f"`{r.factor}` {r.total:.0%}" for r in found.itertuples())])
    return markdown(["data", "first knob", "second knob"], rows)


@passage
def sketch() -> str:
    """Return what the study's first draft reported and what it should have."""
    found = read("05_sketch").set_index("what")["as measured here"]
    return (
        "It reported a recall of 1.000 for its search with product codes. By its own threshold, "
        f"{found['clusters searched with product codes']} of its 100 clusters had any. With codes "
        "in use and one list probed, recall is "
        f"{found['recall@10 reported as PQ; of product codes in one list']}."
    )


@passage
def climbed() -> str:
    """Return the two ends of the ladder."""
    rows = read("07_ladder").sort_values("number")
    ends = rows.iloc[[0, -1]]
    text = markdown(
        ["rung", ">queries/s at recall 0.95", ">bytes/vector"],
        [(r.method, f"{r.qps_95:,.0f}", f"{r.bytes_per_vector:,.0f}") for r in ends.itertuples()],
    )
    return f"{text}\n\nThere are {len(rows)} rungs."


@passage
def family() -> str:
    """Return how the quantizers compare at 64 bits."""
    columns, error = {}, {}
    for title, data in SETS.items():
        rows = read("08_family", data)
        rows = rows[rows.status == "ok"]
        at = rows[rows.budget == 64].set_index("method")
        marked = {line.split(",")[0] for line in stuck(rows) if ", 64 bits:" in line}
        words = {name: " (stuck)" if name in marked else "" for name in at.index}
        columns[title] = {name: f"{v:.3f}{words[name]}" for name, v in at.recall_10.items()}
        error[title] = at.recall_10_se.max()
    first = read("08_family")
    first = first[(first.budget == 64) & (first.status == "ok")]
    order = first.sort_values("recall_10", ascending=False).method
    text = markdown(
        ["codes", *(f">recall@10, {title}" for title in SETS)],
        [(name, *(columns[title].get(name, "-") for title in SETS)) for name in order],
    )
    errors = " and ".join(f"{value:.3f}" for value in error.values())
    return (
        f"{text}\n\nStandard errors: {errors}. Codes have 64 bits, per-cluster PQ and LOPQ 67. "
        "*Stuck* marks a search for codes that ended in a bad optimum."
    )


@passage
def beside_faiss() -> str:
    """Return the comparison with faiss's IndexIVFPQ."""
    rows = read("bench").set_index(["method", "nprobe"])
    lines = []
    for name in ("faiss IndexIVFPQ", "MultiLevelPQ shared", "MultiLevelPQ per-cluster"):
        for nprobe in (1, 10):
            row = rows.loc[(name, nprobe)]
            lines.append(
                (
                    name,
                    f"{nprobe}",
                    f"{row['recall@10']:.3f}",
                    f"{row.qps:,.0f}",
                    f"{row.ratio:.2f}",
                    f"{row.p50_ms:.3f}",
                    f"{row.p50_ratio:.2f}",
                )
            )
    heads = ["index", ">nprobe", ">recall@10", ">queries/s, batch", ">times faiss's"]
    return markdown([*heads, ">one query, p50, ms", ">times faiss's"], lines)


@passage
def codebooks_read() -> str:
    """Return what a single query of codebooks per cluster reads."""
    profile = read("bench_profile").set_index("nprobe").loc[10]
    return (
        f"At nprobe 10 a query of codebooks per cluster reads {profile.codebook_bytes / 1e6:.0f} "
        f"MB of them. Reading alone takes {profile.reading_ms:.2f} of its {profile.p50_ms:.2f} ms."
    )


# Beside other libraries ---------------------------------------------------------------------

KINDS = {
    "ours": "ours, by `pqlib.tune`",
    "recipe": "best documented recipe",
    "composition": "best composition of faiss's parts",
}


def peers(data: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Return speeds and whether they exceed, by rival and recall; rows at 0.95; best of a kind."""
    rows = read("peers_at_recall", data)
    rows = rows[rows.status == "ok"]
    speeds = rows.pivot(index="rival", columns="target", values="qps")
    least = rows.pivot(index="rival", columns="target", values="how") == "exceeds"
    about = rows[rows.target == 0.95].set_index("rival")
    best = {kind: speeds.loc[about.index[about.kind == kind], 0.95].idxmax() for kind in KINDS}
    best["ours"] = about[about.kind == "ours"].bytes_per_vector.idxmin()
    return speeds, least, about, best


@passage
def beside_libraries() -> str:
    """Return the table of our index beside the best of other libraries."""
    lines = []
    for title, data in SETS.items():
        speeds, least, about, best = peers(data)
        for kind, words in KINDS.items():
            name = best[kind]
            fast = [
                "not reached"
                if math.isnan(speeds.loc[name, t])
                else f"{'> ' * bool(least.loc[name, t])}{speeds.loc[name, t]:,.0f}"
                for t in TARGETS
            ]
            row = about.loc[name]
            size, built = f"{row.bytes_per_vector:,.0f}", f"{row.build_s:.1f}"
            what = words if kind == "ours" else f"{words}: {name}"
            lines.append((title, what, *fast, size, built, f"{row.p50_ms:.3f}"))
    heads = ["data", "index", ">queries/s at 0.90", ">0.95", ">0.99", ">bytes/vector"]
    text = markdown([*heads, ">build, s", ">p50, ms"], lines)
    return f"{text}\n\nRows of the others are those that are fastest at recall 0.95."


@passage
def times_faster() -> str:
    """Return how many times as fast our index is."""
    lines = []
    for title, data in SETS.items():
        speeds, _, about, best = peers(data)
        for kind in ("recipe", "composition"):
            others = speeds.loc[about.index[about.kind == kind]].max()
            ratios = speeds.loc[best["ours"]] / others
            words = KINDS[kind].replace("best ", "the fastest ")
            lines.append((title, words, *(f"{ratios[t]:.1f}" for t in TARGETS)))
    return markdown(["data", "beside", ">at recall 0.90", ">0.95", ">0.99"], lines)


@passage
def single_queries() -> str:
    """Return how long a single query takes here and with the quickest of the others."""
    said = []
    for title, data in SETS.items():
        _, _, about, best = peers(data)
        others = about[about.kind != "ours"].p50_ms
        said.append(
            f"On {title} a single query takes {about.p50_ms[best['ours']]:.3f} ms (p50); with the "
            f"quickest of the others, {others.idxmin()}, {others.min():.3f} ms."
        )
    return "\n".join(said)


@passage
def headline() -> str:
    """Return for README how the tuned index compares."""
    said = []
    for title, data in SETS.items():
        speeds, _, about, best = peers(data)
        others = speeds.loc[about.index[about.kind != "ours"], 0.95].max()
        said.append(f"{speeds.loc[best['ours'], 0.95] / others:.1f} times on {title}")
    return (
        f"At recall 0.95, all queries in one call, it answers {' and '.join(said)} the queries "
        "per second of the fastest other index measured"
    )
