"""Each number is taken back to its inputs, and one that does not fit is named."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from pydantic import SecretStr

from scopehouse.commands.explain import bike_model_lines
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


def test_the_change_of_a_model_that_was_deleted_and_made_again_is_of_its_present_life(
    warehouse: Warehouse, settings: Settings
) -> None:
    warehouse.append_changes(
        [
            BikeChange(80, "c", 1_700_000_000, 1_700_000_100, 20),
            BikeChange(80, "d", 1_700_000_000, 1_700_001_000, 21),
            BikeChange(80, "c", 1_690_000_000, 1_700_002_000, 22),
        ]
    )
    warehouse.append([(1, 0, 0, 1_700_003_000, [measurement(model=80)])])
    warehouse.dbt.run(BIKE_MODELS, CONTENTS, MEASUREMENTS)
    found = explain(settings, TABLE, None)
    assert found.problems == []
    (change,) = found.bike_model_changes
    assert (change["_source_lsn"], change["_dead_letter"]) == (22, None)


def test_a_change_of_the_name_alone_is_told_from_the_one_before(warehouse: Warehouse, settings: Settings) -> None:
    at = 1_690_000_000
    warehouse.append_changes(BikeChange(5, "u", at, at + n, 20 + n) for n in (1, 2, 3, 4))
    warehouse.owner.execute("update raw.adventure_public_bike_emissions set name = 'Mended' where _source_lsn > 22")
    warehouse.append([(1, 0, 0, 1_700_000_000, [measurement(model=5)])])
    warehouse.dbt.run(BIKE_MODELS, CONTENTS, MEASUREMENTS)
    found = explain(settings, TABLE, None)
    assert found.problems == []
    (change,) = found.bike_model_changes
    # 24 repeats 23.
    assert (change["_source_lsn"], change["name"]) == (23, "Mended")


def test_a_price_that_is_none_is_not_known_and_its_change_is_found(warehouse: Warehouse, settings: Settings) -> None:
    at = 1_690_000_000
    warehouse.append_changes(BikeChange(5, "u", at, at + n, 20 + n, price_usd=price) for n, price in ((1, 9.5), (2, 0)))
    warehouse.append([(1, 0, 0, 1_700_000_000, [measurement(model=5)])])
    warehouse.dbt.run(BIKE_MODELS, CONTENTS, MEASUREMENTS)
    found = explain(settings, TABLE, None)
    assert found.problems == []
    assert found.row["production_kg_co2e"] is None
    assert [each["_source_lsn"] for each in found.bike_model_changes] == [22]

    warehouse.transform.execute("update mobility.dim_bike_model set name = 'X' where bike_model_id = 5")
    assert explain(settings, TABLE, None).problems == ["The bike model's name is X, its change says Bike 5."]


def test_a_change_that_dbt_has_not_read_yet_explains_nothing(warehouse: Warehouse, settings: Settings) -> None:
    at = 1_690_000_000
    warehouse.append_changes([BikeChange(5, "u", at, at + 1, 21, scope1=0.006)])
    warehouse.append([(1, 0, 0, 1_700_000_000, [measurement(model=5)])])
    warehouse.dbt.run(BIKE_MODELS, CONTENTS, MEASUREMENTS)
    warehouse.append_changes([BikeChange(5, "u", at, at + 2, 22, scope1=0.007)])
    found = explain(settings, TABLE, None)
    assert found.problems == []
    assert [each["_source_lsn"] for each in found.bike_model_changes] == [21]


def test_a_replayed_change_has_the_place_of_its_dead_letter(warehouse: Warehouse, settings: Settings) -> None:
    at = 1_690_000_000
    warehouse.append_changes([BikeChange(5, "u", at, at + 1, 21, scope1=0.006)], partition=-1)
    warehouse.append([(1, 0, 0, 1_700_000_000, [measurement(model=5)])])
    warehouse.owner.execute(
        'insert into ingest.dead_letters (topic, partition, "offset", error_class, error, replayed_partition,'
        " replayed_offset, replayed_at)"
        " values ('adventure.public.bike_emissions', 0, 33, 'ValueError', 'x', -1, 0, now())"
    )
    try:
        warehouse.dbt.run(BIKE_MODELS, CONTENTS, MEASUREMENTS)
        found = explain(settings, TABLE, None)
    finally:
        warehouse.owner.execute("delete from ingest.dead_letters")
    assert found.problems == []
    (change,) = found.bike_model_changes
    assert (change["_source_lsn"], change["_dead_letter"]) == (21, [0, 33])
    assert [line for line in bike_model_lines(found) if "offset" in line] == [
        "  change: adventure.public.bike_emissions, partition 0, offset 33 "
        f"(op u, LSN 21, committed {change['_source_at']})",
        "  it was a dead letter first; in raw it is partition -1, offset 0",
    ]


def test_a_rejected_measurement_says_why_and_where_it_came_from(warehouse: Warehouse, settings: Settings) -> None:
    warehouse.append(
        [
            (901, 0, 0, 1_700_000_000, [measurement(journey=-1), measurement(journey=-2)]),
            (906, 0, 1, 1_700_000_000, [measurement()]),
            (906, 0, 2, 1_700_000_000, [measurement(journey=9)]),
        ]
    )
    warehouse.owner.execute(
        'insert into ingest.dead_letters (topic, partition, "offset", key, error_class, error)'
        " values ('tracking_events', 0, 7, '905', 'NotFinite', 'journey_km is NaN.')"
    )
    try:
        warehouse.dbt.run(CONTENTS, MEASUREMENTS)
        conflicting = warehouse.value(
            "select rejected_measurement_key from mobility.rejected_measurements where source_offset = 2"
        )
        assert conflicting.startswith("906-1-")
        why = r"A length is .*[^.]\): its record is tracking_events, partition 0, offset 0, see 901-"
        for key, event, words in (
            ("901-2", None, rf"^901-2 was rejected as impossible_km \({why}2 in mobility"),
            (None, 901, rf"^Event 901 was rejected as impossible_km \({why}1 and 1 more in mobility"),
            (conflicting, None, "was rejected as conflicting_content .*, partition 0, offset 2, see 906-1-"),
            (
                None,
                905,
                r"^Event 905 was rejected as impossible_km \(journey_km is NaN\): its record is .* offset 7, see",
            ),
            ("905-1", None, "^905-1 was rejected as impossible_km"),
            ("906-2", None, "has no row with the key 906-2"),
            ("901-3", None, "has no row with the key 901-3"),
        ):
            with pytest.raises(ExplainError, match=words):
                explain(settings, TABLE, key, event)
        assert explain(settings, TABLE, None, event_id=906).key == "906-1"
    finally:
        warehouse.owner.execute("delete from ingest.dead_letters")


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
