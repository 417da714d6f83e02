"""Debezium's change records become rows; a record that can't is rejected alone, with its reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ingest.contracts.contract import load_contracts
from ingest.sink.avro_decoder import UnknownSchemaError
from ingest.sink.debezium_decoder import DebeziumDecoder
from ingest.sink.decoded import Decoded
from tests.fakes.debezium import TIME, encode, envelope

CONTRACT = load_contracts()["adventure.public.bike_emissions"]
COLUMNS: dict[str, Any] = {
    "product_category_id": "int",
    "name": "string",
    "avg_cost": "double",
    "co2e_km_scope1": "double",
    "co2e_km_scope2": "double",
    "modified_at": TIME,
}
NOW = datetime(2025, 10, 1, 12, 30, 0, 123456, tzinfo=UTC)


class Schemas(dict[int, str]):
    """A registry."""

    def schema_text(self, schema_id: int) -> str:
        if schema_id not in self:
            raise UnknownSchemaError(schema_id)
        return self[schema_id]


def row(**changes: Any) -> dict[str, Any]:
    values = {"product_category_id": 5, "name": "Mountain", "avg_cost": 1912.15, "co2e_km_scope1": 0.005}
    return {**values, "co2e_km_scope2": -0.016, "modified_at": "2025-10-01T00:00:00Z"} | changes


def change(op: str, before: dict[str, Any] | None, after: dict[str, Any] | None, lsn: int | None = 7) -> dict[str, Any]:
    return {
        "op": op,
        "before": before,
        "after": after,
        "source": {"lsn": lsn, "ts_us": int(NOW.timestamp()) * 1_000_000 + NOW.microsecond, "snapshot": "false"},
    }


def decode(*records: dict[str, Any] | bytes | None, columns: dict[str, Any] | None = None) -> Decoded:
    schema = envelope(columns or COLUMNS)
    values = [encode(schema, [each])[0] if isinstance(each, dict) else each for each in records]
    return DebeziumDecoder(CONTRACT, Schemas({1: schema})).decode(values)


def reasons(decoded: Decoded) -> list[tuple[int, str]]:
    return [(rejection.index, rejection.error_class) for rejection in decoded.rejections]


def test_a_change_carries_the_row_after_it_and_a_delete_the_row_before() -> None:
    decoded = decode(
        change("r", None, row()),
        change("c", None, row(product_category_id=8)),
        change("u", row(), row(avg_cost=2000.0)),
        change("d", row(avg_cost=2000.0), None),
    )
    rows = decoded.columns.to_pylist()
    assert [(each["_op"], each["product_category_id"], each["avg_cost"]) for each in rows] == [
        ("r", 5, 1912.15),
        ("c", 8, 1912.15),
        ("u", 5, 2000.0),
        ("d", 5, 2000.0),
    ]
    assert rows[0]["modified_at"] == datetime(2025, 10, 1, tzinfo=UTC)
    assert (rows[0]["_source_lsn"], rows[0]["_source_at"]) == (7, NOW)
    assert decoded.rejections == []
    assert decoded.schema_ids.to_pylist() == [1] * 4


def test_a_tombstone_is_skipped_without_a_dead_letter() -> None:
    decoded = decode(change("d", row(), None), None, change("c", None, row()))
    assert decoded.indices.to_pylist() == [0, 2]
    assert decoded.skipped == [1]
    assert decoded.rejections == []


@pytest.mark.parametrize("records", [[], [None], [None, None]])
def test_a_batch_without_a_row_has_the_tables_columns_all_the_same(records: list[None]) -> None:
    decoded = decode(*records)
    assert decoded.columns.num_rows == 0
    assert decoded.columns.schema.names == [field.name for field in CONTRACT.fields]
    assert decoded.skipped == list(range(len(records)))


def test_what_a_truncated_table_or_a_message_says_is_no_row() -> None:
    decoded = decode(change("t", None, None), change("m", None, None), change("u", None, row()))
    assert reasons(decoded) == [(0, "Truncated"), (1, "UnknownOperation")]
    assert decoded.indices.to_pylist() == [2]


def test_an_update_or_a_delete_without_its_row_is_rejected() -> None:
    decoded = decode(change("u", row(), None), change("d", None, row()))
    assert reasons(decoded) == [(0, "NoImage"), (1, "NoImage")]


def test_a_delete_that_tells_just_the_key_is_rejected_and_not_landed_with_nulls() -> None:
    columns = {
        name: ["null", avro_type] if name != "product_category_id" else "int" for name, avro_type in COLUMNS.items()
    }
    only_key = dict.fromkeys(COLUMNS, None) | {"product_category_id": 5}
    assert reasons(decode(change("d", only_key, None), columns=columns)) == [(0, "NullValue")]


def test_a_value_that_the_update_left_out_is_not_taken_for_a_text() -> None:
    decoded = decode(change("u", row(), row(name="__debezium_unavailable_value")))
    assert reasons(decoded) == [(0, "UnavailableValue")]


def test_a_change_without_its_place_in_the_log_is_rejected() -> None:
    assert reasons(decode(change("c", None, row(), lsn=None))) == [(0, "NullValue")]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2025-10-01T00:00:00.1Z", datetime(2025, 10, 1, 0, 0, 0, 100000, tzinfo=UTC)),
        ("2025-10-01T00:00:00.123456Z", datetime(2025, 10, 1, 0, 0, 0, 123456, tzinfo=UTC)),
        ("2025-10-01T02:00:00+02:00", datetime(2025, 10, 1, tzinfo=UTC)),
    ],
)
def test_a_time_comes_as_text_and_lands_as_a_time(text: str, time: datetime) -> None:
    (landed,) = decode(change("c", None, row(modified_at=text))).columns.to_pylist()
    assert landed["modified_at"] == time


@pytest.mark.parametrize("text", ["infinity", "+292278994-08-16T23:00:00Z", "yesterday"])
def test_a_time_that_cannot_be_read_rejects_its_record_alone(text: str) -> None:
    decoded = decode(change("c", None, row()), change("c", None, row(modified_at=text)))
    assert reasons(decoded) == [(1, "UnreadableTime")]
    assert decoded.indices.to_pylist() == [0]


@pytest.mark.parametrize(
    ("added", "value"),
    [("string", "green"), ("bytes", b"\x00"), ({"type": "bytes", "logicalType": "decimal", "precision": 4}, b"\x01")],
)
def test_a_column_that_the_table_got_is_passed_over(added: Any, value: Any) -> None:
    decoded = decode(change("u", row(colour=value), row(colour=value)), columns=COLUMNS | {"colour": added})
    assert decoded.rejections == []
    assert decoded.columns.num_rows == 1


def test_a_column_that_is_gone_makes_dead_letters_that_say_so() -> None:
    columns = {name: avro_type for name, avro_type in COLUMNS.items() if name != "avg_cost"}
    record = {name: value for name, value in row().items() if name != "avg_cost"}
    (rejection,) = decode(change("c", None, record), columns=columns).rejections
    assert rejection.error_class == "IncompatibleSchema"
    assert "avg_cost is gone" in rejection.error


def test_a_column_of_another_type_makes_dead_letters_that_say_so() -> None:
    (rejection,) = decode(
        change("c", None, row(avg_cost="1912.15")), columns=COLUMNS | {"avg_cost": "string"}
    ).rejections
    assert rejection.error_class == "IncompatibleSchema"
    assert "avg_cost comes as string" in rejection.error


def test_a_narrower_number_is_widened() -> None:
    (landed,) = decode(change("c", None, row(avg_cost=1912)), columns=COLUMNS | {"avg_cost": "int"}).columns.to_pylist()
    assert landed["avg_cost"] == 1912.0


def test_records_of_two_schemas_keep_their_order() -> None:
    old, new = envelope(COLUMNS), envelope(COLUMNS | {"colour": "string"})
    one, three = encode(old, [change("c", None, row(product_category_id=each)) for each in (1, 3)], 1)
    (two,) = encode(new, [change("c", None, row(product_category_id=2, colour="red"))], 2)
    decoded = DebeziumDecoder(CONTRACT, Schemas({1: old, 2: new})).decode([one, two, three])
    assert decoded.columns.column("product_category_id").to_pylist() == [1, 2, 3]
    assert decoded.schema_ids.to_pylist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("value", "error_class"),
    [
        (b"", "WrongWireFormat"),
        (b'{"op": "c"}', "WrongWireFormat"),
        (b"\x00\x00\x00\x00\x09abc", "UnknownSchema"),
        (b"\x00\x00\x00\x00\x01\x02", "UndecodableAvro"),
    ],
)
def test_bytes_that_are_no_change_are_rejected_alone(value: bytes, error_class: str) -> None:
    decoded = decode(change("c", None, row()), value)
    assert reasons(decoded) == [(1, error_class)]
    assert decoded.indices.to_pylist() == [0]


@pytest.mark.parametrize(
    "schema",
    [
        '"string"',
        '["null", "long"]',
        '{"type": "record", "name": "Heartbeat", "fields": [{"name": "ts_ms", "type": "long"}]}',
        envelope(COLUMNS).replace(
            '{"name": "lsn", "type": ["null", "long"]', '{"name": "lsn", "type": ["null", "string"]'
        ),
        envelope(COLUMNS).replace('"name": "op", "type": "string"', '"name": "op", "type": "int"'),
        envelope(COLUMNS).replace('["null", "Value"]', '["null", "string"]'),
    ],
)
def test_a_record_that_is_no_change_at_all_is_rejected(schema: str) -> None:
    value = b"\x00\x00\x00\x00\x01" + 20 * b"\x02"
    (rejection,) = DebeziumDecoder(CONTRACT, Schemas({1: schema})).decode([value]).rejections
    assert rejection.error_class in ("IncompatibleSchema", "UndecodableAvro")


def test_the_row_before_and_the_row_after_of_two_types_are_rejected() -> None:
    document = json.loads(envelope(COLUMNS))
    other = {"type": "record", "name": "Other", "fields": [{"name": "name", "type": "long"}]}
    document["fields"][1]["type"] = ["null", other]
    schema = json.dumps(document)
    (value,) = encode(schema, [change("u", row(), {"name": 1})])
    assert reasons(DebeziumDecoder(CONTRACT, Schemas({1: schema})).decode([value])) == [(0, "IncompatibleSchema")]
