"""Each dashboard in a browser: every chart is filled, without an error, and its number is what SQL says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import yaml
from playwright.sync_api import Page, Response, expect

from services.embedded.superset import Superset
from services.settings import Settings
from services.superset import files
from services.superset.files import Tree

FILES = files.read()
DASHBOARDS = {path.split("/")[0]: content for path, content in files.of_kind(FILES, "dashboards").items()}
CHARTS = {content["uuid"]: content for content in files.of_kind(FILES, "charts").values()}
DATASETS = files.of_kind(FILES, "datasets")
NUMBERS = yaml.safe_load(Path(__file__).with_name("numbers.yaml").read_text())
ERRORS = "[role=alert].ant-alert-error, .missing-chart-container, [data-test=error-boundary]"


def test_every_chart_has_a_number_to_compare() -> None:
    assert set(NUMBERS) == {chart["slice_name"] for chart in CHARTS.values()}


@pytest.mark.parametrize("domain", DASHBOARDS)
def test_every_chart_of_a_dashboard_shows_what_sql_says(
    domain: str, superset: Superset, admin_page: Page, warehouse: Settings
) -> None:
    charts = [CHARTS[meta["uuid"]] for meta in files.charts_on(DASHBOARDS[domain])]
    answers: dict[int, Response] = {}

    def keep(response: Response) -> None:
        if (number := _chart_of(response)) is not None:
            answers[number] = response

    admin_page.on("response", keep)
    began = time.monotonic()
    admin_page.goto(f"{superset.url}/superset/dashboard/{domain}/")
    tiles = admin_page.locator("[data-test-chart-id]")
    expect(tiles).to_have_count(len(charts), timeout=120_000)
    expect(admin_page.locator("[data-test=loading-indicator]")).to_have_count(0, timeout=120_000)
    deadline = time.monotonic() + 120
    while len(answers) < len(charts) and time.monotonic() < deadline:
        admin_page.wait_for_timeout(100)
    seconds = time.monotonic() - began
    admin_page.remove_listener("response", keep)
    assert admin_page.locator(ERRORS).all_inner_texts() == []

    numbers = {str(tile.get_attribute("data-test-chart-name")): tile for tile in tiles.all()}
    slowest = 0.0
    for chart in charts:
        name, tile = chart["slice_name"], numbers[chart["slice_name"]]
        response = answers[int(str(tile.get_attribute("data-test-chart-id")))]
        slowest = max(slowest, response.request.timing["responseEnd"] / 1000)
        rows = _rows(name, response)
        shown, wanted = _number(chart, rows), _asked_sql(warehouse, name)
        assert shown == pytest.approx(wanted, rel=1e-9), name
        if chart["viz_type"] == "big_number_total":
            expect(tile.locator(".header-line")).to_have_text(_formatted(wanted, _format_of(chart)))
    print(f"{domain}: {len(charts)} charts filled in {seconds:.1f} s, the slowest answer in {slowest:.2f} s")  # noqa: T201


def _chart_of(response: Response) -> int | None:
    """The chart that a response is for; None where it is no chart's."""
    parts = urlsplit(response.url)
    if parts.path not in ("/api/v1/chart/data", "/superset/explore_json/"):
        return None
    form = json.loads(parse_qs(parts.query).get("form_data", ["{}"])[0])
    return int(form["slice_id"]) if "slice_id" in form else None


def _rows(name: str, response: Response) -> list[Tree]:
    answer = response.json()
    assert response.status == 200, (name, answer)
    if "result" not in answer:
        rows = answer["data"]
    else:
        assert answer["result"][0]["error"] is None, (name, answer)
        assert answer["result"][0]["cached_dttm"] is None, name  # else a query would go unseen
        rows = answer["result"][0]["data"]
    assert rows, f"{name} has no rows"
    return list(rows)


def _number(chart: Tree, rows: Iterable[Tree]) -> float:
    column, axis = NUMBERS[chart["slice_name"]].get("column"), chart["params"].get("x_axis")
    wanted = (value for row in rows for name, value in row.items() if (name == column if column else name != axis))
    return float(sum(value or 0 for value in wanted))


def _asked_sql(warehouse: Settings, chart: str) -> float:
    entry: dict[str, Any] = NUMBERS[chart]
    url = warehouse.url_of(entry.get("as", "bi"))
    with psycopg.connect(url) as connection:
        (number,) = connection.execute(entry["sql"]).fetchone() or (None,)
    return float(number)


def _format_of(chart: Tree) -> str:
    """How its metric is written, which the dbt project says."""
    dataset = next(one for one in DATASETS.values() if one["uuid"] == chart["dataset_uuid"])
    found: str = next(one["d3format"] for one in dataset["metrics"] if one["metric_name"] == chart["params"]["metric"])
    return found


def _formatted(number: float, d3_format: str) -> str:
    return f"{number:{d3_format.replace('d', '.0f')}}"
