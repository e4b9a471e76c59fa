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
# - Encode a vector by hand, then look at vectors rebuilt from 2, 4, 8 and more bytes.
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
# - k-means and NumPy. Notebook 02 explains the two levels of clusters; this one runs alone.

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib.clustering import kmeans, sample_rows
from pqlib.quantizers import code_entropy
from pqlib.study import coding, open_study, save_table, vectors
from pqlib.study.plots import data as data_plots
from pqlib.study.plots import encoding as plots
from pqlib.study.plots import style

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
n_inner = None  # inner clusters; None: sqrt(n / 6)
n_codebook = 15_000  # vectors that codebooks are trained on, at most
seed = 0
output = None  # folder for this run's figures and results; None: only show them

# %% [markdown]
# ## Take the residual
#
# k-means already says roughly where a vector is: near the centroid c of its cluster. Its number
# costs nothing extra: a vector is stored in its cluster's list, and its place says which one. What
# is left is the *residual*, $r = x - c$. Residuals lie around zero and spread less than vectors, so
# they should take fewer bits (Jégou, Douze, Schmid, TPAMI 2011, section 4): measured below. A tenth
# of the base is *held out*: nothing is trained on it. Errors are the share of the *variance* lost:
# the mean squared distance to what replaces a vector, over that to the mean of all vectors.

# %%
study = open_study(dataset, n_train, n_test, n_inner)
ds, parts = study.ds, coding.split(study, n_codebook, seed)
trained, held = parts.r["trained"], parts.x["held out"]
centroids = parts.clustering.inner[parts.clustering.assign(held)]
residuals = held - centroids
centroid_only = parts.lost(held, centroids)
print(f"the nearest of {study.n_inner} centroids alone loses {centroid_only:.1%} of the variance")

# %% [markdown]
# ## Draw a code in two dimensions
#
# Now code the residuals. *k-means* could do that too: make $2^b$ centroids and store the number of
# the nearest, in b bits. The points that share a centroid form its *cell*. A *product code* (Jégou,
# Douze, Schmid, section 2) cuts the space into parts, here the two axes, and runs k-means in each.
# A cell is then a pair of intervals, one of each axis. The cells form a grid, and only the
# centroids of the parts are kept. Below are residuals along their first two principal directions,
# which are uncorrelated; the parts of real vectors usually are not. What k-means gains over the
# product code is the worth of cells of any shape; over random points, the worth of training.

# %%
plane = vectors.principal_plane(trained)
flat = {kind: (r.astype(np.float64) @ plane).astype(np.float32) for kind, r in parts.r.items()}
points = flat["trained"]
first, second = (kmeans(points[:, [axis]], 8, seed=seed).centroids.ravel() for axis in (0, 1))
codebooks = {
    "Product code": np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2),
    "k-means": kmeans(points, 64, seed=seed).centroids,
    "Points at random": np.random.default_rng(seed).choice(points, 64, replace=False),
}
grid = coding.plane_errors(flat, codebooks)
grid.insert(2, "numbers to keep", [8 + 8, 2 * 64, 2 * 64])
save_table(grid, output, "03_grid")
grid = grid.set_index("code")
cells = {name: (codebooks[name], f"loses {lost:.2%}") for name, lost in grid.lost.items()}
corners = np.quantile(points, [0.003, 0.997], axis=0)
style.show(plots.product_grid(points[:4000], cells, *corners), output, "03_grid")
grid.assign(lost=grid.lost.map("{:.2%}".format))

# %% [markdown]
# ## Encode a vector
#
# In d dimensions a residual is cut into m pieces of d / m numbers, the *sub-vectors*. k-means of
# the pieces at one place makes its *codebook*, here 256 *sub-centroids*, so that the number of one
# fits a byte. The code is the list of m such numbers, the *sub-codes*. To *decode*, put the
# sub-centroids that they name side by side, and add the cluster's centroid. By hand:

