"""The law: for any log and any sequence of upper bounds and run orders, the table equals one full refresh.

`SCOPEHOUSE_LAW_EXAMPLES` sets how many logs are tried (default 10).
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.integration.dbt_project.warehouse import CONTENTS, TOPIC, TRIPS, Warehouse, measurement

EXAMPLES = int(os.environ.get("SCOPEHOUSE_LAW_EXAMPLES", "10"))

# Contents that an event may have: other numbers, other order, no journey, an unknown model, another time.
CONTENTS_OF_AN_EVENT = (
    (1_000, [measurement(vehicle=1, model=5, journey=3.3, total=10.1)]),
    (1_000, [measurement(vehicle=1, model=5, journey=4.4, total=11.2), measurement(vehicle=2, model=7)]),
    (1_000, []),
    (900, [measurement(vehicle=3, model=99)]),
)
PARTITIONS = (0, 1, 2, -1, -2)  # the last two: replayed dead letters of partitions 0 and 1

entries = st.tuples(st.sampled_from(PARTITIONS), st.integers(1, 5), st.sampled_from(range(len(CONTENTS_OF_AN_EVENT))))
actions = st.sampled_from(
    (
        ("run", (CONTENTS, TRIPS)),
        ("run", (CONTENTS, TRIPS)),
        ("run", (CONTENTS,)),
        ("run", (TRIPS,)),
        ("kill", (CONTENTS,)),
        ("kill", (TRIPS,)),
        ("refresh", (CONTENTS,)),
        ("refresh", (TRIPS,)),
        ("price", 3_000),
        ("price", 2_000),
    )
)
rounds = st.tuples(
    st.tuples(st.just("land"), st.lists(entries, min_size=2, max_size=5)),
    st.tuples(st.just("bound"), st.tuples(st.sampled_from(PARTITIONS), st.integers(0, 2))),
    actions,
    actions,
)
# Every history begins with events that stand late in the log (a replay, partition 2): what follows overtakes them.
BEGINNING = [("land", [(-2, 1, 0), (2, 2, 1), (2, 3, 3), (1, 4, 0)]), ("run", (CONTENTS, TRIPS))]
histories = st.lists(rounds, min_size=2, max_size=3).map(
    lambda rest: [*BEGINNING, *(step for each in rest for step in each)]
)


@dataclass
class Log:
    """What was landed, and what of it raw says it holds."""

    warehouse: Warehouse
    shapes: Counter[str]
    entries: list[tuple[int, int, int, int]] = field(default_factory=list)  # partition, offset, event, content
    next_offsets: Counter[int] = field(default_factory=Counter)

    def land(self, new: list[tuple[int, int, int]]) -> None:
        rows = []
        for partition, event, content in new:
            offset = self.next_offsets[partition]
            self.next_offsets[partition] += 1
            self.entries.append((partition, offset, event, content))
            rows.append((event, partition, offset, *self._content(event, content)))
        self.warehouse.append(rows)

    def hold_back(self, partition: int, count: int) -> None:
        """Let raw hold less than was landed, though never less than was read."""
        read = self.warehouse.value(
            "select coalesce(max(next_offset), 0) from ingest.model_offsets where topic = %s and partition = %s",
            TOPIC,
            partition,
        )
        held = self.warehouse.value(
            "select coalesce(max(next_offset), 0) from ingest.offsets where topic = %s and partition = %s",
            TOPIC,
            partition,
        )
        bound = max(read, held - count)
        self.shapes["partial upper bounds"] += bound < held
        self.warehouse.owner.execute(
            "update ingest.offsets set next_offset = %s where topic = %s and partition = %s",
            [bound, TOPIC, partition],
        )

    def accepted(self, model: str) -> dict[int, int]:
        """By event, the content that stands first among what `model` has read."""
        marks = dict(
            self.warehouse.rows("select partition, next_offset from ingest.model_offsets where model = %s", model)
        )
        first: dict[int, tuple[tuple[bool, int, int], int]] = {}
        for partition, offset, event, content in self.entries:
            position = (partition < 0, partition, offset)
            if offset < marks.get(partition, 0) and (event not in first or position < first[event][0]):
                first[event] = (position, content)
        return {event: content for event, (_, content) in first.items()}

    @staticmethod
    def _content(event: int, content: int) -> tuple[int, list[dict[str, Any]]]:
        seconds, measurements = CONTENTS_OF_AN_EVENT[content]
        return seconds + event, measurements


def test_any_history_of_runs_equals_one_full_refresh(warehouse: Warehouse, failing_marks: Any) -> None:
    shapes: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(histories)
    def the_law(history: list[tuple[str, Any]]) -> None:
        warehouse.empty()
        log = Log(warehouse, shapes)
        for action, argument in history:
            before = log.accepted(f"mobility.{TRIPS}")
            if action == "land":
                log.land(argument)
            elif action == "bound":
                log.hold_back(*argument)
            elif action == "price":
                warehouse.transform.execute(
                    "update mobility.dim_bike_model set purchase_price_usd = %s where bike_model_id = 5", [argument]
                )
                shapes["reference changed"] += 1
            elif action == "kill":
                failing_marks(True)
                outcome = warehouse.dbt.attempt("run", "--threads", "1", "--select", *argument)
                failing_marks(False)
                killed = [result.message for result in outcome.result if result.status == "error"]
                assert all("killed by the test" in message for message in killed), killed
                shapes[f"killed run of {argument[0]}"] += len(killed)
                assert log.accepted(f"mobility.{TRIPS}") == before or not killed
            else:
                warehouse.dbt.run(*argument, full_refresh=action == "refresh")
                shapes[f"{action} of {' and '.join(argument)}"] += 1
                after = log.accepted(f"mobility.{TRIPS}")
                shapes["accepted content changed after it was built"] += any(
                    after[event] != content for event, content in before.items() if event in after
                )
                shapes["event lost its last trip"] += any(
                    after[event] == 2 != content for event, content in before.items() if event in after
                )
                shapes["fact behind its parent"] += after != log.accepted(f"intermediate.{CONTENTS}")
            assert_trips_are(log.accepted(f"mobility.{TRIPS}"), warehouse)
        count_shapes(log, shapes)

        warehouse.dbt.run(CONTENTS, TRIPS)
        incremental = tables(warehouse)
        warehouse.dbt.run(CONTENTS, TRIPS, full_refresh=True)
        assert_same(incremental, tables(warehouse))

    the_law()
    print(dict(shapes))  # noqa: T201
    wanted = [
        "two partitions or more",
        "repeated",
        "conflicting",
        "late",
        "replayed",
        "partial upper bounds",
        "reference changed",
        "accepted content changed after it was built",
        "event lost its last trip",
        "fact behind its parent",
        f"killed run of {CONTENTS}",
        f"killed run of {TRIPS}",
        f"run of {TRIPS}",
        f"refresh of {CONTENTS}",
        f"refresh of {TRIPS}",
    ]
    assert not [shape for shape in wanted if shapes[shape] == 0], shapes


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


def assert_trips_are(accepted: dict[int, int], warehouse: Warehouse) -> None:
    """Just the journeys of the accepted contents, and nothing else, are in the fact."""
    expected = sorted(
        (event, each["vehicle_id"], each["journey_km"])
        for event, content in accepted.items()
        for each in CONTENTS_OF_AN_EVENT[content][1]
    )
    assert sorted(warehouse.rows(f"select event_id, vehicle_id, journey_km from mobility.{TRIPS}")) == expected


def count_shapes(log: Log, shapes: Counter[str]) -> None:
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
    """Every incremental model's rows, and what is rejected."""
    return {
        name: warehouse.rows(f"select * from {name} order by 1, 2")
        for name in (f"intermediate.{CONTENTS}", f"mobility.{TRIPS}", "mobility.rejected_measurements")
    }


def assert_same(one: dict[str, list[tuple[Any, ...]]], other: dict[str, list[tuple[Any, ...]]]) -> None:
    """Equal, floats to 1e-9 relative."""
    for name, rows in one.items():
        assert len(rows) == len(other[name]), name
        for left, right in zip(rows, other[name], strict=True):
            for a, b in zip(left, right, strict=True):
                close = isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-9)
                assert close or a == b, (name, left, right)
