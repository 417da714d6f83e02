"""`make bench-mobility`: e-bike trips through sink and dbt, and what 1,000 new ones cost when the fact is big.

Starts servers in a state folder of its own and removes it at the end. The last line of standard output is one JSON
object; the section on mobility of docs/benchmarks.md is written anew, except by a quick run, which only shows that the
bench works.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from dbt.contracts.graph.manifest import Manifest
from pydantic import SecretStr

from dagster_pipelines.dbt_invocation import invoke_dbt
from ingest.database.migrate import migrate
from ingest.sources.tracking_events import TOPIC, produce_tracking_events
from services.embedded import stack
from services.embedded.postgres import Postgres
from services.settings import PROJECT_ROOT, Settings, postgres_environment, read_settings
from tests.bench import page
from tests.integration.conftest import CONNECTIONS, embedded_environment

BENCH = "bench-mobility"
PROJECT = PROJECT_ROOT / "dbt_project"
FACT = "fct_trip_emissions"
# What the fact shows is stored here, beside what was rejected.
STORED = "int_mobility__measurements"
FLEET_BIKES = 10_000
PARTITIONS = 4
NEW_EVENTS = 1_000
# As many runs as it takes until every bike has ridden once since the checkpoint.
ROUND_OF_THE_FLEET = FLEET_BIKES // NEW_EVENTS
# A changed version of a model holds from so many events before the last; a third of the bikes are of that model.
REOPENED_EVENTS = 3_000
FACTORS = "adventure.public.bike_emissions"
MODELS = ((5, "Mountain E-Bike", 1912.15, -0.016), (6, "Road E-Bike", 2171.29, -0.021), (7, "Touring", 1481.94, -0.011))


@dataclass(frozen=True, slots=True)
class Size:
    """How much a run does."""

    throughput_events: int
    small_rows: int
    big_rows: int
    repeats: int


FULL = Size(throughput_events=1_000_000, small_rows=100_000, big_rows=10_000_000, repeats=7)
QUICK = Size(throughput_events=20_000, small_rows=20_000, big_rows=100_000, repeats=3)


@dataclass(frozen=True, slots=True)
class Run:
    """What a dbt run took: by model, seconds of SQL as dbt's adapter counts them, and what its last statement said."""

    seconds: float
    sql_seconds: dict[str, float]
    messages: dict[str, str]

    @property
    def all_sql_seconds(self) -> float:
        """Of all models together."""
        return sum(self.sql_seconds.values())

    @property
    def fact_rows(self) -> int:
        """Rows that were written for the fact."""
        return int(self.messages[STORED].split()[-1])


