"""The demo: the whole path on real servers, and a summary whose numbers are checked against the senders' own."""

from __future__ import annotations

import fcntl
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from dotenv import dotenv_values

from ingest.progress import Progress
from services.embedded.progress import Report
from services.errors import MendableError
from services.settings import Settings, read_settings, settings

if TYPE_CHECKING:
    from dagster_pipelines.run import JobRun
    from ingest.sources.bike_factors import BikeFactorsProduced
    from ingest.sources.country_emissions import CountryEmissionsProduced
    from ingest.sources.tracking_events import TrackingEventsProduced

RELATIVE_TOLERANCE = 1e-6

SAMPLE_NOTICE = (
    "THE COUNTRIES ARE A SYNTHETIC SAMPLE, NOT REAL DATA: the official file could not be had. Set "
    "SCOPEHOUSE_OWID_CO2_SOURCE to a copy of Our World in Data's CO2 file and run the demo again."
)
MIXED_NOTICE = (
    "THE COUNTRIES SENT NOW ARE A SYNTHETIC SAMPLE, NOT REAL DATA: the official file could not be had. "
    "THE CLUSTERS ARE OF THE REAL DATA OF AN EARLIER RUN. Set SCOPEHOUSE_OWID_CO2_SOURCE to a copy of Our World in "
    "Data's CO2 file and run the demo again."
)

_COMMAND = os.path.relpath(Path(sys.executable).with_name("scopehouse"))

WHERE_TO_LOOK = {
    "shell": f'eval "$({_COMMAND} env)"',
    "trips": "psql -c 'select * from mobility.fct_trip_emissions limit 5'",
    "clusters": "psql -c 'select * from ml.cluster_analysis'",
    "models": "dbt build && dbt docs generate && dbt docs serve",
    "graph": "make ui",
    "servers": "scopehouse status",
    "stop": "scopehouse down",
}

# Called with a step's name when it starts (seconds is None) and when it ends.
OnStep = Callable[[str, float | None], None]


