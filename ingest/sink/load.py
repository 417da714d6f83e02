"""One transaction: the rows, the dead letters and the offsets, or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import psycopg
import pyarrow as pa
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message
from pgpq import ArrowToPostgresBinaryEncoder
from pgpq.encoders import StringEncoderBuilder
from pgpq.schema import Jsonb
from psycopg import Connection, sql

from ingest.contracts.contract import Contract
from ingest.contracts.raw_tables import raw_table
from ingest.sink.batch import Batch
from ingest.sink.conform import raw_schema
from ingest.sink.dead_letters import DeadLetter, insert_dead_letters
from ingest.sink.decoded import Decoded, Rejection
from ingest.sink.offsets import Advance, Claim, TopicPartition, advance

_SINK_FIELDS = (
    pa.field("_kafka_partition", pa.int32()),
    pa.field("_kafka_offset", pa.int64()),
    pa.field("_kafka_timestamp", pa.timestamp("us", tz="UTC")),
    pa.field("_schema_id", pa.int32()),
)


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
    """A topic's part of a batch, decoded: ready for COPY."""

    contract: Contract
    messages: list[Message]
    rows: pa.RecordBatch
    indices: list[int]
    rejections: list[Rejection]
    mended_values: int


def prepare(batch: Batch, topics: Mapping[str, Topic]) -> list[Prepared]:
    """Decode a batch. Touches no database.

    Raises:
        Exception: the registry could not be asked.
    """
    return [_prepare(topics[name], messages) for name, messages in batch.messages.items()]


def load(
    connection: Connection,
    batch: Batch,
    prepared: Sequence[Prepared],
    claims: Mapping[TopicPartition, Claim],
) -> list[Advance]:
    """Add a batch to raw and move the offsets, in one transaction; returns what was done to each partition.

    Raises:
        FencedError: another consumer owns some of the partitions; nothing was added.
        psycopg.OperationalError: the connection broke; whether it was committed is for the next claim to learn.
    """
    with connection.transaction():
        loaded: Counter[TopicPartition] = Counter()
        rejected: Counter[TopicPartition] = Counter()
        mended: Counter[TopicPartition] = Counter()
        dead_letters: list[DeadLetter] = []
        for part in prepared:
            topic = part.contract.topic
            refused = _copy_rows(connection, part)
            for rejection in (*part.rejections, *refused):
                message = part.messages[rejection.index]
                dead_letters.append(DeadLetter.of(message, rejection))
                rejected[topic, message.partition()] += 1
            for message in part.messages:
                loaded[topic, message.partition()] += 1
            if part.mended_values:
                mended[topic, part.messages[0].partition()] += part.mended_values
        insert_dead_letters(connection, dead_letters)
        advances = [
            Advance(
                topic=partition[0],
                partition=partition[1],
                start=claims[partition].next_offset,
                end=end,
                epoch=claims[partition].epoch,
                rows=loaded[partition] - rejected[partition],
                dead_letters=rejected[partition],
                mended_values=mended[partition],
            )
            for partition, end in batch.ends.items()
        ]
        # Last, so that a writer frozen inside COPY holds no lock that its heir needs.
        advance(connection, advances)
    return advances


def _prepare(topic: Topic, messages: list[Message]) -> Prepared:
    decoded = topic.decoder.decode([message.value() for message in messages])
    indices = decoded.indices.to_pylist()
    kept = messages if len(indices) == len(messages) else [messages[index] for index in indices]
    columns = [
        *decoded.columns.columns,
        pa.array([message.partition() for message in kept], pa.int32()),
        pa.array([message.offset() for message in kept], pa.int64()),
        _timestamps(kept),
        decoded.schema_ids,
    ]
    rows = pa.record_batch(columns, schema=_row_schema(topic.contract))
    return Prepared(topic.contract, messages, rows, indices, decoded.rejections, decoded.mended_values)


def _row_schema(contract: Contract) -> pa.Schema:
    return pa.schema([*raw_schema(contract), *_SINK_FIELDS])


def _timestamps(messages: Sequence[Message]) -> pa.Array:
    """The records' Kafka timestamps; null where the broker keeps none."""
    stamps = (message.timestamp() for message in messages)
    milliseconds = pa.array([None if kind == TIMESTAMP_NOT_AVAILABLE else at for kind, at in stamps], pa.int64())
    return milliseconds.cast(pa.timestamp("ms", tz="UTC")).cast(pa.timestamp("us", tz="UTC"))


def _copy_rows(connection: Connection, part: Prepared) -> list[Rejection]:
    """COPY the rows; those that Postgres refuses are found by halving, in savepoints, and given back."""
    if not part.rows.num_rows:
        return []
    refused: list[Rejection] = []
    pending = [(0, part.rows.num_rows)]
    while pending:
        start, count = pending.pop()
        try:
            with connection.transaction():
                _copy(connection, part.contract, part.rows.slice(start, count))
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if count == 1:
                sentence = f"Postgres refused the row: {error.diag.message_primary}."
                refused.append(Rejection(part.indices[start], "RefusedByPostgres", sentence))
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
    yield encoder.write_batch(rows)
    yield encoder.finish()
