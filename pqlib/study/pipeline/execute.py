"""Executes one notebook with papermill, from its .py source, in this very interpreter's kernel."""

from __future__ import annotations

import ast
import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jupytext
import nbformat
import papermill
import psutil
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from pqlib.study.pipeline.steps import PipelineError
from pqlib.study.pipeline.watch import Watch

if TYPE_CHECKING:
    from nbformat import NotebookNode

INJECTED_TAG = "injected-parameters"
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class CellFailure(PipelineError):
    """A cell raised an error; ``notebook`` is what had been executed by then."""

    def __init__(self, message: str, notebook: NotebookNode | None) -> None:
        super().__init__(message)
        self.notebook = notebook


class _OwnKernelManager(AsyncKernelManager):
    """Starts kernels of this interpreter, whatever "python3" is registered as on the machine.

    A kernel spec in the user's home folder may point to another Python, without our packages.
    """

    # Of the run under way; nbclient creates the manager, so they cannot be passed.
    watch = Watch()
    log_path = Path(os.devnull)
    variables: Mapping[str, str] = {}

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(resource_dir="", **get_kernel_dict())

    async def start_kernel(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        kwargs["env"] = {**os.environ, **self.variables}
        # What the kernel process itself has to say, or a crashing library: shown if it dies.
        with self.log_path.open("ab") as log:
            result = await super().start_kernel(*args, **kwargs, stderr=log)
        self.watch.pid = getattr(self.provisioner, "pid", None)
        return result


def read_source(text: str, name: str) -> NotebookNode:
    """Return the notebook of a .py:percent source."""
    try:
        return jupytext.reads(text, fmt="py:percent")
    except Exception as problem:
        raise PipelineError(f"{name} is no py:percent notebook: {problem}") from problem


def check_parameters(notebook: NotebookNode, name: str, parameters: Mapping[str, Any]) -> None:
    """Raise unless exactly one cell is tagged "parameters" and assigns all that is injected.

    Papermill only warns of a missing tag, and the notebook then runs on its defaults: figures of
    one data set under the name of another.
    """
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise PipelineError(
            f'{name}: {len(tagged)} cells have the tag "parameters", expected one '
            '(# %% tags=["parameters"]).'
        )
    assigned = assigned_parameters(notebook)
    missing = [p for p in parameters if p not in assigned]
    if missing:
        raise PipelineError(f"{name}: its parameters cell does not assign {', '.join(missing)}.")


def assigned_parameters(notebook: NotebookNode) -> set[str]:
    """Return the names that the cells tagged "parameters" assign."""
    return {
        node.id
        for cell in notebook.cells
        if "parameters" in cell.metadata.get("tags", [])
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def execute(
    source: Path,
    text: str,
    parameters: Mapping[str, Any],
    scratch: Path,
    watch: Watch,
    strict: bool = False,
) -> NotebookNode:
    """Execute a notebook and return it with its outputs.

    Parameters
    ----------
    source : the .py file, whose folder becomes the kernel's working directory
    text : its content, read once so that what is hashed is what runs
    parameters : injected after the cell tagged "parameters"; none, and nothing is injected
    scratch : folder for the run's own settings, removed by the caller
    strict : whether a figure with problems is an error

    Raises
    ------
    CellFailure
        When a cell fails or the kernel dies, with all there is to say about it.
    """
    notebook = read_source(text, source.name)
    check_parameters(notebook, source.name, parameters)
    watch.cells = sum(c.cell_type == "code" and bool(c.source.strip()) for c in notebook.cells)
    watch.cell, watch.pid, watch.peak_bytes = 0, None, 0
    running = ""

    def on_cell(cell: NotebookNode, cell_index: int) -> None:
        nonlocal running
        running = cell.source
        if INJECTED_TAG not in cell.metadata.get("tags", []):
            watch.cell += 1

    variables = {
        # A user's own IPython start-up files must not decide what the figures look like.
        "IPYTHONDIR": str(scratch / "ipython"),
        # Progress bars inside an executed notebook are noise that differs from run to run.
        "TQDM_DISABLE": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        # Threads that wait give their core away. By default they spin, and whatever else the
        # machine does makes k-means and small searches up to ten times slower.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
    }
    if strict:
        variables["PQLIB_STRICT_FIGURES"] = "1"
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    _OwnKernelManager.watch, _OwnKernelManager.variables = watch, variables
    _OwnKernelManager.log_path = scratch / "kernel.log"
    output = scratch / f"{source.stem}.ipynb"
    try:
        return papermill.execute_notebook(
            notebook,
            # Papermill formats the path with str.format: braces in it must be doubled.
            str(output).replace("{", "{{").replace("}", "}}"),
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            request_save_on_cell_execute=False,
            cwd=str(source.parent),
            kernel_manager_class=_OwnKernelManager,
            shutdown_kernel="immediate",
            coalesce_streams=True,
            on_cell_execute=on_cell,
        )
    except PapermillExecutionError as problem:
        executed = nbformat.read(output, as_version=4) if output.exists() else None
        trace = problem.traceback or [f"{problem.ename}: {problem.evalue}"]
        message = _failure(source, text, watch, problem.source, trace)
        raise CellFailure(message, executed) from None
    except DeadKernelError:
        trace = [
            "The kernel died: killed for want of memory, or crashed in compiled code.",
            f"Its resident memory was {watch.peak_bytes / 2**30:.1f} GiB when last looked at.",
            *_OwnKernelManager.log_path.read_text(errors="replace").splitlines()[-20:],
        ]
        raise CellFailure(_failure(source, text, watch, running, trace), None) from None
    finally:
        _make_sure_it_ended(watch.pid)


def as_bytes(notebook: NotebookNode) -> bytes:
    """Return the content of an .ipynb file, always in the same formatting."""
    text = nbformat.writes(notebook, version=nbformat.NO_CONVERT)
    return (text.rstrip("\n") + "\n").encode()


def _make_sure_it_ended(pid: int | None) -> None:
    """Kill the kernel if it still runs, as after a second Ctrl-C during the first one's work."""
    if pid is None:
        return
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if process.ppid() == os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
            os.killpg(pid, signal.SIGKILL) if os.getpgid(pid) == pid else process.kill()


def _failure(source: Path, text: str, watch: Watch, cell: str, trace: list[str]) -> str:
    """Compose the message of a failing cell: where, what, why."""
    position = text.find(cell) if cell else -1
    line = f", line {text.count(chr(10), 0, position) + 1}" if position >= 0 else ""
    head = cell.strip().splitlines()
    shown = [f"    {part}" for part in head[:6]] + (["    ..."] if len(head) > 6 else [])
    why = "\n".join(trace)
    if not sys.stdout.isatty():
        why = ANSI.sub("", why)
    where = f"{source.stem}: code cell {watch.cell} of {watch.cells} failed"
    place = f"({source.parent.name}/{source.name}{line})"
    return "\n".join([f"{where} {place}", *shown, "", why])
