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
# # Meet the family
#
# A product code is one way to say a vector in a few bytes. There are others: it can be rotated
# first, made anew in each cluster, replaced by sums of whole-vector codewords, or trained for
# inner products. This notebook compares them on equal terms: the same vectors, the same bits or
# the bits on the axis, the same queries, every code scored by exhaustive search, so that nothing
# but the code counts.
#
# ## What you'll do
#
# - Look at every point that a code of 8 bits can stand for, in two dimensions.
# - Train the family at 32, 64 and 128 bits; measure errors, recall, time and memory.
# - Understand and check the three that faiss lacks: locally optimized, composite and anisotropic
#   quantization.
# - Put any of them into the lists of `MultiLevelPQ`.
#
# ## What you'll learn
#
# - What a rotation, a sum instead of a product, and a longer search buy, and what they cost.
# - Why an additive code needs more look-ups, and how composite quantization does without.
# - When an error along the vector matters more than one across it.
#
# ## What you'll need
#
# - Notebook 03 for product codes and their distance tables, 02 for clusters, 05 for recall. The
#   notebook runs alone.

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib import evaluation
from pqlib import quantizers as q
from pqlib.study import family as study
from pqlib.study import save_table, sweep
from pqlib.study.plots import family as plots
from pqlib.study.plots import style

pd.set_option("display.width", 120, "display.max_columns", 20, "display.max_colwidth", 80)

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
seed = 0
output = None  # folder for this run's figures and results; None: only show them
resume = None  # folder that keeps what was measured, for a run that was cut off to go on; or None
family_train = None  # vectors each quantizer is trained on; None: by the size of the data
family_base = None  # other vectors, encoded and searched; None: by the size of the data
queries = None  # searched for; None: by the size of the data
effort = None  # of local search, see pqlib.study.family.members; None: by the size

# %%
ds = pqlib.load_dataset(dataset, n_train=n_train, n_test=n_test)
print(ds.describe())
small, long = ds.n < 50_000, ds.d > 256
many = 6_500 if long else 17_000
family = study.Family(
    ds,
    n_train=family_train or (4000 if small else many),
    n_base=family_base or (3000 if small else many),
    n_queries=queries or (500 if small else 1000),
    seed=seed,
)
effort = effort or (0.3 if small else 0.4)
context = {
    "data": [ds.name, ds.n, ds.d],
    "sizes": [family.n_train, family.n_base, family.n_queries],
    "seed": seed,
    "versions": list(evaluation.machine().values()),
}
print(
    f"{family.n_train:,} vectors to train on, {family.n_base:,} others to encode and search, "
    f"{family.n_queries:,} queries"
)

# %% [markdown]
# ## Meet them
#
# A code is m numbers, mostly of 8 bits each. Each number names a codeword of a codebook of its own
# (a *dictionary*, where codewords are whole vectors), and the codewords together are the vector
# that the code stands for.
#
# | name | in full | what the numbers say |
# | --- | --- | --- |
# | PQ | product quantization | one codeword for each of m sub-vectors |
# | OPQ | optimized PQ | the same, after a rotation of all vectors |
# | per-cluster PQ | | the number of a cluster, then PQ of the residual with codebooks of its own |
# | LOPQ | locally optimized PQ | the same, with a rotation for each cluster where it helps |
# | RVQ | residual quantization | a codeword for the vector, one for what is left over, and so on |
# | LSQ | local search quantization | codewords whose sum is nearest, all chosen together |
# | PRQ, PLSQ | product-residual, product-LSQ | the vector cut in halves, RVQ or LSQ of each |
# | CQ | composite quantization | as LSQ, the sum of inner products of codewords held constant |
# | SQ | scalar quantization | 4 or 8 bits for each component |
# | RaBitQ | | the sign of each component after a rotation, and two numbers that correct distances |
#
# RVQ chooses numbers one after the other. It keeps the best few beginnings on the way, the *beam*.
# LSQ starts from any numbers and improves them by a local search.
#
# ## See what a code can say
#
# Eight bits name 256 points. Where these may lie is what tells the codes apart. The vectors below
# have two components and lie in fifteen clouds, on a grid that is turned. *Lost* is the mean
# squared error over the spread of the vectors around their mean.
#
# - **PQ** splits the components: 16 values of one times 16 values of the other, a grid along the
#   axes.
# - **OPQ** turns the grid.
# - **LOPQ** has a grid for each cluster, turned where that helps. Here are three clusters, so there
#   are three times as many points, and it takes two more bits.
# - **RVQ** puts the same 16 offsets around each of 16 centroids.
# - **LSQ** and **CQ** also add two codewords up, but choose all of them together. CQ keeps their
#   inner product nearly constant, which in two dimensions leaves little but a grid: it looks like
#   OPQ, with which it starts.

