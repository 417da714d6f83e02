"""Avro in the registry's wire format to columns.

Records are grouped by the schema they were written with. A group whose schema has the contract's own types is
decoded in one call by `pyruhvro`; any other is decoded record by record by `fastavro`, the reference, which also
resolves the writer's schema to the contract's.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import fastavro
import numpy as np
import pyarrow as pa
import pyruhvro
from fastavro.schema import SchemaParseException

from ingest.contracts.contract import Contract
from ingest.sink.conform import conform
from ingest.sink.decoded import Decoded, Rejection, concatenate

_HEADER_BYTES = 5


class UnknownSchemaError(Exception):
    """The registry has no schema of that id."""


class SchemaLookup(Protocol):
    """Where a writer's schema comes from."""

    def schema_text(self, schema_id: int) -> str:
        """The Avro schema of that id as JSON text.

        Raises:
            UnknownSchemaError: the registry answered that it has none. Any other failure is not the record's.
        """


class AvroDecoder:
    """Decodes one topic's values. Not safe for use by two threads at once."""

    def __init__(self, contract: Contract, schemas: SchemaLookup) -> None:
        self._contract = contract
        self._schemas = schemas
        self._reader_text = json.dumps(contract.schema)
        self._reader_schema = fastavro.parse_schema(contract.schema)
        self._arrow_schema = pyruhvro.avro_to_arrow_schema(self._reader_text)
        self._writers: dict[int, _Writer] = {}

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode a batch of values.

        Raises:
            Exception: whatever `schemas` raises when the registry can't be asked.
        """
        whole = self._decode_whole(values)
        if whole is not None:
            return whole
        groups, rejections = _by_writer(values)
        parts = [self._decode_group(schema_id, indices, values) for schema_id, indices in groups.items()]
        decoded = concatenate(parts or [self._nothing([])])
        decoded.rejections += rejections
        return decoded

    def _decode_whole(self, values: Sequence[bytes | None]) -> Decoded | None:
        """The values in one call, if all were written with the first one's schema and are sound: as a rule they are."""
        schema_id = _schema_id(values[0]) if values else None
        if schema_id is None:
            return None
        try:
            writer = self._writer(schema_id)
        except (UnknownSchemaError, SchemaParseException, ValueError):
            return None
        batch = writer.decode_whole(values, schema_id)
        return None if batch is None else self._conformed(batch, np.arange(len(values)), schema_id)

    def _decode_group(self, schema_id: int, indices: np.ndarray, values: Sequence[bytes | None]) -> Decoded:
        """The values at `indices`, all of one writer's schema."""
        try:
            writer = self._writer(schema_id)
        except UnknownSchemaError:
            return self._reject_all(indices, "UnknownSchema", f"The registry knows no schema {schema_id}.", schema_id)
        except (SchemaParseException, ValueError) as error:
            sentence = f"Schema {schema_id} can't be read as Avro ({error})."
            return self._reject_all(indices, "IncompatibleSchema", sentence, schema_id)
        bodies = [values[index][_HEADER_BYTES:] for index in indices.tolist()]
        # As one they were tried before.
        were_tried = writer.is_columnar and len(values) == len(indices) > 1
        decoded, undecodable = writer.decode_halves(bodies, 0) if were_tried else writer.decode(bodies, 0)
        rest = self._conformed(decoded, np.delete(indices, [rejection.index for rejection in undecodable]), schema_id)
        rest.rejections[:0] = _placed(undecodable, indices, schema_id)
        return rest

    def _conformed(self, decoded: pa.RecordBatch, indices: np.ndarray, schema_id: int) -> Decoded:
        """Decoded columns as the raw table's; `indices` are the rows' places in the batch."""
        conformed = conform(decoded, self._contract)
        return Decoded(
            columns=conformed.columns,
            indices=pa.array(indices).take(conformed.kept),
            schema_ids=pa.repeat(pa.scalar(schema_id, pa.int32()), len(conformed.kept)),
            rejections=_placed(conformed.rejections, indices, schema_id),
            mended_values=conformed.mended_values,
        )

    def _writer(self, schema_id: int) -> _Writer:
        writer = self._writers.get(schema_id)
        if writer is None:
            writer = _Writer(self._schemas.schema_text(schema_id), self._reader_schema, self._arrow_schema)
            self._writers[schema_id] = writer
        return writer

    def _reject_all(self, indices: np.ndarray, error_class: str, sentence: str, schema_id: int) -> Decoded:
        return self._nothing([Rejection(index, error_class, sentence, schema_id) for index in indices.tolist()])

    def _nothing(self, rejections: list[Rejection]) -> Decoded:
        conformed = conform(_no_records(self._arrow_schema), self._contract)
        return Decoded(conformed.columns, conformed.kept, pa.array([], pa.int32()), rejections)


