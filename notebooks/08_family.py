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
# A product code is one way to say a vector in a few bytes. This notebook compares it with others on
# equal terms: the same vectors, the same queries, every code scored by exhaustive search.
#
# ## What you'll do
#
# - See every point that a code of 8 bits can stand for.
# - Train the family at 32, 64 and 128 bits; measure errors, recall, time and memory.
# - Check the three that faiss lacks: locally optimized, composite, anisotropic quantization.
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
# - Notebook 03 for product codes, 02 for clusters, 05 for recall. The notebook runs alone.

# %%
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib import quantizers as q
from pqlib.study import family as study
from pqlib.study import family_examples as examples
from pqlib.study import family_words as words
from pqlib.study import open_study, save_table, sweep
from pqlib.study.plots import family as plots
from pqlib.study.plots import style

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
effort = None  # of local search, see pqlib.study.family.members; None: by the size
seed = 0
output = None  # folder for this run's figures and results; None: only show them
resume = None  # folder that keeps what was measured, for a run that was cut off to go on; or None

# %%
ds = open_study(dataset, n_train, n_test).ds

# %% [markdown]
# ## See what a code can say
#
# A code is m numbers. Each number names a codeword of a codebook of its own, and the codewords
# together are the vector that the code stands for. Eight bits name 256 points. Where these may lie
# is what tells the codes apart. The vectors below have two components and lie in fifteen clouds, on
# a grid that is turned. *Lost* is the mean squared error over the spread of the vectors.

# %% tags=["nbval-ignore-output"]
clouds = examples.clouds(seed)
toys = {
    "PQ": q.ProductQuantizer(2, 2, 4),
    "OPQ": q.OptimizedProductQuantizer(2, 2, 4),
    "LOPQ": q.LocallyOptimizedPQ(2, 2, 4, n_clusters=3),
    "RVQ": q.ResidualQuantizer(2, 2, 4),
    "LSQ": q.LocalSearchQuantizer(2, 2, 4, iterations=100),
    "CQ": q.CompositeQuantizer(2, 2, 4),
}
lost = {name: examples.lost(toy.train(clouds), clouds) for name, toy in toys.items()}
points = {name: examples.representable(toy) for name, toy in toys.items()}
style.show(plots.toy(clouds, points, lost), output, "08_toy")

# %% [markdown]
# - **PQ** (product quantization) splits the components: 16 values of one times 16 of the other.
# - **OPQ** (optimized PQ) turns the grid.
# - **LOPQ** (locally optimized PQ) has a grid for each cluster, turned where that helps: here three
#   clusters, so three times as many points and two more bits.
# - **RVQ** (residual quantization) puts the same 16 offsets around each of 16 centroids: a codeword
#   for the vector, one for what is left over, and so on. It keeps the best few beginnings, the
#   *beam*.
# - **LSQ** (local search quantization) also adds codewords up, but improves all of them together.
# - **CQ** (composite quantization) does too, and keeps the inner products of codewords nearly
#   constant. In two dimensions that leaves little but a grid: it looks like OPQ, with which it
#   starts.
#
# A product code is as good as its axes, and these clouds flatter turned grids. Sums need no axes,
# but time to find the best one, and luck in training. Points far outside are not shown.
#
# ## Train the family
#
# All on the same vectors; their codes are then tried on others, which they have not seen. The first
# four of the list are joined by *per-cluster PQ* (LOPQ without rotations), *PRQ* and *PLSQ* (RVQ
# and LSQ of each half of the vector), and at their own, larger sizes *SQ* (4 or 8 bits for each
# component) and *RaBitQ* (the sign of each component after a rotation, and two numbers that correct
# distances).
#
# What takes long is cut short (`effort`): LSQ and PLSQ have 8 or 10 iterations with 2 rounds of
# search instead of faiss's 25 with 8, CQ has 6 instead of 10. What was cut off too early to gain
# from its bits is left out, and said so; so is where a search gets stuck.

# %%
family = study.sized(ds, seed)
print(family.describe())
small, long = ds.n < 50_000, ds.d > 256

