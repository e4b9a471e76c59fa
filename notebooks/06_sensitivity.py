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
# # Study sensitivity to every parameter
#
# An index has a handful of numbers to choose. This notebook turns them one at a time, then all
# together, and shows what recall, work, speed and memory answer.
#
# ## What you'll do
#
# - Turn each knob alone, the others held, and draw all of them on one page.
# - Measure a full design: every combination of clusters, codes, codebooks, probes and re-ranking.
# - Ask which knob matters most, and from which cluster size on codebooks per cluster pay.
#
# ## What you'll learn
#
# - Which knobs buy recall with memory, which with time.
# - What a share of variance is, and why it belongs to a design.
# - Why "at equal code size" and "at equal memory" give opposite answers.
#
# ## What you'll need
#
# - Notebook 02 for lists and probing, 03 and 04 for codes and searching with them, 05 for what is
#   measured and how sure it is. The notebook runs alone.

# %%
from IPython.display import Markdown

from pqlib import evaluation
from pqlib.study import findings, knobs, save_table
from pqlib.study.notebook import open_study
from pqlib.study.plots import sensitivity as plots
from pqlib.study.plots import style
from pqlib.study.sensitivity import Study

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
budget = 3e12  # multiplications that one configuration may spend on training its codebooks
k = 10  # neighbours asked for
seed = 0
output = None  # folder for this run's figures and results; None: only show them
resume = None  # folder that keeps what was measured, for a run that was cut off to go on; or None

# %%
ds = open_study(dataset, n_train, n_test).ds
study = Study(ds, k, nq=1000, max_train=10_000, seed=seed, budget=budget, resume=resume)
print("\n" + study.describe())

# %% [markdown]
# ## Vary what is probed
#
# A knob is turned by building an index, searching it and writing down what it finds and costs. For
# a single point these are two lines:

# %%
index = study.index(study.n_inner, codebooks="shared", m=study.m, nbits=8)
study.measure(index, nprobe=4)

# %% [markdown]
# A *sweep* repeats them for every value of a knob and returns a table. All sweeps share one
# clustering for each number of inner clusters, so that a difference between two rows comes from the
# knob alone. First the number of lists probed. The dashed line is the limit that routing sets: what
# codes without any error would find in the same lists.

# %%
probing = knobs.probes(study)
machine = evaluation.machine()
save_table(probing.assign(**machine), output, "06_nprobe")
probing = findings.measured(probing, "codebooks", "nprobe")
style.show(plots.probes(probing, k), output, "06_nprobe")

# %% [markdown]
# ### Inner clusters
#
# More clusters make shorter lists and smaller residuals, and more centroids to compare with. The
# shared codebook is trained on residuals of the same vectors for all. At equal work, which line is
# highest?

# %%
inner = knobs.inner_clusters(study)
save_table(inner, output, "06_inner")
style.show(plots.inner_clusters(inner, k), output, "06_inner")
Markdown(findings.at_equal_work(inner, k))

# %% [markdown]
# ### Outer clusters
#
# With the inner clusters and nprobe held, the outer level decides how many centroids are compared
# with the query. Only these are counted here. Ranking few outer clusters saves distances, and may
# lose lists that flat probing, which ranks all centroids, would have found.

# %%
outer = knobs.outer_clusters(study)
save_table(outer, output, "06_outer")
flat = (outer.flat_recall.iloc[0], outer.flat_distances.iloc[0])
style.show(plots.outer_clusters(outer, k, flat), output, "06_outer")
Markdown(findings.second_level(outer))

# %% [markdown]
# ## Vary the code: m and nbits
#
# A code has m numbers of nbits bits. One more bit doubles the sub-centroids, and with them training
# time, tables and codebooks. A larger m leaves the codebooks' size as it was; it lengthens the
# tables and the sum of m look-ups that is a distance. Five pairs (m, nbits) are those of the
# sketch, this study's first draft. Where m does not divide d, or a code cannot be trained, its row
# says why.

# %%
sketched = [(2, 8), (4, 8), (8, 8), (4, 4), (4, 16)]
codes = knobs.codes(study, sketched)
save_table(codes.assign(**machine), output, "06_codes")
trained = findings.measured(codes, "codebooks", "nbits", "m")

# %% [markdown]
# *clusters_on_shared* counts clusters too small for codebooks of their own, which use the shared
# ones.

# %%
shown = ["recall", "code_bytes", "bytes_per_vector", "clusters_on_shared"]
trained.set_index(["codebooks", "nbits", "m"])[shown].round(3)

# %% [markdown]
# How long would 16 bits take? The rate at which this machine trains a small codebook tells the
# order of magnitude:

# %% tags=["nbval-ignore-output"]
Markdown(findings.sixteen_bits(study))

# %% [markdown]
# The same measurements against two sizes: on the left the code alone, as most papers count; on the
# right everything the index holds. A codebook for each cluster moves to the right by its weight.

# %%
style.show(plots.code_size(codes, k), output, "06_code_size")
Markdown(findings.best_codes(codes, k))

