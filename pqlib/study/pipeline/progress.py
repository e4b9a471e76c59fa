"""Says how far a run is: one line that updates itself on a terminal, few plain ones elsewhere."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from typing import TextIO

from pqlib.study.pipeline.watch import SweepState, Watch

HEARTBEAT_SECONDS = 10.0
REFRESH_SECONDS = 0.25


def duration(seconds: float) -> str:
    """Return a duration as people write it: 8.1 s, 2 min 05 s, 1 h 02 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def about(seconds: float) -> str:
    """Return a duration that is only estimated: 12 s, 4 min, 1 h 02 min."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def sweep(state: SweepState | None) -> str:
    """Return how far a sweep is, in brackets: (m, nbits 12/54, 4 min left); empty without one."""
    if state is None:
        return ""
    # At 0 a point takes longer than those before it: nothing is known then.
    left = f", {about(state.seconds_left)} left" if state.seconds_left else ""
    return f" ({state.name} {state.done}/{state.total}{left})"


def memory(count: int) -> str:
    """Return a number of bytes in GiB or MiB; empty where it is not known."""
    if count <= 0:
        return ""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


class Progress:
    """Shows one step while it runs; use as a context manager around it."""

    def __init__(self, title: str, watch: Watch, stream: TextIO | None = None) -> None:
        self.title = title
        self.watch = watch
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    @property
    def seconds(self) -> float:
        """Wall time since the step started."""
        return time.monotonic() - self.started

    def __enter__(self) -> Progress:
        if not self.live:
            self._line(f"{self.title}: started")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *problem: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.live:
            self.stream.write("\r\x1b[K")
        end = "done in" if kind is None else "failed after"
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            end = "interrupted after"
        self._line(f"{self.title}: {end} {duration(self.seconds)}")

    def _follow(self) -> None:
        next_line = self.started + HEARTBEAT_SECONDS
        while not self._stop.wait(REFRESH_SECONDS):
            self.watch.look()
            if self.live:
                text = f"{self.title}: {self._state()}"[: shutil.get_terminal_size().columns - 1]
                self.stream.write(f"\r\x1b[K{text}")
                self.stream.flush()
            elif time.monotonic() >= next_line:
                next_line += HEARTBEAT_SECONDS
                self._line(f"{self.title}: {self._state()}")

    def _state(self) -> str:
        watch = self.watch
        cell = f"cell {watch.cell} of {watch.cells}" if watch.cell else "starting"
        parts = [cell + sweep(watch.sweep), duration(self.seconds), memory(watch.peak_bytes)]
        return ", ".join(part for part in parts if part)

    def _line(self, text: str) -> None:
        self.stream.write(f"{text}\n")
        self.stream.flush()