# %%
rng = np.random.default_rng(seed)
turn = np.array([[np.cos(0.5), np.sin(0.5)], [-np.sin(0.5), np.cos(0.5)]])
grid = np.stack(np.meshgrid(np.arange(5) * 2.0, np.arange(3) * 2.0), axis=-1).reshape(-1, 2)
clouds = grid[rng.integers(len(grid), size=6000)] + 0.2 * rng.standard_normal((6000, 2))
clouds = (clouds @ turn).astype(np.float32)
toys = {
    "PQ": q.ProductQuantizer(2, 2, 4),
    "OPQ": q.OptimizedProductQuantizer(2, 2, 4),
    "LOPQ": q.LocallyOptimizedPQ(2, 2, 4, n_clusters=3),
    "RVQ": q.ResidualQuantizer(2, 2, 4),
    "LSQ": q.LocalSearchQuantizer(2, 2, 4, iterations=100),
    "CQ": q.CompositeQuantizer(2, 2, 4),
}
spread = q.mean_squared_error(clouds, np.broadcast_to(clouds.mean(axis=0), clouds.shape))
lost = {}
for name, toy in toys.items():
    toy.train(clouds)
    lost[name] = q.mean_squared_error(clouds, toy.decode(toy.encode(clouds))) / spread
points = {name: study.representable(toy) for name, toy in toys.items()}

# %% tags=["nbval-ignore-output"]
style.show(plots.toy(clouds, points, lost), output, "08_toy")

# %% [markdown]
# A product code is as good as its axes. These clouds lie on a grid, so they flatter turned grids;
# real vectors below do not. Sums of codewords need no axes. What they need is time, to find the
# best sum among all of them, and luck in training: of 256 sums the best is easily found, yet LSQ
# has come to rest with codewords that are not the best. Codewords far outside are not shown.
#
# ## Train the family
#
# All on the same vectors; their codes are then tried on others, which they have not seen. SQ and
# RaBitQ have bits for every component: they stand at their own, larger budgets.
#
# What takes long to train or to encode with is cut short here. faiss gives LSQ and PLSQ 25
# iterations with 8 rounds of search in each, this notebook 8 iterations on small data and 10 on
# larger ones (`effort`), with 2 rounds; CQ has 6 iterations instead of 10; RVQ and PRQ do without
# training on few principal components first (`progressive`). What was cut off too early to gain
# from its bits is left out, and said so; so is where a search gets stuck.

# %% tags=["nbval-ignore-output"]
table = sweep(study.points(effort), family.member, progress="family", store=resume, context=context)
machine = evaluation.machine()
curves = table.pop("objective") if "objective" in table else pd.Series(dtype=object)
counts = ["bits", "code_bytes", "parameters_bytes", "n_train"]
counts += ["multiplications", "lookups", "code_multiplications"]
table = table.astype(dict.fromkeys(counts, "Int64"))  # not floats where one was not run
save_table(table.assign(**machine), output, "08_family")
done = table[table.status == "ok"]
for row in table[table.status != "ok"].itertuples():
    print(f"{row.method}, {row.budget} bits: not run, {row.reason}")
