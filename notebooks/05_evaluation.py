# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evaluate every method side by side
#
# Seven ways to search the same vectors, measured in one run: what they find, how fast, and at
# what cost in memory. Then *the sketch*: the first draft of this study, one notebook that is not
# kept here, and what it should have said.
#
# ## What you'll do
#
# - Build brute force, k-means search and the multi-level product-quantized index over one
#   clustering.
# - Measure recall, work, speed, latency and memory of each, and how sure each number is.
# - Compare at equal recall and at equal speed, and draw conclusions by rule from the results.
# - Reproduce the claims of the sketch and set the right numbers beside them.
#
# ## What you'll learn
#
# - Why two people can quote two recalls for one index and both be right.
# - Why a measured recall has two error bars, one from the queries and one from the seed.
# - What to count as memory, how much the codebooks weigh, and what of it could stay on disk.
# - How a benchmark can measure something other than its author thinks.
#
# ## What you'll need
#
# - The ideas of notebook 02 (lists and probing), 03 (product codes) and 04 (searching with
#   codes). The notebook runs alone.

# %%
import time

import faiss
import numpy as np
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib import evaluation
from pqlib.study import save_table, sweep
from pqlib.study.advice import advise
from pqlib.study.plots import evaluation as plots
from pqlib.study.plots import style

pd.set_option("display.width", 120, "display.max_columns", 20, "display.max_colwidth", 80)

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
seed = 0
output = None  # folder for this run's figures and results; None: only show them
k = 10  # neighbours asked for
n_inner = None  # inner clusters; None: sqrt(n / 6)
n_outer = None  # outer clusters; None: sqrt(n_inner)
m = None  # sub-quantizers; None: the largest divisor of d that is at most 8
nbits = 8
nprobes = (1, 2, 4, 8, 16)
rerank_factor = 8
max_queries = 2000  # queries whose recall is measured
timed_queries = 1000  # queries of a timed batch; fewer where lists are long
repeats = 3  # timed repeats, interleaved over the methods
max_train = 20_000  # vectors that train k-means and shared codebooks
n_seeds = 5  # clusterings and codebooks made anew to see how much the seed matters
seed_queries = 1000  # queries whose recall is measured for each seed
resume = None  # folder that keeps what was measured, for a run that was cut off to go on; or None

# %%
ds = pqlib.load_dataset(dataset, n_train=n_train, n_test=n_test)
print(ds.describe())
default_inner, default_outer = pqlib.default_sizes(ds.n)
n_inner = n_inner or default_inner
n_outer = n_outer or max(1, round(n_inner**0.5))
nprobes = [p for p in nprobes if p <= n_inner]
store = "uint8" if ds.whole_numbers else "float32"
queries = ds.test[:max_queries]
print(
    f"\ninner clusters {n_inner}, outer clusters {n_outer}, re-ranking from {store}; recall of "
    f"{len(queries):,} queries"
)

# %% [markdown]
# ## Build the indexes
#
# All methods but brute force share one clustering, so that they differ only in what they keep of
# a vector inside its list. *PQ shared* has one product quantizer for all residuals, *PQ per
# cluster* one for each inner cluster. The *re-ranked* ones fetch the best few candidates from a
# store of whole vectors and compute exact distances. *k-means, two levels* is the k-means index
# with the outer centroids ranked first and only the inner ones below them considered.

# %% tags=["nbval-ignore-output"]
build_seconds = {}


def build(name, make):
    """Build an index, noting how long it takes."""
    start = time.perf_counter()
    index = make()
    build_seconds[name] = time.perf_counter() - start
    return index


clustering = build(
    "clustering",
    lambda: pqlib.two_level_kmeans(ds.train, n_inner, n_outer, max_train=max_train, seed=seed),
)


def product_codes(codebooks, clustering, seed):
    """Return a trained and filled index with a re-ranking store."""
    index = pqlib.MultiLevelPQ(
        ds.d,
        n_inner,
        n_outer,
        m=m,
        nbits=nbits,
        codebooks=codebooks,
        rerank=store,
        max_train=max_train,
        seed=seed,
        copy=False,
    )
    return index.train(ds.train, clustering).add(ds.train)


# The base is not copied for brute force: it may be gigabytes, and nothing here changes it.
brute = build("brute force", lambda: pqlib.BruteForce(ds.d, copy=False).add(ds.train))
lists = build(
    "k-means",
    lambda: (
        pqlib.KMeansIndex(ds.d, n_inner, n_outer, seed=seed)
        .train(ds.train, clustering)
        .add(ds.train)
    ),
)
shared = build("PQ shared", lambda: product_codes("shared", clustering, seed))
local = build("PQ per cluster", lambda: product_codes("per-cluster", clustering, seed))
pd.Series(build_seconds, name="build, seconds").round(2).to_frame()

