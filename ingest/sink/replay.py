"""Replayed dead letters: decoded again with today's contract and code, and landed as entries of a replay log.

Partition `p` of a topic has a replay log, whose rows carry `_kafka_partition = -1 - p` and a `_kafka_offset` that is
given out under the lock of its row in `ingest.offsets`. What is replayed is marked in the same transaction, so that it
lands once, however often and by whomever it is replayed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import httpx2
import psycopg
import pyarrow as pa
from confluent_kafka.schema_registry.error import SchemaRegistryError
from psycopg import Connection, sql

from ingest.progress import Progress, no_progress
from ingest.sink.decoded import Decoded, Rejection
from ingest.sink.landing import connect
from ingest.sink.load import Topic, copy_rows, raw_rows
from ingest.sink.topics import loaded_topics
from services.errors import MendableError
from services.settings import Settings

# A transaction takes up to so many dead letters and bytes of values (at least one of them).
_LETTERS = 5_000
_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters; None is any. Those that were replayed are never meant."""

    topic: str | None = None
    error_class: str | None = None
    dead_letter_id: int | None = None


@dataclass(slots=True)
class Replayed:
    """What a replay did to one topic. `has_contract` is false where nothing could be tried."""

    topic: str
    landed: int = 0
    failed: int = 0
    has_contract: bool = True


@dataclass(frozen=True, slots=True)
class _Letter:
    dead_letter_id: int
    partition: int
    value: bytes | None
    kafka_timestamp: datetime | None


def replay(settings: Settings, selection: Selection, progress: Progress = no_progress) -> dict[str, Replayed]:
    """Replay the selected dead letters; those that still fail stay, with their newest reason.

    Raises:
        MendableError: nothing is selected, the topic asked for has no contract, or a server broke off (what was
            done before then stays done, and once).
    """
    try:
        with connect(settings) as connection:
            # Between its statements a transaction decodes, and may wait for the registry.
            connection.execute("set idle_in_transaction_session_timeout = '5min'")
            counts = _selected(connection, selection)
            if not counts:
                raise MendableError("No such dead letter waits: `scopehouse dead-letters list` shows those that do.")
            results = {name: Replayed(name) for name in counts}
            contracts = loaded_topics(settings)
            if selection.topic is not None:
                loaded_topics(settings, [selection.topic])
            for name in counts:
                if name in contracts:
                    _replay_topic(connection, contracts[name], selection, results[name], counts[name], progress)
                else:
                    results[name].has_contract = False
    except psycopg.OperationalError as error:
        raise MendableError(f"Postgres broke off ({str(error).strip()}): run the replay again.") from error
    except (SchemaRegistryError, httpx2.HTTPError) as error:
        raise MendableError(f"The schema registry broke off ({error}): run the replay again.") from error
    return results


def _replay_topic(
    connection: Connection, topic: Topic, selection: Selection, result: Replayed, total: int, progress: Progress
) -> None:
    last_id = 0
    while True:
        with connection.transaction():
            ids = _next_ids(connection, topic.contract.topic, selection, last_id)
            if not ids:
                return
            letters = _lock(connection, ids)
            landed = _land(connection, topic, letters)
        last_id = ids[-1]
        result.landed += landed
        result.failed += len(letters) - landed
        progress(f"replaying {topic.contract.topic}", result.landed + result.failed, total)


def _where(selection: Selection) -> sql.Composed:
    conditions = [sql.SQL("replayed_at is null")]
    for column, value in (
        ("topic", selection.topic),
        ("error_class", selection.error_class),
        ("dead_letter_id", selection.dead_letter_id),
    ):
        if value is not None:
            conditions.append(sql.SQL("{} = {}").format(sql.Identifier(column), sql.Literal(value)))  # type: ignore[arg-type]
    return sql.SQL(" and ").join(conditions)


def _selected(connection: Connection, selection: Selection) -> dict[str, int]:
    """How many dead letters are meant, by topic."""
    statement = sql.SQL("select topic, count(*) from ingest.dead_letters where {} group by topic order by topic")
    return dict(connection.execute(statement.format(_where(selection))).fetchall())


def _next_ids(connection: Connection, topic: str, selection: Selection, last_id: int) -> list[int]:
    """The next dead letters of the topic after `last_id`, no more than a transaction should take."""
    statement = sql.SQL(
        """
        select dead_letter_id
        from (
            select
                dead_letter_id,
                coalesce(sum(octet_length(value)) over (
                    order by dead_letter_id rows between unbounded preceding and 1 preceding
                ), 0) as bytes_before
            from (
                select dead_letter_id, value
                from ingest.dead_letters
                where {} and topic = {} and dead_letter_id > {}
                order by dead_letter_id
                limit {}
            ) as next_letters
        ) as sized
        where bytes_before < {}
        order by dead_letter_id
        """
    ).format(_where(selection), topic, last_id, _LETTERS, _BYTES)
    return [dead_letter_id for (dead_letter_id,) in connection.execute(statement)]


