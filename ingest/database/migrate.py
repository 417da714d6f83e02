"""Bring the warehouse, the broker and the registry up to the contracts. Safe to repeat, also while a sink runs."""

from __future__ import annotations

from pathlib import Path

import psycopg

from ingest.contracts.contract import load_contracts
from ingest.contracts.raw_tables import apply_raw_table
from ingest.contracts.topics import apply_topics, check_subjects
from services.errors import MendableError
from services.settings import Settings

_FOLDER = Path(__file__).parent
# Two migrations at once would race on `create ... if not exists`.
_ADVISORY_LOCK = 7_204_315_001
_LOCK_SECONDS = 5


def migrate(settings: Settings) -> None:
    """Make schemas, tables, columns, grants, topics and registry subjects that are missing.

    A contract that breaks what is registered is refused before anything is changed. Nothing is ever dropped or
    re-typed. The database is two transactions, each all of it or nothing: first what ingestion owns, then the raw
    tables. A running sink locks raw before its offsets, so that one transaction for both would end in a deadlock.

    Raises:
        MendableError: a server can't be reached, or what is there can't hold a contract.
    """
    contracts = load_contracts(settings.contracts_dir).values()
    check_subjects(settings, contracts)
    try:
        with psycopg.connect(
            settings.url_of("migrate"), application_name="scopehouse migrate", autocommit=True
        ) as connection:
            connection.execute("set client_min_messages = warning")
            connection.execute("select pg_advisory_lock(%s)", [_ADVISORY_LOCK])
            # Whoever waits to change a table holds up all who come after it, the sink too.
            connection.execute("select set_config('lock_timeout', %s, false)", [f"{_LOCK_SECONDS}s"])
            with connection.transaction():
                connection.execute((_FOLDER / "schema.sql").read_bytes())
            with connection.transaction():
                for contract in contracts:
                    apply_raw_table(connection, contract)
                connection.execute((_FOLDER / "grants.sql").read_bytes())
            connection.execute((_FOLDER / "climatiq.sql").read_bytes())
            connection.execute((_FOLDER / "operations.sql").read_bytes())
    except psycopg.errors.LockNotAvailable as error:
        raise MendableError(
            f"A table that has to change was in use for {_LOCK_SECONDS} s ({error.diag.context or 'a lock'}): nothing "
            "was changed; end the query that holds it (pg_stat_activity) or wait for it, then run `scopehouse migrate` "
            "again."
        ) from error
    except psycopg.OperationalError as error:
        raise MendableError(f"Postgres can't be reached ({str(error).strip()}): is it running?") from error
    apply_topics(settings, contracts)
