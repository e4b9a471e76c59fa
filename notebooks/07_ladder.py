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

from IPython.display import Markdown

import pqlib
from pqlib.study import ladder, open_study, save_table
from pqlib.study import ladder_words as words
from pqlib.study.growth import slopes
from pqlib.study.limits import limits
from pqlib.study.plots import ladder as ladder_plots
from pqlib.study.plots import rungs as rung_plots
from pqlib.study.plots import style

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
k = 10  # neighbours asked for
recall = 0.95  # recall@k asked for
budget_s = None  # seconds that tuning may take; None: by the size of the data, at most 75
growth_queries = 1000  # queries of the growth study
seed = 0
output = None  # folder for this run's figures and results; None: only show them

# %%
ds = open_study(dataset, n_train, n_test).ds

# %% [markdown]
# ## Let the data choose
#
# `pqlib.tune` searches over compositions: exact search, and `CascadeIndex`, an index of four stages
# (rotation to principal components, inverted lists, codes of one byte a component, exact distances
# of the best candidates), with other numbers of lists and of components, rotated or not, as many as
# its time allows. Each one it tries is built on the whole base and measured at settings that just
# reach the recall asked for. It measures with vectors of the base that were held back from
# training. The ground truth of the queries stays unseen. Half of the queries are looked at without
# it, to see whether they are like the base; where they are not, `tune` measures with these
# ([notebook 09](09_embeddings.ipynb)).

# %% tags=["nbval-ignore-output"]
tuned = pqlib.tune(ds, recall, k, budget_s=budget_s or words.budget(ds), seed=seed)
print(tuned.report(ds.test))

# %% tags=["nbval-ignore-output"]
tried = tuned.tried.assign(chosen=tuned.tried.outcome == "chosen", recall_asked=recall)
save_table(tried, output, "07_tried", timed=True)
save_table(tuned.curve, output, "07_curve", timed=True)
style.show(rung_plots.curve(tuned.curve, recall, k), output, "07_tuned")

# %% [markdown]
# Each point is the index with other search parameters: more lists and candidates find more and take
# longer. Real queries may be unlike these. The last line of the report compares how far both sets
# of queries are from their nearest neighbours. Where it says that they are unlike, the recall on
# real queries may differ from the one calibrated: `tune(..., queries=sample_of_real_ones)` mends
# that.
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
Markdown(words.ideas(steps))

# %% [markdown]
# Some of these deserve a sentence more.
#
# - **Rotation.** Principal components put what tells vectors apart first, so that a code may leave
#   out the rest. OPQ then turns the components so that the sub-vectors of a code share the variance
#   (Ge, He, Ke, Sun, "Optimized product quantization", TPAMI 2014).
# - **FastScan.** With 4 bits, the distance table of one piece of a code has 16 entries, which fit
#   one SIMD register (registers that hold many numbers, on which one instruction works at once)
#   when they are rounded to bytes: a look-up for 32 codes is one instruction (Andre, Kermarrec, Le
#   Scouarnec, "Cache locality is not enough", VLDB 2015).
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
save_table(result.points, output, "07_points", timed=True)
save_table(result.rungs, output, "07_ladder", timed=True)
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
Markdown(words.gains(result.rungs))

# %% [markdown]
# Some things on the ladder must hold on any machine, and are checked here.

# %%
words.checks(ds, result, tuned, k)

# %% [markdown]
# ## See what adaptive probing does
#
# A query close to a centroid finds its neighbours in a list or two; one between centroids needs
# many. Let c be the squared distance of a list's centroid, c_0 that of the nearest one, and r that
# of the last of the candidates found in the first lists. Adaptive probing leaves a list out where c
# - c_0 > margin * r: a query whose candidates are near stops early. Counted work shows whether it
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
index, at = words.stages(tuned, by_rule)
found = limits(index, ds.test, k, **at)
save_table(found.table, output, "07_limits", timed=True)
style.show(ladder_plots.stages(found.table), output, "07_limits")

# %% tags=["nbval-ignore-output"]
shown = ["stage", "ms", "share", "bytes_per_query", "products_per_query", "bound_ms", "bound_by"]
found.table[[*shown, "times_bound"]].set_index("stage").round(3)

# %% [markdown]
# ## Let it grow
#
# The same index on an eighth, a quarter, a half and all of the base, beside a strong composition of
# faiss's parts: principal components, a graph of near neighbours to walk along (HNSW) and exact
# re-ranking. Exponents are fitted on logarithms: 1 means "twice the vectors, twice the cost".

# %% tags=["nbval-ignore-output"]
grown = words.grow(ds, index, k, recall, growth_queries, seed)
fitted = slopes(grown)
save_table(grown, output, "07_growth", timed=True)
save_table(fitted, output, "07_slopes")
style.show(ladder_plots.growth(grown, fitted, recall), output, "07_growth")

# %% [markdown]
# ## Take it away
#
# `index.save` writes one file, with checksums; `pqlib.load_index` opens it anywhere the package is
# installed. The search defaults that `tune` found travel with it.

# %%
with tempfile.TemporaryDirectory() as folder:
    tuned.index.save(f"{folder}/vectors.pqlib")
    served = pqlib.load_index(f"{folder}/vectors.pqlib")
    distances, ids = served.search(ds.test, k)
print("same answers after loading:", bool((tuned.index.search(ds.test, k)[1] == ids).all()))

# %% tags=["nbval-ignore-output"]
reached = pqlib.recall_at_k(ids, ds, k)
Markdown(
    f"Asked for: recall@{k} of {recall:g}. Calibrated: "
    f"{tuned.best.recall:.4f}. On the {ds.nq:,} queries of {ds.name}, whose ground truth it has "
    f"not seen: **{reached:.4f}**."
)

# %% [markdown]
# ## What was found
#
# By rule, from the tables above.

# %% tags=["nbval-ignore-output"]
Markdown(words.findings(result, reached, recall))

# %% [markdown]
# Short codes alone stop short of high recall; whole vectors behind them lift it. Once codes are
# scanned in registers, the rest counts as well: rotating queries, ranking lists, bringing
# candidates from memory. The rung "stages in cache order" does all of it in loops of our own.
#
# ## Go on alone
#
# 1. Ask `pqlib.tune` for `objective="bytes"`. Which rung is its index nearest to?
# 2. Search with `index.settings` of recall 0.8 and of 0.99. Which stage of the limits grows most?
# 3. Take `queries=` from another data set of the same dimension. What does the report say?
#
# `make bench PEERS=1` compares with other libraries. [08 Meet the family](08_family.ipynb) compares
# product codes with other quantizers, at equal bits.
