"""Owned partitions and the connection that fills them: one batch after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import psycopg
from psycopg import Connection

from ingest.sink.batch import Batch
from ingest.sink.load import Topic, load, prepare
from ingest.sink.offsets import Advance, Claim, FencedError, TopicPartition
from services.settings import Settings

OnFenced = Callable[[tuple[TopicPartition, ...]], None]


def connect(settings: Settings) -> Connection:
    """The sink's session. A sink frozen inside a transaction is ended by the server, so that its locks go."""
    return psycopg.connect(
        settings.url_of("ingest"),
        autocommit=True,
        application_name="scopehouse sink",
        connect_timeout=10,
        options="-c idle_in_transaction_session_timeout=30s -c timezone=UTC",
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
    )


class Landing:
    """Lands batches for the partitions it owns. `claims` is what it owns and where each goes on."""

    def __init__(self, connection: Connection, topics: Mapping[str, Topic], on_fenced: OnFenced) -> None:
        self._connection = connection
        self._topics = topics
        self._on_fenced = on_fenced
        self.claims: dict[TopicPartition, Claim] = {}

    def land(self, batch: Batch) -> list[Advance]:
        """Land a batch; partitions that another consumer has claimed are given up, the rest of the batch lands.

        Raises:
            psycopg.OperationalError: the connection broke; the claims are void.
        """
        while batch.ends:
            try:
                advances = load(self._connection, batch, prepare(batch, self._topics), self.claims)
            except FencedError as fenced:
                for partition in fenced.partitions:
                    del self.claims[partition]
                batch = batch.without(fenced.partitions)
                self._on_fenced(fenced.partitions)
                continue
            for move in advances:
                partition = (move.topic, move.partition)
                self.claims[partition] = replace(self.claims[partition], next_offset=move.end)
            return advances
        return []
