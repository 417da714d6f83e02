"""What the sink asks of Kafka: a consumer that trusts Postgres alone, and how far each partition reaches."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition

from ingest import clients
from ingest.sink.batch import Batch
from ingest.sink.offsets import Claim, Extent
from ingest.sink.offsets import TopicPartition as Partition
from services.errors import MendableError
from services.settings import Settings

TIMEOUT_SECONDS = 15.0
# More in one call is no faster; fewer cost a call each.
_RECORDS_A_CALL = 2_000


class BrokerError(MendableError):
    """The broker can't be reached; it may come back."""


def spare_the_collector() -> None:
    """Let Python's cycle collector pass seldom: consumed records hold no cycles, and walking over a hundred thousand
    of them for each few hundred new ones costs a fifth of the sink's time. For a process that does nothing else."""
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


def make_consumer(settings: Settings, **more: Any) -> Consumer:
    """A consumer that commits nothing by itself, never jumps to another offset than it was given, and says when it has
    come to a partition's end: the last offsets may hold no records (a transaction's marker)."""
    return clients.make_consumer(
        settings,
        **{
            "group.id": settings.consumer_group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            # With its default of a second, the client falls asleep whenever its queue is full: six times slower.
            "fetch.queue.backoff.ms": 10,
            # What waits in the client is memory: enough for the next batch.
            "queued.min.messages": 20_000,
            "queued.max.messages.kbytes": 4_096,
            **more,
        },
    )


def membership(settings: Settings) -> dict[str, Any]:
    """The consumer's settings for being a member of the group. Both protocols move partitions one by one."""
    if settings.group_protocol == "consumer":
        # How long a silent member keeps its partitions is the broker's setting.
        return {"group.protocol": "consumer"}
    return {
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 10_000,
    }


def partitions_of(settings: Settings, topics: Iterable[str]) -> dict[Partition, str]:
    """Every partition of the topics, with its topic's id.

    Raises:
        BrokerError: the broker can't be reached.
        MendableError: it lacks a topic.
    """
    wanted = list(topics)
    found = partitions_there(settings, wanted)
    for name in wanted:
        if name not in {topic for topic, _ in found}:
            raise MendableError(f"Kafka at {settings.bootstrap_servers} has no topic {name}: run `scopehouse migrate`.")
    return found


def partitions_there(settings: Settings, topics: Iterable[str]) -> dict[Partition, str]:
    """Every partition of those topics that the broker has, with its topic's id. Raises BrokerError."""
    admin = clients.make_admin(settings)
    found = {}
    for name, future in admin.describe_topics(TopicCollection(list(topics)), request_timeout=TIMEOUT_SECONDS).items():
        try:
            description = future.result(TIMEOUT_SECONDS)
        except (KafkaException, TimeoutError) as error:
            if isinstance(error, KafkaException) and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                continue
            raise BrokerError(
                f"Topic {name} can't be read at {settings.bootstrap_servers} ({admin.words(error)}): is Kafka running?"
            ) from error
        for partition in description.partitions:
            found[name, partition.id] = str(description.topic_id)
    return found


def extents_of(consumer: Consumer, topic_ids: Mapping[Partition, str]) -> dict[Partition, Extent]:
    """How far each partition reaches now.

    Raises:
        KafkaException: the broker can't be reached.
    """
    extents = {}
    for (topic, partition), topic_id in topic_ids.items():
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS)
        extents[topic, partition] = Extent(topic_id, low, high)
    return extents


def consume_into(batch: Batch, consumer: Consumer, claims: Mapping[Partition, Claim], timeout: float) -> list[Message]:
    """Take what arrives within `timeout` seconds into the batch, records and ends of partitions; returns the errors."""
    # Only what the client holds already, whose size is limited: by waiting for more, a call could gather gigabytes.
    messages = consumer.consume(_RECORDS_A_CALL, 0) or consumer.consume(1, timeout)
    if not any(map(Message.error, messages)):
        batch.add(messages, claims)
        return []
    batch.add([message for message in messages if message.error() is None], claims)
    errors = []
    for event in messages:
        if (error := event.error()) is None:
            continue
        if error.code() == KafkaError._PARTITION_EOF:
            # Told once, and again only when there was more. It is the offset that comes next, whatever lies before it.
            batch.read_over((event.topic(), event.partition()), event.offset(), claims)
        else:
            errors.append(event)
    return errors


def committed(claims: Mapping[Partition, Claim]) -> list[TopicPartition]:
    """Owned partitions with the offsets that raw holds, as Kafka's client wants them."""
    return [TopicPartition(topic, partition, claim.next_offset) for (topic, partition), claim in claims.items()]
