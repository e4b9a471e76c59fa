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
import numpy as np
import pandas as pd
from IPython.display import Markdown
from scipy.spatial.distance import cdist

import pqlib
from pqlib import evaluation
from pqlib.clustering import sample_rows
from pqlib.study import open_study, save_table, vectors
from pqlib.study.plots import data as plots
from pqlib.study.plots import style

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
k = 10  # neighbours asked for
n_sample = 20_000  # base vectors that statistics and comparisons are computed from, at most
n_queries = 500  # queries that distances and comparisons are computed from, at most
seed = 0
output = None  # folder for this run's figures and results; None: only show them

# %%
ds = open_study(dataset, n_train, n_test).ds
sample = ds.train[sample_rows(ds.n, n_sample, seed)]
queries = ds.test[sample_rows(ds.nq, n_queries, seed)]

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
facts = {name: (*a.shape, a.dtype, round(a.nbytes / 1e6, 1)) for name, a in arrays.items()}
pd.DataFrame(facts, index=["rows", "columns", "type", "megabytes"]).T

# %%
grain = "whole numbers" if ds.whole_numbers else "fractional numbers"
lossless = "One byte a value would hold these vectors without loss, a quarter of float32. "
Markdown(
    f"Values are {grain} from {sample.min():g} to {sample.max():g}; {np.mean(sample == 0):.0%} of "
    f"them are exactly zero. {lossless if ds.whole_numbers else ''}The statistics below come from "
    f"a sample of **{len(sample):,} base vectors** and **{len(queries):,} queries**."
)

# %% [markdown]
# ## See what a neighbour is
#
# Now take queries and their true neighbours. The queries below go from one whose nearest
# neighbour is very near to one whose nearest is far. The number under each picture is its
# distance to the query. The last column is a base vector drawn at random: what you would get
# without searching.

# %%
listed = ds.neighbors.shape[1]
by_difficulty = np.argsort(ds.distances[:, 0], kind="stable")
asked = by_difficulty[(np.array([0.05, 0.35, 0.65, 0.95]) * (ds.nq - 1)).astype(int)]
columns = {"query": ds.test[asked]}
for rank in (1, 2, 3, 10, 100):
    if rank <= listed:
        columns[f"neighbour {rank}"] = ds.train[ds.neighbors[asked, rank - 1]]
anything = np.random.default_rng(seed).choice(ds.n, size=len(asked), replace=False)
columns["random"] = ds.train[anything]
title = "Queries, their true neighbours, and the distances"
style.show(plots.compared(columns, title, picture), output, "01_neighbors")

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
variances = np.linalg.eigvalsh(np.cov(sample, rowvar=False, dtype=np.float64))[::-1].clip(0)
share = variances / variances.sum()
style.show(plots.spread(mean, std, share, picture), output, "01_spread")
spread = pd.DataFrame({"dimension": np.arange(ds.d), "mean": mean, "std": std, "pca_share": share})
save_table(spread, output, "01_spread")

