"""Writes to one topic, and knows at the end that the broker has every record."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx2
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka.schema_registry.error import SchemaRegistryError

from ingest.clients import make_producer, make_registry
from ingest.contracts.contract import Contract
from ingest.contracts.topics import registered_schema
from ingest.progress import Progress, no_progress
from services.errors import MendableError
from services.settings import Settings

CONNECT_SECONDS = 10.0
DELIVERY_SECONDS = 60


class ProduceError(MendableError):
    """The broker can't be written to, or did not take every record; the sentence says how many it took."""


@dataclass(slots=True)
class OffsetRange:
    """Records of one partition that lie side by side: from offset `start` up to, without, `end`."""

    partition: int
    start: int
    end: int


@dataclass(slots=True)
class _Deliveries:
    """What became of the records handed over: which were never delivered, and where those lie that the broker took."""

    failures: int = 0
    first_failure: KafkaError | None = None
    offsets: list[OffsetRange] = field(default_factory=list)
    newest: dict[int, OffsetRange] = field(default_factory=dict)

    def note(self, error: KafkaError | None, record: Message) -> None:
        if error is not None:
            self.failures += 1
            self.first_failure = self.first_failure or error
            return
        partition, offset = record.partition(), record.offset()
        if partition is None or offset is None:
            return  # taken at an attempt whose answer was lost: the broker says that it has it, not where
        newest = self.newest.get(partition)
        if newest is not None and newest.end == offset:
            newest.end += 1
        else:
            self.newest[partition] = OffsetRange(partition, offset, offset + 1)
            self.offsets.append(self.newest[partition])


class TopicWriter:
    """An idempotent producer for one topic. Leaving the `with` block waits until every record is delivered.

    `partitions` is how many the topic has. A record counts as written when all in-sync replicas have it. With
    `keep_offsets`, `offsets` is where the records lie after a flush; it grows wherever other writers' records lie
    between, so it is for runs that end by themselves.

    Raises:
        ProduceError: on making it, when no broker answers or the topic is missing; on `write` and on leaving,
            when a record could not be delivered within DELIVERY_SECONDS.
    """

    def __init__(
        self, settings: Settings, topic: str, progress: Progress = no_progress, *, keep_offsets: bool = False
    ) -> None:
        self._topic = topic
        self._servers = settings.bootstrap_servers
        self._progress = progress
        self._total: int | None = None
        self._written = 0
        self._deliveries = _Deliveries()
        said: list[KafkaError] = []
        self._producer = make_producer(
            settings,
            **{
                "client.id": "scopehouse-produce",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                # As Java producers do it: a key's records stay in one partition whoever writes them.
                "partitioner": "murmur2_random",
                "delivery.timeout.ms": DELIVERY_SECONDS * 1000,
                "delivery.report.only.error": not keep_offsets,
                "on_delivery": self._deliveries.note,
                "error_cb": said.append,
                # What goes wrong is told by our own sentences.
                "log_level": 0,
            },
        )
        try:
            topics = self._producer.list_topics(timeout=CONNECT_SECONDS).topics
        except KafkaException as error:
            self._producer.poll(0)
            why = (said or error.args)[0].str()
            raise ProduceError(
                f"No Kafka broker answers at {self._servers} ({why}): run `scopehouse up`, or mend "
                "KAFKA_BOOTSTRAP_SERVERS or SCOPEHOUSE_KAFKA_PROPERTIES."
            ) from error
        if topic not in topics:
            raise ProduceError(f"Kafka at {self._servers} has no topic {topic}: run `scopehouse migrate`.")
        self.partitions = len(topics[topic].partitions)

    @property
    def offsets(self) -> list[OffsetRange]:
        """Where the delivered records lie; empty without `keep_offsets`."""
        return self._deliveries.offsets

    def expect(self, total: int | None) -> None:
        """Say how many records will come, for the progress alone."""
        self._total = total

    def write(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Hand over (key, value) pairs; waits only while the producer's own buffer is full."""
        for key, value in records:
            while True:
                try:
                    self._producer.produce(self._topic, value=value, key=key)
                    break
                except BufferError:
                    self._producer.poll(0.1)
                    self._check()
                except KafkaException as error:
                    raise self._error(error.args[0]) from error
            self._written += 1
        self._producer.poll(0)
        self._check()

    def flush(self) -> None:
        """Wait until everything handed over is delivered."""
        while self._producer.flush(0.2):
            self._check()
        self._check()

    def __enter__(self) -> TopicWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
        else:
            self._producer.purge()
            self._producer.flush(1)

    def _check(self) -> None:
        if self._deliveries.first_failure is not None:
            raise self._error(self._deliveries.first_failure)
        self._progress(self._topic, self._written - len(self._producer), self._total)

    def _error(self, error: KafkaError) -> ProduceError:
        missing = len(self._producer) + self._deliveries.failures
        return ProduceError(
            f"Kafka at {self._servers} took {max(self._written - missing, 0):,} of {self._written:,} records for "
            f"{self._topic} and then failed ({error.str()}): see that the broker is well and produce again."
        )


def avro_header(settings: Settings, contract: Contract) -> bytes:
    """The five bytes before each Avro value of a topic: a zero and the id of the contract's schema.

    Raises:
        ProduceError: the registry can't be reached, or the contract as it stands is not registered.
    """
    registry = make_registry(settings, timeout=CONNECT_SECONDS, **{"max.retries": 1})
    try:
        registered: Any = registry.lookup_schema(contract.subject, registered_schema(contract))
    except SchemaRegistryError as error:
        if error.http_status_code != 404:
            raise ProduceError(
                f"The schema registry at {settings.registry_url} refused to look up {contract.subject} "
                f"({error.error_message}): check its log."
            ) from error
        raise ProduceError(
            f"The schema registry has no {contract.subject} that equals the contract: run `scopehouse migrate`."
        ) from error
    except httpx2.HTTPError as error:
        raise ProduceError(
            f"No schema registry answers at {settings.registry_url}: run `scopehouse up`, or mend SCHEMA_REGISTRY_URL."
        ) from error
    return struct.pack(">bI", 0, registered.schema_id)
