"""The matrix kernels named for faiss."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pqlib import _blas, evaluation


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
