"""Argument checks shared by the modules: one wording for one kind of mistake.

They return the argument in its proper type, or raise a ValueError that names it, the value given,
what was expected and what to do.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from pqlib._types import FloatMatrix


def integer(name: str, value: Any, low: int, high: int | None = None, hint: str = "") -> int:
    """Return ``value`` as an int within ``[low, high]``."""
    expected = f"a whole number >= {low}" if high is None else f"a whole number in {low}..{high}"
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or number < low or (high is not None and number > high):
        raise ValueError(f"{name}={value!r}: expected {expected}.{hint and ' ' + hint}")
    return number


def choice(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Return ``value``, one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: expected one of {allowed}.")
    return value


def seed(value: Any) -> int:
    """Return ``value`` as a seed: faiss's are of 32 bits, and some start above 0."""
    return integer("seed", value, 0, 1 << 30, "Any other gives as random a start.")


def number(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    least: bool = False,
    most: bool = False,
    hint: str = "",
) -> float:
    """Return ``value`` as a float between two limits, which ``least`` and ``most`` allow."""
    found = math.nan
    if not isinstance(value, str | bytes | bool):
        with contextlib.suppress(TypeError, ValueError):
            found = float(value)
    if low < found < high or (least and found == low) or (most and found == high):
        return found
    expected = f"a number {'>=' if least else 'above'} {low:g}"
    if high < math.inf:
        expected += f" and {'<=' if most else 'below'} {high:g}"
    raise ValueError(f"{name}={value!r}: expected {expected}.{hint and ' ' + hint}")


def fraction(name: str, value: Any, zero: bool = False) -> float:
    """Return ``value`` as a float above 0 (with ``zero``, from 0 on) and below 1."""
    return number(name, value, 0, 1, least=zero)


def vectors(
    name: str, x: Any, d: int | None = None, *, finite: bool = True, large: bool = False
) -> FloatMatrix:
    """Return ``x`` as a C-contiguous float32 matrix (n, d) with n >= 1.

    A single vector (d,) is refused, not guessed at: ``x[None]`` says what was meant. So are
    dimensions other than ``d``, NaN, infinity, and values too large for squared distances in
    float32. ``finite=False`` does not look at the values; ``large=True`` allows any finite ones.
    """
    array = np.asarray(x)
    if array.ndim != 2:
        raise ValueError(
            f"{name} has shape {array.shape}: expected a matrix (n, d). "
            f"For one vector, pass {name}[None, :]."
        )
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {array.shape}: expected at least one vector of at least one "
            "dimension. Check the slice or filter that made it."
        )
    if d is not None and array.shape[1] != d:
        raise ValueError(
            f"{name} has vectors of dimension {array.shape[1]}: expected d={d}, the dimension "
            "of the index. Pass vectors of that dimension or build an index for these."
        )
    # To NumPy, bfloat16 (of ml_dtypes) is no number, though it converts.
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise ValueError(
            f"{name} has dtype {array.dtype}: expected real numbers. Convert it to float32."
        )
    if array.dtype != np.float32 or not array.flags.c_contiguous:  # a context costs a microsecond
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, dtype=np.float32)
    if finite:
        step = max(1, (1 << 24) // array.shape[1])
        for start in range(0, len(array), step):
            wrong = first_wrong(array[start : start + step], large)
            if wrong is not None:
                row, column = start + wrong[0], wrong[1]
                raise ValueError(
                    f"{name}[{row}, {column}] is {array[row, column]}: expected "
                    f"finite values below {largest(array.shape[1]):.1e} in size, whose squared "
                    "distances float32 can hold. Remove or repair the vectors with NaN or "
                    "infinity; scale the data if they are so large."
                )
    return array


@cache
def largest(d: int) -> float:
    """Return the size below which components of d-dimensional vectors have float32 distances."""
    return math.sqrt(float(np.finfo(np.float32).max) / (8 * d))


def first_wrong(block: FloatMatrix, large: bool = False) -> tuple[int, int] | None:
    """Return row and column of the first value of a matrix that is NaN, infinite or too large."""
    limit = np.float32(np.inf if large else largest(block.shape[1]))
    # Comparisons with NaN are false, and those of the extremes take no matrix of their own.
    if -limit < block.min() and block.max() < limit:
        return None
    row, column = np.argwhere(~((-limit < block) & (block < limit)))[0].tolist()
    return row, column


def product_quantizer_shape(d: int, m: int | None, nbits: int) -> tuple[int, int]:
    """Return ``(m, nbits)``: a divisor of ``d``, for None the largest up to 8, and 4..16."""
    if m is None:
        m = max(v for v in range(1, min(d, 8) + 1) if d % v == 0)
    m = integer("m", m, 1)
    if d % m:
        small = [v for v in range(1, math.isqrt(min(d, 10**8)) + 1) if d % v == 0]
        divisors = sorted({*small, *(d // v for v in small)})
        raise ValueError(
            f"m={m}: expected a divisor of d={d}, so that every sub-vector has the same length. "
            f"Possible: {', '.join(map(str, divisors))}."
        )
    hint = "A sub-quantizer has 2**nbits centroids; 4 and 8 are usual."
    return m, integer("nbits", nbits, 4, 16, hint)
