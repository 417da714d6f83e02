"""What each role may do and may not, by real logins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, ReadOnlySqlTransaction

from services.embedded import passwords
from services.settings import Settings

Role = Literal["migrate", "ingest", "transform", "bi"]
Sessions = dict[str, psycopg.Connection]
ROLES: tuple[Role, ...] = ("migrate", "ingest", "transform", "bi")


@pytest.fixture(scope="module")
def sessions(stack: Settings) -> Iterator[Sessions]:
    """A session of each role; a mart, a staging table and a cluster table are there, made by scopehouse_transform."""
    connections = {role: psycopg.connect(stack.url_of(role), autocommit=True) for role in ROLES}
    transform = connections["transform"]
    tables = [f"{schema}.roles_probe" for schema in ("mobility", "staging", "intermediate", "operations")]
    for table in tables:
        transform.execute(f"create table {table} as select 1 as answer")
    yield connections
    for table in tables:
        transform.execute(f"drop table {table}")
    for connection in connections.values():
        connection.close()


ROW = "(id, customer_id, date_time, measurement_list, _kafka_partition, _kafka_offset)"
VALUES = "values (1, 1, now(), '[]', 0, 0)"

MAY: list[tuple[Role, LiteralString]] = [
    ("ingest", f"insert into raw.tracking_events {ROW} {VALUES}"),
    ("ingest", "insert into ingest.offsets (topic, partition, topic_id, next_offset) values ('t', 0, 'i', 0)"),
    ("ingest", "update ingest.offsets set next_offset = next_offset"),
    ("ingest", "select value from ingest.dead_letters"),
    ("ingest", "delete from ingest.dead_letters"),
    ("transform", "select * from raw.tracking_events"),
    ("transform", "select * from ingest.offsets"),
    ("transform", "select ingest.summarise_tail('raw.tracking_events')"),
    ("transform", "create table mobility.roles_built as select * from raw.tracking_events"),
    ("transform", "delete from ingest.model_offsets"),
    ("bi", "select * from mobility.roles_probe"),
    ("bi", "select * from operations.roles_probe"),
]

SECRETS: list[LiteralString] = [
    "select rolpassword from pg_authid",
    "select passwd from pg_shadow",
    "select pg_read_file('postgresql.conf')",
    "select pg_read_binary_file('pg_hba.conf')",
    "select pg_ls_dir('.')",
    "select lo_import('/etc/passwd')",
    "select * from pg_hba_file_rules",
    "copy (select 1) to program 'id'",
    "copy (select 1) to '/tmp/roles_probe'",
    "set log_statement = 'none'",
    "set role postgres",
    "set session authorization postgres",
    "create role roles_probe superuser",
    "create table public.roles_probe (answer int)",
]

MAY_NOT: list[tuple[Role, LiteralString]] = [
    *((role, statement) for role in ("ingest", "transform", "bi") for statement in SECRETS),
    *(("migrate", statement) for statement in SECRETS[:-2]),
    # The sink adds to raw, and that is all.
    ("ingest", "select * from raw.tracking_events"),
    ("ingest", "update raw.tracking_events set id = 1"),
    ("ingest", "delete from raw.tracking_events"),
    ("ingest", "truncate raw.tracking_events"),
    ("ingest", "drop table raw.tracking_events"),
    ("ingest", "alter table raw.tracking_events add column more int"),
    ("ingest", "create table raw.roles_more (answer int)"),
    ("ingest", "create table ingest.roles_more (answer int)"),
    ("ingest", "delete from ingest.offsets"),
    ("ingest", "truncate ingest.offsets"),
    ("ingest", "drop table ingest.dead_letters"),
    ("ingest", "select * from ingest.model_offsets"),
    ("ingest", "select ingest.summarise_tail('raw.tracking_events')"),
    ("ingest", "select * from mobility.roles_probe"),
    ("ingest", "select * from staging.roles_probe"),
    ("ingest", "create table mobility.roles_more (answer int)"),
    ("ingest", "set role scopehouse_migrate"),
    ("ingest", "set role scopehouse_transform"),
    # dbt reads raw and owns what it builds.
    ("transform", f"insert into raw.tracking_events {ROW} {VALUES}"),
    ("transform", "update raw.tracking_events set id = 1"),
    ("transform", "delete from raw.tracking_events"),
    ("transform", "truncate raw.tracking_events"),
    ("transform", "drop table raw.tracking_events"),
    ("transform", "drop schema raw cascade"),
    ("transform", "create index on raw.tracking_events (id)"),
    ("transform", "update ingest.offsets set next_offset = 0"),
    ("transform", "delete from ingest.dead_letters"),
    ("transform", "create table raw.roles_more (answer int)"),
    ("transform", "set role scopehouse_migrate"),
    ("transform", "update access.scopes set last_customer_id = 1"),
    # It adds members to the group of scopes' logins, and can't be one.
    ("migrate", "set role scopehouse_scoped"),
    # Dashboards read marts.
    ("bi", "select * from raw.tracking_events"),
    ("bi", "select * from ingest.offsets"),
    ("bi", "select value from ingest.dead_letters"),
    ("bi", "select * from staging.roles_probe"),
    ("bi", "select * from intermediate.roles_probe"),
    ("bi", "insert into mobility.roles_probe values (2)"),
    ("bi", "update mobility.roles_probe set answer = 2"),
    ("bi", "delete from mobility.roles_probe"),
    ("bi", "drop table mobility.roles_probe"),
    ("bi", "create table mobility.roles_more (answer int)"),
    ("bi", "select ingest.summarise_tail('raw.tracking_events')"),
    ("bi", "set role scopehouse_transform"),
    ("bi", "set role scopehouse_scoped"),
    ("bi", "select * from access.scopes"),
]


@pytest.mark.parametrize(("role", "statement"), MAY)
def test_may(sessions: Sessions, role: str, statement: LiteralString) -> None:
    with sessions[role].transaction(force_rollback=True):
        sessions[role].execute(statement)


@pytest.mark.parametrize(("role", "statement"), MAY_NOT)
def test_may_not(sessions: Sessions, role: str, statement: LiteralString) -> None:
    """Nor in a transaction that is declared to write, whatever the role's default is."""
    connection = sessions[role]
    with pytest.raises(InsufficientPrivilege), connection.transaction(force_rollback=True):
        connection.execute("set transaction read write")
        connection.execute(statement)


