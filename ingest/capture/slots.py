"""The replication slots through which connectors read a database's changes, and what is lost with one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from ingest.capture.connectors import ANSWER_SECONDS, ConnectError, Connectors, configurations
from services.errors import MendableError
from services.settings import Settings

CONNECT_SECONDS = 5


class CaptureGapError(MendableError):
    """Changes were lost: the slot that kept them is gone, or Postgres has thrown away what it pointed at."""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot as Postgres has it. `wal_status` is `missing` where there is none; sizes in bytes, positions in the log.

    `lag_bytes` is what has not been captured, `retained_bytes` what of the log is kept on disk for the slot,
    `left_bytes` how much more may be written before Postgres gives the slot up (None: without bound).
    """

    name: str
    wal_status: str
    is_active: bool
    lag_bytes: int | None
    retained_bytes: int | None
    left_bytes: int | None
    confirmed_lsn: int | None
    current_lsn: int

    @property
    def is_lost(self) -> bool:
        """Whether changes can't be had from it any more."""
        return self.wal_status in ("lost", "missing")


def slot_status(settings: Settings, connector: str) -> SlotStatus:
    """The slot of a connector.

    Raises:
        MendableError: the source's database can't be reached, or is not set.
    """
    name = configurations()[connector]["slot.name"]
    with source(settings) as connection:
        row = connection.execute(
            """
            select
                coalesce(slots.wal_status, 'missing'),
                coalesce(slots.active, false),
                pg_wal_lsn_diff(here.lsn, slots.confirmed_flush_lsn)::bigint,
                pg_wal_lsn_diff(here.lsn, slots.restart_lsn)::bigint,
                slots.safe_wal_size,
                pg_wal_lsn_diff(slots.confirmed_flush_lsn, '0/0')::bigint,
                pg_wal_lsn_diff(here.lsn, '0/0')::bigint
            from (select pg_current_wal_lsn() as lsn) as here
            left join pg_replication_slots as slots on slots.slot_name = %s and slots.database = current_database()
            """,
            [name],
        ).fetchone()
    assert row is not None  # noqa: S101 - the row of `here`
    return SlotStatus(name, *row)


def refuse_gap(connectors: Connectors, connector: str, slot: SlotStatus) -> None:
    """See that nothing was lost between what was captured and what the slot still has.

    A slot that is not there yet, of a connector that has captured nothing, is no gap.

    Raises:
        CaptureGapError: it was; the sentence names the gap and what to do.
    """
    captured = connectors.captured_lsn(connector)
    if not slot.is_lost or captured is None:
        return
    what = "is gone" if slot.wal_status == "missing" else "was given up by Postgres, for it lagged too far behind"
    raise CaptureGapError(
        f"Changes are lost: slot {slot.name} {what}; what was written from {lsn_text(captured)} to "
        f"{lsn_text(slot.current_lsn)} of the log can't be captured any more: run `scopehouse capture snapshot "
        f"{connector}` to go on from the tables as they are now, without the history between."
    )


def source(settings: Settings) -> psycopg.Connection:
    """A session of change capture's login on the source's database. Raises MendableError."""
    try:
        return psycopg.connect(
            settings.source_url("cdc"),
            autocommit=True,
            application_name="scopehouse capture",
            connect_timeout=CONNECT_SECONDS,
        )
    except psycopg.OperationalError as error:
        raise _away(error) from error


def lsn_text(lsn: int) -> str:
    """A place in the log as Postgres writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def snapshot(settings: Settings, connector: str) -> None:
    """Let a connector begin anew with a snapshot of its tables: what changed since it last captured is not told.

    What ended in the middle is finished by doing it again. It never lets a connector go on whose slot may be gone: that
    leaves it stopped, and says so.

    Raises:
        MendableError: Connect or the database can't be reached, or the connector stands still now.
    """
    connectors = Connectors(settings)
    if connector not in configurations():
        raise ConnectError(f"There is no connector {connector}: they are {', '.join(configurations())}.")
    # Before anything is stopped: there is nothing to begin with where the database is away.
    with source(settings) as connection:
        connectors.apply(connector)
        try:
            connectors.stop(connector)
            _await_unused(connection, connector)
        except BaseException:
            # Nothing is lost yet: it goes on from where it was.
            with _or_stands_still(connector):
                connectors.resume(connector)
            raise
        with _or_stands_still(connector):
            # The slot first: from here on `status` says `lost`, and how to go on, until the offsets are forgotten too.
            _drop(connection, connector)
            connectors.forget(connector)
            connectors.resume(connector)


def _await_unused(connection: psycopg.Connection, connector: str) -> None:
    """Until nobody reads from the slot: a task that was told to stop may take some seconds to let it go."""
    slot = configurations()[connector]["slot.name"]
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        while connection.execute("select from pg_replication_slots where slot_name = %s and active", [slot]).fetchone():
            if time.monotonic() > deadline:
                raise MendableError(f"Slot {slot} is in use by somebody else: see pg_stat_replication, and try again.")
            time.sleep(0.1)
    except psycopg.OperationalError as error:
        raise _away(error) from error


def _drop(connection: psycopg.Connection, connector: str) -> None:
    """Drop a connector's slot, if it is there."""
    connection.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
        [configurations()[connector]["slot.name"]],
    )


@contextmanager
def _or_stands_still(connector: str) -> Iterator[None]:
    """Say of a step that failed what it leaves behind."""
    try:
        yield
    except (MendableError, psycopg.Error) as error:
        raise ConnectError(
            f"Connector {connector} is stopped and stays so until `scopehouse capture snapshot {connector}` is run "
            f"again: {str(error).strip()}"
        ) from error


def _away(error: psycopg.OperationalError) -> MendableError:
    return MendableError(f"The captured database can't be reached ({str(error).strip()}): is it running?")
