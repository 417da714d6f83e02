"""Debezium's change records (Avro in the registry's wire format) to columns: the row after the change, or before a
delete, and what the change was.

Each record is judged by the schema that it was written with, which follows the source table: a column that was added
is passed over, one that is gone or has another type makes dead letters until the contract knows of it.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro
from fastavro.schema import SchemaParseException

from ingest.contracts.contract import CHANGE_FIELDS, Contract, Field
from ingest.sink.avro_decoder import SchemaLookup, UnknownSchemaError
from ingest.sink.conform import conform
from ingest.sink.decoded import Decoded, Rejection, concatenate

_HEADER_BYTES = 5

# What a column's values may come as, by the kind of its field: Avro's name of it, or the last word of Debezium's own.
_ZONED_TIME = "ZonedTimestamp"
_DATE = "Date"
_COMES_AS = {
    "boolean": ("boolean",),
    "int": ("int",),
    "long": ("long", "int"),
    "float": ("float",),
    "double": ("double", "float", "int", "long"),
    "string": ("string",),
    "enum": ("string",),
    "timestamp": (_ZONED_TIME,),
    "date": (_DATE,),
}
_ARROW_TYPES = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    _ZONED_TIME: pa.string(),
    _DATE: pa.int32(),
}
# Debezium's own types that are another thing than what Avro calls them.
_TIMES = "io.debezium.time."

_OPERATIONS = ("r", "c", "u", "d")

# In place of a long value that an update left alone, where the table's replica identity is not full.
_UNAVAILABLE = "__debezium_unavailable_value"
_FULL_IDENTITY = "set the table's replica identity to full"

_SOURCE = pa.struct([("lsn", pa.int64()), ("ts_us", pa.int64())])

Reason = tuple[str, str]


class DebeziumDecoder:
    """Decodes one change log's values. Not safe for use by two threads at once.

    Tombstones are skipped. Of a change that is no row (a truncated table, a message) a dead letter is made.
    """

    def __init__(self, contract: Contract, schemas: SchemaLookup) -> None:
        self._contract = contract
        self._schemas = schemas
        self._writers: dict[int, _Writer] = {}

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode a batch of values.

        Raises:
            Exception: whatever `schemas` raises when the registry can't be asked.
        """
        groups: dict[int, list[int]] = defaultdict(list)
        rejections = []
        skipped = []
        for index, value in enumerate(values):
            if value is None:
                skipped.append(index)
            elif len(value) < _HEADER_BYTES or value[0] != 0:
                sentence = "The value does not begin with a zero byte and the schema's id in four bytes."
                rejections.append(Rejection(index, "WrongWireFormat", sentence))
            else:
                groups[int.from_bytes(value[1:_HEADER_BYTES], "big")].append(index)
        parts = [self._decode_group(schema_id, indices, values) for schema_id, indices in groups.items()]
        decoded = concatenate(parts or [self._nothing([])])
        decoded.rejections += rejections
        decoded.skipped = skipped
        return decoded

    def _decode_group(self, schema_id: int, indices: list[int], values: Sequence[bytes | None]) -> Decoded:
        """The values at `indices`, all of one writer's schema."""
        try:
            writer = self._writer(schema_id)
        except UnknownSchemaError:
            reason = ("UnknownSchema", f"The registry knows no schema {schema_id}.")
            return self._nothing([Rejection(index, *reason, schema_id) for index in indices])
        except (SchemaParseException, _MisfitError, ValueError) as error:
            return self._misfit(schema_id, indices, error)
        bodies = [(values[index] or b"")[_HEADER_BYTES:] for index in indices]
        try:
            rows, places, bad = writer.decode(bodies)
        except (pa.ArrowException, TypeError) as error:
            # The row before and the row after are not of one type.
            return self._misfit(schema_id, indices, error)
        conformed = conform(rows, self._contract)
        for rejection in conformed.rejections:
            bad[places[rejection.index]] = (rejection.error_class, rejection.error)
        return Decoded(
            columns=conformed.columns,
            indices=pa.array(indices, pa.int64()).take(pa.array(places, pa.int64())).take(conformed.kept),
            schema_ids=pa.repeat(pa.scalar(schema_id, pa.int32()), len(conformed.kept)),
            rejections=[Rejection(indices[place], *reason, schema_id) for place, reason in sorted(bad.items())],
            mended_values=conformed.mended_values,
        )

    def _misfit(self, schema_id: int, indices: list[int], error: Exception) -> Decoded:
        reason = ("IncompatibleSchema", f"Schema {schema_id} does not fit the contract: {error}.")
        return self._nothing([Rejection(index, *reason, schema_id) for index in indices])

    def _writer(self, schema_id: int) -> _Writer:
        if schema_id not in self._writers:
            self._writers[schema_id] = _Writer(self._schemas.schema_text(schema_id), self._contract)
        return self._writers[schema_id]

    def _nothing(self, rejections: list[Rejection]) -> Decoded:
        schema = pa.schema([(field.name, field.arrow_type) for field in self._contract.fields])
        empty = pa.RecordBatch.from_pylist([], schema=schema)
        return Decoded(empty, pa.array([], pa.int64()), pa.array([], pa.int32()), rejections)


