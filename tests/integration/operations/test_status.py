"""`scopehouse status` and the metrics tell the truth, also while servers are away, and never hang."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from services.embedded import stack as embedded
from services.settings import Settings
from tests.integration.operations.conftest import Sink, a_sink, eventually, states, status, status_of_its_own
from tests.integration.sink.conftest import Topics


def test_metrics_and_status_say_what_landed_and_what_was_set_aside(stack: Settings, sink: Sink, topics: Topics) -> None:
    before, rows_before = status(), sink.metric("scopehouse_sink_rows_total") or 0
    for event_id in range(2_000):
        topics.send_event(9 * 10**17 + event_id)
    for _ in range(3):
        topics.send("tracking_events", b"no wire format", partition=0)
    topics.flush()

    metric = sink.metric
    eventually(lambda: metric("scopehouse_sink_rows_total") == rows_before + 2_000)
    eventually(lambda: metric("scopehouse_sink_dead_letters_total", partition="0", reason="WrongWireFormat") == 3)
    eventually(lambda: metric("scopehouse_sink_lag") == 0)
    assert metric("scopehouse_sink_bytes_total") > 2_000 * 10
    assert metric("scopehouse_sink_batch_seconds_count") >= 1
    assert time.time() - metric("scopehouse_sink_last_landed_timestamp_seconds", partition="0") < 60
    assert metric("scopehouse_sink_waiting", server="postgres") == 0

    now = eventually(lambda: (found := status()) and states(found) == {"idle"} and found)
    assert [(each["pid"], each["state"]) for each in now["sinks"]] == [(sink.process.pid, "running")]
    assert now["problems"] == []
    partitions = [each for each in now["partitions"] if each["topic"] == "tracking_events"]
    assert {each["lag"] for each in partitions} == {0}
    assert all(each["next_offset"] == each["end"] for each in partitions)
    dead = {
        each["partition"]: each["dead_letters"] for each in before["partitions"] if each["topic"] == "tracking_events"
    }
    assert {each["partition"]: each["dead_letters"] - dead[each["partition"]] for each in partitions}[0] == 3

    assert sink.end() == 0
    gone = status_of_its_own()
    assert gone["sinks"] == []
    assert states(gone) == {"no sink"}


def test_a_sink_that_waits_for_postgres_says_so_and_goes_on(stack: Settings, sink: Sink) -> None:
    embedded.kill(stack, "postgres")
    try:
        # It notices though it has nothing to land.
        now = eventually(lambda: (found := status())["sinks"][0]["waiting_for"] == "postgres" and found)
        assert now["sinks"][0]["state"] == "waiting"
        assert now["sinks"][0]["last_error"]
        assert states(now) == {"waiting for postgres"}
        assert any(problem.startswith("Postgres can't be asked") for problem in now["problems"])
        # Its last word, and Kafka's ends.
        assert all(each["next_offset"] is not None and each["end"] is not None for each in now["partitions"])
        assert sink.metric("scopehouse_sink_waiting", server="postgres") == 1
        assert sink.metric("scopehouse_sink_session_breaks_total", server="postgres") >= 1
    finally:
        embedded.up(stack, only=("postgres",))
    eventually(lambda: states(found := status()) == {"idle"} and found["sinks"][0]["state"] == "running")
    assert sink.metric("scopehouse_sink_waiting", server="postgres") == 0


def test_a_sink_that_waits_for_kafka_says_so_and_goes_on(stack: Settings, sink: Sink) -> None:
    embedded.kill(stack, "kafka")
    try:
        now = eventually(lambda: (found := status())["sinks"][0]["waiting_for"] == "kafka" and found)
        assert states(now) == {"waiting for kafka"}
        assert any(problem.startswith("Kafka can't be asked") for problem in now["problems"])
    finally:
        embedded.up(stack, only=("kafka",))
    eventually(lambda: states(status()) == {"idle"})


def test_a_sink_that_waits_for_the_registry_says_so_and_goes_on(stack: Settings, sink: Sink, topics: Topics) -> None:
    embedded.kill(stack, "registry")
    try:
        # A schema that it has not seen yet: it must ask.
        topics.send("tracking_events", b"\x00\x00\x0f\x42\x40rest")
        topics.flush()
        # The partition that holds it, and no other.
        now = eventually(lambda: states(found := status()) == {"waiting for registry", "idle"} and found)
        assert now["sinks"][0]["waiting_for"] == "registry"
    finally:
        embedded.up(stack, only=("registry",))
    eventually(lambda: states(status()) == {"idle"})


def test_a_killed_sink_has_died_until_the_next_starts(stack: Settings, sink: Sink, tmp_path: Path) -> None:
    sink.end(signal.SIGKILL)
    now = status()
    assert [(each["pid"], each["state"]) for each in now["sinks"]] == [(sink.process.pid, "died")]
    assert states(now) == {"died"}
    with a_sink(tmp_path, "tracking_events") as heir:
        now = eventually(lambda: (found := status()) and states(found) == {"idle"} and found)
        assert [each["pid"] for each in now["sinks"]] == [heir.process.pid]
        assert heir.end() == 0


def test_a_frozen_postgres_hangs_neither_status_nor_a_stop(stack: Settings, sink: Sink, topics: Topics) -> None:
    frozen = list(_postgres_processes(stack))
    for process in frozen:
        process.suspend()
    try:
        began = time.monotonic()
        now = status_of_its_own()
        assert time.monotonic() - began < 20
        assert any(problem.startswith("Postgres can't be asked") for problem in now["problems"])
        topics.send_event(9 * 10**17 + 20_000)
        topics.flush()
        time.sleep(2)  # it waits for Postgres's answer by now, or ends without having asked
        began = time.monotonic()
        assert sink.end() == 0
        assert time.monotonic() - began < 8
        assert list((stack.state_dir / "sinks").iterdir()) == []
    finally:
        for process in frozen:
            process.resume()


def _postgres_processes(stack: Settings) -> Iterator[psutil.Process]:
    postmaster = psutil.Process(embedded.status(stack)[0].pid)
    yield from (postmaster, *postmaster.children(recursive=True))


def test_a_taken_metrics_port_is_named(stack: Settings, sink: Sink, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with a_sink(other, SCOPEHOUSE_METRICS_PORT=str(sink.metrics_port)) as second:
        assert second.process.wait(90) == 1
        assert "SCOPEHOUSE_METRICS_PORT" in second.log_file.read_text()
