"""`scopehouse dead-letters` list, show, replay and expire, as a user calls them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from dagster_pipelines.retention import expire_dead_letters
from scopehouse.cli import app
from scopehouse.migration import migrate
from services import settings as settings_module
from services.errors import MendableError
from tests.integration.dead_letters.conftest import World


@pytest.fixture
def command(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SCOPEHOUSE_CONTRACTS_DIR", str(world.folder))
    settings_module.settings.cache_clear()

    def call(*words: str) -> str:
        outcome = CliRunner().invoke(app, ["dead-letters", *words])
        if isinstance(outcome.exception, MendableError):
            raise outcome.exception
        assert outcome.exit_code == 0, outcome
        return outcome.stdout

    yield call
    monkeypatch.undo()
    settings_module.settings.cache_clear()


def test_list_show_replay_and_expire(world: World, command: Any) -> None:
    contract = world.make()
    cut = world.good(contract)[:-3]
    world.send(contract, [cut, b'{"a": [1, NaN]}', b'{"a": [1]}', b"text", b"\xff\x00", None], "ключ".encode())
    world.send(contract, [world.good(contract, number=float("inf"))], b"\xff", headers=[("trace", b"abc")])
    world.drain(contract)
    mine = [each for each in json.loads(command("list", "--json"))["dead_letters"] if each["topic"] == contract.topic]
    assert {each["error_class"]: each["dead_letters"] for each in mine} == {
        "UndecodableAvro": 1,
        "WrongWireFormat": 4,
        "NullValue": 1,
        "NotFinite": 1,
    }
    assert mine[0]["first_failed_at"].endswith("+00:00")
    assert f"{contract.topic} WrongWireFormat: 4, first " in command("list")

    ids = [letter for (letter,) in world.letters(contract, "dead_letter_id")]
    shown = [json.loads(command("show", str(letter), "--json")) for letter in ids]
    assert [(each["value_form"], each["value"]) for each in shown[:6]] == [
        ("hex", cut.hex()),
        ("text", '{"a": [1, NaN]}'),
        ("json", {"a": [1]}),
        ("text", "text"),
        ("hex", "ff00"),
        ("null", None),
    ]
    assert (shown[0]["key_form"], shown[0]["key"]) == ("text", "ключ")
    last = shown[6]
    assert (last["key_form"], last["key"], last["headers"]) == ("hex", "ff", [["trace", "abc"]])
    assert last["value_form"] == "avro"
    assert last["value"]["number"] == "inf"
    assert last["value"]["items"] == [{"x": "b"}]
    assert "error: Field number is infinite." in command("show", str(ids[6]))
    with pytest.raises(MendableError, match="There is no dead letter 0"):
        command("show", "0")

    world.write(contract.topic, [{"name": "id", "type": "long"}])
    assert json.loads(command("replay", "--topic", contract.topic, "--reason", "NotFinite", "--json")) == {
        contract.topic: {"topic": contract.topic, "landed": 0, "failed": 1, "has_contract": True}
    }
    assert "0 landed, 1 still fail" in command("replay", "--id", str(ids[5]))


def test_old_dead_letters_go_and_are_counted_but_coordinates_of_replays_stay(world: World, command: Any) -> None:
    contract = world.make()
    world.send(contract, [b"garbage"] * 4)
    world.drain(contract)
    ids = [letter for (letter,) in world.letters(contract, "dead_letter_id")]
    world.owner.execute(
        "update ingest.dead_letters set failed_at = now() - interval '91 days' where dead_letter_id = any(%s)",
        [ids[:3]],
    )
    world.owner.execute(
        "update ingest.dead_letters set replayed_partition = -1, replayed_offset = 0, replayed_at = now()"
        " where dead_letter_id = %s",
        [ids[0]],
    )
    assert json.loads(command("expire", "--json"))["expired"][contract.topic] == 2
    assert world.letters(contract, 'dead_letter_id, "offset", value, replayed_offset') == [
        (ids[0], 0, None, 0),
        (ids[3], 3, b"garbage", None),
    ]
    assert world.mark(contract, "dead_letter_count, expired_dead_letter_count") == (4, 2)
    assert "No dead letter is older than 90 days." in command("expire")


def test_the_nightly_job_deletes_as_the_command_does(world: World) -> None:
    contract = world.make()
    world.send(contract, [b"garbage"])
    world.drain(contract)
    world.owner.execute(
        "update ingest.dead_letters set failed_at = now() - interval '91 days' where topic = %s", [contract.topic]
    )
    assert expire_dead_letters.execute_in_process(resources={"settings": world.settings}).success
    assert world.letters(contract, "topic") == []
    assert world.mark(contract, "expired_dead_letter_count") == (1,)


def test_migrate_names_the_setting_of_a_postgres_that_is_away(world: World) -> None:
    away = world.settings.model_copy(update={"database_url": SecretStr("postgresql://a:hidden@127.0.0.1:1/nothing")})
    with pytest.raises(MendableError, match=r"port 1 failed.*correct DATABASE_URL\.$"):
        migrate(away)