# %% tags=["nbval-ignore-output"]
points = study.points(effort or (0.3 if small else 0.4))
context = study.context(family)
table = sweep(points, family.member, progress="family", store=resume, context=context)
table, curves = study.counted(table)
save_table(table, output, "08_family", timed=True)
print(words.missing(table))
done = table[table.status == "ok"]
columns = ["method", "bits", "error_train", "error_unseen", "one_recall_1", "one_recall_10"]
columns += ["one_recall_100", "recall_10", "train_s", "encode_us", "parameters_bytes"]
done[columns].set_index("method").round(3)

# %% [markdown]
# *error_train* and *error_unseen* are mean squared errors over the spread of the vectors around
# their mean, of vectors trained on and of others. *one_recall_R* is 1-recall@R. `parameters_bytes`
# is kept beside the codes: codebooks, rotations, centroids, for sums of codewords also all inner
# products between them. *per-cluster PQ* and *LOPQ* hold the number of one of eight clusters too:
# three bits more. RaBitQ estimates distances and rebuilds no vectors; its error says nothing.
#
# ## Compare errors
#
# What a code loses on vectors that it was trained on says little: the more parameters, the less it
# loses there. The right panel counts. Codewords of d numbers are m times as many parameters as
# those of a product code, and with few vectors to train on they learn them by heart.

# %% tags=["nbval-ignore-output"]
style.show(plots.errors(done), output, "08_errors")

# %% [markdown]
# ## Compare recall
#
# On the right is what a code finds more than PQ does, with one standard error of PQ's recall in
# grey. The error counts all vectors, recall only the few nearest.

# %% tags=["nbval-ignore-output"]
style.show(plots.recalls(done), output, "08_recall")

# %% [markdown]
# ## Weigh what they cost
#
# Training and encoding happen once, look-ups at every search. Hollow markers are the same methods
# trained with other settings, listed below the figure.

# %% tags=["nbval-ignore-output"]
levels = (0,) if small or long else (0, 1)
efforts = sweep(
    [dict(method=name, level=level) for name in study.EFFORTS for level in levels],
    lambda method, level: study.efforts(family, method, level),
    progress="efforts",
    store=resume,
    context=context,
).drop(columns="objective", errors="ignore")
save_table(efforts, output, "08_efforts", timed=True)
at_64, longer = done[done.budget == 64], efforts[efforts.status == "ok"]
style.show(plots.costs(at_64, longer), output, "08_costs")
shown = ["method", "setting", "error_train", "error_unseen", "recall_10", "train_s", "encode_us"]
longer[shown].set_index("method").round(3)

# %% tags=["nbval-ignore-output"]
work = ["method", "bits", "code_bytes", "multiplications", "lookups", "parameters_bytes"]
at_64[work].set_index("method")

# %% [markdown]
# *multiplications* are those of a query, for its tables and rotations; *lookups* those of each code
# scanned. An additive code also adds the inner products of its codewords with each other: with m
# numbers, m (m - 1) / 2 look-ups more, or the squared length of the vector stored with each code.
#
# ## Watch them learn
#
# The error of the vectors trained on, by iteration. OPQ starts from the better of two product
# codes, CQ from an OPQ. Their last point is what was kept: codebooks learnt once more for the final
# rotation, or the best of the iterations.

# %% tags=["nbval-ignore-output"]
style.show(plots.objectives(examples.learnt(done, curves, family)), output, "08_objectives")

# %% [markdown]
# ## Rotate in each cluster
#
# *Locally optimized product quantization* (Kalantidis, Avrithis, CVPR 2014): in each cluster the
# residual is turned by a rotation of the cluster's own. For a Gaussian cluster, sub-space j adds
# (det V_j)^(m/d) to the error, where V_j is the covariance in it. Along principal axes the product
# of these determinants is as small as it can be, and then their sum is least where all are equal.
# So `parametric_rotation` deals the principal axes out, the largest first, each to the sub-space
# whose product of variances is the smallest so far. No iteration is needed.
#
# A rotation is kept only where it lowers the error of the training residuals. Real clusters are not
# Gaussian: there none may be better, or one found by alternating between rotation and codebooks.

# %%
examples.rotations(family)

