"""Logs that are not what raw was filled from, and a database that went back in time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from psycopg import sql

from ingest.sink.drain import StandstillError
from services.embedded.postgres import Postgres, programs
from services.settings import Settings
from tests.integration.faults.conftest import Log, as_superuser, member, run_topic, wait_until, worker

SECONDS = 30.0


def make_again(log: Log) -> None:
    """Delete the topic and make it anew."""
    admin = AdminClient({"bootstrap.servers": log.settings.bootstrap_servers})
    for deleted in admin.delete_topics([log.topic], operation_timeout=SECONDS).values():
        deleted.result(SECONDS)

    def is_made() -> bool:
        (made,) = admin.create_topics([NewTopic(log.topic, num_partitions=log.contract.partitions)]).values()
        return made.exception(SECONDS) is None

    wait_until(is_made)


def delete_below(log: Log, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": log.settings.bootstrap_servers})
    for deleted in admin.delete_records([TopicPartition(log.topic, 0, offset)]).values():
        deleted.result(SECONDS)


@pytest.mark.parametrize("records", [100, 3_000])
def test_a_topic_made_again_is_reported_and_not_read_also_once_it_is_longer_than_the_old_one(
    own: Settings, log: Log, records: int
) -> None:
    log.produce(1_000)
    log.drain()
    make_again(log)
    Log(own, log.topic).produce(records)
    with pytest.raises(StandstillError, match="was deleted and made again") as standstill:
        log.drain()
    assert len(standstill.value.reasons) == log.contract.partitions
    with member(log.settings, log.topic) as sink:
        wait_until(lambda: len(sink.observer.stops) == log.contract.partitions)
        assert all("was deleted and made again" in why for why in sink.observer.stops.values())
    log.check()


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_a_topic_made_again_under_a_running_sink_is_reported_and_not_read(
    own: Settings, log: Log, new_log: Callable[..., Log], protocol: str
) -> None:
    other = new_log(partitions=1)
    log.produce(400)
    settings = log.settings.model_copy(update={"group_protocol": protocol})
    with member(settings, log.topic, other.topic) as sink:
        log.wait_landed()
        make_again(log)
        Log(own, log.topic).produce(4_000)
        wait_until(lambda: len(sink.observer.stops) == log.contract.partitions)
        assert all("was deleted and made again" in why for why in sink.observer.stops.values())
        # The other topic goes on, also while it is looked again and again whether the first may be taken up.
        for _ in range(3):
            other.produce(500)
            other.wait_landed()
        log.check()
        # Its rows and offsets are moved out of the way: the new log is taken in.
        with psycopg.connect(own.url_of("migrate"), autocommit=True) as owner:
            owner.execute(sql.SQL("truncate {}").format(log.table))
            owner.execute("delete from ingest.offsets where topic = %s", [log.topic])
        wait_until(lambda: log.landed() == 4_000)
    other.check()


def test_records_deleted_before_they_were_read_are_reported_and_not_skipped(new_log: Callable[..., Log]) -> None:
    log = new_log(partitions=1)
    log.produce(500)
    log.drain()
    landed = dict(log.produced)
    log.produce(500)
    delete_below(log, 700)
    sentence = "begins at offset 700, but raw ends at 500: 200 offsets were deleted"
    with pytest.raises(StandstillError, match=sentence):
        log.drain()
    with member(log.settings, log.topic) as sink:
        wait_until(lambda: sink.observer.stops)
        assert sentence in sink.observer.stops[log.topic, 0]
    log.produced = landed
    log.check()


def test_records_deleted_under_a_running_sink_are_reported_and_not_skipped(
    new_log: Callable[..., Log], tmp_path: Path
) -> None:
    log = new_log(partitions=1)
    log.produce(500)
    diary = tmp_path / "log"
    sentence = "begins at offset 5000, but raw ends at"
    with worker(run_topic, log.settings, log.topic, diary) as sink:
        log.wait_landed()
        assert sink.pid is not None
        os.kill(sink.pid, signal.SIGSTOP)
        log.produce(5_000)
        delete_below(log, 5_000)
        os.kill(sink.pid, signal.SIGCONT)
        wait_until(lambda: sentence in diary.read_text())
        assert sink.is_alive()
    # What it had fetched already may have landed.
    with pytest.raises(StandstillError, match=sentence):
        log.drain()
    log.check_marks()


def test_an_older_dump_of_the_database_is_filled_up_again_by_the_running_sink(
    own: Settings, log: Log, tmp_path: Path
) -> None:
    log.produce(1_000)
    log.drain()
    dump = tmp_path / "older.dump"
    postgres(own, "pg_dump", "--format=custom", f"--file={dump}", "scopehouse")
    with member(log.settings, log.topic):
        log.produce(1_000)
        log.wait_landed()
        postgres(own, "createdb", "--owner=scopehouse_migrate", "restored")
        postgres(own, "pg_restore", "--exit-on-error", "--dbname=restored", str(dump))
        with as_superuser(own, "restored") as superuser:
            statement = "select sum(next_offset) from ingest.offsets where topic = %s"
            assert superuser.execute(statement, [log.topic]).fetchone() == (1_000,)
        with as_superuser(own, "postgres") as superuser:
            superuser.execute("drop database scopehouse with (force)")
            superuser.execute("alter database restored rename to scopehouse")
        log.produce(100)
        log.wait_landed()
    log.check()


def postgres(own: Settings, program: str, *words: str) -> None:
    """Run one of Postgres' programs as the superuser."""
    server = Postgres(own)
    login = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres"}
    environment = {**os.environ, **login, "PGPASSWORD": server.passwords["postgres"]}
    subprocess.run([programs() / program, *words], env=environment, check=True)
