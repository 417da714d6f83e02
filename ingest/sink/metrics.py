"""What `scopehouse ingest run` tells Prometheus. `docs/runbook.md` says what to do about each."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from ingest.sink.offsets import Advance, TopicPartition
from services.errors import MendableError
from services.settings import Settings

_PARTITION = ("topic", "partition")
WAITED_FOR = ("postgres", "kafka", "registry", "a server")


class Metrics:
    """The sink's metrics, in a registry of their own; served inside the `with` block, if a port is set.

    Raises:
        MendableError: on entering it, when the port can't be had.
    """

    def __init__(self, settings: Settings) -> None:
        self._address = settings.metrics_address
        self._port = settings.metrics_port
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.rows = Counter("scopehouse_sink_rows", "Rows landed in raw.", _PARTITION, registry=registry)
        self.bytes = Counter("scopehouse_sink_bytes", "Bytes of values landed.", registry=registry)
        self.dead_letters = Counter(
            "scopehouse_sink_dead_letters", "Records set aside.", ("topic", "partition", "reason"), registry=registry
        )
        self.batch_seconds = Histogram(
            "scopehouse_sink_batch_seconds",
            "How long a transaction took: rows, dead letters and offsets.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.fences = Counter(
            "scopehouse_sink_fences", "Times that another sink took a partition over.", _PARTITION, registry=registry
        )
        self.breaks = Counter(
            "scopehouse_sink_session_breaks", "Sessions that broke, by server.", ("server",), registry=registry
        )
        self.waiting = Gauge(
            "scopehouse_sink_waiting", "1 while the sink waits for this server.", ("server",), registry=registry
        )
        self.next_offset = Gauge(
            "scopehouse_sink_next_offset", "Raw holds every offset below, says Postgres.", _PARTITION, registry=registry
        )
        self.end_offset = Gauge("scopehouse_sink_end_offset", "The partition's end.", _PARTITION, registry=registry)
        self.lag = Gauge("scopehouse_sink_lag", "Offsets that raw does not hold yet.", _PARTITION, registry=registry)
        self.landed_at = Gauge(
            "scopehouse_sink_last_landed_timestamp_seconds",
            "When this partition's last transaction was committed (Unix).",
            _PARTITION,
            registry=registry,
        )
        self.halted = Gauge(
            "scopehouse_sink_partition_halted",
            "1 while a partition is fenced or stopped.",
            _PARTITION,
            registry=registry,
        )
        for server in WAITED_FOR:
            self.breaks.labels(server)
            self.waiting.labels(server).set(0)

    def __enter__(self) -> Self:
        if self._port:
            try:
                self._server, _ = start_http_server(self._port, self._address, self.registry)
            except OSError as error:
                raise MendableError(
                    f"The metrics can't be served on {self._address}:{self._port} ({error.strerror}): "
                    "set SCOPEHOUSE_METRICS_PORT to a free port, or to 0 for none."
                ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._port:
            self._server.shutdown()
            self._server.server_close()

    def landed(self, advance: Advance, now: float) -> None:
        """Count what a transaction did to one partition, committed at `now` (Unix seconds)."""
        labels = (advance.topic, str(advance.partition))
        self.rows.labels(*labels).inc(advance.rows)
        for reason, count in advance.reasons.items():
            self.dead_letters.labels(*labels, reason).inc(count)
        self.landed_at.labels(*labels).set(now)

    def at(self, partition: TopicPartition, next_offset: int, end: int | None, is_halted: bool) -> None:
        """Where an owned partition stands; `end` is None while the broker has not said."""
        labels = (partition[0], str(partition[1]))
        self.next_offset.labels(*labels).set(next_offset)
        self.halted.labels(*labels).set(is_halted)
        if end is not None:
            self.end_offset.labels(*labels).set(end)
            self.lag.labels(*labels).set(max(end - next_offset, 0))

    def forget(self, partition: TopicPartition) -> None:
        """Say no more where a partition stands: another member owns it."""
        for gauge in (self.next_offset, self.end_offset, self.lag, self.landed_at, self.halted):
            gauge.remove(partition[0], str(partition[1]))

    def wait_for(self, server: str | None) -> None:
        """Say which server the sink waits for; None is none."""
        for each in WAITED_FOR:
            self.waiting.labels(each).set(each == server)
