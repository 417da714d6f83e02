"""`scopehouse ingest drain`: take in everything up to today's end of every topic, then stop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from psycopg import Connection

from ingest.progress import Progress, no_progress
from ingest.sink.batch import Batch
from ingest.sink.broker import committed, consume_into, extents_of, make_consumer, partitions_of
from ingest.sink.landing import BROKEN, REGISTRY_AWAY, Landing, connect
from ingest.sink.limits import DeadLetterLimit, stopped
from ingest.sink.offsets import (
    Advance,
    Extent,
    LogChangedError,
    TopicPartition,
    changed_logs,
    claim,
    marks,
    owned_elsewhere,
    release,
    unread,
)
from ingest.sink.same_log import SameLog
from ingest.sink.topics import loaded_topics
from services.errors import MendableError
from services.settings import Settings

_POLL_SECONDS = 0.1
# A broker that says nothing for so long, while records are still owed, is gone.
_SILENCE_SECONDS = 60.0

# So long a drain waits for an owner that moves nothing, which may be frozen.
_OWNER_SECONDS = 30.0

_log = structlog.get_logger("scopehouse.sink")


@dataclass(slots=True)
class Drained:
    """What a drain did to one topic: this drain's counts, and where each partition that it moved goes on."""

    topic: str
    rows: int = 0
    dead_letters: int = 0
    mended_values: int = 0
    next_offsets: dict[int, int] = field(default_factory=dict)

    def add(self, move: Advance) -> None:
        """Count one transaction's move."""
        self.rows += move.rows
        self.dead_letters += move.dead_letters
        self.mended_values += move.mended_values
        self.next_offsets[move.partition] = move.end


class StandstillError(MendableError):
    """Partitions stand still: too many of their records are bad, or they are another log than raw was filled from.

    Nothing of them is lost, and the others were drained: `results` is what was done, `reasons` a sentence for each
    partition that stands still.
    """

    def __init__(self, results: dict[str, Drained], reasons: Mapping[TopicPartition, str]) -> None:
        super().__init__(" ".join(dict.fromkeys(reasons.values())))
        self.results = results
        self.reasons = dict(reasons)


def drain(
    settings: Settings, topics: Iterable[str] | None = None, progress: Progress = no_progress
) -> dict[str, Drained]:
    """See to it that every record that the topics (all by default) hold at the time of the call has landed.

    What a running sink owns is left to it, and waited for.

    Raises:
        StandstillError: some partitions stand still; the others were drained.
        MendableError: a server can't be reached, or a topic was made again meanwhile.
    """
    loaded = loaded_topics(settings, topics)
    results = {name: Drained(name) for name in loaded}
    partitions = partitions_of(settings, loaded)
    consumer = make_consumer(settings)
    try:
        with connect(settings) as connection:
            known = marks(connection)
            extents = extents_of(consumer, partitions)
            changed = changed_logs(known, extents)
            left = unread(known, {each: extent for each, extent in extents.items() if each not in changed})
            limit = DeadLetterLimit(settings.dead_letter_share, settings.dead_letter_run)
            same_log = SameLog(settings)
            same_log.expect({each: partitions[each] for each in left})
            owners = _Owners()
            while left := _still_unread(connection, left):
                mine = left.keys() - owners.at_work(connection, left)
                if not mine:
                    time.sleep(_POLL_SECONDS)
                    continue
                with Landing(connection, loaded, limit, _log_fence, _log_stop, same_log) as landing:
                    landing.claims = claim(connection, {each: left[each] for each in mine})
                    ends = {each: left[each].high for each in mine}
                    for move in _drain_to(ends, consumer, landing, settings, progress):
                        results[move.topic].add(move)
                    release(connection, landing.claims)
            if reasons := stopped(connection, list(loaded)) | changed:
                raise StandstillError(results, reasons)
    except BROKEN as error:
        raise MendableError(
            f"Postgres broke off ({str(error).strip()}): nothing is half done, run the drain again."
        ) from error
    except REGISTRY_AWAY as error:
        raise MendableError(f"The schema registry broke off ({error}): run the drain again.") from error
    except KafkaException as error:
        raise MendableError(f"Kafka broke off ({error.args[0].str()}): run the drain again.") from error
    finally:
        consumer.close()
    return results


