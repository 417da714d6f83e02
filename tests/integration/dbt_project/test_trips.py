"""Which measurements are trips, which are rejected and why, and that their numbers are the earlier system's."""

from __future__ import annotations

import json
import random

import pytest
import yaml

from tests.integration.dbt_project.warehouse import (
    BIKE_MODELS,
    CONTENTS,
    FIRST_SNAPSHOT,
    MEASUREMENTS,
    PROJECT,
    BikeChange,
    Warehouse,
    measurement,
)

NOW = 1_700_000_000
DAY = 24 * 60 * 60


def land_trips(warehouse: Warehouse, *trips: tuple[int, float, int], first_event: int = 1) -> None:
    """Trips of one bike as (time after NOW in seconds, odometer in km, bike model), each an event of its own."""
    offset = warehouse.value("select count(*) from raw.tracking_events")
    warehouse.append(
        (first_event + n, 0, offset + n, NOW + at, [measurement(model=model, total=total_km)])
        for n, (at, total_km, model) in enumerate(trips)
    )
    warehouse.dbt.run(CONTENTS, BIKE_MODELS, MEASUREMENTS)


def reasons(warehouse: Warehouse) -> dict[int, str | None]:
    """By event, why it is rejected; None for a trip."""
    found = warehouse.rows(
        "select event_id, null from mobility.fct_trip_emissions"
        " union all select event_id, rejection_reason from mobility.rejected_measurements order by 1"
    )
    assert len(dict(found)) == len(found)
    return dict(found)


def test_a_trip_of_an_unknown_model_is_taken_in_when_the_model_arrives(warehouse: Warehouse) -> None:
    land_trips(warehouse, (0, 10, 8), (100, 20, 8), (200, 30, 5))
    assert reasons(warehouse) == {1: "unknown_bike_model", 2: "unknown_bike_model", 3: None}
    for change, reason_of_the_second in (
        (BikeChange(8, "c", NOW + 50, NOW + 55, 20), None),
        (BikeChange(8, "d", NOW + 50, NOW + 60, 21), "unknown_bike_model"),
        (BikeChange(8, "c", NOW + 90, NOW + 95, 22), None),
    ):
        warehouse.append_changes([change])
        warehouse.dbt.run(BIKE_MODELS, MEASUREMENTS)
        assert reasons(warehouse) == {1: "unknown_bike_model", 2: reason_of_the_second, 3: None}


def test_without_a_change_log_every_trip_is_of_an_unknown_model(warehouse: Warehouse) -> None:
    warehouse.empty()
    land_trips(warehouse, (0, 10, 5))
    assert reasons(warehouse) == {1: "unknown_bike_model"}
    warehouse.append_changes(FIRST_SNAPSHOT)
    warehouse.dbt.run(BIKE_MODELS, MEASUREMENTS)
    assert reasons(warehouse) == {1: None}


def test_a_length_that_no_bike_rides_is_rejected_and_stops_nothing(warehouse: Warehouse) -> None:
    fields = ("journey_km", "total_km")
    lengths = (-0.001, "NaN", "Infinity", None, 5e-324, 9.9e-10, 10_000_001, 1.5e308)
    bad = [measurement() | {field: length} for field in fields for length in lengths]
    good = [measurement(journey=journey, total=10_000_000) for journey in (0, 1e-9, 10_000_000)]
    warehouse.append((event, 0, event, NOW + event, [each]) for event, each in enumerate([*bad, *good]))
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    rejected, trips = range(len(bad)), range(len(bad), len(bad) + len(good))
    assert reasons(warehouse) == {**dict.fromkeys(rejected, "impossible_km"), **dict.fromkeys(trips)}
    kept = "select event_id, journey_km from mobility.rejected_measurements where event_id in (0, 4, 7) order by 1"
    assert warehouse.rows(kept) == [(0, -0.001), (4, 5e-324), (7, 1.5e308)]
    computed = f"select count(*) from intermediate.{MEASUREMENTS} where rejection_reason is not null"
    assert warehouse.value(computed + " and journey_km > 1e7 and operating_kg_co2e is not null") == 0


def test_an_event_that_the_sink_set_aside_for_a_nan_is_among_the_rejected_until_it_is_replayed(
    warehouse: Warehouse,
) -> None:
    warehouse.owner.execute(
        'insert into ingest.dead_letters (topic, partition, "offset", key, error_class, error) values'
        " ('tracking_events', 1, 8, '77', 'NotFinite', 'measurement_list holds NaN'),"
        " ('tracking_events', 1, 9, '78', 'Undecodable', 'no Avro'),"
        " ('tracking_events', 1, 10, '\\xff', 'NotFinite', 'measurement_list holds NaN')"
    )
    try:
        found = "select event_id, rejection_reason, source_offset from mobility.rejected_measurements order by 3"
        assert warehouse.rows(found) == [(77, "impossible_km", 8), (None, "impossible_km", 10)]
        warehouse.dbt("build", "--select", "mart_factor_coverage")
        counted = "select bike_model_id, reason, measurement_count, event_count from mobility.mart_factor_coverage"
        assert warehouse.rows(counted) == [(-1, "impossible_km", 2, 1)]
        warehouse.owner.execute("update ingest.dead_letters set replayed_at = now()")
        assert warehouse.rows(found) == []
    finally:
        warehouse.owner.execute("delete from ingest.dead_letters")


def test_a_time_more_than_a_day_after_it_was_sent_is_rejected(warehouse: Warehouse) -> None:
    warehouse.append([(1, 0, 0, NOW + DAY, [measurement()]), (2, 0, 1, NOW + DAY + 1, [measurement()])], sent_at=NOW)
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    assert reasons(warehouse) == {1: None, 2: "future_time"}


