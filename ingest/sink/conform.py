"""From decoded Arrow columns to the columns of a raw table, checked as columns.

A value that Postgres could not hold, or that would silently become another, rejects its record: NUL in text, NaN
and infinity, times out of range, null where the contract has none. A NaN in a nullable number becomes null and is
counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from ingest.contracts.contract import Contract, Field
from ingest.sink.decoded import Rejection

# timestamptz: 4713 BC to 294276 AD; microseconds of both ends, rounded inwards to whole years.
_TIMESTAMP_MIN_US = -210_000_000_000 * 1_000_000
_TIMESTAMP_MAX_US = 9_223_000_000_000 * 1_000_000

# date: Julian day 0 to the end of 5874897 AD, in days since 1970.
_DATE_MIN_DAYS = -2_440_588
_DATE_MAX_DAYS = 2_145_042_905

# A NUL as JSON writes it, not preceded by an odd number of backslashes.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(slots=True)
class Conformed:
    """Columns for COPY; `kept` are the rows of the input that are in them."""

    columns: pa.RecordBatch
    kept: pa.Int64Array
    rejections: list[Rejection]
    mended_values: int


def conform(decoded: pa.RecordBatch, contract: Contract) -> Conformed:
    """Check and convert decoded columns, one for each field of the contract in its order.

    Takes a batch whose columns have the Avro schema's Arrow types; returns the raw table's columns, without the
    rows that can't be held. A rejection's index is the row in `decoded`.
    """
    rejections: dict[int, Rejection] = {}
    columns = []
    mended_rows: list[int] = []
    for position, field in enumerate(contract.fields):
        column = _Column(field, decoded.column(position))
        column.check()
        for row, reason in column.bad.items():
            rejections.setdefault(row, Rejection(row, *reason))
        columns.append(column.values)
        mended_rows += column.mended_rows
    batch = pa.record_batch(columns, schema=raw_schema(contract))
    kept = pa.array(np.delete(np.arange(decoded.num_rows), list(rejections)))
    if rejections:
        batch = batch.take(kept)
    mended = sum(row not in rejections for row in mended_rows)
    return Conformed(batch, kept, sorted(rejections.values(), key=lambda rejection: rejection.index), mended)


def raw_schema(contract: Contract) -> pa.Schema:
    """The Arrow schema of a raw table's contract columns."""
    return pa.schema([pa.field(field.name, field.arrow_type) for field in contract.fields])


