"""A batch of consumed records, by topic, and the span of each partition that it covers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby

import numpy as np
from confluent_kafka import Message

from ingest.sink.offsets import Claim, TopicPartition


@dataclass(frozen=True, slots=True)
class Span:
    """What a batch takes a partition from and to (exclusive), and the epoch of the claim it was read under."""

    start: int
    end: int
    epoch: int


@dataclass(slots=True)
class Records:
    """Records of one topic as they came; `partitions` and `offsets` stand beside `messages`.

    A call for each record is most of what the sink costs. `map(Message.offset, ...)` makes it from C, without a bound
    method for each: three times as fast as `methodcaller`.
    """

    messages: list[Message]
    partitions: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, messages: list[Message]) -> Records:
        """The records of one topic."""
        count = len(messages)
        return cls(
            messages=messages,
            partitions=np.fromiter(map(Message.partition, messages), np.int32, count),
            offsets=np.fromiter(map(Message.offset, messages), np.int64, count),
        )

    def where(self, mask: np.ndarray) -> Records:
        """Those for which the mask is true."""
        kept = [message for message, keep in zip(self.messages, mask, strict=True) if keep]
        return Records(kept, self.partitions[mask], self.offsets[mask])

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """Records that came one after the other, as one."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            messages=list(chain.from_iterable(part.messages for part in parts)),
            partitions=np.concatenate([part.partitions for part in parts]),
            offsets=np.concatenate([part.offsets for part in parts]),
        )


@dataclass(slots=True)
class Batch:
    """Records of owned partitions that no earlier transaction holds.

    A span may end after its last record, or have none: what lies between are no records (transaction markers,
    compacted away). What moves no partition has no spans, and is not to land.
    """

    spans: dict[TopicPartition, Span] = field(default_factory=dict)
    rows: int = 0
    bytes: int = 0
    # As they were consumed; joining them each time would copy a batch again and again.
    _parts: dict[str, list[Records]] = field(default_factory=dict)

    @property
    def records(self) -> dict[str, Records]:
        """Each topic's records."""
        return {topic: Records.joined(parts) for topic, parts in self._parts.items()}

    def add(self, messages: Sequence[Message], claims: Mapping[TopicPartition, Claim]) -> None:
        """Take in records; those of partitions that are not owned, or that raw holds already, are passed over."""
        # They come in long runs of one topic.
        for topic, members in groupby(messages, Message.topic):
            self._take(topic, self._new(topic, Records.of(list(members)), claims))

    def _take(self, topic: str, records: Records) -> None:
        if records.messages:
            self._parts.setdefault(topic, []).append(records)
            self.rows += len(records.messages)
            self.bytes += sum(map(len, records.messages))

    def _new(self, topic: str, records: Records, claims: Mapping[TopicPartition, Claim]) -> Records:
        """The records that go on where the spans end; the spans are moved over them."""
        unwanted = np.zeros(len(records.messages), bool)
        for number in np.unique(records.partitions).tolist():
            mine = records.partitions == number
            partition = (topic, number)
            claim = claims.get(partition)
            if claim is None:
                unwanted |= mine
                continue
            span = self.spans.get(partition, Span(claim.next_offset, claim.next_offset, claim.epoch))
            unwanted |= mine & (records.offsets < span.end)
            self.read_over(partition, int(records.offsets[mine].max()) + 1, claims)
        return records.where(~unwanted) if unwanted.any() else records

    def read_over(self, partition: TopicPartition, end: int, claims: Mapping[TopicPartition, Claim]) -> None:
        """Note that nothing is left below `end`, of a partition that is owned; often raw has reached it already."""
        claim = claims.get(partition)
        if claim is not None:
            span = self.spans.get(partition, Span(claim.next_offset, claim.next_offset, claim.epoch))
            if end > span.end:
                self.spans[partition] = replace(span, end=end)

    def extend(self, later: Batch) -> None:
        """Take in a batch that was consumed after this one."""
        for topic, parts in later._parts.items():
            self._parts.setdefault(topic, []).extend(parts)
        for partition, span in later.spans.items():
            before = self.spans.get(partition, span)
            self.spans[partition] = replace(span, start=before.start, end=max(before.end, span.end))
        self.rows += later.rows
        self.bytes += later.bytes

    def is_full(self, rows: int, size: int) -> bool:
        """Whether it holds so many records or bytes."""
        return self.rows >= rows or self.bytes >= size

    def without(self, partitions: Iterable[TopicPartition]) -> Batch:
        """The same without some partitions."""
        dropped = set(partitions)
        rest = Batch(spans={partition: span for partition, span in self.spans.items() if partition not in dropped})
        for topic, records in self.records.items():
            numbers = [number for name, number in dropped if name == topic]
            rest._take(topic, records.where(~np.isin(records.partitions, numbers)) if numbers else records)
        return rest
