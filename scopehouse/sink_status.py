"""How the sink is, as `scopehouse status` shows it: from its own file, Postgres and Kafka, whichever answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ingest.sink import sink_file
from ingest.sink.offsets import TopicPartition
from ingest.sink.sentences import sentence
from ingest.sink.sink_file import PartitionState, SinkState
from services.errors import MendableError
from services.settings import Settings

# A server that does not answer within so many seconds is shown as away.
ANSWER_SECONDS = 3.0
# A sink that reads Kafka says something each second; one that waits for a server may be quiet for its pause.
SILENCE_SECONDS = 15.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Landed:
    """What Postgres says of one partition; `stopped_because` is why it stands still, if it does."""

    next_offset: int
    rows: int
    dead_letters: int
    stopped_because: str | None


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition. What nobody could tell is None; `state` is `no sink` where none owns it."""

    topic: str
    partition: int
    state: str
    why: str | None
    next_offset: int | None
    end: int | None
    lag: int | None
    rows: int | None
    dead_letters: int | None
    rows_per_s: float
    landed_at: float | None


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """One sink. `silent` has a process that says nothing: it is frozen, or waits for an answer of Postgres."""

    pid: int
    state: Literal["running", "waiting", "silent", "died"]
    group: str
    started_at: float
    updated_at: float
    waiting_for: str | None
    last_error: str | None
    last_error_at: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """All of it; `problems` says in a sentence each which server did not answer."""

    sinks: list[SinkStatus] = field(default_factory=list)
    partitions: list[PartitionStatus] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def sink_status(settings: Settings) -> Status:
    """How the sink is now. Never raises and takes some seconds at most, whatever is down."""
    states = sink_file.read_all(settings)
    problems: list[str] = []
    landed: Mapping[TopicPartition, Landed] | None = None
    ends: Mapping[TopicPartition, int] | None = None
    if settings.ingest_database_url or settings.database_url:
        landed = _ask("Postgres", lambda: _landed(settings), problems)
    known = {(each.topic, each.partition) for state in states for each in state.partitions} | set(landed or ())
    if settings.kafka_bootstrap_servers and known:
        ends = _ask("Kafka", lambda: _ends(settings, known), problems)
    # Of two that say they own a partition, the one that waits for a server may have lost it; one that died has.
    states.sort(key=lambda state: (state.is_alive, state.waiting_for is None, state.started_at))
    owners = {(each.topic, each.partition): (state, each) for state in states for each in state.partitions}
    now = time.time()
    return Status(
        sinks=[_sink(state, now) for state in states],
        partitions=[
            _partition(each, owners.get(each), (landed or {}).get(each), (ends or {}).get(each))
            for each in sorted(known)
        ],
        problems=problems,
    )


def _sink(state: SinkState, now: float) -> SinkStatus:
    how: Literal["running", "waiting", "silent", "died"] = "running"
    if not state.is_alive:
        how = "died"
    elif state.waiting_for is not None:
        how = "waiting"
    elif now - state.updated_at > SILENCE_SECONDS:
        how = "silent"
    return SinkStatus(
        pid=state.pid,
        state=how,
        group=state.group,
        started_at=state.started_at,
        updated_at=state.updated_at,
        waiting_for=state.waiting_for,
        last_error=state.last_error,
        last_error_at=state.last_error_at,
    )


def _partition(
    partition: TopicPartition,
    owner: tuple[SinkState, PartitionState] | None,
    landed: Landed | None,
    end: int | None,
) -> PartitionStatus:
    sink, own = owner or (None, None)
    is_owned = sink is not None and sink.is_alive
    next_offset = landed.next_offset if landed else own.next_offset if own else None
    end = own.end if end is None and own else end
    why = None
    if landed and landed.stopped_because:
        why = f"{landed.stopped_because}; mend the cause, then `scopehouse ingest resume {partition[0]}`."
    return PartitionStatus(
        topic=partition[0],
        partition=partition[1],
        state="stopped" if why else own.state if own and is_owned else "died" if own else "no sink",
        why=why or (own.why if own else None),
        next_offset=next_offset,
        end=end,
        lag=None if end is None or next_offset is None else max(end - next_offset, 0),
        rows=landed.rows if landed else None,
        dead_letters=landed.dead_letters if landed else None,
        rows_per_s=own.rows_per_s if own and is_owned else 0.0,
        landed_at=own.landed_at if own else None,
    )


def _landed(settings: Settings) -> dict[TopicPartition, Landed]:
    """What Postgres says of every partition (replay logs, whose numbers are negative, apart)."""
    import psycopg

    limits = f"-c statement_timeout={int(ANSWER_SECONDS * 1000)} -c default_transaction_read_only=on"
    with psycopg.connect(
        settings.url_of("ingest"),
        autocommit=True,
        application_name="scopehouse status",
        connect_timeout=int(ANSWER_SECONDS),
        options=limits,
    ) as connection:
        rows = connection.execute(
            "select topic, partition, next_offset, row_count, dead_letter_count, stopped_because "
            "from ingest.offsets where partition >= 0"
        )
        return {(topic, partition): Landed(*counts) for topic, partition, *counts in rows}


def _ends(settings: Settings, partitions: set[TopicPartition]) -> dict[TopicPartition, int]:
    """The offsets at which the partitions end; those that the broker does not have are left out."""
    from confluent_kafka import KafkaError, KafkaException, TopicPartition
    from confluent_kafka.admin import OffsetSpec

    from ingest.clients import make_admin

    admin = make_admin(settings)
    wanted = {TopicPartition(topic, partition): OffsetSpec.latest() for topic, partition in sorted(partitions)}
    ends = {}
    for partition, future in admin.list_offsets(wanted, request_timeout=ANSWER_SECONDS).items():
        try:
            ends[partition.topic, partition.partition] = future.result(ANSWER_SECONDS).offset
        except (KafkaException, TimeoutError) as error:
            if isinstance(error, TimeoutError) or error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise MendableError(admin.words(error)) from error
    return ends


def _ask(server: str, question: Callable[[], _T], problems: list[str]) -> _T | None:
    """The answer, or None and a sentence among the problems. A call that hangs is left to itself."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(question())
        except Exception as error:
            problems.append(f"{server} can't be asked: {sentence(error)}.")
            answers.append(None)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * ANSWER_SECONDS)
    if not answers:
        problems.append(f"{server} can't be asked: it does not answer.")
        return None
    return answers[0]  # type: ignore[no-any-return]
