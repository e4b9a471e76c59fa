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
# # Search with the codes
#
# A base vector is now a few bytes, its code. This notebook finds neighbours among codes without
# decoding any, and takes apart what is lost on the way.
#
# ## What you'll do
#
# - Follow one query: its residual, its distance table, a code's path through the table.
# - Compare estimated with true distances.
# - Search through both levels, re-rank, and split what is missed into its two causes.
#
# ## What you'll learn
#
# - Why a distance to a code is a sum of look-ups (*asymmetric distance computation*, ADC).
# - What re-ranking repairs and what it cannot.
# - Why probing every list still does not give recall 1.
#
# ## What you'll need
#
# - k-means. Lists (notebook 02) and codes (03) are explained in short. The notebook runs alone.

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown
from scipy.spatial.distance import cdist

import pqlib
from pqlib import evaluation
from pqlib.study import open_study, save_table, searching
from pqlib.study.plots import search as plots
from pqlib.study.plots import style

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
k = 10  # neighbours asked for
m = None  # numbers of a code; None: the largest divisor of d that is at most 8
seed = 0
output = None  # folder for this run's figures and results; None: only show them

# %% [markdown]
# ## Follow one query
#
# k-means puts the base into *lists*, one for each *inner* centroid (notebook 02). What is left of a
# vector $x$ less its centroid $c$ is its *residual* $x - c$. A *product code* cuts the residual
# into m pieces. For each piece there is a *codebook*, made by another k-means, and the code holds
# the number of the nearest *sub-centroid* in it (notebook 03). Here all lists *share* the m
# codebooks.

# %%
study = open_study(dataset, n_train, n_test)
ds, n_inner, n_outer = study.ds, study.n_inner, study.n_outer
queries = ds.test[: searching.QUERIES]
clustering = pqlib.two_level_kmeans(ds.train, n_inner, n_outer, seed=seed)


def index_of(codebooks):
    # Whole vectors are kept too, for re-ranking.
    options = dict(m=m, codebooks=codebooks, rerank=study.store, seed=seed, copy=False)
    index = pqlib.MultiLevelPQ(ds.d, n_inner, n_outer, **options)
    return index.train(ds.train, clustering).add(ds.train)


shared = index_of("shared")

# %% [markdown]
# The query $q$ *probes* the list of its nearest centroid. It takes its own residual, $q - c$,
# uncompressed, since distances stay the same: $\|q - x\|^2 = \|(q - c) - (x - c)\|^2$.
#
# Row j of the *distance table*, $T_j$, holds the squared distances of the j-th piece of $q - c$ to
# all sub-centroids of codebook j. A code names one sub-centroid in each row. So the squared
# distance to what the code stands for is the sum of m entries:
#
# $$ \hat d(q, x)^2 = \sum_{j=1}^{m} T_j[\mathrm{code}_j(x)] $$
#
# Here $\mathrm{code}_j(x)$ is the j-th number of x's code, $\hat d$ the estimate. One table serves
# all codes of the list (Jégou, Douze, Schmid 2011, section 3.1). Below, the code of smallest sum.

# %%
query = queries[:1]
_, probed = clustering.probe(query, 1)
cluster = int(probed[0, 0])
residual = query - clustering.inner[cluster]
positions, codes = shared.list_content(cluster)
quantizer = shared.quantizer(cluster)
table = quantizer.distance_table(residual)[0]
numbers = quantizer.unpack(codes)
sums = table[np.arange(shared.m), numbers].sum(axis=1)
style.show(plots.distance_table(table, numbers[sums.argmin()]), output, "04_table")

# %% [markdown]
# The nearest codes of the list. Decoding a code and measuring gives the same, the long way.
# It is an *estimate*: the true distance is that to the vector itself.

# %%
decoded = shared.decode(codes, np.full(len(codes), cluster))
long_way = cdist(query, decoded)[0]
first = np.argsort(sums, kind="stable")[: min(5, k)]
distances, _ = shared.search(query, len(first), nprobe=1, rerank=False)
ways = {
    "sum of look-ups": np.sqrt(sums[first]),
    "to the decoded vector": long_way[first],
    "by the index": np.sqrt(distances[0]),
    "to the vector itself": cdist(query, ds.train[positions[first]])[0],
}
named = [" ".join(map(str, code)) for code in numbers[first]]
agree = np.allclose(np.sqrt(sums), long_way, rtol=1e-4, atol=1e-3 * np.linalg.norm(query))
print(f"{len(codes)} codes of {shared.code_bytes} bytes; look-ups agree with decoding: {agree}")
pd.DataFrame({"code": named, **ways}).map(lambda x: f"{x:.4g}" if isinstance(x, float) else x)

