"""How many dead letters are too many."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.sink.limits import LEAST_RECORDS, WINDOW_RECORDS, DeadLetterLimit, Outcome, TooManyDeadLettersError

PARTITION = ("topic", 0)
NO_RUN = 10**9


def outcome(is_bad: list[bool] | np.ndarray) -> dict[tuple[str, int], Outcome]:
    return {PARTITION: Outcome(np.asarray(is_bad, bool), "Field x is null.")}


def alternating(count: int) -> np.ndarray:
    return np.arange(count) % 2 == 0


def test_few_records_are_not_judged_by_share() -> None:
    DeadLetterLimit(0.5, NO_RUN).check(outcome([True] * (LEAST_RECORDS - 1)))


def test_more_than_the_share_is_refused_with_an_example() -> None:
    limit = DeadLetterLimit(0.5, NO_RUN)
    limit.check(outcome(alternating(LEAST_RECORDS)))
    with pytest.raises(TooManyDeadLettersError) as refused:
        limit.check(outcome(np.append(alternating(LEAST_RECORDS), [True, True])))
    assert refused.value.reasons == {PARTITION: "501 of 1,001 records are bad (the last: Field x is null.)"}


def test_what_has_landed_counts_and_what_has_not_does_not() -> None:
    limit = DeadLetterLimit(0.5, NO_RUN)
    limit.note(outcome([True] * 400))
    limit.check(outcome([True] * 599))
    limit.note(outcome([False] * 601))
    limit.check(outcome([True] * 200))
    with pytest.raises(TooManyDeadLettersError):
        limit.check(outcome([True] * 205))


def test_only_the_latest_records_count() -> None:
    limit = DeadLetterLimit(0.5, NO_RUN)
    limit.note(outcome([True] * 900))
    limit.note(outcome([False] * WINDOW_RECORDS))
    limit.check(outcome([True] * (WINDOW_RECORDS // 2)))
    with pytest.raises(TooManyDeadLettersError):
        limit.check(outcome([True] * (WINDOW_RECORDS // 2 + 1)))


def test_a_run_goes_on_over_batches_and_ends_at_a_good_record() -> None:
    limit = DeadLetterLimit(1, run=10)
    limit.note(outcome([False] + [True] * 6))
    limit.check(outcome([True] * 3 + [False] + [True] * 9))
    with pytest.raises(TooManyDeadLettersError, match="topic"):
        limit.check(outcome([True] * 4 + [False]))


def test_a_share_of_one_sets_no_limit() -> None:
    DeadLetterLimit(1, NO_RUN).check(outcome([True] * 50_000))


def test_partitions_are_judged_apart() -> None:
    limit = DeadLetterLimit(0.5, run=5)
    good = {("topic", 1): Outcome(np.zeros(5, bool), "")}
    with pytest.raises(TooManyDeadLettersError) as refused:
        limit.check(outcome([True] * 5) | good)
    assert list(refused.value.reasons) == [PARTITION]
