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
# An index has a handful of numbers to choose. This notebook turns them one at a time, then all
# together, and shows what recall, work, speed and memory answer.
#
# ## What you'll do
#
# - Measure a full design: every combination of clusters, codes, codebooks, probes and re-ranking.
# - Turn each knob alone, the others held, and draw all of them on one page.
# - Ask which knob matters most, and from which cluster size on codebooks per cluster pay.
#
# ## What you'll learn
#
# - Which knobs buy recall with memory, which with time.
# - What a share of variance is, and why it belongs to a design.
# - Why "at equal code size" and "at equal memory" give opposite answers.
#
# ## What you'll need
#
# - Notebook 02 for lists and probing, 03 and 04 for codes and searching with them, 05 for what is
#   measured and how sure it is. The notebook runs alone.

# %%
import time

import numpy as np
import pandas as pd
from IPython.display import Markdown

import pqlib
from pqlib import evaluation
from pqlib.study import save_table, sweep
from pqlib.study.design import complete_part, full_factorial, variance_shares
from pqlib.study.plots import sensitivity as plots
from pqlib.study.plots import style
from pqlib.study.sensitivity import (
    Study,
    at_no_more_memory,
    neighbours_of,
    shared_rivals,
)

pd.set_option("display.width", 120, "display.max_columns", 20, "display.max_colwidth", 80)

# %% tags=["parameters"]
dataset = "photo-sift"  # a name that pqlib.datasets knows, or the path of a file
n_train = None  # base vectors used; None: all
n_test = None  # queries used; None: all
seed = 0
output = None  # folder for this run's figures and results; None: only show them
resume = None  # folder that keeps what was measured, for a run that was cut off to go on; or None
k = 10  # neighbours asked for
n_inner = None  # inner clusters; None: sqrt(n / 6)
m = None  # sub-quantizers held while other knobs turn; None: the largest divisor of d up to 8
nbits = 8  # bits held while other knobs turn
max_queries = 1000  # queries whose recall is measured
nprobe = 8  # lists probed while other knobs turn
max_train = 10_000  # vectors that train k-means and shared codebooks in every sweep
budget = 3e12  # multiplications that one configuration may spend on training its codebooks

# %%
ds = pqlib.load_dataset(dataset, n_train=n_train, n_test=n_test)
print(ds.describe())
n_inner = n_inner or pqlib.default_sizes(ds.n)[0]
n_outer = max(1, round(n_inner**0.5))
m = pqlib.ProductQuantizer(ds.d, m).m
nprobe = min(nprobe, n_inner)
study = Study(ds, k=k, nq=max_queries, max_train=max_train, seed=seed, budget=budget)
modes = ["shared", "per-cluster"]
# Kept once built, as several sweeps turn knobs of theirs.
study.hold = {(n_inner, mode, m, nbits, None) for mode in modes}
context = dict(dataset=ds.name, n=ds.n, nq=ds.nq, k=k, n_inner=n_inner, m=m, nbits=nbits, seed=seed)
context |= dict(queries=max_queries, nprobe=nprobe, max_train=max_train, budget=budget)
print(
    f"\nheld: {n_inner} inner and {n_outer} outer clusters, m = {m}, nbits = {nbits}, "
    f"nprobe = {nprobe}, nothing re-ranked; k-means and shared codebooks trained on "
    f"{min(max_train, ds.n):,} vectors, codebooks per cluster on all {ds.n:,}; recall of "
    f"{study.nq:,} queries"
)

# %% [markdown]
# All sweeps share one clustering for each number of inner clusters, so that a difference between
# two rows comes from the knob alone. Training sees fewer vectors than in notebooks 04 and 05, so
# recalls differ a little from theirs. Every point is measured once and kept in a tidy table, which
# the figures below are drawn from.
#
# ## Measure a full design
#
# Six knobs, two levels each, in all 64 combinations: the inner clusters, the codebook mode, m and
# nbits, then for each index the lists probed and the candidates re-ranked (0: none, 8: eight times
# k). Numbers are turned by a factor of about four, half and double of what is held elsewhere (lists
# probed: a quarter of it and all), bits from four to eight. Where a code cannot be trained, the row
# says why.

