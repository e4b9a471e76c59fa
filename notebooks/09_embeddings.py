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
# # Compress transformer embeddings
#
# Many vectors that are searched today are embeddings of texts: a transformer turns a text into
# several hundred numbers, so that texts of similar meaning get vectors close together. How few
# bytes can stand for such a vector? That depends on what it is used for. This notebook asks two
# questions: are the same neighbours found, and is the *right answer* found?
#
# ## What you'll do
#
# - Read a query, its neighbours, and what a 32nd, a 64th and a 128th of the bytes still find.
# - See what embeddings are like, beside SIFT descriptors and, where they are here, pixels.
# - Compress them in every usual way, and compare at equal bytes.
# - Ask queries that are unlike the base, and see what that does to `pqlib.tune`.
#
# ## What you'll learn
#
# - Which way loses least at which size.
# - Where recall falls, but the task loses little or nothing.
# - Why a promise made for the base may not hold for the queries.
#
# ## What you'll need
#
# - Notebook 03 for product codes, 05 for recall; 07 and 08 explain more. The notebook runs alone.
# - The text speaks of `gloss-minilm`: 384 numbers, 1,536 bytes as float32. Other data have other
#   sizes; the outputs say which.

# %%
import pandas as pd
from IPython.display import Markdown

from pqlib.datasets.embedded import load_texts
from pqlib.study import embeddings as study
from pqlib.study import embeddings_words as words
from pqlib.study import open_study, save_table
from pqlib.study.plots import embeddings as plots
from pqlib.study.plots import style

# %% tags=["parameters"]
dataset = "gloss-minilm"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
k = 10  # neighbours asked for
budget_s = None  # seconds that each tuning may take; None: by the size of the data
seed = 0
output = None  # folder for this run's figures and results; None: only show them

# %%
ds = open_study(dataset, n_train, n_test).ds
few, rows = study.fewer_queries(ds)  # at most 1,000
texts = load_texts(ds)  # None where the file has none
texts = texts and texts.asked(rows)

# %% [markdown]
# ## Read some neighbours
#
# `gloss-minilm` are definitions from the dictionary WordNet. The queries are example sentences from
# the same dictionary. So each query has one right answer, its own definition, which is not always
# the nearest vector: a sentence also speaks of other things than the word it is an example of.
#
# Below, product codes stand for the vectors: one byte for 8, 16 and 32 numbers each (48, 24 and 12
# bytes instead of 1,536).

# %%
compression = study.Compression(few, texts and texts.right, k, seed)
for way in study.ways(ds.d):
    if way.method == "PQ" and way.bytes <= ds.d // 8:
        compression.measure(way)
