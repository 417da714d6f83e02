"""A sink killed at each step of its transaction, seen on the wire: nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal

import pytest

from ingest.sink import load as load_module
from ingest.sink.drain import drain
from ingest.sink.offsets import Advance, advance
from services.settings import Settings
from tests.integration.faults.conftest import ROUNDS, Log, wait_until, worker
from tests.integration.faults.wire import Phase, PostgresRelay, Trap

STATEMENTS = ("begin", 'copy "raw"', "copy ingest.dead_letters", "update ingest.offsets", "commit")
PHASES: tuple[Phase, ...] = ("before", "inside", "after")
# A drain's first transaction is its claim.
FIRST_TURN = {"begin": 2, "commit": 2}


def drain_topic(settings: Settings, topic: str) -> None:
    drain(settings, [topic])


def kill_at(log: Log, relay: PostgresRelay, words: str, phase: Phase, turn: int, target=drain_topic) -> None:  # type: ignore[no-untyped-def]
    """Let a sink come to that point, and kill it there."""
    with worker(target, log.through(relay), log.topic) as process:
        assert process.pid is not None
        pid = process.pid
        relay.trap = Trap(words, phase, lambda: os.kill(pid, signal.SIGKILL), turn)
        wait_until(lambda: relay.trap.sprung.is_set() or not process.is_alive(), every=0.01)  # type: ignore[union-attr]
        process.join()
        assert relay.trap.sprung.is_set(), f"the sink never came to {phase} {words!r}"
        assert process.exitcode == -signal.SIGKILL
        relay.trap = None


def test_a_sink_killed_before_inside_and_after_each_statement_loses_and_repeats_nothing(
    log: Log, relay: PostgresRelay
) -> None:
    for turn in range(ROUNDS):
        for words in STATEMENTS:
            for phase in PHASES:
                log.produce(1_000 + 4_000 * turn, garbage_every=100)
                kill_at(log, relay, words, phase, FIRST_TURN.get(words, 1) + turn)
                log.check_marks()
    log.drain()
    log.check()


def offsets_before_rows(settings: Settings, topic: str) -> None:
    """A broken sink, which commits the offsets and then the rows."""
    whole_load = load_module.load

    def load(connection, spans, *rest):  # type: ignore[no-untyped-def]
        moves = [
            Advance(*partition, span.start, span.end, span.epoch, rows=0, dead_letters=0, mended_values=0)
            for partition, span in spans.items()
        ]
        with connection.transaction():
            advance(connection, moves)
        whole_load(connection, spans, *rest)
        return moves

    from ingest.sink import landing

    load_module.advance = lambda *_: None  # type: ignore[assignment]
    landing.load = load
    drain(settings, [topic])


def rows_before_offsets(settings: Settings, topic: str) -> None:
    """A broken sink, which commits the rows and then the offsets."""

    def commit_and_advance(connection, moves):  # type: ignore[no-untyped-def]
        connection.execute("commit")
        connection.execute("begin")
        advance(connection, moves)

    load_module.advance = commit_and_advance
    drain(settings, [topic])


@pytest.mark.parametrize(
    ("broken", "words", "complaint"),
    [
        (offsets_before_rows, 'copy "raw"', "records are lost"),
        (rows_before_offsets, "update ingest.offsets", "rows are there twice"),
    ],
)
def test_the_oracle_sees_through_a_broken_sink(  # type: ignore[no-untyped-def]
    log: Log, relay: PostgresRelay, broken, words: str, complaint: str
) -> None:
    log.produce(2_000)
    kill_at(log, relay, words, "before", 1, broken)
    log.drain()
    with pytest.raises(AssertionError, match=complaint):
        log.check()
