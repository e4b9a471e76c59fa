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
# # Climb to the state of the art
#
# Which index should one use for one's vectors? This notebook starts from exact search and changes
# one step at a time, each measured beside the one before, up to an index of our own that
# `pqlib.tune` fits to the data. How it stands beside the libraries that one would otherwise install
# is for `make bench PEERS=1`; the README shows it for two data sets. Then the notebook asks how far
# from the machine's limits that index is, and how it grows.
#
# ## What you'll do
#
# - Let `pqlib.tune` choose an index for these vectors, and read why it chose so.
# - Climb a ladder of fourteen rungs, from exact search to that index, one idea a rung.
# - Hold the index against what the machine could do at best, stage by stage, and let it grow.
# - Save it, and serve it in ten lines.
#
# ## What you'll learn
#
# - Which of the ideas of notebooks 02 to 06 pay for speed, and which for memory only.
# - Why short codes need whole vectors behind them, and why these may be bytes.
# - Where the time of a search goes once everything is small.
#
# ## What you'll need
#
# - Notebooks 02 to 04 for lists, codes and searching, 05 for recall and speed. The notebook runs
#   alone.

# %%
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib import evaluation
from pqlib.study import ladder, save_table
from pqlib.study.growth import growth, slopes
from pqlib.study.limits import limits
from pqlib.study.plots import ladder as ladder_plots
from pqlib.study.plots import rungs as rung_plots
from pqlib.study.plots import style
from pqlib.study.recipes import power_of_two, rivals

pd.set_option("display.width", 120, "display.max_columns", 20, "display.max_colwidth", 80)

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
seed = 0
output = None  # folder for this run's figures and results; None: only show them
k = 10  # neighbours asked for
recall = 0.95  # recall@k asked for
budget_s = None  # seconds that tuning may take; None: by the size of the data, at most 75
growth_queries = 1000  # queries of the growth study

# %%
ds = pqlib.load_dataset(dataset, n_train=n_train, n_test=n_test)
print(ds.describe())
budget_s = budget_s or float(np.clip(ds.n * ds.d / 6e5, 8, 75))

# %% [markdown]
# ## Let the data choose
#
# `pqlib.tune` searches over compositions: exact search, and `CascadeIndex`, an index of four stages
# (rotation to principal components, inverted lists, codes of one byte a component, exact distances
# of the best candidates), with other numbers of lists and of components, rotated or not, as many
# as its time allows. Each one it tries is built on the whole base and measured at settings that
# just reach the recall asked for. It measures with vectors of the base that were held back from
# training; the queries of the data set stay unseen, so that what is said about them below is a test
# and not a fit.

# %% tags=["nbval-ignore-output"]
tuned = pqlib.tune(ds, recall=recall, k=k, budget_s=budget_s, seed=seed)
print(tuned.report(ds.test))

# %% tags=["nbval-ignore-output"]
tried = tuned.tried.assign(chosen=tuned.tried.outcome == "chosen")
save_table(tried.assign(recall_asked=recall, **evaluation.machine()), output, "07_tried")
save_table(tuned.curve.assign(**evaluation.machine()), output, "07_curve")
tuned.curve.round(4)

# %% [markdown]
# Real queries may be unlike the base. The last line of the report compares how far both sets of
# queries are from their nearest neighbours. Where it says that they are unlike, the recall on real
# queries may differ from the one calibrated: `tune(..., queries=sample_of_real_ones)` mends that.
#
# ## Read the ladder's rungs
#
# Every rung changes one step of one before it; some replace what came before, such as shared
# codebooks after those per cluster. The first five are the study so far; the next four rotate, then
# make codes quicker to scan; then whole vectors come back, to put the best candidates in order; the
# last three are our own loops.

# %% tags=["nbval-ignore-output"]
by_rule = tuned.calibrate(ladder.by_rule(ds), recalls=(0.88, 0.94, 0.97, 0.992))
steps = ladder.rungs(ds, by_rule, tuned, seed=seed)
ideas = "\n".join(f"{i}. **{step.name}**: {step.idea}" for i, step in enumerate(steps))
Markdown(ideas)

