"""JSON values to columns: each decoded by itself into a struct of the contract's types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from ingest.contracts.contract import Contract, Field
from ingest.sink.conform import conform
from ingest.sink.decoded import Decoded, Rejection

_TYPES: dict[str, Any] = {
    "boolean": bool,
    "int": Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)],
    "long": Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    "float": float,
    "double": float,
    "string": str,
}


class JsonDecoder:
    """Decodes one topic's values. Fields the contract does not have are passed over."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        # Names of our own, for a field's may be no identifier.
        self._names = [f"f{place}" for place in range(len(contract.fields))]
        self._struct = msgspec.defstruct(
            "Record",
            [_struct_field(name, field) for name, field in zip(self._names, contract.fields, strict=True)],
            rename={name: field.name for name, field in zip(self._names, contract.fields, strict=True)},
            frozen=True,
            gc=False,
        )
        self._decoder = msgspec.json.Decoder(self._struct)

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode a batch of values."""
        records = []
        indices = []
        rejections = []
        for index, value in enumerate(values):
            try:
                records.append(self._decode_one(value))
                indices.append(index)
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                rejections.append(Rejection(index, *_reason(value, error)))
        arrays = [
            pa.array([getattr(record, name) for record in records], _arrow_type(field))
            for name, field in zip(self._names, self._contract.fields, strict=True)
        ]
        decoded = pa.RecordBatch.from_arrays(arrays, names=[field.name for field in self._contract.fields])
        conformed = conform(decoded, self._contract)
        rejections += [
            Rejection(indices[rejection.index], rejection.error_class, rejection.error)
            for rejection in conformed.rejections
        ]
        return Decoded(
            columns=conformed.columns,
            indices=pa.array(indices, pa.int64()).take(conformed.kept),
            schema_ids=pa.nulls(len(conformed.kept), pa.int32()),
            rejections=rejections,
            mended_values=conformed.mended_values,
        )

    def _decode_one(self, value: bytes | None) -> Any:
        if value is None:
            raise ValueError("null")
        try:
            return self._decoder.decode(value)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # A bare NaN is no JSON, but common: Python's own parser takes it; conform() then judges it by column.
            if b"NaN" not in value:
                raise
            parsed = json.loads(value, parse_constant=_only_nan)
            json.dumps(parsed, ensure_ascii=False).encode()  # raises on a lone surrogate, which that parser lets pass
            return msgspec.convert(parsed, self._struct)


def _only_nan(constant: str) -> float:
    if constant != "NaN":
        raise ValueError(f"{constant} is no JSON")
    return float("nan")


def _struct_field(name: str, field: Field) -> tuple[str, Any] | tuple[str, Any, Any]:
    wanted = _TYPES["long" if field.unix_seconds else field.kind]
    wanted = wanted | None if field.is_nullable else wanted
    return (name, wanted, field.default) if field.has_default else (name, wanted)


def _arrow_type(field: Field) -> pa.DataType:
    return pa.int64() if field.unix_seconds else field.arrow_type


def _reason(value: bytes | None, error: Exception) -> tuple[str, str]:
    if value is None:
        return "NullValue", "The record has no value."
    if not value:
        return "EmptyValue", "The record's value is empty."
    if isinstance(error, msgspec.ValidationError):
        return "WrongType", f"The value is not what the contract says: {error}."
    return "MalformedJson", f"The value is not JSON: {error}."
