"""What an embedded server is, and how one is started, found again and stopped.

A started server leaves a record (pid, start time) in the state folder. A process is taken for ours only if its
program and the first words of its command line say so, which name the folder: a recycled pid is never signalled.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event
from typing import ClassVar

import psutil

from services.errors import MendableError
from services.settings import Settings

START_SECONDS = 90.0
STOP_SECONDS = 30.0
LOG_BYTES = 16 * 1024 * 1024  # a log longer than that is put aside at the next start

# What a server gets of our environment: the rest may hold secrets, or settings that it would take for its own.
ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "JAVA_TOOL_OPTIONS")


class ServerError(MendableError):
    """An embedded server can't be started or stopped; the sentence says which, why and what to do."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server's process is started."""

    argv: tuple[str, ...]
    folder: Path = Path("/")  # where it runs: any user may enter the root
    environment: Mapping[str, str] = field(default_factory=dict)
    user: int | None = None
    group: int | None = None

    def popen(self, log: Path) -> subprocess.Popen[bytes]:
        """Start it, its output appended to `log`, in a session of its own (Ctrl-C is not for it)."""
        kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        with log.open("ab") as output:
            return subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**kept, **self.environment},
                user=self.user,
                group=self.group,
                extra_groups=None if self.user is None else [],
                start_new_session=True,
            )

    def run(self, log: Path) -> int:
        """Run it to its end, its output appended to `log`; its exit code."""
        with self.popen(log) as process:
            return process.wait()


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a started server. `created`, its process's start, is in Unix seconds."""

    pid: int
    created: float
    ports: dict[str, int]


class Server(ABC):
    """One embedded server, in one state folder."""

    name: ClassVar[str]
    port_settings: ClassVar[tuple[str, ...]]  # the port for clients first
    needs: ClassVar[tuple[str, ...]] = ()  # servers that must be healthy first
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    plugins: tuple[str, ...] = ()  # what `jars.ROOTS` has for it, besides itself

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = settings.state_dir.resolve()
        self.folder = self.state / self.name
        self.log = self.state / "logs" / f"{self.name}.log"
        self.record_file = self.state / "run" / f"{self.name}.json"

    @property
    @abstractmethod
    def version(self) -> str:
        """The server's version, known without starting it."""

    @property
    def ports(self) -> dict[str, int]:
        """The ports it listens on, each by the variable that sets it; the one for clients first."""
        fields = type(self.settings).model_fields
        return {str(fields[name].alias): getattr(self.settings, name) for name in self.port_settings}

    @property
    def mark(self) -> tuple[str, ...]:
        """The program's name and the first words after it, which no other process's command line has."""
        return ("java", f"-Dscopehouse.{self.name}={self.folder}")

    @abstractmethod
    def prepare(self) -> None:
        """Make its data folder, if there is none yet. Raises ServerError."""

    @abstractmethod
    def launch(self) -> Launch:
        """How to start it, once prepared."""

    @abstractmethod
    def is_healthy(self) -> bool:
        """Whether it answers now; waits at most a second or so."""

    def on_healthy(self) -> None:  # noqa: B027 - most have nothing to do
        """What is done to it each time that it has become healthy."""

    @property
    def port(self) -> int:
        """The port for clients."""
        return next(iter(self.ports.values()))

    def record(self) -> Record | None:
        """What was remembered of it, if it was started and not stopped since."""
        try:
            return Record(**json.loads(self.record_file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def process(self) -> psutil.Process | None:
        """Its process, if it runs."""
        record = self.record()
        with suppress(psutil.Error):
            if record is not None:
                process = psutil.Process(record.pid)
                if abs(process.create_time() - record.created) < 2 and self._is_mine(process.cmdline()):
                    return process
        # `up` may have been killed before it wrote the record, or the clock been set, which moves start times.
        for process in psutil.process_iter(["cmdline"]):
            if self._is_mine(process.info["cmdline"] or []):
                return process
        return None

    def start(self, cancelled: Event) -> bool:
        """Start it, if it does not run, and wait until it is healthy.

        Args:
            cancelled: when set, it is no longer waited for.

        Returns:
            Whether it was started here; False where it ran already.

        Raises:
            ServerError: it stopped, or did not become healthy. What was started here is gone then.
        """
        if self.process() is not None:
            self._await_healthy(cancelled, None)
            return False
        self.record_file.unlink(missing_ok=True)
        self.prepare()
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.old"))
        child = self.launch().popen(self.log)
        try:
            self._remember(child.pid)
            self._await_healthy(cancelled, child)
        except BaseException:
            self.stop()
            child.kill()
            child.wait()
            raise
        # The server outlives us; Popen would warn of that when collected.
        child.returncode = 0
        return True

    def stop(self) -> bool:
        """Stop it, if it runs: asked first, killed after STOP_SECONDS. Whether it ran."""
        process = self.process()
        if process is not None:
            family = [process, *process.children(recursive=True)]
            with suppress(psutil.NoSuchProcess):
                process.send_signal(self.stop_signal)
            left = await_end(family, STOP_SECONDS)
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            await_end(left, 5)
        self.record_file.unlink(missing_ok=True)
        return process is not None

    def kill(self) -> None:
        """Kill it as a crash would (SIGKILL), its record left behind. For tests of what follows."""
        process = self.process()
        if process is not None:
            process.kill()
            await_end([process], 5)

    def refuse_taken_ports(self) -> None:
        """Raise ServerError if something listens on one of its ports."""
        for variable, port in self.ports.items():
            if _is_taken(port):
                raise ServerError(
                    f"Port {port} for {self.name} is taken by another program: "
                    f"stop that, or set {variable} to a free port."
                )

    def _await_healthy(self, cancelled: Event, child: subprocess.Popen[bytes] | None) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.is_healthy():
            if child is not None and child.poll() is not None:
                raise ServerError(f"{self.name} stopped while starting (exit code {child.returncode}): see {self.log}.")
            if cancelled.is_set():
                raise ServerError(f"{self.name} was not waited for.")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} did not answer in {START_SECONDS:.0f} s: see {self.log}.")
            cancelled.wait(0.05)
        self.on_healthy()

    def _remember(self, pid: int) -> None:
        self.record_file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(psutil.NoSuchProcess):  # it died already: there is nothing to remember
            record = Record(pid, psutil.Process(pid).create_time(), self.ports)
            self.record_file.write_text(json.dumps(asdict(record)))

    def _is_mine(self, command_line: list[str]) -> bool:
        program, *words = command_line or [""]
        return (Path(program).name, *words)[: len(self.mark)] == self.mark


def await_end(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until they have ended; those that have not, after so many seconds.

    A zombie has ended (in a container, nobody may ever reap it), once its other threads have, which hold its ports.
    """
    deadline = time.monotonic() + seconds
    while left := [process for process in processes if _lives(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return left


def _lives(process: psutil.Process) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return process.num_threads() > 1
        return process.is_running()
    except psutil.NoSuchProcess:
        return False


def is_listening(port: int) -> bool:
    """Whether something accepts connections on the port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return is_listening(port)  # macOS lets us bind beside a listener on all addresses
