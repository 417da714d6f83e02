"""How many dead letters are too many: past a share of the latest records, or a run of them, a partition stops.

A sender that has changed for good, or a contract that is wrong, would fill `ingest.dead_letters` with a whole topic. A
stopped partition stays where it is, with the reason in `ingest.offsets.stopped_because`, until somebody resumes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from psycopg import Connection

from ingest.sink.batch import Span
from ingest.sink.offsets import TopicPartition

# The share is taken over so many of a partition's latest records, and of no fewer than the second number.
WINDOW_RECORDS = 10_000
LEAST_RECORDS = 1_000


class TooManyDeadLettersError(Exception):
    """Some partitions are past the limit; the transaction must be rolled back. `reasons` says why, by partition."""

    def __init__(self, reasons: Mapping[TopicPartition, str]) -> None:
        super().__init__(", ".join(f"{topic}[{partition}]" for topic, partition in reasons))
        self.reasons = dict(reasons)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A batch's records of one partition in their order: which are bad, and the kind of the last of those."""

    is_bad: np.ndarray
    example: str


class DeadLetterLimit:
    """Judges batches by what landed before them. `share` is 0 to 1, where 1 sets no limit; `run` counts records.

    Remembers for as long as it lives: a sink that starts again begins to count anew.
    """

    def __init__(self, share: float, run: int) -> None:
        self._share = share
        self._run = run
        self._recent: dict[TopicPartition, np.ndarray] = {}

    def check(self, outcomes: Mapping[TopicPartition, Outcome]) -> None:
        """Judge a batch that has not landed yet.

        Raises:
            TooManyDeadLettersError: with the partitions that it takes past the limit.
        """
        reasons = {}
        for partition, outcome in outcomes.items():
            if outcome.is_bad.any() and (reason := self._excess(partition, outcome.is_bad)):
                reasons[partition] = f"{reason} (the last: {outcome.example})"
        if reasons:
            raise TooManyDeadLettersError(reasons)

    def note(self, outcomes: Mapping[TopicPartition, Outcome]) -> None:
        """Remember a batch that has landed."""
        keep = max(WINDOW_RECORDS, self._run)
        for partition, outcome in outcomes.items():
            self._recent[partition] = self._with_recent(partition, outcome.is_bad)[-keep:]

    def _with_recent(self, partition: TopicPartition, is_bad: np.ndarray) -> np.ndarray:
        recent = self._recent.get(partition)
        return is_bad if recent is None else np.concatenate([recent, is_bad])

    def _excess(self, partition: TopicPartition, is_bad: np.ndarray) -> str | None:
        seen = self._with_recent(partition, is_bad)
        places = np.arange(len(seen))
        new = places >= len(seen) - len(is_bad)
        run = places - np.maximum.accumulate(np.where(seen, -1, places))
        if run[new].max() >= self._run:
            return f"{self._run:,} records in a row are bad"
        bad_below = np.concatenate([[0], np.cumsum(seen)])
        ends = places[new] + 1
        starts = np.maximum(ends - WINDOW_RECORDS, 0)
        bad = bad_below[ends] - bad_below[starts]
        over = (ends - starts >= LEAST_RECORDS) & (bad > self._share * (ends - starts))
        if not over.any():
            return None
        first = int(over.argmax())
        return f"{bad[first]:,} of {ends[first] - starts[first]:,} records are bad"


def stop(connection: Connection, spans: Mapping[TopicPartition, Span], reasons: Mapping[TopicPartition, str]) -> None:
    """Write down that partitions stand still, and why, unless another consumer has claimed them meanwhile."""
    for (topic, partition), reason in sorted(reasons.items()):
        connection.execute(
            "update ingest.offsets set stopped_because = %s, updated_at = now()"
            " where topic = %s and partition = %s and epoch = %s",
            [reason.replace("\x00", "\\0"), topic, partition, spans[topic, partition].epoch],
        )


def stopped(connection: Connection, topics: list[str]) -> dict[TopicPartition, str]:
    """The partitions of these topics that stand still, each with a sentence: where, why, what to do."""
    rows = connection.execute(
        "select topic, partition, next_offset, stopped_because from ingest.offsets"
        " where stopped_because is not null and topic = any(%s) order by topic, partition",
        [topics],
    ).fetchall()
    return {
        (topic, partition): f"Topic {topic} partition {partition} stands still at offset {next_offset}: {reason}; "
        "mend the sender or the contract (or, to set them all aside, raise SCOPEHOUSE_DEAD_LETTER_SHARE and "
        f"SCOPEHOUSE_DEAD_LETTER_RUN), then `scopehouse ingest resume {topic}`."
        for topic, partition, next_offset, reason in rows
    }


def resume(connection: Connection, topic: str) -> int:
    """Let a topic's stopped partitions go on; returns how many there were. A running sink takes them up in seconds."""
    return connection.execute(
        "update ingest.offsets set stopped_because = null, updated_at = now()"
        " where topic = %s and stopped_because is not null",
        [topic],
    ).rowcount
