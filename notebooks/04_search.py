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
# The base is now a few bytes a vector. This notebook finds neighbours among codes, without ever
# decoding one, and takes apart what is lost on the way.
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
# - Inverted lists (notebook 02) and product codes (notebook 03). The notebook runs alone.

# %%
import dataclasses

import numpy as np
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib import evaluation
from pqlib.study import save_table
from pqlib.study.plots import search as plots
from pqlib.study.plots import style

pd.set_option("display.width", 120, "display.max_columns", 20)

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
max_queries = 2000  # queries that are measured

# %%
ds = pqlib.load_dataset(dataset, n_train=n_train, n_test=n_test)
print(ds.describe())
default_inner, default_outer = pqlib.default_sizes(ds.n)
n_inner = n_inner or default_inner
n_outer = n_outer or max(1, round(n_inner**0.5))
queries = ds.test[:max_queries]
store = "uint8" if ds.whole_numbers else "float32"
print(f"\ninner clusters {n_inner}, outer clusters {n_outer}, {len(queries):,} queries measured")

# %% [markdown]
# Two indexes over one clustering: *shared* codebooks, one product quantizer for the residuals of
# all lists, and *per-cluster* ones, a product quantizer for each list. Both also keep the whole
# vectors, for the section on re-ranking; until then that store is left alone.

# %%
clustering = pqlib.two_level_kmeans(ds.train, n_inner, n_outer, seed=seed)
indexes = {
    mode: pqlib.MultiLevelPQ(
        ds.d,
        n_inner,
        n_outer,
        m=m,
        nbits=nbits,
        codebooks=mode,
        rerank=store,
        seed=seed,
        copy=False,
    ).train(ds.train, clustering)
    for mode in ("shared", "per-cluster")
}
for index in indexes.values():
    index.add(ds.train)
assignment = clustering.assign(ds.train)
print(indexes["per-cluster"].describe())

# %% [markdown]
# ## Follow one query
#
# The query $q$ probes the list of its nearest inner centroid $c$. A vector of that list is stored
# as the code of its residual $x - c$, so the query takes its own residual, $q - c$, uncompressed.
# Distances are the same: $\|q - x\|^2 = \|(q - c) - (x - c)\|^2$.

# %%
index = indexes["shared"]
query = queries[:1]
_, nearest = clustering.probe(query, 1)
cluster = int(nearest[0, 0])
residual = query - clustering.inner[cluster]
quantizer = index.quantizer(cluster)
positions, codes = index.list_content(cluster)
print(
    f"list {cluster} holds {len(positions):,} vectors; codes of {index.m} x {index.nbits} bits, "
    f"{index.code_bytes} bytes"
)

# %% [markdown]
# The residual is cut into m sub-vectors. Row j of the *distance table*, $T_j$, holds the squared
# distances of sub-vector j to all sub-centroids of codebook j. A code names one sub-centroid in
# each row, so its squared distance to the query is the sum of m entries:
#
# $$ \hat d(q, x)^2 = \sum_{j=1}^{m} T_j[\mathrm{code}_j(x)] $$
#
# Here $\mathrm{code}_j(x)$ is the j-th number of x's code, and $\hat d$ the estimate of the
# distance. The table is computed once for a probed list, then used for every code in it (Jégou,
# Douze, Schmid 2011, section 3.1).

# %%
table = quantizer.distance_table(residual)[0]
numbers = quantizer.unpack(codes)
sums = table[np.arange(index.m), numbers].sum(axis=1)
best = int(sums.argmin())
style.show(plots.distance_table(table, numbers[best]), output, "04_table")

# %% [markdown]
# The same sum the long way: decode the code, add the centroid, take the distance.

# %%
decoded = index.decode(codes, np.full(len(codes), cluster))
long_way = ((query.astype(np.float64) - decoded) ** 2).sum(axis=1)
agree = np.allclose(sums, long_way, rtol=1e-4, atol=1e-6 * float((query**2).sum()))
distances, ids = index.search(query, k, nprobe=1, rerank=False)
same = np.allclose(np.sort(sums)[: len(ids[0])], distances[0], rtol=1e-4)
print(f"look-ups agree with decoding: {agree}; the index returns the same distances: {same}")

# %% [markdown]
# ## Compare estimates with the truth
#
# The estimate is the exact distance to the wrong point: to the decoded vector instead of the
# vector. Each dot is a query and a vector from the lists it probes.

# %%
pairs = min(len(queries), 60)
_, probed = clustering.probe(queries[:pairs], min(4, n_inner))
rng = np.random.default_rng(seed)
true, estimated = [], {mode: [] for mode in indexes}
for row, lists in enumerate(probed):
    for c in map(int, lists[lists >= 0]):
        members = indexes["shared"].list_content(c)[0]
        if len(members) == 0:
            continue
        chosen = np.sort(rng.choice(len(members), size=min(20, len(members)), replace=False))
        vectors = ds.train[members[chosen]]
        true.append(np.sqrt(((queries[row].astype(np.float64) - vectors) ** 2).sum(axis=1)))
        for mode, index in indexes.items():
            decoded = index.decode(index.list_content(c)[1][chosen], np.full(len(chosen), c))
            gap = queries[row].astype(np.float64) - decoded
            estimated[mode].append(np.sqrt((gap**2).sum(axis=1)))
