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
# inner products. This notebook compares them on equal terms: the same vectors, the same bits, the
# same queries, every code scored by exhaustive search, so that nothing but the code counts.
#
# ## What you'll do
#
# - Look at every point that a code of 8 bits can stand for, in two dimensions.
# - Train the family at 32, 64 and 128 bits; measure errors, recall, time and memory.
# - Derive and check the three that faiss lacks: locally optimized, composite and anisotropic
#   quantization.
# - Put any of them into the lists of `MultiLevelPQ`.
#
# ## What you'll learn
#
# - What a rotation, a sum instead of a product, and a local search buy, and what they cost.
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
from pqlib.experiments import family as study
from pqlib.experiments import save_table, sweep
from pqlib.plots import family as plots
from pqlib.plots import style

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
effort = None  # of local search, see pqlib.experiments.family.members; None: by the size

# %%
ds = pqlib.load_dataset(dataset, n_train=n_train, n_test=n_test)
print(ds.describe())
small, long = ds.n < 50_000, ds.d > 256
many = 11_000 if long else 20_000
family = study.Family(
    ds,
    n_train=family_train or (5000 if small else many),
    n_base=family_base or (4000 if small else many),
    n_queries=queries or (500 if small else 1000),
    seed=seed,
)
effort = effort or (0.16 if small else 0.4)
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
# ## See what a code can say
#
# Eight bits name 256 points. Where these may lie is what tells the codes apart. The vectors below
# have two components and lie in fifteen clouds, on a grid that is turned. *Lost* is the mean
# squared error over the spread of the vectors around their mean.
#
# - **PQ** splits the components: 16 values of one times 16 values of the other, a grid along the
#   axes.
# - **OPQ** turns the grid.
# - **LOPQ** has a grid for each cluster, turned where that helps (here three clusters, so it takes
#   two more bits).
# - **RVQ** puts the same 16 offsets around each of 16 centroids.
# - **LSQ** and **CQ** also add two codewords up, but choose all of them together; CQ keeps their
#   inner product nearly constant, which in two dimensions leaves little but a grid.

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
# A product code is as good as its axes. Sums of codewords need no axes; what they need is time, to
# find the best sum among all of them.
#
# ## Train the family
#
# All on the same vectors; their codes are then tried on others, which they have not seen. Beside
# those with codewords stand two with bits for every component, at their own, larger budgets: scalar
# quantization and RaBitQ.

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
columns = ["method", "bits", "error_train", "error_unseen", "one_recall_1", "one_recall_10"]
columns += ["one_recall_100", "recall_10", "train_s", "encode_us", "parameters_bytes"]
done[columns].set_index("method").round(3)

# %% [markdown]
# *per-cluster PQ* and *LOPQ* hold the number of a cluster besides the product code, so they have
# three bits more than the others. `parameters_bytes` is what must be kept beside the codes: for
# LOPQ a rotation and codebooks for each cluster.
#
# ## Compare errors
#
# What a code loses on vectors that it was trained on says little: the more parameters, the less it
# loses there. The right panel counts. Codewords of d numbers are m times as many parameters as
# those of a product code: with few vectors to train on, sums learn them by heart, and lose more on
# others than a product code does.

# %% tags=["nbval-ignore-output"]
style.show(plots.errors(done), output, "08_errors")

# %% [markdown]
# ## Compare recall
#
# The bits of a code are on the axis, whatever their number. 1-recall@10 asks whether the true
# nearest vector is among the ten returned, recall@10 how many of the ten nearest are.

# %% tags=["nbval-ignore-output"]
style.show(plots.recalls(done), output, "08_recall")

# %% [markdown]
# ## Weigh what they cost
#
# Training and encoding happen once, look-ups at every search. The hollow markers are the same
# methods with less work in training, and on larger data with more: iterations of OPQ (0, 5, 20),
# beams of RVQ (1, 3, 8), iterations of LSQ (4, 8, 16) and of CQ (5, 10, 20).

# %% tags=["nbval-ignore-output"]
levels = (0,) if small else (0, 1) if long else (0, 1, 2)
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

# %% tags=["nbval-ignore-output"]
work = ["method", "code_bytes", "multiplications", "lookups", "code_multiplications"]
at_64[[*work, "parameters_bytes", "n_train"]].set_index("method")

# %% [markdown]
# *multiplications* are those of a query, for its tables and rotations; *lookups* those of each
# code scanned. An additive code adds the inner products of its codewords with each other: with m
# numbers, m (m - 1) / 2 look-ups more.
#
# ## Watch them learn
#
# Each training minimizes its own objective, here over its first value. It stops where an iteration
# gains too little.

# %% tags=["nbval-ignore-output"]
learnt = {
    row.method: curves[row.Index]
    for row in at_64.itertuples()
    if row.method in ("PQ", "OPQ", "CQ") and len(curves[row.Index]) > 1
}
style.show(plots.objectives(learnt), output, "08_objectives")

