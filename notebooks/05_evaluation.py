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
# Seven ways to search the same vectors: what they find, how fast, in how much memory. Then *the
# sketch*, the first draft of this study, which is not kept here, and what it should have said.
#
# ## What you'll do
#
# - Put every way to search into one table, and draw every figure from it.
# - Measure recall, work, speed and memory, how sure each number is, and compare at equal recall.
# - Repeat what the sketch measured, and see what it measured in truth.
#
# ## What you'll learn
#
# - Why one index has two recalls, and a recall two error bars.
# - How much the codebooks weigh, and how a benchmark can measure something else than intended.
#
# ## What you'll need
#
# - Notebooks 02 (lists and probing), 03 (product codes) and 04 (searching with codes). The
#   notebook runs alone.

# %%
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib import evaluation
from pqlib.study import compare, save_table, sketch
from pqlib.study import methods as study
from pqlib.study.advice import advise
from pqlib.study.notebook import open_study
from pqlib.study.plots import evaluation as plots
from pqlib.study.plots import style

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
k = 10  # neighbours asked for
nprobes = (1, 2, 4, 8, 16)  # lists probed
seed = 0
output = None  # folder for this run's figures and results; None: only show them
resume = None  # folder that keeps what was measured, for a run that was cut off to go on; or None

