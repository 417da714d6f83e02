"""The bytes for COPY: fixed here because Linux on arm64 has an older release of the encoder than other platforms."""

import dataclasses
from datetime import UTC, datetime
from hashlib import sha256

import pyarrow as pa

from ingest.contracts.contract import Field, load_contracts
from ingest.sink.conform import raw_schema
from ingest.sink.load import encode

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
VALUES = {
    "boolean": True,
    "int": -7,
    "long": 2**40,
    "float": 0.5,
    "double": 0.1,
    "string": "é\n\t",
    "enum": "GREEN",
    "date": NOW.date(),
    "timestamp": NOW,
    "nested": '[{"a":1}]',
}


def test_every_kind_of_column_has_the_same_bytes_on_every_platform() -> None:
    fields = tuple(Field(kind, "", None, False, True, False, None, kind, unix_seconds=False) for kind in VALUES)
    contract = dataclasses.replace(load_contracts()["emissions-topic"], fields=fields)
    rows = pa.RecordBatch.from_pylist([VALUES, dict.fromkeys(VALUES)], schema=raw_schema(contract))
    encoded = b"".join(encode(contract, rows))
    assert encoded.startswith(b"PGCOPY\n\xff\r\n\x00")
    assert sha256(encoded).hexdigest() == "d2777c010fa75202578744b4bc6413584699686e78c98907c659a635eee5b23e"
