"""Who may add to raw, and from which offset: `ingest.offsets` is the only truth, Kafka's own offsets are for lag tools.

A consumer claims a partition, which raises its epoch. Its transaction moves the offset as the last thing before
commit, only from the offset and at the epoch that it knows: whoever has been overtaken moves nothing and rolls back.

Besides, an owner's session holds a shared advisory lock for each partition. It guards nothing: it tells others that
somebody is at work there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import Connection

from services.errors import MendableError

TopicPartition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Claim:
    """A partition that this consumer owns: raw holds every offset below `next_offset`."""

    next_offset: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Advance:
    """What a transaction did to one partition: took it from `start` to `end` (exclusive).

    `reasons` are its dead letters by error class.
    """

    topic: str
    partition: int
    start: int
    end: int
    epoch: int
    rows: int
    dead_letters: int
    mended_values: int
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mark:
    """Raw holds every offset below `next_offset` of the topic with this id."""

    topic_id: str
    next_offset: int


@dataclass(frozen=True, slots=True)
class Extent:
    """What the broker holds of a partition now: offsets from `low` up to but not including `high`."""

    topic_id: str
    low: int
    high: int


class FencedError(Exception):
    """Another consumer has claimed these partitions; the transaction must be rolled back."""

    def __init__(self, partitions: Sequence[TopicPartition]) -> None:
        super().__init__(", ".join(f"{topic}[{partition}]" for topic, partition in partitions))
        self.partitions = tuple(partitions)


class LogChangedError(MendableError):
    """The topic is not the log that raw was filled from: made again, or cut."""


def refuse_another_topic(topic: str, expected_id: str, topic_id: str) -> None:
    """Raise LogChangedError where the topic of that name is another than the one that raw was filled from."""
    if topic_id != expected_id:
        raise LogChangedError(
            f"Topic {topic} was deleted and made again (its id is {topic_id}, raw was filled from {expected_id}): "
            "give the new topic a new name, or move its rows in ingest.offsets and raw out of the way."
        )


def marks(connection: Connection) -> dict[TopicPartition, Mark]:
    """What raw holds of each partition. To be read before the extents that it is compared with: both grow."""
    rows = connection.execute("select topic, partition, topic_id, next_offset from ingest.offsets where partition >= 0")
    return {(topic, partition): Mark(topic_id, next_offset) for topic, partition, topic_id, next_offset in rows}


def changed_logs(
    known: Mapping[TopicPartition, Mark], extents: Mapping[TopicPartition, Extent]
) -> dict[TopicPartition, str]:
    """The partitions that are not the log that raw was filled from, each with a sentence: what, and what to do."""
    changed = {}
    for (topic, partition), extent in extents.items():
        if mark := known.get((topic, partition)):
            try:
                _check_log(topic, partition, mark, extent)
            except LogChangedError as error:
                changed[topic, partition] = str(error)
                continue
            if mark.next_offset > extent.high:
                changed[topic, partition] = (
                    f"Topic {topic} partition {partition} ends at offset {extent.high}, but raw holds all below "
                    f"{mark.next_offset}: the broker lost records that raw has; restore the broker, or give the topic "
                    "a new name."
                )
    return changed


def unread(
    known: Mapping[TopicPartition, Mark], extents: Mapping[TopicPartition, Extent]
) -> dict[TopicPartition, Extent]:
    """The partitions that hold what raw does not, or that raw has never seen."""
    return {
        each: extent for each, extent in extents.items() if each not in known or known[each].next_offset < extent.high
    }


def claim(connection: Connection, extents: Mapping[TopicPartition, Extent]) -> dict[TopicPartition, Claim]:
    """Claim partitions: raise their epochs and learn where to go on, in one transaction.

    A partition never seen before starts at its beginning; one that was stopped (`limits`) is not claimed. What is
    claimed is shown as owned until `release`, or until the connection ends.

    Raises:
        LogChangedError: a topic was made again, or no longer has the offset that comes next; nothing is claimed.
    """
    claims = {}
    with connection.transaction():
        for (topic, partition), extent in sorted(extents.items()):
            row = connection.execute(
                """
                insert into ingest.offsets as known (topic, partition, topic_id, next_offset, epoch)
                values (%s, %s, %s, %s, 1)
                on conflict (topic, partition) do update set epoch = known.epoch + 1, updated_at = now()
                returning next_offset, epoch, topic_id, stopped_because is not null
                """,
                [topic, partition, extent.topic_id, extent.low],
            ).fetchone()
            assert row is not None  # noqa: S101 an upsert returns its row
            next_offset, epoch, topic_id, is_stopped = row
            _check_log(topic, partition, Mark(topic_id, next_offset), extent)
            if not is_stopped:
                claims[topic, partition] = Claim(next_offset, epoch)
    connection.execute(
        f"select pg_advisory_lock_shared({_LOCK}) from {_ASKED}",  # noqa: S608 constants
        _columns(claims),
    )
    return claims


def release(connection: Connection, partitions: Iterable[TopicPartition]) -> None:
    """Show claimed partitions as owned no more, once for each claim."""
    connection.execute(
        f"select pg_advisory_unlock_shared({_LOCK}) from {_ASKED}",  # noqa: S608 constants
        _columns(partitions),
    )


def owned_elsewhere(connection: Connection, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
    """Those of the partitions that another living session owns. It may be frozen, or be fenced and not know it yet."""
    rows = connection.execute(
        f"""
        select topic, partition from {_ASKED}
        where exists (
            select from pg_locks
            where locktype = 'advisory'
                and objsubid = 1
                and database = (select oid from pg_database where datname = current_database())
                and (classid::bigint << 32 | objid::bigint) = {_LOCK}
                and pid <> pg_backend_pid()
        )
        """,  # noqa: S608 constants
        _columns(partitions),
    )
    return {(topic, partition) for topic, partition in rows}


def advance(connection: Connection, advances: Sequence[Advance]) -> None:
    """Move the offsets, last in the caller's transaction.

    Raises:
        FencedError: some partitions are another consumer's now.
    """
    fenced = []
    for move in sorted(advances, key=lambda each: (each.topic, each.partition)):
        moved = connection.execute(
            """
            update ingest.offsets
            set next_offset = %s,
                row_count = row_count + %s,
                dead_letter_count = dead_letter_count + %s,
                mended_value_count = mended_value_count + %s,
                updated_at = now()
            where topic = %s and partition = %s and next_offset = %s and epoch = %s
            """,
            [
                move.end,
                move.rows,
                move.dead_letters,
                move.mended_values,
                move.topic,
                move.partition,
                move.start,
                move.epoch,
            ],
        )
        if moved.rowcount != 1:
            fenced.append((move.topic, move.partition))
    if fenced:
        raise FencedError(fenced)


_ASKED = "unnest(%s::text[], %s::int[]) as asked (topic, partition)"
# The number keeps these apart from others' locks.
_LOCK = "hashtextextended(topic || ' ' || partition, 7204315002)"


def _columns(partitions: Iterable[TopicPartition]) -> list[list[Any]]:
    listed = list(partitions)
    return [[topic for topic, _ in listed], [partition for _, partition in listed]]


def _check_log(topic: str, partition: int, mark: Mark, extent: Extent) -> None:
    """Refuse a log that is not the one raw was filled from."""
    refuse_another_topic(topic, mark.topic_id, extent.topic_id)
    if mark.next_offset < extent.low:
        raise LogChangedError(
            f"Topic {topic} partition {partition} begins at offset {extent.low}, but raw ends at {mark.next_offset}: "
            f"{extent.low - mark.next_offset} offsets were deleted before they were read; to go on without them set "
            f"next_offset to {extent.low} in ingest.offsets."
        )
