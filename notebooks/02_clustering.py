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
# - From which number of lists on a second level pays, in counted distances and in time.
#
# ## What you'll need
#
# - k-means and NumPy. Notebook 01 shows the data; this one runs alone.

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown
from tqdm import tqdm

import pqlib
from pqlib import evaluation
from pqlib.clustering import from_centroids, imbalance, kmeans
from pqlib.study import levels, save_table
from pqlib.study.plots import clustering as plots
from pqlib.study.plots import style

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
largest = None  # most inner clusters in the last section; None: 24 vectors each, up to 16,384
reach = 0.9  # share of the true neighbours that the lists probed there hold
timed_queries = 500  # at most so many, in one batch
repeats = 5  # of each timing
worth = 0.05  # speed gained that counts; repeats of one timing differ by about as much

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
# Ranking K centroids costs K distances; the second level is for when K is large. So K grows here,
# with $L \approx \sqrt{K}$ outer clusters, and both ways of probing have to reach the same recall:
# the share `reach` of the true neighbours lies in the probed lists. Flat probing takes the
# smallest `nprobe` that does it. Two levels take the pair of `nprobe` and `nprobe_outer` that does
# it with the fewest distances, scanned vectors included.
#
# The levels can be built in two orders. *Bottom-up* is the one used so far: k-means of the vectors,
# then of the centroids. *Top-down* makes the outer clusters first and splits each by a k-means of
# its own (`faiss.contrib.clustering.two_level_clustering`), so that a training vector meets
# about $L + K / L$ centroids an iteration instead of K. Both train on the same vectors with the
# same number of iterations: fewer vectors where K is small, since faiss's function uses no more
# for so few clusters (`n_train` in the table).

# %%
counted, timed = levels.sweep_sizes(ds.n, largest)
budget = max(20_000, 4 * max(counted, default=0))
# The longest lists are scanned in about a second.
batch = ds.test[: min(ds.nq, timed_queries, max(200, int(5e10 / (ds.n * ds.d))))]
rows, timings, curves_of = [], [], []
for count in tqdm(counted, desc="inner clusters", leave=False, disable=None):
    built = {}
    for build, clusters in levels.build_levels(
        ds.train, count, round(count**0.5), max_train=budget, seed=seed
    ).items():
        index = pqlib.KMeansIndex(ds.d, count, clusters.n_outer).train(ds.train, clusters)
        home = levels.assignment_of(index.add(ds.train))
        points = levels.compare_probing(clusters, ds, k, home, reach, nq=len(queries))
        about = {
            "n_inner": count,
            "n_outer": clusters.n_outer,
            "build": build,
            "n_train": clusters.n_train,
        }
        rows += [about | {"probing": probing} | point for probing, point in points.items()]
        built[build] = index, points
        if count == counted[-1]:
            curve = levels.recall_curve(index, ds, k, home, points, nq=len(queries))
            curve_qps = levels.time_curve(index, batch, k, curve, repeats)
            curves_of.append(curve.assign(n_inner=count, build=build, qps=curve_qps))
    if count in timed:
        timings.append(levels.time_probing(built, batch, k, repeats).assign(n_inner=count))
    del index, built  # each index holds the whole base
growth = pd.DataFrame(rows)
if len(growth):
    growth["distances"] = growth.centroids + growth.vectors
    save_table(growth, output, "02_growth")
    pays = {cost: levels.crossings(growth, cost) for cost in ("centroids", "distances")}
    style.show(plots.saving(growth, pays), output, "02_saving")

# %% [markdown]
# Dashed is flat probing, solid two levels, dotted the K from which on two levels cost less
# (interpolated on logarithmic axes; none where they cost less at every K, or not at the largest).
# With growing K the lists get shorter, so that fewer vectors are scanned and more centroids
# ranked. Where `nprobe_outer` is all of them, no smaller number would do, and two levels are flat
# probing.

# %%
shown = ["n_inner", "build", "n_train", "probing", "nprobe", "nprobe_outer", "recall"]
if len(growth):
    print(
        growth[[*shown, "centroids", "vectors"]]
        .round({"recall": 3, "centroids": 0, "vectors": 0})
        .to_string(index=False)
    )


# %%
def begins(at, sizes):
    """Say where a second level begins to pay."""
    if at == -np.inf:
        return f"it pays at every K tried, from {sizes[0]:,} on, so the crossing lies below"
    if at == np.inf:
        return f"there is no crossing: it does not pay with {sizes[-1]:,} inner clusters, the most"
    return f"it pays from K = {at:,.0f} on"


