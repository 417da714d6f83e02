"""A sink as its users run it, and how it is seen from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from scopehouse.cli import app
from services.settings import Settings
from tests.integration.conftest import free_ports
from tests.integration.sink.conftest import TRACKING, Topics

# Far away: machines are slow at times.
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Sink:
    """A running `scopehouse ingest run`."""

    process: subprocess.Popen[bytes]
    metrics_port: int
    log_file: Path

    def metric(self, name: str, **labels: str) -> float | None:
        """The sum of the samples that have the name and these labels; None where there is none."""
        address = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=30) as answer:
            text = answer.read().decode()
        values = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(values) if values else None

    def log(self) -> list[dict[str, Any]]:
        """What it wrote, which is JSON on every line."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it and wait; its exit code."""
        self.process.send_signal(how)
        return self.process.wait(60)


def eventually(what: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """The first true answer; an error of asking is no answer yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if answer := what():
                return answer
        except OSError:
            pass
        assert time.monotonic() < deadline, f"not true within {seconds:.0f} s"
        time.sleep(0.2)


def status() -> dict[str, Any]:
    """What `scopehouse status --json` prints, without its start: tests ask again and again."""
    done = CliRunner().invoke(app, ["status", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def status_of_its_own() -> dict[str, Any]:
    """The same by a process, as users run it."""
    words = [sys.executable, "-m", "scopehouse", "status", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def states(now: dict[str, Any], topic: str = "tracking_events") -> set[str]:
    """The states that a topic's partitions are in."""
    return {each["state"] for each in now["partitions"] if each["topic"] == topic}


@contextmanager
def a_sink(folder: Path, *words: str, **environment: str) -> Iterator[Sink]:
    (port,) = free_ports(1)
    log = folder / "sink.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "scopehouse", "ingest", "run", *words],
            stderr=output,
            env={**os.environ, "SCOPEHOUSE_METRICS_PORT": str(port), **environment},
        )
        try:
            yield Sink(process, port, log)
        finally:
            # One that is killed holds its partitions until its group gives it up: the next would wait for that.
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@pytest.fixture
def sink(stack: Settings, tmp_path: Path) -> Iterator[Sink]:
    """A sink of tracking_events that has its partitions and all they hold; ended at the end if it still runs."""
    with a_sink(tmp_path, "tracking_events") as running:
        for number in map(str, range(TRACKING.partitions)):
            eventually(lambda: running.metric("scopehouse_sink_lag", partition=number) == 0)  # noqa: B023
        yield running


@pytest.fixture
def topics(stack: Settings) -> Topics:
    return Topics(stack)
