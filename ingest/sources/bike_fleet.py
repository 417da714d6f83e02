"""The e-bike simulator: an endless, seeded stream of tracking events. Pure: knows no Kafka and no clock.

Event i of fleet f is always the same event: every field is a hash of (f, i), so that a stream can be taken up
anywhere and a repeated event is a true repeat. Only odometers need the events before; to skip is to add up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyruhvro

Integers = npt.NDArray[np.int64]

BIKES = 1_000
RIDERS = 20_000
PRODUCTS = (5, 6, 7)
LONGEST_JOURNEY_M = 50_000
# Fleets own disjoint ranges of event, bike and rider ids; a bike's id must fit into an Avro int.
EVENTS_PER_FLEET = 100_000_000
LAST_FLEET = (2**31 - 1) // BIKES - 1

# History's events fall into this year, 2025-10-01 to 2026-10-01: half of it takes the first 50,000, the rest
# takes all that follow, for a service grows. So no number of events ever reaches the future.
HISTORY_STARTS_AT = 1_759_276_800
HISTORY_SECONDS = 365 * 24 * 3600
HISTORY_HALF_EVENTS = 50_000

# kg CO2e per km, scope 1 + scope 2, of the mountain, road and touring e-bike. Written here a second time, beside
# the warehouse's own reference table, for the simulator's totals are there to check the warehouse's.
OPERATING_KG_CO2E_PER_KM = {5: 0.005 - 0.016, 6: 0.005 - 0.021, 7: 0.005 - 0.011}

# How many measurements an event has: mostly 1, sometimes none or several (1.3 on average).
_MEASUREMENT_COUNTS = np.array([0] + [1] * 15 + [2] * 2 + [3, 4], dtype=np.int64)
_CHUNK = 100_000

# The hash's streams: which field a number is drawn for.
_COUNT, _RIDER, _MOMENT, _BIKE, _JOURNEY, _PRODUCT = range(6)


@dataclass(frozen=True, slots=True)
class TrackingEvents:
    """Some events in order, by column. The measurements of all of them lie end to end, lengths in metres.

    Metres are whole, so that sums and odometers are exact.
    """

    event_ids: Integers
    customer_ids: Integers
    times: Integers
    measurement_counts: Integers
    vehicle_ids: Integers
    product_ids: Integers
    journeys_m: Integers
    totals_m: Integers

    def metres_by_product(self) -> Integers:
        """Metres ridden per model, in the order of PRODUCTS."""
        return np.array([self.journeys_m[self.product_ids == product].sum() for product in PRODUCTS])

    def encode(self, schema: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
        """Each event's key (its id as text) and its Avro value by `schema`, without a header."""
        offsets = np.concatenate(([0], np.cumsum(self.measurement_counts)))
        measurements = pa.StructArray.from_arrays(
            [
                pa.array(self.vehicle_ids, pa.int32()),
                pa.array(self.product_ids, pa.int32()),
                pa.array(self.journeys_m / 1000),
                pa.array(self.totals_m / 1000),
            ],
            ["vehicle_id", "product_id", "journey_km", "total_km"],
        )
        events = pa.RecordBatch.from_arrays(
            [
                pa.array(self.event_ids),
                pa.array(self.customer_ids),
                pa.array(self.times, pa.int32()),
                pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), measurements),
            ],
            ["id", "customer_id", "date_time", "measurement_list"],
        )
        # One chunk: the order of the events is kept.
        (values,) = pyruhvro.serialize_record_batch(events, json.dumps(schema), 1)
        for event_id, value in zip(self.event_ids.tolist(), values.to_pylist(), strict=True):
            yield str(event_id).encode(), value


