"""The law: for any log and any sequence of upper bounds and run orders, the table equals one full refresh.

Over both logs of the mobility domain, events and changes of bike models. `SCOPEHOUSE_LAW_EXAMPLES` sets how many
histories are tried (default 12).
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.integration.dbt_project.warehouse import (
    BIKE_MODELS,
    CHANGES_TOPIC,
    CONTENTS,
    MEASUREMENTS,
    TOPIC,
    BikeChange,
    Warehouse,
    measurement,
)

EXAMPLES = int(os.environ.get("SCOPEHOUSE_LAW_EXAMPLES", "12"))

# Contents that an event may have, and when (seconds, to which the event's number is added): other numbers, other order,
# no journey, an unknown model, an odometer that falls, a length that can't be, another time.
CONTENTS_OF_AN_EVENT = (
    (1_000, [measurement(vehicle=1, model=5, journey=3.3, total=10.1)]),
    (1_000, [measurement(vehicle=1, model=5, journey=4.4, total=11.2), measurement(vehicle=2, model=7)]),
    (1_000, []),
    (900, [measurement(vehicle=2, model=9, total=80.0)]),
    (1_002, [measurement(vehicle=1, model=7, total=9.0), measurement(vehicle=2, model=5, journey=-1.0)]),
)
PARTITIONS = (0, 1, 2, -1, -2)  # the last two: replayed dead letters of partitions 0 and 1
BIKES = (5, 7, 9)
EVERYTHING = (CONTENTS, BIKE_MODELS, MEASUREMENTS)

entries = st.tuples(st.sampled_from(PARTITIONS), st.integers(1, 5), st.sampled_from(range(len(CONTENTS_OF_AN_EVENT))))
changes = st.tuples(
    st.sampled_from(("update", "update", "correct", "correct", "delete", "snapshot", "repeat", "replay")),
    st.sampled_from(BIKES),
    st.integers(0, 120),
    st.booleans(),  # in the transaction of the change before it
)
actions = st.sampled_from(
    (
        ("run", EVERYTHING),
        ("run", EVERYTHING),
        ("run", (BIKE_MODELS, MEASUREMENTS)),
        ("run", (CONTENTS,)),
        ("run", (BIKE_MODELS,)),
        ("run", (MEASUREMENTS,)),
        ("kill", (CONTENTS,)),
        ("kill", (BIKE_MODELS,)),
        ("kill", (MEASUREMENTS,)),
        ("refresh", (CONTENTS,)),
        ("refresh", (BIKE_MODELS,)),
        ("refresh", (MEASUREMENTS,)),
    )
)
# Of a topic, the partition of which of its last entries is held back, and by how many.
bounds = st.tuples(st.sampled_from((TOPIC, CHANGES_TOPIC)), st.integers(0, 2), st.integers(0, 2))
rounds = st.tuples(
    st.tuples(st.just("land"), st.lists(entries, min_size=2, max_size=5)),
    st.tuples(st.just("change"), st.lists(changes, min_size=1, max_size=4)),
    st.tuples(st.just("bound"), bounds),
    actions,
    actions,
)
# Every history begins with events that stand late in the log (a replay, partition 2): what follows overtakes them.
BEGINNING = [
    ("change", [("update", 5, 0, False), ("update", 7, 0, False)]),
    ("land", [(-2, 1, 0), (2, 2, 1), (2, 3, 3), (1, 4, 0)]),
    ("run", EVERYTHING),
]
# What chance brings about too seldom: killed runs of some models, an odometer that was too high and goes, a model that
# comes late, partial upper bounds.
RARE = [
    *BEGINNING,
    ("land", [(0, 2, 2)]),
    ("run", (CONTENTS,)),
    ("kill", (MEASUREMENTS,)),
    ("run", (MEASUREMENTS,)),
    ("change", [("correct", 9, 120, False)]),
    ("kill", (BIKE_MODELS,)),
    ("run", (BIKE_MODELS, MEASUREMENTS)),
    ("land", [(0, 5, 0)]),
    ("bound", (TOPIC, 0, 1)),
    ("change", [("update", 5, 1, False)]),
    ("bound", (CHANGES_TOPIC, 0, 1)),
    ("run", EVERYTHING),
]
histories = st.lists(rounds, min_size=2, max_size=3).map(
    lambda rest: [*BEGINNING, *(step for each in rest for step in each)]
)


@dataclass
class Company:
    """The company's table of bike models: changes as the connector would tell them."""

    shapes: Counter[str]
    now: float = 995.0
    lsn: int = 100
    said: list[BikeChange] = field(default_factory=list)
    rows: dict[int, BikeChange] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)

    def change(self, kind: str, model: int, number: int, together: bool) -> list[BikeChange]:
        """What one statement adds to the log. Half a second passes between transactions."""
        if kind in ("repeat", "replay"):
            self.shapes[f"change that is a {kind}"] += 1
            return [self.said[number % len(self.said)]]
        self.lsn += 1
        if together and self.said:
            self.shapes["several changes in one transaction"] += 1
        else:
            self.now += 0.5
        if kind == "snapshot":
            self.shapes["snapshot taken again"] += 1
            said = [self._told(row, "r") for row in self.rows.values()]
        elif kind == "delete" and model in self.rows:
            self.shapes["model deleted"] += 1
            self.deleted.add(model)
            said = [self._told(self.rows.pop(model), "d")]
        else:
            is_correction = kind == "correct"
            self.shapes["correction of the past"] += is_correction
            self.shapes["model inserted again"] += model in self.deleted - set(self.rows)
            modified_at = self.now - number if is_correction else self.now
            first = not self.said or (len(self.said) == 1 and self.said[0].operation == "r")
            operation = "u" if model in self.rows else "r" if first else "c"
            row = BikeChange(model, operation, modified_at, self.now, self.lsn, price_usd=1_000.0 + number)
            self.rows[model] = row
            said = [row]
        self.said += said
        return said

    def _told(self, row: BikeChange, operation: str) -> BikeChange:
        values = {name: getattr(row, name) for name in ("price_usd", "scope1", "scope2")}
        return BikeChange(row.model, operation, row.modified_at, self.now, self.lsn, **values)


