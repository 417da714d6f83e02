"""Topics of the tests' own, with contracts of their own, and what became of their records."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from ingest.contracts.contract import Contract, load_contracts
from ingest.contracts.topics import MAX_MESSAGE_BYTES
from ingest.database.migrate import migrate
from ingest.sink.drain import Drained, drain
from services.settings import Settings
from tests.fakes.everything import FIELDS, GOOD, encode, writer_fields


class World:
    """Contracts in a folder, and the servers."""

    def __init__(self, settings: Settings, folder: Path, owner: psycopg.Connection) -> None:
        self.settings = settings.model_copy(update={"contracts_dir": folder})
        self.folder = folder
        self.owner = owner
        self.registry = SchemaRegistryClient({"url": settings.registry_url})
        self.topics: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "linger.ms": 5,
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def write(self, topic: str, fields: list[dict[str, Any]], encoding: str = "avro", partitions: int = 1) -> Contract:
        """Write a contract; the first field is the key."""
        document = {
            "type": "record",
            "name": "Everything",
            "doc": "A test's records.",
            "topic": topic,
            "domain": "sensors",
            "source": "test",
            "key": fields[0]["name"],
            "partitions": partitions,
            "encoding": encoding,
            "compatibility": "BACKWARD",
            "retention": None,
            "fields": [{"doc": "A field.", "personal": False, **field} for field in fields],
        }
        (self.folder / f"{topic}.avsc").write_text(json.dumps(document))
        if topic not in self.topics:
            self.topics.append(topic)
        return load_contracts(self.folder)[topic]

    def make(self, fields: list[dict[str, Any]] | None = None, encoding: str = "avro", partitions: int = 1) -> Contract:
        """A new topic, migrated; by default with a field of every kind."""
        fields = fields or [{"name": name, "type": type_} for name, type_ in FIELDS.items()]
        contract = self.write(f"test-{uuid.uuid4().hex[:12]}", fields, encoding, partitions)
        migrate(self.settings)
        return contract

    def schema_id(self, contract: Contract) -> int:
        # A client remembers the latest for ever.
        return SchemaRegistryClient({"url": self.settings.registry_url}).get_latest_version(contract.subject).schema_id

    def register(self, subject: str, fields: list[dict[str, Any]]) -> int:
        """Register a schema under a subject of its own, where nothing is compared with it."""
        schema = {"type": "record", "name": "Everything", "fields": fields}
        return self.registry.register_schema(subject, Schema(json.dumps(schema), "AVRO"))

    def good(self, contract: Contract, **changes: Any) -> bytes:
        """A record of the topic with every kind of field."""
        return encode(self.schema_id(contract), writer_fields(), GOOD | changes)

    def send(
        self, contract: Contract, values: list[bytes | None], key: bytes | None = b"k", partition: int = 0, **more: Any
    ) -> None:
        for value in values:
            while True:
                try:
                    self._producer.produce(contract.topic, value, key, partition=partition, **more)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        assert self._producer.flush(60) == 0

    def drain(self, *contracts: Contract, **changes: Any) -> dict[str, Drained]:
        return drain(self.settings.model_copy(update=changes), [contract.topic for contract in contracts])

    def rows(self, contract: Contract, columns: str) -> list[tuple[Any, ...]]:
        """Rows of the raw table in the order of the log, replays last."""
        order = "_kafka_partition < 0, _kafka_partition, _kafka_offset"
        return self.owner.execute(f'select {columns} from raw."{contract.table}" order by {order}').fetchall()

    def letters(self, contract: Contract, columns: str) -> list[tuple[Any, ...]]:
        return self.owner.execute(
            f'select {columns} from ingest.dead_letters where topic = %s order by partition, "offset"', [contract.topic]
        ).fetchall()

    def mark(self, contract: Contract, columns: str, partition: int = 0) -> tuple[Any, ...]:
        row = self.mark_or_none(contract, columns, partition)
        assert row is not None
        return row

    def mark_or_none(self, contract: Contract, columns: str, partition: int = 0) -> tuple[Any, ...] | None:
        return self.owner.execute(
            f"select {columns} from ingest.offsets where topic = %s and partition = %s", [contract.topic, partition]
        ).fetchone()

    def delete_below(self, contract: Contract, offset: int) -> None:
        """Let Kafka forget a topic's first records, of partition 0."""
        admin = AdminClient({"bootstrap.servers": self.settings.bootstrap_servers})
        for future in admin.delete_records([TopicPartition(contract.topic, 0, offset)]).values():
            future.result(30)

    def forget(self) -> None:
        """Leave no row of these topics behind."""
        tables = [contract.table for contract in load_contracts(self.folder).values()]
        with self.owner.transaction():
            for table in tables:
                self.owner.execute(f'drop table if exists raw."{table}"')
            for name in ("offsets", "dead_letters"):
                self.owner.execute(f"delete from ingest.{name} where topic = any(%s)", [self.topics])


@pytest.fixture
def world(stack: Settings, tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "contracts"
    folder.mkdir()
    with psycopg.connect(stack.url_of("migrate"), autocommit=True) as owner:
        here = World(stack, folder, owner)
        yield here
        here.forget()
