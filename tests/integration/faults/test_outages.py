"""Servers that go away and come back: the sink goes on by itself, and stops when it is told to, whatever is down."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from services.embedded import stack as embedded
from services.settings import Settings
from tests.integration.faults.conftest import (
    ROUNDS,
    Log,
    Member,
    end_sessions,
    member,
    run_topic,
    wait_until,
    worker,
)
from tests.integration.faults.wire import PostgresRelay, Trap


@contextmanager
def stopped(own: Settings, name: str, seconds: float, crashes: bool = False) -> Iterator[None]:
    """The server is down for so long at least, and up again at the end."""
    if crashes:
        embedded.kill(own, name)
    else:
        embedded.down(own, only=(name,))
    down_since = time.monotonic()
    try:
        yield
        time.sleep(max(0.0, down_since + seconds - time.monotonic()))
    finally:
        embedded.up(own, only=(name,))


def assert_stops_in_time(sink: BaseProcess) -> None:
    assert sink.pid is not None
    asked = time.monotonic()
    os.kill(sink.pid, signal.SIGTERM)
    sink.join(60)
    assert sink.exitcode == 0
    assert time.monotonic() - asked < 5


@dataclass(frozen=True)
class TwoSinks:
    """One that lives through what comes while records keep coming, and one that is stopped while a server is away."""

    log: Log
    sink: Member
    to_stop: BaseProcess


@pytest.fixture
def two_sinks(new_log: Callable[..., Log], tmp_path: Path) -> Iterator[TwoSinks]:
    log, other = new_log(), new_log()
    other.produce(100)
    with (
        member(log.settings, log.topic) as sink,
        worker(run_topic, other.settings, other.topic, tmp_path / "log") as to_stop,
    ):
        with log.streaming():
            log.wait_more_landed()
            other.wait_landed()
            yield TwoSinks(log, sink, to_stop)
        log.wait_landed()
        assert sink.is_going()
    log.check()
    other.check()


def test_a_sink_goes_on_when_its_sessions_are_terminated_and_postgres_restarts_crashes_and_stays_away(
    own: Settings, two_sinks: TwoSinks
) -> None:
    log, sink = two_sinks.log, two_sinks.sink
    for _ in range(3 * ROUNDS):
        log.wait_more_landed()
        breaks = len(sink.observer.breaks)
        assert end_sessions(own)
        # It may have committed after it was told to end: what has landed does not say that it has.
        wait_until(lambda: len(sink.observer.breaks) > breaks)  # noqa: B023
    log.wait_more_landed()
    embedded.restart(own, "postgres")
    log.wait_more_landed()
    embedded.kill(own, "postgres")
    embedded.up(own, only=("postgres",))
    log.wait_more_landed()
    with stopped(own, "postgres", seconds=20):
        time.sleep(1)
        assert_stops_in_time(two_sinks.to_stop)
    log.wait_more_landed()


def test_a_sink_stops_in_time_while_postgres_hangs_in_the_middle_of_a_batch(
    log: Log, relay: PostgresRelay, tmp_path: Path
) -> None:
    log.produce(500)
    hangs, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        goes_on.wait()

    relay.trap = Trap('copy "raw"', "inside", hang)
    with worker(run_topic, log.through(relay), log.topic, tmp_path / "log") as sink:
        assert hangs.wait(120)
        assert_stops_in_time(sink)
    goes_on.set()
    log.drain()
    log.check()


def test_a_sink_goes_on_when_the_broker_crashes_and_stays_away(own: Settings, two_sinks: TwoSinks) -> None:
    with stopped(own, "kafka", seconds=0, crashes=True):
        time.sleep(3)
        assert_stops_in_time(two_sinks.to_stop)
    two_sinks.log.wait_more_landed()
    for _ in range(ROUNDS - 1):
        with stopped(own, "kafka", seconds=20):
            pass
        two_sinks.log.wait_more_landed()


def test_an_idle_sink_notices_that_postgres_is_gone(own: Settings, log: Log) -> None:
    log.produce(100)
    with member(log.settings, log.topic) as sink:
        log.wait_landed()
        with stopped(own, "postgres", seconds=0, crashes=True):
            wait_until(lambda: sink.observer.breaks)
        log.produce(100)
        log.wait_landed()
    log.check()


def test_a_sink_waits_for_the_registry_where_it_must_and_takes_no_record_for_a_dead_letter(
    own: Settings, new_log: Callable[..., Log]
) -> None:
    early, late, other = new_log(encoding="avro"), new_log(encoding="avro"), new_log(encoding="json")
    early.produce(300)
    with ExitStack() as at_the_end:
        with stopped(own, "registry", seconds=0, crashes=True):
            sink = at_the_end.enter_context(member(early.settings, early.topic, late.topic, other.topic))
            wait_until(lambda: len(sink.observer.waits) >= 2 * early.contract.partitions)
            assert early.landed() == 0
            # It needs no registry.
            other.produce(300)
            other.wait_landed()
        early.wait_landed()
        with stopped(own, "registry", seconds=0, crashes=True):
            # Of these it has not asked for the schema yet.
            late.produce(300)
            wait_until(lambda: late.topic in {topic for topic, _ in sink.observer.waits})
            # Of these it has.
            early.produce(300)
            early.wait_landed()
            assert late.landed() == 0
        late.wait_landed()
        assert sink.observer.breaks == []
    for log in (early, late, other):
        log.check()
