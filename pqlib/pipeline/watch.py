"""What is known of a notebook while it runs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass
class Watch:
    """What is known of a running notebook; written by the run, read by the progress display."""

    cells: int = 0
    cell: int = 0
    pid: int | None = None
    peak_bytes: int = 0

    def look(self) -> None:
        """Update the peak of the kernel's resident memory."""
        if self.pid is None:
            return
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            self.peak_bytes = max(self.peak_bytes, _peak_memory(self.pid))


def _peak_memory(pid: int) -> int:
    """Return the most resident bytes a process had; elsewhere than on Linux those it has."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process(pid).memory_info().rss)
