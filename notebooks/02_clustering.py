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
# - Draw both levels of clusters, and a true neighbour lost at a border.
# - Cluster the base with k-means, and the centroids again.
# - Count what probing more lists, or fewer outer clusters, finds and costs.
#
# ## What you'll learn
#
# - What an inverted list is, and why lists of unequal length cost time.
# - What *routing loss* is, and how `nprobe` buys it back.
# - From which number of lists on a second level pays, in counted distances and in time.
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
from pqlib.clustering import from_centroids, imbalance, kmeans, sample_rows
from pqlib.study import levels, open_study, routing, save_table, vectors
from pqlib.study.plots import clustering as plots
from pqlib.study.plots import style

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
k = 10  # true neighbours looked for
n_inner = None  # inner clusters; None: sqrt(n / 6)
largest = None  # most inner clusters in the last section; None: 24 vectors each, up to 16,384
seed = 0
output = None  # folder for this run's figures and results; None: only show them

# %%
study = open_study(dataset, n_train, n_test, n_inner)
ds, n_inner, n_outer = study.ds, study.n_inner, study.n_outer

# %% [markdown]
# ## See both levels
#
# Start where you can see it: in the plane of the two *principal directions*, along which the data
# vary most. k-means of the points makes the *inner* centroids. k-means of these centroids makes the
# *outer* ones, and each inner centroid belongs to the nearest. The points nearest to a centroid
# form its *cell*.

# %%
sample = ds.train[sample_rows(ds.n, 20_000, seed)]
mean, axes = sample.mean(axis=0, dtype=np.float64), vectors.principal_plane(sample)
plane = ((sample - mean) @ axes).astype(np.float32)
inner = kmeans(plane, min(40, len(plane)), seed=seed).centroids
outer = kmeans(inner, min(6, len(inner)), seed=seed).centroids
two = from_centroids(inner, outer)
figure = plots.nested_cells(plane[:4000], two.inner, two.inner_to_outer, two.outer)
style.show(figure, output, "02_cells")

# %% [markdown]
# ## Miss a neighbour at a border
#
# A query near a border has true neighbours on the other side. If only its own cell is looked at,
# they are lost, however good the search inside the cell. This is the *boundary miss*. Here is one:
# of the first 200 queries, the one in the middle of the plane that loses the most neighbours.

# %%
asked = ((ds.test[:200] - mean) @ axes).astype(np.float32)
_, near = pqlib.BruteForce(2).add(plane).search(asked, min(k, len(plane)))
homes, cell = two.assign(plane)[near], two.assign(asked)
lost = (homes != cell[:, None]).sum(axis=1)
# A query in the plane's middle, so that the picture has something on all sides.
central = (np.abs(asked) < np.percentile(np.abs(plane), 75, axis=0)).all(axis=1)
q = int(np.where(central, lost, -1).argmax())
figure = plots.boundary_miss(
    plane, two.inner, two.inner_to_outer, asked[q], plane[near[q]], int(cell[q]), homes[q]
)
style.show(figure, output, "02_boundary")

# %% [markdown]
# ## Cluster the vectors, then the centroids
#
# Now the same in all dimensions. The inner level has K centroids (`n_inner`). In this field they
# are called the *coarse quantizer* (Jégou, Douze, Schmid 2011, section 4). The outer level has L
# (`n_outer`). k-means minimizes the mean squared distance of a vector to its nearest centroid.
# Here it is, by iteration.