@dataclass(slots=True)
class Demo:
    """One run of the demo. `problems` holds a sentence for each number that should agree and does not."""

    on_step: OnStep
    seconds: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def run(self, events: int, start_servers: bool, report: Report, progress: Progress) -> dict[str, Any]:
        """Run it; returns the summary, ready for JSON. A second run adds to what is there.

        Args:
            events: how many tracking events to send.
            start_servers: use the embedded servers, started where they don't run; else those that the settings name.
            report: told what the servers do.
            progress: told how far sources and sink are.

        Raises:
            MendableError: a server can't be started or reached, a source can't be read, or another demo runs.
        """
        began = time.monotonic()
        with ThreadPoolExecutor(1) as background:
            # What needs no server is done while they start.
            prepared = background.submit(_prepare_job)
            if start_servers:
                with self._step("servers"):
                    _start_servers(report)
            now = settings()
            with _alone(now.state_dir):
                trips, factors, countries = self._fill_topics(now, events, progress)
                with self._step("load Dagster"):
                    prepared.result()
                from dagster_pipelines.run import run_job

                job = run_job("demo", now, self._job_step)
                self.problems += job.failures
                with self._step("check the numbers"):
                    summary = {
                        "mobility": self._mobility(now, trips, factors),
                        "countries": self._countries(now, countries, job),
                        "dbt": self._dbt(job),
                    }
        self.seconds["total"] = round(time.monotonic() - began, 3)
        return {
            "seconds": self.seconds,
            **summary,
            "notice": notice(countries.is_sample, job.clusters.is_sample if job.clusters else None),
            "where_to_look": WHERE_TO_LOOK,
            "dagster_run": job.run_id,
            "problems": self.problems,
        }

    def _fill_topics(
        self, now: Settings, events: int, progress: Progress
    ) -> tuple[TrackingEventsProduced, BikeFactorsProduced, CountryEmissionsProduced]:
        """Bring everything up to the contracts and send what the sources have; the bike models change meanwhile."""
        with self._step("migrate"):
            from scopehouse.migration import migrate

            migrate(now)
        from ingest.sources.bike_factors import await_captured, produce_bike_factors

        with ThreadPoolExecutor(1) as company:
            changing = company.submit(produce_bike_factors, now)
            with self._step("produce tracking events"):
                from ingest.sources.tracking_events import produce_tracking_events

                trips = produce_tracking_events(now, events=events, progress=progress)
            with self._step("produce country emissions"):
                from ingest.sources.country_emissions import produce_country_emissions

                countries = produce_country_emissions(now, allow_sample=True, progress=progress)
            with self._step("capture bike factors"):
                factors = changing.result()
                await_captured(now, factors.end_lsn)
        return trips, factors, countries

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.on_step(name, None)
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 3)
        self.on_step(name, self.seconds[name])

    def _job_step(self, name: str, seconds: float | None) -> None:
        name = name.replace("_", " ")
        if seconds is not None:
            self.seconds[name] = seconds
        self.on_step(name, seconds)

    def _mobility(self, now: Settings, trips: TrackingEventsProduced, factors: BikeFactorsProduced) -> dict[str, Any]:
        found = _landed_trips(now, trips)
        captured = _landed_changes(now, factors)
        expected_kg_co2e = _expected_operating_kg_co2e(now, trips)
        self._expect("changes in raw.adventure_public_bike_emissions", captured, factors.changes)
        self._expect("rows in raw.tracking_events", found["raw_rows"], trips.events)
        self._expect("rows in mobility.fct_trip_emissions", found["fact_rows"], trips.measurements)
        self._expect("operating_kg_co2e", found["operating_kg_co2e"], expected_kg_co2e)
        return {
            "events_produced": trips.events,
            "measurements_produced": trips.measurements,
            **found,
            "bike_factor_changes": factors.changes,
            "bike_factor_changes_captured": captured,
            "expected_operating_kg_co2e": expected_kg_co2e,
        }

    def _countries(self, now: Settings, produced: CountryEmissionsProduced, job: JobRun) -> dict[str, Any]:
        found = _landed_countries(now, produced)
        self._expect("rows landed in raw.emissions_topic", found["raw_rows"], produced.rows)
        if job.clusters is None:
            self.problems.append("No clusters were made.")
        return {
            "source": produced.source,
            "is_sample": produced.is_sample,
            "is_earlier_copy": produced.is_earlier_copy,
            **found,
            "countries_clustered": job.clusters.countries if job.clusters else 0,
            # Largest first; which number a cluster has is by its mean CO2 (ml.cluster_stats).
            "cluster_sizes": sorted(job.clusters.sizes, reverse=True) if job.clusters else [],
            "clusters_are_of_sample": job.clusters.is_sample if job.clusters else None,
        }

    def _dbt(self, job: JobRun) -> dict[str, int]:
        self._expect("failed dbt tests", job.tests_failed, 0)
        return {"models": job.models, "tests_passed": job.tests_passed, "tests_failed": job.tests_failed}

    def _expect(self, what: str, found: float, wanted: float) -> None:
        """Note a problem unless they agree: counts exactly, sums of floats to RELATIVE_TOLERANCE."""
        are_counts = isinstance(found, int) and isinstance(wanted, int)
        if found != wanted and (are_counts or not math.isclose(found, wanted, rel_tol=RELATIVE_TOLERANCE)):
            self.problems.append(f"{what}: {found:,} where {wanted:,} was expected.")


def notice(is_sample: bool, clusters_are_of_sample: bool | None) -> str | None:
    """What to say when the countries sent are a sample (None: nothing). Real data of an earlier run goes before one."""
    if not is_sample:
        return None
    return MIXED_NOTICE if clusters_are_of_sample is False else SAMPLE_NOTICE


