"""Sends the simulated e-bikes' events to `tracking_events`. The topic is the only memory of what was sent.

A seed has two fleets: one that rode in the past (sent as fast as possible, dated by the stream itself) and one that
rides now (sent at a rate, dated as it is sent). So an odometer never falls, neither in the log nor in time.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from ingest.clients import make_consumer
from ingest.contracts.contract import load_contracts
from ingest.progress import Progress, no_progress
from ingest.sources.bike_fleet import EVENTS_PER_FLEET, LAST_FLEET, PRODUCTS, Fleet, operating_kg_co2e
from ingest.sources.topic_writer import (
    CONNECT_SECONDS,
    ProduceError,
    TopicWriter,
    avro_header,
)
from services.settings import Settings

TOPIC = "tracking_events"
LAST_SEED = (LAST_FLEET - 1) // 2

_CHUNK = 5_000
_TICK_SECONDS = 0.02
# How far back each partition is read for a fleet's last event; only if it is not there, the whole partition is.
_TAIL_RECORDS = 1_000


@dataclass(frozen=True, slots=True)
class TrackingEventsProduced:
    """What one run sent, all of it delivered; counted and summed here, not in the warehouse.

    A run's events have the ids from `first_event_id` to `last_event_id` without a gap, None where there are none,
    and no other run's event lies between. Kilograms of CO2e are of riding: (scope 1 + scope 2) * km, summed over
    the measurements.
    """

    seed: int
    events: int
    measurements: int
    first_event_id: int | None
    last_event_id: int | None
    expected_operating_kg_co2e: float
    seconds: float
    is_interrupted: bool


def produce_tracking_events(
    settings: Settings,
    *,
    events: int = 50_000,
    rate: float | None = None,
    seed: int = 1,
    progress: Progress = no_progress,
) -> TrackingEventsProduced:
    """Send the next events of a seed's fleet, after the last one that the topic has.

    Args:
        settings: where the broker and the registry are.
        events: how many; 0 with a rate means until interrupted.
        rate: events a second, dated now; None means as fast as possible, dated in the past.
        seed: 0 to LAST_SEED. Two seeds share no event, bike or rider.
        progress: told how many events are delivered.

    Returns:
        What was sent. Interrupted (SIGINT or SIGTERM in the main thread), it waits for what was handed over and
        returns as usual; a second signal ends it at once.

    Raises:
        ProduceError: broker or registry don't answer, lack the topic or its schema, or did not take every record.
        ValueError: a number makes no sense.
    """
    if not 0 <= seed <= LAST_SEED:
        raise ValueError(f"seed {seed} is not between 0 and {LAST_SEED}")
    if events < 0 or (rate is not None and rate <= 0) or (events == 0 and rate is None):
        raise ValueError("events and rate must be above 0; events may be 0 with a rate only")
    started = time.monotonic()
    contract = load_contracts()[TOPIC]
    fleet = Fleet(2 * seed + (rate is not None))
    header = avro_header(settings, contract)
    measurements, metres = 0, np.zeros(len(PRODUCTS), dtype=np.int64)
    with TopicWriter(settings, TOPIC, progress) as writer:
        writer.expect(events or None)
        start = _position(settings, fleet, writer.partitions, progress)
        if start + events > EVENTS_PER_FLEET:
            raise ProduceError(f"Seed {seed} has fewer than {events:,} events left: take another with --seed.")
        fleet.skip_to(start)
        with _stopped_by_signal() as stop:
            for count in _at_once(events) if rate is None else _paced(events, rate, stop):
                taken = fleet.take(count, at=None if rate is None else int(time.time()))
                writer.write((key, header + value) for key, value in taken.encode(contract.schema))
                measurements += len(taken.journeys_m)
                metres += taken.metres_by_product()
                if stop.is_set():
                    break
            writer.flush()
    sent = fleet.position - start
    return TrackingEventsProduced(
        seed=seed,
        events=sent,
        measurements=measurements,
        first_event_id=fleet.first_event_id + start if sent else None,
        last_event_id=fleet.first_event_id + fleet.position - 1 if sent else None,
        expected_operating_kg_co2e=operating_kg_co2e(metres),
        seconds=round(time.monotonic() - started, 3),
        is_interrupted=stop.is_set(),
    )


def _at_once(events: int) -> Iterator[int]:
    for done in range(0, events, _CHUNK):
        yield min(_CHUNK, events - done)


def _paced(events: int, rate: float, stop: threading.Event) -> Iterator[int]:
    """How many events are due, each time some are. After a pause of the machine the missed ones are not made up."""
    interval = max(1 / rate, _TICK_SECONDS)
    left = events or None
    owed, next_tick = 1.0, time.monotonic()
    while left != 0 and not stop.is_set():
        due = int(owed) if left is None else min(int(owed), left)
        if due:
            yield due
            owed -= due
            left = left and left - due
        owed += rate * interval
        next_tick = max(next_tick + interval, time.monotonic() - 1)
        stop.wait(max(next_tick - time.monotonic(), 0))


@contextmanager
def _stopped_by_signal() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second does what it always did."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(_number: int, _frame: object) -> None:
        restore()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()


def _position(settings: Settings, fleet: Fleet, partitions: int, progress: Progress = no_progress) -> int:
    """The position after the fleet's last event in the topic, by the records' keys.

    Where Kafka has thrown old records away and none of the fleet's is left in some partition, it is at least the
    number of records the topic ever had: that skips events, and repeats none.
    """
    consumer = make_consumer(
        settings,
        **{
            "client.id": "scopehouse-produce",
            # A group must be named; it is never joined and keeps no offsets.
            "group.id": "scopehouse-produce",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            # The end is what is looked for: waiting there (0.5 s) or for a full buffer to empty (1 s) is time lost.
            "fetch.wait.max.ms": 10,
            "fetch.queue.backoff.ms": 10,
            "log_level": 0,
        },
    )
    try:
        bounds = {
            partition: consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=CONNECT_SECONDS)
            for partition in range(partitions)
        }
        tails = {partition: max(low, high - _TAIL_RECORDS) for partition, (low, high) in bounds.items()}
        found = _last_positions(consumer, fleet, tails)
        deeper = {
            partition: bounds[partition][0]
            for partition, start in tails.items()
            if partition not in found and start > bounds[partition][0]
        }
        total = sum(bounds[partition][1] - start for partition, start in deeper.items())
        found |= _last_positions(consumer, fleet, deeper, lambda read: progress("earlier records read", read, total))
    except KafkaException as error:
        raise ProduceError(
            f"Kafka at {settings.bootstrap_servers} did not let {TOPIC} be read ({error.args[0].str()}): "
            "see that the broker is well and that you may read the topic."
        ) from error
    finally:
        consumer.close()
    position = max(found.values(), default=0)
    if any(low > 0 for partition, (low, _high) in bounds.items() if partition not in found):
        position = max(position, sum(high for _low, high in bounds.values()))
    return position


def _last_positions(
    consumer: Consumer,
    fleet: Fleet,
    starts: dict[int, int],
    progress: Callable[[int], None] = lambda _read: None,
) -> dict[int, int]:
    """By partition, the largest position of the fleet in the records from `starts` to the end."""
    consumer.assign([TopicPartition(TOPIC, partition, offset) for partition, offset in starts.items()])
    found: dict[int, int] = {}
    ended: set[int] = set()
    read, last_heard = 0, time.monotonic()
    while not starts.keys() <= ended:
        messages = consumer.consume(10_000, timeout=0.05)
        if messages:
            last_heard = time.monotonic()
            read += len(messages)
            progress(read)
        elif time.monotonic() - last_heard > CONNECT_SECONDS:
            raise ProduceError(f"Kafka has not answered for {CONNECT_SECONDS:.0f} s: see that the broker is well.")
        for message in messages:
            partition, error = message.partition(), message.error()
            if partition is None or (error is not None and error.code() != KafkaError._PARTITION_EOF):
                raise KafkaException(error)
            if error is not None:
                ended.add(partition)
            elif (position := _position_of(fleet, message.key())) is not None:
                found[partition] = max(position, found.get(partition, 0))
    return found


def _position_of(fleet: Fleet, key: bytes | None) -> int | None:
    """The position after the event whose id a record's key holds; None for any other key."""
    if key is None or not key.isdigit() or len(key) > 19:
        return None
    return fleet.position_after(int(key))
