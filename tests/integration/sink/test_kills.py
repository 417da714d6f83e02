"""A sink killed at any moment loses nothing and repeats nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from ingest.sink.drain import drain
from ingest.sources.tracking_events import TrackingEventsProduced, produce_tracking_events
from services.settings import Settings
from tests.integration.sink.conftest import Topics
from tests.integration.sink.test_drain import landed_ids

# `make test-faults` kills more often.
ROUNDS = int(os.environ.get("SCOPEHOUSE_FAULT_ROUNDS", "1"))
KILLS = 20 * ROUNDS
KILLS_IN_TRANSACTION = 5 * ROUNDS
# Workers that have the sink imported already: a kill costs a fork, not a start of Python.
WORKERS = multiprocessing.get_context("forkserver")
WORKERS.set_forkserver_preload(["ingest.sink.drain"])


def drain_for_ever(settings: Settings) -> None:
    """What the killed process does: small batches, so that many transactions pass."""
    while True:
        drain(settings.model_copy(update={"batch_rows": 100}), ["tracking_events"])


def produce_until_told(settings: Settings, told: Any) -> None:
    """What the producer does, in a process of its own until SIGTERM; tells what it sent."""
    told.put(produce_tracking_events(settings, events=0, rate=2_000, seed=20))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def is_connected(warehouse: psycopg.Connection) -> bool:
    """Whether the sink has a session with Postgres."""
    return warehouse.execute("select from pg_stat_activity where application_name = 'scopehouse sink'").rowcount > 0


def landed(warehouse: psycopg.Connection) -> int:
    """How many offsets the marks have passed."""
    row = warehouse.execute("select sum(next_offset) from ingest.offsets where topic = 'tracking_events'").fetchone()
    return int(row[0] or 0) if row else 0


def is_in_transaction(warehouse: psycopg.Connection) -> bool:
    """Whether the sink's session has written in a transaction that is still open."""
    row = warehouse.execute(
        "select 1 from pg_stat_activity where application_name = 'scopehouse sink' and backend_xid is not null"
    ).fetchone()
    return row is not None


def test_twenty_kills_while_trips_arrive_lose_and_repeat_nothing(
    stack: Settings, build_facts: Callable[[], None]
) -> None:
    chance = random.Random(20)
    told = WORKERS.SimpleQueue()
    producer = WORKERS.Process(target=produce_until_told, args=[stack, told], daemon=True)
    producer.start()
    kills = inside = 0
    try:
        with psycopg.connect(stack.url_of("ingest"), autocommit=True) as watcher:
            while kills < KILLS or (inside < KILLS_IN_TRANSACTION and kills < 6 * KILLS):
                before = landed(watcher)
                worker = WORKERS.Process(target=drain_for_ever, args=[stack], daemon=True)
                worker.start()
                assert worker.pid is not None
                wait_for(lambda: is_connected(watcher))
                if kills % 2:
                    # While it lands; a machine that is slow to begin would be killed before, again and again.
                    wait_for(lambda before=before: landed(watcher) > before)  # type: ignore[misc]
                time.sleep(chance.random() * (0.1 if kills % 2 else 0.5))
                # Frozen first, so that what is seen is what is killed.
                os.kill(worker.pid, signal.SIGSTOP)
                inside += is_in_transaction(watcher)
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()
                kills += 1
    finally:
        producer.terminate()
        producer.join()
    assert producer.exitcode == 0
    sent: TrackingEventsProduced = told.get()
    assert inside >= KILLS_IN_TRANSACTION, f"only {inside} of {kills} kills fell inside a transaction"
    drain(stack, ["tracking_events"])
    build_facts()
    first, last = sent.first_event_id, sent.last_event_id
    with psycopg.connect(stack.url_of("transform")) as warehouse:
        (raw_rows,) = one_row(
            warehouse, "select count(*) from raw.tracking_events where id between %s and %s", first, last
        )
        fact_rows, operating_kg_co2e = one_row(
            warehouse,
            "select count(*), sum(operating_kg_co2e) from mobility.fct_trip_emissions where event_id between %s and %s",
            first,
            last,
        )
    assert raw_rows == sent.events
    assert fact_rows == sent.measurements
    assert operating_kg_co2e == pytest.approx(sent.expected_operating_kg_co2e, rel=1e-6)


def one_row(warehouse: psycopg.Connection, statement: str, *parameters: object) -> tuple[Any, ...]:
    row = warehouse.execute(statement, parameters).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return row


def test_a_running_sink_lands_what_arrives_and_ends_cleanly_on_sigterm(
    stack: Settings, topics: Topics, warehouse: psycopg.Connection, new_ids: Iterator[int]
) -> None:
    first = next(new_ids)
    sink = subprocess.Popen(
        [sys.executable, "-m", "scopehouse", "ingest", "run", "tracking_events"], stderr=subprocess.PIPE, text=True
    )
    try:
        topics.send_events(first, 3_000)
        deadline = time.monotonic() + 120
        while len(landed_ids(warehouse, first)) < 3_000 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert landed_ids(warehouse, first) == list(range(first, first + 3_000))
    finally:
        asked = time.monotonic()
        sink.send_signal(signal.SIGTERM)
        _, log = sink.communicate(timeout=60)
    assert sink.returncode == 0, log
    assert time.monotonic() - asked < 5
