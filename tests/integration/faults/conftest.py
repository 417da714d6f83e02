"""Servers that these tests may break, started once for the folder, and the oracle: what was produced, against raw."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import fastavro
import psycopg
import pytest
import structlog
from confluent_kafka import Producer
from dotenv import dotenv_values
from psycopg import sql
from pydantic import SecretStr

from ingest.contracts.contract import load_contracts
from ingest.database.migrate import migrate
from ingest.sink.drain import drain
from ingest.sink.observer import Observer
from ingest.sink.run import run, run_until_told
from ingest.sources.topic_writer import avro_header
from services.embedded import stack as embedded
from services.embedded.postgres import Postgres
from services.settings import Settings
from tests.integration.conftest import CONNECTIONS, embedded_environment
from tests.integration.faults.wire import PostgresRelay

# The long form (`make test-faults`) goes round more often.
ROUNDS = int(os.environ.get("SCOPEHOUSE_FAULT_ROUNDS", "1"))

# Workers that have the sink imported already: a kill costs a fork, not a start of Python.
WORKERS = multiprocessing.get_context("forkserver")
WORKERS.set_forkserver_preload(["ingest.sink.drain", "ingest.sink.run"])


def wait_until(is_true: Callable[[], object], seconds: float = 180.0, every: float = 0.1) -> None:
    """Until the condition holds; a deadline far away, for machines are slow at times."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"waited for {seconds} s"
        time.sleep(every)


@pytest.fixture(scope="package")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Servers of this folder's own, healthy and migrated, with contracts of the tests' own."""
    folder = tmp_path_factory.mktemp("faults")
    contracts = folder / "contracts"
    contracts.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in CONNECTIONS:
            patch.delenv(name, raising=False)
        variables = embedded_environment(folder / "state")
        before = Settings(**variables)
        try:
            embedded.up(before)
            connections = dotenv_values(before.connections_file)
            settings = Settings(**variables, **connections, SCOPEHOUSE_CONTRACTS_DIR=str(contracts))
            # Small batches: many transactions pass.
            yield settings.model_copy(update={"batch_rows": 250, "batch_milliseconds": 100})
        finally:
            embedded.down(before)


class Log:
    """A topic of a test's own, what was produced to it, and what of it is in raw."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.topic = topic
        self.settings = settings.model_copy(update={"consumer_group": topic})
        self.contract = load_contracts(settings.contracts_dir)[topic]
        self.table = sql.Identifier("raw", self.contract.table)
        self._header = avro_header(settings, self.contract) if self.contract.encoding == "avro" else None
        # (partition, offset) -> id; None is a record that no row can be made of.
        self.produced: dict[tuple[int, int], int | None] = {}
        self._next_id = 0
        self._producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 300_000,
                "reconnect.backoff.max.ms": 1_000,
                "log_level": 0,
            }
        )

    def produce(self, count: int, garbage_every: int | None = None, wait: bool = True) -> None:
        """Send so many records; each `garbage_every`th is none of the contract's."""
        for number in range(count):
            if garbage_every is not None and number % garbage_every == garbage_every // 2:
                self._send(b"garbage", None)
            self._send(self._value({"id": self._next_id, "note": "a note " * 10}), self._next_id)
            self._next_id += 1
        if wait:
            self.flush()

    def flush(self) -> None:
        assert self._producer.flush(120) == 0

    def _value(self, record: dict[str, Any]) -> bytes:
        if self._header is None:
            return json.dumps(record).encode()
        body = io.BytesIO()
        fastavro.schemaless_writer(body, self.contract.schema, record)
        return self._header + body.getvalue()

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Records keep coming, some hundreds a second, until the end, when all are delivered."""
        done = threading.Event()

        def stream() -> None:
            while not done.wait(0.05):
                self.produce(20, wait=False)

        thread = threading.Thread(target=stream, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.flush()

    def _send(self, value: bytes, record_id: int | None) -> None:
        def delivered(error: Any, message: Any) -> None:
            assert error is None, error
            self.produced[message.partition(), message.offset()] = record_id

        self._producer.produce(self.topic, value, str(record_id).encode(), on_delivery=delivered)
        self._producer.poll(0)

    def landed(self) -> int:
        """How many offsets the mark has passed."""
        with self.session() as session:
            row = session.execute(
                "select coalesce(sum(next_offset), 0)::bigint from ingest.offsets where topic = %s and partition >= 0",
                [self.topic],
            ).fetchone()
        assert row is not None
        return int(row[0])

    def epochs(self) -> list[int]:
        with self.session() as session:
            statement = "select epoch from ingest.offsets where topic = %s order by partition"
            return [epoch for (epoch,) in session.execute(statement, [self.topic])]

    def wait_landed(self, seconds: float = 180.0) -> None:
        """Until the marks have passed all that was produced."""
        wait_until(lambda: self.landed() >= len(self.produced), seconds, 0.2)

    def wait_more_landed(self) -> None:
        """Until the marks have moved."""
        before = self.landed()
        wait_until(lambda: self.landed() > before, every=0.2)

    def session(self) -> psycopg.Connection:
        return psycopg.connect(self.settings.url_of("transform"), autocommit=True)

    def rows(self) -> list[tuple[int, int, int | None]]:
        """(partition, offset, id) of each row and each dead letter, whose id is None."""
        statement = sql.SQL(
            """
            select _kafka_partition, _kafka_offset, id from {}
            union all select partition, "offset", null from ingest.dead_letters where topic = {}
            """
        ).format(self.table, sql.Literal(self.topic))
        with self.session() as session:
            return session.execute(statement).fetchall()  # type: ignore[return-value]

    def check_marks(self) -> None:
        """At any moment: raw holds each offset below its partition's mark once, and none above."""
        statement = sql.SQL(
            """
            with landed as (
                select _kafka_partition as partition, _kafka_offset as "offset" from {}
                union all select partition, "offset" from ingest.dead_letters where topic = {}
            )
            select partition, next_offset, count("offset"), count(distinct "offset"), max("offset")
            from (select * from ingest.offsets where topic = {} and partition >= 0) as marks
            full join landed using (partition)
            group by partition, next_offset
            having next_offset is null
                or count("offset") <> next_offset
                or count(distinct "offset") <> next_offset
                or max("offset") >= next_offset
            """
        ).format(self.table, sql.Literal(self.topic), sql.Literal(self.topic))
        with self.session() as session:
            assert session.execute(statement).fetchall() == []

    def check(self) -> None:
        """In the end: what was produced is there, each record once, and nothing else."""
        rows = self.rows()
        there = {(partition, offset): record_id for partition, offset, record_id in rows}
        lost = self.produced.keys() - there.keys()
        assert not lost, f"{len(lost)} of {len(self.produced)} records are lost: {sorted(lost)[:5]}"
        assert len(rows) == len(there), f"{len(rows) - len(there)} rows are there twice"
        assert there == self.produced
        self.check_marks()

    def through(self, relay: PostgresRelay) -> Settings:
        """The settings of a sink whose session with Postgres goes through the relay."""
        url = self.settings.url_of("ingest").replace(f":{self.settings.postgres_port}/", f":{relay.port}/")
        return self.settings.model_copy(update={"ingest_database_url": SecretStr(url)})

    def drain(self) -> None:
        drain(self.settings, [self.topic])


