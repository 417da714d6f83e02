"""Logs that end with a transaction's marker: an offset that holds no record."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from confluent_kafka import Producer

from ingest.sink import sink_file
from ingest.sink.offsets import Advance
from ingest.sink.reporter import Reporter
from ingest.sink.run import run
from scopehouse.sink_status import sink_status
from services.settings import Settings
from tests.integration.faults.conftest import Log, wait_until


class Sender:
    """Sends a topic's records in transactions, as Kafka Connect does."""

    def __init__(self, log: Log) -> None:
        self._topic = log.topic
        self._producer = Producer(
            {"bootstrap.servers": log.settings.bootstrap_servers, "transactional.id": log.topic, "log_level": 0}
        )
        self._producer.init_transactions(120)

    def send(self, ids: Sequence[int], partition: int = 0, commits: bool = True) -> None:
        """One transaction: its records, then a marker that says whether it was committed or given up."""
        self.begin(ids, partition)
        if commits:
            self.commit()
        else:
            self._producer.abort_transaction(120)

    def begin(self, ids: Sequence[int], partition: int = 0) -> None:
        """Its records alone."""
        self._producer.begin_transaction()
        for each in ids:
            value = json.dumps({"id": each, "note": "a note"}).encode()
            self._producer.produce(self._topic, value, partition=partition)
        assert self._producer.flush(120) == 0

    def commit(self) -> None:
        self._producer.commit_transaction(120)


class Told(Reporter):
    """What a sink tells of itself, with each of its transactions."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.transactions: list[Sequence[Advance]] = []

    def landed(self, advances: Sequence[Advance], size: int, seconds: float) -> None:
        self.transactions.append(advances)
        super().landed(advances, size, seconds)

    def lag(self, log: Log) -> float | None:
        """The metric's, of partition 0."""
        return self.metrics.registry.get_sample_value("scopehouse_sink_lag", {"topic": log.topic, "partition": "0"})


@contextmanager
def a_sink(log: Log) -> Iterator[Told]:
    stop = threading.Event()
    with Told(log.settings) as told, ThreadPoolExecutor(1) as other:
        running = other.submit(run, log.settings, stop, [log.topic], told)
        try:
            yield told
        finally:
            stop.set()
            running.result(60)


def lags(log: Log) -> list[int | None]:
    """What `scopehouse status` says of each partition."""
    return [each.lag for each in sink_status(log.settings).partitions if each.topic == log.topic]


def ids(log: Log) -> list[int | None]:
    return sorted(record_id for _, _, record_id in log.rows())


def test_a_sink_reaches_the_end_behind_a_commit_and_an_abort_and_a_drain_beside_it_fences_nobody(
    new_log: Callable[..., Log],
) -> None:
    log = new_log(partitions=1)
    sender = Sender(log)
    with a_sink(log) as told:
        for round_, commits in enumerate([True, False, True]):
            sender.send(range(10 * round_, 10 * round_ + 10), commits=commits)
            end = 11 * (round_ + 1)
            wait_until(lambda: log.landed() == end)  # noqa: B023
            wait_until(lambda: told.lag(log) == 0)
            assert lags(log) == [0]
        epochs = log.epochs()
        sender.send(range(30, 40))
        log.drain()
        assert log.landed() == 44
        # Of one that is open nobody waits for the end.
        sender.begin(range(40, 50))
        log.drain()
        assert log.landed() == 44
        sender.commit()
        log.drain()
        assert log.landed() == 55
        assert log.epochs() == epochs
    assert ids(log) == [*range(10), *range(20, 50)]


def test_a_sink_writes_nothing_for_partitions_whose_end_it_has_reached(new_log: Callable[..., Log]) -> None:
    log = new_log(partitions=2)
    sender = Sender(log)
    log.produce(50)
    plain = len(log.produced)
    with a_sink(log) as told:
        log.wait_landed()
        sender.send(range(1000, 1010), partition=0)
        wait_until(lambda: log.landed() == plain + 11)
        before = len(told.transactions)

        def told_at() -> float:
            (state,) = sink_file.read_all(log.settings)
            return state.updated_at

        # It polls on, ten times a second.
        since = told_at()
        wait_until(lambda: told_at() > since + 3)
        assert len(told.transactions) == before
        sender.send(range(1010, 1020), partition=1)
        wait_until(lambda: log.landed() == plain + 22)
        moves = [move for moves in told.transactions for move in moves]
        assert all(move.start < move.end for move in moves)
        assert {move.partition for moves in told.transactions[before:] for move in moves} == {1}
