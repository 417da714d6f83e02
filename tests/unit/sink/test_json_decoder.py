"""JSON values become columns; a bad one is rejected alone, with its reason."""

import json

import pytest

from ingest.contracts.contract import load_contracts
from ingest.sink.json_decoder import JsonDecoder

CONTRACT = load_contracts()["emissions-topic"]


def country(**fields: object) -> bytes:
    return json.dumps({"country": "Freedonia", "year": 1933} | fields).encode()


def test_missing_fields_take_their_defaults() -> None:
    (row,) = JsonDecoder(CONTRACT).decode([country()]).columns.to_pylist()
    assert row["gdp"] is None
    assert row["is_sample"] is False


def test_a_field_that_the_contract_lacks_is_passed_over() -> None:
    assert JsonDecoder(CONTRACT).decode([country(colour="green")]).rejections == []


def test_a_bare_nan_in_a_nullable_number_becomes_null_and_is_counted() -> None:
    decoded = JsonDecoder(CONTRACT).decode([country(gdp=float("nan"), co2=float("nan")), country(co2=1.5)])
    assert decoded.columns.column("gdp").null_count == 2
    assert decoded.columns.column("co2").to_pylist() == [None, 1.5]
    assert decoded.mended_values == 2


def test_nan_of_a_rejected_record_is_not_counted_as_mended() -> None:
    assert JsonDecoder(CONTRACT).decode([country(gdp=float("nan"), country="\x00")]).mended_values == 0


@pytest.mark.parametrize(
    ("value", "error_class"),
    [
        (None, "NullValue"),
        (b"", "EmptyValue"),
        (b"[]", "WrongType"),
        (b'"text"', "WrongType"),
        (b"{", "MalformedJson"),
        (b'{"country": "A", "year": 1}{"country": "B", "year": 2}', "MalformedJson"),
        (country(year=float("nan")), "WrongType"),
        (country(gdp=float("inf")), "MalformedJson"),
        (country(gdp="text"), "WrongType"),
        (country(year=2**40), "WrongType"),
        (country(country="a\x00b"), "NulInText"),
        (b'{"country": "\\ud800", "year": 1}', "MalformedJson"),
        (b'{"country": "\xff", "year": 1}', "MalformedJson"),
        (b'{"year": 1}', "WrongType"),
        (country(gdp=None).replace(b"null", b"1e999"), "WrongType"),
        (b"[" * 100_000, "WrongType"),
    ],
)
def test_a_bad_value_is_rejected_alone(value: bytes | None, error_class: str) -> None:
    decoded = JsonDecoder(CONTRACT).decode([country(year=1), value, country(year=2)])
    assert [(each.index, each.error_class) for each in decoded.rejections] == [(1, error_class)]
    assert decoded.columns.column("year").to_pylist() == [1, 2]
    assert decoded.indices.to_pylist() == [0, 2]
