"""CPU and memory of processes, as Linux counts them in /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a contender did: CPU seconds are for a million rows, by process; the peak is its own process's, in MB."""

    rows_per_s: float
    cpu_seconds: dict[str, float]
    peak_rss_mb: float


@dataclass(frozen=True, slots=True)
class Reading:
    """Seconds and each process's CPU seconds since the meter's start."""

    seconds: float
    cpu_seconds: dict[str, float]

    def cost(self, rows: int, peak_rss_mb: float) -> Cost:
        """What `rows` rows cost up to this reading."""
        cpu = {name: seconds * 1e6 / rows for name, seconds in self.cpu_seconds.items()}
        return Cost(rows / self.seconds, cpu, peak_rss_mb)


class Meter:
    """Reads the CPU time of some processes, named, from `start` on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self.pids = pids
        self.start()

    def start(self) -> None:
        """Begin anew; the peaks of memory too."""
        for pid in self.pids.values():
            _forget_peak(pid)
        self._cpu = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        self._began = time.monotonic()

    def read(self) -> Reading:
        """What has passed."""
        seconds = time.monotonic() - self._began
        cpu = {name: cpu_seconds(pid) - self._cpu[name] for name, pid in self.pids.items()}
        return Reading(seconds, cpu)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its living children and those it has waited for."""
    return (_ticks(pid) + sum(_ticks(child) for child in _children(pid))) / _TICKS_A_SECOND


def _forget_peak(pid: int) -> None:
    """Begin a new peak of resident memory."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_rss_mb(pid: int) -> float:
    """The peak of resident memory since the start, or since a meter's; in MB of 10**6 bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _ticks(pid: int) -> int:
    try:
        # The program's name may hold anything; the rest follows its closing bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:  # ended meanwhile: its parent has its time
        return 0
    return sum(int(field) for field in fields[11:15])
