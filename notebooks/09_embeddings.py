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
# Most vectors that are compressed today are embeddings of texts: a transformer turns a text into
# some hundred numbers, and texts that mean alike get vectors that lie close together. How few bytes
# may such a vector have? That depends on what it is for. This notebook asks twice: are the same
# neighbours found, and is the *right answer* found?
#
# ## What you'll do
#
# - Read a query, its neighbours, and what 48, 24 and 12 bytes still find of them.
# - See what embeddings are like, beside SIFT descriptors and pixels.
# - Compress them in every usual way, and compare at equal bytes.
# - Ask queries that are unlike the base, and see what that does to `pqlib.tune`.
#
# ## What you'll learn
#
# - Which way loses least at which size.
# - Where recall falls, but the task does not notice.
# - Why a promise made for the base may not hold for the queries.
#
# ## What you'll need
#
# - Notebook 03 for product codes, 05 for recall. The notebook runs alone.

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
few, rows = study.fewer_queries(ds)
texts = load_texts(ds)
texts = texts and texts.asked(rows)

# %% [markdown]
# ## Read some neighbours
#
# `gloss-minilm` are definitions from the dictionary WordNet. The queries are example sentences from
# the same dictionary. So each query has one right answer, its own definition, which is not always
# the nearest vector: a sentence also speaks of other things than the word it is an example of.
#
# Below, product codes of 48, 24 and 12 bytes stand for the vectors, which have 1,536 bytes as
# float32.

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
# Look at what takes the place of neighbours that are lost. Recall counts each as a loss. Would a
# reader?
#
# ## See what embeddings are like
#
# *mean_share* is what all vectors have in common: the squared length of their mean, over their mean
# squared length. *components_50* and *components_90* count the principal components that hold half
# and nine tenths of the variance. *hubness* is the skewness of how often a vector is among the ten
# nearest of others; *never* is the share of vectors that never are.

# %% tags=["nbval-ignore-output"]
sets = words.beside(ds)
character = pd.DataFrame(study.character(one, seed=seed) for one in sets)
save_table(character, output, "09_character")
character.set_index("dataset").round(3)

# %% [markdown]
# Two things make a set hard for an index of inverted lists with short codes. A flat spectrum: a few
# principal components hold little, so short codes leave many candidates. And neighbours that are
# spread over many lists, so that many have to be read. Both are drawn here, the second for the
# queries of each set and for vectors of its base.

# %% tags=["nbval-ignore-output"]
spectra = pd.concat(map(study.components, sets), ignore_index=True)
spread = pd.concat((study.spread_over_lists(s, k, seed) for s in sets), ignore_index=True)
save_table(spectra, output, "09_spectra")
save_table(spread, output, "09_lists")
style.show(plots.why(spectra, spread, k), output, "09_why")

# %% [markdown]
# ## Compress them in every way
#
# All are scored by exhaustive search of the codes, so that nothing else counts:
#
# - **float16, int8, int4**: each number rounded (`ScalarQuantizer`).
# - **first dimensions**: the others left out, int8. Models of the Matryoshka kind are trained for
#   that (Kusupati and others, NeurIPS 2022); this one is not. **PCA** leaves out after a rotation.
# - **signs**: one bit a number, compared by Hamming distance; then 100 candidates **re-ranked** by
#   int8 vectors, which have to be kept as well. **RaBitQ**: signs after a random rotation, and two
#   numbers that correct the estimate.
# - **PQ**, **OPQ** (rotated by the eigenvalue rule), **PRQ** (sums of codewords in parts of the
#   vector): see notebook 08. **cascade's codes**: those of `CascadeIndex`, before it re-ranks.
#
# *first* and *ten* are the shares of queries whose right answer is first, or among ten; *rr* is the
# mean of one over its rank. Bars are 95% intervals over queries (bootstrap).

# %% tags=["nbval-ignore-output"]
ways = compression.run()
lost = compression.lost()
save_table(ways, output, "09_ways", timed=True)
save_table(lost, output, "09_lost")
ways[[c for c in study.SHOWN if c in ways]].set_index("method").round(3)

# %% [markdown]
# *shared_bytes* is what all vectors share, such as codebooks and rotations, over the number of
# vectors. Here there are few vectors, so it is large; with a million it is next to nothing.

# %% tags=["nbval-ignore-output"]
style.show(plots.ways(ways, k), output, "09_ways")

# %% tags=["nbval-ignore-output"]
Markdown(words.findings(ways, lost, k))

# %% [markdown]
# ## Ask queries unlike the base
#
# The base are definitions, the queries sentences. Both are embedded by the same model, yet they do
# not lie in the same places: queries are further from all centroids than vectors of the base that
# were held back from clustering.

# %% tags=["nbval-ignore-output"]
far = study.to_centroids(ds, seed)
save_table(study.quantiles(far), output, "09_shift")
style.show(plots.shift(far), output, "09_shift")

# %% [markdown]
# `pqlib.tune` calibrates with vectors of the base where it has no queries. For queries that are
# unlike, that promises too much. So it looks at half of the queries, without their ground truth:
# where their neighbours are farther than those of base vectors by more than chance, it finds the
# exact neighbours of that half itself and calibrates with these. Both ways below, tried on the
# other half.

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
study.checks(ways, lost)

# %% [markdown]
# ## Go on alone
#
# 1. Embed texts of your own: `python -m pqlib.datasets embed texts.txt --model NAME out.hdf5`, and
#    run this notebook with `dataset="out.hdf5"`.
# 2. Take the mean off the vectors before their signs are taken. What does it do to Hamming search?
# 3. Load the data with `metric="cosine"` and put them into `MultiLevelPQ(..., metric="cosine")`.
#
# [07 Climb to the state of the art](07_ladder.ipynb) asks how fast such vectors can be searched.