# %% [markdown]
# Some of these deserve a sentence more.
#
# - **Rotation.** Principal components put what tells vectors apart first, so that a code may leave
#   out the rest. OPQ then turns the components so that the sub-vectors of a code share the
#   variance (Ge, He, Ke, Sun, "Optimized product quantization", TPAMI 2014).
# - **FastScan.** With 4 bits, the distance table of one piece of a code has 16 entries, which fit
#   one SIMD register (registers that hold many numbers, on which one instruction works at once)
#   when they are rounded to bytes: a look-up for 32 codes is one instruction (Andre, Kermarrec,
#   Le Scouarnec, "Cache locality is not enough", VLDB 2015).
# - **Codes of vectors, not of residuals.** A code of the residual is more exact, but the table
#   differs from list to list. A code of the vector itself shares one table among all of them.
# - **Re-ranking.** Short codes know roughly who is near. Exact distances of the few best put them
#   in order. Where the data are whole numbers 0..255, bytes keep them without loss.
#
# ## Climb
#
# All rungs are built, swept over their search parameters, and timed interleaved on the same
# queries.

# %% tags=["nbval-ignore-output"]
result = ladder.climb(ds, steps, k=k)
machine = evaluation.machine()
save_table(result.points.assign(**machine), output, "07_points")
save_table(result.rungs.assign(**machine), output, "07_ladder")
ours = [step.name for step in steps[-3:]]
style.show(rung_plots.ladder(result.rungs, ours, k), output, "07_ladder")

# %% [markdown]
# Read a row from the circle: queries per second (QPS) at recall 0.95. The triangles are recall 0.90
# (faster) and 0.99 (slower). A row without a circle does not reach 0.95, however many lists it
# probes: its codes are too short to tell near neighbours apart. That is no failure of the idea but
# what re-ranking is for.

# %% tags=["nbval-ignore-output"]
columns = ["method", "qps_90", "qps_95", "qps_99", "highest"]
columns += ["centroids_95", "codes_95", "vectors_95", "bytes_per_vector", "build_s"]
result.rungs[columns].set_index("method").round(2)

# %% tags=["nbval-ignore-output"]
by_name = result.rungs.set_index("method")
lines = []
for before, after in zip(result.rungs.method[:-1], result.rungs.method[1:], strict=True):
    a, b = by_name.loc[before], by_name.loc[after]
    memory = b.bytes_per_vector / a.bytes_per_vector
    if np.isnan(b.qps_95):
        speed = f"does not reach recall 0.95 (at most {b.highest:.3f})"
    elif np.isnan(a.qps_95):
        speed = f"reaches recall 0.95 again, at {b.qps_95:,.0f} QPS"
    else:
        factor = b.qps_95 / a.qps_95
        verdict = "which helps" if factor > 1.05 else "no gain" if factor > 0.95 else "a loss"
        speed = f"{factor:.2f} times the QPS at recall 0.95, {verdict}"
    note = f" ({b.note})" if b.note else ""
    lines.append(f"- **{after}**{note}, after *{before}*: {speed}; {memory:.2f} times the bytes.")
exact, last = by_name.iloc[0], by_name.iloc[-1]
lines.append(
    f"\nFrom the first rung to the last: {last.qps_95 / exact.qps_95:,.0f} times the queries per "
    f"second at recall 0.95, with {last.bytes_per_vector / exact.bytes_per_vector:.2f} times the "
    "bytes."
)
Markdown("\n".join(lines))

# %% [markdown]
# Some things on the ladder must hold on any machine, and are checked here.

# %%
exact_rows = result.points[result.points.number == 0]
store = "uint8" if ds.whole_numbers else "float16"
floats = result.points[result.points.method == "re-rank, float32"].set_index("setting").recall
stored = result.points[result.points.method == f"re-rank, {store}"].set_index("setting").recall
both = floats.index.intersection(stored.index)
few = ds.train[:5000]


def answers(engine):
    kept = "uint8" if ds.whole_numbers else "float32"
    small = pqlib.CascadeIndex(ds.d, 16, min(32, ds.d), rerank=kept, engine=engine)
    return small.train(few).add(few).search(ds.test[:50], k, nprobe=4, candidates=50)


same = [np.array_equal(a, b) for a, b in zip(answers(None), answers("portable"), strict=True)]
checks = {
    "exact search finds everything": bool((exact_rows.recall == 1).all()),
    f"re-ranking from {store} finds what float32 does": bool(
        np.allclose(floats[both], stored[both], atol=0.002)
    ),
    "our fastest loops and plain NumPy give the same answers": all(same),
    "the tuned index holds every vector": tuned.index.ntotal == ds.n,
}
pd.Series(checks)

