"""The job that the demo runs, on real servers: what it does, what it says, what stops it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from dagster_pipelines.dbt_project import DbtProject
from dagster_pipelines.definitions import build_defs
from dagster_pipelines.instance import open_instance
from dagster_pipelines.run import JobRun, prepare, run_job
from ingest.sources.country_emissions import produce_country_emissions
from ingest.sources.tracking_events import produce_tracking_events
from services.settings import PROJECT_ROOT, Settings

OWID = PROJECT_ROOT.parent / "shared" / "data" / "countries" / "owid_co2.csv"
EVENTS = 2_000
STEPS = ["drain_topics", "dbt_build", "dbt_build_countries", "cluster_countries", "dbt_build_on_clusters"]


@pytest.fixture(scope="module")
def owner(house: Settings) -> Iterator[psycopg.Connection]:
    with psycopg.connect(house.url_of("migrate"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def steps_seen() -> list[tuple[str, bool]]:
    """What `on_step` was told during the first run: the step, and whether it had ended."""
    return []


@pytest.fixture(scope="module")
def first(house: Settings, steps_seen: list[tuple[str, bool]]) -> JobRun:
    """The first run, on a few events and on OWID's file (the synthetic sample where that is not there)."""
    produce_tracking_events(house, events=EVENTS)
    if OWID.is_file():
        produce_country_emissions(house, source=str(OWID))
    else:
        produce_country_emissions(house, only_sample=True)
    prepare(house)
    return run_job("demo", house, lambda step, seconds: steps_seen.append((step, seconds is not None)))


def members(connection: psycopg.Connection, run_id: str) -> set[tuple[str, int]]:
    rows = connection.execute("select country, cluster from ml.co2_clusters where run_id = %s", [run_id])
    return set(rows.fetchall())


def built_last_by(run: JobRun, house: Settings, key: str) -> bool:
    """Whether the newest materialisation of an asset, which an earlier run has built, is the run's."""
    with open_instance(house) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey.from_user_string(key))
    assert event is not None
    return event.run_id == run.run_id


def test_the_first_run_takes_all_in_and_builds_it(first: JobRun, house: Settings) -> None:
    assert first.failures == ()
    assert first.tests_failed == 0
    loads = {load.topic: load for load in first.topics}
    assert (loads["tracking_events"].rows, loads["tracking_events"].dead_letters) == (EVENTS, 0)
    assert loads["emissions-topic"].rows > 0
    manifest = DbtProject(house).manifest()
    types = [node["resource_type"] for node in (*manifest["nodes"].values(), *manifest["unit_tests"].values())]
    assert first.models == types.count("model")
    assert first.tests_passed == types.count("test") + types.count("unit_test")


def test_owid_has_164_countries_in_clusters_of_156_5_and_3(first: JobRun) -> None:
    if not OWID.is_file():
        pytest.skip(f"{OWID} is not there")
    assert first.clusters is not None
    assert (first.clusters.countries, first.clusters.is_sample) == (164, False)
    assert sorted(first.clusters.sizes) == [3, 5, 156]


def test_steps_are_told_as_they_start_and_end(first: JobRun, steps_seen: list[tuple[str, bool]]) -> None:
    assert steps_seen == [(step, has_ended) for step in STEPS for has_ended in (False, True)]
    assert list(first.seconds) == STEPS


def test_the_ui_and_the_log_have_the_run(first: JobRun, house: Settings) -> None:
    with open_instance(house) as instance:
        run = instance.get_run_by_id(first.run_id)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert instance.get_latest_materialization_event(dg.AssetKey(["ml", "cluster_analysis"])) is not None
    log = (house.state_dir / "logs" / "dagster.log").read_text(encoding="utf-8")
    assert f"{first.run_id[:8]} cluster_countries: " in log