@dataclass
class Warehouse:
    """A database with raw, filled by SQL, and dbt in this process with its manifest kept."""

    settings: Settings
    target: Path
    events: int = 0
    manifest: Manifest | None = None
    _sql_seconds: dict[str, float] = field(default_factory=dict)

    def land(self, count: int) -> None:
        """Land events of one measurement each, one a second, as the sink would leave them."""
        with self.connect() as connection:
            connection.execute(
                """
                insert into raw.tracking_events (
                    id, customer_id, date_time, measurement_list, _kafka_partition, _kafka_offset, _kafka_timestamp,
                    _schema_id
                )
                select
                    n, n %% 20000, timestamptz '2025-10-01 00:00:00+00' + n * interval '1 second',
                    jsonb_build_array(jsonb_build_object(
                        'vehicle_id', n %% %(bikes)s, 'product_id', 5 + n %% %(bikes)s %% 3, 'journey_km', 5.0,
                        'total_km', (n / %(bikes)s + 1) * 5.0
                    )),
                    n %% %(partitions)s, n / %(partitions)s,
                    timestamptz '2025-10-01 00:00:00+00' + n * interval '1 second', 1
                from generate_series(%(first)s::bigint, %(last)s::bigint) as n
                """,
                {
                    "first": self.events,
                    "last": self.events + count - 1,
                    "bikes": FLEET_BIKES,
                    "partitions": PARTITIONS,
                },
            )
            self.events += count
            for partition in range(PARTITIONS):
                upper = (self.events - partition + PARTITIONS - 1) // PARTITIONS
                _move_offset(connection, TOPIC, partition, upper)

    def change(self, model: int, scope2: float, before_last: int | None) -> None:
        """Land a version of a bike model: its first, or one valid from so many events before the last."""
        with self.connect() as connection:
            _, name, price, _ = next(each for each in MODELS if each[0] == model)
            (offset,) = _row(connection.execute("select count(*) from raw.adventure_public_bike_emissions"))
            connection.execute(
                """
                insert into raw.adventure_public_bike_emissions (
                    product_category_id, name, avg_cost, co2e_km_scope1, co2e_km_scope2, modified_at, _op, _source_lsn,
                    _source_at, _kafka_partition, _kafka_offset, _kafka_timestamp, _schema_id
                )
                select %s, %s, %s, 0.005, %s, at, %s, %s, at, 0, %s, at, 1
                from (select timestamptz '2025-10-01 00:00:00+00' + %s * interval '1 second' as at) as moment
                """,
                [
                    *(model, name, price, scope2),
                    "r" if before_last is None else "u",
                    1000 + offset,
                    offset,
                    -86_400 if before_last is None else self.events - before_last,
                ],
            )
            _move_offset(connection, FACTORS, 0, offset + 1)

    def connect(self) -> psycopg.Connection:
        """As the owner of raw; commits at the end of the block."""
        return psycopg.connect(self.settings.url_of("migrate"))

    def settle(self) -> None:
        """Leave nothing for autovacuum to do during a measurement."""
        with psycopg.connect(self.settings.url_of("migrate"), autocommit=True) as connection:
            connection.execute("vacuum (analyze) raw.tracking_events")
        with psycopg.connect(self.settings.url_of("transform"), autocommit=True) as connection:
            connection.execute("vacuum (analyze)")

    def dbt(self, *words: str) -> Run:
        """Run dbt; raises RuntimeError when anything fails."""
        os.environ.update(postgres_environment(self.settings.url_of("transform")))
        spent: dict[str, float] = defaultdict(float)

        def listen(event: Any) -> None:
            if event.info.name == "SQLQueryStatus":
                spent[event.data.node_info.node_name] += event.data.elapsed

        arguments = [
            *("--log-level", "none", "--log-level-file", "none", "--no-send-anonymous-usage-stats"),
            *("--no-write-json", "--no-populate-cache", *words),
            *("--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--target-path", str(self.target)),
        ]
        began = time.monotonic()
        outcome = invoke_dbt(arguments, self.manifest, [listen])
        seconds = time.monotonic() - began
        if words[0] == "parse":
            self.manifest = outcome.result
            return Run(seconds, {}, {})
        if not outcome.success:
            said = [f"{each.node.name}: {each.message}" for each in outcome.result or () if each.status == "error"]
            raise RuntimeError(f"dbt {words[0]} failed: {said or outcome.exception}")
        models = [each for each in outcome.result if each.node.resource_type == "model"]
        messages = {each.node.name: str(each.message) for each in models}
        return Run(seconds, {name: spent[name] for name in messages}, messages)

    def run_incremental(self, *words: str) -> Run:
        """The fact and what it reads by offset, one model after the other."""
        return self.dbt("run", "--threads", "1", "--select", f"+{FACT},config.materialized:incremental", *words)

    def run_over_new_events(self) -> Run:
        """Land new events and build them. Raises RuntimeError where that wrote more or fewer rows than they are."""
        self.land(NEW_EVENTS)
        run = self.run_incremental()
        if run.fact_rows != NEW_EVENTS:
            raise RuntimeError(f"{NEW_EVENTS} new events wrote {run.fact_rows} rows: {run.messages}")
        _say(f"{self.events:,}: {run.all_sql_seconds:.3f} s of SQL, {run.seconds:.2f} s in all")
        return run

    @contextmanager
    def indexes_put_off(self, table: str) -> Iterator[None]:
        """Fill a table without its indexes and make them at the end: the same, and much sooner there."""
        with psycopg.connect(self.settings.url_of("transform"), autocommit=True) as connection:
            found = connection.execute(
                "select index.indexrelid::regclass::text, pg_get_indexdef(index.indexrelid), owner.conname,"
                " pg_get_constraintdef(owner.oid) from pg_index as index left join pg_constraint as owner"
                " on owner.conindid = index.indexrelid and owner.contype = 'p' where index.indrelid = %s::regclass",
                [table],
            ).fetchall()
            for name, _, constraint, _ in found:
                drop = f"alter table {table} drop constraint {constraint}" if constraint else f"drop index {name}"
                connection.execute(drop)
            yield
            for _, index, constraint, key in found:
                connection.execute(f"alter table {table} add constraint {constraint} {key}" if constraint else index)


