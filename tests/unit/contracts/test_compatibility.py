"""Which changes of a contract are refused, and by which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema

from ingest.contracts import generate, released
from ingest.contracts.compatibility import breaking_changes, shape_of_schema
from ingest.contracts.contract import load_contracts
from ingest.contracts.topics import registered_schema

OPTIONAL = {"name": "more", "type": ["null", "int"], "default": None}
INNER = {"name": "km", "type": "float"}
OLD: list[dict[str, Any]] = [
    {"name": "id", "type": "int"},
    {"name": "note", "type": ["null", "string"], "default": None},
    {"name": "trips", "type": {"type": "array", "items": {"type": "record", "name": "Trip", "fields": [INNER]}}},
]


def changes(new: list[dict[str, Any]], may_widen_columns: bool = False) -> list[str]:
    shapes = [
        shape_of_schema(Schema(json.dumps({"type": "record", "name": "R", "fields": fields}), "AVRO"))
        for fields in (OLD, new)
    ]
    return breaking_changes(*shapes, may_widen_columns)


def changed(place: int, **more: Any) -> list[dict[str, Any]]:
    return [field | more if index == place else field for index, field in enumerate(OLD)]


def trips(*fields: dict[str, Any]) -> list[dict[str, Any]]:
    items = {"type": "record", "name": "Trip", "fields": list(fields)}
    return changed(2, type={"type": "array", "items": items})


@pytest.mark.parametrize(
    "new", [OLD, [*OLD, OPTIONAL], OLD[::-1], trips(INNER | {"type": "double"}), trips(INNER, OPTIONAL)]
)
def test_what_every_reader_can_bear_is_allowed(new: list[dict[str, Any]]) -> None:
    assert changes(new) == []


@pytest.mark.parametrize(
    ("new", "clause"),
    [
        (OLD[1:], "field id is gone"),
        ([{"name": "key", "type": "int"}, *OLD[1:]], "field id is gone (renamed to key? That is refused too)"),
        (changed(0, type="string"), "field id was int and is string"),
        (changed(0, type="long"), "field id was int and is long"),
        (changed(0, type={"type": "int", "logicalType": "date"}), "field id was int and is date"),
        (changed(1, type="string"), "field note was optional and is not any more"),
        ([*OLD[:1], {"name": "note", "type": ["null", "string"]}, *OLD[2:]], "field note has lost its default"),
        ([*OLD, {"name": "new", "type": "int"}], "field new is new and not optional"),
        ([*OLD, {"name": "new", "type": ["null", "int"]}], "field new is new and not optional"),
        (trips(INNER | {"type": "int"}), "field trips.km was float and is int"),
        (trips(OPTIONAL), "field trips.km is gone"),
        (trips(INNER, {"name": "new", "type": "int"}), "field trips.new is new and not optional"),
    ],
)
def test_what_breaks_is_named(new: list[dict[str, Any]], clause: str) -> None:
    assert clause in changes(new)


def test_a_topic_older_than_our_table_may_be_widened() -> None:
    assert changes(changed(0, type="long"), may_widen_columns=True) == []


def test_json_schemas_are_compared_as_well() -> None:
    contract = load_contracts()["emissions-topic"]
    schema = registered_schema(contract)
    document = json.loads(schema.schema_str or "")
    document["properties"]["year"]["type"] = "string"
    del document["properties"]["gdp"]
    old, new = shape_of_schema(schema), shape_of_schema(Schema(json.dumps(document), "JSON"))
    assert breaking_changes(old, old) == []
    assert breaking_changes(old, new) == ["field year was integer and is string", "field gdp is gone"]


def test_the_check_of_the_repository_names_the_field_that_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads(released.RELEASED_FILE.read_text())
    document["emissions-topic"]["gdp"]["type"] = "string"
    document["tracking_events"]["speed"] = {"type": "int", "is_optional": True, "has_default": True}
    changed = tmp_path / "released.json"
    changed.write_text(json.dumps(document))
    monkeypatch.setattr(generate, "read_released", lambda: released.read_released(changed))
    first, second = generate.drift()
    assert "The contract of emissions-topic breaks what is released: field gdp was string and is double" in first
    assert "field speed is gone" in second
    with pytest.raises(released.BreakingChangeError, match="field gdp"):
        generate.write(tmp_path)
    assert list(tmp_path.iterdir()) == [changed]


def test_what_is_released_is_never_forgotten() -> None:
    contracts = load_contracts()
    shapes = {"gone_topic": shape_of_schema(registered_schema(contracts["tracking_events"]))}
    assert set(json.loads(released.released_text(contracts.values(), shapes))) == {"gone_topic", *contracts}