true = np.concatenate(true)
estimated = {mode: np.concatenate(values) for mode, values in estimated.items()}
style.show(plots.estimates(true, estimated), output, "04_estimates")
quality = pd.DataFrame(
    {
        mode: {
            "mean estimate / mean true distance": values.mean() / true.mean(),
            "correlation": np.corrcoef(true, values)[0, 1],
            "root mean squared error / mean distance": np.sqrt(((values - true) ** 2).mean())
            / true.mean(),
        }
        for mode, values in estimated.items()
    }
)
save_table(quality.rename_axis("measure").reset_index(), output, "04_estimates")
quality.round(3)

# %%
bias = quality.loc["mean estimate / mean true distance"]
Markdown(
    "On average the estimates are "
    + " and ".join(
        f"{abs(1 - value):.1%} too {'small' if value < 1 else 'large'} with {mode} codebooks"
        for mode, value in bias.items()
    )
    + ". A decoded vector is the mean of its cell; how far the vectors of the cell spread around "
    "it is missing from the squared distance, which is too short by that on average (Jégou et al. "
    "2011, section 3.3). For ranking, only differences between vectors matter."
)

# %% [markdown]
# ## See where the true neighbours stand
#
# With every list probed, nothing but the codes decides. How far down the order of the estimates
# must one go to meet the true neighbours?

# %%
depth = min(ds.n, 500)
few = queries[: min(len(queries), 200)]
standing = {}
for mode, index in indexes.items():
    _, ids = index.search(few, depth, nprobe=n_inner, rerank=False)
    right = evaluation.hits(ids, ds, k)
    standing[mode] = np.minimum(right.cumsum(axis=1), k).mean(axis=0) / k
style.show(plots.ranks(standing, depth), output, "04_ranks")
Markdown(
    "; ".join(
        f"{mode}: {share[k - 1]:.0%} of the true {k} stand among the first {k}, "
        f"{share[-1]:.0%} among the first {depth}"
        for mode, share in standing.items()
    )
    + "."
)

# %% [markdown]
# ## Search through both levels
#
# `search` ranks the outer centroids, keeps `nprobe_outer`; ranks their inner centroids, keeps
# `nprobe`; builds a table for each of those lists and scans its codes. Its work is counted:
# distances to centroids of both levels, tables ($2^{nbits}$ distances each), and codes.
#
# With shared codebooks, a query pays for one table only. For a code that decodes to $\hat r$,
#
# $$ \|q - c - \hat r\|^2
#    = \|q - c\|^2 + \left(\|\hat r\|^2 + 2\,c^T \hat r\right) - 2\,q^T \hat r $$
#
# The first term is the distance to the centroid, known from probing. The bracket does not depend on
# the query: its sums over the m pieces are a table for each list that is computed in advance, the
# *precomputed tables*. The last term does not depend on the list: one table for the query. With
# per-cluster codebooks $\hat r$ is another in each list, so each needs its own table.
#
# What comes of it is measured as *recall@k*: the share of the true k nearest neighbours among the k
# that are returned.

# %%
probes = [p for p in (1, 2, 4, 8, 16) if p <= n_inner]
choices = sorted({1, round(n_outer / 4), round(n_outer / 2)} & set(range(1, n_outer)))
rows = []
for mode, index in indexes.items():
    for outer in [None, *choices]:
        for p in probes:
            options = dict(nprobe=p, nprobe_outer=outer, rerank=False)
            _, ids = index.search(queries, k, **options)
            cost = index.search_cost(queries, k, **options)
            rows.append(
                {
                    "codebooks": mode,
                    "probing": "flat" if outer is None else f"{outer} of {n_outer} outer",
                    "nprobe": p,
                    "recall": pqlib.recall_at_k(ids, ds, k),
                    "distance_computations": sum(c.mean() for c in cost.values()),
                }
            )
searches = pd.DataFrame(rows)
save_table(searches, output, "04_search")
style.show(plots.multilevel(searches, k), output, "04_multilevel")
searches.pivot(index=["codebooks", "probing"], columns="nprobe", values="recall").round(3)

# %% [markdown]
# ## Re-rank the best candidates
#
# Estimates are good enough to find candidates, if not to order them. *Re-ranking* takes the best
# `rerank_factor * k` and computes exact distances from a store of whole vectors. Where the data
# are whole numbers 0..255, the store is uint8 and loses nothing at a quarter of float32's memory.