@dataclass(frozen=True, slots=True)
class Results:
    """Throughput; runs over new events and over one changed version, by the fact's size in rows."""

    size: Size
    sink_seconds: float
    first_build: Run
    trips: int
    after_checkpoint: dict[int, list[Run]]
    incremental: dict[int, list[Run]]
    reopening: Run
    reopened_rows: int

    def median_sql_seconds(self, rows: int) -> float:
        """Of the runs over new events."""
        return statistics.median(run.all_sql_seconds for run in self.incremental[rows])

    def checkpoint_sql_seconds(self, rows: int) -> float:
        """The same, of the runs right after the checkpoint."""
        return statistics.median(run.all_sql_seconds for run in self.after_checkpoint[rows])

    @property
    def checkpoint_ratio(self) -> float:
        """What the big fact cost against the small one, right after the checkpoint."""
        return self.checkpoint_sql_seconds(self.size.big_rows) / self.checkpoint_sql_seconds(self.size.small_rows)

    def summary(self) -> dict[str, object]:
        """What the last line of the output says."""
        small, big = (self.median_sql_seconds(rows) for rows in (self.size.small_rows, self.size.big_rows))
        return {
            "events_per_s": round(self.size.throughput_events / (self.sink_seconds + self.first_build.seconds)),
            "incremental_cost_ratio_100x": round(big / small, 3),
            "incremental_cost_ratio_100x_after_checkpoint": round(self.checkpoint_ratio, 3),
            "incremental_sql_seconds": {
                str(self.size.small_rows): round(small, 3),
                str(self.size.big_rows): round(big, 3),
            },
            "reopened_rows": self.reopened_rows,
            "reopening_sql_seconds": round(self.reopening.all_sql_seconds, 3),
        }


