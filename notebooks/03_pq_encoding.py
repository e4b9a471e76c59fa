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
# # Compress residuals with product codes
#
# A *product code* turns a vector of hundreds of numbers into a few bytes, and back into something
# near the vector. This notebook shows what such a code is, what it keeps, and what it costs.
#
# ## What you'll do
#
# - Draw a product code in two dimensions, beside k-means.
# - Encode residuals and look at vectors rebuilt from 2, 4, 8 and more bytes.
# - Measure the error on vectors that the codebooks were trained on, and on others.
# - Give each cluster codebooks of its own, and count what they weigh.
#
# ## What you'll learn
#
# - How 8 bytes can name one of $2^{64}$ points without a list of them.
# - When it pays to code what the centroid leaves over rather than the vector.
# - When codebooks memorize, and when they outweigh the codes.
#
# ## What you'll need
#
# - k-means and NumPy. [02 Cluster it twice](02_clustering.ipynb) explains the two levels of
#   clusters; this notebook runs alone.

# %%
import faiss
import numpy as np
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib.clustering import kmeans, sample_rows
from pqlib.quantizers import code_entropy, mean_squared_error
from pqlib.study import save_table
from pqlib.study.plots import data as data_plots
from pqlib.study.plots import encoding as plots
from pqlib.study.plots import style

pd.set_option("display.width", 120, "display.max_columns", 20)

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
seed = 0
output = None  # folder for this run's figures and results; None: only show them
n_inner = None  # inner clusters; None: sqrt(n / 6)
n_outer = None  # outer clusters; None: sqrt(n_inner)
ms = None  # numbers of sub-quantizers; None: divisors of d near 2, 4, 8, ... up to d / 8
local_ms = None  # the same for codebooks of each cluster; None: two of ms
nbits = 8  # bits of one sub-quantizer
n_codebook = 15_000  # vectors that codebooks are trained on, at most
n_cluster_train = 50_000  # vectors that the clusters are trained on, at most

# %%
ds = pqlib.load_dataset(dataset, n_train=n_train, n_test=n_test)
print(ds.describe())
default_inner, _ = pqlib.default_sizes(ds.n)
n_inner = n_inner or default_inner
n_outer = n_outer or max(1, round(n_inner**0.5))
if ms is None:
    divisors = np.array([m for m in range(1, ds.d + 1) if ds.d % m == 0 and m * 8 <= ds.d])
    near = [divisors[np.abs(np.log2(divisors / 2**i)).argmin()] for i in range(1, 7)]
    ms = sorted({int(m) for m in near})
ksub = 2**nbits
m = max((v for v in ms if v <= 8), default=min(ms))
local_ms = local_ms or [v for v in ms if v <= m][-2:]
print(f"\ninner clusters {n_inner}, outer clusters {n_outer}")
print(f"sub-quantizers {ms}, of {nbits} bits; per cluster {local_ms}; examples with {m}")

# %% [markdown]
# ## Leave some vectors out
#
# Codebooks are learnt from vectors. To see how they do on others, a tenth of the base is *held
# out*: neither the clusters nor the codebooks see it. Queries are a third kind of vectors.

