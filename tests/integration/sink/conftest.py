"""What the sink's tests share: raw records into real topics, and a look at what landed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import fastavro
import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient

from ingest.contracts.contract import load_contracts
from services.settings import Settings, postgres_environment
from tests.integration.bike_models import land_bike_models
from tests.integration.dbt_project.warehouse import PROJECT, TRIPS, Dbt

TRACKING = load_contracts()["tracking_events"]


class Topics:
    """Sends bytes as they are, and valid tracking events."""

    def __init__(self, settings: Settings) -> None:
        self._producer = Producer({"bootstrap.servers": settings.bootstrap_servers, "linger.ms": 5})
        registry = SchemaRegistryClient({"url": settings.registry_url})
        self.schema_id = registry.get_latest_version(TRACKING.subject).schema_id
        self._schema = fastavro.parse_schema(TRACKING.schema)
        self.sent: list[tuple[str, int, int]] = []

    def send(self, topic: str, value: bytes | None, key: bytes | None = b"k", **more: Any) -> None:
        self._producer.produce(topic, value, key, on_delivery=self._delivered, **more)
        self._producer.poll(0)

    def send_event(self, event_id: int, journey_km: float = 1.0, **more: Any) -> None:
        self.send("tracking_events", self.event(event_id, journey_km), str(event_id).encode(), **more)

    def send_events(self, first: int, count: int) -> None:
        """Send so many events, ids from `first` on, and wait until they are there."""
        for event_id in range(first, first + count):
            self.send_event(event_id)
        self.flush()

    def event(self, event_id: int, journey_km: float = 1.0) -> bytes:
        measurement = {"vehicle_id": 1, "product_id": 5, "journey_km": journey_km, "total_km": 2.5}
        record = {"id": event_id, "customer_id": 7, "date_time": 1_700_000_000, "measurement_list": [measurement]}
        body = io.BytesIO()
        fastavro.schemaless_writer(body, self._schema, record)
        return b"\x00" + self.schema_id.to_bytes(4, "big") + body.getvalue()

    def flush(self) -> None:
        assert self._producer.flush(30) == 0

    def _delivered(self, error: Any, message: Any) -> None:
        assert error is None, error
        self.sent.append((message.topic(), message.partition(), message.offset()))


@pytest.fixture
def topics(stack: Settings) -> Topics:
    return Topics(stack)


@pytest.fixture
def warehouse(stack: Settings) -> Iterator[psycopg.Connection]:
    """A session that may read raw and ingest."""
    with psycopg.connect(stack.url_of("transform"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def build_facts(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], None]:
    """`dbt build` of the fact of trips and what is before it, with the bike models landed."""
    land_bike_models(stack)
    dbt = Dbt(PROJECT, tmp_path_factory.mktemp("dbt"))

    def build() -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in postgres_environment(stack.url_of("transform")).items():
                patch.setenv(name, value)
            dbt.manifest = dbt.manifest or dbt.attempt("parse").result
            # Without the tests that compare it with models that are not made here.
            chosen = ("--select", f"+{TRIPS}", "--exclude", "resource_type:unit_test")
            dbt("build", *chosen, "--indirect-selection", "cautious")

    return build


@pytest.fixture(scope="session")
def new_ids() -> Iterator[Iterator[int]]:
    """Where a test takes a range of event ids from that no other test has: `next(new_ids)` is its first of 10**7."""
    return iter(range(10**15, 10**17, 10**7))
