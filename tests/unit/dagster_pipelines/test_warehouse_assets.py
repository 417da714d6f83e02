"""The pure parts between dbt's manifest and Dagster's assets."""

from __future__ import annotations

import dagster as dg
import pytest

from dagster_pipelines.dbt_project import NodeResult
from dagster_pipelines.translator import WarehouseTranslator, domain_of
from dagster_pipelines.warehouse import downstream_of, failure_sentence, selectors


@pytest.mark.parametrize(
    ("resource_type", "fqn", "domain"),
    [
        ("seed", ["scopehouse", "bike_models"], "reference"),
        ("model", ["scopehouse", "staging", "owid", "stg_owid__x"], "countries"),
        ("model", ["scopehouse", "staging", "tracking", "stg_tracking__x"], "mobility"),
        ("model", ["scopehouse", "intermediate", "mobility", "int_x"], "mobility"),
        ("model", ["scopehouse", "marts", "energy", "fct_x"], "energy"),
        ("model", ["scopehouse", "marts", "ml", "cluster_analysis"], "countries"),
    ],
)
def test_the_domain_is_read_from_the_folder(resource_type: str, fqn: list[str], domain: str) -> None:
    assert domain_of({"resource_type": resource_type, "fqn": fqn}) == domain


@pytest.mark.parametrize(
    "props",
    [
        {"schema": "raw", "name": "events", "identifier": "tracking_events"},
        {"schema": "raw", "name": "tracking_events_v2", "alias": "tracking_events"},
        {"schema": "raw", "name": "tracking_events"},
    ],
    ids=["source", "aliased", "plain"],
)
def test_a_key_is_schema_and_relation(props: dict[str, str]) -> None:
    assert WarehouseTranslator().get_asset_key(props) == dg.AssetKey(["raw", "tracking_events"])


def test_downstream_is_near_and_far_and_without_the_roots() -> None:
    children = {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": [], "e": ["a"]}
    assert downstream_of({"child_map": children}, ["a"]) == {"b", "c", "d"}


def test_selectors_name_just_the_nodes() -> None:
    nodes = [{"fqn": ["s", "marts", "b"]}, {"fqn": ["s", "marts", "a"]}]
    assert selectors(nodes) == ["fqn:s.marts.a", "fqn:s.marts.b"]


def test_a_failure_names_all_that_failed_and_quotes_the_first() -> None:
    failed = [
        NodeResult("test.s.unique_a.1", "unique_a", "fail", 0.1, "Got 2 results\n", 2),
        NodeResult("model.s.b", "b", "error", 0.1, "no such column", None),
    ]
    assert failure_sentence(failed) == "dbt: 2 failed (unique_a, b): Got 2 results"
