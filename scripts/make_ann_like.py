"""Make a file in the exact shape of ann-benchmarks' sift or gist, to rehearse them offline.

    python scripts/make_ann_like.py sift rehearsal-sift-128-euclidean.hdf5
    python scripts/make_ann_like.py gist rehearsal-gist-960-euclidean.hdf5

The vectors are drawn, not measured: a mixture of clusters, each of low intrinsic dimension, with
queries from the same mixture. They have structure, so that every step of the study meets what
it would meet in the real file, but say nothing about the real vectors. The ground truth is
exact. Needs about the size of the vectors as float32 in memory (gist: 4 GB).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pqlib.datasets import exact_neighbors, lookup

CLUSTERS = 1000
LATENT = 24
BLOCK = 20_000


class Mixture:
    """Clusters that are low-dimensional clouds around centres, themselves low-dimensional."""

    def __init__(self, d: int, whole_numbers: bool, rng: np.random.Generator) -> None:
        self.d, self.whole_numbers, self.rng = d, whole_numbers, rng
        frame = rng.normal(size=(LATENT, d)) / np.sqrt(LATENT)
        self.centers = (rng.normal(size=(CLUSTERS, LATENT)) @ frame).astype(np.float32)
        self.axes = rng.normal(size=(8, LATENT, d)).astype(np.float32) / np.sqrt(LATENT)
        self.share = rng.dirichlet(np.full(CLUSTERS, 2.0))

    def draw(self, n: int) -> NDArray[np.float32]:
        """Return ``n`` vectors (n, d) float32."""
        home = self.rng.choice(CLUSTERS, size=n, p=self.share)
        latent = self.rng.normal(size=(n, LATENT)).astype(np.float32)
        x = self.centers[home]
        for kind in range(len(self.axes)):
            rows = home % len(self.axes) == kind
            x[rows] += 0.6 * latent[rows] @ self.axes[kind]
        x += self.rng.normal(scale=0.15, size=x.shape).astype(np.float32)
        if self.whole_numbers:
            # SIFT's range: most values small, none above 255.
            return np.clip(np.rint(35 * np.abs(x)), 0, 255).astype(np.float32)
        return (0.05 * np.abs(x)).astype(np.float32)


def main() -> int:
    """Make the file; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=["sift", "gist"])
    parser.add_argument("out", type=Path, help="path of the .hdf5 file to write")
    parser.add_argument("--n", type=int, help="base vectors; default: as many as the real file")
    parser.add_argument("--queries", type=int, help="queries; default: as the real file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    info = lookup(options.kind)
    n = info.n_train if options.n is None else options.n
    nq = info.n_test if options.queries is None else options.queries
    if n < 1 or nq < 1:
        parser.error(f"--n {n} --queries {nq}: expected at least one of each")
    if not options.out.parent.is_dir():
        # Said now rather than after half an hour of computing.
        parser.error(f"{options.out}: expected a file in an existing folder")
    mixture = Mixture(info.dimension, options.kind == "sift", np.random.default_rng(options.seed))
    test = mixture.draw(nq)
    train = np.empty((n, info.dimension), np.float32)
    for start in tqdm(range(0, n, BLOCK), desc="vectors", disable=None):
        train[start : start + BLOCK] = mixture.draw(min(BLOCK, n - start))
    neighbors, distances = exact_neighbors(train, test)
    partial = options.out.with_name(f".{options.out.name}.{os.getpid()}")
    try:
        with h5py.File(partial, "w") as file:
            file["train"], file["test"] = train, test
            file["neighbors"], file["distances"] = neighbors.astype(np.int32), distances
            file.attrs.update(
                distance="euclidean", dimension=info.dimension, type="dense", point_type="float"
            )
        partial.replace(options.out)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{options.out}: {n:,} x {info.dimension}, {nq:,} queries")
    return 0


if __name__ == "__main__":
    sys.exit(main())