# %% [markdown]
# Speed does not follow from the counts alone. A distance is a sum of m look-ups, so it tends to
# fall with m. A code of 8 bits is read byte by byte, where numbers of 4 or 6 bits must first be cut
# out.

# %% tags=["nbval-ignore-output"]
style.show(plots.speed(codes, k), output, "06_speed")

# %% [markdown]
# Two pairs of knobs in full, with shared codebooks: what a code is made of, and how lists are made
# and probed.

# %%
grid = trained[(trained.codebooks == "shared") & trained.m.isin(study.tried_m)]
left = grid[grid.nbits <= 8].pivot(index="nbits", columns="m", values="recall")
right = inner.pivot(index="n_inner", columns="nprobe", values="recall")
style.show(plots.grids(left, right, k), output, "06_grids")

# %% [markdown]
# ## Vary what is trained on, and what is re-ranked
#
# How many vectors have to be seen for good centroids and codebooks? Here the number limits
# codebooks per cluster too, which elsewhere see the whole base: these points lie lower. And how
# many candidates have to be looked at again, exactly, to make up for what codes confuse?

# %%
training, reranked = knobs.training(study), knobs.reranking(study)
two_level = knobs.outer_probes(study)
save_table(training, output, "06_training")
save_table(reranked, output, "06_rerank")
save_table(two_level, output, "06_nprobe_outer")
findings.measured(training, "codebooks", "n_train")
reranked.pivot(index="rerank_factor", columns="codebooks", values="recall").round(3)

# %% [markdown]
# ## See all knobs on one page
#
# Each panel turns one knob and holds the others at the ringed values (but where n_outer is turned,
# a third of the outer clusters is probed, and elsewhere all). Steps along an axis are not to scale.
# Bands and bars are 95% intervals over queries, mostly narrower than the markers. Points of a panel
# were measured on the same queries, so differences between them are surer than the bars look.

# %%
alone = knobs.one_at_a_time(study, codes, probing, inner, training, reranked, two_level)
save_table(alone, output, "06_one_at_a_time")
style.show(plots.one_at_a_time(alone, k, ds.n), output, "06_one_at_a_time")
span = alone.groupby(["knob", "codebooks"], sort=False).recall.agg(["min", "max"])
span.assign(span=span["max"] - span["min"]).round(3)

# %% [markdown]
# ## Turn all knobs together
#
# Six knobs, two levels each, in all 64 combinations. Numbers are turned by a factor of about four,
# half and double of what was held (lists probed: a quarter of it and all), bits from four to eight.

# %%
design, levels = knobs.full_design(study)
save_table(design, output, "06_design")
done = design[design.status == "ok"]
print(f"{len(done):,} points measured, {len(design) - len(done):,} codes not trained")
for name, values in levels.items():
    print(f"  {name}: {', '.join(map(str, values))}")

# %% [markdown]
# How much of the variance of recall over this design does a knob explain? *Alone*: the variance of
# the means of its levels, everything else averaged over. *With others*: the mean variance over its
# levels with everything else held, which adds what it does only in company. What two knobs do
# together counts for both, so these add up to more than the whole. Work and memory are taken as
# logarithms, since knobs multiply them. The shares belong to this data set and to these levels:
# turn a knob farther and its share grows.

# %%
shares, dropped = knobs.importance(design, list(levels))
save_table(shares, output, "06_importance")
if dropped:
    print("left out, as not all of their combinations could be trained:", ", ".join(dropped))
style.show(plots.importance(shares), output, "06_importance")
shares.pivot(index="factor", columns="response", values=["main", "total"]).round(3)

# %% [markdown]
# ## Find the cluster size from which codebooks per cluster pay
#
# Each set of codebooks weighs $2^{nbits} \cdot d \cdot 4$ bytes, shared among the vectors of its
# cluster. With few vectors, a shared code could be much longer for the same memory. So, over ever
# larger clusters: the per-cluster code, and the best shared code over the same lists whose index
# takes no more memory in all.

# %%
paired = knobs.crossing(study, codes)
save_table(paired, output, "06_crossing")
shown = ["bytes_per_vector", "recall", "shared_m", "shared_nbits", "shared_recall", "gain"]
paired.set_index(["nbits", "vectors_per_cluster"]).sort_index()[shown].round(3)

# %%
style.show(plots.crossing(paired.dropna(subset=["gain"]), k), output, "06_crossing")

# %% [markdown]
# ## What this notebook found

# %%
Markdown(findings.ranking(shares) + "\n\n" + findings.pays_from(paired))

# %% [markdown]
# ## Go on alone
#
# - Raise `n_train` in steps. Which knobs keep their rank, and which do not?
# - Give `Study` an `nprobe` of 32. What does a longer code buy then?
# - Which cell of the grids has the highest recall for one byte of memory?
#
# [07 Climb to the state of the art](07_ladder.ipynb) adds one idea at a time, up to an index that
# `pqlib.tune` chooses.
