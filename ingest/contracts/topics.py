"""The broker's topics and the registry's subjects, made to match the contracts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import httpx2
from confluent_kafka import KafkaException
from confluent_kafka.cimpl import NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from ingest.clients import make_admin, make_registry
from ingest.contracts.compatibility import breaking_changes, shape_of_schema
from ingest.contracts.contract import Contract, Field
from ingest.contracts.released import break_sentence
from services.errors import MendableError
from services.settings import Settings

TIMEOUT_SECONDS = 30.0

_JSON_TYPES = {
    "boolean": "boolean",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "string": "string",
}


# What our topics take, compressed or not; Kafka's own default is a megabyte.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024


class IncompatibleSchemaError(MendableError):
    """A contract breaks what is registered; nothing was registered."""


def check_subjects(settings: Settings, contracts: Iterable[Contract]) -> None:
    """Compare each contract with the latest schema that is registered for it. Changes nothing.

    The registry's own rule lets a field go, and its answer names no field. A change log's schema is its table's: what
    captures it registers it, and the sink judges each record by it.

    Raises:
        IncompatibleSchemaError: a field is gone, renamed, of another type, or new and not optional.
        MendableError: the registry can't be reached.
    """
    registry = make_registry(settings)
    for contract in filter(_is_registered_by_us, contracts):
        latest = _latest(registry, contract)
        if latest is None:
            continue
        wanted = shape_of_schema(registered_schema(contract))
        if clauses := breaking_changes(shape_of_schema(latest), wanted, may_widen_columns=True):
            raise IncompatibleSchemaError(break_sentence(contract, f"is registered as {contract.subject}", clauses))


def apply_topics(settings: Settings, contracts: Iterable[Contract]) -> None:
    """Create the topics that are missing and register each contract's schema (no change log's); safe to repeat.

    Raises:
        IncompatibleSchemaError: a contract breaks its subject's compatibility rule.
        MendableError: the broker or the registry can't be reached, or refuses.
    """
    contracts = list(contracts)
    _create_topics(settings, contracts)
    registry = make_registry(settings)
    for contract in filter(_is_registered_by_us, contracts):
        _register(registry, contract)


def registered_schema(contract: Contract) -> Schema:
    """What is registered for a contract: its Avro schema, or for a JSON topic the same as JSON Schema."""
    if contract.encoding == "avro":
        return Schema(json.dumps(contract.schema), "AVRO")
    return Schema(json.dumps(_json_schema(contract)), "JSON")


def _is_registered_by_us(contract: Contract) -> bool:
    return contract.encoding != "debezium"


def _create_topics(settings: Settings, contracts: list[Contract]) -> None:
    admin = make_admin(settings)
    try:
        existing = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
        missing = [contract for contract in contracts if contract.topic not in existing]
        config = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
        new_topics = [NewTopic(each.topic, num_partitions=each.partitions, config=config) for each in missing]
        if new_topics:
            for future in admin.create_topics(new_topics, operation_timeout=TIMEOUT_SECONDS).values():
                future.result(TIMEOUT_SECONDS)
    except KafkaException as error:
        raise MendableError(
            f"Kafka at {settings.bootstrap_servers} did not make the topics ({admin.words(error)}): "
            "check that it runs and that you may create topics."
        ) from error


def _latest(registry: SchemaRegistryClient, contract: Contract) -> Schema | None:
    """The newest schema of the contract's subject; None where there is none."""
    try:
        return registry.get_latest_version(contract.subject).schema
    except SchemaRegistryError as error:
        if error.http_status_code == 404:
            return None
        raise MendableError(
            f"The schema registry did not answer for {contract.subject} ({error.error_message}): check its log."
        ) from error
    except httpx2.HTTPError as error:
        raise MendableError(f"The schema registry can't be reached ({error}): is it running?") from error


def _register(registry: SchemaRegistryClient, contract: Contract) -> None:
    try:
        # For JSON the registry calls each new property a break, for unknown ones were allowed: check_subjects judges.
        rule = contract.compatibility if contract.encoding == "avro" else "NONE"
        registry.set_compatibility(contract.subject, rule)
        registry.register_schema(contract.subject, registered_schema(contract))
    except SchemaRegistryError as error:
        if error.http_status_code == 409:
            raise IncompatibleSchemaError(
                f"The contract of {contract.topic} breaks {contract.compatibility} compatibility with what is "
                f"registered ({error.error_message}): add optional fields only."
            ) from error
        raise MendableError(
            f"The schema registry refused {contract.subject} ({error.error_message}): check its log."
        ) from error
    except httpx2.HTTPError as error:
        raise MendableError(f"The schema registry can't be reached ({error}): is it running?") from error


def _json_schema(contract: Contract) -> dict[str, Any]:
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": contract.schema["name"],
        "description": contract.doc,
        "type": "object",
        "properties": {field.name: _json_property(field) for field in contract.fields},
        "required": [field.name for field in contract.fields if not field.has_default],
    }


def _json_property(field: Field) -> dict[str, Any]:
    json_type = _JSON_TYPES["long" if field.unix_seconds else field.kind]
    return {
        "description": field.doc,
        "type": ["null", json_type] if field.is_nullable else json_type,
    }
