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
# # Load and look at the data
#
# Before you build an index, look at what it will hold. How near the near vectors are, and how
# the vectors lie to each other, decides what any index can do with them.
#
# ## What you'll do
#
# - Load base vectors, queries and their true neighbours, and draw some.
# - Measure how the values spread and how far neighbours are.
# - Set the data beside random vectors of the same size.
#
# ## What you'll learn
#
# - What *ground truth* is, and how ties make it ambiguous.
# - Two numbers that tell how hard a data set is: relative contrast and intrinsic dimension.
# - Why a tutorial that tries an index on random vectors teaches the wrong lesson.
#
# ## What you'll need
#
# - NumPy, and an idea of what k-means does. This is the first notebook: no other is needed.

# %%
from dataclasses import replace

import faiss
import numpy as np
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib import evaluation
from pqlib.clustering import sample_rows
from pqlib.study import save_table
from pqlib.study.plots import data as plots
from pqlib.study.plots import style

pd.set_option("display.width", 120, "display.max_columns", 20)

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
seed = 0
output = None  # folder for this run's figures and results; None: only show them
k = 10  # neighbours asked for
n_sample = 20_000  # base vectors that statistics and comparisons are computed from, at most
n_queries = 500  # queries that distances and comparisons are computed from, at most

# %%
ds = pqlib.load_dataset(dataset, n_train=n_train, n_test=n_test)
print(ds.describe())

# %% [markdown]
# ## Look at the shapes
#
# `train` holds the *base*: the vectors that will be searched. `test` holds the *queries*: vectors
# that somebody asks about. For each query, `neighbors` lists its true nearest base vectors by row
# number, nearest first, and `distances` says how far they are. The distance is Euclidean, also
# called L2: $\lVert q - x \rVert = \sqrt{\sum_i (q_i - x_i)^2}$.

# %%
arrays = {
    "train (base)": ds.train,
    "test (queries)": ds.test,
    "neighbors": ds.neighbors,
    "distances": ds.distances,
}
shapes = pd.DataFrame(
    {
        "rows": [f"{len(a):,}" for a in arrays.values()],
        "columns": [a.shape[1] for a in arrays.values()],
        "type": [str(a.dtype) for a in arrays.values()],
        "megabytes": [round(a.nbytes / 1e6, 1) for a in arrays.values()],
    },
    index=list(arrays),
)
shapes

# %%
rows = sample_rows(ds.n, n_sample, seed)
sample = ds.train[rows]
queries = ds.test[sample_rows(ds.nq, n_queries, seed)]
grain = "whole numbers" if ds.whole_numbers else "fractional numbers"
Markdown(
    f"Values are {grain} from {sample.min():g} to {sample.max():g}; {np.mean(sample == 0):.0%} of "
    "them are exactly zero. The statistics below come from a sample of "
    f"**{len(sample):,} base vectors** and **{len(queries):,} queries**"
    + (
        ". One byte a value would hold these vectors without loss, a quarter of float32."
        if ds.whole_numbers and sample.min() >= 0 and sample.max() <= 255
        else "."
    )
)

# %% [markdown]
# ## See what a vector is
#
# A vector is drawn as what it stands for, as far as that is known:
#
# - An image, as that image.
# - A *SIFT descriptor* (Lowe, IJCV 2004, section 6) describes a small patch of a photograph. The
#   patch is cut into 4 x 4 cells. In each, the directions in which brightness changes are counted
#   in 8 bins. That makes 4 x 4 x 8 = 128 values. A ray's length is the value, its direction the
#   bin.
# - Anything else, as a strip of values, one colour each.

# %%
picture = plots.picture_of(sample, ds.whole_numbers, ds.image_shape)
shown = sample[sample_rows(len(sample), 24, seed)]
style.show(plots.samples(shown, "Base vectors, drawn at random", picture), output, "01_samples")

