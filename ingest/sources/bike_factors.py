"""The e-bike company's database, made and changed as the company would: change capture tells the warehouse of it.

The database remembers what was done, in the transaction that did it, so that each run goes on after the last.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import Connection, Cursor

from ingest.capture.connectors import ConnectError, Connectors
from ingest.capture.slots import refuse_gap, slot_status
from ingest.progress import Progress, no_progress
from ingest.sources.bike_factor_changes import (
    NAMES,
    PRODUCTS_FOR_SALE,
    STARTING_FACTORS,
    Change,
    FactorHistory,
    Factors,
    change,
)
from ingest.sources.bike_fleet import HISTORY_STARTS_AT, PRODUCTS, Fleet
from services.errors import MendableError
from services.settings import Settings

CONNECTOR = "adventure"
CAPTURE_SECONDS = 60.0

_SCHEMA = Path(__file__).with_name("adventure.sql")
_ADVISORY_LOCK = 7_204_315_002
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class BikeFactorsProduced:
    """What one run did to the table: how many rows it changed, by the kind of the change.

    All of it lies in the source's log after `start_lsn` and before `end_lsn`.
    """

    seed: int
    changes: int
    updates: int
    corrections: int
    models_added: int
    models_withdrawn: int
    start_lsn: int
    end_lsn: int
    seconds: float


def set_up(settings: Settings) -> None:
    """Make the company's database what it is at first, where it is not there yet.

    Raises:
        MendableError: it can't be reached, or is not set.
    """
    with _connect(settings) as connection, connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
        connection.execute("set local client_min_messages = warning")
        connection.execute(_SCHEMA.read_bytes())
        if connection.execute("select from products limit 1").fetchone() is not None:
            return
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into products values (%s, %s, %s, %s)",
                [(each.product_id, each.name, each.bike_model_id, each.standard_cost) for each in PRODUCTS_FOR_SALE],
            )
        for model in PRODUCTS:
            _put(connection, model, STARTING_FACTORS[model], HISTORY_STARTS_AT)


def produce_bike_factors(
    settings: Settings,
    *,
    changes: int = 24,
    seed: int = 1,
    rate: float | None = None,
    progress: Progress = no_progress,
) -> BikeFactorsProduced:
    """Make the next changes of a seed, each in a transaction of its own, once they are sure to be captured.

    Args:
        settings: where the company's database and Kafka Connect are.
        changes: how many.
        seed: which stream of changes.
        rate: changes a second; None is as fast as possible.
        progress: told how many are made.

    Raises:
        CaptureGapError: changes were lost before; nothing is changed.
        MendableError: the database or Connect can't be reached, or the connector does not run.
    """
    began = time.monotonic()
    set_up(settings)
    await_capture(settings)
    done: Counter[str] = Counter()
    with _connect(settings) as connection:
        start_lsn = _lsn(connection)
        for number in range(changes):
            kind, rows = _change_next(connection, seed)
            done[kind] += rows
            progress("bike factors changed", number + 1, changes)
            if rate is not None:
                time.sleep(1 / rate)
        end_lsn = _lsn(connection)
    return BikeFactorsProduced(
        seed=seed,
        changes=done.total(),
        updates=done["update"],
        corrections=done["correct"],
        models_added=done["add"],
        models_withdrawn=done["withdraw"],
        start_lsn=start_lsn,
        end_lsn=end_lsn,
        seconds=round(time.monotonic() - began, 3),
    )


def await_capture(settings: Settings) -> None:
    """Apply the connector and wait until it follows the log: from then on its slot keeps every change.

    Raises:
        CaptureGapError: changes were lost before.
        MendableError: the connector fails, or is not so far in time.
    """
    connectors = Connectors(settings)
    connectors.apply(CONNECTOR)
    deadline = time.monotonic() + CAPTURE_SECONDS
    while not (connectors.follows_log(CONNECTOR) and not slot_status(settings, CONNECTOR).is_lost):
        _help_along(settings, connectors, deadline, "does not follow the log")


def await_captured(settings: Settings, end_lsn: int, seconds: float = CAPTURE_SECONDS) -> None:
    """Wait until all that was committed before that place in the log is in Kafka.

    A heartbeat that is written after it, and captured in its turn, tells so: no record is looked for.

    Raises:
        CaptureGapError: it never will be.
        MendableError: it is not in time, or Connect can't be reached.
    """
    connectors = Connectors(settings)
    deadline = time.monotonic() + seconds
    while (captured := connectors.captured_lsn(CONNECTOR)) is None or captured < end_lsn:
        _help_along(settings, connectors, deadline, "has not captured the latest changes")


def _help_along(settings: Settings, connectors: Connectors, deadline: float, what: str) -> None:
    """What is done while a connector is waited for. Raises CaptureGapError, and ConnectError after the deadline."""
    refuse_gap(connectors, CONNECTOR, slot_status(settings, CONNECTOR))
    state = connectors.state(CONNECTOR)
    if state is not None and state.has_failed:
        connectors.start_failed(CONNECTOR)
    if time.monotonic() > deadline:
        why = f" ({state.why})" if state is not None and state.why else ""
        raise ConnectError(f"Connector {CONNECTOR} {what}{why}: see Kafka Connect's log.")
    time.sleep(_POLL_SECONDS)


def changes_made(settings: Settings) -> list[Change]:
    """Every change that was made, of any seed, in order. Raises MendableError."""
    with _connect(settings) as connection:
        rows = connection.execute("select seed, position from simulated_changes order by change_id").fetchall()
    return [change(seed, position) for seed, position in rows]


def expected_operating_kg_co2e(settings: Settings, seed: int, first_event_id: int, events: int) -> float:
    """What the journeys of some events of a seed's history emit, each by the factors that held when it was made, by all
    that is known by now. Raises MendableError."""
    fleet = Fleet(2 * seed)
    fleet.skip_to(first_event_id - fleet.first_event_id)
    return FactorHistory(changes_made(settings)).operating_kg_co2e(fleet.take(events))


def _change_next(connection: Connection, seed: int) -> tuple[str, int]:
    """Make a seed's next change; returns its kind, and how many rows it changed: none of a model that is not there."""
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
        position = _number(
            connection,
            "insert into simulated_changes (seed, position) "
            "select %(seed)s, coalesce(max(position) + 1, 0) from simulated_changes where seed = %(seed)s "
            "returning position",
            {"seed": seed},
        )
        made = change(seed, position)
        if made.kind == "withdraw":
            cursor = connection.execute(
                "delete from bike_emissions where product_category_id = %s", [made.bike_model_id]
            )
        elif made.kind == "add":
            cursor = _put(connection, made.bike_model_id, made.factors, made.holds_from)
        else:
            cursor = connection.execute(
                """
                update bike_emissions set co2e_km_scope1 = %s, co2e_km_scope2 = %s, modified_at = to_timestamp(%s)
                where product_category_id = %s
                """,
                [made.factors.scope1, made.factors.scope2, made.holds_from, made.bike_model_id],
            )
    return made.kind, cursor.rowcount