@dataclass
class Log:
    """What was landed, and what of it the measurements were built from."""

    warehouse: Warehouse
    shapes: Counter[str]
    company: Company
    entries: list[tuple[int, int, int, int]] = field(default_factory=list)  # partition, offset, event, content
    change_partitions: list[int] = field(default_factory=list)
    next_offsets: Counter[int] = field(default_factory=Counter)
    versions: list[tuple[int, float, float]] = field(default_factory=list)  # model, valid from, valid to

    def land(self, new: list[tuple[int, int, int]]) -> None:
        rows = []
        for partition, event, content in new:
            offset = self.next_offsets[partition]
            self.next_offsets[partition] += 1
            self.entries.append((partition, offset, event, content))
            seconds, measurements = CONTENTS_OF_AN_EVENT[content]
            rows.append((event, partition, offset, seconds + event, measurements))
        self.warehouse.append(rows)

    def change(self, new: list[tuple[str, int, int, bool]]) -> None:
        for each in new:
            partition = -1 if each[0] == "replay" else 0
            self.change_partitions.append(partition)
            self.warehouse.append_changes(self.company.change(*each), partition)

    def hold_back(self, topic: str, entry: int, count: int) -> None:
        """Let raw hold less than was landed, though never less than was read."""
        partitions = [each[0] for each in self.entries] if topic == TOPIC else self.change_partitions
        partition = partitions[-1 - entry % len(partitions)]
        read = self.warehouse.value(
            "select coalesce(max(next_offset), 0) from ingest.model_offsets where topic = %s and partition = %s",
            topic,
            partition,
        )
        held = self.warehouse.value(
            "select coalesce(max(next_offset), 0) from ingest.offsets where topic = %s and partition = %s",
            topic,
            partition,
        )
        bound = max(read, held - count)
        self.shapes[f"partial upper bounds of {topic}"] += bound < held
        self.warehouse.owner.execute(
            "update ingest.offsets set next_offset = %s where topic = %s and partition = %s",
            [bound, topic, partition],
        )

    def note_versions(self) -> None:
        """The versions that the measurements are built from now."""
        self.versions = self.warehouse.rows(
            "select bike_model_id, extract(epoch from valid_from)::float8, extract(epoch from valid_to)::float8"
            f" from mobility.{BIKE_MODELS}"
        )

    def contents(self, model: str) -> dict[int, list[int]]:
        """By event, its contents that `model` has read; the first is the accepted one."""
        marks = dict(
            self.warehouse.rows(
                "select partition, next_offset from ingest.model_offsets where model = %s and topic = %s", model, TOPIC
            )
        )
        found: dict[int, list[int]] = {}
        for partition, offset, event, content in sorted(self.entries, key=lambda entry: (entry[0] < 0, *entry)):
            if offset < marks.get(partition, 0) and content not in found.setdefault(event, []):
                found[event].append(content)
        return found

    def verdicts(self) -> Iterator[tuple[int, int | None, float | None, str | None]]:
        """Each measurement's event, bike, journey and why it is rejected, as plainly as can be said."""
        accepted = []
        for event, (first, *others) in self.contents(f"intermediate.{MEASUREMENTS}").items():
            for content in others:
                for each in CONTENTS_OF_AN_EVENT[content][1] or [{}]:
                    yield event, each.get("vehicle_id"), each.get("journey_km"), "conflicting_content"
            seconds, measurements = CONTENTS_OF_AN_EVENT[first]
            accepted += [(event, seconds + event, each) for each in measurements]
        possible = []
        for event, at, each in accepted:
            reason = None
            if each["journey_km"] < 0:
                reason = "impossible_km"
            elif not any(model == each["product_id"] and start <= at < end for model, start, end in self.versions):
                reason = "unknown_bike_model"
            else:
                possible.append((event, at, each))
            if reason:
                yield event, each["vehicle_id"], each["journey_km"], reason
        for event, at, each in possible:
            has_fallen = any(
                earlier["vehicle_id"] == each["vehicle_id"] and then < at and earlier["total_km"] > each["total_km"]
                for _, then, earlier in possible
            )
            yield event, each["vehicle_id"], each["journey_km"], "falling_odometer" if has_fallen else None


