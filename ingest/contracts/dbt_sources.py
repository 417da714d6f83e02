"""The dbt source YAML of the raw tables, made from the contracts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ingest.contracts.contract import Contract, Field

HEADER = "# Made by `make contracts` from ingest/contracts: change the contract, not this file.\n"

# What the sink adds to every raw table, after the contract's columns: name, Postgres type, nullable, doc.
SINK_COLUMNS = (
    (
        "_kafka_partition",
        "integer",
        False,
        "The record's partition; -1 - partition for a replayed dead letter.",
    ),
    ("_kafka_offset", "bigint", False, "The record's offset in its partition."),
    ("_kafka_timestamp", "timestamptz", True, "The record's Kafka timestamp."),
    ("_schema_id", "integer", True, "The registry's id of the schema it was written with; none for JSON."),
    ("_ingested_at", "timestamptz", False, "When the transaction that landed it began."),
)


def source_files(contracts: Iterable[Contract]) -> dict[Path, str]:
    """The YAML text of each dbt source, by its path below the dbt project."""
    by_source: dict[str, list[Contract]] = defaultdict(list)
    for contract in contracts:
        by_source[contract.source].append(contract)
    return {
        Path("models", "staging", source, f"_{source}__sources.yml"): _source_yaml(source, members)
        for source, members in by_source.items()
    }


def _source_yaml(source: str, contracts: list[Contract]) -> str:
    document = {
        "version": 2,
        "sources": [
            {
                "name": source,
                "schema": "raw",
                "description": f"Raw tables of the source {source}: append-only logs, one a topic.",
                "tables": [_table(contract) for contract in contracts],
            }
        ],
    }
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)


def _table(contract: Contract) -> dict[str, Any]:
    columns = [_column(field) for field in contract.fields]
    for name, data_type, is_nullable, doc in SINK_COLUMNS:
        column: dict[str, Any] = {"name": name, "description": doc, "data_type": data_type}
        if not is_nullable:
            column["data_tests"] = ["not_null"]
        columns.append(column)
    return {
        "name": contract.table,
        "description": contract.doc,
        "config": {
            "meta": {
                "topic": contract.topic,
                "encoding": contract.encoding,
                "dagster": {"asset_key": ["raw", contract.table]},
            }
        },
        # Raw has no unique index: the sink's fence makes rows unique, and this shows it.
        "data_tests": [
            {"unique_combination": {"arguments": {"columns": ["_kafka_partition", "_kafka_offset"]}}},
        ],
        "columns": columns,
    }


def _column(field: Field) -> dict[str, Any]:
    unit = f" Unit: {field.unit}." if field.unit else ""
    column: dict[str, Any] = {
        "name": field.name,
        "description": field.doc + unit,
        "data_type": field.postgres_type,
    }
    if field.is_personal:
        column["config"] = {"meta": {"personal": True}}
    if not field.is_nullable:
        column["data_tests"] = ["not_null"]
    return column
