"""What the reporter makes of what it hears; the real thing is in tests/integration/operations."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException

from ingest.sink import sink_file
from ingest.sink.broker import BrokerError
from ingest.sink.offsets import Advance, Claim
from ingest.sink.reporter import Reporter
from ingest.sink.sentences import sentence, server_of
from services.errors import MendableError
from services.settings import Settings

PARTITION = ("trips", 0)
VALUE = "a value of a record"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path)


def state_of(settings: Settings) -> sink_file.SinkState:
    (state,) = sink_file.read_all(settings)
    return state


def statistics(end: int, broker: str = "UP") -> str:
    return json.dumps(
        {"brokers": {"b": {"state": broker}}, "topics": {"trips": {"partitions": {"0": {"hi_offset": end}}}}}
    )


def test_a_partition_lands_is_idle_waits_and_is_fenced(settings: Settings) -> None:
    with Reporter(settings) as reporter:
        hear = reporter.consumer_settings()["stats_cb"]
        reporter.connected()
        reporter.assigned({PARTITION: Claim(5, 1)})
        hear(statistics(end=9))
        assert [(each.state, each.next_offset, each.end) for each in state_of(settings).partitions] == [
            ("landing", 5, 9)
        ]
        reporter.landed([Advance("trips", 0, 5, 9, 1, 3, 1, 0, {"NulInText": 1})], 40, 0.1)
        reporter.broke(psycopg.OperationalError("gone"))
        assert state_of(settings).waiting_for == "postgres"
        assert state_of(settings).partitions[0].state == "waiting for postgres"
        reporter.connected()
        assert state_of(settings).waiting_for is None
        reporter.assigned({PARTITION: Claim(9, 2)})
        hear(statistics(end=9))
        assert state_of(settings).partitions[0].state == "idle"
        hear(statistics(end=9, broker="DOWN"))
        assert state_of(settings).partitions[0].state == "waiting for kafka"
        hear(statistics(end=9))
        reporter.fenced([PARTITION])
        assert state_of(settings).partitions[0].state == "fenced"
        value = reporter.metrics.registry.get_sample_value
        labels = {"topic": "trips", "partition": "0"}
        assert value("scopehouse_sink_rows_total", labels) == 3
        assert value("scopehouse_sink_lag", labels) == 0
        assert value("scopehouse_sink_partition_halted", labels) == 1
        assert value("scopehouse_sink_dead_letters_total", {**labels, "reason": "NulInText"}) == 1
        reporter.revoked([PARTITION])
        assert value("scopehouse_sink_lag", labels) is None
    assert sink_file.read_all(settings) == []


@pytest.mark.parametrize(
    ("error", "server"),
    [(KafkaException(KafkaError(KafkaError._TRANSPORT)), "kafka"), (httpx2.ConnectError("refused"), "registry")],
)
def test_a_sink_whose_sessions_break_for_a_server_shows_its_partitions_as_waiting(
    settings: Settings, error: Exception, server: str
) -> None:
    with Reporter(settings) as reporter:
        reporter.connected()
        reporter.assigned({PARTITION: Claim(5, 1), ("trips", 1): Claim(7, 1)})
        for _ in range(2):
            reporter.broke(error)
            reporter.connected()
            assert [each.state for each in state_of(settings).partitions] == [f"waiting for {server}"] * 2
        # The other one went to another member meanwhile.
        reporter.assigned({PARTITION: Claim(6, 3)})
        assert [(each.partition, each.next_offset) for each in state_of(settings).partitions] == [(0, 6)]
        reporter.assigned({("trips", 2): Claim(0, 1)})
        assert [each.partition for each in state_of(settings).partitions] == [0, 2]


def test_a_sink_that_waited_for_kafka_owns_nothing_until_it_is_given_partitions(settings: Settings) -> None:
    with Reporter(settings) as reporter:
        hear = reporter.consumer_settings()["stats_cb"]
        reporter.connected()
        reporter.assigned({PARTITION: Claim(5, 1)})
        hear(statistics(end=9))
        reporter.broke(KafkaException(KafkaError(KafkaError._TRANSPORT)))
        reporter.connected()
        hear(statistics(end=9, broker="DOWN"))
        # The classic protocol's client gives its partitions up after a while.
        reporter.revoked([PARTITION])
        assert [each.state for each in state_of(settings).partitions] == ["waiting for kafka"]
        hear(statistics(end=9))
        assert state_of(settings).waiting_for is None
        assert state_of(settings).partitions == ()
        value = reporter.metrics.registry.get_sample_value
        assert value("scopehouse_sink_lag", {"topic": "trips", "partition": "0"}) is None


def test_a_state_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Reporter(Settings(state_dir=tmp_path / "file")) as reporter:
        reporter.assigned({PARTITION: Claim(5, 1)})
        reporter.broke(OSError("x"))


@pytest.mark.parametrize(
    ("error", "server"),
    [
        (psycopg.errors.InvalidTextRepresentation(VALUE), "postgres"),
        (psycopg.errors.RaiseException(VALUE), "postgres"),
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), "kafka"),
        (BrokerError("It does not say."), "kafka"),
        (httpx2.ConnectError("refused"), "registry"),
        (ValueError(VALUE), "a server"),
        (KeyError(VALUE), "a server"),
    ],
)
def test_a_logged_sentence_names_the_server_and_quotes_no_value(error: Exception, server: str) -> None:
    assert server_of(error) == server
    assert VALUE not in sentence(error)
    assert sentence(error)
    wrapped = MendableError("Mend it.")
    wrapped.__cause__ = error
    assert server_of(wrapped) == server
