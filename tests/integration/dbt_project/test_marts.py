"""What is built above the fact, and whose number production is."""

from __future__ import annotations

import json

from tests.fakes.climatiq import FakeClimatiq
from tests.integration.dbt_project.warehouse import (
    BIKE_MODELS,
    CONTENTS,
    MEASUREMENTS,
    BikeChange,
    Warehouse,
    measurement,
)

ACTIVITY = (
    "passenger_vehicle-vehicle_type_motorcycle_bicycle_parts-fuel_source_na-engine_size_na-vehicle_age_na"
    "-vehicle_weight_na"
)
PRODUCTION = (
    "select bike_model_id, round(production_kg_co2e::numeric, 2)::float8, factor_source, release"
    " from mobility.fct_trip_emissions inner join mobility.dim_emission_factor using (emission_factor_key) order by 1"
)


def build_on_climatiq(warehouse: Warehouse) -> dict[str, str]:
    return warehouse.dbt.run(
        "int_mobility__climatiq_estimates", "dim_emission_factor", "dim_production_estimate", MEASUREMENTS
    )


def answer(warehouse: Warehouse, price: float, release: str, minute: int) -> None:
    """Land an estimate, as `scopehouse climatiq sync` does."""
    request = {
        "emission_factor": {"activity_id": ACTIVITY, "data_version": release},
        "parameters": {"money": price, "money_unit": "usd"},
    }
    body = FakeClimatiq().result(request)
    warehouse.owner.execute(
        "insert into raw.climatiq_estimates (request_hash, request, price_usd, data_version, release, requested_at,"
        " responded_at, http_status, kg_co2e, body, _api_call_id)"
        " values (%s, %s, %s, '^29', %s, %s, %s, 200, %s, %s, 1)",
        [
            f"{price} {release}",
            json.dumps(request),
            price,
            release,
            *[f"2025-06-01 00:{minute:02}:00+00"] * 2,
            float(release),
            json.dumps(body),
        ],
    )


def test_climatiqs_estimate_goes_before_the_seed_and_the_last_good_one_stays_when_it_fails(
    warehouse: Warehouse,
) -> None:
    warehouse.owner.execute("truncate raw.climatiq_estimates, raw.climatiq_releases, ingest.api_calls")
    warehouse.append([(1, 0, 0, 1_700_000_000, [measurement(model=5), measurement(model=6)])])
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    build_on_climatiq(warehouse)
    mountain, road = (
        warehouse.value("select purchase_price_usd from mobility.dim_bike_model where bike_model_id = %s", model)
        for model in (5, 6)
    )
    road_kg = round(road * 0.162, 2)
    assert [row[2:] for row in warehouse.rows(PRODUCTION)] == [("seed", "US EPA 2020")] * 2

    answer(warehouse, mountain, "29", minute=1)
    build_on_climatiq(warehouse)
    with_climatiq = [(5, 29.0, "climatiq", "Climatiq 29"), (6, road_kg, "seed", "US EPA 2020")]
    assert warehouse.rows(PRODUCTION) == with_climatiq

    # A newer release is asked for, and nobody answers: the number stays, and the fact is left alone.
    warehouse.owner.execute(
        "insert into ingest.api_calls (api, endpoint, call_count, outcome, reserved_at, prices_usd)"
        " values ('climatiq', '/data/v1/estimate/batch', 1, 'lost', '2025-06-01 00:02:00+00', array[%s::numeric])",
        [mountain],
    )
    assert build_on_climatiq(warehouse)[MEASUREMENTS] == "INSERT 0 0"
    stale = "select is_stale, last_failure from mobility.dim_production_estimate where purchase_price_usd = %s"
    assert warehouse.rows(PRODUCTION) == with_climatiq
    assert warehouse.rows(stale, mountain) == [(True, "no answer")]
    assert warehouse.rows(stale, road) == [(False, None)]

    answer(warehouse, mountain, "30", minute=3)
    build_on_climatiq(warehouse)
    assert warehouse.rows(PRODUCTION)[0] == (5, 30.0, "climatiq", "Climatiq 30")
    assert warehouse.rows(stale, mountain) == [(False, None)]

    warehouse.owner.execute("truncate raw.climatiq_estimates, raw.climatiq_releases, ingest.api_calls")
    build_on_climatiq(warehouse)


def test_a_number_of_a_bike_model_that_can_not_be_is_not_known_and_stops_nothing(warehouse: Warehouse) -> None:
    good = {"price_usd": 1_000.0, "scope1": 0.5, "scope2": -0.75}
    no_price, no_emissions = "no price", "no emissions a kilometre"
    cases = [
        (good, "none"),
        *(({"price_usd": price}, no_price) for price in (-5.0, 0.0, 5e-324, 1e308, float("nan"))),
        *(({scope: kg}, no_emissions) for scope in ("scope1", "scope2") for kg in (1e-320, -1e-320, 1e308, -1e308)),
        ({"price_usd": 0.01, "scope1": 0.0, "scope2": -1e-9}, "none"),
        ({"price_usd": 999_999_999.0, "scope1": 1_000.0, "scope2": -1_000.0}, "none"),
    ]
    now = 1_700_000_000
    warehouse.append_changes(
        BikeChange(100 + n, "c", now, now + n, 20 + n, **(good | numbers)) for n, (numbers, _) in enumerate(cases)
    )
    warehouse.append(
        (n, 0, n, now + 1_000, [measurement(vehicle=n, model=100 + n, journey=8, total=64)]) for n in range(len(cases))
    )
    warehouse.dbt.run(CONTENTS, BIKE_MODELS)
    warehouse.dbt(
        "build", "--select", f"{MEASUREMENTS}+", "dim_production_estimate", BIKE_MODELS, "--exclude", "tag:ml"
    )

    coverage = "select bike_model_id - 100, coverage, reason from mobility.mart_factor_coverage order by 1"
    assert warehouse.rows(coverage) == [
        (n, "complete" if reason == "none" else "without_numbers", reason) for n, (_, reason) in enumerate(cases)
    ]
    numbers = (
        "select production_kg_co2e is null, operating_kg_co2e is null, scope1_kg_co2e is null,"
        " scope2_market_kg_co2e is null, break_even_percent is null from mobility.fct_trip_emissions"
        " where event_id = %s"
    )
    states = (
        "select break_even_state, paid_back_percent is null from mobility.mart_bike_break_even where vehicle_id = %s"
    )
    counts = "select trips_without_emissions_count from mobility.mart_model_savings_daily where bike_model_id = %s"
    for n, (_, reason) in enumerate(cases):
        is_unknown = reason == no_emissions
        assert warehouse.rows(numbers, n) == [(reason == no_price, *[is_unknown] * 3, reason != "none")]
        assert warehouse.rows(counts, 100 + n) == [(int(is_unknown),)]
        if reason != "none":
            assert warehouse.rows(states, n) == [("unknown", True)]