# %% [markdown]
# ## See what a neighbour is
#
# Now take queries and their true neighbours. The queries below go from one whose nearest
# neighbour is very near to one whose nearest is far. The number under each picture is its
# distance to the query. The last column is a base vector drawn at random: what you would get
# without searching.

# %%
ranks = [r for r in (1, 2, 3, 10, 100) if r <= ds.neighbors.shape[1]]
by_difficulty = np.argsort(ds.distances[:, 0], kind="stable")
asked = by_difficulty[(np.array([0.05, 0.35, 0.65, 0.95]) * (ds.nq - 1)).astype(int)]
# The first of these would repeat 24 of the vectors shown above.
random_rows = np.random.default_rng(seed).choice(ds.n, size=len(asked), replace=False)
columns = [ds.test[asked]]
columns += [ds.train[ds.neighbors[asked, r - 1]] for r in ranks]
columns += [ds.train[random_rows]]
table = np.stack(columns, axis=1)
gaps = np.linalg.norm(table.astype(np.float64) - table[:, :1], axis=2)
digits = 0 if gaps.max() >= 100 else 3
captions = [["", *(f"{g:.{digits}f}" for g in line[1:])] for line in gaps]
names = ["query", *(f"neighbour {r}" for r in ranks), "random"]
figure = plots.picture_table(
    table, captions, names, "Queries, their true neighbours, and the distances", picture
)
style.show(figure, output, "01_neighbors")

# %% [markdown]
# ## See how the values spread
#
# Each dimension has its own mean and standard deviation. But dimensions also depend on each
# other: neighbouring pixels are alike, for instance. *Principal directions* take that into
# account. The first is the direction in which the vectors vary most, the second the same at right
# angles to the first, and so on. The curve adds up the share of the variance that they hold. If
# all directions were alike, it would be the dotted line.

# %%
mean = sample.mean(axis=0, dtype=np.float64)
std = sample.std(axis=0, dtype=np.float64)
covariance = np.cov(sample, rowvar=False, dtype=np.float64)
eigenvalues = np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)
share = eigenvalues / eigenvalues.sum()
style.show(plots.spread(mean, std, share, picture), output, "01_spread")
save_table(
    pd.DataFrame({"dimension": np.arange(ds.d), "mean": mean, "std": std, "pca_share": share}),
    output,
    "01_spread",
)

# %%
held = np.cumsum(share)
needed = {p: int(np.searchsorted(held, p)) + 1 for p in (0.5, 0.9, 0.99)}
most, least = std.max(), std.min()
Markdown(
    f"Standard deviations go from {least:.3g} to {most:.3g}. Of {ds.d} directions, "
    f"**{needed[0.5]}** hold half of the variance, **{needed[0.9]}** hold 90 % and "
    f"{needed[0.99]} hold 99 %. "
    + (
        "Much of the variance lies in few directions, and that is what an index can use."
        if needed[0.9] <= ds.d / 2
        else "The variance is spread over most directions."
    )
)

# %% [markdown]
# ## Measure how far the neighbours are
#
# An index is asked to find the near vectors among all others. So compare three distances: to the
# nearest base vector, to the last of the listed neighbours, and to base vectors at random. The
# further apart the three, the easier the search.

# %%
random_base = sample[sample_rows(len(sample), 1000, seed + 1)]
to_random = np.sqrt(np.maximum(faiss.pairwise_distances(queries, random_base), 0))
listed = ds.neighbors.shape[1]
low, median, high = np.quantile(ds.distances, [0.1, 0.5, 0.9], axis=0)
by_rank = pd.DataFrame(
    {"rank": np.arange(1, listed + 1), "low": low, "median": median, "high": high}
)
figure = plots.distances(ds.distances[:, 0], ds.distances[:, -1], to_random, by_rank)
style.show(figure, output, "01_distances")
save_table(by_rank, output, "01_distances")

