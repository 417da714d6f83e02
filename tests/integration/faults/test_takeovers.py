"""Partitions that change hands: frozen sinks, lost answers, strangers, drains beside a running sink, rebalances."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ingest.sink import drain as drain_module
from tests.integration.faults.conftest import ROUNDS, Log, Member, member, run_topic, wait_until, worker
from tests.integration.faults.wire import Phase, PostgresRelay, Trap


@pytest.mark.parametrize(
    ("words", "phase", "fate"),
    [('copy "raw"', "inside", "fenced"), ("update ingest.offsets", "after", "session broke")],
)
def test_a_frozen_sink_is_replaced_in_seconds_and_refused_when_it_wakes(
    log: Log, relay: PostgresRelay, tmp_path: Path, words: str, phase: Phase, fate: str
) -> None:
    log.produce(500)
    diary = tmp_path / "frozen.log"
    with worker(run_topic, log.through(relay), log.topic, diary) as frozen:
        is_frozen, wakes = threading.Event(), threading.Event()

        def freeze() -> None:
            assert frozen.pid is not None
            os.kill(frozen.pid, signal.SIGSTOP)
            is_frozen.set()
            wakes.wait()

        relay.trap = Trap(words, phase, freeze, cuts=False)
        assert is_frozen.wait(120)
        began = time.monotonic()
        with member(log.settings, log.topic):
            log.wait_landed()
            # 6 s until the broker gives up the frozen member, 5 s until Postgres ends its open transaction.
            assert time.monotonic() - began < 30
            assert frozen.pid is not None
            os.kill(frozen.pid, signal.SIGCONT)
            wakes.set()
            wait_until(lambda: fate in diary.read_text())
            log.produce(500)
            log.wait_landed()
            os.kill(frozen.pid, signal.SIGTERM)
            frozen.join(60)
            assert frozen.exitcode == 0
    log.check()


@pytest.mark.parametrize("phase", ["before", "inside", "after"])
def test_a_commit_whose_answer_is_lost_is_looked_up(log: Log, relay: PostgresRelay, phase: Phase) -> None:
    log.produce(2_000)
    relay.trap = Trap("commit", phase, lambda: None, turn=2)
    with member(log.through(relay), log.topic) as sink:
        log.wait_landed()
        assert relay.trap.sprung.is_set()
        assert sink.observer.breaks
    log.check()


def test_two_groups_by_mistake_repeat_nothing_and_do_not_take_from_each_other_for_ever(log: Log) -> None:
    stranger = log.settings.model_copy(update={"consumer_group": f"{log.topic}-other"})
    with member(log.settings, log.topic) as first, log.streaming():
        log.wait_more_landed()
        with member(stranger, log.topic) as second:
            wait_until(lambda: len(first.observer.fences) == 4)
            epochs = log.epochs()
            for _ in range(3):
                # Longer than the fenced one's look at whether the other still lives.
                time.sleep(2)
                log.wait_more_landed()
            assert log.epochs() == epochs
            assert not second.observer.fences
        # The other is gone: the fenced one takes up again.
        wait_until(lambda: log.epochs() != epochs)
        log.wait_more_landed()
    with member(log.settings, log.topic):
        log.wait_landed()
    log.check()


def test_a_drain_beside_a_running_sink_leaves_it_its_partitions_and_waits(log: Log) -> None:
    log.produce(200)
    with member(log.settings, log.topic) as sink:
        log.wait_landed()
        epochs = log.epochs()
        for _ in range(3):
            log.produce(1_000)
            ends = len(log.produced)
            log.drain()
            assert log.landed() >= ends
        assert log.epochs() == epochs
        assert not sink.observer.fences
    log.check()


def test_a_drain_does_not_wait_for_ever_for_a_frozen_sink_which_takes_up_again_when_it_wakes(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "_OWNER_SECONDS", 2.0)
    log.produce(200)
    with worker(run_topic, log.settings, log.topic, tmp_path / "frozen.log") as frozen:
        log.wait_landed()
        assert frozen.pid is not None
        os.kill(frozen.pid, signal.SIGSTOP)
        log.produce(500)
        log.drain()
        assert log.landed() == len(log.produced)
        os.kill(frozen.pid, signal.SIGCONT)
        log.produce(500)
        log.wait_landed()
    log.check()


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_sinks_coming_and_going_lose_and_repeat_nothing(log: Log, tmp_path: Path, protocol: str) -> None:
    settings = log.settings.model_copy(update={"group_protocol": protocol})
    chance = random.Random(protocol)
    going: list[Member] = []
    with ExitStack() as at_the_end, log.streaming():
        # One that is killed holds its partitions until the broker gives it up.
        killed = at_the_end.enter_context(worker(run_topic, settings, log.topic, tmp_path / "killed.log"))
        log.wait_more_landed()
        for step in range(8 * ROUNDS):
            if len(going) == 3 or (going and chance.random() < 0.4):
                going.pop(chance.randrange(len(going))).leave()
            else:
                going.append(Member(settings, log.topic))
            if step == 3:
                assert killed.pid is not None
                os.kill(killed.pid, signal.SIGKILL)
            time.sleep(chance.random())
        if not going:
            going.append(Member(settings, log.topic))
        log.wait_more_landed()
    log.wait_landed()
    for one in going:
        one.leave()
        assert not one.observer.breaks
    log.check()
