"""Runs notebooks for data sets and puts what they wrote where it belongs.

A notebook writes into a staging folder of its own. Only when all its cells have run are its files
moved into ``figures/<label>/`` and ``results/<label>/``, one atomic replacement each, and last of
all comes the stamp. Killed at any moment, a run leaves either no stamp or the old one, which the
half-moved files contradict: the next run does the step again. What the sweeps of a killed run
measured waits in ``runs/<label>/<notebook>.sweeps/`` until a run with the same inputs completes.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from pqlib.study.pipeline.data import DEFAULT_DATASET, DataSource
from pqlib.study.pipeline.progress import Progress, duration, memory
from pqlib.study.pipeline.steps import (
    KINDS,
    Layout,
    PipelineError,
    Step,
    find_notebooks,
    own_dataset,
    package_hash,
    plain_errors,
    produced,
    promote,
    write_atomically,
)
from pqlib.study.pipeline.watch import Watch

RESUME = "resume"
"""Parameter of notebooks whose sweeps go on where a killed run stopped: folder of their stores."""


@dataclass
class Outcome:
    """What became of a step: a row of the final table."""

    step: Step
    state: str
    seconds: float = 0.0
    peak_bytes: int = 0
    outputs: Sequence[str] = field(default_factory=tuple)


@contextlib.contextmanager
def alone(layout: Layout) -> Iterator[None]:
    """Hold the checkout's lock, waiting for another run to end; then clear what it left behind.

    The lock is the operating system's: it ends with its owner, however that ended. So whoever
    holds it knows that nothing in the staging folder is in use.
    """
    layout.runs.mkdir(parents=True, exist_ok=True)
    lock = FileLock(layout.runs / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("Another run is at work in this checkout; waiting for it to end ...", flush=True)
        lock.acquire()
    try:
        shutil.rmtree(layout.staging, ignore_errors=True)
        layout.staging.mkdir()
        yield
    finally:
        shutil.rmtree(layout.staging, ignore_errors=True)
        lock.release()


def run_figures(
    layout: Layout, datasets: Iterable[str], notebooks: Iterable[str] = (), force: bool = False
) -> int:
    """Bring the figures and results of data sets up to date; return the exit status.

    Parameters
    ----------
    layout : the checkout
    datasets : registered names or paths
    notebooks : numbers or names of those to run. When empty: all of them, those that have a data
        set of their own for that one, in the run of the default data set
    force : run also what is up to date
    """
    sources = _sources(layout, datasets)
    chosen = find_notebooks(layout, notebooks)
    with alone(layout):
        # One hash for the whole run: cheap, and taken before anything that depends on it starts.
        package = package_hash(layout)
        steps = _steps(layout, sources, chosen, bool(list(notebooks)))
        outcomes: list[Outcome] = []
        started = time.monotonic()
        for place, step in enumerate(steps, start=1):
            title = f"[{place}/{len(steps)}] {step.source.label} {step.notebook.stem}"
            try:
                if all(earlier.source != step.source for earlier in steps[: place - 1]):
                    with plain_errors():
                        step.source.fetch()
                outcomes.append(_bring_up_to_date(step, package, title, force))
            except PipelineError as problem:
                print(f"\n{problem}\n", flush=True)
                outcomes.append(Outcome(step, "FAILED"))
                outcomes += [Outcome(later, "not run") for later in steps[place:]]
                break
        failed = any(outcome.state == "FAILED" for outcome in outcomes)
        for source in dict.fromkeys(step.source for step in steps):
            if any(o.state == "done" and o.step.source == source for o in outcomes):
                from pqlib.study.pipeline.status import write_run_table  # heavy: faiss

                write_run_table(layout, source, find_notebooks(layout))
        print(_table(outcomes, time.monotonic() - started), flush=True)
        return 1 if failed else 0


def _steps(
    layout: Layout, sources: list[DataSource], chosen: list[Path], named: bool
) -> list[Step]:
    """Return the steps of a run: which notebook for which data set."""
    steps = []
    for source in sources:
        for notebook in chosen:
            own = own_dataset(notebook)
            if named or own in (DEFAULT_DATASET, source.dataset):
                steps.append(Step(layout, notebook, source))
            elif source.dataset == DEFAULT_DATASET:
                steps.append(Step(layout, notebook, DataSource.of(own, layout.package)))
    return steps


def _sources(layout: Layout, names: Iterable[str]) -> list[DataSource]:
    """Return the data sets, refusing two that would write into the same folders."""
    with plain_errors():
        sources = list(dict.fromkeys(DataSource.of(name, layout.package) for name in names))
    for one, other in itertools.combinations(sources, 2):
        if one.label.casefold() == other.label.casefold():
            raise PipelineError(
                f"{one.dataset} and {other.dataset} would both write into figures/{one.label}/. "
                "Run one of them, or rename the file."
            )
    return sources


def _bring_up_to_date(step: Step, package: str, title: str, force: bool) -> Outcome:
    """Run a step unless it is up to date."""
    text = step.notebook.read_text(encoding="utf-8")
    inputs = step.inputs(package, text)
    stamp = step.read_stamp()
    if not force and stamp is not None and step.up_to_date(inputs, stamp):
        # Both are of a change that was taken back since.
        step.failed_path.unlink(missing_ok=True)
        step.forget_sweeps()
        seconds, peak = stamp.get("seconds", 0.0), stamp.get("peak_bytes", 0)
        return Outcome(step, "up to date", seconds, peak, tuple(stamp["outputs"]))
    stamp = stamp or {"outputs": {}}
    before = (stamp.get("inputs", {}).get("parameters") or {}).get("dataset")
    if before not in (None, step.source.dataset):
        folder = f"figures/{step.source.label}/"
        print(f"{folder} held figures of {before}; they are replaced.", flush=True)

    from pqlib.study.pipeline import execute  # heavy: papermill, jupyter_client

    layout = step.layout
    scratch = Path(tempfile.mkdtemp(prefix=f"{step.notebook.stem}-", dir=layout.staging))
    output = scratch / "output"
    output.mkdir()
    parameters = {"dataset": step.source.dataset, "output": str(output)}
    watch = Watch()
    resume = step.resume_folder(inputs)
    # What other inputs gave belongs to older code or data, and would never be used again.
    step.forget_sweeps(but=resume)
    source = execute.read_source(text, step.notebook.name)
    if RESUME in execute.assigned_parameters(source):
        parameters[RESUME] = str(resume)
        watch.follow(resume)
    progress = Progress(title, watch)
    try:
        with progress:
            executed = execute.execute(step.notebook, text, parameters, scratch, watch)
    except execute.CellFailure as problem:
        kept = "No figure was changed."
        if problem.notebook is not None:
            write_atomically(step.failed_path, execute.as_bytes(problem.notebook))
            kept += f" The notebook up to that cell: {layout.name(step.failed_path)}"
        raise PipelineError(f"{problem}\n\n{kept}") from None
    _check_names(step.notebook, output)
    outputs = promote(layout, step.source.label, output)
    for name in stamp["outputs"]:
        if name not in outputs and name.split("/")[0] in KINDS:
            (layout.root / name).unlink(missing_ok=True)
    write_atomically(step.executed_path, execute.as_bytes(executed))
    step.failed_path.unlink(missing_ok=True)
    # Before the stamp: a step that counts as complete leaves nothing for `--force` to take up.
    step.forget_sweeps()
    step.write_stamp(
        {
            "inputs": inputs,
            "outputs": outputs,
            "seconds": round(progress.seconds, 1),
            "peak_bytes": watch.peak_bytes,
        }
    )
    return Outcome(step, "done", progress.seconds, watch.peak_bytes, tuple(outputs))


def _check_names(notebook: Path, output: Path) -> None:
    """Raise where a name is not the notebook's own.

    Two notebooks could write the same file otherwise, and none would ever be up to date.
    """
    own = f"{notebook.stem[:2]}_"
    for path in produced(output):
        if not path.name.startswith(own):
            raise PipelineError(
                f"{notebook.name} wrote {path.name}: expected names that start with "
                f"{own}, its own number. No figure was changed."
            )


def _table(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return the final table: every step, how long it took, what it wrote where."""
    rows = [("data set", "notebook", "state", "time", "memory")]
    for outcome in outcomes:
        spent = duration(outcome.seconds) if outcome.seconds else ""
        if outcome.state == "up to date":
            spent = f"({spent})"
        stem = outcome.step.notebook.stem
        peak = memory(outcome.peak_bytes)
        rows.append((outcome.step.source.label, stem, outcome.state, spent, peak))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [""]
    for index, row in enumerate(rows):
        lines.append("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
        if index == 0:
            lines.append("  ".join("-" * w for w in widths))
        else:
            lines += _written(outcomes[index - 1].outputs)
    skipped = sum(outcome.state == "up to date" for outcome in outcomes)
    lines.append("")
    if skipped == len(outcomes):
        lines.append(f"Everything is up to date (checked in {duration(seconds)}).")
    else:
        note = f"; {skipped} up to date, their last time in brackets" if skipped else ""
        lines.append(f"{duration(seconds)} in all{note}. Executed notebooks are in runs/.")
    return "\n".join(lines)


def _written(outputs: Sequence[str]) -> list[str]:
    """Return lines that name the files of a step, those of one figure together."""
    folders: dict[str, dict[str, list[str]]] = {}
    for name in outputs:
        folder, _, file = name.rpartition("/")
        stem, _, suffix = file.rpartition(".")
        folders.setdefault(folder, {}).setdefault(stem, []).append(suffix)
    width = shutil.get_terminal_size((100, 24)).columns
    lines = []
    for folder, files in folders.items():
        line = f"    {folder}/:"
        for stem, suffixes in files.items():
            word = f" {stem}.{'|'.join(suffixes)}"
            if len(line) + len(word) > width:
                lines.append(line)
                line = "       "
            line += word
        lines.append(line)
    return lines