# %% [markdown]
# Two numbers sum this up.
#
# *Relative contrast* is the mean distance to a random vector over the mean distance to the
# nearest (He, Kumar, Chang, ICML 2012). At 1, the nearest is no nearer than any other, and
# searching for it makes no sense.
#
# *Intrinsic dimension* says how fast the number of neighbours grows with the distance. In a space
# of D dimensions, a ball of radius r holds a number of vectors that grows like $r^D$. Distances
# to the neighbours of a query therefore give an estimate of D (Levina and Bickel, NIPS 2004). It
# is often far below the number of values in a vector, because these depend on each other.

# %%
contrast = evaluation.relative_contrast(ds, seed=seed)
dimension = evaluation.intrinsic_dimension(ds.distances)
Markdown(
    f"Relative contrast **{contrast:.2f}**: a random vector is {contrast:.2f} times as far as the "
    f"nearest. Intrinsic dimension **{dimension:.1f}**, of {ds.d} values in a vector."
)

# %% [markdown]
# ## Check the ground truth
#
# True neighbours come from *exhaustive search*, also called brute force: compare the query with
# every base vector. It is slow, but it is right, and everything else is measured against it. Do
# not take it on trust. Here some queries are searched again.
#
# *Ties* need care. When two base vectors are equally far from a query, either is a right answer,
# and a list cut off between them is arbitrary. So all notebooks count a vector as right when it is
# no further than the k-th true neighbour, as ann-benchmarks does.

# %%
checked = min(20, ds.nq)
brute = pqlib.BruteForce(ds.d, copy=False).add(ds.train)
squared, found = brute.search(ds.test[:checked], listed)
found_distances = np.sqrt(np.maximum(squared, 0))
agree = np.isclose(found_distances, ds.distances[:checked], rtol=1e-3, atol=1e-3).all(axis=1)
tied = ds.distances[:, 1:] == ds.distances[:, :-1]
truth = pd.Series(
    {
        "queries searched again": checked,
        "of these, with the same distances": int(agree.sum()),
        f"their recall@{k}, ties counted as right": f"{pqlib.recall_at_k(found, ds, k):.3f}",
        f"queries with equal distances among their {listed}": f"{tied.any(axis=1).mean():.1%}",
        f"queries with a tie at rank {k}": (
            f"{tied[:, k - 1].mean():.1%}" if k < listed else "unknown"
        ),
        "queries that are also in the base (distance 0)": f"{(ds.distances[:, 0] == 0).mean():.1%}",
    },
    name=ds.name,
)
truth.to_frame()

# %% [markdown]
# ## Set the data beside random vectors
#
# Many tutorials try an index on vectors of random numbers. Make such vectors, as many, as long and
# within the same range, and measure them in the same way. In between stands a third set: the real
# vectors with each dimension's values shuffled among the vectors. It has the same values in each
# dimension, but no dependence between dimensions.
#
# Each set is given the same number of k-means lists, trained on it. For a query, the lists are
# *probed* one after the other, the one with the nearest centroid first. How much of the base do
# you scan until the true neighbours have been seen? Random lists would give the dotted line.

# %%
rng = np.random.default_rng(seed)
low, high = float(sample.min()), float(sample.max())


def uniform(n):
    """Return n random vectors like the data in dimension and range, whole where these are."""
    if ds.whole_numbers:
        return rng.integers(int(low), int(high) + 1, (n, ds.d)).astype(np.float32)
    return rng.uniform(low, high, (n, ds.d)).astype(np.float32)


sets = {
    "real": (sample, queries),
    "shuffled": (rng.permuted(sample, axis=0), rng.permuted(queries, axis=0)),
    "uniform": (uniform(len(sample)), uniform(len(queries))),
}
n_inner, n_outer = pqlib.default_sizes(len(sample))
print(f"{len(sample):,} base vectors, {len(queries):,} queries, {n_inner} lists in each set")

