"""A database of the dbt tests' own, and dbt run in this process against it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from dbt.artifacts.schemas.results import ExecutionResult
from dbt.contracts.graph.manifest import Manifest

from dagster_pipelines.dbt_invocation import invoke_dbt
from services.settings import PROJECT_ROOT

PROJECT = PROJECT_ROOT / "dbt_project"
CONTENTS = "int_mobility__event_contents"
BIKE_MODELS = "dim_bike_model"
MEASUREMENTS = "int_mobility__measurements"
TRIPS = "fct_trip_emissions"
TOPIC = "tracking_events"
CHANGES_TOPIC = "adventure.public.bike_emissions"


@dataclass
class Dbt:
    """dbt with one manifest for many calls: half a second each."""

    project: Path
    target: Path
    manifest: Manifest | None = None

    def __call__(self, command: str, *words: str, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        """Run a command; returns each node's name and message. Raises AssertionError with dbt's words."""
        outcome = self.attempt(command, *words, variables=variables)
        assert outcome.exception is None, outcome.exception
        failed = [f"{r.node.name}: {r.message}" for r in outcome.result if r.status in ("error", "fail", "skipped")]
        assert not failed, failed
        return {r.node.name: r.message for r in outcome.result}

    def attempt(self, command: str, *words: str, variables: Mapping[str, str] | None = None) -> Any:
        """Run a command that may fail."""
        arguments = [
            *("--log-level", "none", "--log-level-file", "none", "--no-send-anonymous-usage-stats"),
            # The artefacts are nobody's here, and our materialisations ask the catalogue: a third of the time.
            *("--no-write-json", "--no-populate-cache"),
            command,
            *words,
            *(("--vars", json.dumps(variables)) if variables else ()),
            *("--project-dir", str(self.project), "--profiles-dir", str(self.project)),
            *("--target-path", str(self.target)),
        ]
        outcome = invoke_dbt(arguments, None if variables else self.manifest)
        if isinstance(outcome.result, ExecutionResult):  # the project's own hook at the end of a run is no node of it
            outcome.result.results = [each for each in outcome.result if each.node.resource_type != "operation"]
        return outcome

    def run(self, *models: str, full_refresh: bool = False) -> dict[str, str]:
        """`dbt run` of just these models, in order of dependence."""
        return self("run", *(["--full-refresh"] if full_refresh else []), "--threads", "1", "--select", *models)


@dataclass(frozen=True)
class BikeChange:
    """A change of the company's table of bike models, as Debezium tells it. Times in Unix seconds."""

    model: int
    operation: str
    modified_at: float
    committed_at: float
    lsn: int
    price_usd: float = 1912.15
    scope1: float = 0.005
    scope2: float = -0.016


# What a first snapshot shows: the bike models that the earlier system had.
FIRST_SNAPSHOT = [
    BikeChange(5, "r", 1_600_000_000, 1_650_000_000, 10, 1912.15, 0.005, -0.016),
    BikeChange(6, "r", 1_600_000_000, 1_650_000_000, 10, 2171.29, 0.005, -0.021),
    BikeChange(7, "r", 1_600_000_000, 1_650_000_000, 10, 1481.94, 0.005, -0.011),
]


@dataclass
class Warehouse:
    """The database: `transform` is the role that dbt uses, `owner` owns raw and ingest."""

    owner: psycopg.Connection
    transform: psycopg.Connection
    dbt: Dbt

    def empty(self) -> None:
        """Forget every event, change, mark and mobility model."""
        self.owner.execute(
            "truncate raw.tracking_events, raw.adventure_public_bike_emissions, ingest.offsets,"
            " ingest.model_offsets, ingest.model_references, ingest.model_histories"
        )
        self.transform.execute(f"truncate intermediate.{CONTENTS}, intermediate.{MEASUREMENTS}, mobility.{BIKE_MODELS}")

    def append(
        self, rows: Iterable[tuple[int, int, int, int, Sequence[Mapping[str, Any]]]], sent_at: int | None = None
    ) -> None:
        """Land events (event, partition, offset, time in Unix seconds, measurements) and move raw's offsets."""
        with self.owner.transaction(), self.owner.cursor() as cursor:
            cursor.executemany(
                "insert into raw.tracking_events (id, customer_id, date_time, measurement_list, _kafka_partition,"
                " _kafka_offset, _schema_id, _kafka_timestamp)"
                " values (%s, 7, to_timestamp(%s), %s, %s, %s, 1, to_timestamp(%s))",
                [
                    (event, at, json.dumps(measurements), partition, offset, sent_at)
                    for event, partition, offset, at, measurements in rows
                ],
            )
            self.move_offsets()

    def append_changes(self, changes: Iterable[BikeChange], partition: int = 0) -> None:
        """Land changes of bike models after those that are there, and move raw's offsets."""
        with self.owner.transaction(), self.owner.cursor() as cursor:
            cursor.executemany(
                "insert into raw.adventure_public_bike_emissions (product_category_id, name, avg_cost, co2e_km_scope1,"
                " co2e_km_scope2, modified_at, _op, _source_lsn, _source_at, _kafka_partition, _kafka_offset)"
                " values (%(model)s, 'Bike ' || %(model)s, %(price_usd)s, %(scope1)s, %(scope2)s,"
                " to_timestamp(%(modified_at)s), %(operation)s, %(lsn)s, to_timestamp(%(committed_at)s), %(partition)s,"
                " (select count(*) from raw.adventure_public_bike_emissions where _kafka_partition = %(partition)s))",
                [asdict(change) | {"partition": partition} for change in changes],
            )
            self.move_offsets()

    def move_offsets(self) -> None:
        """Say that raw holds what it holds."""
        self.owner.execute(
            "insert into ingest.offsets (topic, partition, topic_id, next_offset)"
            " select topic, _kafka_partition, 'topic', max(_kafka_offset) + 1 from ("
            f" select '{TOPIC}' as topic, _kafka_partition, _kafka_offset from raw.tracking_events union all"
            f" select '{CHANGES_TOPIC}', _kafka_partition, _kafka_offset from raw.adventure_public_bike_emissions"
            " ) as landed group by 1, 2"
            " on conflict (topic, partition) do update set next_offset = excluded.next_offset"
        )

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What a query returns to the role of dbt."""
        return self.transform.execute(sql, parameters).fetchall()

    def value(self, sql: str, *parameters: Any) -> Any:
        """The one value that a query returns."""
        ((value,),) = self.rows(sql, *parameters)
        return value


def measurement(vehicle: int = 1, model: int = 5, journey: float = 8.0, total: float = 64.0) -> dict[str, Any]:
    """One journey, as the contract has it."""
    return {"vehicle_id": vehicle, "product_id": model, "journey_km": journey, "total_km": total}
