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
# # Cluster it twice
#
# Brute force compares a query with every vector. Clusters let it look at a few lists instead, and
# a second level of clusters lets it find those lists without comparing every centroid.
#
# ## What you'll do
#
# - Cluster the base with k-means, and the centroids again.
# - Draw both levels, and a true neighbour lost at a border.
# - Count what probing more lists, or fewer outer clusters, finds and costs.
#
# ## What you'll learn
#
# - What an inverted list is, and why lists of unequal length cost time.
# - What *routing loss* is, and how `nprobe` buys it back.
# - When a second level pays, in counted distance computations.
#
# ## What you'll need
#
# - k-means and NumPy. Notebook 01 shows the data; this one runs alone.

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib import evaluation
from pqlib.clustering import from_centroids, imbalance, kmeans
from pqlib.experiments import save_table
from pqlib.plots import clustering as plots
from pqlib.plots import style

pd.set_option("display.width", 120, "display.max_columns", 20)

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
seed = 0
output = None  # folder for this run's figures and results; None: only show them
k = 10  # true neighbours looked for
n_inner = None  # inner clusters; None: sqrt(n / 6)
n_outer = None  # outer clusters; None: sqrt(n_inner)
max_train = 50_000  # vectors that train k-means
seeds = 3  # clusterings for the bands
largest = 1024  # most inner clusters in the last section

# %%
ds = pqlib.load_dataset(dataset, n_train=n_train, n_test=n_test)
print(ds.describe())
default_inner, default_outer = pqlib.default_sizes(ds.n)
n_inner = n_inner or default_inner
n_outer = n_outer or max(1, round(n_inner**0.5))
print(f"\ninner clusters {n_inner}, outer clusters {n_outer}")

# %% [markdown]
# ## Cluster the vectors, then the centroids
#
# The *inner* level is k-means of the base: K centroids (`n_inner`). In this field they are called
# the *coarse quantizer* (Jégou, Douze, Schmid 2011, section 4). The *outer* level is k-means of
# those K centroids: L of them (`n_outer`), and each inner centroid belongs to the nearest.
#
# k-means minimizes the mean squared distance of a vector to its nearest centroid. Here it is, by
# iteration.

# %%
clustering = pqlib.two_level_kmeans(ds.train, n_inner, n_outer, max_train=max_train, seed=seed)
style.show(
    plots.objective(clustering.inner_objective, clustering.outer_objective), output, "02_objective"
)
first, last = clustering.inner_objective[[0, -1]]
Markdown(
    f"{clustering.n_train:,} vectors trained the inner level. Its objective fell by "
    f"{1 - last / first:.1%} from the first iteration to the last."
)

# %% [markdown]
# The centroids are the same to the bit again: k-means runs on a grid on which float32 sums are
# exact, so that neither the processor's instructions nor the number of threads can tip a near tie
# (`pqlib.clustering.training_grid` explains).
#
# ## Look at the lists
#
# Each base vector goes into the *inverted list* of its nearest inner centroid. A query scans the
# lists of the centroids nearest to itself. Long lists are scanned more often as well as longer,
# because queries fall where the vectors are. The *imbalance factor* is the length of the list that
# a vector is expected to lie in over the mean length; it is 1 when all lists are equally long.

# %%
assignment = clustering.assign(ds.train)
sizes = np.bincount(assignment, minlength=n_inner)
style.show(plots.list_sizes(sizes, clustering.outer_sizes), output, "02_sizes")
Markdown(
    f"Lists hold {sizes.min():,} to {sizes.max():,} vectors, {sizes.mean():,.0f} on average. The "
    f"imbalance factor is {imbalance(sizes):.2f}. An outer cluster owns "
    f"{clustering.outer_sizes.min()} to {clustering.outer_sizes.max()} inner ones."
)

# %% [markdown]
# ## See both levels
#
# Cells can be drawn in two dimensions only. So this picture takes the two principal directions of
# the data and clusters *in that plane*, with fewer clusters. The borders are true for the plane;
# they are no projection of the real cells.

# %%
rng = np.random.default_rng(seed)
rows = np.sort(rng.choice(ds.n, size=min(ds.n, 20_000), replace=False))
sample = ds.train[rows]
mean = sample.mean(axis=0, dtype=np.float64)
centered = sample - mean
covariance = centered.T.astype(np.float64) @ centered / len(centered)
directions = np.linalg.eigh(covariance)[1][:, :-3:-1]
# An eigenvector's sign is arbitrary; its largest entry made positive, the picture is the same
# everywhere.
directions *= np.sign(directions[np.abs(directions).argmax(axis=0), [0, 1]])
if ds.d == 1:
    directions = np.hstack([directions, np.zeros((1, 1))])
