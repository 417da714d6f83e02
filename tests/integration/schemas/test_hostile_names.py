"""Topics and fields of any name are made, migrated and loaded: names are quoted, always."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from ingest.contracts.contract import Contract
from ingest.database.migrate import migrate
from tests.fakes.everything import encode
from tests.integration.dead_letters.conftest import World

TOPICS = ["select", "Order.By", "1st", "-", "a..b--c", "_x", "pg_class", "x" * 200]
HOSTILE = [
    *("select", "table", "user", "User", "from", "1st", "x" * 63),
    *("drop table raw.x; --", "it's", "größe", "日本語", "a b", "a%s", "%(a)s", "{x}", "{}", "$1", ":name", "a.b"),
    *("`tick`", "é" * 31, "\N{RIGHT-TO-LEFT OVERRIDE}x", "😀", "f0", "null", "NaN", "[0]", "-- ", "/*", "$$", "'; --"),
]
ANY_NAME = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters='"\\'), min_size=1)
FIELD_NAMES = st.one_of(st.sampled_from(HOSTILE), ANY_NAME).filter(
    lambda name: len(name.encode()) <= 63 and not name.startswith("_")
)


def land(world: World, contract: Contract, values: list[bytes | None]) -> list[tuple[Any, ...]]:
    """Migrate twice, land the values, and give back what the table holds; then forget the topic."""
    try:
        for _ in range(2):
            migrate(world.settings)
        world.send(contract, values)
        drained = world.drain(contract)[contract.topic]
        assert drained.rows == len(values), world.letters(contract, "error")
        columns = sql.SQL(", ").join(sql.Identifier(field.name) for field in contract.fields)
        statement = sql.SQL("select {} from {} order by _kafka_offset")
        return world.owner.execute(statement.format(columns, sql.Identifier("raw", contract.table))).fetchall()
    finally:
        world.forget()
        (world.folder / f"{contract.topic}.avsc").unlink()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    topic=st.sampled_from(TOPICS),
    names=st.lists(FIELD_NAMES, min_size=1, max_size=30, unique=True),
    added=FIELD_NAMES,
    ascii_only=st.booleans(),
)
def test_json_topics_of_hostile_names_land(
    world: World, topic: str, names: list[str], added: str, ascii_only: bool
) -> None:
    topic = f"{topic}{uuid.uuid4().hex[:12]}"
    kinds = ["string", "long", "double", "boolean"]
    values: list[Any] = ["text", 7, 0.5, True]
    fields = [{"name": name, "type": kinds[place % 4]} for place, name in enumerate(names)]
    if added not in names:
        # Migrated again with one more.
        world.write(topic, fields, "json")
        migrate(world.settings)
        fields.append({"name": added, "type": ["null", "string"], "default": None})
    contract = world.write(topic, fields, "json")
    record = {field["name"]: values[place % 4] for place, field in enumerate(fields[: len(names)])}
    rows = land(world, contract, [json.dumps(record, ensure_ascii=ascii_only).encode()] * 3)
    assert rows == [(*record.values(), *([None] if added not in names else []))] * 3


@pytest.mark.parametrize("topic", TOPICS)
def test_avro_topics_of_hostile_names_land(world: World, topic: str) -> None:
    names = ["select", "table", "User", "user", "null", "f0", "x" * 63, "order"]
    fields = [{"name": name, "type": "string"} for name in names]
    contract = world.write(f"{topic}{uuid.uuid4().hex[:12]}", fields)
    migrate(world.settings)
    record = {name: f"a {name}" for name in names}
    value = encode(world.schema_id(contract), fields, record)
    assert land(world, contract, [value]) == [tuple(record.values())]
