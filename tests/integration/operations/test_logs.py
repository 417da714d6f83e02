"""The sink's log is JSON, and no value of a record is in it, whatever goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ingest.database.migrate import migrate
from services.settings import Settings
from tests.integration.operations.conftest import a_sink, eventually, status
from tests.integration.sink.conftest import Topics

NAME = "Wilhelmine Beispiel"
TOPIC = "people_of_logs"
CONTRACT = {
    "type": "record",
    "name": "Person",
    "doc": "A made-up topic with personal data.",
    "topic": TOPIC,
    "domain": "mobility",
    "source": "test",
    "key": "id",
    "partitions": 1,
    "encoding": "json",
    "compatibility": "BACKWARD",
    "retention": None,
    "fields": [
        {"name": "id", "type": "long", "doc": "Whom.", "personal": False},
        {"name": "name", "type": "string", "doc": "The name.", "personal": True},
    ],
}


@pytest.fixture
def people(stack: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """A topic of its own with a personal field; the owner's session."""
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / f"{TOPIC}.avsc").write_text(json.dumps(CONTRACT))
    monkeypatch.setenv("SCOPEHOUSE_CONTRACTS_DIR", str(tmp_path / "contracts"))
    migrate(stack.model_copy(update={"contracts_dir": tmp_path / "contracts"}))
    with psycopg.connect(stack.url_of("migrate"), autocommit=True) as owner:
        yield owner
        owner.execute(f"drop table raw.{TOPIC}")
        owner.execute("delete from ingest.offsets where topic = %s", [TOPIC])


def test_no_value_of_a_record_is_logged(
    people: psycopg.Connection, stack: Settings, topics: Topics, tmp_path: Path
) -> None:
    people.execute(f"alter table raw.{TOPIC} add check (id <> 13)")
    person = {"id": 1, "name": NAME}
    bad = [
        {**person, "id": NAME},
        {**person, "name": f"{NAME}\x00"},
        {**person, "id": 13},
        {**person, "id": 10**30},
        {"name": NAME},
    ]
    for each in [person, *bad]:
        topics.send(TOPIC, json.dumps(each).encode(), NAME.encode())
    topics.send(TOPIC, f'{{"id": 1, "name": "{NAME}'.encode(), NAME.encode())
    topics.flush()
    with a_sink(tmp_path, TOPIC) as sink:
        eventually(lambda: sink.metric("scopehouse_sink_dead_letters_total") == len(bad) + 1)
        eventually(lambda: sink.metric("scopehouse_sink_rows_total") == 1)
        assert sink.end() == 0
        assert {"assigned"} <= {line["event"] for line in sink.log()}
        assert all(line["at"] and line["level"] for line in sink.log())
        assert NAME not in sink.log_file.read_text()


def test_a_statement_that_postgres_refuses_is_told_without_the_record(
    people: psycopg.Connection, stack: Settings, topics: Topics, tmp_path: Path
) -> None:
    people.execute(
        f"""
        create function pg_temp.refuse() returns trigger language plpgsql as
        $$ begin raise exception 'no room for %', new.name using errcode = 'P0001', detail = new.name; end $$;
        create trigger refuse before insert on raw.{TOPIC} for each row execute function pg_temp.refuse()
        """
    )
    topics.send(TOPIC, json.dumps({"id": 1, "name": NAME}).encode(), NAME.encode())
    topics.flush()
    with a_sink(tmp_path, TOPIC) as sink:
        assert sink.process.wait(120) == 1
        text = sink.log_file.read_text()
        assert "SQLSTATE P0001" in text
        assert NAME not in text
        (died,) = status()["sinks"]
        assert died["state"] == "died"
        assert "SQLSTATE P0001" in died["last_error"]
        assert NAME not in str(died)
