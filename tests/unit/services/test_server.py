import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import psutil
import pytest

from services.embedded import passwords
from services.embedded.server import Launch, Server, ServerError
from services.settings import Settings

SLEEP = "import time; time.sleep(60)"


class Sleeper(Server):
    """A server that does nothing, for as long as its program says."""

    name = "sleeper"
    port_settings = ("kafka_port",)
    program = SLEEP

    @property
    def version(self) -> str:
        return "1"

    @property
    def mark(self) -> tuple[str, ...]:
        return (Path(sys.executable).name, "-c", self.program, str(self.folder))

    def prepare(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)

    def launch(self) -> Launch:
        return Launch((sys.executable, *self.mark[1:]))

    def is_healthy(self) -> bool:
        return self.process() is not None


class Failer(Sleeper):
    program = "raise SystemExit(7)"

    def is_healthy(self) -> bool:
        return False


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(SCOPEHOUSE_STATE_DIR=tmp_path, SCOPEHOUSE_KAFKA_PORT=free_port())


@pytest.fixture
def bystander() -> Iterator[psutil.Process]:
    """A process that is none of ours."""
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as child:
        yield psutil.Process(child.pid)
        child.kill()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_started_server_is_found_again_and_stopped(settings: Settings) -> None:
    assert Sleeper(settings).start(Event())
    process = Sleeper(settings).process()
    assert process is not None
    assert not Sleeper(settings).start(Event())
    assert Sleeper(settings).process() == process
    assert Sleeper(settings).stop()
    assert Sleeper(settings).process() is None
    assert Sleeper(settings).record() is None


def test_a_server_started_without_a_record_is_found_by_its_command_line(settings: Settings) -> None:
    Sleeper(settings).start(Event())
    Sleeper(settings).record_file.unlink()
    assert Sleeper(settings).process() is not None
    assert Sleeper(settings).stop()
    assert Sleeper(settings).process() is None


def test_a_recycled_pid_is_not_signalled(settings: Settings, bystander: psutil.Process) -> None:
    server = Sleeper(settings)
    server.record_file.parent.mkdir()
    record = {"pid": bystander.pid, "created": bystander.create_time(), "ports": server.ports}
    server.record_file.write_text(json.dumps(record))
    assert server.process() is None
    assert not server.stop()
    assert bystander.is_running()


def test_a_server_that_stops_while_starting_names_its_log(settings: Settings) -> None:
    with pytest.raises(ServerError, match=rf"exit code 7\): see {Failer(settings).log}"):
        Failer(settings).start(Event())
    assert Failer(settings).record() is None


def test_a_server_no_longer_waited_for_is_gone(settings: Settings) -> None:
    class Slow(Sleeper):
        def is_healthy(self) -> bool:
            return False

    cancelled = Event()
    cancelled.set()
    with pytest.raises(ServerError):
        Slow(settings).start(cancelled)
    assert Slow(settings).process() is None


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - that is what is tested
def test_a_taken_port_names_the_port_the_server_and_the_setting(settings: Settings, address: str) -> None:
    with socket.socket() as foreign:
        foreign.bind((address, settings.kafka_port))
        foreign.listen()
        with pytest.raises(ServerError, match=rf"Port {settings.kafka_port} for sleeper .*SCOPEHOUSE_KAFKA_PORT"):
            Sleeper(settings).refuse_taken_ports()
    Sleeper(settings).refuse_taken_ports()


def test_a_server_gets_none_of_our_secrets(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIMATIQ_API_KEY", "secret")
    log = settings.state_dir / "log"
    assert Launch((sys.executable, "-c", "import os; print(sorted(os.environ))")).run(log) == 0
    assert "PATH" in log.read_text()
    assert "CLIMATIQ" not in log.read_text()


def test_passwords_are_generated_once_and_readable_by_the_owner_only(tmp_path: Path) -> None:
    first = passwords.read(tmp_path)
    assert passwords.read(tmp_path) == first
    assert len(set(first.values())) == len(passwords.ROLES)
    assert stat.S_IMODE((tmp_path / "passwords.json").stat().st_mode) == 0o600


def test_a_private_file_is_private_from_its_first_byte(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        passwords.write_private(tmp_path / "file", "secret")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