# %%
divisors = [v for v in range(1, min(64, ds.d) + 1) if ds.d % v == 0]
around = {
    "n_inner": neighbours_of(n_inner, range(2, max(3, ds.n // 40))),
    "m": neighbours_of(m, divisors),
}
levels = {
    "n_inner": sorted({around["n_inner"][0], around["n_inner"][-1]}),
    "codebooks": modes,
    "m": sorted({around["m"][0], around["m"][-1]}),
    "nbits": sorted({4, nbits}),
}
searched = {
    "nprobe": sorted({max(1, nprobe // 4), nprobe}),
    "rerank_factor": [0, 8],
}
probes = [p for p in (1, 2, 4, 8, 16, 32) if p <= n_inner]


def of_code(n_inner, codebooks, m, nbits):
    """Return a row for each way to search one index."""
    index = study.index(n_inner, codebooks, m, nbits)
    return [{**how, **study.measure(index, **how)} for how in full_factorial(searched)]


design = sweep(
    full_factorial(levels), of_code, progress="full design", store=resume, context=context
)
save_table(design, output, "06_design")
done = design[design.status == "ok"]
print(f"{len(done):,} points measured, {len(design) - len(done):,} codes not trained")
for name, values in {**levels, **searched}.items():
    print(f"  {name}: {', '.join(map(str, values))}")

# %% [markdown]
# ## Ask which knob matters most
#
# How much of the variance of recall over this design does a knob explain? *Alone*: the variance of
# the means of its levels, everything else averaged over. *With others*: the mean variance over its
# levels with everything else held, which adds what it does only in company (probing more lists
# helps little where the codes cannot tell neighbours apart). What two knobs do together counts for
# both, so these add up to more than the whole. Both are shares of the whole variance.
# Work and memory are taken as logarithms, since knobs multiply them. The shares belong to this data
# set and to these levels: turn a knob farther and its share grows.

# %%
factors = list(levels) + list(searched)
whole, dropped = complete_part(done, factors)
if dropped:
    print("left out, as not all of their combinations could be trained:", ", ".join(dropped))
responses = {
    "recall": whole.recall,
    "work": np.log(whole.distance_computations),
    "memory": np.log(whole.bytes_per_vector),
}
shares = pd.concat(
    [
        variance_shares(
            whole.assign(response=values),
            [f for f in factors if whole[f].nunique() > 1],
            "response",
        ).assign(response=name)
        for name, values in responses.items()
    ],
    ignore_index=True,
)
save_table(shares, output, "06_importance")
shares.pivot(index="factor", columns="response", values=["main", "total"]).round(3)

# %%
style.show(plots.importance(shares), output, "06_importance")
of_recall = shares[shares.response == "recall"].reset_index(drop=True)
first, second = of_recall.factor[:2]
last = of_recall.iloc[-1]
Markdown(
    f"For recall, *{first}* matters most here: {of_recall.total[0]:.0%} of the variance with its "
    f"interactions, {of_recall.main[0]:.0%} alone; then *{second}* with {of_recall.total[1]:.0%}. "
    f"Least: *{last.factor}* with {last.total:.0%}. For work it is "
    f"*{shares[shares.response == 'work'].factor.iloc[0]}*, for memory "
    f"*{shares[shares.response == 'memory'].factor.iloc[0]}*."
)

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
longest = max(v for v in divisors if v <= max(1, ds.d // 2))
of_m = sorted({v for v in (4, m, 16) if v in divisors})
wanted = {
    "shared": sorted({*pairs, (longest, nbits), *((v, b) for v in of_m for b in (4, 6, nbits))}),
    # Fewer where every cluster trains its own.
    "per-cluster": sorted({*pairs, (m, 4), (m, 6), (m, nbits)}),
}
codes = sweep(
    [
        dict(codebooks=mode, m=m_, nbits=bits)
        for mode, of_mode in wanted.items()
        for m_, bits in of_mode
    ],
    lambda **code: study.measure(study.index(n_inner, **code), nprobe=nprobe, timing=True),
    progress="m and nbits",
    store=resume,
    context=context,
)
codes = codes.assign(n_inner=n_inner, nprobe=nprobe)
codes = codes.sort_values(["codebooks", "nbits", "m"], ascending=[False, True, True])
machine = evaluation.machine()
save_table(codes.assign(**machine), output, "06_codes")
print(f"{(codes.status == 'ok').sum()} of {len(codes)} codes measured")

# %%
trained = codes[codes.status == "ok"]
shown = trained.set_index(["codebooks", "nbits", "m"])
shown = shown[["recall", "code_bytes", "bytes_per_vector", "clusters_on_shared"]]
shown.astype({"code_bytes": int, "clusters_on_shared": int}).round(
    {"recall": 3, "bytes_per_vector": 1}
)

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
small = ds.train[: min(ds.n, 2048)]
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
best = trained.loc[trained.recall.idxmax()]
lines = [
    f"Highest recall@{k} of these codes: {best.recall:.3f}, {best.codebooks} codebooks, "
    f"m = {best.m}, {best.nbits} bits, {best.bytes_per_vector:,.0f} bytes per vector in all."
]
both = trained.pivot_table(index=["m", "nbits"], columns="codebooks", values="recall").dropna()
if set(modes) <= set(both.columns) and len(both):
    gain = both["per-cluster"] - both["shared"]
    lines.append(
        f"At equal code size, per-cluster codebooks change recall by {gain.min():+.3f} to "
        f"{gain.max():+.3f}."
    )
compared = at_no_more_memory(
    trained[trained.codebooks == "per-cluster"], trained[trained.codebooks == "shared"]
)
if len(compared):
    wins = int((compared.gain.isna() | (compared.gain > 0)).sum())
    lines.append(
        f"At no more total memory, {wins} of {len(compared)} per-cluster codes beat every shared "
        f"code tried here, the longest of which has "
        f"{trained[trained.codebooks == 'shared'].code_bytes.max():.0f} bytes."
    )
Markdown(" ".join(lines))

# %% [markdown]
# Speed does not follow from the counts alone. Every distance is a sum of m look-ups, so it tends to
# fall with m, though not at every step: these are timings of small batches. A code of 8 bits can be
# read byte by byte, where numbers of 4 or 6 bits must first be cut out of the bytes; with codebooks
# per cluster, its larger tables cost more than that.

# %% tags=["nbval-ignore-output"]
style.show(plots.speed(codes, k), output, "06_speed")
by_m = trained[(trained.codebooks == "shared") & (trained.nbits == nbits)].sort_values("m")
Markdown(
    f"Shared codebooks, {nbits} bits: {by_m.qps.iloc[0]:,.0f} queries per second with "
    f"m = {by_m.m.iloc[0]}, {by_m.qps.iloc[-1]:,.0f} with m = {by_m.m.iloc[-1]}."
)

# %% [markdown]
# ## Vary what is probed
#
# More lists find more of the true neighbours, up to what the codes can tell apart. The dashed
# line is the limit that routing sets: what codes without any error would find in the same lists.
# With fewer inner clusters the lists are longer, and one of them holds more.

# %% tags=["nbval-ignore-output"]
held = {mode: (n_inner, mode, m, nbits) for mode in modes}
probing = sweep(
    [dict(codebooks=mode, nprobe=p) for mode in modes for p in probes],
    lambda codebooks, nprobe: study.measure(
        study.index(*held[codebooks]), nprobe=nprobe, timing=True
    ),
    progress="nprobe",
    store=resume,
    context=context,
)
_, keys = study.clustering(n_inner).probe(ds.test[: study.nq], probes[-1])
limit = evaluation.routing_recall(ds, k, keys, study.assignment(n_inner))
probing["routing_limit"] = limit[probing.nprobe.to_numpy() - 1]
save_table(probing.assign(**machine), output, "06_nprobe")
for mode, reason in probing[probing.status != "ok"].groupby("codebooks").reason.first().items():
    print(f"{mode}: {reason}")
probing = probing[probing.status == "ok"]
if probing.empty:
    raise ValueError("No codebook mode fits the budget: raise `budget` or lower `nbits`.")

# %%
probing.pivot(index="nprobe", columns="codebooks", values="recall").assign(
    perfect=limit[np.array(probes) - 1]
).round(3)

# %%
style.show(plots.probes(probing, k), output, "06_nprobe")

# %% [markdown]
# ### Inner clusters
#
# More clusters make shorter lists and smaller residuals, and more centroids to compare with. The
# shared codebook is used, trained on residuals of the same vectors for all. At equal work, which
# line is highest?

# %%
counts = sorted({max(2, round(n_inner * f)) for f in (0.25, 0.5, 1, 2)})
counts = [c for c in counts if c <= min(max_train, ds.n) // 4]


def over_inner(n_inner):
    """Return a row for each nprobe of an index with so many inner clusters."""
    index = study.index(n_inner, "shared", m, nbits)
    return [{"nprobe": p, **study.measure(index, nprobe=p)} for p in probes if p <= n_inner]


inner = sweep(
    [dict(n_inner=c) for c in counts],
    over_inner,
    progress="n_inner",
    store=resume,
    context=context,
)
save_table(inner, output, "06_inner")
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
# ### Two grids
#
# Two pairs of knobs in full, with shared codebooks: what a code is made of, and how lists are made
# and probed.

# %%
of_codes = trained[trained.codebooks == "shared"]
of_codes = of_codes[of_codes.m.isin(of_m) & of_codes.nbits.isin([4, 6, nbits])]
left = of_codes.pivot(index="nbits", columns="m", values="recall")
right = inner.pivot(index="n_inner", columns="nprobe", values="recall")
style.show(plots.grids(left, right, k), output, "06_grids")

# %% [markdown]
# ### Outer clusters
#
# With the inner clusters and nprobe held, the outer level decides how many centroids are compared
# with the query. Only these are counted here; notebook 05 counts the whole search, at equal recall.
# Ranking few outer clusters saves distances and may lose lists that flat probing would have found.

# %%
outer_counts = sorted({max(2, round(n_outer * f)) for f in (0.5, 1, 2)})
outer_counts = [c for c in outer_counts if c <= n_inner]
queries = ds.test[: study.nq]
inner_centroids = study.clustering(n_inner).inner


def over_outer(n_outer):
    """Return a row for each nprobe_outer of the same lists under so many outer clusters."""
    outer = pqlib.clustering.kmeans(inner_centroids, n_outer, seed=seed)
    nested = pqlib.clustering.from_centroids(inner_centroids, outer.centroids)
    rows = []
    for p in (1, 2, 3, 4, 6, 8, 12):
        if p >= n_outer:
            break
        _, probed = nested.probe(queries, nprobe, p)
        outer_cost, inner_cost = nested.probe_cost(queries, p)
        # The lists that routing can reach, whatever codes they hold.
        reached = evaluation.routing_recall(ds, k, probed, study.assignment(n_inner))[-1]
        rows.append(
            {
                "nprobe_outer": p,
                "recall": reached,
                "centroid_distances": float((outer_cost + inner_cost).mean()),
            }
        )
    return rows


outer = sweep(
    [dict(n_outer=c) for c in outer_counts],
    over_outer,
    progress="n_outer",
    store=resume,
    context=context,
)
flat = (float(limit[nprobe - 1]), float(n_inner))
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
# ## Vary what is trained on, and what is re-ranked
#
# How many vectors have to be seen for good centroids and codebooks? Here the number limits
# codebooks per cluster too, which elsewhere see the whole base: these points lie lower, and
# clusters that are left with fewer than $2^{nbits}$ vectors use the shared ones. And how many
# candidates have to be looked at again, exactly, to make up for what codes confuse?

# %%
trainings = sorted({ds.n // 16, ds.n // 4, ds.n // 2})
trainings = [t for t in trainings if t >= n_inner * 2]
training = sweep(
    [dict(codebooks=mode, n_train=t) for mode in modes for t in trainings],
    lambda codebooks, n_train: study.measure(study.index(*held[codebooks], n_train), nprobe=nprobe),
    progress="training vectors",
    store=resume,
    context=context,
)
save_table(training, output, "06_training")
for row in training[training.status != "ok"].itertuples():
    print(f"{row.codebooks}, {row.n_train:,} training vectors: {row.reason}")
factors_tried = (0, 1, 2, 4, 8, 16)
reranked = sweep(
    [dict(codebooks=mode, rerank_factor=f) for mode in modes for f in factors_tried],
    lambda codebooks, rerank_factor: study.measure(
        study.index(*held[codebooks]), nprobe=nprobe, rerank_factor=rerank_factor
    ),
    progress="re-ranking",
    store=resume,
    context=context,
)
two_level = sweep(
    [
        dict(codebooks=mode, nprobe_outer=p)
        for mode in modes
        for p in sorted({1, 2, 4, 8, n_outer})
        if p <= n_outer
    ],
    lambda codebooks, nprobe_outer: study.measure(
        study.index(*held[codebooks]), nprobe=nprobe, nprobe_outer=nprobe_outer
    ),
    progress="nprobe_outer",
    store=resume,
    context=context,
)
save_table(reranked, output, "06_rerank")
save_table(two_level, output, "06_nprobe_outer")
reranked.pivot(index="rerank_factor", columns="codebooks", values="recall").round(3)

# %% [markdown]
# ## See all knobs on one page
#
# Each panel turns one knob and holds the others at the ringed values (but where n_outer is turned,
# a third of the outer clusters is probed, and elsewhere all). Steps along an axis are the values
# tried, not to scale. Bands and bars are 95% intervals over queries (notebook 05), mostly narrower
# than the markers. With more inner clusters, fewer of them have enough vectors for codebooks of
# their own. Points of a panel were measured on the same queries, so differences between them are
# surer than the bars look.

# %%
over_clusters = sweep(
    [dict(n_inner=c) for c in around["n_inner"]],
    lambda n_inner: study.measure(
        study.index(n_inner, "per-cluster", m, nbits), nprobe=min(nprobe, n_inner)
    ),
    progress="n_inner, per-cluster",
    store=resume,
    context=context,
).assign(codebooks="per-cluster")
of_shared = inner[(inner.nprobe == nprobe) & inner.n_inner.isin(around["n_inner"])]
over_clusters = pd.concat([of_shared.assign(codebooks="shared"), over_clusters])
of_outer = sweep(
    [dict(n_outer=c) for c in outer_counts],
    lambda n_outer: study.measure(
        study.under(n_outer, *held["shared"]), nprobe=nprobe, nprobe_outer=max(1, n_outer // 3)
    ),
    progress="n_outer, a third probed",
    store=resume,
    context=context,
).assign(codebooks="shared")


def turned(rows, knob, column, held_value):
    """Return the rows of one panel."""
    rows = rows[rows.status == "ok"].sort_values(["codebooks", column], ascending=[False, True])
    return pd.DataFrame(
        {
            "knob": knob,
            "value": [f"{v:,}" if isinstance(v, int) else str(v) for v in rows[column].tolist()],
            "codebooks": rows.codebooks,
            "recall": rows.recall,
            "recall_low": rows.recall_low,
            "recall_high": rows.recall_high,
            "standard": rows[column] == held_value,
        }
    )


alone = trained[(trained.m == m) & (trained.nbits == nbits)]
panels = [
    turned(trained[trained.nbits == nbits], "m", "m", m),
    turned(trained[trained.m == m], "nbits", "nbits", nbits),
    turned(alone, "codebook mode", "codebooks", None),
    turned(probing, "nprobe", "nprobe", nprobe),
    turned(over_clusters, "n_inner", "n_inner", n_inner),
    turned(of_outer, "n_outer, a third probed", "n_outer", n_outer),
    turned(two_level, "nprobe_outer", "nprobe_outer", n_outer),
    turned(training, "training vectors", "n_train", None),
    turned(reranked, "rerank_factor, 0: none", "rerank_factor", 0),
]
one_at_a_time = pd.concat(panels, ignore_index=True)
save_table(one_at_a_time, output, "06_one_at_a_time")
style.show(plots.one_at_a_time(one_at_a_time, k, ds.n), output, "06_one_at_a_time")
span = one_at_a_time.groupby(["knob", "codebooks"], sort=False).recall.agg(["min", "max"])
span["span"] = span["max"] - span["min"]
span.round(3)

# %% [markdown]
# ## Find the cluster size from which codebooks per cluster pay
#
# At equal *code* size, codebooks of a cluster's own helped in the pairs compared above. But each
# set of them weighs $2^{nbits} \cdot d \cdot 4$ bytes, shared among the vectors of its cluster:
# with few vectors, a shared code could be much longer for the same memory. So, over ever larger
# clusters: the per-cluster code, and the best of the longest shared codes of 4, 6 and 8 bits (at
# most 64 numbers each) over the same lists whose index takes no more memory in all.

# %%
few_clusters = sorted({c for c in (n_inner // 64, n_inner // 16, n_inner // 4) if c >= 2})


def per_cluster_code(n_inner, nbits):
    """Return a code of codebooks per cluster, and how large its clusters are."""
    index = study.index(n_inner, "per-cluster", m, nbits)
    return {
        "codebooks": "per-cluster",
        "m": m,
        "nprobe": min(nprobe, n_inner),
        "vectors_per_cluster": ds.n / n_inner,
        **study.measure(index, nprobe=min(nprobe, n_inner)),
    }


own = sweep(
    [dict(n_inner=c, nbits=b) for c in few_clusters for b in sorted({4, nbits})],
    per_cluster_code,
    progress="per-cluster codes",
    store=resume,
    context=context,
)
before = trained[(trained.codebooks == "per-cluster") & (trained.m == m)]
before = before[before.nbits.isin([4, nbits])].assign(vectors_per_cluster=ds.n / n_inner)
own = pd.concat([own[own.status == "ok"], before], ignore_index=True).drop(columns=["qps"])
as_large = {
    (row.n_inner, *code)
    for row in own.itertuples()
    for code in shared_rivals(ds.n, ds.d, row.n_inner, row.bytes_per_vector)
}
rivals = trained[trained.codebooks == "shared"]
there = set(rivals[["n_inner", "m", "nbits"]].itertuples(index=False, name=None))
more = sweep(
    [dict(n_inner=c, m=m_, nbits=b) for c, m_, b in sorted(as_large - there)],
    lambda n_inner, m, nbits: study.measure(
        study.index(n_inner, "shared", m, nbits), nprobe=min(nprobe, n_inner)
    ),
    progress="shared codes as large",
    store=resume,
    context=context,
)
rivals = pd.concat([rivals, more], ignore_index=True)
paired = at_no_more_memory(own, rivals)
save_table(paired, output, "06_crossing")
columns = ["bytes_per_vector", "recall", "shared_m", "shared_nbits", "shared_bytes_per_vector"]
paired.set_index(["nbits", "vectors_per_cluster"]).sort_index()[
    [*columns, "shared_recall", "gain"]
].round(3)

# %%
style.show(plots.crossing(paired.dropna(subset=["gain"]), k), output, "06_crossing")
lines = []
for bits, rows in paired.dropna(subset=["gain"]).groupby("nbits"):
    begins = evaluation.pays_from(rows.vectors_per_cluster, rows.gain)
    if begins == -np.inf:
        lines.append(f"- {bits} bits: codebooks per cluster pay at every size tried.")
    elif np.isinf(begins):
        lines.append(
            f"- {bits} bits: codebooks per cluster do not pay at the largest size tried, "
            f"{rows.vectors_per_cluster.max():,.0f} vectors per cluster."
        )
    else:
        lines.append(
            f"- {bits} bits: codebooks per cluster pay from about {begins:,.0f} vectors per "
            "cluster on (between measured points)."
        )
Markdown("\n".join(lines))

# %% [markdown]
# ## Next
#
# [07 Climb to the state of the art](07_ladder.ipynb) adds one idea at a time, up to an index that
# `pqlib.tune` chooses.
