"""Every kind of bad record, through a real Kafka, becomes one dead letter, whole; its neighbours land."""

from __future__ import annotations

from typing import Any

import pyruhvro
import pytest

from ingest.sink import load
from tests.fakes.everything import encode, writer_fields
from tests.integration.dead_letters.conftest import World

NOT_FITTING = [{"name": "id", "type": "string"}, *writer_fields()[1:]]
HEADERS = [("trace", b"\xff\x00"), ("empty", None)]


def test_each_bad_avro_record_is_kept_whole_and_its_neighbours_land(world: World) -> None:
    contract = world.make()
    schema_id = world.schema_id(contract)
    good = world.good(contract)
    incompatible = world.register(f"{contract.topic}-other", NOT_FITTING)
    bad: dict[str, tuple[bytes | None, str]] = {
        "cut": (good[:-3], "UndecodableAvro"),
        "garbage": (good[:5] + b"\xff" * 40, "UndecodableAvro"),
        "unknown schema": (b"\x00\x7f\xff\xff\xff" + good[5:], "UnknownSchema"),
        "incompatible schema": (
            encode(
                incompatible,
                NOT_FITTING,
                {"id": "x", "name": b"a", "day": 0, "at_ms": 0, "at_us": 0, "items": [], "number": None},
            ),
            "IncompatibleSchema",
        ),
        "wrong wire format": (b'{"id": 1}', "WrongWireFormat"),
        "short": (b"\x00\x00", "WrongWireFormat"),
        "empty": (b"", "EmptyValue"),
        "tombstone": (None, "NullValue"),
        "nul": (world.good(contract, name=b"a\x00"), "NulInText"),
        "nul inside": (world.good(contract, items=[{"x": b"a\x00"}]), "NulInText"),
        "lone surrogate": (world.good(contract, name=b"\xed\xa0\x80"), "UndecodableAvro"),
        "lone surrogate inside": (world.good(contract, items=[{"x": b"\xed\xa0\x80"}]), "UndecodableAvro"),
        "infinity": (world.good(contract, number=float("inf")), "NotFinite"),
        "first day": (world.good(contract, day=-(2**31)), "OutOfRange"),
        "last day": (world.good(contract, day=2**31 - 1), "OutOfRange"),
        "year 300000 in ms": (world.good(contract, at_ms=9_404_881_660_800_000), "OutOfRange"),
        "last microsecond": (world.good(contract, at_us=2**63 - 1), "OutOfRange"),
        "first microsecond": (world.good(contract, at_us=-(2**63)), "OutOfRange"),
    }
    for number, (name, (value, _)) in enumerate(bad.items()):
        world.send(contract, [value], name.encode(), headers=HEADERS)
        world.send(contract, [world.good(contract, id=number)], None)
    drained = world.drain(contract)[contract.topic]
    assert (drained.rows, drained.dead_letters) == (len(bad), len(bad))
    assert [row_id for (row_id,) in world.rows(contract, "id")] == list(range(len(bad)))
    letters = world.letters(contract, "convert_from(key, 'UTF8'), value, error_class, headers, error, attempts")
    assert {name: (value, error_class) for name, value, error_class, *_ in letters} == bad
    for *_, headers, error, attempts in letters:
        assert headers == [["trace", "ff00"], ["empty", None]]
        assert error.endswith(".") and attempts == 1
    ids = dict(world.letters(contract, "convert_from(key, 'UTF8'), schema_id"))
    assert (ids["cut"], ids["unknown schema"], ids["incompatible schema"]) == (schema_id, 2**31 - 1, incompatible)


