"""One Kafka Connect for all of these tests, on servers of their own: the tests kill them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from dotenv import dotenv_values

from ingest.capture.connectors import Connectors
from ingest.capture.slots import SlotStatus, slot_status
from ingest.sink.drain import drain
from ingest.sources.bike_factors import CONNECTOR, await_capture, await_captured
from scopehouse.migration import migrate
from services.embedded import stack as embedded
from services.settings import Settings
from tests.integration.conftest import CONNECTIONS, embedded_environment

TOPIC = "adventure.public.bike_emissions"
# A change as both sides tell it: operation, model, price, scope 1.
Told = tuple[str, int, float, float]


@dataclass(slots=True)
class Company:
    """The company's database, written to by its own login, and what raw has of it."""

    settings: Settings
    _next_model: int = 1000

    @property
    def connectors(self) -> Connectors:
        return Connectors(self.settings)

    @property
    def slot(self) -> SlotStatus:
        return slot_status(self.settings, CONNECTOR)

    @property
    def state(self) -> tuple[str, ...]:
        """Connect's words for the connector and its tasks."""
        state = self.connectors.state(CONNECTOR)
        return () if state is None else state.states

    @property
    def has_failed(self) -> bool:
        state = self.connectors.state(CONNECTOR)
        return state is not None and state.has_failed

    def session(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.settings.source_url("adventure"), autocommit=True)

    def change(self, models: int = 20) -> list[Told]:
        """Add, change and delete so many new models; what raw must come to tell of it."""
        told: list[Told] = []
        with self.session() as connection:
            for model in range(self._next_model, self._next_model + models):
                price = model + 0.25
                connection.execute(
                    "insert into bike_emissions (product_category_id, name, avg_cost, co2e_km_scope1, co2e_km_scope2,"
                    " modified_at) values (%s, 'A bike', %s, 1, 2, now())",
                    [model, price],
                )
                connection.execute(
                    "update bike_emissions set co2e_km_scope1 = 3 where product_category_id = %s", [model]
                )
                connection.execute("delete from bike_emissions where product_category_id = %s", [model])
                told += [("c", model, price, 1.0), ("u", model, price, 3.0), ("d", model, price, 3.0)]
        self._next_model += models
        return told

    def has_open_transaction(self) -> bool:
        """Whether the topic ends with records of a transaction that is neither committed nor given up."""
        admin = AdminClient({"bootstrap.servers": self.settings.bootstrap_servers})
        end = {TopicPartition(TOPIC, 0): OffsetSpec.latest()}
        written, committed = (
            next(iter(admin.list_offsets(end, isolation_level=level).values())).result().offset
            for level in (IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED)
        )
        return written > committed

    def await_captured(self) -> None:
        """Until all that is committed now is in Kafka."""
        with self.session() as connection:
            row = connection.execute("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetchone()
        assert row is not None
        await_captured(self.settings, row[0], 120)

    def landed(self, told: list[Told]) -> list[Told]:
        """What raw tells of the models of `told`, once everything has landed, in the order of the log."""
        drain(self.settings, [TOPIC])
        with psycopg.connect(self.settings.url_of("transform")) as connection:
            return connection.execute(
                "select _op, product_category_id, avg_cost, co2e_km_scope1 from raw.adventure_public_bike_emissions"
                " where product_category_id = any(%s) order by _kafka_offset",
                [[model for _, model, _, _ in told]],
            ).fetchall()

    def dead_letters(self) -> list[str]:
        """The kinds of what could not land."""
        with psycopg.connect(self.settings.url_of("ingest")) as connection:
            rows = connection.execute("select error_class from ingest.dead_letters where topic = %s", [TOPIC])
            return [kind for (kind,) in rows]


def await_that(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Until it holds; fails with `what` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """Servers with Kafka Connect, migrated; the company's database is followed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CONNECTIONS:
            patch.delenv(name, raising=False)
        variables = embedded_environment(tmp_path_factory.mktemp("capture"))
        before = Settings(**variables)
        try:
            embedded.up(before, more=("connect",))
            own = Settings(**variables, **dotenv_values(before.connections_file))
            migrate(own)
            await_capture(own)
            yield Company(own)
        finally:
            # Its data is thrown away: its leave-taking is not waited for.
            embedded.kill(before, "connect")
            embedded.down(before)


@pytest.fixture
def company(captured: Company) -> Company:
    """The company, its changes followed."""
    await_capture(captured.settings)
    return captured
