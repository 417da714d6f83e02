"""Each number is taken back to its inputs, and one that does not fit is named."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from pydantic import SecretStr

from scopehouse.explanation import TABLE, ExplainError, explain
from services.settings import Settings
from tests.integration.dbt_project.test_marts import answer, build_on_climatiq
from tests.integration.dbt_project.warehouse import (
    BIKE_MODELS,
    CONTENTS,
    MEASUREMENTS,
    TRIPS,
    BikeChange,
    Warehouse,
    measurement,
)


@pytest.fixture
def settings(stack: Settings, database: dict[str, str]) -> Settings:
    return stack.model_copy(update={"database_url": SecretStr(database["transform"])})


def key_of(warehouse: Warehouse, model: int) -> str:
    return str(warehouse.value(f"select measurement_key from mobility.{TRIPS} where bike_model_id = %s", model))


def test_a_trip_is_taken_back_to_its_record_factor_model_and_run(warehouse: Warehouse, settings: Settings) -> None:
    trips = [measurement(vehicle=1, model=5, journey=10, total=100), measurement(vehicle=2, model=6)]
    warehouse.append([(1, 0, 0, 1_700_000_000, trips)])
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    key = key_of(warehouse, 5)

    found = explain(settings, TABLE, key)
    assert found.problems == []
    assert (found.key, found.measurement_position, found.measurement_count) == (key, 1, 2)
    stored = {each.column: each.stored for each in found.formulas}
    assert stored == {name: found.row[name] for name in stored}
    assert all(each.agrees and each.result is not None for each in found.formulas)
    assert [each.unit for each in found.inputs] == ["km", "km", "kg CO2e/km", "kg CO2e/km", "USD", "kg CO2e/USD"]
    assert all(each.description for each in found.inputs)
    assert found.emission_factor is not None
    assert found.emission_factor["release"] == "US EPA 2020"
    # Nothing was sent to Kafka here: raw has the record.
    assert (found.record.topic, found.record.partition, found.record.offset) == ("tracking_events", 0, 0)
    assert found.record.read_from == "raw"
    assert found.record.why_not_kafka
    assert found.dbt_run is not None
    assert found.dbt_run["row_count"] == 2
    (change,) = found.bike_model_changes
    assert (change["_op"], change["_kafka_offset"], change["product_category_id"]) == ("r", 0, 5)
    assert found.dbt_run["invocation_id"] == warehouse.value(
        "select invocation_id from ingest.model_runs where model = %s order by transaction_id desc limit 1",
        f"intermediate.{MEASUREMENTS}",
    )
    json.dumps(asdict(found))

    # Someone tampers with a number.
    warehouse.transform.execute(
        f"update intermediate.{MEASUREMENTS} set operating_kg_co2e = 1 where measurement_key = %s", [key]
    )
    (problem,) = explain(settings, TABLE, key).problems
    assert problem.startswith("operating_kg_co2e is stored as 1 and computes to -0.1")


def test_climatiqs_request_and_answer_are_shown(warehouse: Warehouse, settings: Settings) -> None:
    warehouse.append([(1, 0, 0, 1_700_000_000, [measurement(model=5)])])
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    price = warehouse.value("select purchase_price_usd from mobility.dim_bike_model where bike_model_id = 5")
    answer(warehouse, price, "29", minute=1)
    build_on_climatiq(warehouse)
    found = explain(settings, TABLE, None, event_id=1)
    warehouse.owner.execute("truncate raw.climatiq_estimates")
    build_on_climatiq(warehouse)
    assert found.problems == []
    assert found.climatiq is not None
    assert found.climatiq["request"]["emission_factor"]["data_version"] == "29"
    assert json.loads(found.climatiq["body"])["activity_data"]["activity_value"] == price
    (production,) = [each for each in found.formulas if each.column == "production_kg_co2e"]
    assert (production.result, production.agrees) == (29.0, True)


def test_the_change_that_a_later_version_came_by_is_found(warehouse: Warehouse, settings: Settings) -> None:
    changes = [(1_690_000_000, 1, 0.006), (1_695_000_000, 2, 0.007), (1_705_000_000, 3, 0.008)]
    warehouse.append_changes(BikeChange(5, "u", at, at, 20 + n, scope1=scope1) for at, n, scope1 in changes)
    warehouse.append([(1, 0, 0, 1_700_000_000, [measurement(model=5)])])
    warehouse.dbt.run(BIKE_MODELS, CONTENTS, MEASUREMENTS)
    found = explain(settings, TABLE, None)
    assert found.problems == []
    assert found.bike_model is not None
    assert (found.bike_model["valid_from"][:10], found.bike_model["valid_to"][:10]) == ("2023-09-18", "2024-01-11")
    (change,) = found.bike_model_changes
    assert (change["_op"], change["_source_lsn"], change["co2e_km_scope1"]) == ("u", 22, 0.007)


def test_a_wrong_key_is_one_sentence(warehouse: Warehouse, settings: Settings) -> None:
    warehouse.append([(1, 0, 0, 1_700_000_000, [measurement(), measurement(vehicle=2)])])
    warehouse.dbt.run(CONTENTS, MEASUREMENTS)
    for table, key, event, words in (
        (TABLE, "1-3", None, "has no row with the key 1-3"),
        (TABLE, "%", None, "is no key of"),
        (TABLE, None, 2, "has no trip of event 2"),
        (TABLE, None, 1, "has more than one trip of event 1: give one of"),
        ("mobility.dim_bike_model", "a", None, "can't be explained"),
    ):
        with pytest.raises(ExplainError, match=words):
            explain(settings, table, key, event)
