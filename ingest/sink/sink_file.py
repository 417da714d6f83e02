"""What each running sink says of itself, in `sinks/<pid>.json` of the state folder: there while Postgres is not.

Renewed every second or so, replaced whole, removed at a clean end. That of a killed sink stays, until the next starts.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from services.settings import Settings


@dataclass(frozen=True, slots=True)
class PartitionState:
    """How an owned partition is. `end` is None while the broker has not said; times are Unix seconds.

    `state` is `landing`, `idle`, `fenced`, `stopped` or `waiting for <server>`; `why` says why it is stopped.
    """

    topic: str
    partition: int
    next_offset: int
    end: int | None
    state: str
    why: str | None
    rows_per_s: float
    landed_at: float | None


@dataclass(frozen=True, slots=True)
class SinkState:
    """How a sink is, or was last. Times are Unix seconds; `created` is the process's start."""

    pid: int
    created: float
    group: str
    started_at: float
    updated_at: float
    waiting_for: str | None
    last_error: str | None
    last_error_at: float | None
    partitions: tuple[PartitionState, ...]

    @property
    def is_alive(self) -> bool:
        """Whether its process is there still, and no other that was given its pid."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) < 2 and process.status() != psutil.STATUS_ZOMBIE
        return False


def write(settings: Settings, state: SinkState) -> None:
    """Replace the sink's file. Raises OSError."""
    file = _file(settings, state.pid)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(asdict(state)) + "\n")
    new.replace(file)


def remove(settings: Settings, pid: int) -> None:
    """Remove a sink's file, if there is one. Raises OSError."""
    _file(settings, pid).unlink(missing_ok=True)


def read_all(settings: Settings) -> list[SinkState]:
    """Every sink that runs, and those that died, in the order of their start."""
    states = []
    for file in _folder(settings).glob("*.json"):
        with suppress(OSError, ValueError, TypeError, KeyError):  # removed meanwhile, or an older version's
            found = json.loads(file.read_text())
            partitions = tuple(PartitionState(**each) for each in found.pop("partitions"))
            states.append(SinkState(**found, partitions=partitions))
    return sorted(states, key=lambda state: state.started_at)


def _folder(settings: Settings) -> Path:
    return settings.state_dir / "sinks"


def _file(settings: Settings, pid: int) -> Path:
    return _folder(settings) / f"{pid}.json"