class _MisfitError(Exception):
    """A writer's schema is no change record's, or its row does not fit the contract."""


class _Writer:
    """One writer's schema: a change record's, whose row holds what the contract wants."""

    def __init__(self, text: str, contract: Contract) -> None:
        document = json.loads(text)
        self._schema = fastavro.parse_schema(document)
        self._fields = [field for field in contract.fields if field not in CHANGE_FIELDS]
        comes_as = _row_types(document)
        for field in self._fields:
            _check_fits(field, comes_as.get(field.name))
        wanted = [(field.name, _ARROW_TYPES[comes_as[field.name]]) for field in self._fields if field.name in comes_as]
        row = pa.struct(wanted)
        self._arrow_schema = pa.schema([("before", row), ("after", row), ("source", _SOURCE), ("op", pa.string())])
        self._text = text
        # On other types pyruhvro panics, also in a field that nobody wants.
        self._is_columnar = not any(word in text for word in ('"bytes"', '"fixed"', '"map"', '"logicalType"'))

    def decode(self, bodies: list[bytes]) -> tuple[pa.RecordBatch, list[int], dict[int, Reason]]:
        """Rows for `conform`, their places in `bodies`, and the reasons of the others by theirs."""
        changes, places, bad = self._changes(bodies)
        op = changes.column("op")
        is_delete = pc.equal(op, "d")
        before, after = changes.column("before"), changes.column("after")
        columns = {
            field.name: _cast(pc.if_else(is_delete, _field(before, field.name), _field(after, field.name)), field)
            for field in self._fields
        }
        has_no_image = pc.if_else(is_delete, pc.is_null(before), pc.is_null(after))
        reject = partial(_reject, bad, places)
        for row in _true(pc.invert(pc.is_in(op, pa.array(_OPERATIONS)))):
            reject(row, *_no_row(op[row].as_py()))
        for row in _true(has_no_image):
            reject(row, "NoImage", f"The change (op {op[row]}) comes without the row: {_FULL_IDENTITY}.")
        for name, (values, unreadable) in columns.items():
            for row in _true(unreadable):
                reject(row, "UnreadableTime", f"Field {name} is no time from the year 1 to 9999.")
            for row in _true(pc.equal(values, _UNAVAILABLE)) if pa.types.is_string(values.type) else []:
                reject(row, "UnavailableValue", f"Field {name} was left out of the change: {_FULL_IDENTITY}.")
        kept = [row for row, place in enumerate(places) if place not in bad]
        source = changes.column("source")
        arrays = [values for values, _ in columns.values()]
        arrays += [op, _field(source, "lsn"), _field(source, "ts_us").cast(pa.timestamp("us", tz="UTC"))]
        names = [*columns, *(field.name for field in CHANGE_FIELDS)]
        rows = pa.RecordBatch.from_arrays(arrays, names=names).take(pa.array(kept, pa.int64()))
        return rows, [places[row] for row in kept], bad

    def _changes(self, bodies: list[bytes]) -> tuple[pa.RecordBatch, list[int], dict[int, Reason]]:
        """The records as Arrow, their places, and the reasons of those that can't be decoded."""
        if self._is_columnar:
            try:
                batch = pyruhvro.deserialize_array(bodies, self._text)
                # It takes strings on trust: bytes that are no UTF-8 would break whoever reads the column.
                batch.validate(full=True)
            except BaseException as error:
                if not _is_bad_data(error):
                    raise
            else:
                return batch, list(range(len(bodies))), {}
        records, places, bad = [], [], {}
        for place, body in enumerate(bodies):
            try:
                record = fastavro.schemaless_reader(io.BytesIO(body), self._schema, None)
                pa.RecordBatch.from_pylist([record], schema=self._arrow_schema)
            except Exception as error:
                if not _is_bad_data(error):
                    raise
                bad[place] = ("UndecodableAvro", f"The value is not what its schema says: {error or type(error)}.")
            else:
                records.append(record)
                places.append(place)
        return pa.RecordBatch.from_pylist(records, schema=self._arrow_schema), places, bad


