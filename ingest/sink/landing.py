"""Owned partitions and the session that fills them: while one batch is loaded, the next is gathered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import httpx2
import psycopg
from confluent_kafka.schema_registry.error import SchemaRegistryError
from psycopg import Connection

from ingest.sink.batch import Batch
from ingest.sink.limits import DeadLetterLimit, TooManyDeadLettersError, stop
from ingest.sink.load import Prepared, Topic, load, prepare
from ingest.sink.observer import Observer
from ingest.sink.offsets import Advance, Claim, FencedError, TopicPartition
from ingest.sink.same_log import SameLog
from services.settings import Settings

OnFenced = Callable[[tuple[TopicPartition, ...]], None]
OnStopped = Callable[[Mapping[TopicPartition, str]], None]
OnWaiting = Callable[[tuple[TopicPartition, ...], Exception], None]

# What a session that broke raises. One ended by its timeouts, or on a server that became a standby, is no operational
# error to psycopg.
BROKEN = (psycopg.OperationalError, psycopg.InternalError, psycopg.InterfaceError)
REGISTRY_AWAY = (SchemaRegistryError, httpx2.HTTPError)

# A sink frozen between its last statement and commit holds the lock that its heir waits for: the server ends it.
_IDLE_IN_TRANSACTION = "5s"
# One frozen inside COPY holds no lock that anybody needs, but it holds back vacuum.
_TRANSACTION = "5min"


def connect(settings: Settings) -> Connection:
    """The sink's session."""
    return psycopg.connect(
        settings.url_of("ingest"),
        autocommit=True,
        application_name="scopehouse sink",
        connect_timeout=10,
        options=(
            f"-c idle_in_transaction_session_timeout={_IDLE_IN_TRANSACTION} -c transaction_timeout={_TRANSACTION} "
            "-c timezone=UTC"
        ),
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        # Milliseconds: what was sent and is not acknowledged breaks the session, not keepalives.
        tcp_user_timeout=25_000,
    )


class Landing:
    """Lands batches for the partitions it owns, one at a time, in a thread of its own.

    `claims` is what it owns and where the batch after those submitted begins. The connection may be used by others
    only after `finish`. Partitions that another sink took over go to `on_fenced`, those with too many dead letters to
    `on_stopped`, with the reasons; neither are owned any more. The same goes for those whose schemas the registry does
    not tell now and `on_waiting`; without it that is an error.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Mapping[str, Topic],
        limit: DeadLetterLimit,
        on_fenced: OnFenced,
        on_stopped: OnStopped,
        same_log: SameLog,
        observer: Observer | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> None:
        self.claims: dict[TopicPartition, Claim] = {}
        self._connection = connection
        self._topics = topics
        self._limit = limit
        self._on_fenced = on_fenced
        self._on_stopped = on_stopped
        self._on_waiting = on_waiting
        self._same_log = same_log
        self._observer = observer or Observer()
        self._thread = ThreadPoolExecutor(1, "landing")
        self._under_way: Future[_Landed] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown()

    @property
    def is_busy(self) -> bool:
        """Whether a batch is under way whose result nobody has taken."""
        return self._under_way is not None

    def submit(self, batch: Batch) -> list[Advance]:
        """Begin to land a batch, once the one before has landed; returns what that one did.

        Decodes in the caller's thread, while the one before is being loaded: Postgres is what takes longest.

        Raises:
            BROKEN: the connection broke; the claims are void.
            BrokerError: the broker does not say whether the topics are the same; the claims are void.
            LogChangedError: a topic was made again; nothing of the batch landed.
            REGISTRY_AWAY: the registry could not be asked, and there is no `on_waiting`.
        """
        # All of the batch is consumed by now; the answer comes while it is decoded.
        asked = self._same_log.ask({topic for topic, _ in batch.spans})
        waiting: dict[TopicPartition, Exception] = {}
        try:
            prepared = prepare(batch, self._topics)
        except REGISTRY_AWAY:
            if self._on_waiting is None:
                raise
            waiting = self._waiting(batch)
            batch = batch.without(waiting)
            prepared = prepare(batch, self._topics)
        advances = self.finish()
        if waiting and self._on_waiting is not None:
            for partition in waiting:
                self.claims.pop(partition, None)
            self._on_waiting(tuple(waiting), next(iter(waiting.values())))
        if any(partition not in self.claims for partition in batch.spans):
            # Fenced or stopped meanwhile.
            batch = batch.without([partition for partition in batch.spans if partition not in self.claims])
            prepared = prepare(batch, self._topics)
        if batch.spans:
            for partition, span in batch.spans.items():
                self.claims[partition] = replace(self.claims[partition], next_offset=span.end)
            asked = {topic: asked[topic] for topic, _ in batch.spans}
            self._under_way = self._thread.submit(self._land, batch, prepared, asked)
        return advances

    def _waiting(self, batch: Batch) -> dict[TopicPartition, Exception]:
        """The partitions of the topics that can't be decoded because the registry is away."""
        waiting: dict[TopicPartition, Exception] = {}
        for topic in {topic for topic, _ in batch.spans}:
            try:
                prepare(batch.without([each for each in batch.spans if each[0] != topic]), self._topics)
            except REGISTRY_AWAY as error:
                waiting |= {each: error for each in batch.spans if each[0] == topic}
        return waiting

    def finish(self) -> list[Advance]:
        """Wait for the batch under way, if there is one; returns what it did. Raises as `submit` does."""
        if self._under_way is None:
            return []
        under_way, self._under_way = self._under_way, None
        landed = under_way.result()
        for partition in (*landed.fenced, *landed.stopped):
            self.claims.pop(partition, None)
        if landed.fenced:
            self._on_fenced(tuple(landed.fenced))
        if landed.stopped:
            self._on_stopped(landed.stopped)
        return landed.advances

    def _land(self, batch: Batch, prepared: list[Prepared], asked: Mapping[str, Future[Any]]) -> _Landed:
        """Land a batch without the partitions that have to be left alone."""
        landed = _Landed()
        self._same_log.confirm(asked)
        while batch.spans:
            try:
                began = time.monotonic()
                landed.advances = load(self._connection, batch.spans, prepared, self._limit)
                self._observer.landed(landed.advances, batch.bytes, time.monotonic() - began)
                break
            except FencedError as error:
                landed.fenced += error.partitions
                batch = batch.without(error.partitions)
            except TooManyDeadLettersError as error:
                stop(self._connection, batch.spans, error.reasons)
                landed.stopped |= error.reasons
                batch = batch.without(error.reasons)
            prepared = prepare(batch, self._topics)
        return landed


@dataclass(slots=True)
class _Landed:
    """What became of a batch."""

    advances: list[Advance] = field(default_factory=list)
    fenced: list[TopicPartition] = field(default_factory=list)
    stopped: dict[TopicPartition, str] = field(default_factory=dict)