def _put(connection: Connection, model: int, factors: Factors, holds_from: int) -> Cursor[Any]:
    """Have a model in the table, its price the highest standard cost of its products."""
    return connection.execute(
        """
        insert into bike_emissions
        select %(model)s, %(name)s, round(max(standard_cost)::numeric, 2), %(scope1)s, %(scope2)s, to_timestamp(%(at)s)
        from products
        where product_category_id = %(model)s
        on conflict (product_category_id) do update set
            avg_cost = excluded.avg_cost,
            co2e_km_scope1 = excluded.co2e_km_scope1,
            co2e_km_scope2 = excluded.co2e_km_scope2,
            modified_at = excluded.modified_at
        """,
        {
            "model": model,
            "name": NAMES[model],
            "scope1": factors.scope1,
            "scope2": factors.scope2,
            "at": holds_from,
        },
    )


def _connect(settings: Settings) -> Connection:
    try:
        return psycopg.connect(
            settings.source_url("adventure"), autocommit=True, application_name="scopehouse produce", connect_timeout=5
        )
    except psycopg.OperationalError as error:
        raise MendableError(
            f"The e-bike company's database can't be reached ({str(error).strip()}): is it running?"
        ) from error


def _lsn(connection: Connection) -> int:
    """Where the log ends now."""
    return _number(connection, "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")


def _number(connection: Connection, statement: LiteralString, parameters: dict[str, int] | None = None) -> int:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None  # noqa: S101 - each of these has one
    return int(row[0])