# %% [markdown]
# The re-ranking store changes neither training nor codes. Searching the same index with and
# without it gives both methods, and each is charged only for what it needs.

# %%
print(local.describe())

# %% [markdown]
# ## Measure recall and work
#
# *recall@k* is the share of the true k nearest neighbours among the k returned, ties at the k-th
# distance counted as right. Beside it stands the work: distance computations per query, to
# centroids of both levels, for the look-up tables (one table costs as much as $2^{nbits}$
# distances), to codes (a sum of m look-ups each) and exact ones. It is counted, not timed, so it
# is the same on every machine; but a sum of m look-ups is less work than an exact distance of d
# dimensions, so equal counts are not equal times.


# %%
of_query = {}  # the recall of each query, by index and way to search it


def measure(index, options):
    """Return what one way to search finds, with its interval over queries, and what it counts."""
    _, ids = index.search(queries, k, **options)
    recalls = evaluation.query_recall(ids, ds, k)
    low, high = evaluation.bootstrap_interval(recalls, seed=seed)
    cost = {stage: c.mean() for stage, c in index.search_cost(queries, k, **options).items()}
    memory = index.memory()
    if options.get("rerank") is False:
        memory.pop("re-ranking store")
    of_query[index, tuple(options.items())] = recalls
    return {
        "recall": recalls.mean(),
        "recall_low": low,
        "recall_high": high,
        "one_recall": pqlib.one_recall_at(ids, ds, k),
        "relative_error": evaluation.relative_distance_error(ids, ds, k),
        "distance_computations": sum(cost.values()),
        "code_bytes": getattr(index, "code_bytes", 0),
        "bytes_per_vector": sum(memory.values()) / ds.n,
        **{f"cost_{stage}": value for stage, value in cost.items()},
    }


