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
# # Study sensitivity to every parameter
#
# An index has a handful of numbers to choose. This notebook turns them one at a time, the others
# held, and shows what recall, work, speed and memory answer.
#
# ## What you'll do
#
# - Vary the code: m and nbits, shared and per-cluster codebooks.
# - Vary the routing: nprobe, the inner clusters, the outer clusters.
# - Keep a row for what could not be trained, with what it would need.
#
# ## What you'll learn
#
# - Which knobs buy recall with memory, which with time.
# - Why a bigger codebook is not always affordable.
# - When the outer level saves work.
#
# ## What you'll need
#
# - Notebook 02 for lists and probing, 03 and 04 for codes and searching with them. The notebook
#   runs alone.

# %%
import time

import numpy as np
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib import evaluation
from pqlib.experiments import (
    NotRun,
    save_table,
    sweep,
    training_multiplications,
    within_budget,
)
from pqlib.plots import sensitivity as plots
from pqlib.plots import style

pd.set_option("display.width", 120, "display.max_columns", 20, "display.max_colwidth", 80)

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
seed = 0
output = None  # folder for this run's figures and results; None: only show them
k = 10  # neighbours asked for
n_inner = None  # inner clusters; None: sqrt(n / 6)
n_outer = None  # outer clusters; None: sqrt(n_inner)
m = None  # sub-quantizers held while other knobs turn; None: the largest divisor of d up to 8
nbits = 8  # bits held while other knobs turn
max_queries = 2000  # queries whose recall is measured
nprobe = 8  # lists probed while other knobs turn
max_train = 20_000  # vectors that train k-means and shared codebooks in every sweep
budget = 3e12  # multiplications that one configuration may spend on training its codebooks

# %%
ds = pqlib.load_dataset(dataset, n_train=n_train, n_test=n_test)
print(ds.describe())
default_inner, default_outer = pqlib.default_sizes(ds.n)
n_inner = n_inner or default_inner
n_outer = n_outer or max(1, round(n_inner**0.5))
m = pqlib.ProductQuantizer(ds.d, m).m
nprobe = min(nprobe, n_inner)
print(
    f"\nheld: {n_inner} inner and {n_outer} outer clusters, m = {m}, nbits = {nbits}, "
    f"nprobe = {nprobe}; trained on {min(max_train, ds.n):,} vectors"
)

# %% [markdown]
# All sweeps below share one clustering where the clusters are not what is varied, so that a
# difference between two rows comes from the knob alone. Training sees fewer vectors than in
# notebooks 04 and 05, so recalls differ a little from theirs.

# %%
clustering = pqlib.two_level_kmeans(ds.train, n_inner, n_outer, max_train=max_train, seed=seed)
sizes = np.bincount(clustering.assign(ds.train), minlength=n_inner)
queries = ds.test[:max_queries]
timed = queries[:500]
standard = (m, nbits)  # the code that is held while other knobs turn


def queries_per_second(search):
    """Return the median of three timed batches after a warm-up."""
    seconds = evaluation.time_calls({"": search}, repeats=3, progress=False).median_s.item()
    return len(timed) / seconds


def measured(index, timing=True, **options):
    """Return what one index, searched in one way, finds and costs."""
    _, ids = index.search(queries, k, **options)
    cost = {stage: c.mean() for stage, c in index.search_cost(queries, k, **options).items()}
    return {
        "recall": pqlib.recall_at_k(ids, ds, k),
        "distance_computations": sum(cost.values()),
        "centroid_distances": cost["outer"] + cost["inner"],
        "code_bytes": index.code_bytes,
        "bytes_per_vector": index.bytes_per_vector,
        "clusters_on_shared": index.n_shared_clusters if index.codebooks == "per-cluster" else 0,
        "qps": queries_per_second(lambda: index.search(timed, k, **options)) if timing else None,
    }


held = {}


def trained(m, nbits, codebooks):
    """Return the index of one code, or raise NotRun with what it would need."""
    if (m, nbits, codebooks) in held:
        return held[m, nbits, codebooks]
    cost = training_multiplications(ds.n, ds.d, nbits, codebooks, sizes, max_train)
    within_budget(cost, budget)
    index = pqlib.MultiLevelPQ(
        ds.d, n_inner, n_outer, m, nbits, codebooks, max_train=max_train, seed=seed
    )
    index.train(ds.train, clustering).add(ds.train)
    if (m, nbits) == standard:
        held[m, nbits, codebooks] = index
    return index


