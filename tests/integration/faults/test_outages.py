"""Servers that go away and come back: the sink goes on by itself, and stops when it is told to, whatever is down."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from services.embedded import stack as embedded
from services.settings import Settings
from tests.integration.faults.conftest import (
    ROUNDS,
    Log,
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


def test_a_sink_goes_on_when_its_sessions_are_terminated_and_postgres_restarts_crashes_and_stays_away(
    own: Settings, log: Log, new_log: Callable[..., Log], tmp_path: Path
) -> None:
    other = new_log()
    other.produce(100)
    with (
        member(log.settings, log.topic) as sink,
        worker(run_topic, other.settings, other.topic, tmp_path / "log") as to_stop,
    ):
        with log.streaming():
            for _ in range(3 * ROUNDS):
                log.wait_more_landed()
                breaks = len(sink.observer.breaks)
                assert end_sessions(own)
                # It may have committed after it was told to end: what has landed does not say that it has.
                wait_until(lambda: len(sink.observer.breaks) > breaks)  # noqa: B023
            log.wait_more_landed()
            other.wait_landed()
            embedded.restart(own, "postgres")
            log.wait_more_landed()
            embedded.kill(own, "postgres")
            embedded.up(own, only=("postgres",))
            log.wait_more_landed()
            with stopped(own, "postgres", seconds=20):
                time.sleep(1)
                assert_stops_in_time(to_stop)
        log.wait_landed()
        assert sink.is_going()
        assert sink.observer.breaks
    log.check()
    other.check()


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


def test_a_sink_goes_on_when_the_broker_crashes_and_stays_away(
    own: Settings, log: Log, new_log: Callable[..., Log], tmp_path: Path
) -> None:
    other = new_log()
    other.produce(100)
    with (
        member(log.settings, log.topic) as sink,
        worker(run_topic, other.settings, other.topic, tmp_path / "log") as to_stop,
    ):
        with log.streaming():
            log.wait_more_landed()
            other.wait_landed()
            embedded.kill(own, "kafka")
            time.sleep(3)
            assert_stops_in_time(to_stop)
            embedded.up(own, only=("kafka",))
            log.wait_more_landed()
            for _ in range(ROUNDS - 1):
                with stopped(own, "kafka", seconds=20):
                    pass
                log.wait_more_landed()
        log.wait_landed()
        assert sink.is_going()
    log.check()
    other.check()


def test_a_sink_waits_for_the_registry_and_takes_no_record_for_a_dead_letter(
    own: Settings, new_log: Callable[..., Log]
) -> None:
    early, late = new_log(encoding="avro"), new_log(encoding="avro")
    early.produce(300)
    with stopped(own, "registry", seconds=0, crashes=True):
        first = member(early.settings, early.topic, late.topic)
        sink = first.__enter__()
        wait_until(lambda: len(sink.observer.breaks) >= 2)
        assert early.landed() == 0
    try:
        early.wait_landed()
        with stopped(own, "registry", seconds=0, crashes=True):
            # Of these it has not asked for the schema yet.
            late.produce(300)
            before = len(sink.observer.breaks)
            wait_until(lambda: len(sink.observer.breaks) > before)
            assert late.landed() == 0
        late.wait_landed()
        assert sink.is_going()
    finally:
        first.__exit__(None, None, None)
    early.check()
    late.check()
