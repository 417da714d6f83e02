"""A batch of consumed records, by topic, and how far it takes each partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import Message

from ingest.sink.offsets import Claim, TopicPartition


@dataclass(slots=True)
class Batch:
    """Records of owned partitions that no earlier transaction holds.

    `ends` has, for each partition in it, the offset after its last record (or after a gap that was read over).
    """

    messages: dict[str, list[Message]] = field(default_factory=dict)
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    rows: int = 0
    bytes: int = 0

    def add(self, messages: Iterable[Message], claims: Mapping[TopicPartition, Claim]) -> None:
        """Take in records; those of partitions that are not owned, or that raw holds already, are passed over."""
        for message in messages:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            claim = claims.get((topic, partition))
            if claim is None or offset < self.ends.get((topic, partition), claim.next_offset):
                continue
            self.messages.setdefault(topic, []).append(message)
            self.ends[topic, partition] = offset + 1
            self.rows += 1
            self.bytes += len(message)

    def extend(self, later: Batch) -> None:
        """Take in a batch that was consumed after this one."""
        for topic, messages in later.messages.items():
            self.messages.setdefault(topic, []).extend(messages)
        self.ends.update(later.ends)
        self.rows += later.rows
        self.bytes += later.bytes

    def is_full(self, rows: int, size: int) -> bool:
        """Whether it holds so many records or bytes."""
        return self.rows >= rows or self.bytes >= size

    def read_over(self, partition: TopicPartition, end: int) -> None:
        """Note that nothing is left below `end`: what lies there are no records (markers, compacted away)."""
        self.ends[partition] = max(end, self.ends.get(partition, 0))

    def without(self, partitions: Iterable[TopicPartition]) -> Batch:
        """The same without some partitions."""
        dropped = set(partitions)
        rest = Batch()
        for topic, messages in self.messages.items():
            kept = [message for message in messages if (topic, message.partition()) not in dropped]
            if kept:
                rest.messages[topic] = kept
                rest.rows += len(kept)
                rest.bytes += sum(len(message) for message in kept)
        rest.ends = {partition: end for partition, end in self.ends.items() if partition not in dropped}
        return rest