class _Owners:
    """Who else is at work. A drain leaves partitions to their owners and waits, unless these stand still."""

    def __init__(self) -> None:
        self._seen: dict[TopicPartition, tuple[int, float]] = {}

    def at_work(self, connection: Connection, left: Iterable[TopicPartition]) -> set[TopicPartition]:
        """Those that another sink owns and has moved within the last seconds, as far as we have watched."""
        now = time.monotonic()
        offsets = {each: mark.next_offset for each, mark in marks(connection).items()}
        busy = set()
        for partition in owned_elsewhere(connection, left):
            offset, since = self._seen.get(partition, (-1, now))
            if offset != offsets.get(partition, -1):
                offset, since = offsets.get(partition, -1), now
            self._seen[partition] = (offset, since)
            if now - since < _OWNER_SECONDS:
                busy.add(partition)
        return busy


def _still_unread(connection: Connection, left: Mapping[TopicPartition, Extent]) -> dict[TopicPartition, Extent]:
    """Those whose end raw has not reached, and that are not stopped."""
    known = marks(connection)
    standing = stopped(connection, [topic for topic, _ in left])
    return {
        each: extent
        for each, extent in left.items()
        if each not in standing and (each not in known or known[each].next_offset < extent.high)
    }


def _drain_to(
    ends: dict[TopicPartition, int], consumer: Consumer, landing: Landing, settings: Settings, progress: Progress
) -> Iterable[Advance]:
    """Consume until each partition's position has reached its end, landing batch after batch."""
    owed = {partition for partition, owned in landing.claims.items() if owned.next_offset < ends[partition]}
    starts = {partition: landing.claims[partition].next_offset for partition in owed}
    total = sum(ends[partition] - starts[partition] for partition in owed)
    progress("records", 0, total)
    consumer.assign(committed({partition: landing.claims[partition] for partition in owed}))
    last_heard = time.monotonic()
    while owed:
        batch = _gather(ends, owed, consumer, landing, settings)
        if batch.spans:
            last_heard = time.monotonic()
            yield from landing.submit(batch)
            owed &= landing.claims.keys()
            progress("records", _done(landing, starts, ends), total)
        elif time.monotonic() - last_heard > _SILENCE_SECONDS:
            topic, partition = min(owed)
            raise MendableError(
                f"Kafka sent nothing for {_SILENCE_SECONDS:.0f} s though topic {topic} partition {partition} goes on "
                f"to offset {ends[topic, partition]}: look at the broker, then run the drain again."
            )
    yield from landing.finish()
    if landing.claims:
        # For lag tools alone; refused while a running sink is a member of the group.
        with suppress(KafkaException):
            consumer.commit(offsets=committed(landing.claims), asynchronous=False)


def _gather(
    ends: dict[TopicPartition, int],
    owed: set[TopicPartition],
    consumer: Consumer,
    landing: Landing,
    settings: Settings,
) -> Batch:
    """The next batch; partitions that reach their end with it leave `owed`."""
    batch = Batch()
    closes_at = time.monotonic() + settings.batch_milliseconds / 1000
    while owed and not batch.is_full(settings.batch_rows, settings.batch_bytes) and time.monotonic() < closes_at:
        for event in consume_into(batch, consumer, landing.claims, _POLL_SECONDS):
            _raise_unless_passing(event)
        owed -= {partition for partition, span in batch.spans.items() if span.end >= ends[partition]}
    return batch


def _raise_unless_passing(event: Message) -> None:
    error = event.error()
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise LogChangedError(
            f"Topic {event.topic()} partition {event.partition()} lost the offset that comes next ({error.str()}): "
            "run `scopehouse ingest drain` again to see what is gone."
        )
    if error.fatal() or not error.retriable():
        raise KafkaException(error)


def _done(landing: Landing, starts: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> int:
    owned = {each: landing.claims[each].next_offset for each in starts if each in landing.claims}
    return sum(min(offset, ends[each]) - starts[each] for each, offset in owned.items())


def _log_stop(reasons: Mapping[TopicPartition, str]) -> None:
    for (topic, partition), reason in reasons.items():
        _log.error("stopped, the others go on", topic=topic, partition=partition, reason=reason)


def _log_fence(partitions: tuple[TopicPartition, ...]) -> None:
    for topic, partition in partitions:
        _log.warning("another sink took this partition over: waiting for it", topic=topic, partition=partition)
