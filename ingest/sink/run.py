"""`scopehouse ingest run`: a member of a consumer group that lands records for ever.

Whatever breaks (Postgres, the broker, the registry), the session ends with nothing half done, and a new one begins
after a pause that grows: it asks Postgres where to go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

import httpx2
import psycopg
import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.schema_registry.error import SchemaRegistryError
from psycopg import Connection

from ingest.sink.batch import Batch
from ingest.sink.broker import committed, consume_into, extents_of, make_consumer, partitions_of
from ingest.sink.landing import Landing, connect
from ingest.sink.limits import DeadLetterLimit, stopped
from ingest.sink.load import Topic
from ingest.sink.observer import Observer
from ingest.sink.offsets import Advance, LogChangedError, claim
from ingest.sink.offsets import TopicPartition as Partition
from ingest.sink.topics import loaded_topics
from services.errors import MendableError
from services.settings import Settings

_POLL_SECONDS = 0.1
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_LOOK_SECONDS = 2.0
_TRANSIENT = (psycopg.OperationalError, KafkaException, SchemaRegistryError, httpx2.HTTPError, OSError)

_log = structlog.get_logger("scopehouse.sink")

OnLanded = Callable[[list[Advance]], None]


def run(
    settings: Settings,
    stop: threading.Event,
    topics: Iterable[str] | None = None,
    on_landed: OnLanded | None = None,
    observer: Observer | None = None,
) -> None:
    """Land records of the topics (all by default) until `stop` is set; `on_landed` hears of each transaction.

    The observer hears of it too, as soon as it is committed, and of what else happens.

    Raises:
        LogChangedError: a topic is not the log that raw was filled from.
        MendableError: a topic has no contract, or a setting is missing.
    """
    loaded = loaded_topics(settings, topics)
    observer = observer or Observer()
    pause = _FIRST_PAUSE_SECONDS
    while not stop.is_set():
        began = time.monotonic()
        try:
            _Session(settings, loaded, on_landed, observer).run(stop)
        except _TRANSIENT as error:
            if time.monotonic() - began > _LONGEST_PAUSE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            observer.broke(error)
            _log.warning("session broke, will go on", error=_sentence(error), pause_seconds=pause)
            stop.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


class _Session:
    """One connection to Postgres and one membership in the group."""

    def __init__(
        self, settings: Settings, topics: dict[str, Topic], on_landed: OnLanded | None, observer: Observer
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._on_landed = on_landed
        self._observer = observer
        self._batch = Batch()
        # Partitions assigned while a call to consume() was under way.
        self._fresh: set[Partition] = set()
        # Assigned, but left alone: they have too many dead letters.
        self._stopped: set[Partition] = set()
        self._looked_at = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        limit = DeadLetterLimit(self._settings.dead_letter_share, self._settings.dead_letter_run)
        consumer = make_consumer(self._settings, **{"group.protocol": "consumer", **self._observer.consumer_settings()})
        try:
            with (
                connect(self._settings) as connection,
                Landing(
                    connection, self._topics, limit, self._pause_fenced, self._pause_stopped, self._observer
                ) as landing,
            ):
                self._connection: Connection = connection
                self._consumer: Consumer = consumer
                self._landing = landing
                self._observer.connected()
                consumer.subscribe(
                    list(self._topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
                )
                while not stop.is_set():
                    self._fill_batch(stop)
                    self._land_batch()
                self._report(self._landing.finish())
        finally:
            consumer.close()

    def _fill_batch(self, stop: threading.Event) -> None:
        closes_at = None
        while not stop.is_set() and not self._batch.is_full(self._settings.batch_rows, self._settings.batch_bytes):
            self._consume()
            self._take_up_resumed()
            if closes_at is None and (self._batch.rows or self._landing.is_busy):
                closes_at = time.monotonic() + self._settings.batch_milliseconds / 1000
            if closes_at is not None and time.monotonic() >= closes_at:
                return

    def _consume(self) -> None:
        arrived = Batch()
        for event in consume_into(arrived, self._consumer, self._landing.claims, _POLL_SECONDS):
            _raise_unless_passing(event)
        if self._fresh:
            # The call may have begun before the assignment and hold records of an earlier one: they are dropped, and
            # the new partitions start again where Postgres says.
            arrived = arrived.without(self._fresh)
            fresh = {each: owned for each, owned in self._landing.claims.items() if each in self._fresh}
            self._fresh.clear()
            self._consumer.incremental_unassign(committed(fresh))
            self._consumer.incremental_assign(committed(fresh))
        self._batch.extend(arrived)

    def _land_batch(self) -> None:
        batch, self._batch = self._batch, Batch()
        self._report(self._landing.submit(batch) if batch.rows else self._landing.finish())

    def _report(self, advances: list[Advance]) -> None:
        """Tell Kafka what landed, for lag tools alone."""
        if advances:
            landed = [TopicPartition(move.topic, move.partition, move.end) for move in advances]
            self._consumer.commit(offsets=landed, asynchronous=True)
            if self._on_landed is not None:
                self._on_landed(advances)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._report(self._landing.finish())
        topics = {partition.topic for partition in partitions}
        ids = partitions_of(self._settings, topics) if topics else {}
        wanted = {(each.topic, each.partition): ids[each.topic, each.partition] for each in partitions}
        claims = claim(self._connection, extents_of(consumer, wanted))
        self._landing.claims.update(claims)
        self._fresh.update(claims)
        idle = [TopicPartition(*each, OFFSET_END) for each in wanted if each not in claims]
        consumer.incremental_assign(committed(claims) + idle)
        consumer.pause(idle)
        self._stopped.update((each.topic, each.partition) for each in idle)
        self._observer.assigned(claims)
        _log.info("assigned", partitions=_names(wanted))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # The heir goes on where this ends.
        self._report(self._landing.finish())
        gone = {(each.topic, each.partition) for each in partitions}
        self._batch = self._batch.without(gone)
        for each in gone:
            self._landing.claims.pop(each, None)
        self._fresh -= gone
        self._stopped -= gone
        consumer.incremental_unassign(partitions)
        self._observer.revoked(gone)
        _log.info("revoked", partitions=_names(gone))

    def _pause_fenced(self, partitions: tuple[Partition, ...]) -> None:
        self._consumer.pause([TopicPartition(topic, partition) for topic, partition in partitions])
        self._observer.fenced(partitions)
        _log.error("fenced: another sink took these partitions over", partitions=_names(partitions))

    def _pause_stopped(self, reasons: Mapping[Partition, str]) -> None:
        self._consumer.pause([TopicPartition(topic, partition) for topic, partition in reasons])
        self._stopped.update(reasons)
        for partition, reason in reasons.items():
            self._observer.stopped([partition], reason)
            _log.error("stopped, the others go on", partitions=_names([partition]), reason=reason)

    def _take_up_resumed(self) -> None:
        """Look now and then which stopped partitions `scopehouse ingest resume` has let go."""
        if not self._stopped or time.monotonic() < self._looked_at + _LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        self._report(self._landing.finish())
        resumed = self._stopped - stopped(self._connection, list(self._topics)).keys()
        if resumed:
            partitions = [TopicPartition(topic, partition) for topic, partition in resumed]
            self._stopped -= resumed
            self._consumer.incremental_unassign(partitions)
            self._assigned(self._consumer, partitions)
            self._consumer.resume(partitions)


def _raise_unless_passing(event: Message) -> None:
    error = event.error()
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise LogChangedError(
            f"Topic {event.topic()} partition {event.partition()} lost the offset that comes next ({error.str()}): "
            "run `scopehouse ingest drain` to see what is gone."
        )
    if error.fatal():
        raise KafkaException(error)
    _log.warning("the broker says", error=error.str())


def _names(partitions: Iterable[Partition]) -> list[str]:
    return [f"{topic}[{partition}]" for topic, partition in sorted(partitions)]


def _sentence(error: BaseException) -> str:
    if isinstance(error, KafkaException):
        return str(error.args[0].str())
    if isinstance(error, MendableError):
        return str(error)
    return (str(error).strip() or type(error).__name__).splitlines()[0]
