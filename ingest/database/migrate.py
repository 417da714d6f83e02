"""Bring the warehouse, the broker and the registry up to the contracts. Safe to repeat, also while a sink runs."""

from __future__ import annotations

from pathlib import Path

import psycopg

from ingest.contracts.contract import load_contracts
from ingest.contracts.raw_tables import apply_raw_table
from ingest.contracts.topics import apply_topics
from services.errors import MendableError
from services.settings import Settings

_FOLDER = Path(__file__).parent
# Two migrations at once would race on `create ... if not exists`.
_ADVISORY_LOCK = 7_204_315_001


def migrate(settings: Settings) -> None:
    """Make schemas, tables, columns, grants, topics and registry subjects that are missing.

    The database is one transaction: all of it or nothing. Nothing is ever dropped or re-typed.

    Raises:
        MendableError: a server can't be reached, or what is there can't hold a contract.
    """
    contracts = load_contracts(settings.contracts_dir).values()
    try:
        with psycopg.connect(settings.url_of("migrate"), application_name="scopehouse migrate") as connection:
            connection.execute("set local client_min_messages = warning")
            connection.execute("select pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
            connection.execute((_FOLDER / "schema.sql").read_bytes())
            for contract in contracts:
                apply_raw_table(connection, contract)
            connection.execute((_FOLDER / "grants.sql").read_bytes())
    except psycopg.OperationalError as error:
        raise MendableError(f"Postgres can't be reached ({str(error).strip()}): is it running?") from error
    apply_topics(settings, contracts)
