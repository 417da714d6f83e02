"""What the models say, on data known beforehand."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from services.settings import PROJECT_ROOT
from tests.integration.dbt_project.warehouse import CONTENTS, MEASUREMENTS, TRIPS, BikeChange, Warehouse, measurement

OWID = PROJECT_ROOT.parent / "shared" / "data" / "countries" / "owid_co2.csv"
COUNTRIES = ("fct_country_year_emissions", "mart_country_features")
FEATURES = "select country, data_points, avg_co2, is_sample from countries.mart_country_features order by 1"


@pytest.fixture
def countries(warehouse: Warehouse) -> Warehouse:
    warehouse.owner.execute("truncate raw.emissions_topic")
    return warehouse


def land(warehouse: Warehouse, rows: Iterable[tuple[Any, ...]]) -> None:
    """Rows: country, year, iso_code, population, gdp, co2, co2_per_capita, is_sample, partition, offset."""
    with (
        warehouse.owner.cursor() as cursor,
        cursor.copy(
            "copy raw.emissions_topic (country, year, iso_code, population, gdp, co2, co2_per_capita, is_sample,"
            " _kafka_partition, _kafka_offset) from stdin"
        ) as copy,
    ):
        for row in rows:
            copy.write_row(row)


def years(
    country: str, co2: float, offset: int, iso_code: str = "ABC", is_sample: bool = False
) -> list[tuple[Any, ...]]:
    return [(country, 2001 + n, iso_code, 10.0, 20.0, co2, 1.0, is_sample, 0, offset + n) for n in range(5)]


def content_hashes(warehouse: Warehouse) -> dict[str, str]:
    """A hash of the rows of every mart, by its name."""
    assert warehouse.dbt.manifest is not None
    marts = [
        node.relation_name
        for node in warehouse.dbt.manifest.nodes.values()
        if node.resource_type == "model" and node.fqn[1] == "marts" and "ml" not in node.tags
        # What operations shows is the runs themselves.
        if node.schema != "operations"
    ]
    return {
        name: warehouse.value(f"select md5(string_agg(mart::text, chr(10) order by mart::text)) from {name} as mart")
        for name in marts
    }


def test_a_second_build_leaves_the_same_content_and_every_data_test_passes(warehouse: Warehouse) -> None:
    """Also with a corrected and a deleted bike model, and with records that no build could compute with."""
    start = 1_700_000_000
    warehouse.append(
        (event, event % 3, event // 3, start + event, [measurement(model=5 + event % 3), measurement(vehicle=2)])
        for event in range(99)
    )
    warehouse.append([(0, 0, 50, start, [measurement(journey=9.0)])])
    lengths = (5e-324, 1.5e308, 1.5e308)
    warehouse.append((200 + n, 1, 50 + n, start + n, [measurement(journey=km)]) for n, km in enumerate(lengths))
    warehouse.append_changes(
        [
            BikeChange(6, "u", start - 1_000, start + 5, 20, scope2=-0.03),  # a correction of the past
            BikeChange(7, "d", 1_600_000_000, start + 10, 21),  # holds until event 10
            BikeChange(8, "c", start, start, 22, price_usd=-5.0),
            BikeChange(9, "c", start, start, 23, price_usd=1e308, scope1=1e-320, scope2=1e308),
        ]
    )
    warehouse.dbt("build", "--exclude", "tag:ml", "source:ml")
    first = content_hashes(warehouse)
    warehouse.dbt("build", "--exclude", "tag:ml", "source:ml")
    assert content_hashes(warehouse) == first
    assert len(first) > 10
    withdrawn = sum(event % 3 == 2 for event in range(10, 99))
    assert warehouse.value(f"select count(*) from mobility.{TRIPS}") == 2 * 99 - withdrawn
    rejected = "select rejection_reason, count(*) from mobility.rejected_measurements group by 1 order by 1"
    reasons = {"conflicting_content": 1, "impossible_km": len(lengths), "unknown_bike_model": withdrawn}
    assert warehouse.rows(rejected) == list(reasons.items())
    corrected = f"select count(*) from mobility.{TRIPS} where operating_kg_co2e < -0.19"
    assert warehouse.value(corrected) == 33


def test_the_earlier_systems_numbers_come_out(warehouse: Warehouse) -> None:
    bikes = [measurement(vehicle=model, model=model, journey=10, total=21_000) for model in (5, 6, 7)]
    warehouse.append([(1, 0, 0, 1_700_000_000, bikes)])
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    found = warehouse.rows(
        "select bike_model_id, operating_kg_co2e, production_kg_co2e, break_even_percent"
        f" from mobility.{TRIPS} order by 1"
    )
    prices = {5: (1912.15, 0.005 - 0.016), 6: (2171.29, 0.005 - 0.021), 7: (1481.94, 0.005 - 0.011)}
    for model, operating, production, percent in found:
        price, factor = prices[model]
        assert operating == pytest.approx(factor * 10)
        assert production == pytest.approx(price * 0.162)
        assert percent == pytest.approx(abs(factor * 21_000) / (price * 0.162) * 100)
    assert [round(production, 2) for _, _, production, _ in found] == [309.77, 351.75, 240.07]


@pytest.mark.skipif(not OWID.exists(), reason="the OWID file is not beside the repository")
def test_the_owid_file_has_164_countries_whatever_the_order_of_its_rows(countries: Warehouse) -> None:
    with Path(OWID).open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("population", "gdp", "co2", "co2_per_capita")

    def load(ordered: list[dict[str, str]]) -> list[tuple[Any, ...]]:
        countries.owner.execute("truncate raw.emissions_topic")
        numbers = itertools.count()
        land(
            countries,
            (
                (
                    row["country"],
                    row["year"],
                    row["iso_code"],
                    *(row[name] or None for name in names),
                    False,
                    0,
                    next(numbers),
                )
                for row in ordered
            ),
        )
        countries.dbt.run(*COUNTRIES)
        return countries.rows("select * from countries.mart_country_features order by 1")

    features = load(rows)
    assert len(features) == 164
    assert not {name for name, *_ in features} & {"World", "Europe", "Asia", "High-income countries"}
    assert load(rows[::-1]) == features


def test_a_later_edition_revises_and_a_replay_of_an_old_record_does_not(countries: Warehouse) -> None:
    land(countries, [*years("A", 1.0, 0), *years("A", 2.0, 5)])
    land(countries, [("A", 2001, "ABC", 1, 1, 99.0, 1, False, -1, 1_000)])
    countries.dbt.run(*COUNTRIES)
    assert countries.rows(FEATURES) == [("A", 5, 2.0, False)]


def test_sample_rows_never_mix_with_real_ones(countries: Warehouse) -> None:
    land(countries, [*years("A", 1.0, 0, is_sample=True), *years("B", 2.0, 5, "BBB", is_sample=True)])
    countries.dbt.run(*COUNTRIES)
    assert countries.rows(FEATURES) == [("A", 5, 1.0, True), ("B", 5, 2.0, True)]
    land(countries, [*years("A", 3.0, 10), *years("A", 4.0, 20, is_sample=True)])
    countries.dbt.run(*COUNTRIES)
    assert countries.rows(FEATURES) == [("A", 5, 3.0, False)]


def test_aggregates_stay_out_and_kosovo_is_a_country(countries: Warehouse) -> None:
    land(countries, years("World", 1.0, 0, ""))
    land(countries, years("Asia", 1.0, 10, "OWID_ASI"))
    land(countries, years("Kosovo", 1.0, 20, ""))
    land(countries, years("Kosovo (old)", 1.0, 30, "OWID_KOS")[:4])
    countries.dbt.run(*COUNTRIES)
    assert countries.rows("select country, iso_code from countries.mart_country_features") == [("Kosovo", "XKX")]


def test_the_views_show_the_latest_run_of_clusters(warehouse: Warehouse) -> None:
    warehouse.transform.execute((PROJECT_ROOT / "ml" / "schema.sql").read_bytes())
    for run, created_at in (("old", "2025-01-02"), ("new", "2025-01-03")):
        warehouse.transform.execute(
            "insert into ml.cluster_runs (run_id, created_at, recipe, k, inertia, silhouette, sizes, library_version,"
            " input_row_count, input_hash, is_sample) values (%s, %s, 'test', 1, 0, 0, '{12}', '1', 12, '', false)",
            [run, created_at],
        )
        warehouse.transform.execute(
            "insert into ml.co2_clusters"
            " select %s, 'country ' || n, 'C' || n, n, 1, 1, 1, 5, 2000, 2004, null, 0, 1, now()"
            " from generate_series(1, 12) as n",
            [run],
        )
        warehouse.transform.execute("insert into ml.cluster_stats values (%s, 0, 12, 1, 1, 1, 1, now())", [run])
    warehouse.dbt("build", "--select", "tag:ml")
    assert warehouse.rows("select run_id, count(*) from ml.cluster_analysis group by 1") == [("new", 12)]
    top = warehouse.rows("select emitter_rank, avg_co2 from ml.top_emitters_by_cluster order by 1")
    assert top == [(rank, 13.0 - rank) for rank in range(1, 11)]


def test_the_yaml_lists_the_columns_that_the_database_has(warehouse: Warehouse) -> None:
    """Of sources, seeds and models; the views on the clusters apart, whose contracts dbt checks."""
    warehouse.transform.execute((PROJECT_ROOT / "ml" / "schema.sql").read_bytes())
    found = {
        (schema, table): set(columns)
        for schema, table, columns in warehouse.rows(
            "select relnamespace::regnamespace::text, relname::text, array_agg(attname::text) from pg_attribute"
            " inner join pg_class on pg_class.oid = attrelid where attnum > 0 and not attisdropped group by 1, 2"
        )
    }
    assert warehouse.dbt.manifest is not None
    models = [
        node
        for node in warehouse.dbt.manifest.nodes.values()
        if node.resource_type in ("model", "seed") and "ml" not in node.tags
    ]
    listed = {(node.schema, node.alias): set(node.columns) for node in models}
    listed |= {
        (source.schema, source.identifier): set(source.columns) for source in warehouse.dbt.manifest.sources.values()
    }
    differing = {table: columns ^ found[table] for table, columns in listed.items() if columns != found[table]}
    assert differing == {}