methods = {}
for p in nprobes:
    half = max(1, n_outer // 2)
    methods["k-means", p] = (lists, dict(nprobe=p))
    methods["k-means, two levels", p] = (lists, dict(nprobe=p, nprobe_outer=half))
    methods["PQ shared", p] = (shared, dict(nprobe=p, rerank=False))
    methods["PQ per cluster", p] = (local, dict(nprobe=p, rerank=False))
    factor = dict(nprobe=p, rerank_factor=rerank_factor)
    methods["PQ shared, re-ranked", p] = (shared, factor)
    methods["PQ per cluster, re-ranked", p] = (local, factor)

rows = [
    {"method": name, "nprobe": p, **measure(index, options)}
    for (name, p), (index, options) in methods.items()
]
# Brute force is exact by definition; some queries are checked, all would take long.
few = min(100, ds.nq)
_, exact_ids = brute.search(ds.test[:few], k)
exact = evaluation.query_recall(exact_ids, ds, k)
exact_low, exact_high = evaluation.bootstrap_interval(exact, seed=seed)
rows.append(
    {
        "method": "brute force",
        "nprobe": 0,
        "recall": exact.mean(),
        "recall_low": exact_low,
        "recall_high": exact_high,
        "one_recall": pqlib.one_recall_at(exact_ids, ds, k),
        "relative_error": evaluation.relative_distance_error(exact_ids, ds, k),
        "distance_computations": ds.n,
        "bytes_per_vector": brute.bytes_per_vector,
        "cost_vectors": ds.n,
    }
)
points = pd.DataFrame(rows).fillna(0.0)
columns = ["recall", "recall_low", "recall_high", "one_recall", "relative_error"]
columns += ["distance_computations", "bytes_per_vector"]
shown = points[points.nprobe.isin([0, 1, nprobes[len(nprobes) // 2], nprobes[-1]])]
shown = shown.set_index(["method", "nprobe"])[columns].sort_index()
decimals = {"recall": 3, "recall_low": 3, "recall_high": 3, "one_recall": 3, "relative_error": 4}
decimals |= {"distance_computations": 0, "bytes_per_vector": 1}
shown.round(decimals)

# %% [markdown]
# *recall_low* and *recall_high* are the 95% interval over queries, see below. *relative_error* is
# by how much the distances of what was returned exceed, on average, those of the true neighbours:
# a wrong neighbour that is hardly farther than the right one costs recall and nearly no distance.

# %% [markdown]
# The work by stage, at one number of probed lists. With shared codebooks a query needs one table
# and takes the rest from tables computed in advance (notebook 04); with per-cluster codebooks every
# probed list needs a table of its own.

# %%
chosen = nprobes[len(nprobes) // 2]
stages = ["outer", "inner", "tables", "codes", "vectors", "rerank"]
costs = points[points.nprobe.isin([chosen])].set_index("method")
costs = costs[[f"cost_{s}" for s in stages]].set_axis(
    [
        "outer centroids",
        "inner centroids",
        "tables",
        "codes",
        "exact, in lists",
        "exact, re-ranking",
    ],
    axis=1,
)
style.show(plots.cost_by_stage(costs), output, "05_work_by_stage")
share = costs.tables / costs.sum(axis=1)
Markdown(
    f"With nprobe {chosen}, tables are {share['PQ shared']:.0%} of the work with shared codebooks "
    f"and {share['PQ per cluster']:.0%} with per-cluster ones."
)

# %% [markdown]
# ## Tell the two recalls apart
#
# The literature also reports *1-recall@R*: the share of queries whose single true nearest
# neighbour is among the R returned. Jégou, Douze and Schmid (2011, section 5.1) call it
# *recall@R*, which is where the confusion comes from. It asks for one vector and allows R places;
# recall@k asks for k vectors in k places. The same search has both.

# %%
at = [r for r in (1, 2, 5, 10, 20, 50, 100) if r <= ds.n]
curves = {}
for name, index in (("PQ shared", shared), ("PQ per cluster", local)):
    _, ids = index.search(queries, at[-1], nprobe=chosen, rerank=False)
    curves[name] = (
        at,
        [pqlib.one_recall_at(ids, ds, r) for r in at],
        pqlib.recall_at_k(ids, ds, k),
    )
style.show(plots.two_recalls(curves), output, "05_two_recalls")
_, found, recall = curves["PQ per cluster"]
Markdown(
    f"The same answers of *PQ per cluster* with nprobe {chosen}: recall@{k} is **{recall:.3f}**, "
    f"1-recall@1 is **{found[0]:.3f}** and 1-recall@{at[-1]} is **{found[-1]:.3f}**. "
    "A recall without its name says little."
)

# %% [markdown]
# ## Ask how sure a recall is
#
# Two things could have come out differently. *Other queries* of the same kind: the bootstrap draws
# the measured queries again, with replacement, a thousand times and more, and takes the range of
# the middle 95% of the means. And *another seed*: other clusters, other codebooks. That is
# measured, by building everything again with further seeds and searching for the same queries; from
# the spread follows the 95% *prediction interval*: if recalls are spread normally over seeds, that
# of one more seed lies in it with a probability of 95%. Many papers give neither.

# %%
half = max(1, n_outer // 2)
uncertain = {
    "k-means": (None, {}),
    "k-means, two levels": (None, dict(nprobe_outer=half)),
    "PQ shared": ("shared", dict(rerank=False)),
    "PQ shared, re-ranked": ("shared", dict(rerank_factor=rerank_factor)),
    "PQ per cluster": ("per-cluster", dict(rerank=False)),
    "PQ per cluster, re-ranked": ("per-cluster", dict(rerank_factor=rerank_factor)),
}
some = ds.test[:seed_queries]


few_probes = sorted({nprobes[0], chosen})


def with_seed(new_seed):
    """Return the recall of each method when all that is random is drawn with this seed."""
    clusters = pqlib.two_level_kmeans(
        ds.train, n_inner, n_outer, max_train=max_train, seed=new_seed
    )
    home = clusters.assign(ds.train)
    rows, made = [], {}
    for name, (codebooks, options) in uncertain.items():
        if codebooks is None:
            # Exact inside its lists: what they hold is what it finds.
            keys = clusters.probe(some, nprobes[-1], options.get("nprobe_outer"))[1]
            found = evaluation.routing_recall(ds, k, keys, home)
            rows += [{"method": name, "nprobe": p, "recall": found[p - 1]} for p in few_probes]
            continue
        if new_seed == seed:
            made = {"shared": shared, "per-cluster": local}  # built above, with that very seed
        elif codebooks not in made:
            made = {codebooks: product_codes(codebooks, clusters, new_seed)}
        for p in few_probes:
            _, ids = made[codebooks].search(some, k, p, **options)
            rows.append({"method": name, "nprobe": p, "recall": pqlib.recall_at_k(ids, ds, k)})
    return rows


context = dict(dataset=ds.name, n=ds.n, nq=ds.nq, k=k, n_inner=n_inner, n_outer=n_outer, m=m)
context |= dict(nbits=nbits, seed_queries=seed_queries, max_train=max_train)
context |= dict(nprobes=list(nprobes), rerank_factor=rerank_factor)
seeds = sweep(
    [dict(new_seed=seed + extra) for extra in range(n_seeds)],
    with_seed,
    progress="seeds",
    store=resume,
    context=context,
).rename(columns={"new_seed": "seed"})
save_table(seeds, output, "05_seeds")
intervals = []
for (name, p), values in seeds.groupby(["method", "nprobe"], sort=False).recall:
    index, options = methods[name, p]
    recalls = of_query[index, tuple(options.items())][: len(some)]
    low, high = evaluation.bootstrap_interval(recalls, seed=seed)
    seed_low, seed_high = evaluation.prediction_interval(values)
    intervals.append(
        {
            "method": name,
            "nprobe": p,
            "query_recall": recalls.mean(),
            "query_low": low,
            "query_high": high,
            "seed_mean": values.mean(),
            "seed_sd": values.std(),
            "seed_low": seed_low,
            "seed_high": seed_high,
        }
    )
intervals = pd.DataFrame(intervals)
save_table(intervals, output, "05_uncertainty")
intervals[intervals.nprobe == chosen].set_index("method").drop(columns="nprobe").round(4)

# %%
style.show(
    plots.uncertainty(seeds[seeds.nprobe == chosen], intervals[intervals.nprobe == chosen], k),
    output,
    "05_uncertainty",
)
width = pd.DataFrame(
    {
        "queries": intervals.query_high - intervals.query_low,
        "seeds": intervals.seed_high - intervals.seed_low,
    }
).assign(method=intervals.method, nprobe=intervals.nprobe)
larger = (width.seeds > width.queries).sum()
widest = width.loc[width.seeds.idxmax()]
Markdown(
    f"With {len(some):,} queries and {n_seeds} seeds, the interval over seeds is the wider one for "
    f"{larger} of {len(width)} methods and numbers of probes. Over queries, intervals are "
    f"{width.queries.min():.3f} to {width.queries.max():.3f} wide, over seeds "
    f"{width.seeds.min():.3f} to {width.seeds.max():.3f} (*{widest.method}*, nprobe "
    f"{widest.nprobe}). A difference between two rows that is smaller than these says nothing, "
    "unless both were measured on the same queries and over the same clusters, as the methods here "
    "were."
)

# %% [markdown]
# ### Compare two methods on the same queries
#
# A hard query is hard for every method, so the difference of two methods is surer than either: take
# the differences query by query, and draw those.

# %%
pairs = [
    ("PQ per cluster", "PQ shared"),
    ("PQ per cluster, re-ranked", "PQ shared, re-ranked"),
    ("k-means", "k-means, two levels"),
]
differences = []
for one, other in pairs:
    first, second = (
        of_query[index, tuple(options.items())]
        for index, options in (methods[one, chosen], methods[other, chosen])
    )
    gap = first - second
    low, high = evaluation.bootstrap_interval(gap, seed=seed)
    differences.append(
        {"one": one, "other": other, "difference": gap.mean(), "low": low, "high": high}
    )
differences = pd.DataFrame(differences)
save_table(differences.assign(nprobe=chosen), output, "05_differences")
differences.set_index(["one", "other"]).round(4)

# %% [markdown]
# ## Time them in one run
#
# Batch speed: all timed queries in one call. Every method is warmed up, then the repeats are
# interleaved, so that whatever else the machine does falls on all alike; the median counts, the
# bar shows minimum and maximum. Timings change with the machine, which is named below.

# %% tags=["nbval-ignore-output"]
machine = evaluation.machine()
print(", ".join(f"{key} {value}" for key, value in machine.items()))
# Enough to time: half of a small set's queries, 10 ** 10 multiplications in the slowest call.
per_query = ds.d * points[points.method != "brute force"].distance_computations.max()
timed_queries = min(timed_queries, max(100, ds.nq // 2), max(100, int(1e10 / per_query)))
timed_queries = min(timed_queries, ds.nq)
batch = ds.test[:timed_queries]
brute_batch = batch[: max(10, min(len(batch), int(2e8 // (ds.n * ds.d) * 100)))]
calls = {
    key: lambda index=index, options=options: index.search(batch, k, **options)
    for key, (index, options) in methods.items()
}
calls["brute force", 0] = lambda: brute.search(brute_batch, k)
print(f"batches of {len(batch):,} queries, brute force of {len(brute_batch):,}")
timings = evaluation.time_calls(calls, repeats=repeats)
sizes = [len(brute_batch) if name == "brute force" else len(batch) for name, _ in timings.name]
timings["method"], timings["nprobe"] = zip(*timings.name, strict=True)
timings["qps"] = sizes / timings.median_s
timings["qps_min"], timings["qps_max"] = sizes / timings.max_s, sizes / timings.min_s
points = points.merge(
    timings[["method", "nprobe", "qps", "qps_min", "qps_max"]], on=["method", "nprobe"]
)
points["build_s"] = points.method.map(
    lambda name: sum(
        seconds
        for part, seconds in build_seconds.items()
        if part == "clustering" or name.startswith(part)
    )
)
points.loc[points.method == "brute force", "build_s"] = build_seconds["brute force"]
# Not beaten by any other point in recall, speed and memory at once.
points["pareto"] = evaluation.pareto_front(
    points, {"recall": "more", "qps": "more", "bytes_per_vector": "less"}
)
points["timed_queries"] = [len(brute_batch if p == 0 else batch) for p in points.nprobe]
save_table(points.assign(**machine), output, "05_methods")
points.set_index(["method", "nprobe"])[["recall", "qps", "qps_min", "qps_max"]].round(
    {"recall": 3, "qps": 0, "qps_min": 0, "qps_max": 0}
)

# %% [markdown]
# Upright bars span the slowest and the fastest repeat, level ones the 95% interval over queries;
# most are shorter than the marker is wide. A ring marks points that no other one beats in recall,
# speed and memory at once.

# %% tags=["nbval-ignore-output"]
style.show(plots.trade_off(points, k, ds.n), output, "05_trade_off")

# %% [markdown]
# One query a call is another measurement: nothing is shared between queries, and the fixed costs
# of a call show. Half of the calls take less than p50, one in a hundred takes longer than p99.

# %% tags=["nbval-ignore-output"]
latency = pd.DataFrame(
    {
        name: evaluation.single_query_latency(
            lambda q, index=index, options=options: index.search(q, k, **options), ds.test
        )
        for (name, p), (index, options) in methods.items()
        if p == chosen
    }
).T
latency["nprobe"] = chosen
save_table(latency.rename_axis("method").reset_index().assign(**machine), output, "05_latency")
latency.round(3)

# %% [markdown]
# ## Compare at equal recall, and at equal speed
#
# Two methods at different recalls cannot be compared by their speed. So take the operating curve of
# each, over nprobe, and read off what it does at a fixed recall, between the measured points where
# none lies there: linearly in recall, logarithmically in speed or work. Where a method never gets
# there, nothing stands. Where already its first point exceeds the recall, that point stands: it
# finds more than was asked.

# %% tags=["nbval-ignore-output"]
targets = (0.8, 0.9, 0.95, 0.99)
fixed = []
for target in targets:
    fast = evaluation.at_recall(points, target, "qps", "more").set_index("method")
    work = evaluation.at_recall(points, target, "distance_computations", "less")
    work = work.set_index("method")
    for name in points.method.unique():
        fixed.append(
            {
                "method": name,
                "target": target,
                "qps": fast.qps[name],
                "how": fast.how[name],
                "distance_computations": work.distance_computations[name],
                "work_how": work.how[name],
                "bytes_per_vector": points.bytes_per_vector[points.method == name].iloc[0],
            }
        )
fixed = pd.DataFrame(fixed)
save_table(fixed.assign(**machine), output, "05_fixed_recall")
style.show(plots.fixed_recall(fixed, k), output, "05_fixed_recall")
fixed.pivot(index="method", columns="target", values="qps").round(0)

# %%
counted = fixed.pivot(index="method", columns="target", values="distance_computations")
counted.round(0)

# %% [markdown]
# The other way round: the recall that each method reaches at a given speed.

# %% tags=["nbval-ignore-output"]
speeds = [10.0**e for e in range(2, 6) if points.qps.min() <= 10.0**e <= points.qps.max()]
at_speed = pd.DataFrame(
    {
        f"{s:,.0f} queries/s": evaluation.recall_at(points, "qps", s, "more").set_index("method")[
            "recall"
        ]
        for s in speeds
    }
)
at_speed.round(3)

# %% [markdown]
# ## Count all the memory
#
# An index is its codes, the ids, the centroids of both levels, the codebooks, the tables computed
# in advance (shared codebooks only) and the store to re-rank from. Leaving one out makes any ratio
# look good.

# %%
held = {
    "k-means": lists.memory(),
    "PQ shared": {key: v for key, v in shared.memory().items() if key != "re-ranking store"},
    "PQ per cluster": {key: v for key, v in local.memory().items() if key != "re-ranking store"},
    "PQ shared, re-ranked": shared.memory(),
    "PQ per cluster, re-ranked": local.memory(),
}
parts = pd.DataFrame(held).T.fillna(0)
parts["centroids"] = parts[[c for c in parts.columns if "centroids" in c]].sum(axis=1)
order = ["vectors", "codes", "ids", "codebooks", "precomputed tables", "re-ranking store"]
parts = parts[[*order, "centroids"]].rename(columns={"vectors": "whole vectors"}) / ds.n
raw = {"raw float32": 4.0 * ds.d}
if ds.whole_numbers:
    raw["the same, lossless uint8"] = 1.0 * ds.d
style.show(plots.memory_by_part(parts, raw), output, "05_memory")
table = parts.copy()
table["total"] = parts.sum(axis=1)
table["compression"] = 4 * ds.d / table.total
save_table(table.rename_axis("method").reset_index(), output, "05_memory")
table.round(1)

# %%
total = table.total["PQ per cluster"]
codebooks = table["codebooks"]["PQ per cluster"]
sentence = (
    f"With per-cluster codebooks, the codes take {table['codes']['PQ per cluster']:.0f} bytes of "
    f"a vector and the codebooks {codebooks:,.0f}. Everything counted, "
    f"it takes {total:,.0f} bytes, float32 {4 * ds.d / total:.1f} times as many"
)
if ds.whole_numbers:
    versus = "less" if total < ds.d else "more"
    plain = table.total["k-means"] - 3 * ds.d
    sentence += (
        f", and that is {versus} than the {ds.d} bytes that keep these whole numbers without loss. "
        "The k-means index holds float32; with its lists kept as uint8, not built here, it would "
        f"take {plain:,.0f} bytes where *PQ shared, re-ranked* takes "
        f"{table.total['PQ shared, re-ranked']:,.0f}"
    )
Markdown(sentence + ".")

# %% [markdown]
# ### What has to be in memory
#
# Not all of an index is needed at once. `load_index(path, mmap=True)` leaves codes, ids, the
# re-ranking store and the codebooks of single clusters in the file, and a search reads of them the
# lists it probes and the candidates it re-ranks. What every query needs, centroids, shared
# codebooks and tables, is read into memory.

# %%
resident = []
for name, index, options in (
    ("k-means", lists, dict(nprobe=chosen)),
    ("PQ shared, re-ranked", shared, dict(nprobe=chosen, rerank_factor=rerank_factor)),
    ("PQ per cluster, re-ranked", local, dict(nprobe=chosen, rerank_factor=rerank_factor)),
):
    cost = {stage: c.mean() for stage, c in index.search_cost(queries, k, **options).items()}
    resident.append(evaluation.residency(index, cost).assign(method=name, nprobe=chosen))
resident = pd.concat(resident, ignore_index=True)
save_table(resident, output, "05_residency")
by_place = resident.pivot_table(
    index="method", columns="where", values="bytes_per_vector", aggfunc="sum", sort=False
)
by_place["read of a query, kB"] = resident.groupby("method").read_per_query.sum() / 1e3
by_place.round(1)

# %% [markdown]
# ## See what the sketch measured, and what it should have
#
# The sketch took 100 inner clusters by k-means, 10 outer clusters of their centroids, a product
# quantizer in each inner cluster (m = 8 where that divides d, nbits = 8) and compared with brute
# force and with k-means search. Its conclusions were written before its results. Each step is
# repeated here on this data set.

# %%
sketch_inner, sketch_outer, sketch_bits = 100, 10, 8
sketch_m = next(v for v in (8, 4, 2, 1) if ds.d % v == 0)
if ds.n < sketch_inner:
    raise ValueError(f"{ds.name} has {ds.n} base vectors: the sketch needs at least 100.")
if (n_inner, n_outer) == (sketch_inner, sketch_outer):
    sketch_clustering = clustering
else:
    sketch_clustering = pqlib.two_level_kmeans(ds.train, sketch_inner, sketch_outer, seed=seed)
sketch_assignment = sketch_clustering.assign(ds.train)
sketch_sizes = np.bincount(sketch_assignment, minlength=sketch_inner)
claims = []

# %% [markdown]
# ### Sampling
#
# The sketch sampled 50,000 vectors, unseeded, to train k-means. faiss has a limit of its own,
# and applies it without a word.

# %%
limit = faiss.ClusteringParameters().max_points_per_centroid * sketch_inner
sampled = min(50_000, ds.n)
claims.append(
    {
        "what": "vectors that trained k-means",
        "the sketch": f"{sampled:,}",
        "in truth": f"{min(limit, sampled):,}",
    }
)
Markdown(
    f"faiss trains on at most {limit // sketch_inner} vectors per centroid: {limit:,} for "
    f"{sketch_inner} clusters. Of the {sampled:,} vectors given, "
    f"{min(limit, sampled):,} were used."
)

# %% [markdown]
# ### The threshold
#
# A cluster was product-quantized only if it held at least $m \cdot 2^{nbits}$ residuals. Where
# none did, the search fell back to comparing the query with the whole base, exactly, and what it
# found was still reported as "PQ".

# %%
threshold = sketch_m * 2**sketch_bits
skipped = int((sketch_sizes < threshold).sum())
style.show(plots.sketch_skips(sketch_sizes, threshold), output, "05_sketch_threshold")
claims.append(
    {
        "what": "clusters searched with product codes",
        "the sketch": f"{sketch_inner}",
        "in truth": f"{sketch_inner - skipped}",
    }
)
Markdown(
    f"The threshold is {threshold:,} residuals; the clusters hold {sketch_sizes.mean():,.0f} on "
    f"average, {sketch_sizes.max():,} at most. **{skipped} of {sketch_inner} were skipped.** "
    + (
        "So its PQ search was brute force over the whole base, and the recall of 1.000 that it "
        "reported said nothing about product codes."
        if skipped == sketch_inner
        else "Only the others had product codes to search."
    )
)

# %% [markdown]
# ### Brute force by another name
#
# Where every cluster was skipped, what it timed was one NumPy pass over all vectors for each query.
# Here that is on 100 queries, as there (fewer of a large base); its recall, which the sketch set to
# 1, is computed.

# %% tags=["nbval-ignore-output"]
sketch_queries = ds.test[: min(100, ds.nq, max(10, int(6e9 / (ds.n * ds.d))))]
start = time.perf_counter()
passes = [np.argpartition(((ds.train - query) ** 2).sum(axis=1), k)[:k] for query in sketch_queries]
numpy_qps = len(sketch_queries) / (time.perf_counter() - start)
print(f"{numpy_qps:.1f} queries per second")

# %%
numpy_recall = pqlib.recall_at_k(np.array(passes), ds, k)
print(f"recall@{k} of these {len(passes)} queries: {numpy_recall:.3f}")

# %% [markdown]
# ### The search it meant
#
# Without the threshold, the sketch would have looped in Python over the codes of one cluster, the
# one nearest to the query, adding m table entries for each. This is that loop, once, as the thing
# measured; our index does the same arithmetic over the same codes natively, and must agree with
# it. From here on, product codes are those of *PQ per cluster* above, with this notebook's number
# of clusters.

# %%
loop_queries = ds.test[: min(50, ds.nq)]
_, probed = local.clustering.probe(loop_queries, 1)


def sketch_search(query, cluster):
    """Search one cluster by a Python loop over its codes, as the sketch did."""
    positions, codes = local.list_content(cluster)
    quantizer = local.quantizer(cluster)
    residual = query - local.clustering.inner[cluster]
    table = quantizer.distance_table(residual[None])[0]
    distances = []
    for code in quantizer.unpack(codes):
        distances.append(sum(table[j][code[j]] for j in range(quantizer.m)))
    best = np.argsort(distances, kind="stable")[:k]
    return positions[best], np.array(distances)[best]


# %% tags=["nbval-ignore-output"]
start = time.perf_counter()
looped = [sketch_search(q, int(c)) for q, c in zip(loop_queries, probed[:, 0], strict=True)]
loop_qps = len(loop_queries) / (time.perf_counter() - start)
native = points.query("method == 'PQ per cluster' and nprobe == 1").qps.item()
print(
    f"Python loop: {loop_qps:,.0f} queries per second; index: {native:,.0f}, "
    f"{native / loop_qps:,.0f} times as many"
)

# %%
native_distances, native_ids = local.search(loop_queries, k, nprobe=1, rerank=False)
scale = float((ds.test**2).sum(axis=1).mean())
agreement = max(
    float(np.abs(native_distances[i, : len(found)] - found).max())
    for i, (_, found) in enumerate(looped)
)
print(f"distances agree with the loop: {agreement < 1e-5 * scale}")

# %%
_, sketch_ids = local.search(queries, k, nprobe=1, rerank=False)
recall = pqlib.recall_at_k(sketch_ids, ds, k)
if skipped == sketch_inner:
    claims.append(
        {
            "what": f"recall@{k} reported as PQ; of product codes in one list",
            "the sketch": "1.000",
            "in truth": f"{recall:.3f}",
        }
    )
Markdown(
    f"With product codes in use, one list probed and nothing re-ranked, recall@{k} is "
    f"**{recall:.3f}**, not 1."
)

# %% [markdown]
# ### Recall by position
#
# Its first recall was `(I == gt).mean()`: a neighbour counted only in the very place that the
# ground truth gives it. Two neighbours swapped, and both were wrong.

# %%
positional = float((sketch_ids == ds.neighbors[: len(queries), :k]).mean())
claims.append(
    {
        "what": f"recall@{k} of product codes in one list, by position; by set",
        "the sketch": f"{positional:.3f}",
        "in truth": f"{recall:.3f}",
    }
)
Markdown(
    f"The same answers: {positional:.3f} by position, {recall:.3f} as sets with ties counted as "
    "right."
)

# %% [markdown]
# ### What was left out of the memory
#
# It counted the codes. One set of codebooks for each cluster weighs $2^{nbits} \cdot d \cdot 4$
# bytes however few vectors the cluster has. Ids and centroids were left out too, and so were the
# raw vectors that its k-means index scanned. Here is the index that it meant, with product codes
# in every cluster.

# %%
codes_bytes = ds.n * sketch_m * sketch_bits // 8
codebook_bytes = sketch_inner * 2**sketch_bits * ds.d * 4
centroid_bytes = (sketch_inner + sketch_outer) * ds.d * 4
raw_bytes = 4 * ds.n * ds.d
mega = 1e6
claims.append(
    {
        "what": "PQ index that it meant, MB",
        "the sketch": f"{codes_bytes / mega:.2f}",
        "in truth": f"{(codes_bytes + codebook_bytes + centroid_bytes + 8 * ds.n) / mega:.2f}",
    }
)
claims.append(
    {
        "what": "k-means index, MB",
        "the sketch": f"{(centroid_bytes + 8 * ds.n) / mega:.2f}",
        "in truth": f"{(centroid_bytes + 8 * ds.n + raw_bytes) / mega:.2f}",
    }
)
sentence = (
    f"Codes: {codes_bytes / mega:.2f} MB. Codebooks: {codebook_bytes / mega:.1f} MB. Raw float32 "
    f"vectors: {raw_bytes / mega:.0f} MB"
)
if ds.whole_numbers:
    verdict = "more" if codebook_bytes > ds.n * ds.d else "less"
    sentence += (
        f"; as lossless uint8: {ds.n * ds.d / mega:.0f} MB. The codebooks alone take {verdict} "
        "than that"
    )
Markdown(sentence + ".")

# %% [markdown]
# ### Codebooks that memorize
#
# With few residuals for each of its $2^{nbits}$ sub-centroids, a codebook fits the vectors it was
# trained on far better than others. Base vectors are trained ones here, which flatters them;
# queries, encoded the same way, are not.

# %%
sample = np.random.default_rng(seed).choice(ds.n, size=min(ds.n, 10_000), replace=False)
errors = {}
for name, index in (("shared", shared), ("per cluster", local)):
    for kind, x in (("trained", ds.train[sample]), ("not trained", queries)):
        home = clustering.assign(x)
        decoded = index.decode(index.encode(x, home), home)
        residual = float(((x - clustering.inner[home]) ** 2).sum(axis=1).mean())
        # Relative to the residual's own size: queries may lie farther from the centroids.
        errors[name, kind] = pqlib.quantizers.mean_squared_error(x, decoded) / residual
ratio = {name: errors[name, "not trained"] / errors[name, "trained"] for name, _ in errors}
Markdown(
    "Error on vectors not trained on, over that on trained ones: "
    f"**{ratio['shared']:.2f}** with shared codebooks, **{ratio['per cluster']:.2f}** with "
    f"per-cluster ones. On vectors not trained on, per-cluster codebooks lose "
    f"{errors['per cluster', 'not trained']:.1%} of the residual, shared ones "
    f"{errors['shared', 'not trained']:.1%}."
)

# %% [markdown]
# ### 4 and 16 bits
#
# With nbits = 4 two sub-codes share a byte. The sketch used the packed byte to index a table of
# 16 entries. With nbits = 16 a codebook has 65,536 centroids and needs as many residuals, in
# every cluster.

# %%
four = pqlib.ProductQuantizer(ds.d, sketch_m, 4, seed=seed)
first = ds.train[: min(ds.n, 2000)]
packed = four.train(first).encode(first)
Markdown(
    f"{sketch_m} sub-codes of 4 bits take {packed.shape[1]} bytes; bytes go up to "
    f"{packed.max()}, sub-codes to {four.unpack(packed).max()}: a table of 16 entries has no place "
    f"for {(packed > 15).mean():.0%} of them. The largest of the {sketch_inner} clusters holds "
    f"{sketch_sizes.max():,} residuals where 16 bits need 65,536."
)

# %% [markdown]
# ### A level never used, and an unequal race
#
# Its outer clusters were built, and no search looked at them. Its k-means search probed three
# clusters where the product-quantized search that it meant probes one, and the time of its
# k-means search contained the assignment of the whole base to clusters. And it compared Euclidean
# distances of one method with squared ones of the other: the ranking is the same, the numbers are
# not.

# %%
_, flat_ids = lists.search(queries, k, nprobe=1)
_, three_ids = lists.search(queries, k, nprobe=min(3, n_inner))
flat_recall, three_recall = (pqlib.recall_at_k(i, ds, k) for i in (flat_ids, three_ids))
claims.append(
    {
        "what": f"recall@{k} of k-means search: in its three lists; in one, as for PQ",
        "the sketch": f"{three_recall:.3f}",
        "in truth": f"{flat_recall:.3f}",
    }
)
Markdown(
    f"k-means search finds {three_recall:.3f} with three lists and {flat_recall:.3f} with one: the "
    "race gave it two lists more than its rival."
)

# %% [markdown]
# ### All in one table

# %%
claims = pd.DataFrame(claims).rename(
    columns={"the sketch": "as the sketch counted", "in truth": "as measured here"}
)
save_table(claims, output, "05_sketch")
claims.set_index("what")

# %% [markdown]
# ## Draw conclusions
#
# A rule reads the table of results and writes what follows from it, so for another data set it
# says something else. What does not depend on timings first.

# %%
advice = advise(points, k)
Markdown("\n".join(f"- {sentence}" for sentence in advice.counted))

# %% [markdown]
# And what was measured on this machine, in this run:

# %% tags=["nbval-ignore-output"]
save_table(advice.table.assign(**machine), output, "05_advice")
Markdown("\n".join(f"- {sentence}" for sentence in advice.timed))

# %% tags=["nbval-ignore-output"]
advice.table.round({"recall": 3, "qps": 0, "bytes_per_vector": 0, "distance_computations": 0})

# %% [markdown]
# ## Next
#
# [06 Study sensitivity to every parameter](06_sensitivity.ipynb) turns the knobs one at a time: m,
# nbits, the numbers of clusters and probes.
