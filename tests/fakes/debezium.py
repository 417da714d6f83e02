"""Change records as Debezium writes them, and the schema that its Avro converter registers for a table."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro

TIME = {"type": "string", "connect.version": 1, "connect.name": "io.debezium.time.ZonedTimestamp"}
DATE = {"type": "int", "connect.version": 1, "connect.name": "io.debezium.time.Date"}

_SNAPSHOT = {"type": "string", "connect.version": 1, "connect.name": "io.debezium.data.Enum"}


def envelope(columns: Mapping[str, Any]) -> str:
    """The schema of a table's changes as JSON text; `columns` gives each its Avro type."""
    row = {
        "type": "record",
        "name": "Value",
        "fields": [{"name": name, "type": avro_type} for name, avro_type in columns.items()],
        "connect.name": "adventure.public.some_table.Value",
    }
    source = [
        {"name": "version", "type": "string"},
        {"name": "snapshot", "type": [_SNAPSHOT, "null"], "default": "false"},
        {"name": "ts_us", "type": ["null", "long"], "default": None},
        {"name": "lsn", "type": ["null", "long"], "default": None},
    ]
    document = {
        "type": "record",
        "name": "Envelope",
        "namespace": "adventure.public.some_table",
        "fields": [
            {"name": "before", "type": ["null", row], "default": None},
            {"name": "after", "type": ["null", "Value"], "default": None},
            {
                "name": "source",
                "type": {
                    "type": "record",
                    "name": "Source",
                    "namespace": "io.debezium.connector.postgresql",
                    "fields": source,
                },
            },
            {"name": "op", "type": "string"},
            {"name": "ts_us", "type": ["null", "long"], "default": None},
        ],
        "connect.name": "adventure.public.some_table.Envelope",
    }
    return json.dumps(document)


def encode(schema: str, records: Sequence[Mapping[str, Any]], schema_id: int = 1) -> list[bytes]:
    """Change records {before, after, op, source: {lsn, ts_us}} in the registry's wire format."""
    parsed = fastavro.parse_schema(json.loads(schema))
    values = []
    for record in records:
        body = io.BytesIO()
        source = {"version": "3.7.0.Final", **record.get("source", {})}
        fastavro.schemaless_writer(body, parsed, {**record, "source": source})
        values.append(b"\x00" + schema_id.to_bytes(4, "big") + body.getvalue())
    return values