def test_any_history_of_runs_equals_one_full_refresh(warehouse: Warehouse, failing_marks: Any) -> None:
    shapes: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(histories)
    @example(RARE)
    def the_law(history: list[tuple[str, Any]]) -> None:
        warehouse.empty()
        log = Log(warehouse, shapes, Company(shapes))
        for action, argument in history:
            if action == "land":
                log.land(argument)
            elif action == "change":
                log.change(argument)
            elif action == "bound":
                log.hold_back(*argument)
            else:
                build(action, argument, log, shapes, failing_marks)
            assert_measurements_are(log, warehouse)
        count_events(log, shapes)

        warehouse.dbt.run(*EVERYTHING)
        incremental = tables(warehouse)
        warehouse.dbt.run(*EVERYTHING, full_refresh=True)
        assert_same(incremental, tables(warehouse))

    the_law()
    print(dict(shapes))  # noqa: T201
    wanted = [
        "two partitions or more",
        "repeated",
        "conflicting",
        "late",
        "replayed",
        f"partial upper bounds of {TOPIC}",
        f"partial upper bounds of {CHANGES_TOPIC}",
        "accepted content changed after it was built",
        "event lost its last trip",
        "measurements behind their parent",
        "several changes in one transaction",
        "snapshot taken again",
        "model deleted",
        "model inserted again",
        "correction of the past",
        "change that is a repeat",
        "change that is a replay",
        "trip took another version, its event untouched",
        "model withdrawn from a trip",
        "trip of an unknown model taken in",
        "odometer fell",
        "falling odometer taken in",
        *(f"killed run of {model}" for model in EVERYTHING),
        *(f"refresh of {model}" for model in EVERYTHING),
        f"run of {MEASUREMENTS}",
    ]
    assert not [shape for shape in wanted if shapes[shape] == 0], shapes


