"""The embedded servers together: `up`, `down`, `status`."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Literal

from services import settings as settings_module
from services.embedded import jars, passwords
from services.embedded.connect import Connect
from services.embedded.kafka import Kafka
from services.embedded.postgres import Postgres
from services.embedded.progress import Report, silent
from services.embedded.registry import Registry
from services.embedded.server import Server, ServerError
from services.embedded.superset import Superset
from services.roles import DATABASE
from services.settings import Settings
from services.superset import environment

SERVERS: tuple[type[Server], ...] = (Postgres, Kafka, Registry, Connect, Superset)
NAMES = ("postgres", "kafka", "registry")  # what `up` starts by itself
OPTIONAL = tuple(server.name for server in SERVERS if server.name not in NAMES)  # what `up --with` starts besides


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How one server is: `died` is one that was started, not stopped, and is gone. `since` is in Unix seconds."""

    name: str
    state: Literal["running", "stopped", "died"]
    version: str
    port: int
    pid: int | None
    since: float | None
    log: Path


def up(settings: Settings, report: Report = silent, only: Sequence[str] = NAMES, more: Sequence[str] = ()) -> None:
    """Start the servers that don't run yet and wait until all are healthy; then write the connections file.

    Two at once are safe: the second waits for the first. On an error or Ctrl-C, what this call started is stopped
    again. The process's cached settings are read anew.

    Args:
        settings: which ports and folders.
        report: is told what happens.
        only: the names of the servers to start; what these need must be among them, or run. By default those that are
            always there, and the optional ones that died.
        more: the names of optional servers to start as well.

    Raises:
        MendableError: a port is taken, a download fails, a server does not become healthy.
    """
    with _lock(settings, report):
        died = [each.name for each in status(settings) if each.state == "died"] if only == NAMES else []
        servers = [server(settings) for server in SERVERS if server.name in (*only, *more, *died)]
        _refuse_shared_ports(servers)
        stopped = [server for server in servers if server.process() is None]
        for server in servers:
            if server in stopped:
                server.refuse_taken_ports()
            else:
                _refuse_moved_ports(server)
        needed = (name for server in stopped for name in (server.name, *server.plugins))
        jars.ensure(tuple(name for name in needed if name in jars.ROOTS), settings.cache_dir, report)
        if any(server.name == Superset.name for server in stopped):
            environment.ensure(settings.cache_dir, report)
        try:
            _start(servers, report)
        except BaseException:
            _stop(stopped, report)
            raise
        _write_connections(settings)
    settings_module.settings.cache_clear()


def down(settings: Settings, report: Report = silent, only: Sequence[str] = (*NAMES, *OPTIONAL)) -> None:
    """Stop what `up` started, each server before the one it needs; what does not run is left alone."""
    if not settings.state_dir.exists():
        return
    with _lock(settings, report):
        _stop([server(settings) for server in SERVERS if server.name in only], report)
        if set(only) >= set(NAMES):
            settings.connections_file.unlink(missing_ok=True)
        elif settings.connections_file.exists():
            _write_connections(settings)
    settings_module.settings.cache_clear()


def restart(settings: Settings, name: str) -> None:
    """Stop one server and start it again."""
    down(settings, only=(name,))
    up(settings, only=(name,))


def kill(settings: Settings, name: str) -> None:
    """Kill one server as a crash would; `status` says `died` then. For tests of what follows."""
    next(server(settings) for server in SERVERS if server.name == name).kill()


def status(settings: Settings) -> list[ServerStatus]:
    """How each server is, in the order of their start; of the optional ones, those that were started.

    Changes nothing and asks no server.
    """
    found = [_status(server(settings)) for server in SERVERS]
    return [one for one in found if one.name in NAMES or one.state != "stopped"]


def _status(server: Server) -> ServerStatus:
    process, record = server.process(), server.record()
    state: Literal["running", "stopped", "died"] = (
        "running" if process is not None else "stopped" if record is None else "died"
    )
    port = next(iter(record.ports.values())) if record is not None else server.port
    since = process.create_time() if process is not None else None
    pid = process.pid if process is not None else None
    return ServerStatus(server.name, state, server.version, port, pid, since, server.log)


