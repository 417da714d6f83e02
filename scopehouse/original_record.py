"""The record that a row was made from: read from Kafka while it is there, else from raw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from confluent_kafka import KafkaException, TopicPartition
from psycopg import sql
from psycopg.rows import dict_row, tuple_row

from ingest.clients import make_consumer
from ingest.contracts.contract import load_contracts
from ingest.sink.inspection import decode
from ingest.sink.writer_schemas import WriterSchemas
from services.errors import MendableError
from services.settings import Settings

_KAFKA_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class OriginalRecord:
    """A record and its coordinates in Kafka. `content` is what JSON can hold, None where nothing has it any more.

    `read_from` says which of the two `content` is from, `why_not_kafka` why it is not Kafka. `replayed_as` are its
    coordinates in raw where it was a dead letter first.
    """

    topic: str
    partition: int
    offset: int
    read_from: Literal["kafka", "raw", "nowhere"]
    why_not_kafka: str | None
    content: dict[str, Any] | None
    replayed_as: tuple[int, int] | None


def original_record(
    settings: Settings, connection: psycopg.Connection, topic: str, partition: int, offset: int
) -> OriginalRecord:
    """The record behind a row of raw, whose coordinates are given as raw has them. Waits for Kafka 5 s at most."""
    replayed_as = None
    if partition < 0:
        replayed_as = (partition, offset)
        with connection.cursor(row_factory=tuple_row) as cursor:
            letter = cursor.execute(
                'select partition, "offset" from ingest.dead_letters'
                " where topic = %s and replayed_partition = %s and replayed_offset = %s",
                [topic, partition, offset],
            ).fetchone()
        if letter is None:
            content = _from_raw(connection, topic, partition, offset)
            reason = "it was a dead letter, whose entry has expired"
            return OriginalRecord(topic, partition, offset, _place(content), reason, content, replayed_as)
        partition, offset = letter
    in_raw = _from_raw(connection, topic, *(replayed_as or (partition, offset)))
    try:
        content = _from_kafka(settings, topic, partition, offset)
        if in_raw is not None and _is_another(content, in_raw):
            raise _NotInKafkaError("another record is at that offset now: the topic was made anew")
    except _NotInKafkaError as error:
        return OriginalRecord(topic, partition, offset, _place(in_raw), str(error), in_raw, replayed_as)
    return OriginalRecord(topic, partition, offset, "kafka", None, content, replayed_as)


class _NotInKafkaError(Exception):
    """The record can't be had from Kafka; says why."""


def _place(content: dict[str, Any] | None) -> Literal["raw", "nowhere"]:
    return "raw" if content is not None else "nowhere"


def _is_another(content: dict[str, Any], in_raw: dict[str, Any]) -> bool:
    """Whether numbers and texts that both have differ (times and lists are written differently)."""
    return any(
        type(value) is type(in_raw.get(name)) and isinstance(value, int | str) and value != in_raw[name]
        for name, value in content.items()
    )


def _from_kafka(settings: Settings, topic: str, partition: int, offset: int) -> dict[str, Any]:
    place = TopicPartition(topic, partition, offset)
    try:
        consumer = make_consumer(
            settings, **{"group.id": "scopehouse-explain", "enable.auto.commit": False, "log_level": 0}
        )
    except MendableError as error:
        raise _NotInKafkaError(str(error)) from error
    try:
        first, end = consumer.get_watermark_offsets(place, timeout=_KAFKA_SECONDS)
        if not first <= offset < end:
            raise _NotInKafkaError(f"Kafka holds offsets {first:,} to {end:,} of the partition")
        consumer.assign([place])
        message = consumer.poll(_KAFKA_SECONDS)
    except KafkaException as error:
        raise _NotInKafkaError(f"Kafka does not answer ({error.args[0].str()})") from error
    finally:
        consumer.close()
    if message is None or message.error() is not None or message.offset() != offset:
        raise _NotInKafkaError("Kafka has no record at that offset any more")
    form, content = decode(message.value(), WriterSchemas(settings, is_patient=False))
    if not isinstance(content, dict):
        raise _NotInKafkaError(f"its schema can't be had from the registry, the value reads as {form} only")
    return content


def _from_raw(connection: psycopg.Connection, topic: str, partition: int, offset: int) -> dict[str, Any] | None:
    table = sql.Identifier("raw", load_contracts()[topic].table)
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            sql.SQL(
                "select to_jsonb(log) as content from {} as log where _kafka_partition = %s and _kafka_offset = %s"
            ).format(table),
            [partition, offset],
        ).fetchone()
    return row["content"] if row else None
