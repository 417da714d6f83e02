"""Past the limit a partition stands still, whole; its siblings and other topics go on; it can be resumed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from ingest.sink import load
from ingest.sink.drain import StandstillError
from ingest.sink.run import run
from scopehouse.cli import app
from tests.integration.dead_letters.conftest import World

BAD: list[bytes | None] = [b"garbage"]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_a_drain_stops_the_partition_only_and_says_so_at_the_end(world: World) -> None:
    contract, other = world.make(partitions=2), world.make()
    good = world.good(contract)
    world.send(contract, [good] * 10 + BAD * 20)
    world.send(contract, [good] * 30 + BAD, partition=1)
    world.send(other, [world.good(other)] * 5)
    for _ in range(2):
        with pytest.raises(StandstillError) as refused:
            world.drain(contract, other, dead_letter_run=20)
        assert f"Topic {contract.topic} partition 0 stands still at offset 0: 20 records in a row are bad" in str(
            refused.value
        )
        assert f"`scopehouse ingest resume {contract.topic}`" in str(refused.value)
        assert world.mark(contract, "next_offset, stopped_because is null") == (0, False)
        assert world.mark(contract, "next_offset, row_count, dead_letter_count, stopped_because", 1) == (
            31,
            30,
            1,
            None,
        )
        assert len(world.rows(other, "id")) == 5
        assert world.letters(contract, "partition") == [(1,)]
    resumed = CliRunner().invoke(app, ["ingest", "resume", contract.topic])
    assert "1 partitions may go on" in resumed.output
    assert "no partition stands still" in CliRunner().invoke(app, ["ingest", "resume", "tracking_events"]).output
    unknown = CliRunner().invoke(app, ["ingest", "resume", "nope"])
    assert unknown.exit_code == 1
    assert str(unknown.exception).startswith("Topic nope has no contract: the topics are ")
    drained = world.drain(contract)[contract.topic]
    assert (drained.rows, drained.dead_letters) == (10, 20)


def test_what_postgres_refuses_counts_too(world: World) -> None:
    contract = world.make()
    world.owner.execute(f"alter table raw.{contract.table} add constraint by_hand check (id = 0)")
    world.send(contract, [world.good(contract, id=1)] * 20)
    with pytest.raises(StandstillError, match="the last: RefusedByPostgres"):
        world.drain(contract, dead_letter_run=20)
    assert world.rows(contract, "id") == world.letters(contract, "topic") == []


def test_a_batch_that_postgres_refuses_whole_is_given_up_early(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = world.make()
    world.owner.execute(f"alter table raw.{contract.table} add constraint by_hand check (false)")
    world.send(contract, [world.good(contract)] * 20_000)
    copies = []
    copy = load._copy

    def counted_copy(*words: Any) -> None:
        copies.append(words)
        copy(*words)

    monkeypatch.setattr(load, "_copy", counted_copy)
    with pytest.raises(StandstillError, match="500 records in a row are bad"):
        world.drain(contract, dead_letter_run=500, batch_milliseconds=20_000)
    assert len(copies) < 3 * 500
    assert world.mark(contract, "next_offset, dead_letter_count") == (0, 0)


def test_a_running_sink_goes_on_with_the_others_and_takes_up_what_was_resumed(world: World) -> None:
    contract = world.make(partitions=2)
    good = world.good(contract)
    world.send(contract, [good] * 10 + BAD * 20)
    settings = world.settings.model_copy(update={"dead_letter_run": 20, "consumer_group": contract.topic})
    stop = threading.Event()
    sink = threading.Thread(target=run, args=[settings, stop, [contract.topic]])
    sink.start()
    try:
        wait_until(lambda: world.mark_or_none(contract, "stopped_because") not in (None, (None,)))
        world.send(contract, [good] * 30, partition=1)
        wait_until(lambda: len(world.rows(contract, "id")) == 30)
        assert world.mark(contract, "next_offset, dead_letter_count") == (0, 0)
        # The sender is mended: what was bad is deleted from the topic's head.
        world.delete_below(contract, 30)
        world.send(contract, [good] * 7)
        world.owner.execute(
            "update ingest.offsets set next_offset = 30 where topic = %s and partition = 0", [contract.topic]
        )
        CliRunner().invoke(app, ["ingest", "resume", contract.topic])
        wait_until(lambda: len(world.rows(contract, "id")) == 37)
    finally:
        stop.set()
        sink.join()
    assert world.mark(contract, "next_offset, stopped_because") == (37, None)
