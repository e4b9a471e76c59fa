"""Results in the layout of ann-benchmarks, whose tools then score and plot a run of ours.

The layout is that of its ``ann_benchmarks/results.py`` and ``runner.py``: one HDF5 file for
each run, in a folder by data set, number of neighbours and algorithm.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pqlib import _checks, evaluation
from pqlib._atomic import replacing
from pqlib._types import IdArray
from pqlib.datasets import Dataset
from pqlib.study.shared import checked_k


def export_ann_benchmarks(
    folder: str | os.PathLike[str],
    ds: Dataset,
    *,
    algorithm: str,
    arguments: Mapping[str, Any] | Sequence[Any],
    ids: IdArray,
    k: int,
    seconds: float | NDArray[np.floating],
    build_s: float,
    index_bytes: float,
    batch: bool = True,
    repeats: int = 1,
    distance_computations: int | None = None,
    dataset: str | None = None,
) -> Path:
    """Write what a search returned, and its cost, as a result file of ann-benchmarks.

    ann-benchmarks reads it when ``folder`` is its own ``results``, and its ``data`` has the file
    of the data set. Its recall is then ``pqlib.recall_at_k(ids, ds, k, epsilon=1e-3)``; for an
    angular set it may be a little higher, as its 1e-3 is of 1 - cosine.

    Parameters
    ----------
    folder : the root of the results, made if it is not there
    ds : the data set that was searched
    algorithm : name of the method, as it shall stand in legends
    arguments : what tells this run from others of the method: name to value, or a list of values
    ids : (nq, R) int64, row numbers of ``ds.train`` for the first nq queries, -1 where none was
        found; the first k columns are written
    seconds : of all nq queries together, in the best of the repeats; or (nq,) of each query,
        which is needed without ``batch``
    build_s : seconds that training and adding took
    index_bytes : size of the index
    batch : whether all queries were given in one call, or each in one
    repeats : runs of the whole query set
    distance_computations : of all nq queries together, in one run
    dataset : name of the data set in ann-benchmarks. None: that of its file for a registered set
        that is whole, otherwise one that tells it apart, since other base vectors have other
        true neighbours

    Returns the path, ``<folder>/<dataset>/<k>/<algorithm>[-batch]/<arguments>.hdf5``. The file
    appears at once, when it is complete; one of that name is replaced then.

    Raises ValueError when ids do not fit the data set or name a vector twice for one query, k
    exceeds the ground truth, a number is negative or not finite, or a name cannot be one of a file;
    OSError when the file cannot be written.
    """
    if ds.metric != "l2":
        raise ValueError(
            f"ds.metric={ds.metric!r}: expected 'l2', since ann-benchmarks scores by distances. "
            "Load the data set without a metric; an angular one is then exported as angular."
        )
    # It scores by the k-th distance of the data set, so that k must be in its ground truth.
    k = checked_k(ds, k)
    distances = evaluation.returned_distances(ids, ds)[:, :k]
    neighbors = np.asarray(ids)[:, :k]
    _refuse_repeated(neighbors)
    nq, columns = neighbors.shape
    # Found ones come first there, -1 and inf only behind them.
    order = np.argsort(neighbors < 0, axis=1, kind="stable")
    times = _times(seconds, nq, batch)
    table = {
        "times": times.astype(np.float32),
        "neighbors": np.full((nq, k), -1, np.int32),
        "distances": np.full((nq, k), np.inf, np.float32),
    }
    table["neighbors"][:, :columns] = np.take_along_axis(neighbors, order, 1)
    table["distances"][:, :columns] = np.take_along_axis(distances, order, 1)
    # ``note`` is where a Dataset says so. Its vectors have unit length, where the square of the
    # Euclidean distance is twice 1 - cosine, and that is what ann-benchmarks calls the distance.
    angular = "angular:" in ds.note
    if angular:
        table["distances"] = (table["distances"].astype(np.float64) ** 2 / 2).astype(np.float32)
    repeats = _checks.integer("repeats", repeats, 1)
    stem, inside = _argument_names(arguments)
    dataset = _file_name("dataset", _dataset_name(ds) if dataset is None else dataset)
    attributes: dict[str, Any] = {
        # Without "-batch", which its plots append where batch_mode is set.
        "algo": _file_name("algorithm", algorithm),
        "batch_mode": bool(batch),
        "best_search_time": float(times.mean()),
        "build_time": _number("build_s", build_s),
        "candidates": float((neighbors >= 0).sum() / nq),
        "count": k,
        "dataset": dataset,
        "distance": "angular" if angular else "euclidean",
        "expect_extra": False,
        "index_size": _number("index_bytes", index_bytes) / 1024,
        "name": f"{algorithm}({inside})",
        "run_count": repeats,
    }
    if distance_computations is not None:
        # A method there counts through all runs; its metric divides by their number.
        one_run = _number("distance_computations", distance_computations)
        attributes["dist_comps"] = one_run * repeats
    place = Path(folder) / dataset / str(k) / (algorithm + ("-batch" if batch else ""))
    path = place / f"{stem}.hdf5"
    with replacing(path, parents=True) as raw, h5py.File(raw, "w") as file:
        file.attrs.update(attributes)
        for name, values in table.items():
            file.create_dataset(name, data=values)
    return path


def _refuse_repeated(ids: IdArray) -> None:
    """Raise ValueError where a row holds an id twice: ann-benchmarks would count it twice."""
    ordered = np.sort(ids, axis=1)
    again = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if again.any():
        row = int(again.any(axis=1).argmax())
        twice = int(ordered[row, 1:][again[row]][0])
        raise ValueError(
            f"ids[{row}] holds {twice} more than once: expected different vectors for a query. "
            "Keep the first and put -1 for the others."
        )


def _times(seconds: Any, nq: int, batch: bool) -> NDArray[np.float64]:
    """Return the seconds of each query, (nq,)."""
    try:
        times = np.asarray(seconds, np.float64)
    except (TypeError, ValueError):
        times = np.full(2, np.nan)
    if times.ndim == 0 and not batch:
        raise ValueError(
            f"seconds={seconds!r} with batch=False: expected the seconds of each query, "
            f"({nq},), of which ann-benchmarks takes percentiles. Measure them one by one."
        )
    if times.ndim == 0:
        times = np.full(nq, times / nq)
    good = times.shape == (nq,) and np.isfinite(times).all() and times.min() >= 0
    if not good or times.sum() == 0:
        raise ValueError(
            f"seconds={seconds!r}: expected a positive number, for all queries together, or one "
            f"for each of the {nq} queries. Measure the search."
        )
    return times


def _number(name: str, value: Any) -> float:
    return _checks.number(name, value, 0, least=True, hint="Pass what was measured.")


def _plain(value: Any) -> Any:
    """Return what JSON knows in place of a NumPy scalar."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _argument_names(arguments: Any) -> tuple[str, str]:
    """Return the arguments as ann-benchmarks makes a file name of them, and as one reads them."""
    listed = isinstance(arguments, Sequence) and not isinstance(arguments, str | bytes)
    stem = ""
    if listed or isinstance(arguments, Mapping):
        with contextlib.suppress(TypeError, ValueError):
            dumped = json.dumps(arguments, sort_keys=True, default=_plain)
            stem = re.sub(r"\W+", "_", dumped).strip("_")
    if not stem:
        # A file called ".hdf5" is passed over by ann-benchmarks.
        raise ValueError(
            f"arguments={arguments!r}: expected a mapping or a list, of values that JSON can "
            "hold, and at least one to name the file by. A method without any can give its "
            "metric, as ann-benchmarks' own do."
        )
    if isinstance(arguments, Mapping):
        pairs = (f"{name}={json.dumps(v, default=_plain)}" for name, v in arguments.items())
        return stem, ", ".join(pairs)
    return stem, ", ".join(json.dumps(v, default=_plain) for v in arguments)


def _file_name(name: str, value: Any) -> str:
    if not isinstance(value, str) or value in ("", ".", "..") or re.search(r"[/\\\0]", value):
        raise ValueError(
            f"{name}={value!r}: expected a name that a folder can have. Leave out slashes."
        )
    return value


def _dataset_name(ds: Dataset) -> str:
    """Return ann-benchmarks' name of ``ds``, or one that it does not know."""
    if ds.info is None or ds.info.name != ds.name:
        return ds.name
    if ds.n != ds.info.n_train or "left out" in ds.note:
        return f"{ds.name}-{ds.n}-of-{ds.info.n_train}"
    return Path(ds.info.file).stem