def build(action: str, models: tuple[str, ...], log: Log, shapes: Counter[str], failing_marks: Any) -> None:
    """Run the models, kill them or refresh them; count what that did."""
    warehouse = log.warehouse
    contents_before, rows_before = log.contents(f"intermediate.{MEASUREMENTS}"), built_rows(warehouse)
    if action == "kill":
        failing_marks(True)
        outcome = warehouse.dbt.attempt("run", "--threads", "1", "--select", *models)
        failing_marks(False)
        killed = [result.message for result in outcome.result if result.status == "error"]
        assert all("killed by the test" in message for message in killed), killed
        shapes[f"killed run of {models[0]}"] += len(killed)
        if killed:
            assert built_rows(warehouse) == rows_before
            return
    else:
        warehouse.dbt.run(*models, full_refresh=action == "refresh")
        shapes[f"{action} of {' and '.join(models)}"] += 1
    contents_after, rows_after = log.contents(f"intermediate.{MEASUREMENTS}"), built_rows(warehouse)
    shapes["measurements behind their parent"] += contents_after != log.contents(f"intermediate.{CONTENTS}")
    if MEASUREMENTS not in models:
        return
    log.note_versions()
    for event, (first, *_) in contents_before.items():
        shapes["accepted content changed after it was built"] += contents_after[event][0] != first
        shapes["event lost its last trip"] += contents_after[event][0] == 2 != first
    for key in rows_before.keys() & rows_after.keys():
        (event, version, reason), (_, version_after, reason_after) = rows_before[key], rows_after[key]
        if contents_before[event] == contents_after[event]:
            shapes["trip took another version, its event untouched"] += None not in (version, version_after) and (
                version != version_after
            )
            shapes["trip of an unknown model taken in"] += reason == "unknown_bike_model" and reason_after is None
            shapes["model withdrawn from a trip"] += reason is None and reason_after == "unknown_bike_model"
            shapes["odometer fell"] += reason_after == "falling_odometer"
            shapes["falling odometer taken in"] += reason == "falling_odometer" and reason_after is None


@pytest.fixture
def failing_marks(warehouse: Warehouse) -> Iterator[Any]:
    """A switch that makes the last statement of a model's transaction, the move of its mark, fail."""
    warehouse.owner.execute(
        """
        create or replace function ingest.fail() returns trigger language plpgsql as
        $$ begin raise exception 'killed by the test'; end $$;
        create or replace trigger fail before update of next_offset on ingest.model_offsets
        for each row when (old.next_offset <> new.next_offset) execute function ingest.fail();
        alter table ingest.model_offsets disable trigger fail
        """
    )
    yield lambda on: warehouse.owner.execute(
        f"alter table ingest.model_offsets {'enable' if on else 'disable'} trigger fail"
    )
    warehouse.owner.execute("drop function ingest.fail cascade")


def assert_measurements_are(log: Log, warehouse: Warehouse) -> None:
    """Each measurement that was read is a trip, or rejected for the right reason, and nothing else is there."""
    found = warehouse.rows(
        "select event_id, vehicle_id, journey_km, null as reason from mobility.fct_trip_emissions union all"
        " select event_id, vehicle_id, journey_km, rejection_reason from mobility.rejected_measurements"
    )
    assert Counter(found) == Counter(log.verdicts())


def built_rows(warehouse: Warehouse) -> dict[str, tuple[int, str | None, str | None]]:
    """By key, each measurement's event, version and verdict."""
    return {
        key: (event, version, reason)
        for key, event, version, reason in warehouse.rows(
            f"select measurement_key, event_id, bike_model_key, rejection_reason from intermediate.{MEASUREMENTS}"
        )
    }


def count_events(log: Log, shapes: Counter[str]) -> None:
    contents_of: dict[int, list[int]] = {}
    latest_read = 0
    for partition, _, event, content in log.entries:
        seen = contents_of.setdefault(event, [])
        shapes["repeated"] += content in seen
        shapes["conflicting"] += bool(set(seen) - {content})
        shapes["replayed"] += partition < 0
        event_time = CONTENTS_OF_AN_EVENT[content][0] + event
        shapes["late"] += event_time < latest_read
        latest_read = max(latest_read, event_time)
        seen.append(content)
    shapes["two partitions or more"] += len({partition for partition, *_ in log.entries if partition >= 0}) >= 2


def tables(warehouse: Warehouse) -> dict[str, list[tuple[Any, ...]]]:
    """Every incremental model's rows."""
    # As JSON, for Python knows no infinite time.
    in_order = "select to_jsonb(t) from {} as t order by t::text"
    return {
        name: [tuple(row.values()) for (row,) in warehouse.rows(in_order.format(name))]
        for name in (f"intermediate.{CONTENTS}", f"mobility.{BIKE_MODELS}", f"intermediate.{MEASUREMENTS}")
    }


def assert_same(one: dict[str, list[tuple[Any, ...]]], other: dict[str, list[tuple[Any, ...]]]) -> None:
    """Equal, floats to 1e-9 relative."""
    for name, rows in one.items():
        assert len(rows) == len(other[name]), name
        for left, right in zip(rows, other[name], strict=True):
            for a, b in zip(left, right, strict=True):
                close = isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-9)
                assert close or a == b, (name, left, right)
