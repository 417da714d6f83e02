"""A replayed dead letter lands once, as an entry of the replay log, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from ingest.sink import replay as replay_module
from ingest.sink.replay import Selection, replay
from services.errors import MendableError
from services.settings import Settings
from tests.fakes.everything import encode
from tests.integration.dead_letters.conftest import World
from tests.integration.sink.test_kills import WORKERS

ALL = Selection()


def refuse_by_hand(world: World, table: str, condition: str) -> None:
    world.owner.execute(f"alter table raw.{table} add constraint by_hand check ({condition})")


def mend(world: World, table: str) -> None:
    world.owner.execute(f"alter table raw.{table} drop constraint by_hand")


def test_what_has_become_good_lands_as_a_replay_log_and_the_rest_stays(world: World) -> None:
    contract = world.make(partitions=2)
    refuse_by_hand(world, contract.table, "id < 100")
    values = [world.good(contract, id=number) for number in (1, 100, 2, 101, 102)]
    world.send(contract, [*values, b"garbage"])
    world.send(contract, [world.good(contract, id=200)], partition=1)
    assert world.drain(contract)[contract.topic].dead_letters == 5
    mend(world, contract.table)
    refuse_by_hand(world, contract.table, "id <> 101")
    result = replay(world.settings, Selection(topic=contract.topic))[contract.topic]
    assert (result.landed, result.failed) == (3, 2)
    assert world.rows(contract, f"id, _kafka_partition, _kafka_offset, _schema_id = {world.schema_id(contract)}") == [
        (1, 0, 0, True),
        (2, 0, 2, True),
        (200, -2, 0, True),
        (100, -1, 0, True),
        (102, -1, 1, True),
    ]
    assert world.letters(
        contract, 'partition, "offset", error_class, attempts, replayed_partition, replayed_offset, replayed_at is null'
    ) == [
        (0, 1, "RefusedByPostgres", 2, -1, 0, False),
        (0, 3, "RefusedByPostgres", 2, None, None, True),
        (0, 4, "RefusedByPostgres", 2, -1, 1, False),
        (0, 5, "WrongWireFormat", 2, None, None, True),
        (1, 0, "RefusedByPostgres", 2, -2, 0, False),
    ]
    assert world.mark(contract, "next_offset, row_count", -1) == (2, 2)
    assert world.mark(contract, "next_offset, row_count", -2) == (1, 1)
    assert world.mark(contract, "next_offset, row_count, dead_letter_count") == (6, 2, 4)
    mend(world, contract.table)
    again = replay(world.settings, Selection(topic=contract.topic, error_class="RefusedByPostgres"))
    assert (again[contract.topic].landed, again[contract.topic].failed) == (1, 0)
    assert world.rows(contract, "id, _kafka_partition, _kafka_offset")[-1] == (101, -1, 2)
    with pytest.raises(MendableError, match="No such dead letter waits"):
        replay(world.settings, Selection(topic=contract.topic, error_class="RefusedByPostgres"))


def test_a_contract_that_was_mended_takes_what_it_refused(world: World) -> None:
    contract = world.make([{"name": "id", "type": "int"}, {"name": "kind", "type": "string"}])
    fields = [{"name": "id", "type": "int"}]
    world.send(contract, [encode(world.register(f"{contract.topic}-old", fields), fields, {"id": 7})])
    world.drain(contract)
    ((letter, error_class),) = world.letters(contract, "dead_letter_id, error_class")
    assert error_class == "IncompatibleSchema"
    world.write(contract.topic, [{"name": "id", "type": "int"}, {"name": "kind", "type": "string", "default": "x"}])
    replay(world.settings, Selection(dead_letter_id=letter))
    assert world.rows(contract, "id, kind, _kafka_partition, _kafka_timestamp is not null") == [(7, "x", -1, True)]


def test_values_mended_by_a_replay_are_counted(world: World) -> None:
    contract = world.make([{"name": "id", "type": "long"}, {"name": "km", "type": ["null", "double"]}], "json")
    refuse_by_hand(world, contract.table, "false")
    world.send(contract, [b'{"id": 1, "km": NaN}', b'{"id": 2, "km": 2}'])
    world.drain(contract)
    mend(world, contract.table)
    replay(world.settings, Selection(topic=contract.topic))
    assert world.rows(contract, "id, km") == [(1, None), (2, 2.0)]
    assert world.mark(contract, "row_count, mended_value_count", -1) == (2, 1)


def test_a_topic_without_a_contract_is_passed_over(world: World) -> None:
    contract = world.make()
    world.send(contract, [b"garbage"])
    world.drain(contract)
    (world.folder / f"{contract.topic}.avsc").rename(world.folder / "gone")
    assert not replay(world.settings, ALL)[contract.topic].has_contract
    with pytest.raises(MendableError, match=f"Topic {contract.topic} has no contract"):
        replay(world.settings, Selection(topic=contract.topic))
    (world.folder / "gone").rename(world.folder / f"{contract.topic}.avsc")


def waiting_rows(world: World, count: int) -> Any:
    """A topic with so many dead letters that have become good."""
    contract = world.make()
    refuse_by_hand(world, contract.table, "false")
    good = world.good(contract)
    world.send(contract, [good] * count)
    assert world.drain(contract)[contract.topic].dead_letters == count
    mend(world, contract.table)
    return contract


def assert_replayed_once(world: World, contract: Any, count: int) -> None:
    assert world.rows(contract, "_kafka_partition, _kafka_offset") == [(-1, offset) for offset in range(count)]
    places = world.letters(contract, '"offset", replayed_offset')
    assert sorted(offset for _, offset in places) == list(range(count))
    assert world.mark(contract, "next_offset, row_count", -1) == (count, count)


def test_two_replays_at_once_land_each_dead_letter_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = waiting_rows(world, 300)
    monkeypatch.setattr(replay_module, "_LETTERS", 20)
    errors = []

    def try_to_replay() -> None:
        try:
            replay(world.settings, Selection(topic=contract.topic))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=try_to_replay) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error for error in errors if "No such dead letter" not in str(error)] == []
    assert_replayed_once(world, contract, 300)


def replay_slowly(settings: Settings, topic: str) -> None:
    """What the killed process does: small transactions, each open for a while before it is committed."""
    whole = replay_module._land

    def land(*words: Any) -> int:
        landed = whole(*words)
        time.sleep(0.05)
        return landed

    replay_module._land = land
    replay_module._LETTERS = 10
    replay(settings, Selection(topic=topic))


def test_a_replay_killed_midway_and_run_again_lands_each_dead_letter_once(world: World) -> None:
    contract = waiting_rows(world, 300)
    left = 300
    kills = 0
    while left and kills < 6:
        worker = WORKERS.Process(target=replay_slowly, args=[world.settings, contract.topic], daemon=True)
        worker.start()
        # One or more transactions are done, another is open.
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and worker.is_alive():
            ((now,),) = world.owner.execute(
                "select count(*) from ingest.dead_letters where topic = %s and replayed_at is null", [contract.topic]
            ).fetchall()
            if now < left:
                break
            time.sleep(0.01)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        left = now
        kills += 1
    assert kills == 6 and left > 0
    replay(world.settings, Selection(topic=contract.topic))
    assert_replayed_once(world, contract, 300)