print(*study.stuck(done), sep="\n")
columns = ["method", "bits", "error_train", "error_unseen", "one_recall_1", "one_recall_10"]
columns += ["one_recall_100", "recall_10", "train_s", "encode_us", "parameters_bytes"]
done[columns].set_index("method").round(3)

# %% [markdown]
# *error_train* and *error_unseen* are mean squared errors over the spread of the vectors around
# their mean, of the vectors trained on and of others. *recall_10* is recall@10; *one_recall_1*,
# *_10* and *_100* are 1-recall@R, how often the nearest neighbour is among the first R found.
#
# *per-cluster PQ* and *LOPQ* hold the number of one of eight clusters besides the product code:
# three bits more than the others, stored as two bytes. `parameters_bytes` is what is kept beside
# the codes: codebooks, rotations, centroids; for RVQ, LSQ, PRQ and PLSQ also a table of all inner
# products between codewords, with which distances are looked up. RaBitQ's error is no measure of
# it: it estimates distances, and does not rebuild vectors.
#
# ## Compare errors
#
# What a code loses on vectors that it was trained on says little: the more parameters, the less it
# loses there. The right panel counts. Codewords of d numbers are m times as many parameters as
# those of a product code: the more numbers and the fewer vectors to train on, the more sums learn
# them by heart, and the smaller is what they gain on others, down to a loss.

# %% tags=["nbval-ignore-output"]
style.show(plots.errors(done), output, "08_errors")

# %% [markdown]
# ## Compare recall
#
# The bits of a code are on the axis, whatever their number. On the right is what a code finds more
# than PQ does; the grey band is one standard error of PQ's recall over the queries. Error and
# recall need not rank codes alike: the error counts all vectors, recall only the few nearest.

# %% tags=["nbval-ignore-output"]
style.show(plots.recalls(done), output, "08_recall")

# %% [markdown]
# ## Weigh what they cost
#
# Training and encoding happen once, look-ups at every search. The hollow markers are the same
# methods trained with other settings, which are listed below the figure. (OPQ with no iterations
# is PQ where no rotation is better than none.)

# %% tags=["nbval-ignore-output"]
levels = (0,) if small or long else (0, 1)
efforts = sweep(
    [dict(method=name, level=level) for name in study.EFFORTS for level in levels],
    lambda method, level: study.efforts(family, method, level),
    progress="efforts",
    store=resume,
    context=context,
)
efforts = efforts.drop(columns="objective", errors="ignore")
save_table(efforts.assign(**machine), output, "08_efforts")
at_64 = done[done.budget == 64]
longer = efforts[efforts.status == "ok"]
style.show(plots.costs(at_64, longer), output, "08_costs")
shown = ["method", "setting", "error_train", "error_unseen", "recall_10", "train_s", "encode_us"]
longer[shown].set_index("method").round(3)

# %% tags=["nbval-ignore-output"]
work = ["method", "bits", "code_bytes", "multiplications", "lookups", "parameters_bytes"]
at_64[work].set_index("method")

# %% [markdown]
# *multiplications* are those of a query, for its tables and rotations (per cluster, for all eight);
# *lookups* those of each code scanned. An additive code adds the inner products of its codewords
# with each other: with m numbers, m (m - 1) / 2 look-ups more. PRQ and PLSQ do so in each half,
# with half the numbers. Or the squared length of the vector is stored with each code, which makes
# all of these one number more to read, for a byte or four of memory; the codes here have no such
# byte, so that bits compare like with like.
#
# ## Watch them learn
#
# The error of the vectors trained on, by iteration. PQ starts from random vectors, OPQ from the
# better of two product codes, with and without a rotation, and CQ from an OPQ, so the curves begin
# where others end. Of what CQ minimizes, this is the first term; the second, a penalty that grows
# on the way, may raise it. Training stops after a number of iterations, or earlier where one gains
# too little. The last point of OPQ and CQ is what was kept: codebooks learnt once more for the
# final rotation, or the best of the iterations.