plane = (centered @ directions).astype(np.float32)
flat_inner = kmeans(plane, min(40, len(plane)), seed=seed).centroids
flat_outer = kmeans(flat_inner, min(6, len(flat_inner)), seed=seed).centroids
two = from_centroids(flat_inner, flat_outer)
style.show(
    plots.nested_cells(plane[:4000], two.inner, two.inner_to_outer, two.outer),
    output,
    "02_cells",
)

# %% [markdown]
# ## Miss a neighbour at a border
#
# A query near a border has true neighbours on the other side. If only its own cell is probed,
# they are lost, however good the search inside the cell. This is the *boundary miss*; here is one
# from the plane above: of the first 200 queries, the one in the middle of the plane that loses the
# most neighbours.

# %%
plane_queries = ((ds.test[:200] - mean) @ directions).astype(np.float32)
_, near = pqlib.BruteForce(2).add(plane).search(plane_queries, min(k, len(plane)))
homes = two.assign(plane)[near]
cell = two.assign(plane_queries)
lost = (homes != cell[:, None]).sum(axis=1)
# A query in the plane's middle, so that the picture has something on all sides.
central = (np.abs(plane_queries) < np.percentile(np.abs(plane), 75, axis=0)).all(axis=1)
worst = int(np.where(central, lost, -1).argmax())
style.show(
    plots.boundary_miss(
        plane,
        two.inner,
        two.inner_to_outer,
        plane_queries[worst],
        plane[near[worst]],
        int(cell[worst]),
        homes[worst],
    ),
    output,
    "02_boundary",
)

# %% [markdown]
# With all the dimensions, a cell has many more borders, and a query is often near several.

# %%
spread = evaluation.clusters_holding_neighbors(clustering, ds, assignment, k)
_, keys = clustering.probe(ds.test, n_inner)
first_list = evaluation.routing_recall(ds, k, keys[:, :1], assignment)[0]
Markdown(
    f"In {ds.d} dimensions, the true {k} nearest of a query lie in {spread.mean():.1f} different "
    f"lists on average, and the nearest list holds {first_list:.0%} of them. For "
    f"{(spread > 1).mean():.0%} of the queries they are spread over more than one."
)

# %% [markdown]
# ## Probe more lists
#
# The cure is to scan the lists of the `nprobe` nearest centroids. What still lies in no scanned
# list is the *routing loss*. It sets a limit to every index over these lists: no code, however
# good, finds what it never sees.

# %%
curves = {kk: evaluation.routing_recall(ds, kk, keys, assignment) for kk in (1, k, 100)
          if kk <= ds.neighbors.shape[1]}  # fmt: skip
scanned = np.cumsum(sizes[keys], axis=1).mean(axis=0) / ds.n
style.show(plots.routing(curves, scanned), output, "02_routing")
routing_table = pd.DataFrame(
    {"nprobe": np.arange(1, n_inner + 1), "scanned": scanned}
    | {f"recall_of_{kk}": found for kk, found in curves.items()}
)
save_table(routing_table, output, "02_routing")
shown = [p for p in (1, 2, 4, 8, 16, 32, 64) if p <= n_inner]
routing_table.set_index("nprobe").loc[shown].round(3)

# %%
lines = []
for target in (0.9, 0.99):
    p = int(np.argmax(curves[k] >= target))
    lines.append(f"{target:.0%} of the true {k} take {p + 1} lists, {scanned[p]:.1%} of the base")
Markdown("; ".join(lines) + ".")

# %% [markdown]
# ## Rank the centroids through the outer level
#
# Flat probing compares a query with all K inner centroids. *Multi-level probing* compares it with
# the L outer centroids, keeps the `nprobe_outer` nearest, and ranks only the inner centroids below
# those. It computes fewer distances and may overlook a list. Lines and table are means over
# several clusterings with different seeds, the bands their range: another run of k-means moves
# the curves as well.

# %%
probes = [p for p in (1, 2, 4, 8, 16, 32) if p <= n_inner]
choices = sorted({1, 2, round(n_outer / 2), round(n_outer * 3 / 4)} & set(range(1, n_outer)))
queries = ds.test[: min(ds.nq, 2000)]
rows = []
for number in range(seeds):
    clusters = (
        clustering
        if number == 0
        else pqlib.two_level_kmeans(
            ds.train, n_inner, n_outer, max_train=max_train, seed=seed + number
        )
    )
    home = assignment if number == 0 else clusters.assign(ds.train)
    lengths = np.bincount(home, minlength=n_inner)
    for outer in [None, *choices]:
        outer_cost, inner_cost = clusters.probe_cost(queries, outer)
        _, probed = clusters.probe(queries, probes[-1], outer)
        found = evaluation.routing_recall(ds, k, probed, home)
        length = np.where(probed >= 0, lengths[probed], 0).cumsum(axis=1).mean(axis=0)
        for p in probes:
            rows.append(
                {
                    "probing": "flat" if outer is None else f"{outer} of {n_outer} outer",
                    "nprobe": p,
                    "seed": seed + number,
                    "recall": found[p - 1],
                    "centroids": float((outer_cost + inner_cost).mean()),
                    "vectors": float(length[p - 1]),
                }
            )