if len(growth):
    last = growth[growth.n_inner == counted[-1]].set_index(["build", "probing"])
    lines = []
    for build in levels.BUILDS:
        flat, two = last.loc[(build, "flat")], last.loc[(build, "two levels")]
        lines.append(
            f"- *{build}*: counting centroids alone, {begins(pays['centroids'][build], counted)}; "
            f"counting the scanned vectors as well, {begins(pays['distances'][build], counted)}. "
            f"With {counted[-1]:,} inner clusters two levels compare "
            f"{two.centroids / flat.centroids:.0%} of the centroids and compute "
            f"{two.distances / flat.distances:.0%} of all distances that flat probing does."
        )
    for probing in levels.PROBINGS:
        rows_of = growth[growth.probing == probing]
        best = rows_of.loc[rows_of.distances.idxmin()]
        lines.append(
            f"- The fewest distances with *{probing}*: {best.distances:,.0f} per query, with "
            f"{best.n_inner:,} inner clusters built {best.build}."
        )
    sentence = (
        f"At {reach:.0%} of the true {k} in the probed lists, the second level by counted "
        "distances:\n\n" + "\n".join(lines)
    )
else:
    sentence = "The base is too small to grow the number of lists."
Markdown(sentence)

# %% [markdown]
# At the largest K, this is recall against distances over `nprobe`, each probing with the
# `nprobe_outer` of the table.

# %%
if curves_of:
    curve = pd.concat(curves_of, ignore_index=True)
    save_table(curve.drop(columns="qps"), output, "02_growth_recall")
    style.show(plots.recall_cost(curve, "distances", reach, k), output, "02_growth_recall")

# %% [markdown]
# A count is not a time. A batch of queries meets *all* centroids in one matrix product, the fastest
# arithmetic there is; below the outer level each query has centroids of its own to visit. Here are
# the same searches timed: probing alone, and with exact distances in the probed lists. Lines are
# medians of repeats that take turns, bars their range. By time, two levels pay from the K on from
# which they are at least the share `worth` faster; less could be chance. The figure after it has
# recall against the speed of the whole search, at the largest K.

# %% tags=["nbval-ignore-output"]
machine = evaluation.machine()
print(", ".join(f"{key} {value}" for key, value in machine.items()))
if timings:
    speed = pd.concat(timings, ignore_index=True)
    speed["seconds"] = 1 / speed.qps
    faster = {
        step: levels.crossings(rows, "seconds", worth) for step, rows in speed.groupby("step")
    }
    at = growth.set_index(["n_inner", "build", "probing"])
    keys = pd.MultiIndex.from_frame(speed[["n_inner", "build", "probing"]])
    speed["recall"] = at.recall.loc[keys].to_numpy()
    columns = ["n_inner", "build", "step", "probing", "recall", "qps", "qps_min", "qps_max"]
    save_table(speed[columns].assign(**machine), output, "02_growth_time")
    style.show(plots.saving_time(speed, faster), output, "02_saving_time")
if curves_of:
    save_table(curve.drop(columns="distances").assign(**machine), output, "02_growth_recall_time")
    style.show(plots.recall_cost(curve, "qps", reach, k), output, "02_growth_recall_time")

# %% tags=["nbval-ignore-output"]
lines = []
for build in levels.BUILDS if timings else ():
    last = speed[(speed.n_inner == timed[-1]) & (speed.build == build)]
    last = last.set_index(["step", "probing"]).qps
    gain = {step: last[step, "two levels"] / last[step, "flat"] for step in ("coarse", "search")}
    lines.append(
        f"- *{build}*: timing the probing alone, {begins(faster['coarse'][build], timed)}; "
        f"timing the whole search, {begins(faster['search'][build], timed)}. With {timed[-1]:,} "
        f"inner clusters two levels are {gain['coarse']:.2f} times as fast at probing and "
        f"{gain['search']:.2f} times in all."
    )
if lines:
    sentence = (
        f"The second level by measured time, in batches of {len(batch):,} queries, where to pay is "
        f"to be at least {worth:.0%} faster:\n\n" + "\n".join(lines)
    )
else:
    sentence = "The base is too small to time."
Markdown(sentence)

# %% [markdown]
# ## Next
#
# [03 Compress residuals with product codes](03_pq_encoding.ipynb) compresses what is left of a
# vector inside its list: the residual.