def test_the_same_rows_sent_again_in_another_order_change_nothing(
    first: JobRun, house: Settings, owner: psycopg.Connection, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if not OWID.is_file():
        pytest.skip(f"{OWID} is not there")
    head, *rows = OWID.read_text(encoding="utf-8").splitlines()
    shuffled = tmp_path / "shuffled.csv"
    shuffled.write_text("\n".join([head, *random.Random(1).sample(rows, len(rows))]), encoding="utf-8")
    produce_country_emissions(house, source=str(shuffled))
    capfd.readouterr()
    second = run_job("demo", house)
    assert capfd.readouterr().out == ""
    assert second.failures == ()
    assert first.clusters is not None
    assert second.clusters is not None
    assert members(owner, second.clusters.run_id) == members(owner, first.clusters.run_id)
    hashes = owner.execute("select count(distinct input_hash), count(*) from ml.cluster_runs").fetchone()
    assert hashes == (1, 2)


@pytest.fixture
def row_twice_in_raw(first: JobRun, owner: psycopg.Connection) -> Iterator[None]:
    """One row of raw.emissions_topic is there twice, which the sink never does."""
    one = "select * from raw.emissions_topic where (_kafka_partition, _kafka_offset) = (0, 0)"
    owner.execute(f"insert into raw.emissions_topic {one}")
    yield
    owner.execute(
        "delete from raw.emissions_topic where ctid = "
        "(select max(ctid) from raw.emissions_topic where (_kafka_partition, _kafka_offset) = (0, 0))"
    )


@pytest.mark.usefixtures("row_twice_in_raw")
def test_a_failed_dbt_test_is_a_failed_check_and_stops_what_needs_it(house: Settings) -> None:
    run = run_job("demo", house)
    assert run.tests_failed == 1
    assert run.clusters is None
    assert len(run.failures) == 1
    assert run.failures[0].startswith(
        "dbt_build_countries: dbt: 1 failed (source_unique_combination_owid_emissions_topic"
    )
    assert built_last_by(run, house, "mobility/mart_customer_savings"), "what does not need it goes on"
    assert not built_last_by(run, house, "countries/mart_country_features")


@pytest.fixture
def trip_of_no_bike_model(first: JobRun, house: Settings) -> Iterator[None]:
    """One measurement is a trip although nothing is known of its bike model."""
    one = "update intermediate.int_mobility__measurements set rejection_reason = %s, bike_model_key = %s where "
    with psycopg.connect(house.url_of("transform"), autocommit=True) as connection:
        lowest = "measurement_key = (select min(measurement_key) from intermediate.int_mobility__measurements)"
        connection.execute(one + lowest, [None, "of no model"])
        yield
        connection.execute(one + "bike_model_key = 'of no model'", ["unknown_bike_model", None])


@pytest.mark.usefixtures("trip_of_no_bike_model")
def test_a_failed_test_of_a_trip_fails_the_run_and_the_clusters_are_made_all_the_same(
    first: JobRun, house: Settings
) -> None:
    run = run_job("demo", house)
    assert run.tests_failed == 1
    assert len(run.failures) == 1
    assert run.failures[0].startswith("dbt_build: dbt: 1 failed (relationships_fct_trip_emissions_bike_model_key")
    assert first.clusters is not None
    assert run.clusters is not None
    assert run.clusters.countries == first.clusters.countries
    assert built_last_by(run, house, "ml/cluster_analysis")
    assert not built_last_by(run, house, "mobility/mart_customer_savings")
    with open_instance(house) as instance:
        recorded = instance.get_run_by_id(run.run_id)
    assert recorded is not None
    assert recorded.status == dg.DagsterRunStatus.FAILURE


def test_a_partition_that_stands_still_is_a_failed_check_and_what_is_built_goes_on(
    first: JobRun, house: Settings, owner: psycopg.Connection
) -> None:
    owner.execute("update ingest.offsets set stopped_because = 'by the test' where topic = 'tracking_events'")
    try:
        run = run_job("demo", house)
    finally:
        owner.execute("update ingest.offsets set stopped_because = null")
    assert run.failures == (f"drain_topics: {run.failures[0].removeprefix('drain_topics: ')}",)
    assert "Topic tracking_events partition 0 stands still" in run.failures[0]
    assert run.tests_failed == 0
    assert run.models == first.models
    assert run.clusters is not None


def test_one_asset_alone_builds_just_that(first: JobRun, house: Settings) -> None:
    """What a retry from the failed assets rests on."""
    job = build_defs(house).resolve_job_def("demo")
    key = dg.AssetKey(["countries", "mart_country_features"])
    with open_instance(house) as instance:
        result = job.execute_in_process(instance=instance, asset_selection=[key])
    assert [event.asset_key for event in result.get_asset_materialization_events()] == [key]
    assert {check.asset_key for check in result.get_asset_check_evaluations()} <= {key}


def test_a_server_that_is_gone_is_a_sentence(first: JobRun, house: Settings) -> None:
    nobody = house.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    run = run_job("demo", nobody)
    assert len(run.failures) == 1
    assert run.failures[0].startswith("drain_topics: ")
    assert "Traceback" not in run.failures[0]