def main() -> None:
    """Run the bench."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="few rows; writes no page")
    arguments.add_argument("--rows", type=int, default=FULL.big_rows, help="of the big fact; the small has a hundredth")
    arguments.add_argument("--events", type=int, default=FULL.throughput_events, help="through sink and dbt")
    given = arguments.parse_args()
    quick: bool = given.quick
    asked = replace(FULL, big_rows=given.rows, small_rows=given.rows // 100, throughput_events=given.events)
    size = QUICK if quick else asked
    with tempfile.TemporaryDirectory(prefix="scopehouse-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres may run as another user
        with _servers(Path(folder)) as settings:
            results = _measure(settings, Path(folder), size)
    text = page.section(BENCH, _lines(results))
    sys.stdout.write(text)
    if not quick:
        page.write_section(BENCH, text)
    sys.stdout.write(json.dumps(results.summary()) + "\n")


@contextmanager
def _servers(folder: Path) -> Iterator[Settings]:
    for name in CONNECTIONS:
        os.environ.pop(name, None)
    os.environ.update(embedded_environment(folder / "state"))
    stack.up(read_settings())
    try:
        settings = read_settings()
        migrate(settings)
        yield settings
    finally:
        stack.down(read_settings())


def _measure(settings: Settings, folder: Path, size: Size) -> Results:
    sink_seconds, first_build, trips = _throughput(Warehouse(settings, folder / "target"), size.throughput_events)
    warehouses = {
        rows: _warehouse(settings, folder, f"bench_{name}")
        for name, rows in (("small", size.small_rows), ("big", size.big_rows))
    }
    with _set(settings, work_mem="256MB", maintenance_work_mem="1GB", autovacuum="off"):
        for rows, warehouse in warehouses.items():
            _fill(warehouse, rows)
    with Postgres(settings).connect("postgres") as connection:
        connection.execute("checkpoint")
    # In turns, so that a busy neighbour is everybody's. The first run after a rebuild plans and caches.
    for warehouse in warehouses.values():
        warehouse.run_over_new_events()
    after_checkpoint: dict[int, list[Run]] = {rows: [] for rows in warehouses}
    incremental: dict[int, list[Run]] = {rows: [] for rows in warehouses}
    for runs, count in ((after_checkpoint, ROUND_OF_THE_FLEET - 1), (incremental, size.repeats)):
        for _ in range(count):
            for rows, warehouse in warehouses.items():
                runs[rows].append(warehouse.run_over_new_events())
    reopening, reopened_rows = _reopen(warehouses[size.big_rows])
    return Results(size, sink_seconds, first_build, trips, after_checkpoint, incremental, reopening, reopened_rows)


@contextmanager
def _set(settings: Settings, **values: str) -> Iterator[None]:
    """Other settings of the server for sessions that begin in this block."""
    with Postgres(settings).connect("postgres") as connection:
        connection.autocommit = True
        for name, value in values.items():
            connection.execute(f"alter system set {name} = '{value}'")
        connection.execute("select pg_reload_conf()")
        yield
        for name in values:
            connection.execute(f"alter system reset {name}")
        connection.execute("select pg_reload_conf()")


def _warehouse(settings: Settings, folder: Path, database: str) -> Warehouse:
    """A migrated database of its own."""
    with Postgres(settings).connect("postgres") as connection:
        connection.autocommit = True
        connection.execute(f"create database {database} owner scopehouse_migrate")

    def here(url: str) -> SecretStr:
        return SecretStr(urlsplit(url)._replace(path=f"/{database}").geturl())

    own = settings.model_copy(
        update={
            "database_url": here(settings.url_of("transform")),
            "migrate_database_url": here(settings.url_of("migrate")),
            "ingest_database_url": here(settings.url_of("ingest")),
            "bi_database_url": here(settings.url_of("bi")),
        }
    )
    migrate(own)
    return Warehouse(own, folder / f"target_{database}")


def _fill(warehouse: Warehouse, rows: int) -> None:
    """Land events, and let dbt build the fact and what it reads from them."""
    for model, _, _, scope2 in MODELS:
        warehouse.change(model, scope2, None)
    warehouse.dbt("parse")
    warehouse.dbt("seed")
    warehouse.dbt("run", "--threads", "1", "--select", f"+{FACT}")
    warehouse.land(rows)
    _say(f"{rows:,} rows in raw")
    with warehouse.indexes_put_off(f"intermediate.{STORED}"):
        warehouse.run_incremental("--full-refresh")
        _say(f"{rows:,} rows in the fact")
    warehouse.settle()
    _say("with indexes, vacuumed")


def _reopen(warehouse: Warehouse) -> tuple[Run, int]:
    """Land one changed version; returns the run and how many rows of the fact it wrote: just those it is about."""
    warehouse.change(6, -0.030, REOPENED_EVENTS)
    run = warehouse.run_incremental()
    with psycopg.connect(warehouse.settings.url_of("transform")) as connection:
        (touched,) = _row(
            connection.execute(
                f"select count(*) from mobility.{FACT} where bike_model_id = 6 and event_at >= ("
                "select valid_from from mobility.dim_bike_model where bike_model_id = 6 and is_current)"
            )
        )
        (new,) = _row(
            connection.execute(
                f"select count(*) from mobility.{FACT} where bike_model_key = ("
                "select bike_model_key from mobility.dim_bike_model where bike_model_id = 6 and is_current)"
            )
        )
    if not 0 < touched == new == run.fact_rows:
        raise RuntimeError(f"{touched} trips are of the new version, {new} have it, {run.fact_rows} were written.")
    _say(f"one changed version: {touched} rows, {run.all_sql_seconds:.3f} s of SQL")
    return run, touched


def _throughput(warehouse: Warehouse, events: int) -> tuple[float, Run, int]:
    """Seconds of the sink, dbt's run of every model, and the trips, for events that lie in Kafka."""
    for model, _, _, scope2 in MODELS:
        warehouse.change(model, scope2, None)
    warehouse.dbt("parse")
    warehouse.dbt("seed")
    produced = produce_tracking_events(warehouse.settings, events=events)
    command = [sys.executable, "-m", "tests.bench.drain_once", TOPIC]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PROJECT_ROOT)
    sink_seconds = float(json.loads(ended.stdout)["seconds"])
    run = warehouse.dbt("run", "--exclude", "tag:ml")
    if run.fact_rows != produced.measurements:
        raise RuntimeError(f"{produced.measurements} measurements were sent, the fact has {run.fact_rows}.")
    _say(f"{events:,} events: sink {sink_seconds:.1f} s, dbt {run.seconds:.1f} s")
    return sink_seconds, run, produced.measurements


