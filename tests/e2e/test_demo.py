"""The demo as a user runs it: a command, on servers of its own, again and again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.settings import PROJECT_ROOT
from tests.integration.conftest import CONNECTIONS, embedded_environment

OWID_CO2 = PROJECT_ROOT.parent / "shared" / "data" / "countries" / "owid_co2.csv"


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
    # A source that can't be reached, as on a machine without a network.
    unreachable = {"HTTPS_PROXY": "http://127.0.0.1:9", "SCOPEHOUSE_OWID_CO2_SOURCE": ""}
    summary = demo(environment, 300, **unreachable)
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