# %% tags=["nbval-ignore-output"]
learnt = {
    row.method: np.array(curves[row.Index]) / family.spread
    for row in at_64.itertuples()
    if row.method in ("PQ", "OPQ", "CQ") and len(curves[row.Index]) > 1
}
style.show(plots.objectives(learnt), output, "08_objectives")

# %% [markdown]
# ## Rotate in each cluster
#
# *Locally optimized product quantization* (Kalantidis, Avrithis, CVPR 2014). In a cluster with
# centroid a, the residual r = x - a is turned by a rotation of the cluster's own and
# product-quantized with its own codebooks. For a Gaussian cluster and many bits, sub-space j
# contributes to the error in proportion to (det V_j)^(m/d), where V_j is the covariance in it, of
# d / m dimensions. Whatever the rotation, the product of these determinants is at least det V, the
# determinant of the whole; along the principal axes it is exactly that, and there det V_j is the
# product of the variances in sub-space j. Given the product, the sum is least where all terms are
# equal, by the inequality of arithmetic and geometric means. So `parametric_rotation` takes the
# cluster's principal axes and deals them out, the largest first, each to the sub-space whose
# product of variances is the smallest so far and that still has room. No iteration is needed.
#
# A rotation of d = 784 takes 2.5 MB, and each cluster has one. It is kept only where it lowers the
# error of the training residuals. Clusters are not Gaussian, and neighbouring components of images
# and of SIFT descriptors belong together as they are: there the parametric rotation may be no
# better than none, and alternating between rotation and codebooks, from either start, may find one
# that is.

# %%
small_train, others = family.train[:3000], family.base[:2000]
ways = {
    "no rotation": dict(rotate=False),
    "parametric, where better": dict(iterations=0),
    "alternating": dict(iterations=4),
}
rows = []
for name, how in ways.items():
    made = q.LocallyOptimizedPQ(ds.d, None, 6, n_clusters=4, seed=seed, **how).train(small_train)
    errors = [q.mean_squared_error(x, made.decode(made.encode(x))) for x in (small_train, others)]
    rows.append({"way": name, "kept": made.n_rotated, "trained": errors[0], "others": errors[1]})
local = pd.DataFrame(rows).set_index("way")
for column in ("trained", "others"):
    local[column] = (local[column] / local[column]["no rotation"]).round(3)
local

# %% [markdown]
# *kept* counts the rotations, of four clusters; *trained* is the error of the vectors trained on,
# over the one without rotations, *others* that of other vectors. A rotation is kept for what it
# gains on the first; whether it also gains on the second is another matter.

# %% [markdown]
# ## Do without the extra look-ups
#
# *Composite quantization* (Zhang, Du, Wang, ICML 2014). With y = c_1 + ... + c_m, one codeword of
# each dictionary, and vectors and queries less the mean of the vectors,
#
# $$|q - y|^2 = \sum_j |q - c_j|^2 - (m - 1)\,|q|^2 + \sum_{i \ne j} \langle c_i, c_j \rangle .$$
#
# The first sum is m look-ups. The second term is the same for every code, so it does not change
# their order. The third is zero for product codes, whose codewords live in orthogonal sub-spaces,
# and anything at all for additive codes. Composite quantization asks for it to be nearly a constant
# e, by a penalty whose weight mu grows until it is:
#
# $$\min \; \textrm{mean}\,|x - y|^2 + \mu\; \textrm{mean}\,(s - e)^2, \qquad
# s = \sum_{i \ne j} \langle c_i, c_j \rangle .$$
#
# With codes fixed, s = |y|^2 - |c_1|^2 - ... - |c_m|^2, so the derivative of s by codeword c_j is
# 2 (y - c_j), and n times the gradient of the whole by c_j is the sum over the vectors that use it
# of -2 (x - y) + 4 mu (s - e) (y - c_j): all that L-BFGS needs, a method that learns the curvature
# from gradients. With codewords fixed, each number of a code is set in turn to its best; e is the
# mean of s. The start is an optimized product code, with s = 0.

