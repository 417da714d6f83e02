"""Servers of a test's own, in a folder and on ports of their own: these tests kill and restart them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.embedded import stack as embedded
from services.settings import Settings
from tests.integration.conftest import CONNECTIONS, embedded_environment

Scopehouse = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The process's environment now points at servers of one's own, not started yet."""
    variables = embedded_environment(tmp_path / "state")
    for name in CONNECTIONS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture
def own(environment: dict[str, str]) -> Iterator[Settings]:
    """The settings of servers of one's own, not started yet; stopped at the end, and none is left."""
    now = Settings(**environment)
    yield now
    embedded.down(now)
    assert processes_of(now) == []


@pytest.fixture
def scopehouse() -> Scopehouse:
    """Run the command as a user does; `code` is what it must exit with."""

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name("scopehouse")
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stderr
        return done

    return run


def lives(pid: int) -> bool:
    """Whether the process is there and not a zombie, which in a container nobody may ever reap."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_of(settings: Settings) -> list[list[str]]:
    """The command lines of all processes that name the state folder, or run in it."""
    folder = str(settings.state_dir)
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if folder in " ".join(words) or (process.info["cwd"] or "").startswith(folder):
            found.append(words)
    return found
