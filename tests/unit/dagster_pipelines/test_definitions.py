"""The whole graph, loaded with no server running."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest

from dagster_pipelines.definitions import build_defs
from dagster_pipelines.topics import STANDSTILL
from services.settings import Settings

GROUPS = {
    "countries": {
        "raw/emissions_topic",
        "staging/stg_owid__country_years",
        "intermediate/int_countries__latest_revisions",
        "intermediate/int_countries__verdicts",
        "countries/fct_country_year_emissions",
        "countries/mart_country_features",
        "countries/rejected_country_years",
        "ml/cluster_runs",
        "ml/co2_clusters",
        "ml/cluster_stats",
        "ml/cluster_analysis",
        "ml/cluster_quality",
        "ml/country_emissions_by_cluster",
        "ml/top_emitters_by_cluster",
    },
    "mobility": {
        "raw/adventure_public_bike_emissions",
        "raw/tracking_events",
        "raw/climatiq_estimates",
        "raw/climatiq_releases",
        "ingest/api_calls",
        "staging/stg_adventure__bike_model_changes",
        "staging/stg_tracking__dead_letters",
        "staging/stg_tracking__events",
        "staging/stg_climatiq__estimates",
        "staging/stg_climatiq__releases",
        "staging/stg_climatiq__calls",
        "intermediate/int_mobility__climatiq_attempts",
        "intermediate/int_mobility__climatiq_estimates",
        "intermediate/int_mobility__event_contents",
        "intermediate/int_mobility__events",
        "intermediate/int_mobility__measurements",
        "mobility/dim_bike_model",
        "mobility/dim_emission_factor",
        "mobility/dim_production_estimate",
        "mobility/fct_trip_emissions",
        "mobility/rejected_measurements",
        "mobility/mart_bike_break_even",
        "mobility/mart_customer_savings",
        "mobility/mart_factor_coverage",
        "mobility/mart_model_savings_daily",
    },
    "operations": {
        "ingest/dead_letters",
        "ingest/model_offsets",
        "ingest/offsets",
        "operations/dbt_results",
        "operations/dbt_runs",
        "operations/dead_letter_reasons",
        "operations/landed_partitions",
        "operations/model_lags",
        "operations/test_results",
    },
    "reference": {"reference/emission_factors"},
}


@pytest.fixture(scope="module")
def definitions(nowhere: Settings) -> dg.Definitions:
    return build_defs(nowhere)


def test_every_asset_is_in_the_group_of_its_domain(definitions: dg.Definitions) -> None:
    found: dict[str, set[str]] = {}
    for spec in definitions.resolve_all_asset_specs():
        found.setdefault(str(spec.group_name), set()).add(spec.key.to_user_string())
    assert found == GROUPS


def test_every_asset_is_described(definitions: dg.Definitions) -> None:
    assert [spec.key for spec in definitions.resolve_all_asset_specs() if not spec.description] == []


def test_every_dbt_test_is_a_check(definitions: dg.Definitions, manifest: Mapping[str, Any]) -> None:
    data_tests = [node for node in manifest["nodes"].values() if node["resource_type"] == "test"]
    tests = {node["name"] for node in (*data_tests, *manifest["unit_tests"].values())}
    checks = {key.name for key in definitions.resolve_asset_graph().asset_check_keys}
    assert checks == tests | {STANDSTILL}
    assert manifest["unit_tests"]


def test_the_demo_runs_everything_in_order(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def("demo")
    assert job.asset_layer.selected_asset_keys == definitions.resolve_asset_graph().materializable_asset_keys
    steps = "drain_topics dbt_build dbt_build_countries cluster_countries dbt_build_on_clusters"
    assert [node.name for node in job.nodes_in_topological_order] == steps.split()


def test_no_step_of_dbt_hangs_on_another_domains(definitions: dg.Definitions) -> None:
    """Dagster stops all that hangs on a step that failed: what is of countries alone goes on when mobility fails."""
    graph = definitions.resolve_asset_graph()
    steps = {definition.op.name: definition.keys for definition in graph.assets_defs if definition.is_executable}
    for step in ("dbt_build_countries", "cluster_countries", "dbt_build_on_clusters"):
        hangs_on = set().union(*(graph.get(key).parent_keys for key in steps[step]))
        assert {graph.get(key).group_name for key in steps[step] | hangs_on} == {"countries"}
    hangs_on = set().union(*(graph.get(key).parent_keys for key in steps["dbt_build"]))
    assert hangs_on.isdisjoint(steps["dbt_build_countries"] | steps["dbt_build_on_clusters"])


@pytest.mark.parametrize(("name", "job"), [("hourly", "demo"), ("nightly_retention", "expire_dead_letters")])
def test_a_schedule_is_off_until_turned_on(definitions: dg.Definitions, name: str, job: str) -> None:
    schedule = definitions.resolve_schedule_def(name)
    assert schedule.job_name == job
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