def _start(servers: list[Server], report: Report) -> None:
    """Start `servers` side by side, each after those that it needs."""
    cancelled = Event()
    started: dict[str, Future[None]] = {}

    def start(server: Server) -> None:
        for need in server.needs:
            if need in started:
                report(server.name, f"waits for {need}")
                started[need].result()
        begin = time.monotonic()
        report(server.name, "starting")
        here = server.start(cancelled)
        report(server.name, f"ready after {time.monotonic() - begin:.1f} s" if here else "runs already", 1.0)

    with ThreadPoolExecutor(len(SERVERS)) as pool:
        try:
            for server in servers:
                started[server.name] = pool.submit(start, server)
            done, _ = wait(started.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            cancelled.set()
            raise


def _stop(servers: list[Server], report: Report) -> None:
    """Stop `servers` side by side, each after those that need it."""
    stopped: dict[str, Future[None]] = {}

    def stop(server: Server) -> None:
        for other in servers:
            if server.name in other.needs:
                stopped[other.name].result()
        ran = server.stop()
        report(server.name, "stopped" if ran else "did not run", 1.0)

    with ThreadPoolExecutor(len(SERVERS)) as pool:
        for server in reversed(servers):
            stopped[server.name] = pool.submit(stop, server)
    for future in stopped.values():
        future.result()


def _refuse_shared_ports(servers: list[Server]) -> None:
    """Raise ServerError if two settings name the same port."""
    variables: dict[int, str] = {}
    for server in servers:
        for variable, port in server.ports.items():
            if port in variables:
                raise ServerError(
                    f"{variables[port]} and {variable} are both {port}: set one of them to another free port."
                )
            variables[port] = variable


def _refuse_moved_ports(server: Server) -> None:
    record = server.record()
    if record is not None and record.ports != server.ports:
        variable, port = next((v, p) for v, p in server.ports.items() if record.ports.get(v) != p)
        raise ServerError(
            f"{server.name} runs with {variable}={record.ports.get(variable)}, now set to {port}: "
            "run `scopehouse down` first."
        )


def _write_connections(settings: Settings) -> None:
    """Write what clients connect with; `services.settings` reads it."""
    secrets = passwords.read(settings.state_dir)

    def url(role: str, database: str = DATABASE) -> str:
        return f"postgresql://{role}:{secrets[role]}@127.0.0.1:{settings.postgres_port}/{database}"

    values = {
        "DATABASE_URL": url("scopehouse_transform"),
        "SCOPEHOUSE_MIGRATE_DATABASE_URL": url("scopehouse_migrate"),
        "SCOPEHOUSE_INGEST_DATABASE_URL": url("scopehouse_ingest"),
        "SCOPEHOUSE_BI_DATABASE_URL": url("scopehouse_bi"),
        "SCOPEHOUSE_ADVENTURE_DATABASE_URL": url("adventure", "adventure"),
        "SCOPEHOUSE_CDC_DATABASE_URL": url("scopehouse_cdc", "adventure"),
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{settings.kafka_port}",
        "SCHEMA_REGISTRY_URL": Registry(settings).url,
    }
    connect = Connect(settings)
    if connect.record() is not None:
        values["SCOPEHOUSE_CONNECT_URL"] = connect.url
    text = "# Written by `scopehouse up`, removed by `scopehouse down`.\n"
    text += "".join(f"{name}={value}\n" for name, value in values.items())
    passwords.write_private(settings.connections_file, text)


@contextmanager
def _lock(settings: Settings, report: Report) -> Iterator[None]:
    """Hold the state folder's lock, so that two commands don't start or stop servers at once."""
    try:
        if not settings.state_dir.exists():
            settings.state_dir.mkdir(parents=True, exist_ok=True)  # another `up` may be as quick
            settings.state_dir.chmod(0o755)  # whatever the umask: Postgres may run as another user
        (settings.state_dir / "logs").mkdir(exist_ok=True)
        held = (settings.state_dir / "lock").open("w")
    except OSError as error:
        raise ServerError(
            f"The state folder {settings.state_dir} can't be made or written ({error.strerror}): set "
            "SCOPEHOUSE_STATE_DIR to a folder of your own."
        ) from error
    with held as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("lock", "waits for another `scopehouse up` or `down`")
            fcntl.flock(file, fcntl.LOCK_EX)
            report("lock", "ours", 1.0)
        yield