coded = {f"{size} bytes": ids for (_, size), ids in compression.found.items()}
shown = [0, few.nq // 2] if texts else []

# %%
for query in shown:
    print(words.neighbours(texts, query, few.neighbors, coded), end="\n\n")

# %% [markdown]
# Look at what the codes return instead of a lost neighbour. Recall counts each as a loss. Would
# you?
#
# ## See what embeddings are like
#
# *mean_share* is how much all vectors have in common: 0 if their mean is the origin, 1 if all are
# equal. *components_50* and *components_90*: how many principal components hold half and nine
# tenths of the variance. *intrinsic_dimension* and *relative_contrast*: see notebook 01; the
# smaller the contrast, the less do near and far vectors differ. *hubness*: how lopsided (skewed)
# the counts are of how often a vector is among the ten nearest of others; *never*: the share of
# vectors that never are.

# %% tags=["nbval-ignore-output"]
sets = words.beside(ds)
character = pd.DataFrame(study.character(one, seed=seed) for one in sets)
save_table(character, output, "09_character")
character.set_index("dataset").round(3)

# %% [markdown]
# An index that scans a few clusters and compares short codes has trouble with two things. *A flat
# spectrum*: no few principal components hold most of the variance, so a code that keeps few of them
# loses much. *Spread neighbours*: they lie in many clusters, so many have to be scanned. Both are
# drawn here. Clusters are about sqrt(n) lists of k-means, of the whole vectors.

# %% tags=["nbval-ignore-output"]
spectra = pd.concat(map(study.components, sets), ignore_index=True)
spread = pd.concat((study.spread_over_lists(s, k, seed) for s in sets), ignore_index=True)
save_table(spectra, output, "09_spectra")
save_table(spread, output, "09_lists")
style.show(plots.why(spectra, spread, k), output, "09_why")

# %% [markdown]
# ## Compress them in every way
#
# All are scored by exhaustive search of the codes, so that nothing else counts. Queries stay whole;
# only *signs* compresses them as well.
#
# - **float16, int8, int4**: each number rounded (`ScalarQuantizer`).
# - **first dimensions**: keeps the first ones, a byte each, and scales what is left to length 1.
#   Models of the Matryoshka kind (Kusupati and others, NeurIPS 2022) are trained so that this
#   works; MiniLM is not. **PCA**: the same after a rotation to principal components, not scaled.
# - **signs**: one bit a number, compared by Hamming distance; then 100 candidates **re-ranked** by
#   int8 vectors, which have to be kept as well. That costs more bytes than int8 alone and finds
#   less; what it buys is speed, which is not compared here. **RaBitQ**: signs after a random
#   rotation, and two numbers that correct the estimate.
# - **PQ**; **OPQ**: PQ after a rotation that balances the variance of the pieces; **PRQ**: each
#   piece is a sum of several codewords (notebook 08). **cascade's codes**: PCA with a byte for each
#   component, as in the index of notebook 07.
#
# *first* and *ten* are the shares of queries whose right answer is first, or among ten. *rr* is the
# mean over queries of one divided by the rank of the right answer (the *mean reciprocal rank*, MRR;
# 0 where it is not among the first 100).

# %% tags=["nbval-ignore-output"]
ways = compression.run()
lost = compression.lost()
save_table(ways, output, "09_ways", timed=True)
save_table(lost, output, "09_lost")
ways[[c for c in study.SHOWN if c in ways]].set_index("method").round(3)

# %% [markdown]
# A query that is hard for one way is hard for all. So the task is compared by what each query
# loses against whole vectors (*rr* below, and the right panel of the figure). Bars and *low*,
# *high* are 95% intervals over queries (bootstrap); codebooks of another seed are not in them. Bars
# of recall are mostly smaller than the marks.

# %% tags=["nbval-ignore-output"]
lost[[c for c in study.LOST if c in lost]].set_index("method").round(3)

# %% [markdown]
# *shared_bytes* is what all vectors share, such as codebooks and rotations, divided by the number
# of vectors. Multiply it by that number to see the whole: PQ's codebooks are soon next to nothing,
# PRQ's weigh on a million vectors still. Codebooks were also trained on the vectors that they code,
# which flatters methods with large ones (see "when codebooks memorize" in notebook 03).

# %% tags=["nbval-ignore-output"]
style.show(plots.ways(ways, lost, k), output, "09_ways")

# %% tags=["nbval-ignore-output"]
Markdown(words.findings(ways, lost, k))

# %% [markdown]
# ## Ask queries unlike the base
#
# The base are definitions, the queries sentences. Both are embedded by the same model, yet they do
# not lie in the same places. Below is how far each is from its nearest centroid: queries, and
# vectors of the base that were held back from clustering. On average queries are farther; the two
# overlap.

# %% tags=["nbval-ignore-output"]
far = study.to_centroids(ds, seed)
save_table(study.quantiles(far), output, "09_shift")
style.show(plots.shift(far), output, "09_shift")

# %% [markdown]
# `pqlib.tune` calibrates with vectors of the base where it has no queries. For queries that are
# unlike, that promises too much. So it looks at half of the queries, without their ground truth:
# where their neighbours are farther or nearer than those of base vectors by more than chance, it
# finds the exact neighbours of that half itself and calibrates with these. Both are scored on the
# same queries, the half that tuning has not looked at: one run, one seed.
#
# `tune` looks for speed, not for small size: its index keeps whole vectors to re-rank with, so it
# is larger than these. *nprobe*, *candidates* and *margin* are explained in notebook 07.

# %% tags=["nbval-ignore-output"]
budget_s = budget_s or (5 if ds.n < 50_000 else 25)
promised, report = study.promises(ds, (0.9, 0.95), k, budget_s, seed)
save_table(promised, output, "09_promises", timed=True)
print(report)
Markdown(words.promise_words(promised))

# %% [markdown]
# ## What must hold
#
# Some things must hold for any embeddings, and are checked here.

# %%
study.checks(ways)

# %% [markdown]
# ## Go on alone
#
# 1. Embed texts of your own, as [docs/using.md](../docs/using.md#your-own-texts-your-own-files)
#    shows, and run this notebook with `dataset="../texts.hdf5"`.
# 2. Take the mean off the vectors before their signs are taken. Is it much, going by *mean_share*?
#    What does it do to Hamming search?
# 3. Load the data with `metric="cosine"`. Do the neighbours change, and why not? Then double the
#    length of some base vectors and try `metric="ip"`.
#
# [07 Climb to the state of the art](07_ladder.ipynb) asks how fast such vectors can be searched.
