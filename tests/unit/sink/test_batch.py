"""What a batch takes partitions from and to."""

from __future__ import annotations

from confluent_kafka import Message

from ingest.sink.batch import Batch, Span
from ingest.sink.offsets import Claim

PARTITION = ("trips", 0)
CLAIMS = {PARTITION: Claim(next_offset=5, epoch=2)}


def records(*offsets: int) -> list[Message]:
    return [Message(topic="trips", partition=0, offset=offset, value=b"value") for offset in offsets]


def test_an_end_behind_the_last_record_is_passed_over_to() -> None:
    batch = Batch()
    batch.add(records(5, 6), CLAIMS)
    batch.read_over(PARTITION, 8, CLAIMS)
    assert (batch.spans, batch.rows) == ({PARTITION: Span(5, 8, 2)}, 2)


def test_an_end_with_no_record_before_it_is_a_span_of_its_own() -> None:
    batch = Batch()
    batch.read_over(PARTITION, 6, CLAIMS)
    assert (batch.spans, batch.rows) == ({PARTITION: Span(5, 6, 2)}, 0)


def test_an_end_that_raw_has_reached_is_nothing_to_land() -> None:
    batch = Batch()
    for end in (4, 5):
        batch.read_over(PARTITION, end, CLAIMS)
    batch.read_over(("trips", 1), 9, CLAIMS)
    assert batch.spans == {}


def test_records_that_raw_holds_already_are_nothing_to_land() -> None:
    batch = Batch()
    batch.add(records(3, 4), CLAIMS)
    assert (batch.spans, batch.rows) == ({}, 0)


def test_what_was_consumed_later_takes_a_span_on_and_never_back() -> None:
    batch = Batch()
    batch.add(records(5, 6, 7), CLAIMS)
    for end, reached in ((7, 8), (9, 9), (8, 9)):
        later = Batch()
        later.read_over(PARTITION, end, CLAIMS)
        batch.extend(later)
        assert batch.spans == {PARTITION: Span(5, reached, 2)}
    assert batch.rows == 3