# %%
order = np.random.default_rng(seed).permutation(ds.n)
held_rows = np.sort(order[: ds.n // 10])
fit_rows = np.sort(order[ds.n // 10 :])
cluster_rows = fit_rows[sample_rows(len(fit_rows), n_cluster_train, seed)]
clustering = pqlib.two_level_kmeans(
    ds.train[cluster_rows], n_inner, n_outer, max_train=None, seed=seed
)
assignment = clustering.assign(ds.train)

# Three samples, of vectors (x), their clusters (a) and what the centroids leave over (r).
trained_rows = fit_rows[sample_rows(len(fit_rows), n_codebook, seed)]
some_held = held_rows[sample_rows(len(held_rows), n_codebook, seed)]
some_queries = ds.test[sample_rows(ds.nq, n_codebook, seed)]
x = {"trained": ds.train[trained_rows], "held out": ds.train[some_held], "queries": some_queries}
a = {
    "trained": assignment[trained_rows],
    "held out": assignment[some_held],
    "queries": clustering.assign(some_queries),
}
r = {kind: x[kind] - clustering.inner[a[kind]] for kind in x}
pd.DataFrame({"vectors": {kind: f"{len(v):,}" for kind, v in x.items()}})

# %% [markdown]
# ## Take the residual
#
# k-means already says roughly where a vector is: near the centroid c of its cluster. What is left
# is the *residual*, $r = x - c$. Residuals of all clusters lie around zero, and spread less than
# the vectors did. What spreads less should take fewer bits to describe equally well (Jégou, Douze,
# Schmid, TPAMI 2011, section 4); whether it does is measured below.
#
# Errors are given as the share of the *variance* that is lost: the mean squared distance between
# a vector and what it was replaced by, over the mean squared distance of the vectors to their
# overall mean. Replacing all vectors by their mean loses 100 %.

# %%
variance = float(x["trained"].var(axis=0, dtype=np.float64).sum())


def lost(vectors, decoded):
    """Return the share of the variance lost when vectors are replaced by decoded ones."""
    return mean_squared_error(vectors, decoded) / variance


centroid_only = {kind: lost(x[kind], clustering.inner[a[kind]]) for kind in x}
Markdown(
    f"Replaced by their centroid alone, held-out vectors lose "
    f"**{centroid_only['held out']:.1%}** of the variance. The {n_inner} centroids explain "
    f"{1 - centroid_only['held out']:.1%}. The cluster number costs nothing extra: a vector is "
    f"stored in its cluster's list, and its place says which one."
)

# %% [markdown]
# ## Draw a code in two dimensions
#
# Now code the residuals. *k-means* could do that too: make $2^b$ centroids and store the number of
# the nearest, in b bits. The points that share a centroid form its *cell*.
#
# A *product code* (Jégou, Douze, Schmid, TPAMI 2011, section 2) makes cells another way. It cuts
# the space into parts, here the two axes, and runs k-means in each part. A cell is then a pair:
# one interval of the first axis, one of the second. Its cells form a grid. It needs only the
# centroids of the parts, far fewer numbers than a list of cells.
#
# Below, 2-d points are the residuals seen along their first two principal directions, which are
# uncorrelated; the parts of real vectors usually are not. All three codes have the same number of
# cells. The third is a control: its centroids are points drawn at random.

# %%
cells_bits = 6
n_cells = 2**cells_bits
spread = np.cov(r["trained"], rowvar=False, dtype=np.float64)
_, directions = np.linalg.eigh(spread)
axes = directions[:, :-3:-1]
# An eigenvector's sign is arbitrary, and its last digits depend on the processor: settle both, so
# that the picture is the same everywhere.
axes = (axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])).round(6)
flat = {kind: (r[kind].astype(np.float64) @ axes).astype(np.float32) for kind in r}
plane_variance = float(flat["trained"].var(axis=0, dtype=np.float64).sum())

# A product code by hand: k-means of each coordinate on its own, and all pairs of centroids.
per_axis = 2 ** (cells_bits // 2)
first, second = (
    kmeans(flat["trained"][:, [j]], per_axis, seed=seed).centroids.ravel() for j in (0, 1)
)
drawn = np.random.default_rng(seed).choice(len(flat["trained"]), n_cells, replace=False)
codebooks = {
    "Product code": np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2),
    "k-means": kmeans(flat["trained"], n_cells, seed=seed).centroids,
    "Points at random": flat["trained"][drawn],
}
grid = []
for title, centroids in codebooks.items():
    squared, _ = faiss.knn(flat["held out"], np.ascontiguousarray(centroids), 1)
    grid.append(
        {
            "code": title,
            "cells": len(centroids),
            "numbers to keep": 2 * (per_axis if title == "Product code" else n_cells),
            "lost": float(squared.mean(dtype=np.float64)) / plane_variance,
        }
    )
grid = pd.DataFrame(grid).set_index("code")
low, high = np.quantile(flat["trained"], [0.003, 0.997], axis=0)
figure = plots.product_grid(
    flat["trained"][:4000],
    {t: (c, f"loses {grid['lost'][t]:.2%}") for t, c in codebooks.items()},
    low,
    high,
)
style.show(figure, output, "03_grid")
save_table(grid.reset_index(), output, "03_grid")
grid.assign(lost=grid["lost"].map("{:.2%}".format))

# %%
product_lost, kmeans_lost, random_lost = grid["lost"]
needed = grid["numbers to keep"]
Markdown(
    f"Held-out points lose {product_lost:.2%} of their variance with the product code and "
    f"{kmeans_lost:.2%} with k-means. "
    + (
        f"k-means is {product_lost / kmeans_lost:.2f} times as good: its cells may have any shape. "
        if kmeans_lost < product_lost
        else "The grid is no worse here. "
    )
    + f"It keeps {needed['k-means']} numbers, the product code {needed['Product code']}. Points at "
    f"random lose {random_lost:.2%}, "
    + (
        "so training is worth more than the free shape of the cells."
        if random_lost > product_lost
        else "less than the product code."
    )
    + f" In {ds.d} dimensions with {m} x {nbits} = {m * nbits} bits, k-means would have to keep "
    f"$2^{{{m * nbits}}}$ centroids. A product code keeps {m} x {ksub} = {m * ksub:,} pieces."
)

# %% [markdown]
# ## Encode a vector
#
# In d dimensions a residual is cut into m pieces of d / m numbers, the *sub-vectors*. Each piece
# has a *codebook*, $2^{b}$ centroids made by k-means of the pieces at that place: a
# *sub-quantizer* with its *sub-centroids*. The code is the list of m sub-centroid numbers, the
# *sub-codes*, b bits each. To *decode*, put these sub-centroids side by side, and add the
# cluster's centroid. m and b are called `m` and `nbits` in the code. With 8 bits, m is also the
# number of bytes.

# %%
quantizers = {v: pqlib.ProductQuantizer(ds.d, v, nbits, seed).train(r["trained"]) for v in ms}
codes = {v: {kind: q.encode(r[kind]) for kind in r} for v, q in quantizers.items()}
example = int(np.argsort(np.linalg.norm(r["held out"], axis=1), kind="stable")[len(some_held) // 2])
numbers = quantizers[m].unpack(codes[m]["held out"][example : example + 1])[0]
decoded = quantizers[m].decode(codes[m]["held out"][example : example + 1])[0]
figure = plots.code_of_one(r["held out"][example], decoded, numbers)
style.show(figure, output, "03_code")
print("code:", numbers, f"= {quantizers[m].code_bytes} bytes")

# %% [markdown]
# ## Compare residuals with whole vectors
#
# You could also code the vectors themselves, without clusters. Two things pull in opposite
# directions. Residuals spread less. But pieces of whole vectors fall into groups and have gaps of
# their own, which codebooks can learn; residuals mix pieces that were shifted by many different
# centroids, and that may blur the groups. So measure both, with codebooks trained on the same
# vectors and codes of the same size.

# %%
rows = []
for v in ms:
    for kind in x:
        rows.append((v, "residual", kind, lost(r[kind], quantizers[v].decode(codes[v][kind]))))
    direct = pqlib.ProductQuantizer(ds.d, v, nbits, seed).train(x["trained"])
    rows.append(
        (v, "vector", "held out", lost(x["held out"], direct.decode(direct.encode(x["held out"]))))
    )
errors = pd.DataFrame(rows, columns=["m", "coded", "vectors", "lost"])
errors.insert(1, "bytes", [quantizers[v].code_bytes for v in errors["m"]])
style.show(plots.error_by_bytes(errors, centroid_only["held out"]), output, "03_error")
save_table(errors, output, "03_error")

# %%
by_size = errors.pivot(index="bytes", columns=["coded", "vectors"], values="lost")
by_size.map("{:.1%}".format)

# %%
with_residual = by_size["residual", "held out"]
without = by_size["vector", "held out"]
better = with_residual < without
Markdown(
    f"Coding the residual loses less than coding the vector at {better.sum()} of {len(better)} "
    f"code sizes. At {m * nbits // 8} bytes it is {with_residual[m * nbits // 8]:.1%} against "
    f"{without[m * nbits // 8]:.1%}, at {with_residual.index[-1]} bytes "
    f"{with_residual.iloc[-1]:.1%} against {without.iloc[-1]:.1%}. "
    + (
        "What residuals gain shrinks as codes grow: the cluster number, worth at most "
        f"{np.log2(n_inner):.1f} bits, is much beside few bytes and little beside many."
        + (
            " In the end it is a loss, for which blurred groups (above) would be an explanation, "
            "not tested here."
            if not better.iloc[-1]
            else ""
        )
        if better.iloc[0]
        and without.iloc[0] - with_residual.iloc[0] > without.iloc[-1] - with_residual.iloc[-1]
        else f"The cluster number is worth at most {np.log2(n_inner):.1f} bits."
    )
    + " The rest of the study codes residuals: with lists to probe, the centroid is at hand anyway."
)

# %% [markdown]
# ## Look at rebuilt vectors
#
# Each row below is a held-out vector. First the original, then its centroid, then what codes of
# growing size make of it. The number below is the distance (L2) to the original. It need not fall
# for every vector: longer codes have another codebook and are better on average.

# %%
examples = sample_rows(len(some_held), 3, seed)
columns = [x["held out"][examples], clustering.inner[a["held out"][examples]]]
columns += [columns[1] + quantizers[v].decode(codes[v]["held out"][examples]) for v in ms]
table = np.stack(columns, axis=1)
gaps = np.linalg.norm(table.astype(np.float64) - table[:, :1], axis=2)
digits = 0 if gaps.max() >= 100 else 3
captions = [["", *(f"{g:.{digits}f}" for g in line[1:])] for line in gaps]
names = ["original", "centroid", *(f"{quantizers[v].code_bytes} bytes" for v in ms)]
picture = data_plots.picture_of(x["trained"], ds.whole_numbers, ds.image_shape)
figure = data_plots.picture_table(
    table, captions, names, "Rebuilt from a few bytes, and how far off", picture
)
style.show(figure, output, "03_rebuilt")

# %% [markdown]
# Is that near enough? It depends on how far apart the vectors are that the codes must tell apart.
# So set the error beside the distance of a query to its nearest neighbour.

# %%
nearest = float(np.median(ds.distances[:, 0]))
offs = {"centroid": np.linalg.norm(r["held out"], axis=1)}
for v in ms:
    rebuilt = quantizers[v].decode(codes[v]["held out"])
    offs[f"{quantizers[v].code_bytes} bytes"] = np.linalg.norm(r["held out"] - rebuilt, axis=1)
off = pd.DataFrame(
    {
        "median distance to the original": {n: float(np.median(v)) for n, v in offs.items()},
    }
)
off["of the median nearest neighbour"] = off.iloc[:, 0] / nearest
near_enough = [n for n in off.index[1:] if off.iloc[:, 1][n] < 1]
print(f"raw: {4 * ds.d:,} bytes float32; median distance to the nearest neighbour {nearest:.4g}")
off.assign(
    **{
        off.columns[0]: off.iloc[:, 0].map("{:.4g}".format),
        off.columns[1]: off.iloc[:, 1].map("{:.1%}".format),
    }
)

# %%
Markdown(
    (
        f"From **{near_enough[0]}** on, a rebuilt vector is nearer to its original than a query "
        "is to its nearest neighbour (medians). "
        if len(near_enough)
        else "At all these sizes, a rebuilt vector is further from its original than a query is "
        "from its nearest neighbour (medians). "
    )
    + "The larger this error is beside the gaps between neighbours, the more often codes rank "
    "them in the wrong order. That is why an index often fetches some candidates by their codes "
    "and then compares whole vectors (*re-ranking*, notebook 04)."
)

# %% [markdown]
# ## See how the codebooks are used
#
# A sub-code of b bits can carry b bits of information, if all $2^b$ centroids are used equally
# often. If some are rare, it carries less. Its *entropy* says how much:
# $H = -\sum_i p_i \log_2 p_i$, where $p_i$ is the share of vectors that use centroid i. k-means
# aims at a small error, not at equal use.

# %%
entropies = {v: code_entropy(quantizers[v].unpack(codes[v]["trained"]), ksub) for v in ms}
style.show(plots.codebook_use(entropies, nbits), output, "03_use")
use = pd.DataFrame(
    {
        "m": v,
        "sub_quantizer": np.arange(1, v + 1),
        "entropy_bits": entropies[v],
    }
    for v in ms
).explode(["sub_quantizer", "entropy_bits"])
save_table(use, output, "03_use")
carried = {v: float(e.sum()) for v, e in entropies.items()}
Markdown(
    f"With m = {m}, the sub-codes carry between {entropies[m].min():.2f} and "
    f"{entropies[m].max():.2f} of {nbits} bits, together {carried[m]:.1f} of {m * nbits} "
    f"({carried[m] / (m * nbits):.0%})."
)

# %% [markdown]
# ## Give each cluster its own codebooks
#
# So far all clusters shared one set of codebooks. Clusters may differ in shape, though. Then
# *per-cluster* codebooks fit better (Kalantidis and Avrithis, CVPR 2014, who also rotate each
# cluster). `MultiLevelPQ` has both modes. A cluster with fewer than $2^b$ residuals cannot train
# $2^b$ centroids; it uses shared ones.
#
# With many clusters it takes long to train codebooks for each. So some clusters are drawn at
# random, until they hold as many vectors as the shared codebooks were trained on. Both modes are
# compared on these clusters.

# %%
sizes = np.bincount(assignment[fit_rows], minlength=n_inner)
drawn = np.random.default_rng(seed).permutation(n_inner)
drawn = drawn[: int(np.searchsorted(sizes[drawn].cumsum(), n_codebook)) + 1]
inside = np.isin(assignment, drawn)
local_rows = {
    "trained": fit_rows[inside[fit_rows]],
    "held out": held_rows[inside[held_rows]],
}
local_x = {kind: ds.train[v] for kind, v in local_rows.items()}
local_a = {kind: assignment[v] for kind, v in local_rows.items()}
own = drawn[sizes[drawn] >= ksub]
print(
    f"{len(drawn)} of {n_inner} clusters, {len(local_rows['trained']):,} vectors to train on and "
    f"{len(local_rows['held out']):,} held out; {len(own)} clusters have codebooks of their own"
)

# %%
indexes = {}
for v in local_ms:
    index = pqlib.MultiLevelPQ(
        ds.d, n_inner, n_outer, v, nbits, "per-cluster", max_train=n_codebook, seed=seed
    )
    indexes[v] = index.train(local_x["trained"], clustering)


def squared_errors(index, kind):
    """Return the squared error of each vector of a kind, coded by an index."""
    decoded = index.decode(index.encode(local_x[kind], local_a[kind]), local_a[kind])
    return ((local_x[kind] - decoded).astype(np.float64) ** 2).sum(axis=1)


# Codebook bytes count the whole base: every cluster large enough has its own.
own_everywhere = int((np.bincount(assignment, minlength=n_inner) >= ksub).sum())
codebook_set = quantizers[m].parameters_bytes
weights = {
    "shared": codebook_set / ds.n,
    "per-cluster": (own_everywhere + (own_everywhere < n_inner)) * codebook_set / ds.n,
}
local_errors, rows = {}, []
for v in local_ms:
    for kind in local_x:
        local_errors[v, kind] = squared_errors(indexes[v], kind)
        rows.append(("per-cluster", kind, v, local_errors[v, kind].mean() / variance))
# The shared codebooks on the same clusters: of the vectors they were trained on, those inside.
for v in ms:
    for kind, chosen in (("trained", trained_rows), ("held out", some_held)):
        there = inside[chosen]
        rebuilt = quantizers[v].decode(codes[v][kind][there])
        rows.append(("shared", kind, v, lost(r[kind][there], rebuilt)))
modes = pd.DataFrame(rows, columns=["codebooks", "vectors", "m", "lost"])
modes.insert(3, "bytes", [quantizers[v].code_bytes for v in modes["m"]])
modes["total"] = modes["bytes"] + modes["codebooks"].map(weights)
raw = {"float32": 4.0 * ds.d}
if ds.whole_numbers:
    raw["uint8, lossless"] = float(ds.d)
style.show(plots.shared_or_local(modes, raw), output, "03_codebooks")
save_table(modes, output, "03_codebooks")

# %%
shown = modes.pivot(index=["codebooks", "bytes"], columns="vectors", values="lost")
shown = shown.map("{:.1%}".format)
shown["bytes per vector"] = (
    modes.groupby(["codebooks", "bytes"])["total"].first().map("{:,.1f}".format)
)
shown

# %%
at_m = modes[modes["m"] == max(local_ms)].pivot(index="codebooks", columns="vectors", values="lost")
gain = {kind: 1 - at_m.loc["per-cluster", kind] / at_m.loc["shared", kind] for kind in local_x}
verdict = {
    kind: f"{abs(gain[kind]):.0%} {'less' if gain[kind] >= 0 else 'more'}" for kind in local_x
}
total = weights["per-cluster"] + max(local_ms) * nbits / 8
affordable = modes[
    (modes["codebooks"] == "shared") & (modes["vectors"] == "held out") & (modes["total"] <= total)
]
best = affordable.loc[affordable["lost"].idxmin()]
Markdown(
    f"At the same code size (m = {max(local_ms)}), per-cluster codebooks lose "
    f"**{verdict['trained']}** than shared ones on the vectors that they were trained on, and "
    f"**{verdict['held out']}** on held-out ones. But they bring a base of {ds.n:,} to "
    f"{total:,.1f} bytes per vector. With no more than that, shared codebooks of "
    f"{best['bytes']:.0f}-byte codes"
    + (" (the longest tried here)" if best["m"] == max(ms) else "")
    + f" take {best['total']:,.1f} bytes and lose {best['lost']:.1%} "
    f"on held-out vectors, per-cluster ones {at_m.loc['per-cluster', 'held out']:.1%}"
    f" ({at_m.loc['per-cluster', 'trained']:.1%} on trained ones)."
    + (
        f" The raw vectors as single bytes take {ds.d} bytes and lose nothing."
        if ds.whole_numbers and total > ds.d
        else ""
    )
)

# %% [markdown]
# In an index with per-cluster codebooks, most base vectors *are* vectors trained on, so the smaller
# error counts for them. For vectors added later it does not.

# %% [markdown]
# ## See codebooks memorize
#
# k-means with 256 centroids of 256 points has an error of zero: each point is its own centroid.
# With few residuals, codebooks learn these by heart and not what such residuals look like. The
# ratio of the error on held-out vectors to the error on trained ones shows it. It is 1 where
# nothing was memorized.

# %%
rows = []
size = 2 * ksub
while size < len(trained_rows) and size <= 8 * ksub:
    part = r["trained"][sample_rows(len(trained_rows), size, seed)]
    few = pqlib.ProductQuantizer(ds.d, m, nbits, seed).train(part)
    inner_error = lost(part, few.decode(few.encode(part)))
    outer_error = lost(r["held out"], few.decode(few.encode(r["held out"])))
    rows.append((size, inner_error, outer_error))
    size *= 2
full = errors[(errors["m"] == m) & (errors["coded"] == "residual")].set_index("vectors")["lost"]
rows.append((len(trained_rows), full["trained"], full["held out"]))
pooled = pd.DataFrame(rows, columns=["trained_on", "trained", "held_out"])
pooled["ratio"] = pooled["held_out"] / pooled["trained"]

local_m = max(local_ms)
totals = {
    kind: np.bincount(local_a[kind], weights=local_errors[local_m, kind], minlength=n_inner)
    for kind in local_x
}
counts = {kind: np.bincount(local_a[kind], minlength=n_inner) for kind in local_x}
# A cluster needs some held-out vectors for a ratio that means anything.
judged = own[(counts["held out"][own] >= 10) & (totals["trained"][own] > 0)]
clusters = pd.DataFrame(
    {
        "cluster": judged,
        "trained_on": counts["trained"][judged],
        "ratio": (totals["held out"] / np.maximum(counts["held out"], 1))[judged]
        / (totals["trained"] / np.maximum(counts["trained"], 1))[judged],
    }
).sort_values("trained_on", ignore_index=True)
style.show(plots.overfitting(clusters, pooled, ksub), output, "03_overfitting")
save_table(
    pd.concat([pooled.assign(codebooks="shared"), clusters.assign(codebooks="per-cluster")]),
    output,
    "03_overfitting",
)

# %%
printed = pooled.set_index("trained_on")
printed.index.name = "residuals trained on"
printed.assign(
    trained=printed["trained"].map("{:.1%}".format),
    held_out=printed["held_out"].map("{:.1%}".format),
    ratio=printed["ratio"].map("{:.2f}".format),
)

# %%
middle = clusters["ratio"].median() if len(clusters) else float("nan")
Markdown(
    (
        f"Codebooks of a single cluster were trained on {clusters['trained_on'].min():,} to "
        f"{clusters['trained_on'].max():,} residuals. Their error on held-out vectors is "
        f"**{middle:.1f} times** that on trained ones (median of {len(clusters)} clusters). "
        if len(clusters)
        else "No cluster is large enough for codebooks of its own. "
    )
    + f"Shared codebooks, trained on {len(trained_rows):,} residuals: "
    f"{pooled['ratio'].iloc[-1]:.2f} times."
)

# %% [markdown]
# ## Count what codebooks weigh
#
# One set of codebooks holds $2^b \cdot d$ numbers of 4 bytes, whatever m is: m codebooks of $2^b$
# pieces of d / m numbers. An index needs one set, or one for each cluster. Divided by the number of
# base vectors:

# %%
kept = pd.DataFrame(
    {
        "bytes": {
            f"code, m = {m}": m * nbits / 8,
            "shared codebooks": weights["shared"],
            "per-cluster codebooks": weights["per-cluster"],
            "centroids of the clusters": clustering.inner.nbytes / ds.n,
            **{f"raw vector, {name}": size for name, size in raw.items()},
        }
    }
)
kept.index.name = "per vector"
kept.map("{:,.2f}".format)

# %% [markdown]
# A larger base asks for more clusters, about $\sqrt{n / 6}$ of them for n vectors here. Per-cluster
# codebooks then weigh less per vector as the base grows, but only with the square root of its size:
# $2^b \cdot 4 d / \sqrt{6 n}$. The lines below are that arithmetic, not measurements.

# %%
smallest = min(4, int(np.log10(ds.n)))
turn = (codebook_set / (m * nbits / 8)) ** 2 / 6
largest = max(9, int(np.ceil(np.log10(turn))))
grown = np.unique(np.round(np.logspace(smallest, largest, 61)).astype(np.int64))
costs = pd.DataFrame(
    {
        "n": grown,
        "shared": codebook_set / grown,
        "per-cluster": [codebook_set * pqlib.default_sizes(int(n))[0] / n for n in grown],
    }
)
style.show(plots.codebook_bytes(costs, ds.n, quantizers[m].code_bytes, raw), output, "03_weight")
save_table(costs, output, "03_weight")
Markdown(
    f"On this base of {ds.n:,}, per-cluster codebooks weigh "
    f"**{weights['per-cluster'] / (m * nbits / 8):,.1f} times** as much as the codes of "
    f"{m * nbits / 8:g} bytes"
    + (
        f", and more than the raw vectors held losslessly as bytes ({ds.d})"
        if ds.whole_numbers and weights["per-cluster"] > ds.d
        else ""
    )
    + f". By the formula they would weigh as much as the codes at about "
    f"{float(f'{turn:.2g}'):,.0f} vectors."
)

# %% [markdown]
# ## Sum up

# %%
Markdown(
    f"- {n_inner} centroids leave {centroid_only['held out']:.1%} of the variance; "
    f"{m * nbits / 8:g} bytes more leave {with_residual[m * nbits // 8]:.1%}, "
    f"{with_residual.index[-1]} bytes {with_residual.iloc[-1]:.1%} (held-out vectors).\n"
    f"- Coding the residual instead of the vector loses less at {better.sum()} of {len(better)} "
    "code sizes.\n"
    f"- Per-cluster codebooks lose {verdict['trained']} than shared ones on trained vectors, "
    f"{verdict['held out']} on held-out ones, and weigh {weights['per-cluster']:,.1f} bytes per "
    f"vector against {weights['shared']:,.1f}."
)

# %% [markdown]
# ## Next
#
# Codes are small. They are also fast to compare with a query, without decoding them.
# [04 Search with the codes](04_search.ipynb) shows how.