# %%
opened = open_study(dataset, n_train, n_test)
ds, n_inner, n_outer = opened.ds, opened.n_inner, opened.n_outer
nprobes = [p for p in nprobes if p <= n_inner]
chosen = nprobes[len(nprobes) // 2]
print(f"\n{n_inner} inner clusters under {n_outer} outer ones, re-ranking from {opened.store}")

# %% [markdown]
# ## Build the indexes and weigh them
#
# All methods but brute force share one clustering, so they differ only in what a list keeps of a
# vector: the k-means index keeps it whole, the others its product code. *PQ shared* has one set of
# codebooks for all residuals, *PQ per cluster* one for each inner cluster.

# %%
build = study.Builder(opened, seed)
lists, brute = build.lists(), build.exact()
shared, local = build.codes("shared"), build.codes("per-cluster")
print(local.describe())

# %% [markdown]
# One index can be searched in several ways. *Two levels* ranks the outer centroids first, then only
# the inner ones below the nearest of them. *Re-ranked* fetches the best `rerank_factor * k` whole
# vectors and computes exact distances. Add a line to this table, and it is measured and drawn too.

# %%
methods = pd.DataFrame(
    [
        ("k-means", lists, {}),
        ("k-means, two levels", lists, {"nprobe_outer": max(1, n_outer // 2)}),
        ("PQ shared", shared, {"rerank": False}),
        ("PQ per cluster", local, {"rerank": False}),
        ("PQ shared, re-ranked", shared, {"rerank_factor": 8}),
        ("PQ per cluster, re-ranked", local, {"rerank_factor": 8}),
        ("brute force", brute, {}),
    ],
    columns=["method", "index", "options"],
)
memory = study.memory_by_part(ds, methods)
save_table(memory.reset_index(), output, "05_memory")
parts = memory.drop(columns=["total", "compression"])
style.show(plots.memory_by_part(parts, study.raw_sizes(ds)), output, "05_memory")

Markdown(study.weight(ds, memory))

# %% [markdown]
# ## Measure recall and work
#
# *recall@k* is the share of the true k nearest among the k returned. Of one index:

# %%
distances, ids = local.search(ds.test, k, nprobe=chosen, rerank=False)
print(f"recall@{k} with {chosen} lists probed: {pqlib.recall_at_k(ids, ds, k):.3f}")

# %% [markdown]
# Now every method and number of lists. *recall_low* and *recall_high* are a 95% interval over
# queries. *relative_error* is by how much the returned distances exceed the true ones.
# *distance_computations* is the work of a query: counted, so the same on every machine.

# %%
ways = study.at_probes(methods, nprobes)
at_chosen = ways[ways.nprobe == chosen]
points, recalls = study.measure(ds, ways, k, seed=seed)
shown = ["recall", "recall_low", "recall_high", "relative_error", "distance_computations"]
points[points.nprobe.isin([0, 1, chosen])].set_index(["method", "nprobe"])[shown].round(3)

# %% [markdown]
# A look-up table costs $2^{nbits}$ distances. With shared codebooks a query needs one, else one for
# each probed list. A code counts as one distance, though it takes less time.

# %%
work = study.work_by_stage(points, chosen)
style.show(plots.cost_by_stage(work), output, "05_work_by_stage")
share = work.tables / work.sum(axis=1)
Markdown(
    f"With nprobe {chosen}, tables are {share['PQ shared']:.0%} of the work with shared codebooks "
    f"and {share['PQ per cluster']:.0%} with those per cluster."
)

# %% [markdown]
# `load_index(path, mmap=True)` leaves codes, ids, the store and the codebooks of single clusters in
# the file. A search reads the lists it probes and the candidates it re-ranks.

# %%
ranked = ["k-means", "PQ shared, re-ranked", "PQ per cluster, re-ranked"]
resident = study.residency(ds, at_chosen[at_chosen.method.isin(ranked)], k)
save_table(resident, output, "05_residency")
resident.pivot_table("bytes_per_vector", "method", "where", "sum", sort=False).assign(
    **{"read of a query, kB": resident.groupby("method").read_per_query.sum() / 1e3}
).round(1)

# %% [markdown]
# ## Tell the two recalls apart
#
# The literature also reports *1-recall@R*: the share of queries whose single nearest neighbour is
# among the R returned. Jégou, Douze and Schmid (2011, section 5.1) call it *recall@R*. It asks for
# one vector in R places, recall@k for k vectors in k places. The same search has both.

# %%
curves = {
    name: study.one_recalls(ds, index, k, nprobe=chosen, rerank=False)
    for name, index in (("PQ shared", shared), ("PQ per cluster", local))
}
style.show(plots.two_recalls(curves), output, "05_two_recalls")
at, found, recall = curves["PQ per cluster"]
Markdown(
    f"The same answers of *PQ per cluster* with nprobe {chosen}: recall@{k} is **{recall:.3f}**, "
    f"1-recall@1 is **{found[0]:.3f}** and 1-recall@{at[-1]} is **{found[-1]:.3f}**."
)

# %% [markdown]
# ## Ask how sure a recall is
#
# *Other queries* would give another recall: the bootstrap draws the measured ones again, with
# replacement, 2,000 times, and takes the middle 95% of the means. *Another seed* gives other
# clusters: all is built again with four more seeds, and from their spread follows the 95%
# *prediction interval*, in which the recall of one more seed lies.

# %%
few_probes = sorted({nprobes[0], chosen})
seeds = compare.over_seeds(build, methods, few_probes, k, range(seed, seed + 5), resume=resume)
save_table(seeds, output, "05_seeds")
intervals = compare.uncertainty(seeds, recalls)
save_table(intervals, output, "05_uncertainty")
drawn = (table[table.nprobe == chosen] for table in (seeds, intervals))
style.show(plots.uncertainty(*drawn, k), output, "05_uncertainty")
Markdown(compare.which_is_wider(intervals))

# %% [markdown]
# A hard query is hard for every method. So subtract query by query, and draw the differences:

# %%
pairs = [
    ("PQ per cluster", "PQ shared"),
    ("PQ per cluster, re-ranked", "PQ shared, re-ranked"),
    ("k-means", "k-means, two levels"),
]
gaps = compare.differences(recalls, pairs, chosen, seed)
save_table(gaps, output, "05_differences")
gaps.set_index(["one", "other"]).round(4)

# %% [markdown]
# ## Time them in one run
#
# The repeats are interleaved, so that whatever else the machine does falls on all alike. Upright
# bars span the slowest and the fastest, level ones the interval over queries. A ring marks what no
# other point beats in recall, speed and memory at once.

# %% tags=["nbval-ignore-output"]
machine = evaluation.machine()
points = compare.timed(ds, ways, points, k, build)
save_table(points.assign(**machine), output, "05_methods")
style.show(plots.trade_off(points, k, ds.n), output, "05_trade_off")
print(", ".join(f"{key} {value}" for key, value in machine.items()))

# %% [markdown]
# One query a call is another measurement:

# %% tags=["nbval-ignore-output"]
latency = compare.latency(ds, at_chosen, k)
save_table(latency.assign(**machine), output, "05_latency")
latency.set_index("method").round(3)

# %% [markdown]
# ### Compare at equal recall
#
# Speeds at different recalls cannot be compared. So read off the curve of each method over nprobe
# what it does at a fixed recall. Where a method never gets there, nothing stands.

# %% tags=["nbval-ignore-output"]
fixed = compare.fixed_recall(points, (0.8, 0.9, 0.95, 0.99))
save_table(fixed.assign(**machine), output, "05_fixed_recall")
style.show(plots.fixed_recall(fixed, k), output, "05_fixed_recall")
compare.recall_at_speeds(points).round(3)

# %%
fixed.pivot(index="method", columns="target", values="distance_computations").round(0)

# %% [markdown]
# ## See what the sketch measured, and what it should have
#
# The sketch took 100 inner clusters and a product quantizer for each, and wrote its conclusions
# before its results. It quantized a cluster only if that held $m \cdot 2^{nbits}$ residuals. Where
# none did, it compared a query with the whole base in NumPy, and still called what it found "PQ".

# %%
draft = sketch.Sketch(ds, seed, build.clustering)
figure = plots.sketch_skips(draft.sizes, draft.threshold)
style.show(figure, output, "05_sketch_threshold")
Markdown("\n".join(f"- {sentence}" for sentence in draft.findings()))

# %% [markdown]
# What it meant is a Python loop over the codes of one list. Our index does the same natively:

# %% tags=["nbval-ignore-output"]
some, few = ds.test[:50], ds.test[: draft.numpy_queries]
loop_ids, loop = study.speed_of(lambda: sketch.sketch_search(local, k, some)[1])
numpy_ids, whole = study.speed_of(lambda: sketch.numpy_search(ds.train, k, few))
native = points.query("method == 'PQ per cluster' and nprobe == 1").qps.item()
print(f"loop {loop:,.0f} queries per second, index {native:,.0f}, NumPy {whole:,.0f}")

# %%
_, coded = local.search(ds.test[:2000], k, nprobe=1, rerank=False)
one, three = (lists.search(ds.test[:2000], k, nprobe=p)[1] for p in (1, min(3, n_inner)))
sketch.check_same_answers(local, some, coded[: len(some)], loop_ids)
claims = draft.claims(k, coded, one, three)
save_table(claims, output, "05_sketch")
print(f"recall@{k} of the NumPy search: {pqlib.recall_at_k(numpy_ids, ds, k):.3f}")
claims.set_index("what")

# %% [markdown]
# *By position*: the sketch counted a neighbour only in the very place that the ground truth gives
# it, `(I == gt).mean()`. And it never asked whether codebooks of a small cluster fit other vectors
# than those they were trained on. The share of the residual that is lost:

# %%
sketch.codebook_errors(ds, {"shared": shared, "per cluster": local}, seed=seed).round(3)

# %% [markdown]
# ## Draw conclusions
#
# A rule reads the table of points and writes what follows, so of other data it says something else.

# %%
advice = advise(points, k)
Markdown("\n".join(f"- {sentence}" for sentence in advice.counted))

# %% tags=["nbval-ignore-output"]
save_table(advice.table.assign(**machine), output, "05_advice")
Markdown("\n".join(f"- {sentence}" for sentence in advice.timed))

# %%
Markdown(compare.in_short(ds, points, memory, intervals, k))

# %% [markdown]
# ## Go on alone
#
# - Which `rerank_factor` does *PQ shared* need to find as much as *k-means* in the same lists?
# - Add a line to `methods` with `nprobe_outer` for a re-ranked code. Where does it stand?
# - How many queries make the interval over queries as wide as that over seeds?
#
# [06 Study sensitivity to every parameter](06_sensitivity.ipynb) turns the knobs one at a time.
