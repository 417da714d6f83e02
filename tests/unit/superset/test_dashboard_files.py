"""The gate on files: what charts ask for is in the dbt project, and what is generated is up to date."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.superset import files, from_dbt
from services.superset.files import ASSETS, Tree

MARTS = from_dbt.marts()


def assets(marts: list[from_dbt.Mart] = MARTS) -> dict[str, Tree]:
    """The files in git, with datasets made of `marts`."""
    written = {path: content for path, content in files.read().items() if not path.startswith("datasets/")}
    return {**written, **from_dbt.datasets(marts)}


def without(schema_table: str, column: str) -> list[from_dbt.Mart]:
    """The dbt project after `column` was dropped."""
    found = []
    for mart in MARTS:
        columns = mart.columns
        if f"{mart.schema}.{mart.name}" == schema_table:
            columns = tuple(one for one in columns if one["name"] != column)
            assert len(columns) < len(mart.columns)
        found.append(from_dbt.Mart(mart.schema, mart.name, mart.description, columns, mart.meta))
    return found


def test_what_is_generated_is_what_the_dbt_project_says() -> None:
    from_dbt.main(["--check"])


def test_a_dropped_column_that_a_chart_uses_fails_with_the_charts_name() -> None:
    dropped = without("mobility.mart_bike_break_even", "break_even_state")
    # The metric that reads it goes with it, as it would in an edit of the model's YAML.
    for mart in dropped:
        if mart.name == "mart_bike_break_even":
            metrics = [one for one in mart.meta["metrics"] if "break_even_state" not in one["expression"]]
            dropped[dropped.index(mart)] = from_dbt.Mart(
                mart.schema, mart.name, mart.description, mart.columns, {**mart.meta, "metrics": metrics}
            )
    with pytest.raises(from_dbt.BrokenChartError) as refused:
        from_dbt.check(assets(dropped))
    assert 'The chart "Bikes closest to break even" asks for break_even_state' in str(refused.value)


def test_a_dropped_column_that_a_metric_reads_fails_with_the_metrics_name() -> None:
    with pytest.raises(
        from_dbt.BrokenChartError, match=r"metric saved of mobility.mart_model_savings_daily reads saved"
    ):
        from_dbt.check(assets(without("mobility.mart_model_savings_daily", "saved_kg_co2e")))


def _rename_metric(params: Tree) -> None:
    params["metric"] = "gone"


def _filter_by_sql(params: Tree) -> None:
    params["adhoc_filters"] = [{"expressionType": "SQL", "sqlExpression": "gone > 3 and country = 'nowhere'"}]


def _filter_simply(params: Tree) -> None:
    params["adhoc_filters"] = [{"expressionType": "SIMPLE", "subject": "gone", "operator": "==", "comparator": 1}]


@pytest.mark.parametrize("edit", [_rename_metric, _filter_by_sql, _filter_simply])
def test_every_way_in_which_a_chart_asks_is_looked_at(edit: Callable[[Tree], None]) -> None:
    edited = copy.deepcopy(assets())
    edit(edited["countries/charts/countries-clustered.yaml"]["params"])
    with pytest.raises(from_dbt.BrokenChartError, match='The chart "Countries clustered" asks for gone, which ml'):
        from_dbt.check(edited)


def test_a_filter_of_a_dashboard_on_a_dropped_column_fails_with_its_name() -> None:
    edited = copy.deepcopy(assets())
    configured = edited["countries/dashboard.yaml"]["metadata"]["native_filter_configuration"]
    next(one for one in configured if one["name"] == "Country")["targets"][0]["column"]["name"] = "gone"
    with pytest.raises(from_dbt.BrokenChartError, match=r"The filter Country of countries/dashboard.yaml reads gone"):
        from_dbt.check(edited)


def test_every_uuid_is_one_objects() -> None:
    uuids = [content["uuid"] for content in files.read().values()]
    assert len(uuids) == len(set(uuids))


def test_every_chart_is_on_a_dashboard_and_every_dashboard_starts_with_numbers() -> None:
    written = files.read()
    charts = {content["uuid"]: content for content in files.of_kind(written, "charts").values()}
    shown = [
        [charts[meta["uuid"]] for meta in files.charts_on(dashboard)]
        for dashboard in files.of_kind(written, "dashboards").values()
    ]
    assert sorted(chart["uuid"] for row in shown for chart in row) == sorted(charts)
    for row in shown:
        assert all(chart["viz_type"].startswith("big_number") for chart in row[:4])


def test_exposures_lead_from_marts_to_every_chart() -> None:
    exposures = yaml.safe_load((from_dbt.DBT_PROJECT / from_dbt.EXPOSURES).read_text())["exposures"]
    kinds = [one["type"] for one in exposures]
    assert kinds.count("analysis") == len(files.of_kind(files.read(), "charts"))
    assert kinds.count("dashboard") == len(files.of_kind(files.read(), "dashboards"))
    assert all(one["depends_on"] for one in exposures)


def _as_superset_numbers_it(content: Tree, first: int) -> Tree:
    """A dashboard as one server exports it: its own numbers of charts, what its browser worked out, another order."""
    exported: Any = copy.deepcopy(content)
    for number, item in enumerate(exported["position"].values()):
        if isinstance(item, dict) and item.get("type") == "CHART":
            item["meta"]["chartId"] = first + number
    exported["metadata"]["chart_configuration"] = {str(first): {"id": first}}
    for one in exported["metadata"]["native_filter_configuration"]:
        one["chartsInScope"] = [first]
    exported["position"] = dict(reversed(exported["position"].items()))
    return exported  # type: ignore[no-any-return]


def test_an_export_gives_the_files_in_git_whatever_numbers_the_server_gave(tmp_path: Path) -> None:
    written = files.read()
    exported: dict[str, Tree] = {}
    for path, content in written.items():
        name = path.replace("/", "_")
        if path in files.of_kind(written, "dashboards"):
            exported[f"dashboards/{name}"] = _as_superset_numbers_it(content, 70)
        elif path in files.of_kind(written, "charts"):
            params = {**content["params"], "datasource": "7__table", "slice_id": 7, "viz_type": content["viz_type"]}
            exported[f"charts/{name}"] = {**content, "params": params, "query_context": None}
    made = files.normal(exported, written)
    assert {path: files.text_of(content) for path, content in made.items()} == {
        path: (ASSETS / path).read_text() for path in written if not path.startswith(("databases/", "datasets/"))
    }