def test_the_same_event_with_other_content_is_rejected(warehouse: Warehouse) -> None:
    warehouse.append([(1, 0, 0, NOW, [measurement()]), (1, 0, 1, NOW, [measurement(journey=9.0)]), (1, 0, 2, NOW, [])])
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    detail = "The same event stands earlier in the topic with other content."
    found = "select journey_km, rejection_reason, rejection_detail from mobility.rejected_measurements order by 1"
    assert warehouse.rows(found) == [(journey, "conflicting_content", detail) for journey in (9.0, None)]
    assert warehouse.value("select count(*) from mobility.fct_trip_emissions") == 1


def test_an_odometer_that_falls_is_rejected_until_what_was_too_high_is_gone(warehouse: Warehouse) -> None:
    land_trips(warehouse, (0, 10, 5), (100, 20, 5), (200, 15, 5), (300, 20, 5))
    fallen = "falling_odometer"
    assert reasons(warehouse) == {1: None, 2: None, 3: fallen, 4: None}
    # Late, and far too high: it is believed, and what follows has fallen.
    land_trips(warehouse, (50, 1_000, 8), first_event=5)
    assert reasons(warehouse) == {1: None, 2: None, 3: fallen, 4: None, 5: "unknown_bike_model"}
    warehouse.append_changes([BikeChange(8, "c", 0, NOW, 20)])
    warehouse.dbt.run(BIKE_MODELS, MEASUREMENTS)
    assert reasons(warehouse) == {1: None, 2: fallen, 3: fallen, 4: fallen, 5: None}
    # Its model was withdrawn before: it counts no more.
    warehouse.append_changes([BikeChange(8, "d", 0, NOW + 10, 21)])
    warehouse.dbt.run(BIKE_MODELS, MEASUREMENTS)
    assert reasons(warehouse) == {1: None, 2: None, 3: fallen, 4: None, 5: "unknown_bike_model"}


def test_measurements_of_one_moment_do_not_make_an_odometer_fall(warehouse: Warehouse) -> None:
    land_trips(warehouse, (0, 20, 5), (0, 10, 5), (1, 15, 5))
    assert reasons(warehouse) == {1: None, 2: None, 3: "falling_odometer"}


def test_any_streams_numbers_are_the_earlier_systems(warehouse: Warehouse) -> None:
    """What it did: today's factors on the whole odometer, against the price times 0.162 kg CO2e a dollar."""
    factors = {5: (1912.15, 0.005, -0.016), 6: (2171.29, 0.005, -0.021), 7: (1481.94, 0.005, -0.011)}
    chance = random.Random(7)
    odometers: dict[tuple[int, int], float] = {}
    expected: list[tuple[int, float]] = []
    events = []
    for event in range(300):
        bikes = []
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
            bike, model, journey = chance.randrange(20), chance.choice((5, 6, 7)), chance.uniform(0, 50)
            total = odometers[bike, model] = odometers.get((bike, model), chance.uniform(0, 20_000)) + journey
            bikes.append(measurement(vehicle=bike * 10 + model, model=model, journey=journey, total=total))
            price, scope1, scope2 = factors[model]
            expected.append((event, abs((scope1 + scope2) * total / (price * 0.162) * 100)))
        events.append((event, event % 4, event // 4, NOW + event, bikes))
    warehouse.append(events)
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    found = warehouse.rows("select event_id, abs(break_even_percent) from mobility.fct_trip_emissions")
    assert len(expected) > 250
    assert sorted(found) == [(event, pytest.approx(percent)) for event, percent in sorted(expected)]


def test_a_model_that_emits_goes_backwards(warehouse: Warehouse) -> None:
    """The earlier system took the absolute value: 1 kg a kilometre looked like progress."""
    warehouse.append_changes([BikeChange(5, "u", NOW, NOW, 20, price_usd=1_000, scope1=0.9, scope2=0.1)])
    land_trips(warehouse, (10, 81, 5))
    ((percent,),) = warehouse.rows("select break_even_percent from mobility.fct_trip_emissions")
    assert percent == pytest.approx(-50)


def test_a_trip_long_after_the_last_estimate_has_its_number(warehouse: Warehouse) -> None:
    """The earlier system lost every trip more than three hours after it had last asked Climatiq."""
    variables = yaml.safe_load((PROJECT / "dbt_project.yml").read_text())["vars"]
    request = {"emission_factor": {"activity_id": variables["climatiq_activity_id"], "data_version": "29"}}
    warehouse.owner.execute(
        "insert into raw.climatiq_estimates (request_hash, request, price_usd, data_version, release, requested_at,"
        " responded_at, http_status, kg_co2e, body, _api_call_id)"
        " values ('asked', %s, 1912.15, '29', '29', to_timestamp(%s), to_timestamp(%s), 200, 300, '{}', 1)",
        [json.dumps(request), NOW, NOW],
    )
    try:
        warehouse.dbt.run("int_mobility__climatiq_estimates", "dim_emission_factor")
        land_trips(warehouse, (30 * DAY, 3_000, 5))
        production = "select production_kg_co2e, break_even_percent from mobility.fct_trip_emissions"
        ((kg, percent),) = warehouse.rows(production)
        assert kg == 300
        assert percent == pytest.approx(0.011 * 3_000 / 300 * 100)
    finally:
        warehouse.owner.execute("delete from raw.climatiq_estimates")
        warehouse.dbt.run("int_mobility__climatiq_estimates", "dim_emission_factor")