@pytest.fixture(scope="package")
def _topic_names() -> Iterator[int]:
    return iter(range(1, 1000))


@pytest.fixture
def new_log(own: Settings, _topic_names: Iterator[int]) -> Callable[..., Log]:
    """Makes a topic with its contract and raw table."""

    def make(partitions: int = 4, encoding: str = "json") -> Log:
        topic = f"fault-{next(_topic_names)}"
        assert own.contracts_dir is not None
        (own.contracts_dir / f"{topic}.avsc").write_text(json.dumps(contract(topic, partitions, encoding)))
        migrate(own)
        return Log(own, topic)

    return make


@pytest.fixture
def log(new_log: Callable[..., Log]) -> Log:
    return new_log()


def contract(topic: str, partitions: int, encoding: str) -> dict[str, Any]:
    return {
        "type": "record",
        # The registry gives schemas that are equal one id.
        "name": topic.title().replace("-", ""),
        "namespace": "org.scopehouse.tests",
        "doc": "A record that must land once.",
        "topic": topic,
        "domain": "sensors",
        "source": "tests",
        "key": "id",
        "partitions": partitions,
        "encoding": encoding,
        "compatibility": "BACKWARD",
        "retention": None,
        "fields": [
            {"name": "id", "type": "long", "doc": "Counts up.", "personal": False},
            {"name": "note", "type": "string", "doc": "Some text.", "personal": False},
        ],
    }


@pytest.fixture
def relay(own: Settings) -> Iterator[PostgresRelay]:
    one = PostgresRelay(own.postgres_port)
    yield one
    one.close()


class Member:
    """A sink in a thread of the test: a member of the group until it is left."""

    def __init__(self, settings: Settings, *topics: str) -> None:
        self.observer = Heard()
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[settings, topics], daemon=True)
        self._thread.start()

    def _run(self, settings: Settings, topics: tuple[str, ...]) -> None:
        try:
            run(settings, self._stop, topics, observer=self.observer)
        except BaseException as error:
            self.error = error

    def is_going(self) -> bool:
        return self._thread.is_alive()

    def ask_to_leave(self) -> None:
        self._stop.set()

    def leave(self) -> None:
        self.ask_to_leave()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


class Heard(Observer):
    """What a member told of itself."""

    def __init__(self) -> None:
        self.fences: set[tuple[str, int]] = set()
        self.breaks: list[str] = []
        self.stops: dict[tuple[str, int], str] = {}
        self.waits: list[tuple[str, int]] = []

    def stopped(self, partitions: Iterable[tuple[str, int]], why: str) -> None:
        self.stops |= dict.fromkeys(partitions, why)

    def waiting(self, partitions: Iterable[tuple[str, int]], error: BaseException) -> None:
        self.waits += partitions

    def fenced(self, partitions: Iterable[tuple[str, int]]) -> None:
        self.fences.update(partitions)

    def broke(self, error: BaseException) -> None:
        self.breaks.append(repr(error))


@contextmanager
def member(settings: Settings, *topics: str) -> Iterator[Member]:
    one = Member(settings, *topics)
    try:
        yield one
    finally:
        one.leave()


def run_topic(settings: Settings, topic: str, log_file: Path) -> None:
    """What `scopehouse ingest run` does, for a worker."""
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(log_file.open("a", buffering=1)))
    run_until_told(settings, [topic])


@contextmanager
def worker(target: Callable[..., None], *arguments: object) -> Iterator[BaseProcess]:
    """A process of its own; killed at the end, if it still lives."""
    process = WORKERS.Process(target=target, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        process.join()


def as_superuser(settings: Settings, database: str = "scopehouse") -> psycopg.Connection:
    return Postgres(settings).connect("postgres", database)


def end_sessions(settings: Settings) -> int:
    """Terminate the sinks' sessions; how many there were."""
    with as_superuser(settings) as superuser:
        return superuser.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'scopehouse sink'"
        ).rowcount