# %% [markdown]
# ## Compare estimates with the truth
#
# The estimate is the exact distance to the wrong point: to the decoded vector instead of the
# vector. How wrong it is depends on the codebooks. A second index over the same lists has codebooks
# *per cluster*, trained on the residuals of each list alone. Each dot is a query and a vector from
# the lists it probes.

# %%
indexes = {"shared": shared, "per-cluster": index_of("per-cluster")}
pairs = searching.pairs(ds, indexes, seed)
true, guesses = pairs.true, pairs[list(indexes)]
style.show(plots.estimates(true, dict(guesses)), output, "04_estimates")
error = (guesses.sub(true, axis=0) ** 2).mean() ** 0.5
measures = {
    "mean estimate / mean true distance": guesses.mean() / true.mean(),
    "correlation": guesses.corrwith(true),
    "root mean squared error / mean distance": error / true.mean(),
}
quality = pd.DataFrame(measures).T
save_table(quality.rename_axis("measure").reset_index(), output, "04_estimates")
quality.round(3)

# %%
bias = quality.loc["mean estimate / mean true distance"]
said = [
    f"{abs(1 - b):.1%} too {'small' if b < 1 else 'large'} ({mode})" for mode, b in bias.items()
]
Markdown(
    f"On average the estimates are {' and '.join(said)}. A decoded vector is the mean of its cell; "
    "how far the vectors of the cell spread around it is missing from the squared distance, which "
    "is too short by that on average (Jégou et al. 2011, section 3.3)."
)

# %% [markdown]
# ## See where the true neighbours stand
#
# With every list probed, nothing but the codes decides. How far down the order of the estimates
# must one go to meet the true neighbours?

# %%
depth, standing = min(ds.n, 500), {}
for mode, index in indexes.items():
    _, ids = index.search(queries[:200], depth, nprobe=n_inner, rerank=False)
    right = evaluation.hits(ids, ds, k)  # True where a true neighbour stands
    standing[mode] = np.minimum(right.cumsum(axis=1), k).mean(axis=0) / k
style.show(plots.ranks(standing, depth), output, "04_ranks")
shown = sorted({k, depth})
pd.DataFrame(standing).T.set_axis(range(1, depth + 1), axis=1)[shown].round(3)

# %% [markdown]
# ## Search through both levels
#
# The centroids are clustered again: each *outer* centroid stands for several inner ones. `search`
# ranks the outer centroids, keeps `nprobe_outer`; ranks their inner centroids, keeps `nprobe`;
# builds a table for each of those lists and scans its codes. Its work is counted: distances to
# centroids of both levels, tables ($2^{nbits}$ distances each), and codes. What comes of it is
# *recall@k*: the share of the true k nearest neighbours among the k that are returned.

