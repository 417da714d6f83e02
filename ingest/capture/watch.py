"""Connectors that have failed are started again: Connect itself never does.

`ingest run` watches them in a thread of its own, `ingest drain` (and Dagster with it) looks once before it begins.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from ingest.capture.connectors import Connectors, configurations
from ingest.capture.slots import CaptureGapError, refuse_gap, slot_status
from services.errors import MendableError
from services.settings import Settings

LOOK_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0

_log = structlog.get_logger("scopehouse.capture")


class Watch:
    """Looks after every connector. One that fails again and again is started at longer and longer intervals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._said: dict[str, str] = {}

    def look(self) -> None:
        """Start again what has failed, unless changes were lost: then nothing but an operator helps. Never raises."""
        for name in configurations():
            try:
                self._tend(name)
            except CaptureGapError as error:
                self._say(name, "changes are lost", str(error))
            except MendableError as error:
                self._say(name, "can't look after a connector", str(error))
            else:
                self._said.pop(name, None)

    def _tend(self, name: str) -> None:
        connectors = Connectors(self._settings)
        state = connectors.state(name)
        if state is None:
            return
        refuse_gap(connectors, name, slot_status(self._settings, name))
        now = time.monotonic()
        if not state.has_failed:
            if now > self._not_before.get(name, 0) + LONGEST_PAUSE_SECONDS:
                self._failures.pop(name, None)
            return
        if now < self._not_before.get(name, 0):
            return
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        pause = min(2.0**failures, LONGEST_PAUSE_SECONDS)
        self._not_before[name] = now + pause
        _log.warning("connector failed, started again", connector=name, why=state.why, next_in_seconds=pause)
        connectors.start_failed(name)

    def _say(self, name: str, what: str, why: str) -> None:
        """Log it, once as long as it stays the same."""
        if self._said.get(name) != what:
            self._said[name] = what
            _log.error(what, connector=name, why=why)


def look_once(settings: Settings) -> None:
    """Start again what has failed, where a Kafka Connect is set. Never raises."""
    if settings.connect_url is not None:
        Watch(settings).look()


@contextmanager
def watched(settings: Settings) -> Iterator[None]:
    """Look after the connectors meanwhile, where a Kafka Connect is set."""
    if settings.connect_url is None:
        yield
        return
    watch, ended = Watch(settings), threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            watch.look()

    thread = threading.Thread(target=look, name="capture", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
