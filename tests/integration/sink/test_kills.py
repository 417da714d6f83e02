"""A sink killed at any moment loses nothing and repeats nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psycopg

from services.settings import Settings
from tests.integration.sink.conftest import Topics
from tests.integration.sink.test_drain import landed_ids

KILLS = 20
KILLS_IN_TRANSACTION = 5
# Workers that have the sink imported already: a kill costs a fork, not a start of Python.
WORKERS = multiprocessing.get_context("forkserver")
WORKERS.set_forkserver_preload(["ingest.sink.drain"])


def drain_for_ever(settings: Settings) -> None:
    """What the killed process does: small batches, so that many transactions pass."""
    from ingest.sink.drain import drain

    while True:
        drain(settings.model_copy(update={"batch_rows": 400}), ["tracking_events"])


def wait_for_session(warehouse: psycopg.Connection) -> None:
    """Until the sink has connected to Postgres."""
    deadline = time.monotonic() + 30
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


def test_twenty_kills_lose_and_repeat_nothing(stack: Settings, topics: Topics, new_ids: Iterator[int]) -> None:
    first = next(new_ids)
    chance = random.Random(first)
    sent = 0
    done = threading.Event()

    def produce() -> None:
        nonlocal sent
        while not done.is_set():
            for _ in range(200):
                topics.send_event(first + sent)
                sent += 1
            time.sleep(0.02)
        topics.flush()

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
    from ingest.sink.drain import drain

    drain(stack, ["tracking_events"])
    with psycopg.connect(stack.url_of("transform")) as warehouse:
        assert landed_ids(warehouse, first) == list(range(first, first + sent))


def test_a_running_sink_lands_what_arrives_and_ends_cleanly_on_sigterm(
    stack: Settings, topics: Topics, warehouse: psycopg.Connection, new_ids: Iterator[int]
) -> None:
    first = next(new_ids)
    sink = subprocess.Popen(
        [sys.executable, "-m", "scopehouse", "ingest", "run", "tracking_events"], stderr=subprocess.PIPE, text=True
    )
    try:
        for event_id in range(first, first + 3_000):
            topics.send_event(event_id)
        topics.flush()
        deadline = time.monotonic() + 40
        while len(landed_ids(warehouse, first)) < 3_000 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert landed_ids(warehouse, first) == list(range(first, first + 3_000))
    finally:
        asked = time.monotonic()
        sink.send_signal(signal.SIGTERM)
        _, log = sink.communicate(timeout=20)
    assert sink.returncode == 0, log
    assert time.monotonic() - asked < 5
