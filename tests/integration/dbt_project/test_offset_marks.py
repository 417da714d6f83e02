"""Marks, locks and plans of the models that are incremental by offset."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.dbt_project.warehouse import (
    BIKE_MODELS,
    CHANGES_TOPIC,
    CONTENTS,
    MEASUREMENTS,
    PROJECT,
    TOPIC,
    TRIPS,
    BikeChange,
    Warehouse,
    measurement,
)

LOCK = "pg_advisory_lock(hashtextextended('scopehouse model intermediate.int_mobility__measurements', 0))"
TABLES = ("raw.tracking_events", f"intermediate.{CONTENTS}", f"intermediate.{MEASUREMENTS}")


def marks(warehouse: Warehouse, model: str = f"intermediate.{MEASUREMENTS}") -> dict[int, int]:
    return dict(
        warehouse.rows(
            "select partition, next_offset from ingest.model_offsets where model = %s and topic = %s", model, TOPIC
        )
    )


def land(warehouse: Warehouse, first: int, count: int, partition: int = 0) -> None:
    warehouse.append((event, partition, event, 1_700_000_000, [measurement()]) for event in range(first, first + count))


def trip_count(warehouse: Warehouse) -> int:
    return int(warehouse.value(f"select count(*) from mobility.{TRIPS}"))


def test_a_run_reads_what_is_new_and_a_second_one_nothing(warehouse: Warehouse) -> None:
    land(warehouse, 0, 5)
    assert warehouse.dbt.run(CONTENTS, MEASUREMENTS) == {CONTENTS: "INSERT 0 5", MEASUREMENTS: "INSERT 0 5"}
    land(warehouse, 5, 2)
    assert warehouse.dbt.run(CONTENTS, MEASUREMENTS) == {CONTENTS: "INSERT 0 2", MEASUREMENTS: "INSERT 0 2"}
    assert warehouse.dbt.run(CONTENTS, MEASUREMENTS) == {CONTENTS: "INSERT 0 0", MEASUREMENTS: "INSERT 0 0"}
    assert marks(warehouse) == {0: 7}


def test_a_fact_never_reads_past_its_parent(warehouse: Warehouse) -> None:
    land(warehouse, 0, 5)
    warehouse.dbt.run(CONTENTS)
    land(warehouse, 5, 5)
    warehouse.dbt.run(MEASUREMENTS)
    assert (trip_count(warehouse), marks(warehouse)) == (5, {0: 5})


def test_a_missing_table_is_built_from_the_beginning(warehouse: Warehouse) -> None:
    land(warehouse, 0, 5)
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    warehouse.transform.execute(f"drop table intermediate.{MEASUREMENTS} cascade")
    warehouse.dbt.run(f"{MEASUREMENTS}+")
    assert (trip_count(warehouse), marks(warehouse)) == (5, {0: 5})


def test_a_topic_made_anew_is_reported(warehouse: Warehouse) -> None:
    land(warehouse, 0, 5)
    warehouse.dbt.run(CONTENTS)
    warehouse.owner.execute("update ingest.offsets set next_offset = 2 where topic = %s", [TOPIC])
    (result,) = warehouse.dbt.attempt("run", "--select", CONTENTS).result
    assert "has read more of topic tracking_events than there is" in result.message
    assert marks(warehouse, f"intermediate.{CONTENTS}") == {0: 5}


def test_a_new_version_reopens_just_the_trips_of_its_time(warehouse: Warehouse) -> None:
    warehouse.append(
        (event, 0, event, 1_700_000_000 + event, [measurement(model=5 + event % 2)]) for event in range(20)
    )
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    production = f"select count(*), round(production_kg_co2e) from mobility.{TRIPS} group by 2 order by 2"
    assert warehouse.rows(production) == [(10, 310.0), (10, 352.0)]
    # From the eleventh second on, landed late: of model 5 the trips of seconds 10, 12, ... 18.
    warehouse.append_changes([BikeChange(5, "u", 1_700_000_010, 1_800_000_000, 20, price_usd=1_000)])
    assert warehouse.dbt.run(BIKE_MODELS, MEASUREMENTS) == {BIKE_MODELS: "INSERT 0 4", MEASUREMENTS: "INSERT 0 5"}
    assert warehouse.rows(production) == [(5, 162.0), (5, 310.0), (10, 352.0)]
    assert warehouse.dbt.run(BIKE_MODELS, MEASUREMENTS) == {BIKE_MODELS: "INSERT 0 0", MEASUREMENTS: "INSERT 0 0"}
    # A version between the two: just what it takes from the first.
    warehouse.append_changes([BikeChange(5, "u", 1_700_000_004, 1_800_000_001, 21, price_usd=2_000)])
    assert warehouse.dbt.run(BIKE_MODELS, MEASUREMENTS)[MEASUREMENTS] == "INSERT 0 3"
    assert warehouse.rows(production) == [(5, 162.0), (2, 310.0), (3, 324.0), (10, 352.0)]


def test_what_is_built_on_the_dimension_reads_its_log_up_to_the_dimensions_mark(warehouse: Warehouse) -> None:
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    warehouse.append_changes([BikeChange(5, "u", 1_700_000_010, 1_800_000_000, 20)])
    warehouse.dbt.run(MEASUREMENTS)
    mark = "select next_offset from ingest.model_offsets where model = %s and topic = %s"
    built = (f"intermediate.{MEASUREMENTS}", CHANGES_TOPIC)
    assert warehouse.value(mark, *built) == 3
    warehouse.dbt.run(BIKE_MODELS, MEASUREMENTS)
    assert warehouse.value(mark, *built) == 4


def test_another_release_of_the_factors_is_followed(warehouse: Warehouse) -> None:
    land(warehouse, 0, 1)
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    models = ("dim_emission_factor", MEASUREMENTS)
    warehouse.dbt("run", "--select", *models, variables={"emission_factor_release": "USEEIO v1.2"})
    assert round(warehouse.value(f"select production_kg_co2e from mobility.{TRIPS}")) == 438
    warehouse.dbt.run(*models)
    assert round(warehouse.value(f"select production_kg_co2e from mobility.{TRIPS}")) == 310


def test_a_session_ended_in_the_middle_leaves_nothing_and_the_next_run_goes_on(warehouse: Warehouse) -> None:
    land(warehouse, 0, 5)
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    land(warehouse, 5, 5)
    warehouse.dbt.run(CONTENTS)
    before = warehouse.rows(f"select *, xmin::text from intermediate.{MEASUREMENTS} order by 1")

    def end_it(lock: psycopg.Connection, pid: int) -> None:
        lock.execute("select pg_terminate_backend(%s)", [pid])

    # The run waits where it deletes, after it has opened its marks.
    outcome = while_waiting(f"lock table intermediate.{MEASUREMENTS} in share mode", end_it, warehouse, MEASUREMENTS)
    assert [result.status for result in outcome.result] == ["error"]
    assert warehouse.rows(f"select *, xmin::text from intermediate.{MEASUREMENTS} order by 1") == before
    assert marks(warehouse) == {0: 5}

    warehouse.dbt.run(MEASUREMENTS)
    assert (trip_count(warehouse), marks(warehouse)) == (10, {0: 10})


def test_a_run_waits_for_another_of_its_model_and_then_reads_up_to_now(warehouse: Warehouse) -> None:
    land(warehouse, 0, 5)
    warehouse.dbt.run(CONTENTS)

    def advance_the_parents_mark(lock: psycopg.Connection, _: int) -> None:
        # What a parent's run would leave, had it ended while this one waited.
        lock.execute("update ingest.model_offsets set next_offset = 3, upper_offset = 3 where topic = %s", [TOPIC])
        lock.execute("select pg_advisory_unlock_all()")
        lock.commit()

    outcome = while_waiting(f"select {LOCK}", advance_the_parents_mark, warehouse, MEASUREMENTS)
    assert [result.status for result in outcome.result] == ["success"]
    assert marks(warehouse) == {0: 3}


def test_two_first_runs_at_once_make_one_table(warehouse: Warehouse) -> None:
    land(warehouse, 0, 50)
    warehouse.dbt.run(CONTENTS)
    warehouse.transform.execute(f"drop table intermediate.{MEASUREMENTS} cascade")
    command = [sys.executable, "-m", "dbt.cli.main", "--quiet", "run", "--select", MEASUREMENTS]
    command += ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)]
    runs = [
        subprocess.Popen(
            [*command, "--target-path", str(warehouse.dbt.target / name), "--log-path", str(warehouse.dbt.target)],
            env={**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
        )
        for name in ("one", "two")
    ]
    assert [run.wait(120) for run in runs] == [0, 0]
    warehouse.dbt.run(f"{MEASUREMENTS}+")
    assert trip_count(warehouse) == 50


def test_a_small_run_does_not_read_the_big_tables(warehouse: Warehouse) -> None:
    warehouse.owner.execute(
        "insert into raw.tracking_events (id, customer_id, date_time, measurement_list, _kafka_partition,"
        " _kafka_offset, _schema_id)"
        " select id, 7, to_timestamp(1700000000 + id), %s, id %% 4, id / 4, 1 from generate_series(0, 199999) as id",
        [json.dumps([measurement()])],
    )
    warehouse.move_offsets()
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    warehouse.owner.execute("analyze raw.tracking_events")
    warehouse.transform.execute(f"analyze intermediate.{CONTENTS}, intermediate.{MEASUREMENTS}")
    warehouse.append((300_000 + n, n % 4, 50_000 + n // 4, 1_700_000_000, [measurement()]) for n in range(100))
    # An event of old is touched too, by other content, whose rejection is a row.
    warehouse.append([(1, 1, 50_025, 1_700_000_000, [])])

    before = rows_read(warehouse)
    assert warehouse.dbt.run(CONTENTS, MEASUREMENTS) == {CONTENTS: "INSERT 0 101", MEASUREMENTS: "INSERT 0 102"}
    after = rows_read(warehouse)
    read = {table: after[table] - before[table] for table in TABLES}
    assert all(count < 20_000 for count in read.values()), read

    # A version of the last ten seconds.
    warehouse.append_changes([BikeChange(5, "u", 1_700_199_990, 1_800_000_000, 20, price_usd=1_000)])
    before = rows_read(warehouse)
    assert warehouse.dbt.run(BIKE_MODELS, MEASUREMENTS)[MEASUREMENTS] == "INSERT 0 10"
    after = rows_read(warehouse)
    read = {table: after[table] - before[table] for table in TABLES}
    assert all(count < 2_000 for count in read.values()), read

    # The plan of just what the run executed, on the marks as a run opens them.
    warehouse.owner.execute("update ingest.model_offsets set next_offset = next_offset - 20 where topic = %s", [TOPIC])
    (compiled,) = (warehouse.dbt.target / "run").rglob(f"{CONTENTS}.sql")
    ((plan,),) = warehouse.rows(f"explain (format json) {compiled.read_text()}")
    scans = [node for node in nodes_of(plan[0]["Plan"]) if node.get("Relation Name") == "tracking_events"]
    assert [node["Node Type"] for node in scans] == ["Bitmap Heap Scan"], plan


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes_of(child)


def rows_read(warehouse: Warehouse) -> dict[str, int]:
    """Rows that scans of each table have read so far, whatever the kind of scan."""
    time.sleep(1.1)  # a session reports its numbers once a second
    warehouse.transform.execute("select pg_stat_force_next_flush()")
    return dict(
        warehouse.rows(
            "select schemaname || '.' || relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)"
            " from pg_stat_user_tables where schemaname || '.' || relname = any(%s)",
            list(TABLES),
        )
    )


def while_waiting(lock: str, then: Callable[[psycopg.Connection, int], None], warehouse: Warehouse, model: str) -> Any:
    """Run a model that meets a lock of ours; once it waits for it, do `then` with our session and its pid."""
    holder = psycopg.connect("")  # the role of dbt
    holder.execute(lock)  # type: ignore[arg-type]
    error: list[BaseException] = []

    def wait_and_act() -> None:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                waiting = warehouse.rows(
                    "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
                )
                if waiting:
                    then(holder, waiting[0][0])
                    return
                time.sleep(0.02)
            error.append(TimeoutError("the run met no lock"))
        finally:
            holder.close()

    actor = threading.Thread(target=wait_and_act)
    actor.start()
    outcome = warehouse.dbt.attempt("run", "--threads", "1", "--select", model)
    actor.join()
    assert not error, error
    return outcome


@pytest.mark.parametrize("model", [CONTENTS, MEASUREMENTS])
def test_a_full_refresh_starts_its_marks_anew(warehouse: Warehouse, model: str) -> None:
    land(warehouse, 0, 5)
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    assert warehouse.dbt.run(model, full_refresh=True) == {model: "INSERT 0 5"}
    assert warehouse.value("select count(*) from ingest.model_offsets where topic = %s", TOPIC) == 2