# %%
spreads, curves, summary = {}, [], []
for name, (base, asking) in sets.items():
    squared, neighbors = pqlib.BruteForce(ds.d, copy=False).add(base).search(asking, listed)
    true = np.sqrt(np.maximum(squared, 0))
    subset = replace(ds, name=name, train=base, test=asking, neighbors=neighbors, distances=true)
    lists = pqlib.two_level_kmeans(base, n_inner, n_outer, seed=seed)
    assignment = lists.assign(base)
    _, keys = lists.probe(asking, n_inner)
    sizes = np.bincount(assignment, minlength=n_inner)
    scanned = sizes[keys].cumsum(axis=1).mean(axis=0) / len(base)
    seen = evaluation.routing_recall(subset, k, keys, assignment)
    curves.append(
        pd.DataFrame(
            {
                "data": name,
                "nprobe": np.arange(1, n_inner + 1),
                "scanned": scanned,
                "found": seen,
            }
        )
    )
    pairs = np.sqrt(
        np.maximum(faiss.pairwise_distances(asking, base[sample_rows(len(base), 1000, seed)]), 0)
    )
    spreads[name] = {"nearest": true[:, 0] / pairs.mean(), "random": pairs / pairs.mean()}
    enough = int(np.searchsorted(seen, 0.9))
    summary.append(
        {
            "data": name,
            "relative contrast": evaluation.relative_contrast(subset, seed=seed),
            "intrinsic dimension": evaluation.intrinsic_dimension(true),
            f"{k} neighbours, nearest list": seen[0],
            "base scanned there": scanned[0],
            "base scanned to find 90 %": scanned[enough],
        }
    )
curves = pd.concat(curves, ignore_index=True)
style.show(plots.structure(spreads, curves, k), output, "01_structure")
save_table(curves, output, "01_structure")

# %%
summary = pd.DataFrame(summary).set_index("data")
save_table(summary.reset_index(), output, "01_difficulty")
printed = summary.round({"relative contrast": 2, "intrinsic dimension": 1})
for column in printed.columns[2:]:
    printed[column] = printed[column].map("{:.1%}".format)
printed.T

# %%
need = summary["base scanned to find 90 %"]
ratio = need["uniform"] / need["real"]
Markdown(
    f"To find 90 % of the {k} true neighbours, {need['real']:.1%} of the base must be scanned for "
    f"the real vectors, {need['shuffled']:.1%} for the shuffled and {need['uniform']:.1%} for the "
    f"uniform ones: {ratio:.1f} times as much as for the real. "
    + (
        "Whoever tries an index on random vectors concludes that lists do not work. They work on "
        "real vectors because of the dependence between dimensions, which shuffling destroys."
        if ratio > 1.5 and need["shuffled"] > need["real"]
        else "On these data, lists help little more than on random vectors."
    )
)

# %% [markdown]
# Random vectors in many dimensions are all about equally far from each other. Their relative
# contrast goes to 1 as the dimension grows (Beyer, Goldstein, Ramakrishnan, Shaft, ICDT 1999). So
# measure on data like your own, and never on random numbers.

# %% [markdown]
# ## Sum up

# %%
Markdown(
    f"- **{ds.name}**: {ds.n:,} base vectors of {ds.d} {grain}, {ds.nq:,} queries, "
    f"{listed} true neighbours for each.\n"
    f"- {needed[0.9]} of {ds.d} principal directions hold 90 % of the variance.\n"
    f"- Relative contrast {contrast:.2f}, intrinsic dimension {dimension:.1f}. On "
    f"{len(sample):,} base vectors: {summary['relative contrast']['real']:.2f} and "
    f"{summary['intrinsic dimension']['real']:.1f}; as many uniform vectors have "
    f"{summary['relative contrast']['uniform']:.2f} and "
    f"{summary['intrinsic dimension']['uniform']:.1f}.\n"
    f"- With {n_inner} k-means lists on {len(sample):,} vectors, the nearest list alone holds "
    f"{summary[f'{k} neighbours, nearest list']['real']:.1%} of the {k} true neighbours."
)

# %% [markdown]
# ## Next
#
# Lists of near vectors are what every later notebook builds on.
# [02 Cluster it twice](02_clustering.ipynb) makes them, on two levels.