# %% tags=["nbval-ignore-output"]
m = 8 if ds.d % 8 == 0 else max(v for v in range(1, 9) if ds.d % v == 0)
composite = q.CompositeQuantizer(ds.d, m, 8, iterations=5, seed=seed).train(family.train)
looked = study.look_ups_against_distances(composite, family)
save_table(pd.DataFrame([looked]), output, "08_composite")
Markdown(
    f"Standard deviation of s: {looked['deviation']:.2%} of the mean squared norm. recall@10 by "
    f"{m} look-ups a code: {looked['recall_10']:.4f}; by distances to the decoded vectors: "
    f"{looked['recall_10_exact']:.4f}."
)

# %% [markdown]
# ## Aim at inner products
#
# *Anisotropic vector quantization* (Guo and others, ICML 2020). Where the largest inner products
# are wanted and vectors have length 1, the queries that matter for x point roughly its way. For
# such a query, an error along x changes the product, one across it hardly does. So the error
# r = x - y is split into its part along x and the rest, which are weighed apart:
#
# $$h_\parallel |r_\parallel|^2 + h_\perp |r_\perp|^2, \qquad
# r_\parallel = \langle r, x \rangle\, x, \quad r_\perp = r - r_\parallel, \qquad
# \frac{h_\parallel}{h_\perp} \approx (d - 1)\,\frac{T^2}{1 - T^2}.$$
#
# T is the inner product from which on queries matter, if they pointed anywhere alike; in effect it
# is a weight to be tuned. The ratio is taken as at least 1, where it is a plain product code.
# Sub-quantizers are no longer independent, since all of them add to the error along x: numbers are
# set one after the other, and a codeword solves a system of d / m equations.

# %% tags=["nbval-ignore-output"]
thresholds = (0.1, 0.2, 0.3) if small or long else (0.05, 0.1, 0.2, 0.3)
products = study.inner_products(family, m, thresholds)
save_table(products.assign(**machine), output, "08_inner_products")
style.show(plots.anisotropic(products), output, "08_inner_products")
shown = ["threshold", "ratio", "recall_10", "recall_10_unit", "length", "length_found"]
products[shown].round(3)

# %% [markdown]
# *ratio* is h_par / h_ort; *length* the mean length of decoded vectors, *length_found* that of the
# vectors returned. Errors along the vector fall, those across it grow, as they should. Plain PQ
# decodes vectors shorter than they are, some more than others, and prefers the long ones. A code
# whose product with x comes out right although much error is left across x stands for a longer
# vector than it should: |y|^2 is about 1 + |error across|^2. The products of *every* query that
# points its way are then too large. Where the vectors returned are much longer than the mean, a few
# badly coded ones are returned to nearly all.
#
# A look-up more for each code, of one over the length of its vector, mends most of that:
# `recall_10_unit` ranks by products with decoded vectors of length 1, as all the true ones are.

# %% tags=["nbval-ignore-output"]
Markdown(study.anisotropic_words(products))

# %% [markdown]
#
# ## Put them into the lists
#
# Any of them serves as `codec=` in the lists of `MultiLevelPQ`, of residuals or of the vectors
# themselves, shared or one for each cluster. What makes no sense is refused, with the reason.

