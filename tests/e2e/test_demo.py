"""The demo as a user runs it: a command, on servers of its own, again and again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import psycopg
import pytest
from dotenv import dotenv_values

from ingest.sources.sample_countries import sample_country_years
from services.settings import PROJECT_ROOT
from tests.integration.conftest import CONNECTIONS, embedded_environment

OWID_CO2 = PROJECT_ROOT.parent / "shared" / "data" / "countries" / "owid_co2.csv"
# A source that can't be reached, as on a machine without a network.
UNREACHABLE = {"HTTPS_PROXY": "http://127.0.0.1:9", "SCOPEHOUSE_OWID_CO2_SOURCE": ""}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a user with a fresh clone: no servers, nothing set. Servers that a test left are stopped."""
    own = embedded_environment(tmp_path_factory.mktemp("demo"))
    variables = {name: value for name, value in os.environ.items() if name not in CONNECTIONS} | own
    yield variables
    scopehouse("down", environment=variables)


def scopehouse(*words: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scopehouse", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def demo(environment: dict[str, str], events: int, **more: str) -> dict[str, Any]:
    done = scopehouse("demo", "--json", "--events", str(events), environment=environment | more)
    assert done.returncode == 0, done.stderr + done.stdout
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def assert_numbers_agree(summary: dict[str, Any], events: int) -> None:
    mobility, dbt = summary["mobility"], summary["dbt"]
    assert mobility["events_produced"] == mobility["raw_rows"] == events
    assert mobility["fact_rows"] == mobility["measurements_produced"] > 0
    assert mobility["operating_kg_co2e"] == pytest.approx(mobility["expected_operating_kg_co2e"], rel=1e-6)
    assert mobility["dead_letters"] == 0
    assert mobility["bike_factor_changes"] == mobility["bike_factor_changes_captured"] == 24
    assert dbt["tests_failed"] == 0 < dbt["tests_passed"]
    assert summary["problems"] == []


def test_without_network_and_file_the_demo_shouts_that_its_countries_are_a_sample(
    environment: dict[str, str],
) -> None:
    summary = demo(environment, 300, **UNREACHABLE)
    assert_numbers_agree(summary, 300)
    assert summary["countries"]["is_sample"] is True
    assert summary["notice"].startswith("THE COUNTRIES ARE A SYNTHETIC SAMPLE, NOT REAL DATA")


@pytest.mark.skipif(not OWID_CO2.exists(), reason="the OWID file is not beside this clone (data of others)")
def test_real_countries_give_the_same_clusters_twice_and_shuffled(environment: dict[str, str], tmp_path: Path) -> None:
    header, *rows = OWID_CO2.read_text(encoding="utf-8").splitlines()
    random.Random(7).shuffle(rows)
    shuffled = tmp_path / "shuffled.csv"
    shuffled.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    for source in (OWID_CO2, shuffled):
        summary = demo(environment, 500, SCOPEHOUSE_OWID_CO2_SOURCE=str(source))
        assert_numbers_agree(summary, 500)
        countries = summary["countries"]
        assert countries["is_sample"] is False
        assert countries["raw_rows"] == len(rows)
        assert countries["countries_clustered"] == 164
        assert countries["cluster_sizes"] == [156, 5, 3]


def test_a_trips_numbers_are_followed_back_to_its_record_in_kafka(environment: dict[str, str]) -> None:
    done = scopehouse("explain", "mobility.fct_trip_emissions", "--latest", "--json", environment=environment)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert all(formula["agrees"] for formula in found["formulas"])
    assert (found["record"]["read_from"], found["record"]["content"]["id"]) == ("kafka", found["row"]["event_id"])
    assert found["bike_model_changes"][0]["product_category_id"] == found["row"]["bike_model_id"]
    assert found["dbt_run"]["invocation_id"]
    text = scopehouse("explain", "mobility.fct_trip_emissions", found["key"][:12], environment=environment).stdout
    assert f"* {found['row']['journey_km']:.12g} km = " in text
    assert "DOES NOT FIT" not in text


@pytest.fixture(scope="module")
def second_demo(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> subprocess.CompletedProcess[str]:
    """A demo without a network while a sink runs, after countries of a file; raw has a row with the id of one of its
    events, which no record of Kafka's stands behind."""
    file = tmp_path_factory.mktemp("countries") / "countries.csv"
    sample_country_years().with_columns(
        pl.col("country").str.replace("Sampleland", "Fileland"), pl.col("iso_code").str.replace("X", "Z")
    ).write_csv(file)
    connections = dotenv_values(Path(environment["SCOPEHOUSE_STATE_DIR"]) / "connections.env")
    owner = connections["SCOPEHOUSE_MIGRATE_DATABASE_URL"] or ""
    with psycopg.connect(owner, autocommit=True) as warehouse, running_sink(environment):
        sent = scopehouse("produce", "country-emissions", "--source", str(file), environment=environment)
        assert sent.returncode == 0, sent.stderr
        await_rows(warehouse, "select count(*) from raw.emissions_topic where country like 'Fileland%'", 2_100)
        warehouse.execute(
            """
            insert into raw.tracking_events
                (id, customer_id, date_time, measurement_list, _kafka_partition, _kafka_offset, _kafka_timestamp)
            select max(id) + 1, 1, now(), '[]', 99, 0, now() from raw.tracking_events
            """
        )
        try:
            return scopehouse("demo", "--json", "--events", "300", environment=environment | UNREACHABLE)
        finally:
            warehouse.execute("delete from raw.tracking_events where _kafka_partition = 99")


@contextmanager
def running_sink(environment: dict[str, str]) -> Iterator[None]:
    """`scopehouse ingest run` beside what is done meanwhile."""
    with subprocess.Popen([sys.executable, "-m", "scopehouse", "ingest", "run"], env=environment) as sink:
        try:
            yield
            assert sink.poll() is None, "the sink ended by itself"
        finally:
            sink.terminate()
            sink.wait(60)


def await_rows(warehouse: psycopg.Connection[Any], count: str, wanted: int) -> None:
    """Wait until a count is as wanted, for two minutes at most."""
    deadline = time.monotonic() + 120
    while (found := warehouse.execute(count).fetchone()) != (wanted,):
        assert time.monotonic() < deadline, f"{count}: {found}"
        time.sleep(0.1)


def test_a_number_that_does_not_agree_is_told_in_a_sentence_and_ends_the_demo_with_1(
    second_demo: subprocess.CompletedProcess[str],
) -> None:
    assert second_demo.returncode == 1
    summary = json.loads(second_demo.stdout)
    assert summary["problems"] == ["rows in raw.tracking_events: 301 where 300 was expected."]
    # It is the demo's own check that says so: no test of dbt's sees the row.
    assert summary["dbt"]["tests_failed"] == 0 < summary["dbt"]["tests_passed"]
    assert "Traceback" not in second_demo.stderr


def test_a_sink_beside_the_demo_takes_nothing_from_its_count(second_demo: subprocess.CompletedProcess[str]) -> None:
    summary = json.loads(second_demo.stdout)
    assert (summary["countries"]["raw_rows"], summary["countries"]["dead_letters"]) == (2_100, 0)
    assert (summary["mobility"]["fact_rows"], summary["mobility"]["dead_letters"]) == (
        summary["mobility"]["measurements_produced"],
        0,
    )


def test_after_real_countries_a_demo_with_a_sample_says_of_which_the_clusters_are(
    second_demo: subprocess.CompletedProcess[str],
) -> None:
    summary = json.loads(second_demo.stdout)
    assert summary["countries"]["is_sample"] is True
    assert summary["countries"]["clusters_are_of_sample"] is False
    assert summary["notice"].startswith("THE COUNTRIES SENT NOW ARE A SYNTHETIC SAMPLE, NOT REAL DATA")
    assert "THE CLUSTERS ARE OF THE REAL DATA OF AN EARLIER RUN" in summary["notice"]


def test_a_renamed_column_ends_the_demo_with_one_sentence_that_names_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    source = tmp_path / "renamed.csv"
    source.write_text("country,year,iso_code,population,gdp,co2_total,co2_per_capita\n", encoding="utf-8")
    done = scopehouse("demo", "--json", environment=environment | {"SCOPEHOUSE_OWID_CO2_SOURCE": str(source)})
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error:" in done.stderr
    assert "co2" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_refuses_servers_that_are_not_its_own(environment: dict[str, str]) -> None:
    foreign = {"DATABASE_URL": "postgresql://someone@127.0.0.1:1/production"}
    done = scopehouse("demo", environment=environment | foreign)
    assert done.returncode == 1
    assert "DATABASE_URL points at a server that is not the demo's own" in done.stderr


def test_down_leaves_no_process_and_up_keeps_the_data(environment: dict[str, str]) -> None:
    before = trips(environment)
    assert before > 0
    assert scopehouse("down", environment=environment).returncode == 0
    assert processes_that_name(environment["SCOPEHOUSE_STATE_DIR"]) == []
    assert scopehouse("up", environment=environment).returncode == 0
    assert trips(environment) == before


def trips(environment: dict[str, str]) -> int:
    """How many the fact holds, read with what `scopehouse env` prints."""
    script = 'eval "$(python -m scopehouse env)" && psql -XAtc "select count(*) from mobility.fct_trip_emissions"'
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(["/bin/sh", "-c", script], env=environment | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def processes_that_name(folder: str) -> list[list[str]]:
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [words for words in commands if any(folder in word for word in words)]


def test_a_wrong_call_exits_with_2(environment: dict[str, str]) -> None:
    assert scopehouse("demo", "--events", "none", environment=environment).returncode == 2
