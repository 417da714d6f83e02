"""`ingest drain` on real servers: everything lands once, bad records beside it, and the log is checked."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from ingest.contracts.contract import load_contracts
from ingest.contracts.raw_tables import IncompatibleTableError, apply_raw_table
from ingest.database.migrate import migrate
from ingest.sink.drain import drain
from ingest.sink.landing import connect
from ingest.sink.offsets import Advance, Extent, FencedError, LogChangedError, advance, changed_logs, claim, marks
from services.errors import MendableError
from services.settings import Settings
from tests.integration.sink.conftest import Topics


def landed_ids(warehouse: psycopg.Connection, first: int) -> list[int]:
    rows = warehouse.execute(
        "select id from raw.tracking_events where id between %s and %s order by id", [first, first + 10**7 - 1]
    )
    return [event_id for (event_id,) in rows]


def test_a_drain_lands_every_record_once_and_a_second_one_adds_nothing(
    stack: Settings, topics: Topics, warehouse: psycopg.Connection, new_ids: Iterator[int]
) -> None:
    first = next(new_ids)
    topics.send_events(first, 5_000)
    assert drain(stack, ["tracking_events"])["tracking_events"].rows == 5_000
    assert landed_ids(warehouse, first) == list(range(first, first + 5_000))
    again = drain(stack, ["tracking_events"])["tracking_events"]
    assert (again.rows, again.dead_letters, again.next_offsets) == (0, 0, {})


def test_every_offset_below_the_mark_is_a_row_or_a_dead_letter(
    stack: Settings, topics: Topics, warehouse: psycopg.Connection, new_ids: Iterator[int]
) -> None:
    topics.send_event(next(new_ids))
    topics.send("tracking_events", b"garbage")
    topics.flush()
    drain(stack)
    differing = warehouse.execute(
        """
        with landed as (
            select 'tracking_events' as topic, _kafka_partition as partition, _kafka_offset as "offset"
            from raw.tracking_events
            union all
            select 'emissions-topic', _kafka_partition, _kafka_offset from raw.emissions_topic
            union all
            select topic, partition, "offset" from ingest.dead_letters
        )
        select topic, partition, next_offset, row_count, dead_letter_count, count("offset"), count(distinct "offset")
        from ingest.offsets left join landed using (topic, partition)
        group by topic, partition, next_offset, row_count, dead_letter_count
        having count("offset") <> next_offset
            or count(distinct "offset") <> next_offset
            or row_count + dead_letter_count <> next_offset
        """
    ).fetchall()
    assert differing == []


def test_each_bad_record_becomes_one_dead_letter_and_the_rest_lands(
    stack: Settings, topics: Topics, warehouse: psycopg.Connection, new_ids: Iterator[int]
) -> None:
    first = next(new_ids)
    drain(stack)
    bad = {
        "cut": ("tracking_events", topics.event(first)[:-3], "UndecodableAvro"),
        "unknown schema": ("tracking_events", b"\x00\x7f\xff\xff\xff" + topics.event(first)[5:], "UnknownSchema"),
        "tombstone": ("tracking_events", None, "NullValue"),
        "no object": ("emissions-topic", b"[1]", "WrongType"),
        "nul": ("emissions-topic", b'{"country": "a\\u0000", "year": 1}', "NulInText"),
        "text for number": ("emissions-topic", b'{"country": "a", "year": "1990"}', "WrongType"),
        "nan, not nullable": ("emissions-topic", b'{"country": "a", "year": NaN}', "WrongType"),
    }
    for number, (name, (topic, value, _)) in enumerate(bad.items()):
        topics.send_event(first + number)
        topics.send(topic, value, name.encode(), headers=[("trace", b"\xff\x00")])
    topics.send("emissions-topic", b'{"country": "Freedonia", "year": 1, "gdp": NaN, "is_sample": true}')
    topics.flush()
    results = drain(stack)
    assert sum(result.dead_letters for result in results.values()) == len(bad)
    assert results["emissions-topic"].mended_values == 1
    assert landed_ids(warehouse, first) == list(range(first, first + len(bad)))
    letters = warehouse.execute(
        """
        select convert_from(key, 'UTF8'), topic, value, error_class, headers, error
        from ingest.dead_letters where key = any(%s)
        """,
        [[name.encode() for name in bad]],
    ).fetchall()
    assert {letter[0]: (letter[1], letter[2], letter[3]) for letter in letters} == bad
    assert all(letter[4] == [["trace", "ff00"]] and letter[5].endswith(".") for letter in letters)


def test_a_consumer_that_was_overtaken_adds_nothing(stack: Settings) -> None:
    partition = ("tracking_events", 10**6)
    with connect(stack) as connection:
        mine = claim(connection, {partition: Extent("id", 0, 10)})[partition]
        claim(connection, {partition: Extent("id", 0, 10)})
        move = Advance(*partition, start=0, end=5, epoch=mine.epoch, rows=5, dead_letters=0, mended_values=0)
        with pytest.raises(FencedError) as fenced, connection.transaction():
            advance(connection, [move])
        assert fenced.value.partitions == (partition,)
        assert claim(connection, {partition: Extent("id", 0, 10)})[partition].next_offset == 0
    with psycopg.connect(stack.url_of("migrate")) as owner:
        owner.execute("delete from ingest.offsets where partition = %s", [partition[1]])


@pytest.mark.parametrize(
    ("extent", "sentence"),
    [
        (Extent("another", 0, 10), "was deleted and made again"),
        (Extent("id", 7, 10), "2 offsets were deleted before they were read"),
        (Extent("id", 0, 3), "the broker lost records that raw has"),
    ],
)
def test_a_log_that_changed_is_reported_and_nothing_is_claimed(stack: Settings, extent: Extent, sentence: str) -> None:
    partition = ("tracking_events", 10**6)
    with psycopg.connect(stack.url_of("migrate"), autocommit=True) as owner:
        owner.execute(
            "insert into ingest.offsets (topic, partition, topic_id, next_offset) values (%s, %s, 'id', 5)",
            list(partition),
        )
        try:
            with connect(stack) as connection:
                assert sentence in changed_logs(marks(connection), {partition: extent})[partition]
                # That the log ends too early is seen by comparing with a mark read before its end was.
                if extent.high >= 5:
                    with pytest.raises(LogChangedError, match=sentence):
                        claim(connection, {partition: extent})
            assert owner.execute(
                "select epoch from ingest.offsets where partition = %s", [partition[1]]
            ).fetchone() == (0,)
        finally:
            owner.execute("delete from ingest.offsets where partition = %s", [partition[1]])


def test_two_drains_at_once_lose_and_repeat_nothing(
    stack: Settings, topics: Topics, warehouse: psycopg.Connection, new_ids: Iterator[int]
) -> None:
    first = next(new_ids)
    topics.send_events(first, 20_000)
    small = stack.model_copy(update={"batch_rows": 500})

    def try_to_drain() -> None:
        try:
            drain(small, ["tracking_events"])
        except MendableError as error:
            assert "Another sink took over" in str(error)

    threads = [threading.Thread(target=try_to_drain) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drain(stack, ["tracking_events"])
    assert landed_ids(warehouse, first) == list(range(first, first + 20_000))


def test_a_topic_without_a_contract_is_refused_by_name(stack: Settings) -> None:
    with pytest.raises(MendableError, match="Topic nothing has no contract"):
        drain(stack, ["nothing"])


def test_migrating_again_changes_nothing(stack: Settings, warehouse: psycopg.Connection) -> None:
    def tables() -> set[tuple[object, ...]]:
        rows = warehouse.execute(
            "select oid, relname, relacl::text from pg_class where relnamespace = any('{raw, ingest}'::regnamespace[])"
        )
        return set(rows)

    before = tables()
    migrate(stack)
    assert tables() == before


def test_a_raw_table_that_cannot_hold_the_contract_is_left_as_it_is(stack: Settings) -> None:
    contract = load_contracts()["emissions-topic"]
    with psycopg.connect(stack.url_of("migrate")) as owner:
        owner.execute("alter table raw.emissions_topic drop column gdp")
        apply_raw_table(owner, contract)
        owner.execute("alter table raw.emissions_topic drop column country")
        with pytest.raises(IncompatibleTableError, match="Field country of emissions-topic is new and may not be null"):
            apply_raw_table(owner, contract)
        owner.rollback()
        owner.execute("alter table raw.emissions_topic alter column year type bigint")
        with pytest.raises(IncompatibleTableError, match="Field year of emissions-topic is integer"):
            apply_raw_table(owner, contract)
        owner.rollback()