def _move_offset(connection: psycopg.Connection, topic: str, partition: int, next_offset: int) -> None:
    connection.execute(
        "insert into ingest.offsets (topic, partition, topic_id, next_offset) values (%s, %s, 'bench', %s)"
        " on conflict (topic, partition) do update set next_offset = excluded.next_offset",
        [topic, partition, next_offset],
    )


def _row(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return tuple(row)


def _lines(results: Results) -> list[str]:
    size, summary = results.size, results.summary()
    command = "make bench-mobility"
    if size != FULL:
        command = f"python -m tests.bench.mobility --rows {size.big_rows} --events {size.throughput_events}"
    lines = [
        f"{page.machine()}. Command: `{command}`. Everything runs on the same machine.",
        "",
        f"**{size.throughput_events:,} events ({results.trips:,} trips) from Kafka into every mart**: the sink "
        f"{results.sink_seconds:.1f} s, one `dbt run` of all models {results.first_build.seconds:.1f} s, "
        f"{summary['events_per_s']:,} events a second.",
        "",
        f"**A run over {NEW_EVENTS:,} new events**, median of {size.repeats} (seconds of SQL):",
        "",
        "| rows in the fact | all models | " + " | ".join(results.incremental[size.big_rows][0].sql_seconds) + " |",
        "|---|---|" + "---|" * len(results.incremental[size.big_rows][0].sql_seconds),
    ]
    for rows, runs in results.incremental.items():
        cells = [f"{statistics.median(run.sql_seconds[model] for run in runs):.3f}" for model in runs[0].sql_seconds]
        lines.append(f"| {rows:,} | {results.median_sql_seconds(rows):.3f} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"{size.big_rows // size.small_rows} times the rows cost {summary['incremental_cost_ratio_100x']} times "
        "as much (wanted: at most 1.3). In the first round after a checkpoint it is "
        f"{results.checkpoint_sql_seconds(size.big_rows):.3f} s against "
        f"{results.checkpoint_sql_seconds(size.small_rows):.3f} s, {results.checkpoint_ratio:.2f} times as much.",
        "",
        f"**One changed version of a bike model**, valid for {results.reopened_rows:,} trips of the "
        f"{size.big_rows:,}: just those {results.reopened_rows:,} rows are written anew, in "
        f"{results.reopening.all_sql_seconds:.3f} s of SQL.",
    ]


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


if __name__ == "__main__":
    main()