# %% tags=["nbval-ignore-output"]
rows = []
for name, how in {
    "PQ": dict(codec=q.ProductQuantizer(ds.d, m, 8)),
    "OPQ": dict(codec=q.OptimizedProductQuantizer(ds.d, m, 8, iterations=5)),
    "RVQ": dict(codec=q.ResidualQuantizer(ds.d, m, 8, progressive=False)),
    "CQ": dict(codec=q.CompositeQuantizer(ds.d, m, 8, iterations=8)),
    "OPQ of vectors": dict(
        codec=q.OptimizedProductQuantizer(ds.d, m, 8, iterations=5), code_of="vectors"
    ),
    "LOPQ, 6 bits": dict(
        codec=q.OptimizedProductQuantizer(ds.d, m, 6, iterations=0),
        codebooks="per-cluster",
    ),
}.items():
    index = pqlib.MultiLevelPQ(ds.d, 20, 4, seed=seed, **how)
    index.train(family.train).add(family.base)
    found = index.search(family.queries, study.K, nprobe=5)[1]
    rows.append(
        {
            "method": name,
            "bits": index.quantizer(0).bits,
            "recall_10": study.recall(found, family.neighbors),
            "bytes_per_vector": index.bytes_per_vector,
        }
    )
lists = pd.DataFrame(rows)
save_table(lists, output, "08_lists")
lists.set_index("method").round(3)

# %% [markdown]
# Bytes per vector count everything, codebooks and rotations included, over the few vectors held
# here. *LOPQ, 6 bits* has shorter codes: a list has too few vectors for codebooks of 256 codewords
# of its own.

# %%
try:
    pqlib.MultiLevelPQ(ds.d, 20, 4, codec=q.AnisotropicProductQuantizer(ds.d, m))
except ValueError as refused:
    print(refused)

# %% [markdown]
# ## Choose one
#
# What follows is written by rules from the tables above.

# %% tags=["nbval-ignore-output"]
Markdown(study.advice(done, ds.name))

# %% tags=["nbval-ignore-output"]
if ds.name == "sift":
    reference = at_64.set_index("method").mse_unseen
    for name, value in study.REFERENCE.items():
        print(f"{name}: {reference[name]:,.0f} here; {value:,.0f} by faiss, on the whole base")

# %% [markdown]
# Some things must hold on any machine, and are checked here.

# %%
unseen = done[done.budget == 64].set_index("method").error_unseen
# Where 8 numbers do not divide d, there are no product codes of 64 bits to compare with. Sums of
# codewords need many vectors to train on before they lose less on others.
certain = ("OPQ",) if small else ("OPQ", "CQ")
better = [name for name in certain if {name, "PQ"} <= set(unseen.index)]
checks = {
    **{f"{name} loses less than PQ": unseen[name] < unseen["PQ"] for name in better},
    "products of codewords are nearly constant in CQ": looked["deviation"] <= 0.01,
    "look-ups alone lose at most half a point": looked["recall_10"]
    >= looked["recall_10_exact"] - 0.005,
    "product codes of more bits lose less": all(
        own.sort_values("budget").error_unseen.is_monotonic_decreasing
        for _, own in done[done.method.isin(["PQ", "OPQ", "LOPQ"])].groupby("method")
    ),
}
pd.Series({name: bool(value) for name, value in checks.items()})

# %% [markdown]
# ## What to take along
#
# - A rotation of all vectors lowers the error, for several times the training of PQ, and d^2
#   multiplications more for each vector encoded and each query. Whether one for each cluster pays,
#   the error of vectors not trained on tells; that of those trained on does not.
# - Sums of codewords find more at few bits, cut in halves (PRQ) also at more; they take their time
#   when they encode, and look-ups when they are searched. With few vectors to train on they learn
#   by heart.
# - Composite codes do with the look-ups of product codes. They pay with dictionaries and query
#   tables of m times the work, and a long search in encoding; compare them with OPQ, with which
#   they start.
# - For inner products of vectors of length 1, try one more look-up of their decoded length before
#   a loss that weighs errors by direction.
# - Parameters per cluster lower the error, and count: look at the bytes beside the codes.
# - Compare errors on vectors that were not trained on, and recalls with their standard errors.
#
# What speed asks of a code is another question, that of [notebook 07](07_ladder.ipynb). This is the
# last notebook; to see the study on other vectors, run `make figures DATASET=name-or-path`.
