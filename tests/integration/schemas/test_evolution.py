"""Schemas change while values of all of them lie in the topic and the sink runs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from confluent_kafka.schema_registry import Schema
from confluent_kafka.schema_registry.error import SchemaRegistryError

from ingest.contracts.topics import IncompatibleSchemaError
from ingest.database import migrate as migrate_module
from ingest.database.migrate import migrate
from ingest.sink.observer import Observer
from ingest.sink.replay import Selection, replay
from ingest.sink.run import run
from services.errors import MendableError
from tests.fakes.everything import encode
from tests.integration.dead_letters.conftest import World

ID = {"name": "id", "type": "long"}
KM = {"name": "km", "type": "int"}
NOTE = {"name": "note", "type": ["null", "string"], "default": None}
MORE = {"name": "more", "type": ["null", "double"], "default": None}


def test_old_and_new_writers_mixed_in_one_batch_land_in_order(world: World) -> None:
    contract = world.make([ID, KM])
    old = world.schema_id(contract)
    world.write(contract.topic, [ID, KM, NOTE])
    migrate(world.settings)
    now = world.schema_id(contract)
    # A writer that is ahead of our contract, and one that has the fields in another order and its own types.
    newer = world.register(f"{contract.topic}-newer", [ID, KM, NOTE, MORE])
    other = world.register(f"{contract.topic}-other", [NOTE, {"name": "id", "type": "int"}, KM])
    values: list[bytes | None] = []
    for number in range(0, 400, 4):
        record: dict[str, Any] = {"id": number, "km": 1, "note": "n", "more": 0.5}
        values += [
            encode(old, [ID, KM], record),
            encode(now, [ID, KM, NOTE], record | {"id": number + 1}),
            encode(newer, [ID, KM, NOTE, MORE], record | {"id": number + 2}),
            encode(other, [NOTE, {"name": "id", "type": "int"}, KM], record | {"id": number + 3}),
        ]
    world.send(contract, values)
    drained = world.drain(contract)[contract.topic]
    assert (drained.rows, drained.dead_letters) == (400, 0)
    ids = {0: (old, None), 1: (now, "n"), 2: (newer, "n"), 3: (other, "n")}
    assert world.rows(contract, "id, _kafka_offset, _schema_id, note") == [
        (number, number, *ids[number % 4]) for number in range(400)
    ]


class Witness(Observer):
    """Notes every session that broke."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def broke(self, error: BaseException) -> None:
        self.errors.append(error)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_an_added_optional_field_becomes_a_column_while_the_sink_runs(world: World) -> None:
    contract = world.make([ID, KM])
    old = world.schema_id(contract)
    world.send(contract, [b"garbage"])
    witness = Witness()
    stop, done = threading.Event(), threading.Event()
    settings = world.settings.model_copy(
        update={"consumer_group": contract.topic, "batch_milliseconds": 20, "dead_letter_share": 1}
    )
    sink = threading.Thread(target=run, args=[settings, stop, [contract.topic]], kwargs={"observer": witness})
    sent: list[int] = []

    def produce() -> None:
        while not done.is_set():
            # With a dead letter in each batch: its table is locked in the sink's transaction too.
            world.send(contract, [encode(old, [ID, KM], {"id": len(sent), "km": 1}), b"garbage"])
            sent.append(len(sent))

    producer = threading.Thread(target=produce)
    sink.start()
    producer.start()
    try:
        wait_until(lambda: len(world.rows(contract, "id")) > 20)
        for fields in ([ID, KM, NOTE], [ID, KM, NOTE, MORE]):
            world.write(contract.topic, fields)
            migrate(world.settings)
            landed = len(world.rows(contract, "id"))
            wait_until(lambda landed=landed: len(world.rows(contract, "id")) > landed + 20)  # type: ignore[misc]
        done.set()
        producer.join()
        new = encode(world.schema_id(contract), [ID, KM, NOTE, MORE], {"id": -1, "km": 1, "note": "n", "more": 1})
        world.send(contract, [new])
        wait_until(lambda: (-1,) in world.rows(contract, "id"))
    finally:
        done.set()
        stop.set()
        sink.join()
        producer.join()
    assert witness.errors == []
    assert world.rows(contract, "id, note, more") == [(number, None, None) for number in [*sent, -1]]
    # Started again, it knows the new field.
    world.send(contract, [new])
    world.drain(contract)
    assert world.rows(contract, "id, note, more")[-1] == (-1, "n", 1.0)


