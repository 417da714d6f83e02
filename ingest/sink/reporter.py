"""Hears what a running sink does, and tells Prometheus and `scopehouse status`."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import psutil
import structlog
from confluent_kafka import KafkaError

from ingest.sink import sink_file
from ingest.sink.metrics import Metrics
from ingest.sink.observer import Observer
from ingest.sink.offsets import Advance, Claim, TopicPartition
from ingest.sink.sentences import sentence, server_of
from ingest.sink.sink_file import PartitionState, SinkState
from services.settings import Settings

_RATE_SECONDS = 10.0
# A partition that was added to so lately is landing, even if nothing is left now.
_BUSY_SECONDS = 3.0
_STATISTICS_MILLISECONDS = 1_000
# The client tries to connect ten times a second and tells of each: one kind of trouble is logged so seldom.
_QUIET_SECONDS = 30.0

_log = structlog.get_logger("scopehouse.sink")


@dataclass(slots=True)
class _Partition:
    """An owned partition, as far as is heard."""

    next_offset: int
    end: int | None = None
    halted: str | None = None
    why: str | None = None
    # The server that it waits for alone, while the sink as a whole waits for none.
    waits_for: str | None = None
    landed_at: float | None = None
    rows: deque[tuple[float, int]] = field(default_factory=deque)


class Reporter(Observer):
    """Keeps the sink's file and its metrics up to date inside the `with` block.

    A clean end removes the file; an error leaves it, with what went wrong.

    Raises:
        MendableError: on entering it, when the metrics' port can't be had.
    """

    def __init__(self, settings: Settings) -> None:
        self.metrics = Metrics(settings)
        self._settings = settings
        self._created = psutil.Process().create_time()
        self._started_at = time.time()
        self._guard = threading.RLock()
        self._partitions: dict[TopicPartition, _Partition] = {}
        # Whether these were owned, and are shown for as long as the sink waits for a server to be given some again.
        self._are_former = False
        self._waiting_for: str | None = None
        self._last_error: str | None = None
        self._last_error_at: float | None = None
        self._can_write = True
        self._quiet_until: dict[int, float] = {}

    def __enter__(self) -> Self:
        self.metrics.__enter__()
        try:
            for state in sink_file.read_all(self._settings):
                if not state.is_alive:
                    sink_file.remove(self._settings, state.pid)
        except OSError as problem:
            self._cannot_write(problem)
        self._tell()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.metrics.__exit__(kind, error, at)
        if error is None:
            self.ended()
            return
        with self._guard:
            self._note(sentence(error))
            self._tell()

    def consumer_settings(self) -> Mapping[str, Any]:
        """The client's own statistics: they alone say whether a broker is there."""
        return {
            "statistics.interval.ms": _STATISTICS_MILLISECONDS,
            "stats_cb": self._on_statistics,
            "error_cb": self._on_kafka_error,
            # What the client would print by itself goes by error_cb.
            "log_level": 0,
        }

    def connected(self) -> None:
        """Postgres is there; what was owned before is not yet, and may never be."""
        with self._guard:
            if self._waiting_for in ("postgres", "a server"):
                self._wait_for(None)
            self._are_former = True
            if self._waiting_for is None:
                self._forget_former()
            self._tell()

    def assigned(self, claims: Mapping[TopicPartition, Claim]) -> None:
        """These are ours now."""
        with self._guard:
            self._forget_former()
            for partition, owned in claims.items():
                before = self._partitions.get(partition)
                self._partitions[partition] = _Partition(owned.next_offset)
                if before is not None and before.waits_for is not None:
                    # Taken up again only to see whether that server is back: what lands will show it.
                    self._partitions[partition].waits_for = before.waits_for
            self._tell()

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """These are ours no more."""
        with self._guard:
            if self._waiting_for == "kafka":
                # Given up, not handed over: while Kafka is away nobody is given them.
                self._are_former = True
                return
            for partition in partitions:
                if self._partitions.pop(partition, None) is not None:
                    self.metrics.forget(partition)
            self._wait_for(None if not self._partitions and self._waiting_for == "registry" else self._waiting_for)
            self._tell()

    def landed(self, advances: Sequence[Advance], size: int, seconds: float) -> None:
        """Committed: whatever was waited for is there."""
        now = time.time()
        with self._guard:
            self.metrics.bytes.inc(size)
            self.metrics.batch_seconds.observe(seconds)
            for move in advances:
                self.metrics.landed(move, now)
                partition = self._partitions.setdefault((move.topic, move.partition), _Partition(move.start))
                partition.next_offset = move.end
                partition.landed_at = now
                partition.waits_for = None
                partition.rows.append((now, move.rows))
            self._wait_for(None)

    def fenced(self, partitions: Iterable[TopicPartition]) -> None:
        """Another sink has them."""
        with self._guard:
            for topic, number in partitions:
                self.metrics.fences.labels(topic, str(number)).inc()
                self._halt((topic, number), "fenced", "Another sink took it over.")
            self._tell()

    def waiting(self, partitions: Iterable[TopicPartition], error: BaseException) -> None:
        """These wait for a server, the others do not."""
        with self._guard:
            for partition in partitions:
                if (found := self._partitions.get(partition)) is not None:
                    found.waits_for = server_of(error)
            self._note(sentence(error))
            self._wait_for(self._waiting_for)
            self._tell()

    def stopped(self, partitions: Iterable[TopicPartition], why: str) -> None:
        """They are read no further."""
        with self._guard:
            for partition in partitions:
                self._halt(partition, "stopped", why)
            self._note(why)
            self._tell()

    def ended(self) -> None:
        """The file goes; nothing that is heard from now on brings it back."""
        with self._guard:
            self._can_write = False
            try:
                sink_file.remove(self._settings, os.getpid())
            except OSError as problem:
                self._cannot_write(problem)

    def broke(self, error: BaseException) -> None:
        """The sink waits for a server."""
        with self._guard:
            server = server_of(error)
            self.metrics.breaks.labels(server).inc()
            self._note(sentence(error))
            self._wait_for(server)
            self._tell()

    def _on_statistics(self, text: str) -> None:
        """Once a second, inside the sink's calls to consume: how far partitions reach, and which brokers are there."""
        statistics = json.loads(text)
        with self._guard:
            for (topic, number), partition in self._partitions.items():
                numbers = statistics["topics"].get(topic, {}).get("partitions", {}).get(str(number), {})
                if numbers.get("hi_offset", -1) >= 0:
                    partition.end = numbers["hi_offset"]
            is_there = any(broker["state"] == "UP" for broker in statistics["brokers"].values())
            if is_there and self._waiting_for == "kafka":
                self._wait_for(None)
                self._forget_former()
            elif not is_there and self._waiting_for is None:
                self._wait_for("kafka")
            self._tell()

    def _on_kafka_error(self, error: KafkaError) -> None:
        """The client mends its connections by itself, but says what is the matter with them."""
        with self._guard:
            self._note(str(error.str()))
        if time.monotonic() < self._quiet_until.get(error.code(), 0.0):
            return
        self._quiet_until[error.code()] = time.monotonic() + _QUIET_SECONDS
        _log.warning("Kafka's client says", error=error.str())

    def _forget_former(self) -> None:
        if self._are_former:
            for partition in self._partitions:
                self.metrics.forget(partition)
            self._partitions.clear()
            self._are_former = False

    def _halt(self, partition: TopicPartition, state: str, why: str) -> None:
        if (found := self._partitions.get(partition)) is not None:
            found.halted, found.why = state, why

    def _note(self, error: str) -> None:
        self._last_error, self._last_error_at = error, time.time()

    def _wait_for(self, server: str | None) -> None:
        self._waiting_for = server
        self.metrics.wait_for(self._any_waits_for())

    def _any_waits_for(self) -> str | None:
        """The server that the sink waits for, or else some of its partitions."""
        alone = (each.waits_for for each in self._partitions.values() if each.waits_for is not None)
        return self._waiting_for or next(alone, None)

    def _tell(self) -> None:
        """Write the file, and say where each partition stands."""
        now = time.time()
        for partition, found in self._partitions.items():
            self.metrics.at(partition, found.next_offset, found.end, found.halted is not None)
        if not self._can_write:
            return
        try:
            sink_file.write(self._settings, self._state(now))
        except OSError as error:
            self._cannot_write(error)

    def _cannot_write(self, error: OSError) -> None:
        self._can_write = False
        _log.warning("the state folder can't be written: status won't show this sink", error=error.strerror)

    def _state(self, now: float) -> SinkState:
        return SinkState(
            pid=os.getpid(),
            created=self._created,
            group=self._settings.consumer_group,
            started_at=self._started_at,
            updated_at=now,
            waiting_for=self._any_waits_for(),
            last_error=self._last_error,
            last_error_at=self._last_error_at,
            partitions=tuple(
                self._partition_state(partition, found, now) for partition, found in sorted(self._partitions.items())
            ),
        )

    def _partition_state(self, partition: TopicPartition, found: _Partition, now: float) -> PartitionState:
        while found.rows and found.rows[0][0] < now - _RATE_SECONDS:
            found.rows.popleft()
        is_behind = found.end is not None and found.next_offset < found.end
        is_busy = found.landed_at is not None and now - found.landed_at < _BUSY_SECONDS
        if found.halted is not None:
            state = found.halted
        elif server := self._waiting_for or found.waits_for:
            state = f"waiting for {server}"
        else:
            state = "landing" if is_behind or is_busy else "idle"
        return PartitionState(
            topic=partition[0],
            partition=partition[1],
            next_offset=found.next_offset,
            end=found.end,
            state=state,
            why=found.why,
            rows_per_s=round(sum(rows for _, rows in found.rows) / _RATE_SECONDS, 1),
            landed_at=found.landed_at,
        )