# %% [markdown]
# *kept* counts the rotations, of four clusters; *trained* and *others* are errors over those
# without rotations, of the vectors trained on and of others.
#
# ## Do without the extra look-ups
#
# *Composite quantization* (Zhang, Du, Wang, ICML 2014). With y = c_1 + ... + c_m, one codeword of
# each dictionary, and vectors and queries less the mean of the vectors,
#
# $$|q - y|^2 = \sum_j |q - c_j|^2 - (m - 1)\,|q|^2 + \sum_{i \ne j} \langle c_i, c_j \rangle .$$
#
# The first sum is m look-ups. The second term is the same for every code. The third is zero for
# product codes, and anything at all for additive ones. Composite quantization asks for it, s, to be
# nearly a constant e, by a penalty whose weight mu grows until it is:
#
# $$\min \; \textrm{mean}\,|x - y|^2 + \mu\; \textrm{mean}\,(s - e)^2, \qquad
# s = \sum_{i \ne j} \langle c_i, c_j \rangle .$$
#
# Codewords are learnt by L-BFGS, which needs the gradient only; then each number of a code is set
# in turn to its best. The start is an optimized product code, with s = 0.

# %% tags=["nbval-ignore-output"]
m = study.numbers_of(ds.d)
composite = q.CompositeQuantizer(ds.d, m, 8, iterations=5, seed=seed).train(family.train)
looked = examples.look_ups_against_distances(composite, family)
save_table(pd.DataFrame([looked]), output, "08_composite")
Markdown(words.composite_words(looked, m))

# %% [markdown]
# ## Aim at inner products
#
# *Anisotropic vector quantization* (Guo and others, ICML 2020). Where vectors have length 1 and the
# largest inner products are wanted, the queries that matter for x point roughly its way. An error
# along x then changes the product, one across it hardly does. So the error r = x - y is split into
# both parts, which are weighed apart:
#
# $$h_\parallel |r_\parallel|^2 + h_\perp |r_\perp|^2, \qquad
# \frac{h_\parallel}{h_\perp} \approx (d - 1)\,\frac{T^2}{1 - T^2}.$$
#
# T is a weight to be tuned: the inner product from which on queries matter.

# %% tags=["nbval-ignore-output"]
thresholds = (0.1, 0.2, 0.3) if small or long else (0.05, 0.1, 0.2, 0.3)
products = examples.inner_products(family, m, thresholds)
save_table(products, output, "08_inner_products", timed=True)
style.show(plots.anisotropic(products), output, "08_inner_products")
shown = ["threshold", "ratio", "recall_10", "recall_10_unit", "length", "length_found"]
products[shown].round(3)

# %% [markdown]
# *ratio* is h_par / h_ort; *length* the mean length of decoded vectors, *length_found* that of the
# vectors returned. A vector coded badly across its direction decodes too long, and its products
# with *every* query that points its way are too large: a few such vectors are returned to nearly
# all. A look-up more for each code, of one over its length, mends most of that (`recall_10_unit`).

# %% tags=["nbval-ignore-output"]
Markdown(words.anisotropic_words(products))

# %% [markdown]
# ## Put them into the lists
#
# Any of them serves as `codec=` in the lists of `MultiLevelPQ`. What makes no sense is refused.

# %% tags=["nbval-ignore-output"]
lists = examples.in_lists(family)
save_table(lists, output, "08_lists")
lists.set_index("method").round(3)

# %%
try:
    pqlib.MultiLevelPQ(ds.d, 20, 4, codec=q.AnisotropicProductQuantizer(ds.d, m))
except ValueError as refused:
    print(refused)

# %% [markdown]
# ## What was found

# %% tags=["nbval-ignore-output"]
print(words.beside_reference(done, ds.name))
Markdown(words.advice(done, ds.name))

# %%
examples.checks(done, looked, small)

# %% [markdown]
# ## Go on alone
#
# 1. Train PQ on a tenth of the vectors. Which of the two errors tells you so?
# 2. Give LSQ more `iterations`. When does it overtake RVQ, and what did that cost?
# 3. Code your own vectors with `codec=` in `MultiLevelPQ`. Which member finds most within 16 bytes?
#
# What speed asks of a code is another question, that of [notebook 07](07_ladder.ipynb).