class _Column:
    """One column on its way: `values` so far, and for each bad row its error class and sentence."""

    def __init__(self, field: Field, values: pa.Array) -> None:
        self.field = field
        self.values = values
        self.bad: dict[int, tuple[str, str]] = {}
        self.mended_rows: list[int] = []

    def check(self) -> None:
        """Run the checks of the field's kind, then convert to the raw column's type."""
        if not self.field.is_nullable and self.values.null_count:
            self._reject(pc.is_null(self.values), "NullValue", "is null, but the contract does not allow null")
        match self.field.kind:
            case "float" | "double":
                self._check_finite()
            case "string" | "enum":
                self._check_text()
            case "date":
                self._keep_range(self.values.cast(pa.int32()).cast(pa.int64()), _DATE_MIN_DAYS, _DATE_MAX_DAYS)
            case "timestamp":
                self._to_timestamp()
            case "nested":
                self._to_json()
        if self.values.type != self.field.arrow_type:
            self.values = self.values.cast(self.field.arrow_type)

    def _reject(self, mask: pa.BooleanArray, error_class: str, reason: str) -> None:
        for row in pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist():
            self.bad.setdefault(row, (error_class, f"Field {self.field.name} {reason}."))

    def _check_finite(self) -> None:
        if pc.all(pc.is_finite(self.values)).as_py() in (True, None):
            return
        nan = pc.is_nan(self.values)
        if self.field.is_nullable:
            self.mended_rows = pc.indices_nonzero(pc.fill_null(nan, False)).to_pylist()
            self.values = pc.if_else(pc.fill_null(nan, False), pa.scalar(None, self.values.type), self.values)
        else:
            self._reject(nan, "NotFinite", "is NaN, but the contract does not allow null")
        self._reject(pc.is_inf(self.values), "NotFinite", "is infinite")

    def _check_text(self) -> None:
        text = self.values.cast(pa.string())
        has_nul = pc.match_substring(text, "\x00")
        if pc.any(has_nul).as_py():
            self._reject(has_nul, "NulInText", "has a NUL character, which Postgres text can't hold")

    def _to_timestamp(self) -> None:
        if self.field.unix_seconds:
            seconds = self.values.cast(pa.int64())
            self._keep_range(seconds, _TIMESTAMP_MIN_US // 1_000_000, _TIMESTAMP_MAX_US // 1_000_000)
            self.values = pc.multiply(self.values.cast(pa.int64()), pa.scalar(1_000_000, pa.int64()))
        else:
            per_unit = 1_000 if self.values.type.unit == "ms" else 1
            counts = self.values.cast(pa.int64())
            self._keep_range(counts, _TIMESTAMP_MIN_US // per_unit, _TIMESTAMP_MAX_US // per_unit)
            self.values = pc.multiply(self.values.cast(pa.int64()), pa.scalar(per_unit, pa.int64()))
        self.values = self.values.cast(self.field.arrow_type)

    def _keep_range(self, counts: pa.Int64Array, low: int, high: int) -> None:
        inside = pc.and_(pc.greater_equal(counts, low), pc.less_equal(counts, high))
        if pc.all(inside).as_py() in (True, None):
            return
        self._reject(pc.invert(inside), "OutOfRange", "is a time that Postgres can't hold")
        self.values = pc.if_else(pc.fill_null(inside, False), self.values, pa.scalar(None, self.values.type))

    def _to_json(self) -> None:
        self._reject_rows(_not_finite_rows(self.values), "NotFinite", "holds NaN or infinity, which JSON can't hold")
        is_null = pc.is_null(self.values)
        # A float's shortest digits name another double, and JSON's readers know doubles only.
        frame = pl.DataFrame({"x": pl.from_arrow(self.values.cast(_with_doubles(self.values.type)))})
        # A list has no encoder of its own: it is wrapped as {"x":...} and unwrapped.
        text = frame.select(pl.struct("x").struct.json_encode().str.slice(5).str.head(-1)).to_series()
        encoded = text.to_arrow().cast(pa.string())
        if self.values.null_count:
            encoded = pc.if_else(is_null, pa.scalar(None, pa.string()), encoded)
        suspects = pc.indices_nonzero(pc.fill_null(pc.match_substring(encoded, "\\u0000"), False)).to_pylist()
        rows = [row for row in suspects if _ESCAPED_NUL.search(encoded[row].as_py())]
        self._reject_rows(rows, "NulInText", "has a NUL character, which Postgres jsonb can't hold")
        self.values = encoded

    def _reject_rows(self, rows: list[int], error_class: str, reason: str) -> None:
        for row in rows:
            self.bad.setdefault(row, (error_class, f"Field {self.field.name} {reason}."))


def _with_doubles(data_type: pa.DataType) -> pa.DataType:
    """The type with a double in each float's place, at any depth."""
    if pa.types.is_struct(data_type):
        return pa.struct([field.with_type(_with_doubles(field.type)) for field in data_type])
    if pa.types.is_list(data_type):
        return pa.list_(data_type.value_field.with_type(_with_doubles(data_type.value_type)))
    return pa.float64() if pa.types.is_float32(data_type) else data_type


def _not_finite_rows(values: pa.Array) -> list[int]:
    """Rows of a nested column that hold a NaN or an infinity at any depth."""
    return pc.indices_nonzero(_holds_not_finite(values)).to_pylist() if _has_floats(values.type) else []


def _has_floats(data_type: pa.DataType) -> bool:
    if pa.types.is_struct(data_type):
        return any(_has_floats(field.type) for field in data_type)
    if pa.types.is_list(data_type):
        return _has_floats(data_type.value_type)
    return bool(pa.types.is_floating(data_type))


def _holds_not_finite(values: pa.Array) -> pa.BooleanArray:
    """One boolean a row, never null."""
    if pa.types.is_floating(values.type):
        return pc.fill_null(pc.invert(pc.is_finite(values)), False)
    if pa.types.is_list(values.type):
        inner = _holds_not_finite(values.flatten())
        parents = set(pc.filter(pc.list_parent_indices(values), inner).to_pylist())
        if not parents:
            return pa.repeat(pa.scalar(False), len(values))
        return pa.array([row in parents for row in range(len(values))])
    mask = pa.repeat(pa.scalar(False), len(values))
    if pa.types.is_struct(values.type):
        for child in values.flatten():
            mask = pc.or_(mask, _holds_not_finite(child))
    return mask
