"""Debezium's JDBC sink in Kafka Connect, as the bench runs it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import psycopg
from psycopg import sql

from services.embedded.connect import Connect
from services.settings import postgres_environment
from tests.bench.clock import Cost, await_rows, cost_of
from tests.bench.processes import Meter, peak_rss_mb

PASSWORD_VARIABLE = "BENCH_POSTGRES_PASSWORD"
PLUGINS = ("jdbc-sink", "avro-converter")
_CONNECTOR = "bench"
_TABLE = sql.Identifier("bench", "jdbc_sink")
_POLL_SECONDS = 0.1
_SILENCE_SECONDS = 60.0

Mode = Literal["insert", "upsert"]

# What Debezium would make itself (schema.evolution=basic), made before, so that tasks don't race to make it.
_TABLES = {
    "insert": """
        create table bench.jdbc_sink (
            id bigint not null, vehicle_id int not null, measured_at timestamp(3) not null,
            speed_kmh double precision not null, fuel_percent double precision, status text not null
        )
    """,
    "upsert": """
        create table bench.jdbc_sink (
            __connect_topic text not null, __connect_partition int not null, __connect_offset bigint not null,
            id bigint not null, vehicle_id int not null, measured_at timestamp(3) not null,
            speed_kmh double precision not null, fuel_percent double precision, status text not null,
            primary key (__connect_topic, __connect_partition, __connect_offset)
        )
    """,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings that are searched over."""

    tasks: int
    batch_size: int
    unnest: bool

    def __str__(self) -> str:
        return f"tasks {self.tasks}, batch size {self.batch_size}, {'with' if self.unnest else 'without'} unnest"


class JdbcSinkError(Exception):
    """The sink failed, or writes nothing any more."""


def connector_settings(topic: str, mode: Mode, choice: Choice) -> dict[str, str]:
    """The connector's settings, without those that say where servers are."""
    registry = {
        "registry.auto-register": "false",
        "registry.as-confluent": "true",
        "registry.use-id": "contentId",
        "registry.headers.enabled": "false",
        "registry.check-period-ms": "3600000",
    }
    return {
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "topics": topic,
        "tasks.max": str(choice.tasks),
        "insert.mode": mode,
        "primary.key.mode": "none" if mode == "insert" else "kafka",
        "schema.evolution": "none",
        "collection.name.format": "bench.jdbc_sink",
        "batch.size": str(choice.batch_size),
        "dialect.postgres.unnest.insert.enabled": str(choice.unnest).lower(),
        "consumer.override.max.poll.records": str(choice.batch_size),
        "consumer.override.max.partition.fetch.bytes": str(4 * 1024 * 1024),
        "consumer.override.fetch.min.bytes": str(64 * 1024),
        "consumer.override.auto.offset.reset": "earliest",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "io.apicurio.registry.utils.converter.AvroConverter",
        **{f"value.converter.apicurio.{name}": value for name, value in registry.items()},
    }


def run(connect: Connect, pids: Mapping[str, int], topic: str, count: int, mode: Mode, choice: Choice) -> Cost:
    """Load a topic of `count` records into a new table, and drop it again. `pids` are metered, Connect's among them.

    Raises:
        JdbcSinkError: it failed.
    """
    postgres = postgres_environment(connect.settings.url_of("migrate"))
    config = {
        **connector_settings(topic, mode, choice),
        "connection.url": f"jdbc:postgresql://{postgres['PGHOST']}:{postgres['PGPORT']}/{postgres['PGDATABASE']}"
        "?reWriteBatchedInserts=true",
        "connection.username": postgres["PGUSER"],
        "connection.password": f"${{env:{PASSWORD_VARIABLE}}}",
        "value.converter.apicurio.registry.url": f"http://127.0.0.1:{connect.settings.registry_port}/apis/registry/v2",
        # Each run reads the topic from its beginning.
        "consumer.override.group.id": f"bench-{time.monotonic_ns()}",
    }
    with psycopg.connect(connect.settings.url_of("migrate"), autocommit=True) as connection:
        connection.execute(_TABLES[mode])
        try:
            with Meter(pids) as meter:
                connect.ask("PUT", f"/connectors/{_CONNECTOR}/config", config)
                await_rows(connection, _TABLE, count, lambda since: _raise_if_failed(connect, since))
            return cost_of(connection, _TABLE, meter, peak_rss_mb(pids["connect"]))
        finally:
            connect.ask("DELETE", f"/connectors/{_CONNECTOR}")
            _await_end(connect)
            connection.execute("drop table bench.jdbc_sink")


def _raise_if_failed(connect: Connect, since: float) -> None:
    states, trace = connect.state_of(_CONNECTOR)
    if "FAILED" in states:
        # The innermost cause says what it was.
        raise JdbcSinkError(trace.rpartition("Caused by: ")[2].splitlines()[0])
    if time.monotonic() - since > _SILENCE_SECONDS:
        raise JdbcSinkError(f"nothing was written for {_SILENCE_SECONDS:.0f} s")


def _await_end(connect: Connect) -> None:
    while connect.state_of(_CONNECTOR)[0]:
        time.sleep(_POLL_SECONDS)
