"""What a running sink tells of itself, while it happens. This one does not listen; `reporter.Reporter` does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ingest.sink.offsets import Advance, Claim, TopicPartition


class Observer:
    """Is told what the sink does. Nothing that it does may stop the sink; it may be called from several threads."""

    def consumer_settings(self) -> Mapping[str, Any]:
        """What the consumer needs in its settings so that Kafka's side is heard too."""
        return {}

    def connected(self) -> None:
        """A session with Postgres has begun."""

    def assigned(self, claims: Mapping[TopicPartition, Claim]) -> None:
        """Partitions are ours now, from the offsets on that raw has not."""

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions are another member's now."""

    def landed(self, advances: Sequence[Advance], size: int, seconds: float) -> None:
        """A transaction was committed: `size` bytes of values, which took it so many seconds."""

    def fenced(self, partitions: Iterable[TopicPartition]) -> None:
        """Another sink has taken partitions over; they are left alone until they are assigned anew."""

    def waiting(self, partitions: Iterable[TopicPartition], error: BaseException) -> None:
        """What decodes partitions' records can't be had now; they are left alone for some seconds, the others go on."""

    def stopped(self, partitions: Iterable[TopicPartition], why: str) -> None:
        """Partitions are read no further; `why` is one sentence."""

    def ended(self) -> None:
        """The sink was asked to stop, and the process ends at once."""

    def broke(self, error: BaseException) -> None:
        """The session broke; the sink waits and begins another."""
