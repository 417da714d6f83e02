"""Whether topics are still the logs that they were when they were claimed.

Kafka's client does not stop at a topic that is deleted and made again: it may fall silent, or go on in the new log at
the offset that it had reached in the old one. So the ids are asked for after the last record of a batch was consumed,
and before it lands; and now and then while nothing arrives.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicCollection

from ingest import clients
from ingest.sink.broker import TIMEOUT_SECONDS, BrokerError
from ingest.sink.offsets import TopicPartition, refuse_another_topic
from services.settings import Settings

_LOOK_SECONDS = 2.0


class SameLog:
    """Compares topics' ids with those that were claimed.

    `ask` and `confirm` may be called from other threads than `look`: what is asked is answered while others work.
    """

    def __init__(self, settings: Settings) -> None:
        self._admin = clients.make_admin(settings)
        self._expected: dict[str, str] = {}
        self._asked: dict[str, Future[Any]] = {}
        self._look_at = time.monotonic() + _LOOK_SECONDS

    def expect(self, topic_ids: Mapping[TopicPartition, str]) -> None:
        """Take these for the right ones from now on."""
        self._expected.update({topic: topic_id for (topic, _), topic_id in topic_ids.items()})

    def confirm(self, asked: Mapping[str, Future[Any]]) -> None:
        """Wait for the broker's answers, which take it some milliseconds from when it was asked.

        Raises:
            LogChangedError: a topic was made again.
            BrokerError: the broker did not answer, or has a topic no more.
        """
        for topic, future in asked.items():
            try:
                description = future.result(TIMEOUT_SECONDS)
            except (KafkaException, TimeoutError) as error:
                raise BrokerError(
                    f"The broker does not say whether topic {topic} is still the same ({self._admin.words(error)})."
                ) from error
            refuse_another_topic(topic, self._expected[topic], str(description.topic_id))

    def look(self) -> None:
        """Ask now and then, without waiting; a broker that does not answer is passed over.

        Raises:
            LogChangedError: a topic was made again.
        """
        self._admin.poll(0)  # or what its connections say would pile up
        if self._asked:
            if all(future.done() for future in self._asked.values()):
                answers, self._asked = self._asked, {}
                for topic, future in answers.items():
                    if future.exception() is None:
                        refuse_another_topic(topic, self._expected[topic], str(future.result().topic_id))
        elif self._expected and time.monotonic() > self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            self._asked = self.ask(self._expected)

    def ask(self, topics: Iterable[str]) -> dict[str, Future[Any]]:
        """Ask the broker what the topics are now; its answers are for `confirm`."""
        asked: dict[str, Future[Any]] = self._admin.describe_topics(
            TopicCollection(list(topics)), request_timeout=TIMEOUT_SECONDS
        )
        return asked
