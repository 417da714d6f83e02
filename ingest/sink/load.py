"""One transaction: the rows, the dead letters and the offsets, or nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Protocol

import numpy as np
import psycopg
import pyarrow as pa
from confluent_kafka import Message
from pgpq import ArrowToPostgresBinaryEncoder
from pgpq.encoders import StringEncoderBuilder
from pgpq.schema import Jsonb
from psycopg import Connection, sql

from ingest.contracts.contract import Contract
from ingest.contracts.raw_tables import raw_table
from ingest.sink.batch import Batch, Records, Span
from ingest.sink.conform import raw_schema
from ingest.sink.dead_letters import DeadLetter, insert_dead_letters
from ingest.sink.decoded import Decoded, Rejection
from ingest.sink.limits import DeadLetterLimit, Outcome
from ingest.sink.offsets import Advance, TopicPartition, advance

_COORDINATES = (
    pa.field("_kafka_partition", pa.int32()),
    pa.field("_kafka_offset", pa.int64()),
    pa.field("_kafka_timestamp", pa.timestamp("us", tz="UTC")),
)
_SCHEMA_ID = pa.field("_schema_id", pa.int32())
# Rows of so many bytes are encoded at once: Postgres reads them while the next are encoded.
_CHUNK_BYTES = 1024 * 1024
# A refused row costs a few milliseconds: a whole batch of them would outlive the transaction's time.
_CHECK_EVERY = 250


class Decoder(Protocol):
    """Turns a topic's values into columns."""

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode a batch; a record is in the columns or in the rejections."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that the sink loads."""

    contract: Contract
    decoder: Decoder


@dataclass(frozen=True, slots=True)
class Prepared:
    """A topic's part of a batch, decoded: ready for COPY. `indices` are the rows' places in `records`."""

    contract: Contract
    records: Records
    rows: pa.RecordBatch
    indices: pa.Int64Array
    rejections: list[Rejection]
    mended_values: int
    skipped: list[int]


def prepare(batch: Batch, topics: Mapping[str, Topic]) -> list[Prepared]:
    """Decode a batch, topics in the order in which a migration locks their tables. Touches no database.

    Raises:
        Exception: the registry could not be asked.
    """
    return [_prepare(topics[name], records) for name, records in sorted(batch.records.items())]


def load(
    connection: Connection,
    spans: Mapping[TopicPartition, Span],
    prepared: Sequence[Prepared],
    limit: DeadLetterLimit,
) -> list[Advance]:
    """Add a batch to raw and move the offsets, in one transaction; returns what was done to each partition.

    Raises:
        FencedError: another consumer owns some of the partitions; nothing was added.
        TooManyDeadLettersError: some of the partitions are past the limit; nothing was added.
        psycopg.OperationalError: the connection broke; whether it was committed is for the next claim to learn.
    """
    with connection.transaction():
        counts = _Counts()
        dead_letters: list[DeadLetter] = []
        outcomes: dict[TopicPartition, Outcome] = {}
        for part in prepared:
            check = partial(_check_so_far, limit, part)
            rejections = [*part.rejections, *copy_rows(connection, part.contract, part.rows, part.indices, check)]
            outcomes |= _outcomes(part, rejections, len(part.records.messages))
            dead_letters += [DeadLetter.of(part.records.messages[each.index], each) for each in rejections]
            counts.add(part, rejections)
        limit.check(outcomes)
        insert_dead_letters(connection, dead_letters)
        advances = [counts.advance(partition, span) for partition, span in spans.items()]
        # Last, so that a writer frozen inside COPY holds no lock that its heir needs.
        advance(connection, advances)
    limit.note(outcomes)
    return advances


def _check_so_far(limit: DeadLetterLimit, part: Prepared, refused: list[Rejection]) -> None:
    """Judge the records up to the last that was refused; raises TooManyDeadLettersError."""
    limit.check(_outcomes(part, [*part.rejections, *refused], refused[-1].index + 1))


def _outcomes(part: Prepared, rejections: Sequence[Rejection], end: int) -> dict[TopicPartition, Outcome]:
    """Which of the records before `end` are bad, by partition."""
    # The kind alone: this is logged, and an error's sentence may quote a value.
    kinds = {rejection.index: rejection.error_class for rejection in rejections if rejection.index < end}
    is_bad = np.zeros(end, bool)
    is_bad[list(kinds)] = True
    partitions = part.records.partitions[:end]
    outcomes = {}
    for number in np.unique(partitions).tolist():
        mine = partitions == number
        bad = np.flatnonzero(mine & is_bad)
        outcomes[part.contract.topic, number] = Outcome(is_bad[mine], kinds[int(bad[-1])] if len(bad) else "")
    return outcomes


