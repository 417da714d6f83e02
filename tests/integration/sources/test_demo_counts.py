"""The demo counts what became of its own records, whoever took them in and whatever lies beside them."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from ingest.sink.drain import drain
from ingest.sources.country_emissions import TOPIC, produce_country_emissions
from ingest.sources.tracking_events import produce_tracking_events
from scopehouse.demo import _landed_countries, _landed_trips
from services.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Two rows of a country."""
    path = tmp_path / "co2.csv"
    header = "country,year,iso_code,population,gdp,co2,co2_per_capita"
    path.write_text(f"{header}\nWaitland,2000,XZW,1,1,1,1\nWaitland,2001,XZW,1,1,1,1\n", encoding="utf-8")
    return str(path)


def test_country_rows_that_waited_in_the_topic_are_not_counted(stack: Settings, file: str) -> None:
    waited = produce_country_emissions(stack, source=file)
    sent = produce_country_emissions(stack, source=file)
    drain(stack, [TOPIC])
    assert _landed_countries(stack, waited) == {"raw_rows": 2, "dead_letters": 0}
    assert _landed_countries(stack, sent) == {"raw_rows": 2, "dead_letters": 0}


def test_of_dead_letters_the_runs_own_are_counted(stack: Settings, file: str) -> None:
    trips = produce_tracking_events(stack, events=5, seed=120)
    assert trips.first_event_id is not None and trips.last_event_id is not None
    countries = produce_country_emissions(stack, source=file)
    last = countries.offsets[-1]
    letters = [
        ("tracking_events", 0, 1, str(trips.first_event_id).encode()),
        ("tracking_events", 0, 2, str(trips.last_event_id).encode()),
        ("tracking_events", 0, 3, str(trips.last_event_id + 1).encode()),
        ("tracking_events", 0, 4, b"\xff\x00 12"),
        ("tracking_events", 0, 5, b"9" * 30),
        ("tracking_events", 0, 6, None),
        (TOPIC, last.partition, last.end - 1, b"Waitland"),
        (TOPIC, last.partition, last.end, b"Waitland"),
        ("tracking_events", last.partition, last.end - 1, None),
    ]
    with psycopg.connect(stack.url_of("ingest"), autocommit=True) as connection:
        insert = """
            insert into ingest.dead_letters (topic, partition, "offset", key, error_class, error)
            values (%s, %s, %s, %s, 'Spoiled', 'by a test')
        """
        connection.cursor().executemany(insert, letters)
        try:
            assert _landed_trips(stack, trips)["dead_letters"] == 2
            assert _landed_countries(stack, countries)["dead_letters"] == 1
        finally:
            connection.execute("delete from ingest.dead_letters where error_class = 'Spoiled'")
