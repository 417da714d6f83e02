"""Records that can't be true: they are kept and counted, and stop nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.dbt_project.test_models import FEATURES, land, years
from tests.integration.dbt_project.warehouse import Warehouse

REJECTED = "select country, year, rejection_reason, source_offset from countries.rejected_country_years order by 4"


def record(
    offset: int, country: str = "Z", year: int = 2001, iso_code: str = "ZZZ", **numbers: float
) -> tuple[Any, ...]:
    """A record as `land` takes it."""
    most = {"population": 10.0, "gdp": 20.0, "co2": 1.0, "co2_per_capita": 1.0, **numbers}
    return (country, year, iso_code, *most.values(), False, 0, offset)


@pytest.fixture
def countries(warehouse: Warehouse) -> Warehouse:
    warehouse.owner.execute("truncate raw.emissions_topic")
    land(warehouse, [*years("A", 1.0, 0), *years("B", 2.0, 5, "BBB")])
    return warehouse


def build(warehouse: Warehouse) -> None:
    """Build what is made of the topic, its data tests and unit tests too: none may fail."""
    warehouse.dbt("build", "--select", "source:owid+", "--exclude", "tag:ml")


def test_no_record_of_a_sender_stops_the_models_or_their_tests(countries: Warehouse) -> None:
    land(
        countries,
        [
            record(100, year=300_000),
            record(101, year=-2_000_000_000),
            record(102, year=0),
            record(103, country=""),
            record(104, country="Z" * 5_000),
            record(105, year=2002, population=-1.0),
            record(106, year=2003, gdp=1e308),
            record(107, year=2004, co2=-1e-9),
            record(108, year=2005, co2_per_capita=1e6),
            # The code of another country, and another code of a country.
            record(109, country="A", year=2030, iso_code="BBB"),
            record(110, country="A", year=2031, iso_code="YYY"),
        ],
    )
    land(countries, years("Renamed B", 3.0, 120, "BBB"))
    build(countries)
    assert countries.rows(FEATURES) == [("A", 5, 1.0, False), ("B", 5, 2.0, False)]
    assert countries.rows("select distinct country from countries.fct_country_year_emissions order by 1") == [
        ("A",),
        ("B",),
    ]
    assert countries.rows(REJECTED)[:11] == [
        ("Z", 300_000, "impossible_year", 100),
        ("Z", -2_000_000_000, "impossible_year", 101),
        ("Z", 0, "impossible_year", 102),
        ("", 2001, "impossible_country", 103),
        ("Z" * 5_000, 2001, "impossible_country", 104),
        ("Z", 2002, "impossible_population", 105),
        ("Z", 2003, "impossible_gdp", 106),
        ("Z", 2004, "impossible_co2", 107),
        ("Z", 2005, "impossible_co2_per_capita", 108),
        ("A", 2030, "conflicting_iso_code", 109),
        ("A", 2031, "conflicting_iso_code", 110),
    ]
    assert {(name, why) for name, _, why, _ in countries.rows(REJECTED)[11:]} == {("Renamed B", "conflicting_iso_code")}


def test_an_edition_that_renames_a_country_takes_its_place(countries: Warehouse) -> None:
    land(countries, [*years("The New B", 3.0, 100, "BBB"), record(105, country="The New B", year=2006, iso_code="BBB")])
    build(countries)
    assert [name for name, *_ in countries.rows(FEATURES)] == ["A", "The New B"]
    assert {name for name, *_ in countries.rows(REJECTED)} == {"B"}


def test_a_rejected_revision_hides_no_good_one_and_goes_when_a_good_one_comes(countries: Warehouse) -> None:
    held = "select co2_million_tonnes from countries.fct_country_year_emissions where (country, year) = ('A', 2001)"
    land(countries, [record(100, country="A", iso_code="ABC", co2=-1.0)])
    build(countries)
    assert (countries.rows(held), countries.rows(REJECTED)) == ([(1.0,)], [("A", 2001, "impossible_co2", 100)])
    land(countries, [record(101, country="A", iso_code="ABC", co2=7.0)])
    build(countries)
    assert (countries.rows(held), countries.rows(REJECTED)) == ([(7.0,)], [])