class _Counts:
    """What a transaction does to each partition."""

    def __init__(self) -> None:
        self._records: Counter[TopicPartition] = Counter()
        self._rejected: dict[TopicPartition, Counter[str]] = defaultdict(Counter)
        self._mended: Counter[TopicPartition] = Counter()

    def add(self, part: Prepared, rejections: Sequence[Rejection]) -> None:
        topic = part.contract.topic
        numbers, counts = np.unique(np.delete(part.records.partitions, part.skipped), return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            self._records[topic, number] += count
        for rejection in rejections:
            self._rejected[topic, int(part.records.partitions[rejection.index])][rejection.error_class] += 1
        if part.mended_values:
            # Counted by topic: whose partition it is told to matters to nobody.
            self._mended[topic, int(part.records.partitions[0])] += part.mended_values

    def advance(self, partition: TopicPartition, span: Span) -> Advance:
        reasons = self._rejected[partition]
        return Advance(
            topic=partition[0],
            partition=partition[1],
            start=span.start,
            end=span.end,
            epoch=span.epoch,
            rows=self._records[partition] - reasons.total(),
            dead_letters=reasons.total(),
            mended_values=self._mended[partition],
            reasons=dict(reasons),
        )


def _prepare(topic: Topic, records: Records) -> Prepared:
    decoded = topic.decoder.decode(list(map(Message.value, records.messages)))
    coordinates = [pa.array(records.partitions), pa.array(records.offsets), _timestamps(records.messages)]
    if len(decoded.indices) < len(records.messages):
        coordinates = [column.take(decoded.indices) for column in coordinates]
    partitions, offsets, timestamps = coordinates
    rows = raw_rows(topic.contract, decoded.columns, partitions, offsets, timestamps, decoded.schema_ids)
    return Prepared(
        topic.contract, records, rows, decoded.indices, decoded.rejections, decoded.mended_values, decoded.skipped
    )


def raw_rows(
    contract: Contract,
    columns: pa.RecordBatch,
    partitions: pa.Int32Array,
    offsets: pa.Int64Array,
    timestamps: pa.TimestampArray,
    schema_ids: pa.Int32Array,
) -> pa.RecordBatch:
    """The contract's columns and where each row comes from, as the raw table has them."""
    return pa.record_batch(
        [*columns.columns, partitions, offsets, timestamps, schema_ids],
        schema=pa.schema([*raw_schema(contract), *_COORDINATES, _SCHEMA_ID]),
    )


def _timestamps(messages: Sequence[Message]) -> pa.Array:
    """The records' Kafka timestamps; null where the broker keeps none, which it writes as -1."""
    stamps = map(Message.timestamp, messages)
    milliseconds = np.fromiter(map(itemgetter(1), stamps), np.int64, len(messages))
    array = pa.array(milliseconds, pa.timestamp("ms", tz="UTC"), mask=milliseconds < 0)
    return array.cast(pa.timestamp("us", tz="UTC"))


def copy_rows(
    connection: Connection,
    contract: Contract,
    rows: pa.RecordBatch,
    indices: pa.Int64Array,
    check: Callable[[list[Rejection]], None] | None = None,
) -> list[Rejection]:
    """COPY rows in the caller's transaction; those that Postgres refuses are found by halving, in savepoints, and given
    back with their `indices`. Now and then `check` sees those found so far, the last one last, and may raise."""
    if not rows.num_rows:
        return []
    refused: list[Rejection] = []
    pending = [(0, rows.num_rows)]
    while pending:
        start, count = pending.pop()
        try:
            with connection.transaction():
                _copy(connection, contract, rows.slice(start, count))
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if count == 1:
                sentence = f"Postgres refused the row: {error.diag.message_primary}."
                refused.append(Rejection(indices[start].as_py(), "RefusedByPostgres", sentence))
                if check is not None and len(refused) % _CHECK_EVERY == 0:
                    check(refused)
            else:
                half = count // 2
                pending += [(start + half, count - half), (start, half)]
    return refused


def _copy(connection: Connection, contract: Contract, rows: pa.RecordBatch) -> None:
    statement = sql.SQL("copy {} ({}) from stdin (format binary)").format(
        raw_table(contract), sql.SQL(", ").join(map(sql.Identifier, rows.schema.names))
    )
    with connection.cursor().copy(statement) as copy:
        for chunk in encode(contract, rows):
            copy.write(chunk)


def encode(contract: Contract, rows: pa.RecordBatch) -> Iterator[bytes]:
    """Rows in Postgres' binary COPY format."""
    builders = {field.name: ArrowToPostgresBinaryEncoder.infer_encoder(field) for field in rows.schema}
    for field in contract.fields:
        if field.kind == "nested":
            builders[field.name] = StringEncoderBuilder.new_with_output(rows.schema.field(field.name), Jsonb())
    encoder = ArrowToPostgresBinaryEncoder.new_with_encoders(rows.schema, builders)
    yield encoder.write_header()
    step = max(1, rows.num_rows * _CHUNK_BYTES // max(1, rows.nbytes))
    for start in range(0, rows.num_rows, step):
        yield encoder.write_batch(rows.slice(start, step))
    yield encoder.finish()
