import signal
import threading
import time
from pathlib import Path

import pytest

from ingest.sources import tracking_events
from ingest.sources.bike_fleet import Fleet
from ingest.sources.topic_writer import ProduceError
from ingest.sources.tracking_events import produce_tracking_events
from services.settings import Settings


@pytest.fixture
def nowhere(tmp_path: Path) -> Settings:
    """Settings of servers that are not there (port 9 is the discard service, which nobody runs)."""
    return Settings(state_dir=tmp_path, kafka_bootstrap_servers="127.0.0.1:9", schema_registry_url="http://127.0.0.1:9")


@pytest.mark.parametrize(
    "wrong", [{"events": 0}, {"events": -1}, {"rate": 0.0}, {"seed": -1}, {"seed": tracking_events.LAST_SEED + 1}]
)
def test_a_number_that_makes_no_sense_is_refused(nowhere: Settings, wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"seed|events"):
        produce_tracking_events(nowhere, **wrong)


def test_a_registry_that_is_down_is_one_sentence(nowhere: Settings) -> None:
    with pytest.raises(ProduceError, match=r"No schema registry answers at .* run `scopehouse up`"):
        produce_tracking_events(nowhere)


def test_as_fast_as_possible_gives_every_event_once() -> None:
    assert sum(tracking_events._at_once(12_345)) == 12_345


@pytest.mark.parametrize(("events", "rate"), [(20, 100.0), (600, 3_000.0)])
def test_events_come_at_the_pace_asked_for(events: int, rate: float) -> None:
    started = time.monotonic()
    given = list(tracking_events._paced(events, rate, threading.Event()))
    assert sum(given) == events
    assert max(given) <= max(1, rate * 0.1)
    assert time.monotonic() - started == pytest.approx(events / rate, abs=0.15)


def test_an_endless_pace_ends_when_it_is_stopped() -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    assert sum(tracking_events._paced(0, 1_000.0, stop)) > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_to_stop_and_the_second_acts_as_before(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with tracking_events._stopped_by_signal() as stop:
        assert signal.getsignal(number) is not before
        signal.raise_signal(number)
        assert stop.is_set()
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before


def test_a_thread_produces_without_touching_signals() -> None:
    handlers = []

    def run() -> None:
        with tracking_events._stopped_by_signal():
            handlers.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]


@pytest.mark.parametrize("key", [None, b"", b"berlin", b"-1", b"1.5", b"9" * 400, b"\xff\xfe", b"1"])
def test_a_key_that_is_no_event_of_the_fleet_is_passed_over(key: bytes | None) -> None:
    assert tracking_events._position_of(Fleet(2), key) is None
