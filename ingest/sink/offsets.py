"""Who may add to raw, and from which offset: `ingest.offsets` is the only truth, Kafka's own offsets are for lag tools.

A consumer claims a partition, which raises its epoch. Its transaction moves the offset as the last thing before
commit, only from the offset and at the epoch that it knows: whoever has been overtaken moves nothing and rolls back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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


def unread(connection: Connection, extents: Mapping[TopicPartition, Extent]) -> dict[TopicPartition, Extent]:
    """The partitions that hold what raw does not, or that raw has never seen. Claims nothing.

    Raises:
        LogChangedError: a topic was made again, or no longer has the offset that comes next.
    """
    rows = connection.execute("select topic, partition, next_offset, topic_id from ingest.offsets").fetchall()
    known = {(topic, partition): (next_offset, topic_id) for topic, partition, next_offset, topic_id in rows}
    for (topic, partition), extent in extents.items():
        if (topic, partition) in known:
            _check_log(topic, partition, *known[topic, partition], extent)
    return {each: extent for each, extent in extents.items() if each not in known or known[each][0] < extent.high}


def claim(connection: Connection, extents: Mapping[TopicPartition, Extent]) -> dict[TopicPartition, Claim]:
    """Claim partitions: raise their epochs and learn where to go on, in one transaction.

    A partition never seen before starts at its beginning.

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
                returning next_offset, epoch, topic_id
                """,
                [topic, partition, extent.topic_id, extent.low],
            ).fetchone()
            assert row is not None  # noqa: S101 an upsert returns its row
            next_offset, epoch, topic_id = row
            _check_log(topic, partition, next_offset, topic_id, extent)
            claims[topic, partition] = Claim(next_offset, epoch)
    return claims


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


def _check_log(topic: str, partition: int, next_offset: int, topic_id: str, extent: Extent) -> None:
    """Refuse a log that is not the one raw was filled from."""
    if topic_id != extent.topic_id:
        raise LogChangedError(
            f"Topic {topic} was deleted and made again (its id is {extent.topic_id}, raw was filled from {topic_id}): "
            "give the new topic a new name, or move its rows in ingest.offsets and raw out of the way."
        )
    if next_offset < extent.low:
        raise LogChangedError(
            f"Topic {topic} partition {partition} begins at offset {extent.low}, but raw ends at {next_offset}: "
            f"{extent.low - next_offset} offsets were deleted before they were read; to go on without them set "
            f"next_offset to {extent.low} in ingest.offsets."
        )
    if next_offset > extent.high:
        raise LogChangedError(
            f"Topic {topic} partition {partition} ends at offset {extent.high}, but raw holds all below {next_offset}: "
            "the broker lost records that raw has; restore the broker, or give the topic a new name."
        )
