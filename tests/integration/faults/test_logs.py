"""Logs that are not what raw was filled from, and a database that went back in time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ingest.sink.offsets import LogChangedError
from services.settings import Settings
from tests.integration.faults.conftest import Log, Member, as_superuser, member, run_topic, wait_until, worker

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
    with pytest.raises(LogChangedError, match="was deleted and made again"):
        log.drain()
    with pytest.raises(LogChangedError, match="was deleted and made again"), member(log.settings, log.topic) as sink:
        wait_until(lambda: not sink.is_going())
    log.check()


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_a_topic_made_again_under_a_running_sink_is_reported_and_not_read(
    own: Settings, log: Log, protocol: str
) -> None:
    log.produce(400)
    sink = Member(log.settings.model_copy(update={"group_protocol": protocol}), log.topic)
    log.wait_landed()
    make_again(log)
    Log(own, log.topic).produce(4_000)
    wait_until(lambda: not sink.is_going())
    with pytest.raises(LogChangedError, match="was deleted and made again"):
        sink.leave()
    log.check()


def test_records_deleted_before_they_were_read_are_reported_and_not_skipped(new_log: Callable[..., Log]) -> None:
    log = new_log(partitions=1)
    log.produce(500)
    log.drain()
    landed = dict(log.produced)
    log.produce(500)
    delete_below(log, 700)
    sentence = "begins at offset 700, but raw ends at 500: 200 offsets were deleted"
    with pytest.raises(LogChangedError, match=sentence):
        log.drain()
    with pytest.raises(LogChangedError, match=sentence), member(log.settings, log.topic) as sink:
        wait_until(lambda: not sink.is_going())
    log.produced = landed
    log.check()


def test_records_deleted_under_a_running_sink_are_reported_and_not_skipped(
    new_log: Callable[..., Log], tmp_path: Path
) -> None:
    log = new_log(partitions=1)
    log.produce(500)
    diary = tmp_path / "log"
    with worker(run_topic, log.settings, log.topic, diary) as sink:
        log.wait_landed()
        assert sink.pid is not None
        os.kill(sink.pid, signal.SIGSTOP)
        log.produce(5_000)
        delete_below(log, 5_000)
        os.kill(sink.pid, signal.SIGCONT)
        sink.join(120)
        assert sink.exitcode == 1
    # What it had fetched already may have landed.
    with pytest.raises(LogChangedError, match="begins at offset 5000, but raw ends at"):
        log.drain()
    log.check_marks()


def test_an_older_copy_of_the_database_is_filled_up_again_by_the_running_sink(own: Settings, log: Log) -> None:
    log.produce(1_000)
    log.drain()
    with as_superuser(own, "postgres") as superuser:
        superuser.execute("alter database scopehouse allow_connections false")
        superuser.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'scopehouse'")
        superuser.execute("create database older template scopehouse owner scopehouse_migrate")
        superuser.execute("alter database scopehouse allow_connections true")
    with member(log.settings, log.topic):
        log.produce(1_000)
        log.wait_landed()
        with as_superuser(own, "postgres") as superuser:
            superuser.execute("drop database scopehouse with (force)")
            superuser.execute("alter database older rename to scopehouse")
        log.produce(100)
        log.wait_landed()
    log.check()