# %%
middle = probes[min(3, len(probes) - 1)]
rows = []
for mode, index in indexes.items():
    for factor in (0, 1, 2, 4, 8, 16):
        _, ids = index.search(
            queries, k, nprobe=middle, rerank_factor=max(1, factor), rerank=factor > 0
        )
        recall = pqlib.recall_at_k(ids, ds, k)
        rows.append({"codebooks": mode, "rerank_factor": factor, "recall": recall})
reranked = pd.DataFrame(rows)
_, keys = clustering.probe(queries, n_inner)
limits = evaluation.routing_recall(ds, k, keys, assignment)
save_table(reranked.assign(nprobe=middle, limit=limits[middle - 1]), output, "04_rerank")
style.show(plots.rerank(reranked, limits[middle - 1], k), output, "04_rerank")
reranked.pivot(index="codebooks", columns="rerank_factor", values="recall").round(3)

# %% [markdown]
# A factor of 1 changes no recall: the same k vectors are returned in a better order. More
# candidates approach the limit that the probed lists set.
#
# ## Split what is missing
#
# A true neighbour can be missed in two ways. *Routing loss*: it lies in no probed list.
# *Quantization loss*: it lies in one, and its code ranked it out. Recall and the two losses add up
# to 1. This answers a common question about such indexes: why is recall below 1 although every list
# is probed?

# %%
splits = {}
values = [p for p in (1, 2, 4, 8, 16, 32) if p <= n_inner]
for name, mode, options in (
    ("PQ shared", "shared", dict(rerank=False)),
    ("PQ per cluster", "per-cluster", dict(rerank=False)),
    ("per cluster, re-ranked", "per-cluster", dict(rerank_factor=8)),
):
    rows = []
    for p in values:
        _, ids = indexes[mode].search(queries, k, nprobe=p, **options)
        rows.append({"nprobe": p} | evaluation.loss_split(ids, ds, k, keys[:, :p], assignment))
    splits[name] = pd.DataFrame(rows)
style.show(plots.losses(splits, k), output, "04_losses")
together = pd.concat(splits, names=["method"]).reset_index("method")
save_table(together, output, "04_losses")
together.set_index(["method", "nprobe"]).round(3)

# %%
_, ids = indexes["shared"].search(queries, k, nprobe=n_inner, rerank=False)
everything = evaluation.loss_split(ids, ds, k, keys, assignment)
Markdown(
    f"With all {n_inner} lists probed and shared codebooks, routing loses "
    f"{everything['routing']:.3f} and recall@{k} is still {everything['recall']:.3f}: the missing "
    f"{everything['quantization']:.3f} are in the lists and ranked out by their codes. More "
    "probes cannot bring them back; more bytes or re-ranking can."
)

# %% [markdown]
# ## Watch recall fall as nprobe grows
#
# More lists bring more true neighbours, and more vectors whose estimates are wrong in their favour.
# With a fixed number of places, these can push a true neighbour out. If `nprobe_outer` stays as it
# is and *every* scanned candidate is compared exactly, recall cannot fall: the exact best of more
# vectors are at least as good. Queries that lose by their codes are searched again in that way.

# %%
index = indexes["shared"]
fewer, more = probes[0], probes[-1]
by_query = {
    p: evaluation.query_recall(index.search(queries, k, nprobe=p, rerank=False)[1], ds, k)
    for p in (fewer, more)
}
fell = by_query[more] < by_query[fewer]
print(
    f"estimates only, nprobe {fewer} to {more}: recall falls for {fell.sum()} of "
    f"{len(queries)} queries and rises for {(by_query[more] > by_query[fewer]).sum()}"
)
# A few of those that lost, with every candidate compared exactly.
part = np.flatnonzero(fell)[:30]
scanned = index.search_cost(queries[part], k, nprobe=more, rerank=False)["codes"].max(initial=k)
subset = dataclasses.replace(
    ds, test=ds.test[part], neighbors=ds.neighbors[part], distances=ds.distances[part]
)
before, after = (
    evaluation.query_recall(
        index.search(subset.test, k, nprobe=p, rerank_factor=-(-int(scanned) // k))[1], subset, k
    )
    if len(part)
    else np.zeros(0)
    for p in (fewer, more)
)
print(
    f"{len(part)} of those that fell, all candidates re-ranked: recall falls for "
    f"{(after < before).sum()} and rises for {(after > before).sum()}"
)

# %%
if fell.any():
    worst = int(np.argmax(by_query[fewer] - by_query[more]))
    sentence = (
        f"Query {worst}: recall@{k} is {by_query[fewer][worst]:.1f} with nprobe {fewer} and "
        f"{by_query[more][worst]:.1f} with nprobe {more}."
    )
else:
    sentence = "No query of this data set loses recall that way here."
Markdown(sentence)

# %% [markdown]
# ## Next
#
# [05 Evaluate every method side by side](05_evaluation.ipynb) puts these indexes beside brute force
# and k-means search: recall, speed and memory.
