"""Records that could not become rows: kept whole in `ingest.dead_letters`, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message
from psycopg import Connection
from psycopg.types.json import Jsonb

from ingest.sink.decoded import Rejection


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record as it came, and why it was refused. Header values are hex, for they may be any bytes."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[list[str | None]] | None
    schema_id: int | None
    error_class: str
    error: str
    kafka_timestamp: datetime | None

    @classmethod
    def of(cls, message: Message, rejection: Rejection) -> DeadLetter:
        """The dead letter of a consumed record."""
        return cls(
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            key=message.key(),
            value=message.value(),
            headers=_headers(message),
            schema_id=rejection.schema_id,
            error_class=rejection.error_class,
            error=rejection.error.replace("\x00", "\\0"),
            kafka_timestamp=_timestamp(message),
        )


def insert_dead_letters(connection: Connection, dead_letters: Sequence[DeadLetter]) -> None:
    """Add dead letters, in the caller's transaction."""
    if not dead_letters:
        return
    statement = """
        copy ingest.dead_letters
            (topic, partition, "offset", key, value, headers, schema_id, error_class, error, kafka_timestamp)
        from stdin (format binary)
    """
    with connection.cursor().copy(statement) as copy:
        copy.set_types(["text", "int4", "int8", "bytea", "bytea", "jsonb", "int4", "text", "text", "timestamptz"])
        for letter in dead_letters:
            copy.write_row(
                (
                    letter.topic,
                    letter.partition,
                    letter.offset,
                    letter.key,
                    letter.value,
                    None if letter.headers is None else Jsonb(letter.headers),
                    letter.schema_id,
                    letter.error_class,
                    letter.error,
                    letter.kafka_timestamp,
                )
            )


def _headers(message: Message) -> list[list[str | None]] | None:
    headers: list[tuple[str, Any]] | None = message.headers()
    if headers is None:
        return None
    return [[name.replace("\x00", "\\0"), None if value is None else value.hex()] for name, value in headers]


def _timestamp(message: Message) -> datetime | None:
    kind, milliseconds = message.timestamp()
    if kind == TIMESTAMP_NOT_AVAILABLE:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
