"""The tables that the runner writes."""

from __future__ import annotations

from pathlib import Path

import psycopg

_SCHEMA = Path(__file__).with_name("schema.sql")


def make_tables(connection: psycopg.Connection) -> None:
    """Make the tables of schema ``ml`` that are missing, in the connection's transaction."""
    connection.execute(_SCHEMA.read_bytes())
