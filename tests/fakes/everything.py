"""A record with a field of every kind, and how it is written."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro

NESTED = {
    "type": "array",
    "items": {"type": "record", "name": "N", "fields": [{"name": "x", "type": "string"}]},
}
FIELDS: dict[str, Any] = {
    "id": "long",
    "name": "string",
    "day": {"type": "int", "logicalType": "date"},
    "at_ms": {"type": "long", "logicalType": "timestamp-millis"},
    "at_us": {"type": "long", "logicalType": "timestamp-micros"},
    "items": NESTED,
    "number": ["null", "double"],
}
GOOD = {"id": 0, "name": b"a", "day": 0, "at_ms": 0, "at_us": 0, "items": [{"x": b"b"}], "number": 1.0}


def writer_fields() -> list[dict[str, Any]]:
    """Fields whose bytes are those of FIELDS, but in which strings and times may be anything."""
    loose = {"name": "bytes", "day": "int", "at_ms": "long", "at_us": "long"}
    loose["items"] = json.loads(json.dumps(NESTED).replace('"string"', '"bytes"'))
    return [{"name": name, "type": loose.get(name, type_)} for name, type_ in FIELDS.items()]


def encode(schema_id: int, fields: list[dict[str, Any]], record: dict[str, Any]) -> bytes:
    """A record in the registry's wire format."""
    body = io.BytesIO()
    schema = fastavro.parse_schema({"type": "record", "name": "Everything", "fields": fields})
    fastavro.schemaless_writer(body, schema, record)
    return b"\x00" + schema_id.to_bytes(4, "big") + body.getvalue()
