"""The command line of ``python -m pqlib.study.pipeline``."""

from __future__ import annotations

import argparse
import errno
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from pqlib.study.pipeline.data import DEFAULT_DATASET, make_folders_absolute
from pqlib.study.pipeline.steps import Layout, PipelineError

INTERRUPTED = 130  # what a shell reports of a command ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; mistakes are one message, not a traceback."""
    options = _parser().parse_args(arguments)
    # A closed terminal or `kill` is to end the kernel as well, so both become Ctrl-C.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    make_folders_absolute()
    try:
        return _run(options, Layout(options.root.resolve()))
    except (PipelineError, OSError) as problem:
        print(_words(problem) if isinstance(problem, OSError) else problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        then = "starts anew" if options.command == "bench" else "takes up where this one stopped"
        print(f"Interrupted. The next run {then}.", file=sys.stderr)
        return INTERRUPTED


def _run(options: argparse.Namespace, layout: Layout) -> int:
    """Run the command; each imports what it needs itself, since some of it is heavy."""
    dataset = options.dataset if "dataset" in options else None
    if options.command == "figures":
        from pqlib.study.pipeline.figures import run_figures

        return run_figures(layout, _datasets(options), options.notebooks, options.force)
    if options.command == "publish":
        from pqlib.study.pipeline.publish import publish

        return max(publish(layout, dataset) for dataset in _datasets(options))
    if options.command == "bench" and options.peers:
        from pqlib.study.pipeline.peers import run_peers

        return run_peers(layout, dataset or DEFAULT_DATASET, max_bytes=options.max_bytes)
    if options.command == "bench":
        from pqlib.study.pipeline.bench import run_bench

        return run_bench(layout, dataset or DEFAULT_DATASET)

    from pqlib.study.pipeline import slices, stored

    if options.command == "sync":
        return stored.check_pairs(layout)
    if options.command == "notebooks":
        stored.write_notebooks(layout, options.notebooks)
    return slices.write_slices(layout, options.notebooks)


def _words(problem: OSError) -> str:
    """Say what the file system refused, and what to do."""
    advice = {
        errno.ENOSPC: "Make room on that disk",
        errno.EDQUOT: "Make room within your quota",
        errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
        errno.EROFS: "Work in a checkout on a disk that can be written to",
        errno.EACCES: "Work in a checkout that you may write to, or change its permissions",
        errno.EPERM: "Work in a checkout that you may write to, or change its permissions",
    }.get(problem.errno or 0, "Check the disk")
    place = f" {problem.filename}" if problem.filename else ""
    return (
        f"The file system refused{place}: {problem.strerror or problem}. {advice} and run this "
        "again. Figures and results that were there before are as they were."
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _datasets(options: argparse.Namespace) -> list[str]:
    if options.datasets is not None:
        return shlex.split(options.datasets) or [DEFAULT_DATASET]
    return [options.dataset or DEFAULT_DATASET]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pqlib.study.pipeline", description=__doc__)
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).parents[3],
        help="checkout to work in (default: the one this package lies in)",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    figures = commands.add_parser("figures", help="run the notebooks for data sets")
    publish = commands.add_parser("publish", help="copy what runs wrote to the committed results")
    for command in (figures, publish):
        data = command.add_mutually_exclusive_group()
        data.add_argument("--dataset", help=f"name or path (default: {DEFAULT_DATASET})")
        data.add_argument("--datasets", help="several, separated by spaces (quote those in paths)")
    figures.add_argument("--force", action="store_true", help="run also what is up to date")

    notebooks = commands.add_parser("notebooks", help="store the notebooks with their outputs")
    slices = commands.add_parser("slices", help="store the slices of notebooks that tests compare")
    for command in (figures, notebooks, slices):
        command.add_argument(
            "--notebooks",
            type=str.split,
            default=[],
            help='numbers or names, such as "01 03" (default: all)',
        )
    measuring = commands.add_parser("bench", help="measure our index beside faiss's")
    measuring.add_argument("--dataset", help=f"name or path (default: {DEFAULT_DATASET})")
    measuring.add_argument(
        "--peers", action="store_true", help="beside other libraries: those that are installed"
    )
    measuring.add_argument(
        "--max-bytes", type=float, help="with --peers: bytes per vector that ours may take"
    )
    commands.add_parser("sync", help="check that .ipynb and .py agree")
    return parser