def test_a_migration_does_not_wait_long_for_a_table_in_use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate_module, "_LOCK_SECONDS", 1)
    contract = world.make([ID])
    world.write(contract.topic, [ID, NOTE])
    with psycopg.connect(world.settings.url_of("transform")) as reader:
        reader.execute(f'select from raw."{contract.table}"')
        with pytest.raises(MendableError, match=r"was in use for 1 s .*: nothing was changed"):
            migrate(world.settings)
    migrate(world.settings)
    assert world.rows(contract, "id, note") == []


@pytest.mark.parametrize(
    ("fields", "clause"),
    [
        ([ID, NOTE], "field km is gone"),
        (
            [ID, {"name": "distance", "type": "int"}, NOTE],
            "field km is gone (renamed to distance? That is refused too)",
        ),
        ([ID, {"name": "km", "type": "string"}, NOTE], "field km was int"),
        ([ID, KM, NOTE, {"name": "more", "type": "int"}], "field more is new and not optional"),
        ([ID, KM, {"name": "note", "type": "string"}], "field note was optional and is not any more"),
    ],
)
@pytest.mark.parametrize("encoding", ["avro", "json"])
def test_a_breaking_change_is_refused_by_its_field_and_changes_nothing(
    world: World, encoding: str, fields: list[dict[str, Any]], clause: str
) -> None:
    contract = world.make([ID, KM, NOTE], encoding)

    def state() -> list[Any]:
        columns = world.owner.execute(
            "select attname, atttypid, attnotnull from pg_attribute where attrelid = %s::regclass and attnum > 0",
            [f"raw.{contract.table}"],
        ).fetchall()
        return [columns, world.registry.get_versions(contract.subject)]

    before = state()
    world.write(contract.topic, fields, encoding)
    with pytest.raises(IncompatibleSchemaError) as refused:
        migrate(world.settings)
    assert f"The contract of {contract.topic} breaks what is registered as {contract.subject}: " in str(refused.value)
    assert clause in str(refused.value)
    assert state() == before
    if encoding == "avro" and "gone" not in clause:
        # Whoever registers without us is refused by the registry itself.
        schema = json.dumps({"type": "record", "name": "Everything", "fields": fields})
        with pytest.raises(SchemaRegistryError) as refused_there:
            world.registry.register_schema(contract.subject, Schema(schema, "AVRO"))
        assert refused_there.value.http_status_code == 409


@pytest.mark.parametrize("encoding", ["avro", "json"])
def test_what_may_be_null_from_now_on_lands(world: World, encoding: str) -> None:
    contract = world.make([ID, KM], encoding)
    optional = [ID, {"name": "km", "type": ["null", "int"], "default": None}, NOTE]
    contract = world.write(contract.topic, optional, encoding)
    migrate(world.settings)
    schema_id = world.schema_id(contract)
    record = {"id": 1, "km": None, "note": None}
    world.send(contract, [b'{"id": 1}' if encoding == "json" else encode(schema_id, optional, record)])
    assert world.drain(contract)[contract.topic].rows == 1
    assert world.rows(contract, "id, km, note") == [(1, None, None)]


def test_an_incompatible_writer_fills_the_dead_letters_of_its_topic_alone(world: World) -> None:
    contract, other = world.make([ID, KM]), world.make([ID, KM])
    wrong = [ID, {"name": "km", "type": "string"}]
    wrong_id = world.register(f"{contract.topic}-wrong", wrong)
    good = {"id": 1, "km": 2}
    world.send(contract, [encode(wrong_id, wrong, {"id": 1, "km": "far"})] * 5)
    world.send(contract, [encode(world.schema_id(contract), [ID, KM], good)] * 5)
    world.send(other, [encode(world.schema_id(other), [ID, KM], good)] * 5)
    drained = world.drain(contract, other)
    assert [(each.rows, each.dead_letters) for each in drained.values()] == [(5, 5), (5, 0)]
    assert world.letters(contract, "error_class, schema_id") == [("IncompatibleSchema", wrong_id)] * 5
    assert replay(world.settings, Selection(topic=contract.topic))[contract.topic].failed == 5
