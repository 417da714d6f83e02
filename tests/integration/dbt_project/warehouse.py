"""A database of the dbt tests' own, and dbt run in this process against it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest

from services.settings import PROJECT_ROOT

PROJECT = PROJECT_ROOT / "dbt_project"
CONTENTS = "int_mobility__event_contents"
TRIPS = "fct_trip_emissions"
TOPIC = "tracking_events"


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
        return dbtRunner(manifest=None if variables else self.manifest).invoke(arguments)

    def run(self, *models: str, full_refresh: bool = False) -> dict[str, str]:
        """`dbt run` of just these models, in order of dependence."""
        return self("run", *(["--full-refresh"] if full_refresh else []), "--threads", "1", "--select", *models)


@dataclass
class Warehouse:
    """The database: `transform` is the role that dbt uses, `owner` owns raw and ingest."""

    owner: psycopg.Connection
    transform: psycopg.Connection
    dbt: Dbt

    def empty(self) -> None:
        """Forget every event, mark and mobility model."""
        self.owner.execute(
            "truncate raw.tracking_events, ingest.offsets, ingest.model_offsets, ingest.model_references"
        )
        self.transform.execute(f"truncate intermediate.{CONTENTS}, mobility.{TRIPS}")

    def append(self, rows: Iterable[tuple[int, int, int, int, Sequence[Mapping[str, Any]]]]) -> None:
        """Land events (event, partition, offset, time in Unix seconds, measurements) and move raw's offsets."""
        with self.owner.transaction(), self.owner.cursor() as cursor:
            cursor.executemany(
                "insert into raw.tracking_events (id, customer_id, date_time, measurement_list, _kafka_partition,"
                " _kafka_offset, _schema_id) values (%s, 7, to_timestamp(%s), %s, %s, %s, 1)",
                [
                    (event, at, json.dumps(measurements), partition, offset)
                    for event, partition, offset, at, measurements in rows
                ],
            )
            self.move_offsets()

    def move_offsets(self) -> None:
        """Say that raw holds what it holds."""
        self.owner.execute(
            "insert into ingest.offsets (topic, partition, topic_id, next_offset)"
            " select 'tracking_events', _kafka_partition, 'topic', max(_kafka_offset) + 1"
            " from raw.tracking_events group by 2"
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
