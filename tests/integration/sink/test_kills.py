"""A sink killed at any moment loses nothing and repeats nothing."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
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
        drain(settings.model_copy(update={"batch_rows": 400}), ["tracking_events"])


def wait_for_session(warehouse: psycopg.Connection) -> None:
    """Until the sink has connected to Postgres."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if warehouse.execute("select from pg_stat_activity where application_name = 'scopehouse sink'").rowcount:
            return
        time.sleep(0.01)
    raise AssertionError("the sink did not connect to Postgres")


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
    sent: list[TrackingEventsProduced] = []
    done = threading.Event()

    def produce() -> None:
        # With a rest between: it shares this process with who kills.
        while not done.wait(0.1):
            sent.append(produce_tracking_events(stack, events=2_000, seed=20))

    producer = threading.Thread(target=produce)
    producer.start()
    kills = inside = 0
    try:
        with psycopg.connect(stack.url_of("ingest"), autocommit=True) as watcher:
            while kills < KILLS or (inside < KILLS_IN_TRANSACTION and kills < 6 * KILLS):
                worker = WORKERS.Process(target=drain_for_ever, args=[stack], daemon=True)
                worker.start()
                assert worker.pid is not None
                wait_for_session(watcher)
                time.sleep(chance.random() * 0.5)
                # Frozen first, so that what is seen is what is killed.
                os.kill(worker.pid, signal.SIGSTOP)
                inside += is_in_transaction(watcher)
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()
                kills += 1
    finally:
        done.set()
        producer.join()
    assert inside >= KILLS_IN_TRANSACTION, f"only {inside} of {kills} kills fell inside a transaction"
    drain(stack, ["tracking_events"])
    build_facts()
    first, last = sent[0].first_event_id, sent[-1].last_event_id
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
    assert raw_rows == sum(each.events for each in sent)
    assert fact_rows == sum(each.measurements for each in sent)
    expected_kg_co2e = math.fsum(each.expected_operating_kg_co2e for each in sent)
    assert operating_kg_co2e == pytest.approx(expected_kg_co2e, rel=1e-6)


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
