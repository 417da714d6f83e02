"""CPU and memory of processes, as Linux counts them in /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

import numpy as np

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_READ_EVERY_SECONDS = 0.05


class Meter:
    """Reads the CPU time of some processes, named, again and again inside the `with` block."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self.pids = dict(pids)
        self._readings: list[list[float]] = []
        self._ended = Event()
        self._thread = Thread(target=self._watch, name="meter", daemon=True)

    def __enter__(self) -> Self:
        for pid in self.pids.values():
            _forget_peak(pid)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def cpu_seconds(self, since: float, until: float) -> dict[str, float]:
        """What each process took between two points of time (Unix seconds)."""
        times, *columns = zip(*self._readings, strict=True)
        return {
            name: float(np.interp(until, times, column) - np.interp(since, times, column))
            for name, column in zip(self.pids, columns, strict=True)
        }

    def _watch(self) -> None:
        while True:
            self._readings.append([time.time(), *map(_cpu_seconds, self.pids.values())])
            if self._ended.wait(_READ_EVERY_SECONDS):
                # The last reading is of the end, not of up to a moment before it.
                self._readings.append([time.time(), *map(_cpu_seconds, self.pids.values())])
                return


def peak_rss_mb(pid: int) -> float:
    """The peak of resident memory since the start, or since a meter's; in MB of 10**6 bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, its living children and those it has waited for."""
    return (_ticks(pid) + sum(_ticks(child) for child in _children(pid))) / _TICKS_A_SECOND


def _forget_peak(pid: int) -> None:
    """Begin a new peak of resident memory."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _ticks(pid: int) -> int:
    try:
        # The program's name may hold anything; the rest follows its closing bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile: its parent has its time
        return 0
    return sum(int(field) for field in fields[11:15])
