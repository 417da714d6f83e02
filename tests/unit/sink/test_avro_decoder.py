"""Avro values become columns; a bad one is rejected alone, with its reason."""

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.contracts.contract import load_contracts
from ingest.sink.avro_decoder import AvroDecoder, UnknownSchemaError

CONTRACT = load_contracts()["tracking_events"]
OWN, OLD, OTHER, GARBAGE, UNKNOWN = 1, 2, 3, 4, 9
NAN, ANOTHER_NAN = 0x0100C07F, 0x0200C07F
SCHEMAS: dict[int, Any] = {
    OWN: CONTRACT.schema,
    OLD: json.loads(json.dumps(CONTRACT.schema).replace('"double"', '"float"')),
    OTHER: {**CONTRACT.schema, "fields": [{"name": "id", "type": "string"}]},
    GARBAGE: {"type": "nonsense"},
    NAN: CONTRACT.schema,
    ANOTHER_NAN: CONTRACT.schema,
}


class Registry:
    def schema_text(self, schema_id: int) -> str:
        if schema_id not in SCHEMAS:
            raise UnknownSchemaError(schema_id)
        return json.dumps(SCHEMAS[schema_id])


def encode(record: dict[str, Any], schema_id: int = OWN) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(SCHEMAS[schema_id]), record)
    return b"\x00" + schema_id.to_bytes(4, "big") + body.getvalue()


def event(event_id: int, *journeys_km: float, at: int = 1_700_000_000) -> dict[str, Any]:
    measurements = [{"vehicle_id": 1, "product_id": 5, "journey_km": km, "total_km": 2.5} for km in journeys_km]
    return {"id": event_id, "customer_id": 7, "date_time": at, "measurement_list": measurements}


def decoder() -> AvroDecoder:
    return AvroDecoder(CONTRACT, Registry())


def test_an_event_becomes_typed_columns() -> None:
    (row,) = decoder().decode([encode(event(1, 1.5, 0.1))]).columns.to_pylist()
    assert row["id"] == 1
    assert row["date_time"].isoformat() == "2023-11-14T22:13:20+00:00"
    assert json.loads(row["measurement_list"]) == event(1, 1.5, 0.1)["measurement_list"]


def test_an_older_writers_floats_are_promoted_as_avro_says() -> None:
    (row,) = decoder().decode([encode(event(1, 1.1), OLD)]).columns.to_pylist()
    assert json.loads(row["measurement_list"])[0]["journey_km"] == 1.100000023841858


def test_records_keep_their_places_when_writers_are_mixed() -> None:
    values = [encode(event(n, 1.0), OLD if n % 2 else OWN) for n in range(10)]
    decoded = decoder().decode(values)
    assert decoded.columns.column(0).to_pylist() == list(range(10))
    assert decoded.indices.to_pylist() == list(range(10))
    assert decoded.schema_ids.to_pylist() == [OWN, OLD] * 5


def test_one_value_of_another_schema_among_many_is_told_by_its_id_alone() -> None:
    # The four bytes of either are a float's that is no number: equal to none, or to all.
    values = [encode(event(n, 1.0), NAN) for n in range(10)]
    values[7] = encode(event(7, 1.0), ANOTHER_NAN)
    assert decoder().decode(values).schema_ids.to_pylist() == [NAN] * 7 + [ANOTHER_NAN] + [NAN] * 2


@pytest.mark.parametrize(
    ("value", "error_class"),
    [
        (None, "NullValue"),
        (b"", "EmptyValue"),
        (b"{}", "WrongWireFormat"),
        (b"\x01" + encode(event(1))[1:], "WrongWireFormat"),
        (encode(event(1, 2.0))[:-3], "UndecodableAvro"),
        (encode(event(1))[:5], "UndecodableAvro"),
        (encode(event(1, 2.0), OLD)[:-3], "UndecodableAvro"),
        (b"\x00\x00\x00\x00\x09rest", "UnknownSchema"),
        (encode({"id": "text"}, OTHER), "IncompatibleSchema"),
        (b"\x00\x00\x00\x00\x04rest", "IncompatibleSchema"),
        (encode(event(1, float("nan"))), "NotFinite"),
        (encode(event(1, float("-inf"))), "NotFinite"),
    ],
)
def test_a_bad_value_is_rejected_alone(value: bytes | None, error_class: str) -> None:
    good = [encode(event(n, 1.0)) for n in range(40)]
    decoded = decoder().decode([*good[:20], value, *good[20:]])
    assert [(each.index, each.error_class) for each in decoded.rejections] == [(20, error_class)]
    assert decoded.columns.column(0).to_pylist() == list(range(40))


def test_nothing_decodes_to_no_rows_of_the_same_columns() -> None:
    assert decoder().decode([]).columns.schema == decoder().decode([encode(event(1))]).columns.schema


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=30))
def test_each_record_is_a_row_or_a_rejection_and_never_both(parts: list[tuple[bool, bytes]]) -> None:
    values = [encode(event(n, 1.0)) if good else noise for n, (good, noise) in enumerate(parts)]
    decoded = decoder().decode(values)
    rejected = [rejection.index for rejection in decoded.rejections]
    assert sorted(decoded.indices.to_pylist() + rejected) == list(range(len(values)))
    assert {index for index, (good, _) in enumerate(parts) if good} <= set(decoded.indices.to_pylist())
