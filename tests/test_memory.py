"""What building takes, measured in a process of its own."""

import subprocess
import sys

import pytest
from conftest import file_or_skip

BUILD = """
import resource, sys
import h5py, numpy as np, psutil, pqlib
codebooks, rerank = sys.argv[2], None if sys.argv[3] == "None" else sys.argv[3]
x = np.random.default_rng(0).random((300, 8), np.float32)
pqlib.MultiLevelPQ(8, 4, 2, m=2, nbits=4, codebooks=codebooks).train(x).add(x).search(x[:5])
before = psutil.Process().memory_info().rss
with h5py.File(sys.argv[1]) as file:
    raw = file["train"][:]
how = dict(m=8, nbits=4, codebooks=codebooks, rerank=rerank)
index = pqlib.MultiLevelPQ(784, 50, 8, **how).train(raw).add(raw)
if sys.platform == "linux":  # where ru_maxrss begins with what the parent process had
    lines = open("/proc/self/status").read().splitlines()
    peak = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak - before, raw.nbytes + index.memory_bytes)
"""


@pytest.mark.parametrize(("codebooks", "rerank"), [("shared", None), ("per-cluster", "uint8")])
def test_building_takes_little_more_than_vectors_and_index(codebooks, rerank):
    path = file_or_skip("fashion-mnist")
    run = subprocess.run(
        [sys.executable, "-c", BUILD, str(path), codebooks, str(rerank)],
        check=True,
        capture_output=True,
        text=True,
    )
    growth, allowed = map(float, run.stdout.split())
    assert raw_bytes() < growth < 1.5 * allowed


def raw_bytes():
    return 60_000 * 784 * 4
