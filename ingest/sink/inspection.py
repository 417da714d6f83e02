"""A look at dead letters: how many of what, and one of them decoded as far as possible."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, Literal

import fastavro
from psycopg import Connection
from psycopg.rows import class_row, dict_row

from ingest.sink.avro_decoder import SchemaLookup
from services.errors import MendableError

Form = Literal["avro", "json", "text", "hex", "null"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Dead letters of one topic that wait for the same reason, and one of them to look at."""

    topic: str
    error_class: str
    dead_letters: int
    first_failed_at: datetime
    last_failed_at: datetime
    newest_id: int
    newest_error: str


@dataclass(frozen=True, slots=True)
class Shown:
    """One dead letter. `value` is what JSON can hold; `value_form` says what it was made from. Times are UTC."""

    dead_letter_id: int
    topic: str
    partition: int
    offset: int
    kafka_timestamp: datetime | None
    error_class: str
    error: str
    failed_at: datetime
    attempts: int
    last_tried_at: datetime | None
    replayed_partition: int | None
    replayed_offset: int | None
    replayed_at: datetime | None
    schema_id: int | None
    headers: list[tuple[str, str | None]]
    key_form: Form
    key: str | None
    value_bytes: int | None
    value_form: Form
    value: Any


def waiting(connection: Connection) -> list[Reason]:
    """The dead letters that were not replayed, counted by topic and reason."""
    with connection.cursor(row_factory=class_row(Reason)) as cursor:
        return cursor.execute(
            """
            select
                topic,
                error_class,
                count(*) as dead_letters,
                min(failed_at) as first_failed_at,
                max(failed_at) as last_failed_at,
                max(dead_letter_id) as newest_id,
                (array_agg(error order by dead_letter_id desc))[1] as newest_error
            from ingest.dead_letters
            where replayed_at is null
            group by topic, error_class
            order by topic, error_class
            """
        ).fetchall()


def show(connection: Connection, schemas: SchemaLookup, dead_letter_id: int) -> Shown:
    """One dead letter, also one that was replayed.

    Raises:
        MendableError: there is none with that id.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            """
            select
                dead_letter_id, topic, partition, "offset", kafka_timestamp, error_class, error, failed_at, attempts,
                last_tried_at, replayed_partition, replayed_offset, replayed_at, schema_id, headers, key, value
            from ingest.dead_letters where dead_letter_id = %s
            """,
            [dead_letter_id],
        ).fetchone()
    if row is None:
        raise MendableError(f"There is no dead letter {dead_letter_id}: `scopehouse dead-letters list` shows ids.")
    headers, key, value = row.pop("headers"), row.pop("key"), row.pop("value")
    key_form, key_text = _text_or_hex(key)
    value_form, decoded = decode(value, schemas)
    return Shown(
        **row,
        headers=[
            (name, _text_or_hex(None if hexed is None else bytes.fromhex(hexed))[1]) for name, hexed in headers or []
        ],
        key_form=key_form,
        key=key_text,
        value_bytes=None if value is None else len(value),
        value_form=value_form,
        value=decoded,
    )


def decode(value: bytes | None, schemas: SchemaLookup) -> tuple[Form, Any]:
    """A value as Avro where the registry knows its schema, as JSON, as text, or as hex: the first that works."""
    if value is None:
        return "null", None
    attempts: list[tuple[Form, Callable[[], Any]]] = [
        ("avro", lambda: _avro(value, schemas)),
        ("json", lambda: _json(value)),
    ]
    for form, attempt in attempts:
        # Whatever is wrong with the bytes, or with the registry, they can still be shown.
        with suppress(Exception):
            return form, _plain(attempt())
    return _text_or_hex(value)


def _avro(value: bytes, schemas: SchemaLookup) -> Any:
    if value[:1] != b"\x00":
        raise ValueError("no wire format")
    schema = fastavro.parse_schema(json.loads(schemas.schema_text(int.from_bytes(value[1:5], "big"))))
    body = io.BytesIO(value[5:])
    record = fastavro.schemaless_reader(body, schema, None)
    if body.read(1):
        raise ValueError("bytes are left over")
    return record


def _json(value: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(value, parse_constant=refuse)


def _text_or_hex(raw: bytes | None) -> tuple[Form, str | None]:
    if raw is None:
        return "null", None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "hex", raw.hex()
    return ("text", text) if all(each.isprintable() or each in "\t\r\n" for each in text) else ("hex", raw.hex())


def _plain(value: Any) -> Any:
    """The same in types that JSON has."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
