"""`scopehouse ingest run`: a member of a consumer group that lands records for ever.

Whatever breaks (Postgres, the broker, the registry), the session ends with nothing half done, and a new one begins
after a pause that grows: it asks Postgres where to go on. A partition that another sink has taken over, that stands
still because of its dead letters, that is not the log that raw was filled from, or whose schemas the registry does not
tell, is paused, and taken up again once nobody owns it and nothing holds it. The others go on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

import psycopg
import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
from psycopg import Connection

from ingest.sink.batch import Batch
from ingest.sink.broker import (
    BrokerError,
    committed,
    consume_into,
    extents_of,
    make_consumer,
    membership,
    partitions_there,
)
from ingest.sink.landing import BROKEN, REGISTRY_AWAY, Landing, connect
from ingest.sink.limits import DeadLetterLimit, stopped
from ingest.sink.load import Topic
from ingest.sink.observer import Observer
from ingest.sink.offsets import (
    Advance,
    Claim,
    LogChangedError,
    changed_logs,
    claim,
    marks,
    owned_elsewhere,
    release,
)
from ingest.sink.offsets import TopicPartition as Partition
from ingest.sink.same_log import SameLog
from ingest.sink.sentences import sentence, server_of
from ingest.sink.topics import loaded_topics
from services.errors import MendableError
from services.settings import Settings

_POLL_SECONDS = 0.1
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
# How often it is looked whether a partition that was left alone may be taken up again.
_LOOK_SECONDS = 2.0
# While nothing arrives, Postgres is asked so often whether it is there.
_IDLE_LOOK_SECONDS = 3.0
# A stop may take 5 seconds; this is what the sink gets of it.
_STOP_SECONDS = 3.5
_TRANSIENT = (*BROKEN, *REGISTRY_AWAY, KafkaException, BrokerError, OSError)

_log = structlog.get_logger("scopehouse.sink")


def run(
    settings: Settings,
    stop: threading.Event,
    topics: Iterable[str] | None = None,
    observer: Observer | None = None,
) -> None:
    """Land records of the topics (all by default) until `stop` is set; the observer hears of what happens.

    Raises:
        MendableError: a topic has no contract, or a setting is missing.
    """
    loaded = loaded_topics(settings, topics, is_patient=False)
    observer = observer or Observer()
    pause = _FIRST_PAUSE_SECONDS
    while not stop.is_set():
        session = _Session(settings, loaded, observer)
        try:
            session.run(stop)
        except _TRANSIENT as error:
            if session.has_landed:
                pause = _FIRST_PAUSE_SECONDS
            observer.broke(error)
            _log.warning("session broke, will go on", error=sentence(error), pause_seconds=pause)
            stop.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        except LogChangedError as error:
            # Under way: the next session leaves that topic alone.
            _log.warning("a topic changed, will look again", error=sentence(error))
            stop.wait(_FIRST_PAUSE_SECONDS)
        except psycopg.ProgrammingError as error:
            raise MendableError(
                f"Postgres has not what the sink needs ({sentence(error)}): run `scopehouse migrate`."
            ) from error


def run_until_told(
    settings: Settings,
    topics: Iterable[str] | None = None,
    observer: Observer | None = None,
) -> None:
    """Run in the main thread of a process of its own until SIGTERM or SIGINT, then stop within 5 seconds.

    A client's call into a server that is down can't be broken off and would keep signals waiting: the sink works in
    another thread. One that has not stopped in time is left to the end of the process: nothing can be half done.

    Raises: as `run` does.
    """
    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            run(settings, stop, topics, observer)
        except BaseException as error:
            errors.append(error)
        finally:
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sink = threading.Thread(target=work, name="sink", daemon=True)
    sink.start()
    stop.wait()
    sink.join(_STOP_SECONDS)
    if sink.is_alive():
        _log.warning("a server does not answer: stopped without it, nothing is half done")
        if observer is not None:
            observer.ended()
        sys.stderr.flush()
        os._exit(0)
    if errors:
        raise errors[0]


class _Session:
    """One connection to Postgres and one membership in the group."""

    def __init__(self, settings: Settings, topics: dict[str, Topic], observer: Observer) -> None:
        self._settings = settings
        self._topics = topics
        self._observer = observer
        self._batch = Batch()
        # Partitions claimed while a call to consume() was under way, or while paused.
        self._fresh: set[Partition] = set()
        # Partitions that are assigned to us and not ours: another sink's, stopped or waiting. Paused.
        self._left_alone: set[Partition] = set()
        # Those of them whose log changed, with what was said of them.
        self._changed: dict[Partition, str] = {}
        self._look_at = 0.0
        self._idle_since = time.monotonic()
        self._same_log = SameLog(settings)
        self._is_over = False
        # Then whatever broke before was over, and what breaks now is something new.
        self.has_landed = False

    def run(self, stop: threading.Event) -> None:
        limit = DeadLetterLimit(self._settings.dead_letter_share, self._settings.dead_letter_run)
        with (
            connect(self._settings) as connection,
            Landing(
                connection,
                self._topics,
                limit,
                self._pause_fenced,
                self._pause_stopped,
                self._same_log,
                self._observer,
                self._pause_waiting,
            ) as landing,
        ):
            self._connection: Connection = connection
            self._landing = landing
            self._consumer: Consumer = make_consumer(
                self._settings, **membership(self._settings), **self._observer.consumer_settings()
            )
            try:
                self._observer.connected()
                self._consumer.subscribe(
                    list(self._topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
                )
                while not stop.is_set():
                    self._fill_batch(stop)
                    self._land_batch()
                self._report(landing.finish())
            finally:
                # Whoever comes next learns from Postgres what landed: nothing is left to do on being revoked.
                self._is_over = True
                self._consumer.close()

    def _fill_batch(self, stop: threading.Event) -> None:
        closes_at = None
        while not stop.is_set() and not self._batch.is_full(self._settings.batch_rows, self._settings.batch_bytes):
            self._consume()
            self._take_up_again()
            self._same_log.look()
            self._look_at_postgres()
            if closes_at is None and (self._batch.spans or self._landing.is_busy):
                closes_at = time.monotonic() + self._settings.batch_milliseconds / 1000
            if closes_at is not None and time.monotonic() >= closes_at:
                return

    def _look_at_postgres(self) -> None:
        """Notice that Postgres is gone also while there is nothing to land. Raises BROKEN."""
        if self._batch.spans or self._landing.is_busy:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > _IDLE_LOOK_SECONDS:
            self._connection.execute("select 1")
            self._idle_since = time.monotonic()

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
            self._consumer.resume(committed(fresh))
        self._batch.extend(arrived)

    def _land_batch(self) -> None:
        batch, self._batch = self._batch, Batch()
        self._report(self._landing.submit(batch) if batch.spans else self._landing.finish())

    def _report(self, advances: list[Advance]) -> None:
        """Tell Kafka what landed, for lag tools alone."""
        if not advances:
            return
        self.has_landed = True
        landed = [TopicPartition(move.topic, move.partition, move.end) for move in advances]
        with suppress(KafkaException):
            self._consumer.commit(offsets=landed, asynchronous=True)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._report(self._landing.finish())
        wanted = {(each.topic, each.partition) for each in partitions}
        claims = self._claim(wanted)
        idle = wanted - claims.keys()
        consumer.incremental_assign(committed(claims) + [TopicPartition(*each, OFFSET_END) for each in idle])
        self._leave_alone(idle)
        self._observer.assigned(claims)
        _log.info("assigned", partitions=_names(wanted))

    def _claim(self, partitions: set[Partition]) -> dict[Partition, Claim]:
        """Claim partitions that are assigned to us, but those that are stopped or are another log than raw's. Records
        of them that were consumed before are dropped."""
        if not partitions:
            return {}
        ids = partitions_there(self._settings, {topic for topic, _ in partitions})
        known = marks(self._connection)
        extents = extents_of(self._consumer, {each: ids[each] for each in partitions if each in ids})
        changed = changed_logs(known, extents)
        for partition, why in changed.items():
            del extents[partition]
            if partition not in self._changed:
                self._observer.assigned({partition: Claim(known[partition].next_offset, 0)})
                self._stopped(partition, why)
        self._changed = {each: why for each, why in self._changed.items() if each not in partitions} | changed
        self._same_log.expect({each: ids[each] for each in extents})
        claims = claim(self._connection, extents)
        self._batch = self._batch.without(claims)
        self._landing.claims.update(claims)
        self._fresh.update(claims)
        return claims

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {(each.topic, each.partition) for each in partitions}
        if not self._is_over:
            # The heir goes on where this ends.
            self._report(self._landing.finish())
            self._batch = self._batch.without(gone)
            release(self._connection, gone & self._landing.claims.keys())
            for each in gone:
                self._landing.claims.pop(each, None)
            self._fresh -= gone
            self._left_alone -= gone
            self._changed = {each: why for each, why in self._changed.items() if each not in gone}
            self._observer.revoked(gone)
        consumer.incremental_unassign(partitions)
        _log.info("revoked", partitions=_names(gone))

    def _pause_fenced(self, partitions: tuple[Partition, ...]) -> None:
        release(self._connection, partitions)
        self._leave_alone(partitions)
        self._observer.fenced(partitions)
        _log.error("fenced: another sink took these partitions over", partitions=_names(partitions))

    def _pause_stopped(self, reasons: Mapping[Partition, str]) -> None:
        release(self._connection, reasons)
        self._leave_alone(reasons)
        for partition, reason in reasons.items():
            self._stopped(partition, reason)

    def _stopped(self, partition: Partition, reason: str) -> None:
        self._observer.stopped([partition], reason)
        _log.error("stopped, the others go on", partitions=_names([partition]), reason=reason)

    def _pause_waiting(self, partitions: tuple[Partition, ...], error: Exception) -> None:
        release(self._connection, partitions)
        self._leave_alone(partitions)
        self._observer.waiting(partitions, error)
        _log.warning(
            "these wait, the others go on",
            partitions=_names(partitions),
            waiting_for=server_of(error),
            error=sentence(error),
        )

    def _leave_alone(self, partitions: Iterable[Partition]) -> None:
        self._left_alone.update(partitions)
        # Not at once: to ask a server that is away holds the others up.
        self._look_at = time.monotonic() + _LOOK_SECONDS
        self._consumer.pause([TopicPartition(topic, number) for topic, number in partitions])

    def _take_up_again(self) -> None:
        """Claim partitions that were left alone, once nobody owns them and nothing holds them.

        Whoever fenced us shows that it lives: two sinks do not take partitions from each other for ever.
        """
        if not self._left_alone or time.monotonic() < self._look_at:
            return
        # A log that changed is mended by hand, if at all.
        is_soon = bool(self._left_alone - self._changed.keys())
        self._look_at = time.monotonic() + (_LOOK_SECONDS if is_soon else _LONGEST_PAUSE_SECONDS)
        self._report(self._landing.finish())
        held = stopped(self._connection, list(self._topics)).keys() | owned_elsewhere(
            self._connection, self._left_alone
        )
        claims = self._claim(self._left_alone - held)
        if claims:
            self._left_alone -= claims.keys()
            self._observer.assigned(claims)
            _log.info("taken up again", partitions=_names(claims))


def _raise_unless_passing(event: Message) -> None:
    error = event.error()
    # Of an offset that is gone, the next session's claim says what became of it.
    if error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise KafkaException(error)
    _log.warning("the broker says", error=error.str())


def _names(partitions: Iterable[Partition]) -> list[str]:
    return [f"{topic}[{partition}]" for topic, partition in sorted(partitions)]
