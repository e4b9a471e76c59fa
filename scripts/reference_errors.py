"""Writes results/reference/quantizer_reference.csv: errors of unhurried training, three seeds.

What CompositeQuantizer and LocallyOptimizedPQ reach with their default effort is held against it
(tests/test_family_real.py). Run: python scripts/reference_errors.py [data set or path] ...
"""

import sys
import tempfile
from pathlib import Path

import pandas as pd

import pqlib
from pqlib import quantizers as q
from pqlib.study import save_table
from pqlib.study.pipeline.data import safe_label

FILE = Path(__file__).parents[1] / "results" / "reference" / "quantizer_reference.csv"
SEEDS = (0, 1, 2)
TRAIN, UNSEEN = 6000, 2000


def split(ds):
    """Return the vectors trained on, and others: the last and the first of the base."""
    return ds.train[-TRAIN:], ds.train[:UNSEEN]


def unhurried(d):
    """Return the quantizers, by name, with far more effort than by default; of a seed."""
    return {
        "CQ": lambda seed: q.CompositeQuantizer(d, 8, iterations=40, seed=seed),
        "LOPQ": lambda seed: q.LocallyOptimizedPQ(d, 8, 6, n_clusters=6, seed=seed),
    }


def main(names):
    """Measure the data sets; rows of others stay."""
    rows = pd.read_csv(FILE).to_dict("records") if FILE.exists() else []
    for name in names:
        ds = pqlib.load_dataset(name)
        train, unseen = split(ds)
        label = safe_label(name)
        rows = [row for row in rows if row["dataset"] != label]
        for method, make in unhurried(ds.d).items():
            for seed in SEEDS:
                quantizer = make(seed).train(train)
                found = [
                    q.mean_squared_error(x, quantizer.decode(quantizer.encode(x)))
                    for x in (train, unseen)
                ]
                rows.append(
                    {
                        "dataset": label,
                        "method": method,
                        "seed": seed,
                        "n_train": quantizer.n_train,
                        "mse_train": found[0],
                        "mse_unseen": found[1],
                    }
                )
                print(rows[-1], flush=True)
    with tempfile.TemporaryDirectory(dir=FILE.parent) as folder:
        save_table(pd.DataFrame(rows), folder, FILE.stem)
        (Path(folder) / "results" / FILE.name).replace(FILE)


if __name__ == "__main__":
    main(sys.argv[1:] or ["photo-sift"])
