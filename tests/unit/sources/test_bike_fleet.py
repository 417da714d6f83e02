import io
import math
from itertools import groupby

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.contracts.contract import load_contracts
from ingest.sources.bike_fleet import (
    BIKES,
    EVENTS_PER_FLEET,
    HISTORY_SECONDS,
    HISTORY_STARTS_AT,
    LAST_FLEET,
    PRODUCTS,
    Fleet,
    TrackingEvents,
    operating_kg_co2e,
)

SCHEMA = load_contracts()["tracking_events"].schema
FACTORS = {5: (0.005, -0.016), 6: (0.005, -0.021), 7: (0.005, -0.011)}

fleets = st.integers(0, LAST_FLEET)
cuts = st.lists(st.integers(1, 400), min_size=1, max_size=6)


def decoded(events: TrackingEvents) -> list[dict]:
    parsed = fastavro.parse_schema(SCHEMA)
    return [fastavro.schemaless_reader(io.BytesIO(value), parsed, None) for _key, value in events.encode(SCHEMA)]


def rows_of(number: int, chunks: list[int]) -> list[dict]:
    fleet = Fleet(number)
    return [row for count in chunks for row in decoded(fleet.take(count))]


@settings(deadline=None, max_examples=30)
@given(fleets, cuts)
def test_a_fleet_reports_the_same_events_however_they_are_taken(number: int, chunks: list[int]) -> None:
    assert rows_of(number, chunks) == rows_of(number, [sum(chunks)])


@settings(deadline=None, max_examples=30)
@given(fleets, st.integers(0, 2_000), st.integers(1, 300))
def test_skipping_leads_to_the_same_events_as_taking(number: int, skipped: int, count: int) -> None:
    fleet = Fleet(number)
    fleet.skip_to(skipped)
    assert decoded(fleet.take(count)) == rows_of(number, [skipped + count])[skipped:]


@settings(deadline=None, max_examples=30)
@given(fleets, cuts)
def test_an_odometer_is_the_sum_of_its_bikes_journeys_and_a_bike_keeps_its_model(
    number: int, chunks: list[int]
) -> None:
    odometers: dict[int, int] = {}
    models: dict[int, int] = {}
    for event in rows_of(number, [*chunks, 500]):
        for measurement in event["measurement_list"]:
            bike = measurement["vehicle_id"]
            metres = round(measurement["journey_km"] * 1000)
            odometers[bike] = odometers.get(bike, 0) + metres
            assert measurement["total_km"] == odometers[bike] / 1000
            assert 0 <= measurement["journey_km"] <= 50
            assert measurement["product_id"] == models.setdefault(bike, measurement["product_id"])
    assert set(models.values()) <= set(PRODUCTS)


def test_every_kind_of_event_occurs() -> None:
    rows = rows_of(2, [20_000])
    assert {len(row["measurement_list"]) for row in rows} == {0, 1, 2, 3, 4}
    bikes = {one["vehicle_id"] for row in rows for one in row["measurement_list"]}
    assert len(bikes) == BIKES
    assert {one["product_id"] for row in rows for one in row["measurement_list"]} == set(PRODUCTS)
    journeys = [one["journey_km"] for row in rows for one in row["measurement_list"]]
    assert min(journeys) < 0.1
    assert max(journeys) > 49.9
    assert np.mean(journeys) == pytest.approx(25, abs=0.5)


@given(fleets, fleets)
def test_fleets_share_no_event_bike_or_rider(one: int, other: int) -> None:
    if one == other:
        return
    first, second = Fleet(one).take(200), Fleet(other).take(200)
    for column in ("event_ids", "vehicle_ids", "customer_ids"):
        assert not set(getattr(first, column).tolist()) & set(getattr(second, column).tolist())


def test_ids_fit_their_avro_types_in_the_last_fleet() -> None:
    rows = rows_of(LAST_FLEET, [1_000])
    assert rows[0]["id"] == LAST_FLEET * EVENTS_PER_FLEET + 1
    assert max(one["vehicle_id"] for row in rows for one in row["measurement_list"]) < 2**31


def test_history_moves_on_and_never_reaches_the_future() -> None:
    fleet = Fleet(2)
    times = fleet.take(50_000).times
    assert (np.diff(times) >= 0).all()
    assert times[0] >= HISTORY_STARTS_AT
    assert times[-1] - HISTORY_STARTS_AT == pytest.approx(HISTORY_SECONDS / 2, rel=0.001)
    fleet.position = EVENTS_PER_FLEET - 1
    assert fleet.take(1).times[0] <= HISTORY_STARTS_AT + HISTORY_SECONDS


def test_events_sent_live_carry_the_time_they_are_given() -> None:
    assert set(Fleet(3).take(5, at=1_800_000_000).times.tolist()) == {1_800_000_000}


def test_the_expected_kilograms_are_the_sum_over_the_measurements() -> None:
    events = Fleet(2).take(5_000)
    by_measurement = math.fsum(
        sum(FACTORS[one["product_id"]]) * one["journey_km"]
        for row in decoded(events)
        for one in row["measurement_list"]
    )
    assert operating_kg_co2e(events.metres_by_product()) == pytest.approx(by_measurement, rel=1e-12)
    assert by_measurement < 0


def test_the_fast_encoder_writes_the_bytes_that_fastavro_writes() -> None:
    parsed = fastavro.parse_schema(SCHEMA)
    for row, (key, value) in zip(rows_of(7, [2_000]), list(Fleet(7).take(2_000).encode(SCHEMA)), strict=True):
        reference = io.BytesIO()
        fastavro.schemaless_writer(reference, parsed, row)
        assert value == reference.getvalue()
        assert key == str(row["id"]).encode()


def test_events_come_in_the_order_of_their_ids() -> None:
    ids = [row["id"] for row in rows_of(4, [300])]
    assert ids == list(range(400_000_001, 400_000_301))
    assert all(len(list(same)) == 1 for _id, same in groupby(ids))


def test_the_stream_stays_as_it_is_across_releases() -> None:
    """A change here makes a second run disagree with what earlier runs sent."""
    bike = {"vehicle_id": 2642, "product_id": 5, "journey_km": 44.244, "total_km": 44.244}
    third = {"id": 200_000_003, "customer_id": 53_642, "date_time": 1_759_278_403, "measurement_list": [bike]}
    assert rows_of(2, [3])[2] == third


def test_a_position_is_known_by_the_event_before_it() -> None:
    fleet = Fleet(2)
    assert fleet.position_after(200_000_001) == 1
    assert fleet.position_after(300_000_000) == EVENTS_PER_FLEET
    assert fleet.position_after(200_000_000) is None
    assert fleet.position_after(300_000_001) is None


def test_a_number_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and"):
        Fleet(LAST_FLEET + 1)
    fleet = Fleet(0)
    fleet.position = EVENTS_PER_FLEET
    with pytest.raises(ValueError, match="no more"):
        fleet.take(1)