class Fleet:
    """The bikes of one rental service and the events they report, taken in order.

    `number` (0 to LAST_FLEET) decides everything: ids, models, journeys. `position` is how many events were taken.
    """

    def __init__(self, number: int) -> None:
        if not 0 <= number <= LAST_FLEET:
            raise ValueError(f"a fleet's number lies between 0 and {LAST_FLEET}, not at {number}")
        self.number = number
        self.position = 0
        self._odometers_m = np.zeros(BIKES, dtype=np.int64)
        bikes = np.arange(BIKES)
        self._products = np.array(PRODUCTS)[self._draw(_PRODUCT, bikes, len(PRODUCTS))]

    @property
    def first_event_id(self) -> int:
        """The id of the event at position 0; the next EVENTS_PER_FLEET ids are this fleet's."""
        return self.number * EVENTS_PER_FLEET + 1

    def position_after(self, event_id: int) -> int | None:
        """The position that follows an event, or None where it is not one of this fleet's."""
        index = event_id - self.first_event_id
        return index + 1 if 0 <= index < EVENTS_PER_FLEET else None

    def skip_to(self, position: int) -> None:
        """Go on to a position ahead; odometers stand as if every event before it had been taken."""
        while self.position < position:
            self.take(min(_CHUNK, position - self.position))

    def take(self, count: int, at: int | None = None) -> TrackingEvents:
        """The next `count` events, dated `at` (Unix seconds), or where history has them.

        Raises:
            ValueError: the fleet's range of ids ends before that.
        """
        if self.position + count > EVENTS_PER_FLEET:
            raise ValueError(f"fleet {self.number} has {EVENTS_PER_FLEET} events, no more")
        index = np.arange(self.position, self.position + count)
        counts = _MEASUREMENT_COUNTS[self._draw(_COUNT, index, len(_MEASUREMENT_COUNTS))]
        # A measurement's own number: eight to an event, of which it uses as many as it has.
        first = np.repeat(np.cumsum(counts) - counts, counts)
        measurement = np.repeat(index * 8, counts) + np.arange(len(first)) - first
        bikes = self._draw(_BIKE, measurement, BIKES)
        journeys_m = self._draw(_JOURNEY, measurement, LONGEST_JOURNEY_M + 1)
        self.position += count
        return TrackingEvents(
            event_ids=self.first_event_id + index,
            customer_ids=self.number * RIDERS + 1 + self._draw(_RIDER, index, RIDERS),
            times=self._history(index) if at is None else np.full(count, at),
            measurement_counts=counts,
            vehicle_ids=self.number * BIKES + 1 + bikes,
            product_ids=self._products[bikes],
            journeys_m=journeys_m,
            totals_m=self._ride(bikes, journeys_m),
        )

    def _ride(self, bikes: Integers, journeys_m: Integers) -> Integers:
        """The odometer after each journey, in their order; the bikes' odometers move on."""
        by_bike = np.argsort(bikes, kind="stable")
        running = np.cumsum(journeys_m[by_bike])
        sums = np.bincount(bikes, weights=journeys_m, minlength=BIKES).astype(np.int64)
        before = np.cumsum(sums) - sums
        totals_m = np.empty_like(journeys_m)
        totals_m[by_bike] = running + (self._odometers_m - before)[bikes[by_bike]]
        self._odometers_m += sums
        return totals_m

    def _history(self, index: Integers) -> Integers:
        """Unix seconds that never fall from event to event and stay below the end of history."""
        moment = index + self._draw(_MOMENT, index, 1_000) / 1_000
        return HISTORY_STARTS_AT + (HISTORY_SECONDS * moment / (moment + HISTORY_HALF_EVENTS)).astype(np.int64)

    def _draw(self, stream: int, index: Integers, below: int) -> Integers:
        """For each index a whole number from 0 to below - 1: SplitMix64 (Steele, Lea, Flood 2014) by position.

        Our own, for numpy promises no equal draws from one release to the next.
        """
        start = _mix(np.array([self.number * 8 + stream], dtype=np.uint64))
        return ((_mix(start + index.astype(np.uint64)) >> np.uint64(33)) % np.uint64(below)).astype(np.int64)


def operating_kg_co2e(metres_by_product: Integers) -> float:
    """What riding so many metres per model (in the order of PRODUCTS) emits: sum of (scope 1 + scope 2) * km."""
    return math.fsum(
        OPERATING_KG_CO2E_PER_KM[product] * metres / 1000
        for product, metres in zip(PRODUCTS, metres_by_product.tolist(), strict=True)
    )


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mixed = (state + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
