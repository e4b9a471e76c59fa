"""Print hashes and numbers of what the package computes: equal where results are."""

from __future__ import annotations

import hashlib
import json

import numpy as np

import pqlib
from pqlib import quantizers as q
from pqlib.study import family as study

K = 10


def main() -> None:
    """Compute a little of everything and print one line of JSON."""
    hashes: dict[str, str] = {}
    numbers: dict[str, float] = {}

    def note(name: str, *arrays: np.ndarray) -> None:
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        hashes[name] = digest.hexdigest()[:16]

    ds = pqlib.load_dataset("photo-sift", n_train=8000, n_test=200, progress=False)
    note("data", ds.train, ds.test, ds.neighbors, ds.distances)
    made = {
        "brute force": (pqlib.BruteForce(ds.d), {}),
        "k-means": (pqlib.KMeansIndex(ds.d, 40, 6), dict(nprobe=4, nprobe_outer=3)),
        "shared": (pqlib.MultiLevelPQ(ds.d, 40, 6, codebooks="shared"), dict(nprobe=4)),
        "per cluster": (pqlib.MultiLevelPQ(ds.d, 20, 4, m=8, nbits=6), dict(nprobe=4)),
        "re-ranked": (
            pqlib.MultiLevelPQ(ds.d, 40, 6, codebooks="shared", rerank="uint8"),
            dict(nprobe=8, nprobe_outer=3),
        ),
        "residual codec": (
            pqlib.MultiLevelPQ(
                ds.d, 20, 4, codec=q.ResidualQuantizer(ds.d, 4, 6, progressive=False)
            ),
            dict(nprobe=4),
        ),
        "cascade": (pqlib.CascadeIndex(ds.d, n_lists=32), dict(nprobe=4)),
        "graph": (pqlib.GraphIndex(ds.d), dict(ef=40)),
        # Sums of fractions depend on their order.
        "cascade of fractions": (
            pqlib.CascadeIndex(ds.d, n_lists=32, components=40, rerank="float32"),
            dict(nprobe=4),
        ),
    }
    for name, (index, how) in made.items():
        scale = np.float32(0.37 if "fractions" in name else 1)
        index.train(ds.train * scale).add(ds.train * scale)
        distances, ids = index.search(ds.test * scale, K, **how)
        note(f"{name}: ids and distances", ids, distances)
        numbers[f"recall of {name}"] = pqlib.recall_at_k(ids, ds, K)
        numbers[f"distances of {name}"] = float(distances[np.isfinite(distances)].mean())
        numbers[f"bytes of {name}"] = float(index.memory_bytes)
        if name in ("shared", "per cluster"):
            note(f"{name}: centroids", index.clustering.inner, index.clustering.outer)
            codes = [index.list_content(c) for c in range(index.n_inner)]
            note(f"{name}: codes", *(part for pair in codes for part in pair))
    family = study.Family(ds, n_train=2000, n_base=1000, n_queries=50)
    for quantizer in (
        q.ProductQuantizer(ds.d, 8, 6),
        q.OptimizedProductQuantizer(ds.d, 8, 6, iterations=3),
        q.ResidualQuantizer(ds.d, 4, 5, progressive=False),
        q.LocalSearchQuantizer(ds.d, 4, 5, iterations=4, train_rounds=2),
        q.LocallyOptimizedPQ(ds.d, 8, 5, n_clusters=4),
        q.CompositeQuantizer(ds.d, 4, 5, iterations=2),
        q.AnisotropicProductQuantizer(ds.d, 8, 5),
        q.ScalarQuantizer(ds.d, 8),
        q.RaBitQuantizer(ds.d),
    ):
        quantizer.train(family.train)
        error = q.mean_squared_error(family.base, quantizer.decode(quantizer.encode(family.base)))
        numbers[f"error of {type(quantizer).__name__}"] = error
        note(type(quantizer).__name__, quantizer.encode(family.base))
    print(json.dumps({"hashes": hashes, "numbers": numbers}))


if __name__ == "__main__":
    main()