# %%
half, most, nearly_all = np.searchsorted(np.cumsum(share), (0.5, 0.9, 0.99)) + 1
Markdown(
    f"Standard deviations go from {std.min():.3g} to {std.max():.3g}. Of {ds.d} directions, "
    f"**{half}** hold half of the variance, **{most}** hold 90 % and {nearly_all} hold 99 %. "
    + (
        "Much of the variance lies in few directions, and that is what an index can use."
        if most <= ds.d / 2
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
to_random = cdist(queries, sample[sample_rows(len(sample), 1000, seed + 1)])
low, median, high = np.quantile(ds.distances, [0.1, 0.5, 0.9], axis=0)
by_rank = pd.DataFrame({"low": low, "median": median, "high": high})
by_rank.insert(0, "rank", by_rank.index + 1)
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
# not take it on trust: search some queries again. *Recall@k* is the share of the true k nearest
# among the k that a search returns.

# %%
asked = ds.test[:20]
squared, found = pqlib.BruteForce(ds.d, copy=False).add(ds.train).search(asked, listed)
same = np.isclose(np.sqrt(squared), ds.distances[:20], rtol=1e-3, atol=1e-3).all(axis=1)
recall = pqlib.recall_at_k(found, ds, k)
Markdown(
    f"Of {len(asked)} queries searched again, {same.sum()} give the same distances; their "
    f"recall@{k} is {recall:.3f}."
)

# %% [markdown]
# *Ties* need care. When two base vectors are equally far from a query, either is a right answer,
# and a list cut off between them is arbitrary. So all notebooks count a vector as right when it is
# no further than the k-th true neighbour, as ann-benchmarks does.

# %%
tied = ds.distances[:, 1:] == ds.distances[:, :-1]
Markdown(
    f"Of all queries, {tied.any(axis=1).mean():.1%} have two equal distances among their {listed}, "
    f"{tied[:, k - 1 : k].any(axis=1).mean():.1%} have a tie at rank {k}, and "
    f"{(ds.distances[:, 0] == 0).mean():.1%} are also in the base (distance 0)."
)

# %% [markdown]
# ## Set the data beside random vectors
#
# Many tutorials try an index on vectors of random numbers. Make such vectors, as many, as long and
# within the same range, and measure them in the same way. In between stands a third set: the real
# vectors with each dimension's values shuffled among the vectors. It has the same values in each
# dimension, but no dependence between dimensions.

# %%
rng = np.random.default_rng(seed)
low, high = float(sample.min()), float(sample.max())


def uniform(shape):
    """Return random numbers in the range of the data, whole ones where the data are."""
    draw = rng.integers(low, high + 1, shape) if ds.whole_numbers else rng.uniform(low, high, shape)
    return draw.astype(np.float32)


sets = {
    "real": (sample, queries),
    "shuffled": (rng.permuted(sample, axis=0), rng.permuted(queries, axis=0)),
    "uniform": (uniform(sample.shape), uniform(queries.shape)),
}

# %% [markdown]
# Each set is given as many k-means *lists*, trained on it: a list holds the vectors whose nearest
# centroid is the same. For a query, the lists are *probed* one after the other, the one with the
# nearest centroid first. How much of the base do you scan until the true neighbours have been
# seen? Random lists would give the dotted line.

# %%
spreads, curves, summary = vectors.set_beside(ds, sets, k, seed)
style.show(plots.structure(spreads, curves, k), output, "01_structure")
save_table(curves, output, "01_structure")
save_table(summary, output, "01_difficulty")
summary = summary.set_index("data")
shares = summary.columns[2:]
summary.round(2).assign(**summary[shares].map("{:.1%}".format)).T

# %% [markdown]
# Random vectors in many dimensions are all about equally far from each other. Their relative
# contrast goes to 1 as the dimension grows (Beyer, Goldstein, Ramakrishnan, Shaft, ICDT 1999). So
# measure on data like your own, and never on random numbers.
#
# ## Sum up

# %%
need = summary["base scanned to find 90 %"]
Markdown(
    f"Relative contrast is {contrast:.2f} and intrinsic dimension {dimension:.1f}, for vectors of "
    f"{ds.d} values; {most} principal directions hold 90 % of the variance. On {len(sample):,} "
    f"base vectors, the nearest of {curves.nprobe.max()} lists alone holds "
    f"{summary.iloc[0, 2]:.1%} of the {k} true neighbours. To find 90 % of them, scan "
    f"{need['real']:.1%} of the base for the real vectors, {need['shuffled']:.1%} for the shuffled "
    f"and {need['uniform']:.1%} for the uniform ones. "
    + (
        "Whoever tries an index on random vectors concludes that lists do not work. They work on "
        "real vectors because of the dependence between dimensions, which shuffling destroys."
        if need["uniform"] > 1.5 * need["real"] and need["shuffled"] > need["real"]
        else "On these data, lists help little more than on random vectors."
    )
)

# %% [markdown]
# ## Go on alone
#
# - Set `dataset` to another name that `pqlib.datasets` knows, or to a file of your own. Is it
#   harder than this one, by relative contrast and by the share of the base scanned?
# - Which of your queries are hard: those far from their nearest neighbour, or those whose
#   neighbours are all about equally far?
# - How does the share of the base scanned change with `n_sample`, the size of the base?
#
# Lists of near vectors are what every later notebook builds on.
# [02 Cluster it twice](02_clustering.ipynb) makes them, on two levels.