# %%
sizes = coding.code_sizes(ds.d)
m = max(v for v in sizes if v <= 8)
codebooks = [kmeans(p, 256, niter=25, seed=seed).centroids for p in np.split(trained, m, axis=1)]
by_length = np.argsort(np.linalg.norm(residuals, axis=1), kind="stable")
residual = residuals[by_length[len(held) // 2]]
pairs = list(zip(codebooks, np.split(residual, m), strict=True))
numbers = [int(((book - piece) ** 2).sum(axis=1).argmin()) for book, piece in pairs]
decoded = np.concatenate([book[i] for book, i in zip(codebooks, numbers, strict=True)])
style.show(plots.code_of_one(residual, decoded, numbers), output, "03_code")

# %% [markdown]
# `ProductQuantizer` does the same for many vectors. It calls the number of pieces `m` and the bits
# of a sub-code, b, `nbits`. With 8 bits, m is also the number of bytes. k-means would have to keep
# every point that a code can name, a product code keeps m x 256 pieces. A quantizer for each size:

# %%
quantizers = {v: pqlib.ProductQuantizer(ds.d, v, seed=seed).train(trained) for v in sizes}
pq = quantizers[m]
code = pq.encode(residual[None])
print(code[0], "decodes as by hand:", np.array_equal(pq.decode(code)[0], decoded))
print(f"{pq.code_bytes} bytes for {residual.nbytes}: {m} x 256 pieces name 2^{pq.bits} points")

# %% [markdown]
# ## Compare residuals with whole vectors
#
# You could also code the vectors themselves, without clusters. Two things pull in opposite
# directions. Residuals spread less. But pieces of whole vectors fall into groups and have gaps,
# which codebooks can learn; residuals mix pieces that were shifted by many different centroids, and
# that may blur the groups. So measure both, also for queries.

# %%
whole = pqlib.ProductQuantizer(ds.d, m, seed=seed).train(parts.x["trained"])
lost_whole = parts.lost(held, whole.decode(whole.encode(held)))
lost_residual = parts.lost(held, centroids + pq.decode(pq.encode(residuals)))
print(f"{m} bytes: coding the vector loses {lost_whole:.1%}, its residual {lost_residual:.1%}")

errors = coding.errors(parts, quantizers, seed)  # the same at every size
save_table(errors, output, "03_error")
style.show(plots.error_by_bytes(errors, centroid_only), output, "03_error")
by_size = errors.pivot(index="bytes", columns=["coded", "vectors"], values="lost")
lost = by_size["residual", "held out"]
better = f"{(lost < by_size['vector', 'held out']).sum()} of {len(lost)} code sizes"
print(f"residuals lose less at {better}; cluster numbers have {np.log2(study.n_inner):.1f} bits")
by_size.map("{:.1%}".format)

# %% [markdown]
# The cluster number is worth its bits at most: much beside few bytes, little beside many. Where
# residuals lose more, blurred groups would be an explanation, not tested here. The rest of the
# study codes residuals: with lists to probe, the centroid is at hand anyway.
#
# ## Look at rebuilt vectors
#
# Each row is a held-out vector, its centroid, and what codes of growing size make of it. The number
# is the distance (L2) to the original. It need not fall for every vector: longer codes have another
# codebook and are better on average.

# %%
rebuilt = {"original": held, "centroid": centroids}
for q in quantizers.values():
    rebuilt[f"{q.code_bytes} bytes"] = centroids + q.decode(q.encode(residuals))
some = {name: v[sample_rows(len(held), 3, seed)] for name, v in rebuilt.items()}
picture = data_plots.picture_of(parts.x["trained"], ds.whole_numbers, ds.image_shape)
figure = data_plots.compared(some, "Rebuilt from a few bytes, and how far off", picture)
style.show(figure, output, "03_rebuilt")

# %% [markdown]
# Is that near enough? Divide by the distance of a query to its nearest neighbour (medians). Below
# 1, a rebuilt vector is nearer to its original than the query to its neighbour. The larger the
# ratio, the more often codes rank neighbours in the wrong order. That is why an index often fetches
# some candidates by their codes and then compares whole vectors (*re-ranking*, notebook 04).

# %%
off = {name: np.median(np.linalg.norm(held - v, axis=1)) for name, v in rebuilt.items()}
off = pd.DataFrame({"distance to the original": off}, dtype=float).drop("original")
off["over the nearest neighbour's"] = off / np.median(ds.distances[:, 0])
off.map("{:.4g}".format)

# %% [markdown]
# ## See how the codebooks are used
#
# A sub-code of b bits carries b bits of information if all $2^b$ centroids are used equally often,
# and less if some are rare. Its *entropy* says how much: $H = -\sum_i p_i \log_2 p_i$, where $p_i$
# is the share of vectors that use centroid i. k-means aims at a small error, not at equal use.

# %%
entropies = {v: code_entropy(q.unpack(q.encode(trained)), q.ksub) for v, q in quantizers.items()}
style.show(plots.codebook_use(entropies, pq.nbits), output, "03_use")
save_table(coding.code_use(entropies), output, "03_use")
print(f"with {m} bytes, sub-codes carry {entropies[m].sum():.1f} of {pq.bits} bits")

# %% [markdown]
# ## Give each cluster its own codebooks
#
# So far all clusters shared one set of codebooks. Clusters may differ in shape, though. Then
# *per-cluster* codebooks fit better (Kalantidis and Avrithis, CVPR 2014, who also rotate each
# cluster). `MultiLevelPQ` has both modes; a cluster with fewer than 256 residuals uses shared ones.
# Only clusters drawn at random are compared, with as many vectors as trained the shared codebooks.

# %%
rows, local = coding.some_clusters(parts, seed), {}
options = {"max_train": n_codebook, "seed": seed}
for v in [v for v in sizes if v <= m][-2:]:
    local[v] = pqlib.MultiLevelPQ(ds.d, study.n_inner, study.n_outer, v, **options)
    local[v].train(ds.train[rows["trained"]], parts.clustering)
for kind, chosen in rows.items():
    x, cluster = ds.train[chosen], parts.assignment[chosen]
    decoded = local[m].decode(local[m].encode(x, cluster), cluster)
    print(f"{m} bytes, {len(x):,} vectors {kind}: {parts.lost(x, decoded):.1%} lost")

# %%
squared = coding.per_cluster(parts, local, rows)
modes = coding.modes(parts, quantizers, squared)
save_table(modes, output, "03_codebooks")
raw = {"float32": 4.0 * ds.d} | ({"uint8, lossless": 1.0 * ds.d} if ds.whole_numbers else {})
style.show(plots.shared_or_local(modes, raw), output, "03_codebooks")
verdict = coding.verdict(modes, m)
Markdown(
    f"At {m} bytes, per-cluster codebooks lose **{verdict['trained']}** than shared ones on "
    f"vectors trained on, **{verdict['held out']}** on others. {coding.at_equal_memory(modes, m)}"
)

# %% [markdown]
# In an index with per-cluster codebooks, most base vectors *are* vectors trained on, so the smaller
# error counts for them. For vectors added later it does not.
#
# ## See codebooks memorize
#
# k-means with 256 centroids of 256 points has an error of zero: each point is its own centroid.
# With few residuals, codebooks learn these by heart and not what such residuals look like. The
# ratio of the errors on others and on those trained on shows it: 1 where nothing was memorized.

# %%
few = trained[sample_rows(len(trained), 512, seed)]
small = pqlib.ProductQuantizer(ds.d, m, seed=seed).train(few)
inside, outside = (parts.lost(r, small.decode(small.encode(r))) for r in (few, residuals))

pooled, single = coding.memorized(parts, pq, squared[squared.m == m], seed)
style.show(plots.overfitting(single, pooled, pq.ksub), output, "03_overfitting")
save_table(pd.concat([pooled, single]), output, "03_overfitting")
Markdown(
    f"{len(few)} residuals trained on lose {inside:.1%}, held-out ones {outside:.1%}. Codebooks of "
    f"one cluster lose **{single.ratio.median():.1f} times** as much on the held-out (median of "
    f"{len(single)} clusters with {single.trained_on.min():,} to {single.trained_on.max():,} "
    f"residuals), shared ones, trained on {len(trained):,}, {pooled.ratio.iloc[-1]:.2f} times."
)

# %% [markdown]
# ## Count what codebooks weigh
#
# One set of codebooks holds $2^b \cdot d$ numbers of 4 bytes, whatever m is. An index needs one, or
# one for each cluster. A larger base asks for more clusters, about $\sqrt{n / 6}$ for n vectors
# here. Per-cluster codebooks then weigh less per vector, but only with the square root of its
# size: $2^b \cdot 4 d / \sqrt{6 n}$. The lines below are that arithmetic, not measurements.

# %%
weights = coding.codebook_weights(parts, pq)
costs, turn = coding.weight_by_size(ds.n, pq.parameters_bytes, pq.code_bytes)
save_table(costs, output, "03_weight")
style.show(plots.codebook_bytes(costs, ds.n, pq.code_bytes, raw), output, "03_weight")
Markdown(
    f"For each vector here, shared codebooks weigh {weights['shared']:.2f} bytes, per-cluster ones "
    f"{weights['per-cluster']:.1f}, **{weights['per-cluster'] / m:,.1f} times** its code. By the "
    f"formula, they weigh as much as codes with {float(f'{turn:.2g}'):,.0f} base vectors."
)

# %% [markdown]
# ## Sum up

# %%
Markdown(
    f"{study.n_inner} centroids leave {centroid_only:.1%} of the variance of held-out vectors, {m} "
    f"bytes more {lost[m]:.1%}, {lost.index[-1]} bytes {lost.iloc[-1]:.1%}. Coding the residual "
    f"loses less than coding the vector at {better}. Per-cluster codebooks lose "
    f"{verdict['trained']} than shared ones on those trained on, {verdict['held out']} on others. "
    f"They weigh {weights['per-cluster']:,.1f} bytes per vector, not {weights['shared']:,.1f}."
)

# %% [markdown]
# ## Go on alone
#
# - Shuffle the dimensions before vectors are cut into pieces. Does the code lose more or less?
# - Take twice as many pieces and `nbits=4`: as many bytes. How much more do they lose, and why?
# - Double `n_inner`, twice. At which code sizes does it pay to code the residual then?
#
# [04 Search with the codes](04_search.ipynb) compares codes with a query, without decoding them.