# %%
clustering = pqlib.two_level_kmeans(ds.train, n_inner, n_outer, seed=seed)
figure = plots.objective(clustering.inner_objective, clustering.outer_objective)
style.show(figure, output, "02_objective")
first, last = clustering.inner_objective[[0, -1]]
Markdown(
    f"{clustering.n_train:,} vectors trained K = {n_inner} inner centroids; these trained "
    f"L = {n_outer} outer ones. The inner objective fell by {1 - last / first:.1%} from the first "
    "iteration to the last."
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
# With all the dimensions, a cell has many more borders than in the plane, and a query is often
# near several.

# %%
spread = evaluation.clusters_holding_neighbors(clustering, ds, assignment, k)
Markdown(
    f"In {ds.d} dimensions, the true {k} nearest of a query lie in {spread.mean():.1f} different "
    f"lists on average. For {(spread > 1).mean():.0%} of the queries they are spread over more "
    "than one."
)

# %% [markdown]
# ## Probe more lists
#
# The cure is to scan the lists of the `nprobe` nearest centroids. What still lies in no scanned
# list is the *routing loss*. It sets a limit to every index over these lists: no code, however
# good, finds what it never sees.

# %%
nearest = [n for n in (1, k, 100) if n <= ds.neighbors.shape[1]]
found = {n: routing.routed(clustering, ds, n, assignment, n_inner) for n in nearest}
scanned = (found[k].vectors / ds.n).to_numpy()
curves = {n: table.recall.to_numpy() for n, table in found.items()}
style.show(plots.routing(curves, scanned), output, "02_routing")
routed = pd.DataFrame({"nprobe": found[k].nprobe, "scanned": scanned})
routed = routed.assign(**{f"recall_of_{n}": recall for n, recall in curves.items()})
save_table(routed, output, "02_routing")
routed[routed.nprobe.isin([1, 2, 4, 8, 16, 32, 64])].set_index("nprobe").round(3)

# %% [markdown]
# ## Rank the centroids through the outer level
#
# Flat probing compares a query with all K inner centroids. *Multi-level probing* compares it with
# the L outer centroids, keeps the `nprobe_outer` nearest, and ranks only the inner centroids below
# those. It computes fewer distances and may overlook a list.

# %%
half = max(1, n_outer // 2)
for outer in (None, half):
    _, keys = clustering.probe(ds.test, nprobe=min(4, n_inner), nprobe_outer=outer)
    held = evaluation.routing_recall(ds, k, keys, assignment)[-1]
    distances = sum(cost.mean() for cost in clustering.probe_cost(ds.test, outer))
    print(f"nprobe_outer {outer}: {distances:.1f} centroids compared, {held:.3f} of the true {k}")

# %% [markdown]
# Lines and table are means over three clusterings with different seeds, the bands their range:
# another run of k-means moves the curves as well.

# %%
probes = [p for p in (1, 2, 4, 8, 16, 32) if p <= n_inner]
outers = sorted({1, 2, round(n_outer / 2), round(n_outer * 3 / 4)} & set(range(1, n_outer)))
clusterings = {seed: clustering}
for other in (seed + 1, seed + 2):
    clusterings[other] = pqlib.two_level_kmeans(ds.train, n_inner, n_outer, seed=other)
work = routing.work(ds, clusterings, k, probes, outers, nq=2000)
save_table(work, output, "02_work")
style.show(plots.flat_or_nested(work, k), output, "02_work")
mean_work = work.groupby(["probing", "nprobe"], sort=False).mean()
shown = mean_work.recall.unstack()
shown["centroid distances"] = mean_work.centroids.groupby("probing").first()
shown.loc[pd.unique(work.probing)].round(3)

# %% [markdown]
# ## Grow the number of lists
#
# Ranking K centroids costs K distances; the second level is for when K is large. So K grows here,
# with $L \approx \sqrt{K}$ outer clusters, and both ways of probing have to reach the same recall:
# the share `reach` of the true neighbours lies in the probed lists. Flat probing takes the
# smallest `nprobe` that does it. Two levels take the pair of `nprobe` and `nprobe_outer` that does
# it with the fewest distances, scanned vectors included.
#
# The levels can be built in two orders. *Bottom-up* is the one used so far: k-means of the vectors,
# then of the centroids. *Top-down* makes the outer clusters first and splits each by a k-means of
# its own (`faiss.contrib.clustering.two_level_clustering`), so that a training vector meets
# about $L + K / L$ centroids an iteration instead of K. Both train on the same vectors (`n_train`
# in the table) with the same number of iterations.

# %%
reach, costs = 0.9, ["centroids", "distances"]
growth = levels.grow(ds, k, reach, largest=largest, seed=seed)
if len(growth.counted):  # else the base is too small
    save_table(growth.counted, output, "02_growth")
    save_table(growth.curve.drop(columns="qps"), output, "02_growth_recall")
    pays = {cost: levels.crossings(growth.counted, cost) for cost in costs}
    style.show(plots.saving(growth.counted, pays), output, "02_saving")
    figure = plots.recall_cost(growth.curve, "distances", reach, k)
    style.show(figure, output, "02_growth_recall")
levels.payoff(growth.counted, costs)

# %% [markdown]
# Dashed is flat probing, solid two levels, dotted the K from which on two levels cost less
# (interpolated on logarithmic axes; none where they *always* cost less, or *never* at the largest
# K). With growing K the lists get shorter, so that fewer vectors are scanned and more centroids
# ranked. The second figure shows recall over `nprobe` at the largest K, each probing with the
# `nprobe_outer` of the table below. Where that is all of them, no smaller number would do, and two
# levels are flat probing.

# %%
growth.counted.drop(columns=["n_outer", "distances"]).round(
    {"recall": 3, "centroids": 0, "vectors": 0}
)

# %% [markdown]
# A count is not a time. A batch of queries meets *all* centroids in one matrix product, the fastest
# arithmetic there is; below the outer level each query has centroids of its own to visit. Here are
# the same searches timed: probing alone (*coarse*), and with exact distances in the probed lists
# (*search*). Lines are medians of repeats that take turns, bars their range. Two levels pay from
# the K on from which they are at least 5 % faster; less could be chance.

# %% tags=["nbval-ignore-output"]
worth, machine = 0.05, evaluation.machine()
print(", ".join(f"{key} {value}" for key, value in machine.items()))
seconds = levels.seconds(growth.speed)
if len(seconds):
    save_table(growth.speed.assign(**machine), output, "02_growth_time")
    curve = growth.curve.drop(columns="distances").assign(**machine)
    save_table(curve, output, "02_growth_recall_time")
    pays = {step: levels.crossings(seconds, step, worth) for step in ("coarse", "search")}
    style.show(plots.saving_time(growth.speed, pays), output, "02_saving_time")
    style.show(plots.recall_cost(curve, "qps", reach, k), output, "02_growth_recall_time")
levels.payoff(seconds, ["coarse", "search"], worth)

# %% [markdown]
# ## Sum up

# %%
enough = [(goal, int(np.argmax(curves[k] >= goal))) for goal in (0.9, 0.99)]
at = mean_work.xs(probes[len(probes) // 2], level="nprobe")
saves = at[(at.recall >= at.recall["flat"] - 0.01) & (at.centroids < at.centroids["flat"])]
best = saves.centroids.idxmin() if len(saves) else "flat"
share = at.centroids["flat"] / (at.centroids + at.vectors)["flat"]
goals = (f"{goal:.0%} take {p + 1} lists, {scanned[p]:.1%} of the base" for goal, p in enough)
Markdown(
    f"The nearest of {n_inner} lists holds {curves[k][0]:.0%} of the true {k}; {'; '.join(goals)}. "
    f"With nprobe {probes[len(probes) // 2]}, the cheapest probing within 0.01 of flat probing's "
    f"recall is *{best}*: {at.centroids[best]:.0f} centroids compared instead of "
    f"{at.centroids['flat']:.0f}. Scanning the lists takes {at.vectors['flat']:,.0f} more "
    f"distances, so the centroids are {share:.0%} of the work: that is all the second level can "
    f"save with {n_inner} lists."
)

# %% [markdown]
# ## Go on alone
#
# - Halve and double `n_inner`. How does the share of the base scanned for 90 % change?
# - How many lists would vectors of random numbers take (notebook 01 makes some)?
# - Cluster with `niter=1` (`pqlib.two_level_kmeans`). What do 19 more iterations buy?
#
# [03 Compress residuals with product codes](03_pq_encoding.ipynb) compresses what is left of a
# vector inside its list: the residual.
