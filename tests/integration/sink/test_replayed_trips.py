"""What is replayed becomes facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg

from ingest.sink.drain import drain
from ingest.sink.replay import Selection, replay
from services.settings import Settings
from tests.integration.sink.conftest import Topics
from tests.integration.sink.test_kills import one_row


def test_models_pick_replays_up(
    stack: Settings, topics: Topics, new_ids: Iterator[int], build_facts: Callable[[], None]
) -> None:
    """A trip that Postgres refused is a fact once it is replayed."""
    first = next(new_ids)
    build_facts()
    with psycopg.connect(stack.url_of("migrate"), autocommit=True) as owner:
        owner.execute(f"alter table raw.tracking_events add constraint by_hand check (id <> {first}) not valid")
        for event_id in (first, first + 1):
            topics.send_event(event_id)
        topics.flush()
        assert drain(stack, ["tracking_events"])["tracking_events"].dead_letters == 1
        build_facts()
        owner.execute("alter table raw.tracking_events drop constraint by_hand")
    replay(stack, Selection(topic="tracking_events", error_class="RefusedByPostgres"))
    build_facts()
    with psycopg.connect(stack.url_of("transform")) as warehouse:
        assert one_row(
            warehouse,
            "select count(*), count(*) filter (where source_partition < 0) from mobility.fct_trip_emissions"
            " where event_id between %s and %s",
            first,
            first + 1,
        ) == (2, 1)
