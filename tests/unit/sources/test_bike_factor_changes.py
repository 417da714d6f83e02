"""The company's changes, and which factors they leave standing when."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ingest.sources.bike_factor_changes import NEW_MODEL, STARTING_FACTORS, Change, FactorHistory, Factors, change
from ingest.sources.bike_fleet import (
    HISTORY_SECONDS,
    HISTORY_STARTS_AT,
    OPERATING_KG_CO2E_PER_KM,
    PRODUCTS,
    Fleet,
)

CHANGES = [change(1, position) for position in range(48)]


def operating(history: FactorHistory, model: int, *times: int) -> list[float]:
    return history.operating_kg_co2e_per_km(model, np.array(times)).tolist()


def test_a_change_is_the_same_whatever_was_done_before() -> None:
    assert change(1, 30) == CHANGES[30]
    assert [change(2, position) for position in range(48)] != CHANGES


def test_a_dozen_changes_hold_every_kind() -> None:
    assert {each.kind for each in CHANGES[:12]} == {"update", "correct", "add", "withdraw"}
    assert {each.bike_model_id for each in CHANGES[:12]} == {*PRODUCTS, NEW_MODEL}


def test_updates_go_forward_in_time_and_corrections_back() -> None:
    latest: dict[int, int] = {}
    for each in CHANGES:
        if each.kind == "correct":
            assert each.holds_from < latest[each.bike_model_id]
        elif each.kind == "update":
            assert each.holds_from > latest.get(each.bike_model_id, 0)
            latest[each.bike_model_id] = each.holds_from


def test_changes_lie_within_the_months_of_the_trips() -> None:
    end = HISTORY_STARTS_AT + HISTORY_SECONDS
    assert all(HISTORY_STARTS_AT <= each.holds_from < end for each in CHANGES)
    assert HISTORY_STARTS_AT <= change(1, 10_000).holds_from < end


def test_no_ridden_model_comes_to_emit_more_than_it_avoids() -> None:
    assert all(each.factors.scope1 + each.factors.scope2 < 0 for each in CHANGES if each.bike_model_id in PRODUCTS)


def test_a_version_holds_from_its_time_to_the_next_whichever_was_known_first() -> None:
    history = FactorHistory(
        [
            Change("update", 5, 200, Factors(2.0, 0.0)),
            Change("update", 5, 300, Factors(3.0, 0.0)),
            Change("correct", 5, 100, Factors(1.0, 0.0)),
        ]
    )
    first = STARTING_FACTORS[5].scope1 + STARTING_FACTORS[5].scope2
    assert operating(history, 5, 99, 100, 199, 200, 299, 300) == [first, 1.0, 1.0, 2.0, 2.0, 3.0]


def test_of_two_versions_from_the_same_time_the_later_known_stands() -> None:
    history = FactorHistory([Change("update", 6, 100, Factors(1.0, 0.0)), Change("correct", 6, 100, Factors(2.0, 0.0))])
    assert operating(history, 6, 100) == [2.0]


def test_the_starting_factors_are_those_that_the_fleet_reckons_with() -> None:
    for model in PRODUCTS:
        assert operating(FactorHistory([]), model, 0) == [pytest.approx(OPERATING_KG_CO2E_PER_KM[model])]


def test_what_journeys_emit_is_the_sum_of_each_by_the_version_of_its_time() -> None:
    events = Fleet(2).take(2_000)
    history = FactorHistory(CHANGES)
    times = np.repeat(events.times, events.measurement_counts).tolist()
    journeys = zip(events.product_ids.tolist(), times, events.journeys_m.tolist(), strict=True)
    one_by_one = math.fsum(operating(history, model, time)[0] * metres / 1000 for model, time, metres in journeys)
    assert history.operating_kg_co2e(events) == pytest.approx(one_by_one, rel=1e-12)
    assert history.operating_kg_co2e(events) != pytest.approx(FactorHistory([]).operating_kg_co2e(events), rel=1e-3)
