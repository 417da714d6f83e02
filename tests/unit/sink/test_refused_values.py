"""Values that Postgres or a library could not hold are refused one by one, whatever they are hidden in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingest.contracts.contract import Contract, load_contracts, read_contract
from ingest.sink.avro_decoder import AvroDecoder
from ingest.sink.json_decoder import JsonDecoder
from tests.fakes.everything import FIELDS, GOOD, encode, writer_fields


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    path = tmp_path / "everything.avsc"
    fields = [{"name": name, "type": type_, "doc": "A field.", "personal": False} for name, type_ in FIELDS.items()]
    extras = {"topic": "everything", "domain": "sensors", "source": "test", "key": "id", "partitions": 1}
    extras |= {"encoding": "avro", "compatibility": "BACKWARD", "retention": None, "doc": "Every kind of field."}
    path.write_text(json.dumps({"type": "record", "name": "Everything", "fields": fields, **extras}))
    return read_contract(path)


class OneSchema:
    def __init__(self, contract: Contract) -> None:
        self._text = json.dumps(contract.schema)

    def schema_text(self, schema_id: int) -> str:
        return self._text


def value(**changes: Any) -> bytes:
    return encode(1, writer_fields(), GOOD | changes)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a lone surrogate": ({"name": b"\xed\xa0\x80"}, "UndecodableAvro"),
    "a lone surrogate inside": ({"items": [{"x": b"\xed\xa0\x80"}]}, "UndecodableAvro"),
    "no UTF-8 inside": ({"items": [{"x": b"\xff\xfe"}]}, "UndecodableAvro"),
    "NUL": ({"name": b"a\x00b"}, "NulInText"),
    "NUL inside": ({"items": [{"x": b"a\x00b"}]}, "NulInText"),
    "infinity": ({"number": float("-inf")}, "NotFinite"),
    "the first day of 32 bits": ({"day": -(2**31)}, "OutOfRange"),
    "the last day of 32 bits": ({"day": 2**31 - 1}, "OutOfRange"),
    "a day after Postgres' last": ({"day": 2_145_042_906}, "OutOfRange"),
    "the first millisecond": ({"at_ms": -(2**63)}, "OutOfRange"),
    "the last millisecond": ({"at_ms": 2**63 - 1}, "OutOfRange"),
    "the year 300000 in ms": ({"at_ms": 9_404_881_660_800_000}, "OutOfRange"),
    "the first microsecond": ({"at_us": -(2**63)}, "OutOfRange"),
    "the last microsecond": ({"at_us": 2**63 - 1}, "OutOfRange"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_refused_and_its_neighbours_are_not(contract: Contract, name: str) -> None:
    changes, error_class = BAD[name]
    decoded = AvroDecoder(contract, OneSchema(contract)).decode([value(), value(**changes), value()])
    assert [(rejection.index, rejection.error_class) for rejection in decoded.rejections] == [(1, error_class)]
    assert decoded.indices.to_pylist() == [0, 2]


@pytest.mark.parametrize(
    "changes",
    [{"day": -719_528}, {"day": 2_145_042_905}, {"day": -2_440_588}, {"at_ms": -62_167_219_200_000}, {"number": None}],
)
def test_a_far_but_possible_value_is_kept(contract: Contract, changes: dict[str, Any]) -> None:
    assert AvroDecoder(contract, OneSchema(contract)).decode([value(**changes)]).rejections == []


@pytest.mark.parametrize(
    ("value", "error_class"),
    [
        (rb'{"country": "\ud800", "year": 1}', "MalformedJson"),
        (rb'{"country": "\ud800", "year": 1, "gdp": NaN}', "MalformedJson"),
        (b'{"country": "\xff", "year": 1, "gdp": NaN}', "MalformedJson"),
        (b'{"country": "a", "year": 1, "gdp": 1e999}', "WrongType"),
        (b'{"country": "a", "year": 1, "gdp": NaN, "co2": 1e999}', "NotFinite"),
        (b'{"country": "a", "year": 1, "gdp": Infinity}', "MalformedJson"),
        (b'{"country": "a", "year": 2147483648}', "WrongType"),
        (b'{"country": "a", "year": 1, "gdp": NaN, "deep": ' + b"[" * 100_000, "MalformedJson"),
        (b'{"year": 1}', "WrongType"),
        (b'{"country": null, "year": 1}', "WrongType"),
        (b"", "EmptyValue"),
        (None, "NullValue"),
    ],
)
def test_bad_json_is_refused_and_its_neighbour_is_not(value: bytes | None, error_class: str) -> None:
    good = b'{"country": "a", "year": 1, "is_sample": true, "unknown": 7}'
    decoded = JsonDecoder(load_contracts()["emissions-topic"]).decode([value, good])
    assert [(rejection.index, rejection.error_class) for rejection in decoded.rejections] == [(0, error_class)]
    assert decoded.indices.to_pylist() == [1]