# %% [markdown]
# ## Rotate in each cluster
#
# *Locally optimized product quantization* (Kalantidis, Avrithis, CVPR 2014). In cluster c, the
# residual r = x - c is turned by a rotation R_c and product-quantized with codebooks of the
# cluster's own. For a Gaussian cluster, the least error of a product code of m numbers follows from
# the variances: sub-space j, with variances v_1 ... v_(d/m), contributes in proportion to
# (v_1 ... v_(d/m))^(m/d). The sum over sub-spaces of such terms is least where all are equal, by
# the inequality of arithmetic and geometric means. So `parametric_rotation` takes the cluster's
# principal axes and deals them out, the largest first, each to the sub-space whose product of
# variances is the smallest so far. No iteration is needed.
#
# A rotation of d = 784 takes 2.5 MB, and each cluster has one. It is kept only where it lowers the
# error of the training residuals. Clusters are not Gaussian, and neighbouring components of images
# and of SIFT descriptors belong together as they are: there the parametric rotation may be no
# better than none, and alternating between rotation and codebooks, from either start, may find one
# that is.

# %%
small_train = family.train[:3000]
ways = {
    "no rotation": dict(rotate=False),
    "parametric, where better": dict(iterations=0),
    "alternating": dict(iterations=4),
}
rows = []
for name, how in ways.items():
    made = q.LocallyOptimizedPQ(ds.d, None, 6, n_clusters=4, seed=seed, **how).train(small_train)
    error = q.mean_squared_error(small_train, made.decode(made.encode(small_train)))
    rows.append({"way": name, "rotations kept": made.n_rotated, "error": error})
local = pd.DataFrame(rows).set_index("way")
local["error"] = (local.error / local.error["no rotation"]).round(3)
local

# %% [markdown]
# *error* is that of the training residuals, over the one without rotations.

# %% [markdown]
# ## Do without the extra look-ups
#
# *Composite quantization* (Zhang, Du, Wang, ICML 2014). With y = c_1 + ... + c_m,
#
# $$|q - y|^2 = \sum_j |q - c_j|^2 - (m - 1)\,|q|^2 + \sum_{i \ne j} \langle c_i, c_j \rangle .$$
#
# The first sum is m look-ups. The second term is the same for every code, so it does not change
# their order. The third is zero for product codes, whose codewords live in orthogonal sub-spaces,
# and anything at all for additive codes. Composite quantization asks for it to be nearly a constant
# e, by a penalty that grows until it is:
#
# $$\min \; \textrm{mean}\,|x - y|^2 + \mu\; \textrm{mean}\,(s - e)^2, \qquad
# s = \sum_{i \ne j} \langle c_i, c_j \rangle .$$
#
# With codes fixed, s = |y|^2 - |c_1|^2 - ... - |c_m|^2, so the derivative of s by codeword c_j is
# 2 (y - c_j), and the gradient of the whole by c_j is the sum over the vectors that use it of
# -2 (x - y) + 4 mu (s - e) (y - c_j): all that L-BFGS needs. With codewords fixed, each number of a
# code is set in turn to its best; e is the mean of s. The start is an optimized product code, with
# s = 0.

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
# such a query, an error r along x changes the product, one across it hardly does. Splitting r,
#
# $$h_\parallel |r_\parallel|^2 + h_\perp |r_\perp|^2, \qquad
# \frac{h_\parallel}{h_\perp} = (d - 1)\,\frac{T^2}{1 - T^2},$$
#
# where T is the inner product from which on queries matter. Sub-quantizers are no longer
# independent, since all of them add to the error along x: numbers are set one after the other, and
# a codeword solves a system of d / m equations.

# %% tags=["nbval-ignore-output"]
thresholds = (0.1, 0.2, 0.3) if small or long else (0.05, 0.1, 0.2, 0.3)
products = study.inner_products(family, m, thresholds)
save_table(products.assign(**machine), output, "08_inner_products")
style.show(plots.anisotropic(products), output, "08_inner_products")

# %% [markdown]
# Errors along the vector fall, those across it grow, as they should. Whether recall gains depends
# on the data: where all vectors lie in a narrow cone, as vectors without negative components do,
# the direction that they share tells neighbours little.
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
            "recall_10": study.recall(found, family.neighbors),
            "bytes_per_vector": index.bytes_per_vector,
        }
    )
lists = pd.DataFrame(rows)
save_table(lists, output, "08_lists")
lists.set_index("method").round(3)

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
# Where 8 numbers do not divide d, there are no product codes of 64 bits to compare with. Residual
# and local-search codes need many vectors to train on before they lose less on others.
better = [name for name in ("OPQ", "CQ") if {name, "PQ"} <= set(unseen.index)]
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
# - A rotation costs little and helps nearly always. Sums of codewords gain more, and take their
#   time when they are trained and when they encode.
# - Composite codes have the errors of additive ones with the look-ups of product codes.
# - Parameters per cluster lower the error, and count: look at the bytes beside the codes.
#
# Next: notebook 07 for what speed asks of a code, which is another question.