work = pd.DataFrame(rows)
save_table(work, output, "02_work")
style.show(plots.flat_or_nested(work, k), output, "02_work")

# %%
mean_work = work.groupby(["probing", "nprobe"], sort=False)[["recall", "centroids", "vectors"]]
mean_work = mean_work.mean().reset_index()
pivot = mean_work.pivot(index="probing", columns="nprobe", values="recall")
pivot["centroid distances"] = mean_work.groupby("probing").centroids.first()
pivot.loc[pd.unique(mean_work.probing)].round(3)

# %%
chosen = probes[len(probes) // 2]
at = mean_work[mean_work.nprobe == chosen].set_index("probing")
gap = at.recall["flat"] - at.recall
good = at[(gap <= 0.01) & (at.centroids < at.centroids["flat"])]
if len(good):
    best = good.centroids.idxmin()
    verdict = (
        f"With nprobe {chosen}, *{best}* comes within 0.01 of flat probing and compares "
        f"{at.centroids[best]:.0f} centroids instead of {at.centroids['flat']:.0f}."
    )
else:
    verdict = (
        f"With nprobe {chosen}, none of these comes within 0.01 of flat probing at fewer centroid "
        "distances."
    )
total = at.centroids["flat"] + at.vectors["flat"]
Markdown(
    verdict + f" Scanning the lists takes {at.vectors['flat']:,.0f} more distances, so the "
    f"centroids are {at.centroids['flat'] / total:.0%} of the work: that is all the second level "
    "can save."
)

# %% [markdown]
# ## Grow the number of lists
#
# Ranking K centroids costs K distances; the second level is for when K is large. Here are the
# centroid distances per query, flat and through two levels (with $L \approx \sqrt{K}$), for growing
# K. The number of outer clusters probed is the smallest that loses at most 0.01 of flat probing's
# recall, with nprobe one twentieth of K. All are trained alike, on at most 20,000 vectors. (The
# section before held K and averaged over seeds, so its numbers for the same K differ a little.)

# %%
counts = [c for c in (64, 128, 256, 512, 1024, 2048, 4096) if c <= min(largest, ds.n // 30)]
rows = []
for count in counts:
    levels = max(2, round(count**0.5))
    clusters = pqlib.two_level_kmeans(ds.train, count, levels, max_train=20_000, seed=seed)
    home = clusters.assign(ds.train)
    p = max(1, count // 20)
    flat_found = evaluation.routing_recall(ds, k, clusters.probe(queries, p)[1], home)[-1]
    for outer in range(1, levels + 1):
        probed = clusters.probe(queries, p, outer)[1]
        found = evaluation.routing_recall(ds, k, probed, home)[-1]
        if found >= flat_found - 0.01:
            break
    nested = sum(cost.mean() for cost in clusters.probe_cost(queries, outer))
    rows.append(
        {
            "n_inner": count,
            "n_outer": levels,
            "nprobe": p,
            "nprobe_outer": outer,
            "flat": count,
            "nested": float(nested),
            "recall_flat": flat_found,
            "recall_nested": found,
        }
    )
growth = pd.DataFrame(rows)
save_table(growth, output, "02_growth")
if len(growth):
    style.show(plots.saving(growth, k), output, "02_saving")
growth.set_index("n_inner").round(3)

# %%
if len(growth):
    pays = growth[growth.nested < growth.flat]
    sentence = (
        (
            f"The second level compares fewer centroids at every number tried, from "
            f"{growth.n_inner.min():,} inner clusters on; with "
            if len(pays) == len(growth)
            else f"Of these, the second level compares fewer centroids with "
            f"{', '.join(f'{c:,}' for c in pays.n_inner)} inner clusters; with "
        )
        + f"{growth.n_inner.max():,} it compares "
        f"{growth.nested.iloc[-1] / growth.flat.iloc[-1]:.0%} of what flat probing does."
        if len(pays)
        else "With none of these does the second level compare fewer centroids."
    )
else:
    sentence = "The base is too small to grow the number of lists."
Markdown(sentence)

# %% [markdown]
# ## Next
#
# [03 Compress residuals with product codes](03_pq_encoding.ipynb) compresses what is left of a
# vector inside its list: the residual.
