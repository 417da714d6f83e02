"""What dashboards read is never dropped, empty or locked in a normal run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.integration.dbt_project.warehouse import CONTENTS, MEASUREMENTS, TRIPS, Dbt, Warehouse, measurement

TABLES = (f"mobility.{TRIPS}", "mobility.dim_bike_model", "reference.emission_factors", "mobility.dashboard")


class Reader(threading.Thread):
    """Reads on and on as the dashboards' role, and waits for a lock no longer than `wait`."""

    def __init__(self, url: str, wait: str) -> None:
        super().__init__(daemon=True)
        self.connection = psycopg.connect(url, autocommit=True)
        self.connection.execute(f"set lock_timeout = '{wait}'")
        self.stopping = threading.Event()
        self.seen: dict[str, set[int]] = {table: set() for table in TABLES}
        self.reads = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                for table in TABLES:
                    ((count,),) = self.connection.execute(f"select count(*) from {table}").fetchall()
                    self.seen[table].add(count)
                    self.reads += 1
        except Exception as error:
            self.error = error


@pytest.fixture
def dashboard(warehouse: Warehouse, database: dict[str, str]) -> Iterator[str]:
    """Thirty trips in the fact, and a view on it that dbt does not know; the URL of who reads it."""
    warehouse.append((event, 0, event, 1_000, [measurement()]) for event in range(30))
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    # By the owner of the marts' schemas' objects, as a person would add one.
    warehouse.transform.execute(f"create view mobility.dashboard as select * from mobility.{TRIPS}")
    yield database["bi"]
    warehouse.transform.execute("drop view if exists mobility.dashboard")


@contextmanager
def reading(url: str, wait: str = "20ms") -> Iterator[Reader]:
    reader = Reader(url, wait)
    reader.start()
    yield reader
    reader.stopping.set()
    reader.join(10)
    assert reader.error is None, reader.error
    assert reader.reads > 100


def test_readers_never_wait_nor_see_an_empty_table(warehouse: Warehouse, dashboard: str) -> None:
    with reading(dashboard) as reader:
        warehouse.dbt("seed")
        warehouse.dbt("run", "--exclude", "tag:ml")
        warehouse.append((event, 1, event, 1_000, [measurement()]) for event in range(30, 40))
        warehouse.dbt.run(CONTENTS, MEASUREMENTS, TRIPS)
        warehouse.dbt.run(CONTENTS, MEASUREMENTS, TRIPS, "dim_bike_model", full_refresh=True)

    assert reader.seen[f"mobility.{TRIPS}"] == reader.seen["mobility.dashboard"] == {30, 40}
    assert reader.seen["mobility.dim_bike_model"] == {3}
    assert reader.seen["reference.emission_factors"] == {2}


def test_an_older_snapshot_still_shows_the_rows_it_began_with(warehouse: Warehouse, dashboard: str) -> None:
    with psycopg.connect(dashboard) as connection:
        connection.execute("set transaction isolation level repeatable read")
        before = connection.execute("select count(*) from mobility.fct_trip_emissions").fetchone()
        warehouse.dbt("seed")
        warehouse.dbt.run(CONTENTS, MEASUREMENTS, TRIPS, "dim_bike_model", full_refresh=True)
        assert connection.execute("select count(*) from mobility.fct_trip_emissions").fetchone() == before == (30,)
        assert connection.execute("select count(*) from mobility.dim_bike_model").fetchone() == (3,)