def test_each_bad_json_record_is_kept_whole_and_its_neighbours_land(world: World) -> None:
    contract = world.make(
        [
            {"name": "id", "type": "long"},
            {"name": "small", "type": ["null", "int"], "default": None},
            {"name": "number", "type": ["null", "double"], "default": None},
            {"name": "text", "type": ["null", "string"], "default": None},
        ],
        encoding="json",
    )
    bad: dict[str, tuple[bytes | None, str]] = {
        "no object": (b"[1]", "WrongType"),
        "no json": (b"{", "MalformedJson"),
        "two in one": (b'{"id": 1}{"id": 2}', "MalformedJson"),
        "no UTF-8": (b'{"id": 1, "text": "\xff"}', "MalformedJson"),
        "nul": (b'{"id": 1, "text": "a\\u0000"}', "NulInText"),
        "lone surrogate": (b'{"id": 1, "text": "\\ud800"}', "MalformedJson"),
        "lone surrogate beside nan": (b'{"id": 1, "text": "\\ud800", "number": NaN}', "MalformedJson"),
        "infinity": (b'{"id": 1, "number": -Infinity}', "MalformedJson"),
        "too large for a double": (b'{"id": 1, "number": 1e999}', "WrongType"),
        "too large for an int": (b'{"id": 1, "small": 2147483648}', "WrongType"),
        "too large for a long": (b'{"id": 9223372036854775808}', "WrongType"),
        "nan where none may be": (b'{"id": NaN}', "WrongType"),
        "text for a number": (b'{"id": "1"}', "WrongType"),
        "missing field": (b'{"small": 1}', "WrongType"),
        "deep": (b'{"id": 1, "more": ' + b"[" * 200_000, "MalformedJson"),
        "empty": (b"", "EmptyValue"),
        "tombstone": (None, "NullValue"),
    }
    for number, (name, (value, _)) in enumerate(bad.items()):
        world.send(contract, [value], name.encode())
        world.send(contract, [b'{"id": %d, "extra": {"a": [1]}, "number": NaN}' % number], None)
    drained = world.drain(contract)[contract.topic]
    assert (drained.rows, drained.dead_letters, drained.mended_values) == (len(bad), len(bad), len(bad))
    assert world.rows(contract, "id, number") == [(number, None) for number in range(len(bad))]
    letters = world.letters(contract, "convert_from(key, 'UTF8'), value, error_class")
    assert {name: (value, error_class) for name, value, error_class in letters} == bad


def test_far_dates_and_ten_megabytes_land(world: World) -> None:
    contract = world.make()
    far: list[dict[str, Any]] = [
        {"day": -719_528},  # year 0 as ISO counts, 1 BC
        {"day": 108_853_259},  # year 300000
        {"day": 2_145_042_905},
        {"at_ms": -62_167_219_200_000},
        {"at_us": 9_222_999_999_999_999_999 // 10**6 * 10**6},
        {"name": b"x" * 10_000_000},
        {"items": [{"x": b"y" * 10_000_000}]},
    ]
    world.send(contract, [world.good(contract, id=number, **changes) for number, changes in enumerate(far)], None)
    world.send(contract, [b"\x00" * 10_000_000], b"\x00key")
    drained = world.drain(contract)[contract.topic]
    assert (drained.rows, drained.dead_letters) == (len(far), 1)
    days = [text for (text,) in world.rows(contract, "day::text")]
    assert days[:3] == ["0001-01-01 BC", "300000-02-07", "5874897-12-31"]
    assert world.rows(contract, "length(name), length(items::text)")[5:] == [(10_000_000, 12), (1, 10_000_011)]
    assert world.letters(contract, "key, length(value)") == [(b"\x00key", 10_000_000)]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many records each call to the decoder and each COPY took."""
    counts: dict[str, list[int]] = {"decoded": [], "copied": []}
    decode, copy = pyruhvro.deserialize_array, load._copy

    def counted_decode(bodies: list[bytes], *rest: Any) -> Any:
        counts["decoded"].append(len(bodies))
        return decode(bodies, *rest)

    def counted_copy(connection: Any, contract: Any, rows: Any) -> None:
        counts["copied"].append(rows.num_rows)
        copy(connection, contract, rows)

    monkeypatch.setattr(pyruhvro, "deserialize_array", counted_decode)
    monkeypatch.setattr(load, "_copy", counted_copy)
    return counts


def test_one_undecodable_record_among_20_000_costs_one_more_decoding(world: World, work: dict[str, list[int]]) -> None:
    contract = world.make()
    good = world.good(contract)
    world.send(contract, [good] * 12_345 + [good[:-2]] + [good] * 7_654)
    assert world.drain(contract, batch_milliseconds=20_000)[contract.topic].dead_letters == 1
    assert world.letters(contract, '"offset"') == [(12_345,)]
    # Halves of halves: the whole, and then twice it at most; 15 levels of two calls.
    assert sum(work["decoded"]) <= 3.1 * 20_000
    assert len(work["decoded"]) <= 40
    assert sum(work["copied"]) == 19_999


def test_one_row_among_20_000_that_postgres_refuses_is_found_by_halving(
    world: World, work: dict[str, list[int]]
) -> None:
    contract = world.make()
    world.owner.execute(f"alter table raw.{contract.table} add constraint by_hand check (id <> 13)")
    good = world.good(contract)
    world.send(contract, [good] * 5_000 + [world.good(contract, id=13)] + [good] * 14_999)
    drained = world.drain(contract, batch_milliseconds=20_000)[contract.topic]
    assert (drained.rows, drained.dead_letters) == (19_999, 1)
    ((offset, error_class, error),) = world.letters(contract, '"offset", error_class, error')
    assert (offset, error_class) == (5_000, "RefusedByPostgres")
    assert "by_hand" in error
    assert sum(work["copied"]) <= 3.1 * 20_000
    assert len(work["copied"]) <= 40
