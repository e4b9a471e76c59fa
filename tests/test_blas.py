"""The matrix kernels named for faiss, and the threads of those of NumPy and SciPy."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading

import faiss
import numpy as np
import pytest

from pqlib import CascadeIndex, _blas, evaluation
from pqlib import quantizers as q


def cpuinfo(vendor, flags):
    return f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu sse3 {flags}\nbugs\t\t:\n"


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("GenuineIntel", "avx2 fma avx512f avx512cd avx512bw avx512dq avx512vl", "SkylakeX"),
        ("GenuineIntel", "avx2 fma", "Haswell"),
        ("GenuineIntel", "avx2 fma avx512f avx512cd", "Haswell"),  # a Xeon Phi
        ("GenuineIntel", "avx", None),
        ("AuthenticAMD", "avx2 fma avx512f avx512cd avx512bw avx512dq avx512vl", None),
    ],
)
def test_intel_processors_get_the_kernels_their_flags_allow(vendor, flags, expected):
    assert _blas.kernel_for(cpuinfo(vendor, flags)) == expected


def test_no_kernel_is_named_where_the_processor_is_not_described():
    assert _blas.kernel_for("") is None


def imported(code, **variables):
    """What a new Python prints."""
    env = {k: v for k, v in os.environ.items() if k != _blas.VARIABLE} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_named_kernel_is_in_use_and_one_named_before_is_kept():
    code = (
        "import pqlib, pqlib._blas as b, os; print(os.environ.get(b.VARIABLE), b.kernel_in_use())"
    )
    named, kernel = imported(code).split(" ", 1)
    if kernel == "unknown":
        pytest.skip("faiss was not built with an OpenBLAS that says what it uses")
    if named != "None":
        assert kernel == f"OpenBLAS {named}"
    assert imported(code, OPENBLAS_CORETYPE="Prescott") == "Prescott OpenBLAS Prescott"


def test_nothing_is_named_once_faiss_is_there():
    code = "import faiss, pqlib, os; print(os.environ.get('OPENBLAS_CORETYPE'))"
    assert imported(code) == "None"


def test_the_kernel_is_named_with_the_timings():
    assert evaluation.machine()["blas"] == _blas.kernel_in_use()


def blas_threads():
    return [library.get() for library in _blas.threads_of_numpy_and_scipy()]


@pytest.fixture
def two():
    """Two threads for the BLAS of NumPy and SciPy, whatever the machine has."""
    libraries = _blas.threads_of_numpy_and_scipy()
    if not libraries:
        pytest.skip("NumPy and SciPy have no OpenBLAS here whose threads can be set")
    before = blas_threads()
    for library in libraries:
        library.set(2)
    yield [2] * len(libraries)
    for library, threads in zip(libraries, before, strict=True):
        library.set(threads)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_both_libraries_are_found():
    assert len(_blas.threads_of_numpy_and_scipy()) == 2


def test_one_thread_within_and_those_there_were_after(two):
    threads = faiss.omp_get_max_threads()
    with _blas.one_thread():
        assert set(blas_threads()) == {1}
        assert faiss.omp_get_max_threads() == threads
        with _blas.one_thread():
            pass
        assert set(blas_threads()) == {1}
    assert blas_threads() == two


def test_threads_that_overlap_get_back_what_there_was(two):
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    seen = []

    def first():
        with _blas.one_thread():
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second():
        first_is_in.wait(10)
        with _blas.one_thread():
            second_is_in.set()
            first_is_out.wait(10)
            seen.append(set(blas_threads()))

    workers = [threading.Thread(target=work) for work in (first, second)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == [{1}]
    assert blas_threads() == two


def test_an_error_within_gives_the_threads_back(two):
    with pytest.raises(ZeroDivisionError), _blas.one_thread():
        1 / 0  # noqa: B018
    assert blas_threads() == two


@contextlib.contextmanager
def everywhere(threads):
    """So many threads for faiss, NumPy and SciPy."""
    libraries = _blas.threads_of_numpy_and_scipy()
    before, of_faiss = blas_threads(), faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    for library in libraries:
        library.set(threads)
    yield
    faiss.omp_set_num_threads(of_faiss)
    for library, number in zip(libraries, before, strict=True):
        library.set(number)


FRACTIONS = np.random.default_rng(0).standard_normal((3000, 96)).astype(np.float32) ** 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: q.OptimizedProductQuantizer(96, 8, 4, iterations=4),
        lambda: q.LocallyOptimizedPQ(96, 8, 4, n_clusters=4, iterations=2),
        lambda: q.CompositeQuantizer(96, 8, 5, iterations=3, spread=0.05),
        lambda: q.AnisotropicProductQuantizer(96, 8, 4),
        lambda: q.ResidualQuantizer(96, 4, 5, progressive=False),
        lambda: q.LocalSearchQuantizer(96, 4, 5, iterations=6, train_rounds=2),
        lambda: q.ProductResidualQuantizer(96, 4, 5, progressive=False),
    ],
)
def test_quantizers_learn_the_same_with_any_number_of_threads(make):
    states = []
    for threads in (1, 2):
        with everywhere(threads):
            trained = make().train(FRACTIONS)
            states.append([(name, a.tobytes()) for name, a in trained.state()])
            states[-1].append(("codes", trained.encode(FRACTIONS).tobytes()))
    assert states[0] == states[1]


def test_the_cascade_learns_the_same_with_any_number_of_threads():
    found = []
    for threads in (1, 2):
        with everywhere(threads):
            index = CascadeIndex(96, n_lists=16, components=24, rerank="float32")
            index.train(FRACTIONS).add(FRACTIONS)
            found.append([a.tobytes() for a in index.search(FRACTIONS[:100] + 0.1, 10, nprobe=4)])
    assert found[0] == found[1]