# %% [markdown]
# ## Vary the code: m and nbits
#
# A code has m numbers of nbits bits. Either makes it longer and finer, but not alike: one more
# bit doubles the sub-centroids, and with them training time, tables and codebooks; a larger m
# leaves the codebooks' size as it was and lengthens the tables (shared codebooks keep `n_inner` of
# them, computed in advance) and the sum of m look-ups that is a distance. The five pairs (m, nbits)
# of the sketch, this study's first draft, are among the rows: (2, 8), (4, 8), (8, 8), (4, 4) and
# (4, 16). Where m does not divide d, the row says so. *clusters_on_shared* counts clusters too
# small for codebooks of their own, which use the shared ones.

# %% tags=["nbval-ignore-output"]
pairs = [(2, 8), (4, 8), (8, 8), (4, 4), (4, 16)]  # the sketch's
# Codes long enough to be compared with per-cluster ones whose codebooks are counted.
longest = max(v for v in range(1, max(1, min(64, ds.d // 2)) + 1) if ds.d % v == 0)
more = {
    "shared": [(16, 8), (longest, 8), (8, 4), (16, 4), (4, 6), (8, 6), (16, 6)],
    # Fewer where every cluster trains its own.
    "per-cluster": [(8, 4), (16, 4), (8, 6)],
}
grid = [
    dict(m=m_, nbits=bits, codebooks=mode)
    for mode, others in more.items()
    for m_, bits in sorted({*pairs, *others}, key=lambda pair: (pair[1], pair[0]))
]
codes = sweep(grid, lambda **code: measured(trained(**code), nprobe=nprobe), progress="m, nbits")
save_table(codes, output, "06_codes")
print(f"{(codes.status == 'ok').sum()} of {len(codes)} codes measured")

# %%
shown = codes.set_index(["codebooks", "nbits", "m"])[
    ["recall", "code_bytes", "bytes_per_vector", "clusters_on_shared"]
]
shown[codes.set_index(shown.index).status == "ok"].round({"recall": 3, "bytes_per_vector": 1})

# %% [markdown]
# What could not be trained, or not within the budget of this notebook:

# %%
missing = codes[codes.status != "ok"].set_index(["codebooks", "nbits", "m"])[["reason"]]
for place, reason in missing.reason.items():
    print("{}, {} bits, m = {}: ".format(*place) + reason)

# %% [markdown]
# How long would 16 bits take? The rate at which this machine trains one small codebook gives an
# estimate, good for the order of magnitude. It is a timing, so it changes with the machine.

# %% tags=["nbval-ignore-output"]
small = ds.train[: min(ds.n, 4096)]
start = time.perf_counter()
pqlib.ProductQuantizer(ds.d, m, 8, seed=seed).train(small)
rate = pqlib.ProductQuantizer.training_cost(len(small), ds.d, 8) / (time.perf_counter() - start)
least = pqlib.ProductQuantizer.training_cost(1 << 16, ds.d, 16)
advised = pqlib.ProductQuantizer.training_cost(39 << 16, ds.d, 16)
Markdown(
    f"At {rate:.1e} multiplications per second, 16-bit codebooks take about "
    f"{least / rate / 60:,.1f} minutes to train on 65,536 vectors, one for each centroid, and "
    f"{advised / rate / 3600:,.1f} hours on the 39 for each that faiss asks for."
)

# %% [markdown]
# The same measurements against two sizes: on the left the code alone, as most papers count; on
# the right everything the index holds. A codebook for each cluster moves to the right by its
# weight.

# %%
style.show(plots.code_size(codes, k), output, "06_code_size")

# %%
done = codes[codes.status == "ok"]
best = done.loc[done.recall.idxmax()]
lines = [
    f"Highest recall@{k} of these codes: {best.recall:.3f}, {best.codebooks} codebooks, "
    f"m = {best.m}, {best.nbits} bits, {best.bytes_per_vector:,.0f} bytes per vector in all."
]
both = done.pivot_table(index=["m", "nbits"], columns="codebooks", values="recall").dropna()
if {"shared", "per-cluster"} <= set(both.columns) and len(both):
    gain = both["per-cluster"] - both["shared"]
    lines.append(
        f"At equal code size, per-cluster codebooks change recall by {gain.min():+.3f} to "
        f"{gain.max():+.3f}."
    )
local = done[done.codebooks == "per-cluster"]
if len(local):
    wins = 0
    for row in local.itertuples():
        rivals = done[
            (done.codebooks == "shared") & (done.bytes_per_vector <= row.bytes_per_vector)
        ]
        wins += len(rivals) == 0 or row.recall > rivals.recall.max()
    lines.append(
        f"At no more total memory, {wins} of {len(local)} per-cluster codes beat every shared "
        f"code tried here, the longest of which has "
        f"{done[done.codebooks == 'shared'].code_bytes.max()} bytes."
    )
Markdown(" ".join(lines))

# %% [markdown]
# Speed does not follow from the counts alone. Every distance is a sum of m look-ups, so it falls
# with m. And a code of 8 bits is read faster than one of 4 or 6, whose numbers must first be cut
# out of the bytes.

# %% tags=["nbval-ignore-output"]
style.show(plots.speed(codes, k), output, "06_speed")
by_m = done[(done.codebooks == "shared") & (done.nbits == 8)].sort_values("m")
Markdown(
    f"Shared codebooks, 8 bits: {by_m.qps.iloc[0]:,.0f} queries per second with "
    f"m = {by_m.m.iloc[0]}, {by_m.qps.iloc[-1]:,.0f} with m = {by_m.m.iloc[-1]}."
)

# %% [markdown]
# ## Vary nprobe
#
# More lists find more of the true neighbours, up to what the codes can tell apart. The dashed
# line is the limit that routing sets: what codes without any error would find in the same lists.

# %% tags=["nbval-ignore-output"]
values = [p for p in (1, 2, 4, 8, 16, 32) if p <= n_inner]
_, keys = clustering.probe(queries, values[-1])
limit = evaluation.routing_recall(ds, k, keys, clustering.assign(ds.train))
modes = []
for mode in ("shared", "per-cluster"):
    try:
        modes.append((mode, trained(m, nbits, mode)))
    except NotRun as problem:
        print(f"{mode}: {problem}")
if not modes:
    raise ValueError("No codebook mode fits the budget: raise `budget` or lower `nbits`.")
probing = pd.concat(
    [
        sweep(
            [dict(codebooks=mode, nprobe=p) for p in values],
            lambda codebooks, nprobe, index=index: (
                measured(index, nprobe=nprobe) | {"routing_limit": limit[nprobe - 1]}
            ),
            progress="nprobe",
        )
        for mode, index in modes
    ]
)
save_table(probing, output, "06_nprobe")

# %%
probing.pivot(index="nprobe", columns="codebooks", values="recall").assign(
    perfect=limit[np.array(values) - 1]
).round(3)

# %%
style.show(plots.probes(probing, k), output, "06_nprobe")

# %% [markdown]
# ## Vary the inner clusters
#
# More clusters make shorter lists and smaller residuals, and more centroids to compare with. The
# shared codebook is used, trained on residuals of the same vectors for all. At equal work, which
# line is highest?

# %% tags=["nbval-ignore-output"]
counts = sorted({max(2, round(n_inner * f)) for f in (0.25, 0.5, 1, 2)})
counts = [c for c in counts if c <= min(max_train, ds.n) // 4]


def over_inner(n_inner):
    """Return a row for each nprobe of an index with so many inner clusters."""
    index = pqlib.MultiLevelPQ(
        ds.d,
        n_inner,
        max(1, round(n_inner**0.5)),
        m,
        nbits,
        "shared",
        max_train=max_train,
        seed=seed,
    )
    index.train(ds.train).add(ds.train)
    return [
        {"nprobe": p, **measured(index, timing=False, nprobe=p)}
        for p in (1, 2, 4, 8, 16, 32)
        if p <= n_inner
    ]


inner = sweep([dict(n_inner=c) for c in counts], over_inner, progress="n_inner")
save_table(inner, output, "06_inner")

# %%
inner.pivot(index="n_inner", columns="nprobe", values="recall").round(3)

# %%
style.show(plots.inner_clusters(inner, k), output, "06_inner")
lines_by_count = {c: rows.sort_values("nprobe") for c, rows in inner.groupby("n_inner")}
least_work = max(rows.distance_computations.min() for rows in lines_by_count.values())
most_work = min(rows.distance_computations.max() for rows in lines_by_count.values())
equal_work = float(np.sqrt(least_work * most_work))
at_equal_work = pd.Series(
    {
        c: np.interp(np.log(equal_work), np.log(rows.distance_computations), rows.recall)
        for c, rows in lines_by_count.items()
    }
)
size_of = inner.groupby("n_inner").bytes_per_vector.first()
Markdown(
    f"At about {equal_work:,.0f} distance computations a query (between measured points), "
    f"recall@{k} is highest, {at_equal_work.max():.3f}, with {at_equal_work.idxmax():,} inner "
    f"clusters and lowest, {at_equal_work.min():.3f}, with {at_equal_work.idxmin():,}. From "
    f"{counts[0]:,} to {counts[-1]:,} clusters the index grows from {size_of.iloc[0]:.1f} to "
    f"{size_of.iloc[-1]:.1f} bytes per vector: centroids and precomputed tables."
)

# %% [markdown]
# ## Vary the outer clusters
#
# With the inner clusters and nprobe held, the outer level decides how many centroids are compared
# with the query. Ranking few outer clusters saves distances and may lose lists that flat probing
# would have found.

# %%
levels = sorted({max(2, round(n_outer * f)) for f in (0.5, 1, 2)})


def over_outer(n_outer):
    """Return a row for each nprobe_outer of the same lists under so many outer clusters."""
    outer = pqlib.clustering.kmeans(clustering.inner, n_outer, seed=seed)
    nested = pqlib.clustering.from_centroids(clustering.inner, outer.centroids)
    rows = []
    for p in (1, 2, 3, 4, 6, 8, 12):
        if p >= n_outer:
            break
        _, probed = nested.probe(queries, nprobe, p)
        outer_cost, inner_cost = nested.probe_cost(queries, p)
        # The lists that routing can reach, whatever codes they hold.
        reached = evaluation.routing_recall(ds, k, probed, assignment)[-1]
        rows.append(
            {
                "nprobe_outer": p,
                "recall": reached,
                "centroid_distances": float((outer_cost + inner_cost).mean()),
            }
        )
    return rows


assignment = clustering.assign(ds.train)
outer = sweep([dict(n_outer=c) for c in levels], over_outer, progress="n_outer")
_, probed = clustering.probe(queries, nprobe)
flat = (float(evaluation.routing_recall(ds, k, probed, assignment)[-1]), float(n_inner))
save_table(outer.assign(flat_recall=flat[0], flat_distances=flat[1]), output, "06_outer")
outer.pivot(index="n_outer", columns="nprobe_outer", values="recall").round(3)

# %%
style.show(plots.outer_clusters(outer, k, flat), output, "06_outer")
enough = outer[outer.recall >= flat[0] - 0.01]
if len(enough) and enough.centroid_distances.min() < flat[1]:
    cheapest = enough.loc[enough.centroid_distances.idxmin()]
    verdict = (
        f"Within 0.01 of flat probing's {flat[0]:.3f}, the cheapest routing compares "
        f"{cheapest.centroid_distances:.0f} centroids instead of {flat[1]:.0f} "
        f"({cheapest.n_outer:.0f} outer clusters, {cheapest.nprobe_outer:.0f} probed)."
    )
else:
    verdict = (
        f"No routing tried here comes within 0.01 of flat probing's {flat[0]:.3f} with fewer than "
        f"its {flat[1]:.0f} centroid distances: with so few inner clusters the second level does "
        "not pay."
    )
Markdown(verdict)

# %% [markdown]
# ## Compare what the knobs move
#
# The span of recall that each knob covered in this notebook, the others held, and what it costs:
# the memory and the counted work at the lowest and at the highest recall. (The count does not see
# that a sum over a larger m takes longer; the speeds above do.) A span is not the importance of a
# knob: it depends on the values tried.

# %%
spans = {
    "m (8 bits, shared)": done[(done.nbits == 8) & (done.codebooks == "shared")],
    f"nbits (m = {m}, shared)": done[(done.m == m) & (done.codebooks == "shared")],
    "nprobe": probing[probing.codebooks == modes[0][0]],
    f"n_inner (nprobe = {nprobe})": inner[inner.nprobe == nprobe],
    "codebook mode": done[(done.m == m) & (done.nbits == nbits)],
}
columns = {
    "recall": "recall",
    "bytes_per_vector": "bytes per vector",
    "distance_computations": "distance computations",
}
table = {}
for name, rows in spans.items():
    if len(rows):
        ends = rows.sort_values("recall", kind="stable").iloc[[0, -1]]
        table[name] = {
            f"{title}, {end}": ends[column].iloc[place]
            for column, title in columns.items()
            for place, end in ((0, "lowest"), (1, "highest"))
        }
table = pd.DataFrame(table).T.astype(float)
table["span"] = table["recall, highest"] - table["recall, lowest"]
table = table.sort_values("span", ascending=False)
save_table(table.rename_axis("knob").reset_index(), output, "06_spans")
table.rename(columns=lambda c: c.replace("distance computations", "work")).round(
    {c: 3 if "recall" in c or c == "span" else 1 for c in table.columns}
    | {"work, lowest": 0, "work, highest": 0}
)

# %%
growth = table["bytes per vector, highest"] / table["bytes per vector, lowest"]
effort = table["distance computations, highest"] / table["distance computations, lowest"]
Markdown(
    "\n".join(
        f"- {name}: {table['span'][name]:+.3f} recall for {growth[name]:.1f} times the memory and "
        f"{effort[name]:.1f} times the work."
        for name in table.index
    )
)

# %% [markdown]
# ## Next
#
# This is the last notebook. To see the study on other vectors, run
# `make figures DATASET=name-or-path`.
