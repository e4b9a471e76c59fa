"""search(max_memory=...): the same answers in less memory, or an error that says how much."""

import subprocess
import sys

import numpy as np
import pytest

import pqlib
from pqlib import quantizers

MADE = {
    "brute force": (lambda d: pqlib.BruteForce(d), {}),
    "k-means": (lambda d: pqlib.KMeansIndex(d, 20, 4), dict(nprobe=5)),
    "shared": (lambda d: pqlib.MultiLevelPQ(d, 20, 4, codebooks="shared"), dict(nprobe=5)),
    "two levels": (
        lambda d: pqlib.MultiLevelPQ(d, 20, 4, codebooks="shared", rerank="float32"),
        dict(nprobe=5, nprobe_outer=2),
    ),
    "per cluster": (lambda d: pqlib.MultiLevelPQ(d, 20, 4, nbits=5), dict(nprobe=5)),
    "codec": (
        lambda d: pqlib.MultiLevelPQ(d, 20, 4, codec=quantizers.ScalarQuantizer(d, 8)),
        dict(nprobe=5),
    ),
    "cascade": (lambda d: pqlib.CascadeIndex(d, n_lists=20, rerank="float32"), dict(nprobe=5)),
    "graph": (lambda d: pqlib.GraphIndex(d, 8, rerank="float32"), dict(ef=30)),
}


@pytest.fixture(scope="module", params=MADE)
def built(request):
    make, how = MADE[request.param]
    x = np.random.default_rng(0).random((3000, 24)).astype(np.float32)
    return make(24).train(x).add(x), how, x[:700] + np.float32(0.01)


def least(index, queries, how):
    """The bytes that the error for too little says a single query takes."""
    with pytest.raises(
        ValueError, match=r"max_memory=1: expected at least [\d,]+ bytes"
    ) as refused:
        index.search(queries, 10, **how, max_memory=1)
    return int(str(refused.value).split("at least ")[1].split(" ")[0].replace(",", ""))


def test_the_same_answers(built):
    index, how, queries = built
    distances, ids = index.search(queries, 10, **how)
    few = least(index, queries, how)
    for limit in (few, few + 20_000, 2 * few, 64 << 20):
        found = index.search(queries, 10, **how, max_memory=limit)
        np.testing.assert_allclose(found[0], distances, rtol=1e-4, atol=1e-4)
        assert (found[1] == ids).mean() > 0.999


def test_wrong_limits(built):
    index, how, queries = built
    for wrong in (0, -1, 1.5, "1 GB", True):
        with pytest.raises(ValueError, match="max_memory="):
            index.search(queries, 10, **how, max_memory=wrong)
    with pytest.raises(ValueError, match="k=0"):
        index.search(queries, 0, **how, max_memory=1 << 30)
    for name in how:
        with pytest.raises(ValueError, match=f"{name}=0"):
            index.search(queries, 10, **{name: 0}, max_memory=1 << 30)


MEASURED = """
import sys
sys.path.insert(0, sys.argv[1])
import load
print(load.limited(1.0, count=1500, n_train=4000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_what_a_search_takes(tmp_path):
    """Measured in a fresh process: at most what was allowed."""
    from pathlib import Path

    scripts = Path(__file__).parents[1] / "scripts" / "stress"
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(scripts)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'wrong': 0" in done.stdout, done.stdout
