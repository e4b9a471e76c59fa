"""What is known of a notebook while it runs."""

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

SWEEP_FILE = ".progress.json"
"""What ``pqlib.study.sweep`` says of itself in its store; not imported, being heavy."""


@dataclass(frozen=True)
class SweepState:
    """How far a sweep is."""

    name: str
    done: int
    total: int
    seconds_left: float | None


@dataclass
class Watch:
    """What is known of a running notebook; written by the run, read by the progress display."""

    cells: int = 0
    cell: int = 0
    pid: int | None = None
    peak_bytes: int = 0
    sweep: SweepState | None = None
    sweeps: Path | None = None

    def follow(self, store: Path) -> None:
        """Look for sweeps in the folder ``store`` from now on."""
        self.sweeps = store
        # Left by a run that was killed in the middle of a sweep.
        with contextlib.suppress(OSError):
            (store / SWEEP_FILE).unlink(missing_ok=True)

    def look(self) -> None:
        """Update the peak of the kernel's resident memory and the sweep under way."""
        self.sweep = None if self.sweeps is None else _read_sweep(self.sweeps / SWEEP_FILE)
        if self.pid is None:
            return
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            self.peak_bytes = max(self.peak_bytes, _peak_memory(self.pid))


def _read_sweep(path: Path) -> SweepState | None:
    """Return what a sweep last said; None where there is none, or nothing to be made of it."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        left = said["seconds_left"]
        if left is not None:
            # Said when its last point was done; what has passed since counts.
            left = max(0.0, float(left) - max(0.0, time.time() - path.stat().st_mtime))
            left = left if math.isfinite(left) else None
        name = " ".join(str(said["name"]).split())[:40]
        return SweepState(name, int(said["done"]), int(said["total"]), left)
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return None


def _peak_memory(pid: int) -> int:
    """Return the most resident bytes a process had; elsewhere than on Linux those it has."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process(pid).memory_info().rss)
