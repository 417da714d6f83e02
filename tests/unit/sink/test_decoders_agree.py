"""The quick decoder and the reference give the same columns, for random schemas, records and damage to them."""

from __future__ import annotations

import io
import json
import math
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.contracts.contract import Contract, read_contract
from ingest.sink import avro_decoder
from ingest.sink.avro_decoder import AvroDecoder
from ingest.sink.decoded import Decoded

SCHEMA_ID = 1
LONGS = st.integers(-(2**63), 2**63 - 1)
# The reference makes times datetimes, which end at the year 9999; the quick decoder goes as far as Postgres does.
MILLISECONDS = st.integers(-62_135_596_800_000, 253_402_300_799_999)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": LONGS | st.sampled_from([-(2**63), 2**63 - 1]),
    "float": st.floats(width=32),
    "double": st.floats() | st.sampled_from([5e-324, 1.7976931348623157e308, 0.1 + 0.2, -0.0, 1e22, 2.0**53]),
    "string": st.text(max_size=12) | st.sampled_from(['"\\', "\x01\x1f\x7f\u2028", "😀é", "", "a\x00b", "\\u0000"]),
}
TIMES: list[tuple[dict[str, Any], st.SearchStrategy[Any]]] = [
    ({"type": "int", "logicalType": "date"}, st.integers(-719_162, 2_932_896)),
    ({"type": "long", "logicalType": "timestamp-millis"}, MILLISECONDS),
    ({"type": "long", "logicalType": "timestamp-micros"}, MILLISECONDS.map(lambda each: each * 1_000 + each % 1_000)),
]


@dataclass(frozen=True)
class Type:
    """An Avro type and its values."""

    schema: Any
    values: st.SearchStrategy[Any]


def nullable(inner: Type, null_first: bool) -> Type:
    union = ["null", inner.schema] if null_first else [inner.schema, "null"]
    return Type(union, st.none() | inner.values)


def array_of(inner: Type) -> Type:
    return Type({"type": "array", "items": inner.schema}, st.lists(inner.values, max_size=3))


def record_of(inner: list[Type]) -> Type:
    fields = [{"name": f"n{number}", "type": each.schema} for number, each in enumerate(inner)]
    values = st.fixed_dictionaries({f"n{number}": each.values for number, each in enumerate(inner)})
    return Type({"type": "record", "fields": fields}, values)


