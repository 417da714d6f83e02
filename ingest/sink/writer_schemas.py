"""The schemas that values were written with, from the registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import fastavro
from confluent_kafka.schema_registry.error import SchemaRegistryError

from ingest.clients import make_registry
from ingest.sink.avro_decoder import UnknownSchemaError
from services.settings import Settings

# A bare 404 may come from a proxy, or from a registry that is still starting.
_NO_SUCH_SCHEMA = 40403


class WriterSchemas:
    """Looks schemas up by id. The client keeps those it has seen."""

    def __init__(self, settings: Settings, is_patient: bool = True) -> None:
        self._client = make_registry(settings) if is_patient else make_registry(settings, **{"max.retries": 0})

    def schema_text(self, schema_id: int) -> str:
        """The Avro schema of that id as JSON text.

        Raises:
            UnknownSchemaError: the registry answered that it has none.
            ValueError, SchemaParseException: it must not be used to decode, or is no Avro; says why.
            SchemaRegistryError, httpx2.HTTPError: the registry could not be asked.
        """
        try:
            text = cast(str, self._client.get_schema(schema_id).schema_str)
        except SchemaRegistryError as error:
            if error.error_code == _NO_SUCH_SCHEMA:
                raise UnknownSchemaError(schema_id) from error
            raise
        refuse_boundless(text)
        return text


def refuse_boundless(text: str) -> None:
    """Refuse an array of what takes no bytes: a value of ten bytes could say that it holds 10^18 of it.

    Raises:
        ValueError, SchemaParseException: the schema has such an array, or is no Avro.
    """
    named: dict[str, Any] = {}
    parsed = fastavro.parse_schema(json.loads(text), named)
    if any(_is_boundless(each, named) for each in (parsed, *named.values())):
        raise ValueError("it has an array whose items take no bytes, so that nothing bounds their number")


def _is_boundless(schema: Any, named: Mapping[str, Any]) -> bool:
    """Whether such an array stands in the schema; types that it names are looked at by themselves."""
    match schema:
        case list():
            return any(_is_boundless(branch, named) for branch in schema)
        case {"type": "array", "items": items}:
            return _is_empty(items, named, frozenset()) or _is_boundless(items, named)
        case {"type": "map", "values": values}:
            return _is_boundless(values, named)
        case {"fields": fields}:
            return any(_is_boundless(field["type"], named) for field in fields)
        case {"type": (list() | dict()) as inner}:
            return _is_boundless(inner, named)
    return False


def _is_empty(schema: Any, named: Mapping[str, Any], inside: frozenset[str]) -> bool:
    """Whether a value of the schema takes no bytes; `inside` are the records that it stands in."""
    match schema:
        case str():
            return schema == "null" or (
                schema in named and schema not in inside and _is_empty(named[schema], named, inside)
            )
        case {"fields": fields, "name": name}:
            return all(_is_empty(field["type"], named, inside | {name}) for field in fields)
        case {"type": "fixed", "size": size}:
            return bool(size == 0)
        case {"type": ("null" | list() | dict()) as inner}:
            return _is_empty(inner, named, inside)
    return False
