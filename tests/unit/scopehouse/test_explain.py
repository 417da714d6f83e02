"""The formulas of a trip, computed here and compared with what is stored."""

from __future__ import annotations

from typing import Any

import pytest

from scopehouse.explanation import formulas_of, position_of, unit_of

MODEL = {"scope1_kg_co2e_per_km": 0.5, "scope2_kg_co2e_per_km": -0.75, "purchase_price_usd": 1024.0}
FACTOR = {"kg_co2e_per_usd": 0.125}
ROW: dict[str, Any] = {
    "journey_km": 8.0,
    "total_km": 64.0,
    "scope1_kg_co2e": 4.0,
    "scope2_market_kg_co2e": 0.0,
    "avoided_kg_co2e": -6.0,
    "operating_kg_co2e": -2.0,
    "total_operating_kg_co2e": -16.0,
    "production_kg_co2e": 128.0,
    "break_even_percent": 12.5,
}


def test_every_formula_has_its_numbers_and_agrees() -> None:
    formulas = formulas_of(ROW, MODEL, FACTOR, None)
    assert [each.column for each in formulas] == [name for name in ROW if name not in ("journey_km", "total_km")]
    assert all(each.agrees for each in formulas)
    assert {each.column: each.with_numbers for each in formulas}["avoided_kg_co2e"] == "min(-0.75, 0) kg CO2e/km * 8 km"


@pytest.mark.parametrize("column", [name for name in ROW if name.endswith(("_co2e", "_percent"))])
def test_any_number_that_is_not_what_it_computes_to_is_shown(column: str) -> None:
    formulas = formulas_of({**ROW, column: ROW[column] + 0.001}, MODEL, FACTOR, None)
    assert column in [each.column for each in formulas if not each.agrees]
    assert column in [
        each.column for each in formulas_of({**ROW, column: None}, MODEL, FACTOR, None) if not each.agrees
    ]


def test_climatiqs_estimate_takes_the_place_of_price_and_factor() -> None:
    row = {**ROW, "production_kg_co2e": 64.0, "break_even_percent": 25.0}
    assert all(each.agrees for each in formulas_of(row, MODEL, FACTOR, {"kg_co2e": 64.0}))


def test_a_production_of_nothing_is_a_number_and_is_never_broken_even() -> None:
    row = {**ROW, "production_kg_co2e": 0.0, "break_even_percent": None}
    *_, production, break_even = formulas_of(row, MODEL, FACTOR, {"kg_co2e": 0.0})
    assert (production.result, production.agrees) == (0.0, True)
    assert (break_even.with_numbers, break_even.result, break_even.agrees) == (
        "-(-16) kg CO2e / 0 kg CO2e * 100",
        None,
        True,
    )


def test_without_a_price_there_is_no_production() -> None:
    row = {**ROW, "production_kg_co2e": None, "break_even_percent": None}
    *_, production, break_even = formulas_of(row, {**MODEL, "purchase_price_usd": None}, FACTOR, None)
    assert (production.with_numbers, production.agrees) == ("(not known) USD * 0.125 kg CO2e/USD", True)
    assert (break_even.result, break_even.agrees) == (None, True)


def test_a_keys_measurement_is_found_by_its_place() -> None:
    assert (position_of("17-2", 17, 3), position_of("17-2", 17, 1), position_of("17-2", 18, 3)) == (2, None, None)


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        ("journey_km", "km"),
        ("scope1_kg_co2e_per_km", "kg CO2e/km"),
        ("kg_co2e_per_usd", "kg CO2e/USD"),
        ("operating_kg_co2e", "kg CO2e"),
        ("break_even_percent", "%"),
        ("purchase_price_usd", "USD"),
        ("event_id", ""),
    ],
)
def test_a_columns_name_ends_with_its_unit(column: str, unit: str) -> None:
    assert unit_of(column) == unit