def maybe_nullable(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    return inner | st.builds(nullable, inner, st.booleans())


SCALAR_TYPES = st.sampled_from([Type(name, values) for name, values in SCALARS.items()])
NESTED_TYPES = st.recursive(
    maybe_nullable(SCALAR_TYPES),
    lambda inner: maybe_nullable(
        st.builds(array_of, inner) | st.builds(record_of, st.lists(inner, min_size=1, max_size=3))
    ),
    max_leaves=5,
).filter(lambda each: "array" in json.dumps(each.schema) or "record" in json.dumps(each.schema))
ENUM = Type({"type": "enum", "symbols": ["A", "B", "C"]}, st.sampled_from("ABC"))
TIMELESS_TYPES = maybe_nullable(SCALAR_TYPES | st.just(ENUM)) | NESTED_TYPES
COLUMN_TYPES = TIMELESS_TYPES | maybe_nullable(st.sampled_from([Type(*each) for each in TIMES]))


def named(node: Any, path: str = "T") -> Any:
    """A copy of a schema whose records and enums have names, each its own."""
    if isinstance(node, list):
        return [named(each, f"{path}_{number}") for number, each in enumerate(node)]
    if not isinstance(node, dict):
        return node
    copy = {key: named(value, f"{path}_{key}") for key, value in node.items() if key not in ("symbols", "fields")}
    if "symbols" in node:
        copy |= {"name": path, "symbols": node["symbols"]}
    if "fields" in node:
        fields = [{**each, "type": named(each["type"], f"{path}_{each['name']}")} for each in node["fields"]]
        copy |= {"name": path, "fields": fields}
    return copy


def contract_of(types: list[Type]) -> Contract:
    fields = [
        {"name": f"f{number}", "type": named(each.schema, f"T{number}"), "doc": "A field.", "personal": False}
        for number, each in enumerate(types)
    ]
    document = {
        **{"type": "record", "name": "R", "doc": "A record.", "topic": "random", "domain": "none", "source": "test"},
        **{"key": "f0", "partitions": 1, "encoding": "avro", "compatibility": "BACKWARD", "retention": None},
        "fields": fields,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.avsc"
        path.write_text(json.dumps(document))
        return read_contract(path)


@st.composite
def batches(
    draw: st.DrawFn, types_of_columns: st.SearchStrategy[Type] = COLUMN_TYPES
) -> tuple[Contract, list[dict[str, Any]]]:
    types = draw(st.lists(types_of_columns, min_size=1, max_size=4))
    values = st.fixed_dictionaries({f"f{number}": each.values for number, each in enumerate(types)})
    return contract_of(types), draw(st.lists(values, min_size=1, max_size=6))


class Registry:
    def __init__(self, *schemas: Any) -> None:
        self._texts = [json.dumps(schema) for schema in schemas]

    def schema_text(self, schema_id: int) -> str:
        return self._texts[schema_id - SCHEMA_ID]


def encode(schema: Any, record: dict[str, Any], schema_id: int = SCHEMA_ID) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(json.loads(json.dumps(schema))), record)
    return b"\x00" + schema_id.to_bytes(4, "big") + body.getvalue()


def quickly(contract: Contract, values: list[bytes]) -> Decoded:
    """By the quick decoder; fails where the reference would be taken in its place."""
    decoder = AvroDecoder(contract, Registry(contract.schema))
    assert decoder._writer(SCHEMA_ID).is_columnar
    return decoder.decode(values)


def by_reference(contract: Contract, values: list[bytes]) -> Decoded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(avro_decoder, "_has_same_types", lambda *_: False)
        return AvroDecoder(contract, Registry(contract.schema)).decode(values)


def rejected(decoded: Decoded) -> dict[int, str]:
    return {each.index: each.error_class for each in decoded.rejections}


def is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


THOROUGHLY = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))


@THOROUGHLY
@given(batches())
def test_both_give_the_same_columns(batch: tuple[Contract, list[dict[str, Any]]]) -> None:
    contract, records = batch
    values = [encode(contract.schema, record) for record in records]
    quick, reference = quickly(contract, values), by_reference(contract, values)
    assert quick.columns.schema == reference.columns.schema
    assert quick.columns.to_pylist() == reference.columns.to_pylist()
    assert quick.indices.to_pylist() == reference.indices.to_pylist()
    assert rejected(quick) == rejected(reference)
    assert quick.mended_values == reference.mended_values


@THOROUGHLY
@given(
    st.lists(st.builds(record_of, st.lists(NESTED_TYPES, min_size=1, max_size=3)), min_size=1, max_size=2), st.data()
)
def test_nested_values_come_back_from_their_json_exactly(types: list[Type], data: st.DataObject) -> None:
    contract = contract_of(types)
    record = data.draw(st.fixed_dictionaries({f"f{number}": each.values for number, each in enumerate(types)}))
    value = encode(contract.schema, record)
    decoded = quickly(contract, [value])
    if rejected(decoded):
        assert not is_finite(record) or "\\u0000" in json.dumps(record)
        return
    (row,) = decoded.columns.to_pylist()
    schema = fastavro.parse_schema(json.loads(json.dumps(contract.schema)))
    written = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
    # By repr, which tells 0.0 from -0.0 and 1 from 1.0.
    assert {name: repr(json.loads(text)) for name, text in row.items()} == {k: repr(v) for k, v in written.items()}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    body = bytearray(whole[5:])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        piece = draw(st.binary(max_size=3) | st.sampled_from([b"\xff" * 9 + b"\x01", b"\x80\x80\x80\x80\x40", b"\x01"]))
        body[at : at + draw(st.integers(0, 3))] = piece
    return whole[:5] + bytes(body)