def test_a_reader_who_keeps_its_transaction_open_holds_up_neither_a_rebuild_nor_other_readers(
    warehouse: Warehouse, own_project: Dbt, dashboard: str
) -> None:
    with psycopg.connect(dashboard) as open_reader:
        for table in TABLES:
            open_reader.execute(f"select count(*) from {table}")  # its locks stay to the end of its transaction
        with reading(dashboard, wait="1s") as reader:
            warehouse.dbt("run", "--exclude", "tag:ml")
            warehouse.dbt.run(CONTENTS, MEASUREMENTS, TRIPS, "dim_bike_model", full_refresh=True)
            # A changed column takes a lock that shuts readers out: that model gives way.
            model = own_project.project / "models/marts/mobility/dim_bike_model"
            sql, properties = model.with_suffix(".sql"), model.with_suffix(".yml")
            sql.write_text(sql.read_text().replace(" as is_current", " as is_current,\n        1 as added"))
            column = "      - {name: added, description: Added by a test., data_type: integer}\n"
            properties.write_text(properties.read_text() + column)
            outcome = own_project.attempt("run", "--full-refresh", "--select", "dim_bike_model")
        assert "lock timeout" in outcome.result[0].message
    assert reader.seen["mobility.dim_bike_model"] == {3}


def test_grants_and_policies_stay(warehouse: Warehouse, dashboard: str) -> None:
    warehouse.transform.execute("grant select on mobility.dim_bike_model to scopehouse_ingest")
    warehouse.transform.execute("create policy everyone on mobility.dim_bike_model using (true)")
    identity = (
        "select 'mobility.dim_bike_model'::regclass::oid, relacl::text from pg_class where relname = 'dim_bike_model'"
    )
    before = warehouse.rows(identity)
    warehouse.dbt.run("dim_bike_model")
    warehouse.dbt.run("dim_bike_model", full_refresh=True)
    assert warehouse.rows(identity) == before
    assert warehouse.value("select count(*) from pg_policies where tablename = 'dim_bike_model'") == 1
    warehouse.transform.execute("drop policy everyone on mobility.dim_bike_model")
    warehouse.transform.execute("revoke select on mobility.dim_bike_model from scopehouse_ingest")


def test_a_view_that_stands_is_left_alone_and_one_that_grows_is_replaced_in_place(
    warehouse: Warehouse, own_project: Dbt
) -> None:
    identity = "select oid, xmin::text from pg_class where relname = 'rejected_measurements'"
    before = warehouse.rows(identity)
    assert warehouse.dbt.run("rejected_measurements") == {"rejected_measurements": "VIEW UNCHANGED"}
    assert warehouse.rows(identity) == before

    warehouse.transform.execute("create view mobility.on_a_view as select * from mobility.rejected_measurements")
    staging = own_project.project / "models/staging/tracking/stg_tracking__events.sql"
    staging.write_text(
        staging.read_text().replace("_kafka_offset as source_offset", "_kafka_offset as source_offset, 1 as one")
    )
    own_project.run("stg_tracking__events")
    assert warehouse.value("select count(*) from mobility.on_a_view") == 0
    columns = (
        "select count(*) from pg_attribute"
        " where attrelid = 'staging.stg_tracking__events'::regclass and attname = 'one'"
    )
    assert warehouse.value(columns) == 1

    # Now a column goes: the view is dropped, with what stands on it, and made anew.
    warehouse.dbt.run("stg_tracking__events")
    assert warehouse.value(columns) == 0
    warehouse.transform.execute("drop view if exists mobility.on_a_view")


def test_changed_columns_ask_for_a_full_refresh_which_makes_the_table_anew(
    warehouse: Warehouse, own_project: Dbt
) -> None:
    model = own_project.project / "models/marts/mobility/dim_bike_model"
    sql, properties = model.with_suffix(".sql"), model.with_suffix(".yml")
    sql.write_text(sql.read_text().replace(" as is_current", " as is_current,\n        1 as added"))
    properties.write_text(
        properties.read_text() + "      - {name: added, description: Added by a test., data_type: integer}\n"
    )
    outcome = own_project.attempt("run", "--select", "dim_bike_model")
    (result,) = outcome.result
    assert "run `dbt run --full-refresh --select dim_bike_model+`" in result.message
    assert warehouse.value("select count(*) from mobility.dim_bike_model") == 3

    own_project.run("dim_bike_model", full_refresh=True)
    assert warehouse.value("select sum(added) from mobility.dim_bike_model") == 3
