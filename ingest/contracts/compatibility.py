"""Which changes of a contract break what is released: a field gone, renamed, re-typed, or new and not optional.

Stricter than Avro, where a field may go: raw is append-only, and what reads its columns would find them empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka.schema_registry import Schema

from ingest.contracts.contract import Contract

# What a reader takes for what was written, without loss of range (Avro's promotions; JSON Schema's names last).
_WIDER = {
    ("int", "long"),
    ("int", "float"),
    ("int", "double"),
    ("long", "float"),
    ("long", "double"),
    ("float", "double"),
    ("integer", "number"),
}


@dataclass(frozen=True, slots=True)
class FieldShape:
    """What a reader has to know of a field. `is_optional`: it may be null; `has_default`: it may be missing."""

    type: str
    is_optional: bool
    has_default: bool


# By the field's path: a nested one is `outer.inner`.
Shape = Mapping[str, FieldShape]


def shape_of_contract(contract: Contract) -> Shape:
    """The shape of a contract's values; integers of Unix seconds are a type of their own."""
    shape = _avro_shape(contract.schema)
    for field in contract.fields:
        if field.unix_seconds:
            plain = shape[field.name]
            shape[field.name] = FieldShape(f"{plain.type} of Unix seconds", plain.is_optional, plain.has_default)
    return shape


def shape_of_schema(schema: Schema) -> Shape:
    """The shape of a registered schema, Avro or JSON Schema."""
    document = json.loads(schema.schema_str or "{}")
    return _avro_shape(document) if schema.schema_type == "AVRO" else _json_shape(document)


def breaking_changes(released: Shape, wanted: Shape, may_widen_columns: bool = False) -> list[str]:
    """A clause for each change that breaks, naming the field; nested fields may always be widened (int to long).

    `may_widen_columns` allows it for columns too: for a topic whose schema is older than our table.
    """
    new = [path for path in wanted if path not in released]
    clauses = []
    for path, old in released.items():
        if path not in wanted:
            twins = [name for name in new if wanted[name].type == old.type and _parent(name) == _parent(path)]
            hint = f" (renamed to {twins[0]}? That is refused too)" if twins else ""
            clauses.append(f"field {path} is gone{hint}")
            continue
        field = wanted[path]
        may_widen = may_widen_columns or _parent(path) != ""
        if field.type != old.type and not (may_widen and (old.type, field.type) in _WIDER):
            clauses.append(f"field {path} was {old.type} and is {field.type}")
        if old.is_optional and not field.is_optional:
            clauses.append(f"field {path} was optional and is not any more")
        if old.has_default and not field.has_default:
            clauses.append(f"field {path} has lost its default")
    clauses += [
        f"field {path} is new and not optional"
        for path in new
        if _parent(path) not in new and not (wanted[path].has_default and (wanted[path].is_optional or _parent(path)))
    ]
    return clauses


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _avro_shape(record: Mapping[str, Any], parent: str = "") -> dict[str, FieldShape]:
    shape = {}
    for field in record["fields"]:
        path = f"{parent}{field['name']}"
        inner, is_optional = _without_null(field["type"])
        name, nested = _avro_type(inner)
        shape[path] = FieldShape(name, is_optional, "default" in field)
        if nested is not None:
            shape |= _avro_shape(nested, f"{path}.")
    return shape


def _avro_type(avro_type: Any) -> tuple[str, Mapping[str, Any] | None]:
    """A type's name, and the record that it is or holds."""
    if not isinstance(avro_type, dict):
        return (avro_type, None) if isinstance(avro_type, str) else ("union", None)
    if avro_type["type"] == "record":
        return "record", avro_type
    if avro_type["type"] == "array":
        name, nested = _avro_type(_without_null(avro_type["items"])[0])
        return f"array of {name}", nested
    return str(avro_type.get("logicalType", avro_type["type"])), None


def _without_null(avro_type: Any) -> tuple[Any, bool]:
    if not isinstance(avro_type, list):
        return avro_type, False
    others = [branch for branch in avro_type if branch != "null"]
    return (others[0] if len(others) == 1 else others), len(others) < len(avro_type)


def _json_shape(document: Mapping[str, Any]) -> dict[str, FieldShape]:
    required = document.get("required", [])
    shape = {}
    for name, described in document.get("properties", {}).items():
        types = described.get("type", "anything")
        types = [types] if isinstance(types, str) else types
        others = [each for each in types if each != "null"]
        shape[name] = FieldShape(" or ".join(others), len(others) < len(types), name not in required)
    return shape