# %%
options = dict(nprobe=min(4, n_inner), nprobe_outer=max(1, n_outer // 2), rerank=False)
for mode, index in indexes.items():
    _, ids = index.search(queries, k, **options)
    cost = index.search_cost(queries, k, **options)
    counts = ", ".join(f"{stage} {count.mean():,.0f}" for stage, count in cost.items())
    print(f"{mode}: recall@{k} {pqlib.recall_at_k(ids, ds, k):.3f}; {counts}")

# %% [markdown]
# With shared codebooks, a query pays for one table only. For a code that decodes to $\hat r$,
#
# $$ \|q - c - \hat r\|^2
#    = \|q - c\|^2 + \left(\|\hat r\|^2 + 2\,c^T \hat r\right) - 2\,q^T \hat r $$
#
# The first term is the distance to the centroid, known from probing. The bracket does not depend on
# the query: its sums over the m pieces are a table for each list that is computed in advance, the
# *precomputed tables*. The last term does not depend on the list: one table for the query. With
# per-cluster codebooks $\hat r$ is another in each list, so each needs its own table.

# %%
probes = [p for p in (1, 2, 4, 8, 16, 32) if p <= n_inner]
searches = searching.through_levels(ds, indexes, k, probes[:5])
save_table(searches, output, "04_search")
style.show(plots.multilevel(searches, k), output, "04_multilevel")
searches.pivot(index=["codebooks", "probing"], columns="nprobe", values="recall").round(3)

# %% [markdown]
# ## Re-rank the best candidates
#
# Estimates are good enough to find candidates, if not to order them. *Re-ranking* takes the best
# `rerank_factor * k` and computes exact distances from a store of whole vectors. Where the data
# are whole numbers 0..255, the store is uint8 and loses nothing at a quarter of float32's memory.
# No re-ranking finds more than the probed lists hold: that is the limit.

# %%
middle = probes[min(3, len(probes) - 1)]
again = searching.reranked(ds, indexes, k, middle)
_, keys = clustering.probe(queries, n_inner)
home = clustering.assign(ds.train)
limit = evaluation.routing_recall(ds, k, keys[:, :middle], home)[-1]
save_table(again.assign(nprobe=middle, limit=limit), output, "04_rerank")
style.show(plots.rerank(again, limit, k), output, "04_rerank")
again.pivot(index="codebooks", columns="rerank_factor", values="recall").round(3)

# %% [markdown]
# A factor of 1 changes no recall: the same k vectors return, in a better order.
#
# ## Split what is missing
#
# A true neighbour can be missed in two ways. *Routing loss*: it lies in no probed list.
# *Quantization loss*: it lies in one, and its code ranked it out. Recall and the two losses add up
# to 1. This answers a common question about such indexes: why is recall below 1 although every list
# is probed?

# %%
_, ids = shared.search(queries, k, nprobe=n_inner, rerank=False)
everything = evaluation.loss_split(ids, ds, k, keys, home)
Markdown(
    f"With all {n_inner} lists probed and shared codebooks, routing loses "
    f"{everything['routing']:.3f} and recall@{k} is still {everything['recall']:.3f}: the missing "
    f"{everything['quantization']:.3f} are ranked out by their codes. No probe brings them back."
)

# %%
local = indexes["per-cluster"]
splits = {
    "PQ shared": searching.split(ds, shared, k, probes, rerank=False),
    "PQ per cluster": searching.split(ds, local, k, probes, rerank=False),
    "per cluster, re-ranked": searching.split(ds, local, k, probes, rerank_factor=8),
}
style.show(plots.losses(splits, k), output, "04_losses")
together = pd.concat(splits, names=["method"]).reset_index("method")
save_table(together, output, "04_losses")
together.set_index(["method", "nprobe"]).round(3)

# %% [markdown]
# ## Watch recall fall as nprobe grows
#
# More lists bring more true neighbours, and more vectors whose estimates are wrong in their favour.
# With a fixed number of places, these can push a true neighbour out. If `nprobe_outer` stays as it
# is and *every* scanned candidate is compared exactly, recall cannot fall: the exact best of more
# vectors are at least as good. Queries that lose by their codes are searched again in that way.

# %%
ends = probes[0], probes[:5][-1]
found = [shared.search(queries, k, nprobe=p, rerank=False)[1] for p in ends]
fewer, more = (evaluation.query_recall(ids, ds, k) for ids in found)
fell = np.flatnonzero(more < fewer)
print(
    f"estimates only, nprobe {ends[0]} to {ends[1]}: recall falls for {len(fell)} of "
    f"{len(queries)} queries and rises for {(more > fewer).sum()}"
)
before, after = searching.all_exact(ds, shared, k, fell[:30], ends)
print(
    f"{len(before)} of those that fell, all candidates re-ranked: recall falls for "
    f"{(after < before).sum()} and rises for {(after > before).sum()}"
)
if len(fell):
    worst = int(np.argmax(fewer - more))
    print(f"Query {worst}: recall@{k} {fewer[worst]:.1f}, then {more[worst]:.1f} by estimates")

# %% [markdown]
# ## Sum up

# %%
Markdown(searching.in_short(quality, searches, again, limit, everything, k))

# %% [markdown]
# ## Go on alone
#
# - Set `m` to twice as many numbers. Which of the two losses shrinks?
# - At which `rerank_factor` do shared codebooks find as much as those per cluster do with 2?
# - Follow another query. Is the code with the smallest sum its nearest neighbour?
#
# [05 Evaluate every method side by side](05_evaluation.ipynb) adds recall, speed and memory.