def _prepare_job() -> None:
    """Import Dagster and dbt, parse the models."""
    from dagster_pipelines.run import prepare

    prepare(settings())


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """Refuse to run beside another demo: both would send the same events, and count each other's.

    Raises:
        MendableError: another one runs.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "demo.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MendableError(f"Another `scopehouse demo` runs on {state_dir}: wait until it has ended.") from None
        yield


def _start_servers(report: Report) -> None:
    """Start the embedded servers.

    Raises:
        MendableError: the environment points at other servers, which the demo must not fill by mistake.
    """
    from services.embedded import stack

    stack.up(settings(), report, more=("connect",))
    for name, value in dotenv_values(read_settings().connections_file).items():
        if os.environ.get(name, value) != value:
            raise MendableError(
                f"{name} points at a server that is not the demo's own: unset it, or run `scopehouse demo "
                "--no-servers` to fill the servers that your settings name."
            )


def _expected_operating_kg_co2e(now: Settings, trips: TrackingEventsProduced) -> float:
    """What riding the trips emits by the simulator's own account, each by the factors that held when it was made."""
    from ingest.sources.bike_factors import expected_operating_kg_co2e

    if trips.first_event_id is None:
        return 0.0
    return expected_operating_kg_co2e(now, trips.seed, trips.first_event_id, trips.events)


def _landed_trips(now: Settings, trips: TrackingEventsProduced) -> dict[str, Any]:
    """What raw, the dead letters and the fact hold of this run's events, whoever took them in; and the fact in all."""
    with psycopg.connect(now.url_of("transform")) as connection:
        span = {"first": trips.first_event_id or 0, "last": trips.last_event_id or -1}
        landed = connection.execute(
            """
            select
                (
                    select count(*) from ingest.dead_letters
                    where
                        topic = 'tracking_events'
                        -- The sender's key is the event's id; another's may be anything.
                        and case
                            when encode(key, 'escape') ~ '^[0-9]{1,18}$'
                                then encode(key, 'escape')::bigint between %(first)s and %(last)s
                        end
                ),
                (select count(*) from raw.tracking_events where id between %(first)s and %(last)s)
            """,
            span,
        )
        found = _first(landed, "dead_letters", "raw_rows")
        exists = connection.execute("select to_regclass('mobility.fct_trip_emissions') is not null").fetchone()
        if exists != (True,):
            return {**found, "fact_rows": 0, "operating_kg_co2e": 0.0}
        fact = connection.execute(
            """
            select
                count(*) filter (where event_id between %(first)s and %(last)s),
                coalesce(sum(operating_kg_co2e) filter (where event_id between %(first)s and %(last)s), 0),
                count(*)
            from mobility.fct_trip_emissions
            """,
            span,
        )
        return found | _first(fact, "fact_rows", "operating_kg_co2e", "fact_rows_of_all_runs")


def _landed_countries(now: Settings, produced: CountryEmissionsProduced) -> dict[str, Any]:
    """What raw and the dead letters hold of this run's records, whoever took them in."""
    with psycopg.connect(now.url_of("transform")) as connection:
        found = connection.execute(
            """
            with sent as (
                select * from unnest(%s::int[], %s::bigint[], %s::bigint[]) as sent (partition, first, past)
            )

            select
                (
                    select count(*)
                    from sent inner join raw.emissions_topic as landed on landed._kafka_partition = sent.partition
                    where landed._kafka_offset >= sent.first and landed._kafka_offset < sent.past
                ),
                (
                    select count(*)
                    from sent inner join ingest.dead_letters as letter on letter.partition = sent.partition
                    where letter."offset" >= sent.first and letter."offset" < sent.past
                        and letter.topic = 'emissions-topic'
                )
            """,
            [
                [one.partition for one in produced.offsets],
                [one.start for one in produced.offsets],
                [one.end for one in produced.offsets],
            ],
        )
        return _first(found, "raw_rows", "dead_letters")


def _landed_changes(now: Settings, factors: BikeFactorsProduced) -> int:
    """How many of this run's changes raw holds."""
    with psycopg.connect(now.url_of("transform")) as connection:
        found = connection.execute(
            "select count(*) from raw.adventure_public_bike_emissions where _source_lsn between %s and %s",
            [factors.start_lsn, factors.end_lsn],
        )
        return int(_first(found, "changes")["changes"])


def _first(cursor: psycopg.Cursor[Any], *names: str) -> dict[str, Any]:
    return dict(zip(names, cursor.fetchone() or (), strict=True))
