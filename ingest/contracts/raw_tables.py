"""The raw table of a contract: its DDL, and how an existing one is brought up to it."""

from __future__ import annotations

from typing import NamedTuple

from psycopg import Connection, sql

from ingest.contracts.contract import Contract, Field, identifier
from ingest.contracts.dbt_sources import SINK_COLUMNS
from services.errors import MendableError


class IncompatibleTableError(MendableError):
    """The raw table that is there can't hold the contract; raw is append-only, so nothing was changed."""


def raw_table(contract: Contract) -> sql.Identifier:
    """The raw table's quoted name."""
    return sql.Identifier("raw", contract.table)


def apply_raw_table(connection: Connection, contract: Contract) -> None:
    """Create the raw table, or add the columns that it lacks; in the caller's transaction.

    Raises:
        IncompatibleTableError: a column has another type, a new column may not be null, or one that may not be null
            has no field.
    """
    existing = _existing_columns(connection, contract)
    if not existing:
        connection.execute(create_table(contract))
        connection.execute(_create_offset_index(contract))
        return
    names = {field.name for field in contract.fields} | {name for name, *_ in SINK_COLUMNS}
    for name, column in existing.items():
        if column.is_required and name not in names:
            raise IncompatibleTableError(
                f"Field {name} is gone from the contract of {contract.topic}, but raw.{contract.table} wants it in "
                "each row: put it back."
            )
    for field in contract.fields:
        if field.name not in existing:
            if not field.is_nullable:
                raise IncompatibleTableError(
                    f"Field {field.name} of {contract.topic} is new and may not be null, but raw.{contract.table} "
                    "has rows without it: make the field optional (a union with null)."
                )
            connection.execute(sql.SQL("alter table {} add column {}").format(raw_table(contract), _column(field)))
        elif existing[field.name].type != field.postgres_type:
            raise IncompatibleTableError(
                f"Field {field.name} of {contract.topic} is {field.postgres_type} in the contract but "
                f"{existing[field.name].type} in raw.{contract.table}: give the new type a new field."
            )
        elif field.is_nullable and existing[field.name].is_required:
            connection.execute(
                sql.SQL("alter table {} alter column {} drop not null").format(
                    raw_table(contract), sql.Identifier(field.name)
                )
            )


def create_table(contract: Contract) -> sql.Composed:
    """`create table` for a contract's raw table: its fields, then the sink's own columns."""
    columns = [_column(field) for field in contract.fields]
    for name, data_type, is_nullable, _ in SINK_COLUMNS:
        default = sql.SQL(" default now()" if name == "_ingested_at" else "")
        columns.append(
            sql.SQL("{} {}{}{}").format(
                sql.Identifier(name), sql.SQL(data_type), sql.SQL("" if is_nullable else " not null"), default
            )
        )
    return sql.SQL("create table {} (\n    {}\n)").format(raw_table(contract), sql.SQL(",\n    ").join(columns))


def _create_offset_index(contract: Contract) -> sql.Composed:
    return sql.SQL("create index {} on {} using brin (_kafka_offset int8_minmax_multi_ops)").format(
        sql.Identifier(identifier(f"{contract.table}_kafka_offset")), raw_table(contract)
    )


def _column(field: Field) -> sql.Composed:
    return sql.SQL("{} {}{}").format(
        sql.Identifier(field.name),
        sql.SQL(field.postgres_type),
        sql.SQL("" if field.is_nullable else " not null"),
    )


class _Existing(NamedTuple):
    type: str
    is_required: bool


def _existing_columns(connection: Connection, contract: Contract) -> dict[str, _Existing]:
    """The table's columns as they stand; empty where there is none."""
    rows = connection.execute(
        """
        select attname, case when atttypid = 'timestamptz'::regtype then 'timestamptz'
                             else format_type(atttypid, null) end,
            attnotnull
        from pg_attribute
        where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped
        """,
        [f'raw."{contract.table}"'],
    ).fetchall()
    return {name: _Existing(data_type, is_required) for name, data_type, is_required in rows}