def _row_types(envelope: Any) -> dict[str, str]:
    """By each column of the source table, what its values come as.

    Raises:
        _MisfitError: the schema is no change record's.
    """
    fields = _field_types(envelope)
    rows = [fields.get("before"), fields.get("after")]
    source = _field_types(fields.get("source"))
    # The row's type is written down where it is first used; after that it goes by its name.
    row = next((each for each in rows if isinstance(each, dict)), None)
    lsn_and_time = {_type_name(source.get(name)) for name in ("lsn", "ts_us")}
    if row is None or None in rows or fields.get("op") != "string" or lsn_and_time != {"long"}:
        raise _MisfitError("it is no change record of Debezium's, with before, after, op, source.lsn and source.ts_us")
    return {name: _type_name(avro_type) for name, avro_type in _field_types(row).items()}


def _field_types(record: Any) -> dict[str, Any]:
    """A record's fields' types, without null; none of what is no record."""
    if not isinstance(record, dict) or record.get("type") != "record":
        return {}
    return {field["name"]: _without_null(field["type"]) for field in record["fields"]}


def _type_name(avro_type: Any) -> str:
    if not isinstance(avro_type, dict):
        return avro_type if isinstance(avro_type, str) else "union"
    meaning = str(avro_type.get("connect.name", ""))
    if meaning.startswith(_TIMES):
        return meaning.removeprefix(_TIMES)
    return str(avro_type.get("logicalType", avro_type["type"]))


def _without_null(avro_type: Any) -> Any:
    if not isinstance(avro_type, list):
        return avro_type
    others = [branch for branch in avro_type if branch != "null"]
    return others[0] if len(others) == 1 else others


def _check_fits(field: Field, comes_as: str | None) -> None:
    if comes_as is None:
        if not field.is_nullable:
            raise _MisfitError(f"column {field.name} is gone from the table")
        return
    wanted = ("long", "int") if field.unix_seconds else _COMES_AS[field.kind]
    if comes_as not in wanted:
        raise _MisfitError(f"column {field.name} comes as {comes_as}, not as {' or '.join(wanted)}")


def _field(struct: pa.StructArray, name: str) -> pa.Array:
    """A field's values, null where the struct is null or has no such field."""
    if struct.type.get_field_index(name) < 0:
        return pa.nulls(len(struct))
    return pc.struct_field(struct, name)


def _cast(values: pa.Array, field: Field) -> tuple[pa.Array, pa.BooleanArray]:
    """The values in the type that `conform` wants, and which of them are no time that can be read."""
    fine = pa.repeat(pa.scalar(False), len(values))
    if field.unix_seconds:
        return values, fine
    try:
        return values.cast(field.arrow_type), fine
    except pa.ArrowInvalid:
        if field.kind != "timestamp":
            raise
    read = [_read_time(value, field.arrow_type) for value in values]
    times = pa.array(read, field.arrow_type)
    return times, pc.and_(pc.is_null(times), pc.is_valid(values))


def _read_time(value: pa.Scalar, arrow_type: pa.DataType) -> Any:
    try:
        return value.cast(arrow_type).as_py()
    except (pa.ArrowInvalid, ValueError, OverflowError):
        return None


def _no_row(op: str) -> Reason:
    if op == "t":
        return "Truncated", "The source table was truncated, which no row can tell: delete rows instead."
    return "UnknownOperation", f"The operation {op!r} is none of r, c, u and d."


def _true(mask: pa.BooleanArray) -> list[int]:
    """The rows for which the mask is true."""
    return list(pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist())


def _reject(bad: dict[int, Reason], places: list[int], row: int, error_class: str, error: str) -> None:
    bad.setdefault(places[row], (error_class, error))


def _is_bad_data(error: BaseException) -> bool:
    # A Rust library that gives up on the data raises what is no Exception.
    is_panic = type(error).__name__ == "PanicException"
    return is_panic or (isinstance(error, Exception) and not isinstance(error, MemoryError))