def _lock(connection: Connection, ids: Sequence[int]) -> list[_Letter]:
    """Those that nobody else has replayed meanwhile; nobody can until this transaction ends."""
    rows = connection.execute(
        """
        select dead_letter_id, partition, value, kafka_timestamp
        from ingest.dead_letters
        where dead_letter_id = any(%s) and replayed_at is null
        order by dead_letter_id
        for update
        """,
        [list(ids)],
    ).fetchall()
    return [_Letter(*row) for row in rows]


def _land(connection: Connection, topic: Topic, letters: Sequence[_Letter]) -> int:
    """Land what can be landed and mark every letter; returns how many landed."""
    if not letters:
        return 0
    name = topic.contract.topic
    decoded = topic.decoder.decode([letter.value for letter in letters])
    next_offsets = _lock_replay_logs(connection, name, sorted({letter.partition for letter in letters}))
    places, rejections = _copy(connection, topic, letters, decoded, next_offsets)
    landed: dict[int, int] = defaultdict(int)
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            update ingest.dead_letters
            set replayed_partition = %s, replayed_offset = %s, replayed_at = now(), last_tried_at = now(),
                attempts = attempts + 1
            where dead_letter_id = %s
            """,
            [(partition, offset, letters[index].dead_letter_id) for index, (partition, offset) in places.items()],
        )
        cursor.executemany(
            """
            update ingest.dead_letters
            set error_class = %s, error = %s, schema_id = %s, last_tried_at = now(), attempts = attempts + 1
            where dead_letter_id = %s
            """,
            [
                (
                    each.error_class,
                    each.error.replace("\x00", "\\0"),
                    each.schema_id,
                    letters[each.index].dead_letter_id,
                )
                for each in rejections
            ],
        )
        for partition, _ in places.values():
            landed[partition] += 1
        # Mended values are counted by topic, as where records land first: whose partition it is matters to nobody.
        mended = dict.fromkeys(list(landed)[:1], decoded.mended_values)
        cursor.executemany(
            """
            update ingest.offsets
            set next_offset = next_offset + %s,
                row_count = row_count + %s,
                mended_value_count = mended_value_count + %s,
                updated_at = now()
            where topic = %s and partition = %s
            """,
            [(count, count, mended.get(partition, 0), name, partition) for partition, count in landed.items()],
        )
    return len(places)


def _lock_replay_logs(connection: Connection, topic: str, partitions: Sequence[int]) -> dict[int, int]:
    """The next offset of each partition's replay log, by the replay log's number; locked until the transaction ends."""
    numbers = [-1 - partition for partition in partitions]
    connection.execute(
        """
        insert into ingest.offsets (topic, partition, topic_id, next_offset)
        select topic, -1 - partition, topic_id, 0 from ingest.offsets where topic = %s and partition = any(%s)
        order by partition
        on conflict do nothing
        """,
        [topic, list(partitions)],
    )
    rows = connection.execute(
        "select partition, next_offset from ingest.offsets where topic = %s and partition = any(%s)"
        " order by partition for update",
        [topic, numbers],
    )
    return dict(rows.fetchall())


def _copy(
    connection: Connection,
    topic: Topic,
    letters: Sequence[_Letter],
    decoded: Decoded,
    next_offsets: dict[int, int],
) -> tuple[dict[int, tuple[int, int]], list[Rejection]]:
    """COPY the good rows; returns the place in the replay log of each letter that landed, and all rejections.

    The replay log has no gaps: where Postgres refuses rows, the others are copied again with new offsets.
    """
    rejections = list(decoded.rejections)
    good = decoded.indices.to_pylist()
    refused: set[int] = set()
    while True:
        kept = [row for row, index in enumerate(good) if index not in refused]
        places = _places([(good[row], letters[good[row]].partition) for row in kept], next_offsets)
        rows = raw_rows(
            topic.contract,
            decoded.columns.take(pa.array(kept, pa.int64())),
            pa.array([partition for partition, _ in places.values()], pa.int32()),
            pa.array([offset for _, offset in places.values()], pa.int64()),
            pa.array([letters[index].kafka_timestamp for index in places], pa.timestamp("us", tz="UTC")),
            decoded.schema_ids.take(pa.array(kept, pa.int64())),
        )
        with connection.transaction() as savepoint:
            newly_refused = copy_rows(connection, topic.contract, rows, pa.array(list(places), pa.int64()))
            if newly_refused:
                raise psycopg.Rollback(savepoint)
        if not newly_refused:
            return places, rejections
        rejections += newly_refused
        refused |= {rejection.index for rejection in newly_refused}


def _places(letters: Sequence[tuple[int, int]], next_offsets: dict[int, int]) -> dict[int, tuple[int, int]]:
    """Letters (index, partition) -> index: (the replay log's number, offset), offsets given out in order."""
    given = dict(next_offsets)
    places = {}
    for index, partition in letters:
        number = -1 - partition
        places[index] = (number, given[number])
        given[number] += 1
    return places