@THOROUGHLY
@given(batches(TIMELESS_TYPES), st.data())
def test_a_damaged_record_is_what_the_reference_says_or_rejected(
    batch: tuple[Contract, list[dict[str, Any]]], data: st.DataObject
) -> None:
    contract, records = batch
    values = [data.draw(damaged(encode(contract.schema, record))) for record in records]
    quick = quickly(contract, values)
    bad = rejected(quick)
    assert sorted([*quick.indices.to_pylist(), *bad]) == list(range(len(values)))
    good = [value for index, value in enumerate(values) if index not in bad]
    reference = by_reference(contract, good)
    assert rejected(reference) == {}
    assert quick.columns.to_pylist() == reference.columns.to_pylist()


@THOROUGHLY
@given(batches(), st.lists(st.sampled_from(["own", "older", "newer"]), min_size=6, max_size=6))
def test_older_and_newer_writers_may_be_mixed(batch: tuple[Contract, list[dict[str, Any]]], writers: list[str]) -> None:
    contract, records = batch
    optional = {"name": "added", "type": ["null", "long"], "default": None}
    fields = contract.schema["fields"]
    own = {**contract.schema, "fields": [*fields, optional]}
    newer = {**contract.schema, "fields": [{"name": "unknown", "type": "string"}, *fields, optional]}
    schemas = {"own": own, "older": contract.schema, "newer": newer}
    with_added = contract_with(contract, optional)
    values, expected = [], []
    for number, (record, writer) in enumerate(zip(records, writers, strict=False)):
        schema_id = SCHEMA_ID + list(schemas).index(writer)
        values.append(encode(schemas[writer], {**record, "added": number, "unknown": "x"}, schema_id))
        expected.append(encode(own, {**record, "added": None if writer == "older" else number}))
    decoded = AvroDecoder(with_added, Registry(*schemas.values())).decode(values)
    alone = by_reference(with_added, expected)
    assert decoded.columns.to_pylist() == alone.columns.to_pylist()
    assert decoded.indices.to_pylist() == alone.indices.to_pylist()
    assert rejected(decoded) == rejected(alone)


def contract_with(contract: Contract, field: dict[str, Any]) -> Contract:
    document = {
        **contract.schema,
        **{"doc": "A record.", "topic": "random", "domain": "none", "source": "test", "key": "f0", "partitions": 1},
        **{"encoding": "avro", "compatibility": "BACKWARD", "retention": None},
    }
    document["fields"] = [{**each, "personal": False} for each in [*document["fields"], {**field, "doc": "Added."}]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.avsc"
        path.write_text(json.dumps(document))
        return read_contract(path)


@pytest.mark.parametrize(
    "schema",
    [
        "bytes",
        {"type": "fixed", "name": "F", "size": 4},
        {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        {"type": "string", "logicalType": "uuid"},
        {"type": "int", "logicalType": "time-millis"},
        {"type": "long", "logicalType": "time-micros"},
        {"type": "long", "logicalType": "local-timestamp-millis"},
        {"type": "map", "values": "long"},
    ],
)
def test_a_writers_field_of_another_type_does_no_harm_beside_ours(schema: Any) -> None:
    contract = contract_of([Type("long", LONGS)])
    values: dict[str, Any] = {
        "fixed": b"1234",
        "bytes": b"1",
        "string": "2b9ed1fd-3d6e-4a50-ae0c-1b1f9a8c8d9e",
        "map": {},
    }
    name = schema if isinstance(schema, str) else schema["type"]
    value = b"\x02" if schema == "bytes" else values.get(name, 7)
    if isinstance(schema, dict) and schema.get("logicalType") == "decimal":
        value = Decimal("1.25")
    writer = {**contract.schema, "fields": [{"name": "theirs", "type": schema}, *contract.schema["fields"]]}
    decoded = AvroDecoder(contract, Registry(writer)).decode([encode(writer, {"theirs": value, "f0": 42})])
    assert (decoded.columns.to_pylist(), decoded.rejections) == ([{"f0": 42}], [])