# %% [markdown]
# ## See what adaptive probing does
#
# A query close to a centroid finds its neighbours in a list or two; one between centroids needs
# many. Let c be the squared distance of a list's centroid, c_0 that of the nearest one, and r that
# of the last of the candidates found in the first lists. Adaptive probing leaves a list out where
# c - c_0 > margin * r: a query whose candidates are near stops early. Counted work shows whether it
# is worth it, with no timing noise: the same recall for fewer codes scanned.

# %% tags=["nbval-ignore-output"]
style.show(rung_plots.adaptive(result.points, *ours[:2], k), output, "07_adaptive")

# %% [markdown]
# ## Hold it against the machine's limits
#
# A single search cannot be faster than the bytes it must read and the products (multiplications,
# each with an addition) it must compute. Both peaks are measured here: the bandwidth of memory and
# the rate of the scanning loop on codes that stay in the cache. *Bound* is what the slower of the
# two allows if every query reads its codes from memory. A batch may beat it: a stage below its
# bound found codes in a cache, where another query had brought them. The black line is the bound
# with everything in the cache, which no search beats.

# %% tags=["nbval-ignore-output"]
index, at = tuned.index, {}
if not isinstance(index, pqlib.CascadeIndex):  # exact search was chosen; it has no stages
    index, at = by_rule.index, by_rule.fixed[-1]
found = limits(index, ds.test, k, **at)
save_table(found.table.assign(**machine), output, "07_limits")
style.show(ladder_plots.stages(found.table), output, "07_limits")

# %% tags=["nbval-ignore-output"]
shown = ["stage", "ms", "share", "bytes_per_query", "products_per_query", "bound_ms", "bound_by"]
found.table[[*shown, "times_bound"]].set_index("stage").round(3)

# %% [markdown]
# ## Let it grow
#
# The same index on an eighth, a quarter, a half and all of the base, beside a strong composition
# of faiss's parts: principal components, a graph of near neighbours to walk along (HNSW) and exact
# re-ranking. Exponents are fitted on logarithms: 1 means "twice the vectors, twice the cost".

# %% tags=["nbval-ignore-output"]
sizes = [ds.n // part for part in (8, 4, 2, 1)]
width = index.components


def sized(n):
    return pqlib.CascadeIndex(
        ds.d,
        min(power_of_two(n**0.5), n // 8),
        width,
        index.rotation,
        index.rerank,
        seed=seed,
    )


def graph(n):
    entries = [r for r in rivals(n, ds.d, ds.whole_numbers) if r.kind == "composition"]
    return next(r for r in entries if "HNSW24," in r.name)


searches = [
    {"nprobe": nprobe, "candidates": factor * k, "margin": None}
    for nprobe in (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    for factor in (2, 4)
]
grown = growth(ds, sizes, sized, graph, k, recall, growth_queries, seed=seed, settings=searches)
fitted = slopes(grown)
save_table(grown.assign(**machine), output, "07_growth")
save_table(fitted, output, "07_slopes")
style.show(ladder_plots.growth(grown, fitted, recall), output, "07_growth")

# %% [markdown]
# ## Take it away
#
# `index.save` writes one file, with checksums; `pqlib.load_index` opens it anywhere the package is
# installed. The search defaults that `tune` found travel with it.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "vectors.pqlib"
    tuned.index.save(path)
    served = pqlib.load_index(path)
    distances, ids = served.search(ds.test, k)
before = tuned.index.search(ds.test, k)
print("same answers after loading:", bool(np.array_equal(before[1], ids)))

# %% tags=["nbval-ignore-output"]
reached = pqlib.recall_at_k(ids, ds, k)
Markdown(
    f"Asked for: recall@{k} of {recall:g}. Calibrated on held-back vectors: "
    f"{tuned.best.recall:.4f}. On the {ds.nq:,} queries of {ds.name}, seen for the first time: "
    f"**{reached:.4f}**."
)

# %% [markdown]
# ## What to take along
#
# - Short codes alone stop short of high recall; whole vectors behind them lift it, and as bytes
#   they cost a quarter of the memory.
# - Once codes are scanned in registers, the rest counts as well: rotating the queries, ranking the
#   lists, bringing candidates from memory. The rung "stages in cache order" does all of it in loops
#   of our own, with lists, vectors and queries in one order.
# - What to choose depends on the data: let `pqlib.tune` measure it.
#
# See also notebook 06 for how single parameters act, and `make bench PEERS=1` for the other
# libraries.
#
# ## Next
#
# [08 Meet the family](08_family.ipynb) compares product codes with other quantizers, at equal bits.