class _Writer:
    """One writer's schema, resolved against the contract's."""

    def __init__(self, text: str, reader_schema: Any, arrow_schema: pa.Schema) -> None:
        # Read as longs, then cast with a check: pyruhvro cuts an int that is none down to 32 bits.
        with_longs = _with_longs(json.loads(text))
        self._text_with_longs = json.dumps(with_longs)
        self._schema_with_dates_as_ints = _dates_as_ints(arrow_schema)
        self._schema = fastavro.parse_schema(json.loads(text))
        self._reader_schema = reader_schema
        self._arrow_schema = arrow_schema
        self.is_columnar = _has_same_types(text, arrow_schema)
        self._text_with_header = json.dumps(_with_header(with_longs)) if self.is_columnar else ""

    def decode_whole(self, values: Sequence[bytes | None], schema_id: int) -> pa.RecordBatch | None:
        """Columns of the values, their headers not cut off; None if one has another header or can't be decoded."""
        if not self.is_columnar:
            return None
        try:
            batch = _decode_sound(values, self._text_with_header)
            is_ours = batch.column(1).to_numpy().view(">u4") == schema_id
            return self._to_contract(batch) if is_ours.all() and not batch.column(0).true_count else None
        except BaseException as error:
            if not _is_bad_data(error):
                raise
            return None

    def decode(self, bodies: list[bytes], first: int) -> tuple[pa.RecordBatch, list[Rejection]]:
        """Columns of the good records, and the bad ones' reasons; places are counted from `first`.

        A batch that can't be decoded is halved until the bad records stand alone.
        """
        try:
            batch = self._decode_columns(bodies) if self.is_columnar else self._decode_records(bodies)
        except BaseException as error:
            if not _is_bad_data(error):
                raise
            if len(bodies) == 1:
                return _no_records(self._arrow_schema), [Rejection(first, *_reason(error))]
            return self.decode_halves(bodies, first)
        return batch, []

    def decode_halves(self, bodies: list[bytes], first: int) -> tuple[pa.RecordBatch, list[Rejection]]:
        """As `decode`, for two values or more that can't be decoded together."""
        middle = len(bodies) // 2
        left, left_rejections = self.decode(bodies[:middle], first)
        right, right_rejections = self.decode(bodies[middle:], first + middle)
        return pa.concat_batches([left, right]), left_rejections + right_rejections

    def _decode_columns(self, bodies: list[bytes]) -> pa.RecordBatch:
        return self._to_contract(_decode_sound(bodies, self._text_with_longs))

    def _to_contract(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        batch = batch.select(self._arrow_schema.names).cast(self._schema_with_dates_as_ints)
        return batch.cast(self._arrow_schema)

    def _decode_records(self, bodies: list[bytes]) -> pa.RecordBatch:
        records = [fastavro.schemaless_reader(io.BytesIO(body), self._schema, self._reader_schema) for body in bodies]
        nullable = pa.schema([field.with_nullable(True) for field in self._arrow_schema])
        return pa.RecordBatch.from_pylist(records, schema=nullable).cast(self._arrow_schema)


def _decode_sound(bodies: Sequence[bytes | None], text: str) -> pa.RecordBatch:
    batch = pyruhvro.deserialize_array(bodies, text)
    # It takes strings on trust: bytes that are no UTF-8 would break whoever reads the column.
    batch.validate(full=True)
    return batch


def _by_writer(values: Sequence[bytes | None]) -> tuple[Mapping[int, np.ndarray], list[Rejection]]:
    """The places of the values by the id of the schema they were written with, and those that name none."""
    headers = {value and value[:_HEADER_BYTES] for value in values}
    if len(headers) == 1 and (schema_id := _schema_id(headers.pop())) is not None:
        return {schema_id: np.arange(len(values))}, []
    groups: dict[int, list[int]] = defaultdict(list)
    rejections = []
    for index, value in enumerate(values):
        schema_id = _schema_id(value)
        if schema_id is None:
            rejections.append(_not_wire_format(index, value))
        else:
            groups[schema_id].append(index)
    return {schema_id: np.array(indices) for schema_id, indices in groups.items()}, rejections


def _placed(rejections: Sequence[Rejection], indices: np.ndarray, schema_id: int) -> list[Rejection]:
    """Rejections of rows as rejections of the records that these were."""
    return [Rejection(int(indices[each.index]), each.error_class, each.error, schema_id) for each in rejections]


def _schema_id(value: bytes | None) -> int | None:
    """The id in a value's header; None where it has no such header."""
    if value is None or len(value) < _HEADER_BYTES or value[0] != 0:
        return None
    return int.from_bytes(value[1:_HEADER_BYTES], "big")


def _no_records(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


def _has_same_types(writer_text: str, arrow_schema: pa.Schema) -> bool:
    """Whether the writer's schema has each field of the contract with the very type, so that nothing is resolved."""
    try:
        writer = pyruhvro.avro_to_arrow_schema(writer_text)
    except BaseException as error:
        if isinstance(error, Exception) or _is_panic(error):
            return False
        raise
    return all(_is_decodable(field.type) for field in writer) and all(
        writer.get_field_index(field.name) >= 0 and writer.field(field.name).equals(field) for field in arrow_schema
    )


def _is_decodable(data_type: pa.DataType) -> bool:
    """Whether pyruhvro decodes the type; on any other it panics, also in a field that nobody wants."""
    if pa.types.is_struct(data_type):
        return all(_is_decodable(field.type) for field in data_type)
    if pa.types.is_list(data_type):
        return _is_decodable(data_type.value_type)
    return any(
        is_type(data_type)
        for is_type in (
            pa.types.is_boolean,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_string,
            pa.types.is_dictionary,
            pa.types.is_date32,
            pa.types.is_timestamp,
        )
    )


def _with_longs(schema: Any) -> Any:
    """The schema with long in the place of int and of date, which are written alike."""
    if isinstance(schema, list):
        return [_with_longs(branch) for branch in schema]
    if isinstance(schema, str):
        return "long" if schema == "int" else schema
    if schema["type"] == "int":
        return "long"
    parts = {name: _with_longs(schema[name]) for name in ("type", "items") if name in schema}
    if "fields" in schema:
        parts["fields"] = [{**field, "type": _with_longs(field["type"])} for field in schema["fields"]]
    return {**schema, **parts}


def _with_header(schema: Any) -> Any:
    """The schema with the wire format's header as two fields before the record's own: its zero byte as a boolean, the
    schema's id as the four bytes of a float. To cut it off each value costs as much as to decode the rest."""
    longest = max((field["name"] for field in schema["fields"]), key=len)  # and no field has these names
    header = [{"name": f"{longest}_magic", "type": "boolean"}, {"name": f"{longest}_schema_id", "type": "float"}]
    return {**schema, "fields": [*header, *schema["fields"]]}


def _dates_as_ints(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(pa.int32()) if pa.types.is_date32(field.type) else field for field in schema])


def _is_panic(error: BaseException) -> bool:
    """Whether a Rust library gave up on the data: its exception is no Exception."""
    return type(error).__name__ == "PanicException"


def _is_bad_data(error: BaseException) -> bool:
    data_errors = (ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, ArithmeticError)
    return isinstance(error, (*data_errors, fastavro.read.SchemaResolutionError)) or _is_panic(error)


def _reason(error: BaseException) -> tuple[str, str]:
    if isinstance(error, fastavro.read.SchemaResolutionError):
        return "IncompatibleSchema", f"The schema it was written with does not fit the contract: {error}."
    return "UndecodableAvro", f"The value is not what its schema says: {str(error) or type(error).__name__}."


def _not_wire_format(index: int, value: bytes | None) -> Rejection:
    if value is None:
        return Rejection(index, "NullValue", "The record has no value.")
    if not value:
        return Rejection(index, "EmptyValue", "The record's value is empty.")
    return Rejection(
        index, "WrongWireFormat", "The value does not begin with a zero byte and the schema's id in four bytes."
    )