def test_dashboards_read_in_read_only_transactions_with_a_time_limit(sessions: Sessions) -> None:
    def setting(name: str) -> object:
        row = sessions["bi"].execute("select current_setting(%s)", [name]).fetchone()
        return row and row[0]

    assert (setting("default_transaction_read_only"), setting("statement_timeout")) == ("on", "30s")
    with pytest.raises(ReadOnlySqlTransaction):
        sessions["bi"].execute("create temporary table mine (answer int)")


@pytest.mark.parametrize("database", ["registry", "postgres", "template1"])
@pytest.mark.parametrize("role", ["ingest", "transform", "bi", "cdc"])
def test_no_role_enters_another_database(stack: Settings, role: str, database: str) -> None:
    parts = urlsplit(stack.url_of("ingest"))
    user = f"scopehouse_{role}"
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(
            host=parts.hostname,
            port=parts.port,
            user=user,
            password=passwords.read(stack.state_dir)[user],
            dbname=database,
        )


def test_change_capture_reads_no_table_of_ours(stack: Settings) -> None:
    parts = urlsplit(stack.url_of("ingest"))
    password = passwords.read(stack.state_dir)["scopehouse_cdc"]
    with psycopg.connect(
        host=parts.hostname, port=parts.port, user="scopehouse_cdc", password=password, dbname=parts.path[1:]
    ) as connection:
        for table in ("raw.tracking_events", "ingest.dead_letters", "mobility.roles_probe"):
            with pytest.raises(InsufficientPrivilege), connection.transaction():
                connection.execute(f"select * from {table}")


def test_what_others_run_is_hidden(sessions: Sessions) -> None:
    sessions["transform"].execute("select 'a value of a record'")
    for role in ("ingest", "bi"):
        rows = sessions[role].execute("select query from pg_stat_activity where usename = 'scopehouse_transform'")
        assert {query for (query,) in rows} == {"<insufficient privilege>"}


def test_functions_that_run_as_their_owner_pin_their_search_path_and_are_not_for_everybody(sessions: Sessions) -> None:
    rows = (
        sessions["migrate"]
        .execute(
            """
        select
            oid::regprocedure::text,
            (select split_part(each, '=', 2) from unnest(proconfig) as each where each like 'search_path=%'),
            exists (select from aclexplode(coalesce(proacl, acldefault('f', proowner))) where grantee = 0)
        from pg_proc
        where prosecdef and pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
        """
        )
        .fetchall()
    )
    assert rows
    for function, search_path, is_for_everybody in rows:
        assert search_path is not None and search_path.endswith("pg_temp"), function
        assert not is_for_everybody, function


def test_nobody_but_the_owner_creates_in_a_schema_that_others_trust(sessions: Sessions) -> None:
    rows = (
        sessions["migrate"]
        .execute(
            """
        select nspname from pg_namespace, lateral aclexplode(coalesce(nspacl, acldefault('n', nspowner))) as acl
        where acl.privilege_type = 'CREATE' and acl.grantee = 0 and nspname !~ '^pg_(toast|temp)'
        """
        )
        .fetchall()
    )
    assert rows == []
