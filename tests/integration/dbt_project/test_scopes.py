"""A login of a data scope sees the rows of its customers, and nothing else, whatever dbt does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, OperationalError
from pydantic import SecretStr

from services import scopes
from services.settings import Settings
from tests.integration.dbt_project.warehouse import CONTENTS, MEASUREMENTS, TRIPS, Warehouse, measurement

MART = "mart_customer_savings"
NORTH = [*range(1, 11), 20]


@pytest.fixture
def scoped(
    warehouse: Warehouse, stack: Settings, database: dict[str, str], tmp_path: Path
) -> Iterator[psycopg.Connection]:
    """A session of the login of some of thirty customers, each with a trip."""
    warehouse.append((event, 0, event, 1_000_000_000 + event, [measurement(vehicle=event)]) for event in range(30))
    warehouse.owner.execute("update raw.tracking_events set customer_id = id")
    build(warehouse)
    here = {"migrate_database_url": SecretStr(database["migrate"]), "scopes_dir": tmp_path}
    settings = stack.model_copy(update=here)
    login = scopes.add(settings, "north", scopes.read_ranges("1-10,20"))
    scopes.add(settings, "south", scopes.read_ranges("11-19"))
    parts = urlsplit(database["bi"])
    secret = (tmp_path / login).read_text().strip()
    url = urlunsplit(parts._replace(netloc=f"{login}:{secret}@{parts.hostname}:{parts.port}"))
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection
    scopes.remove(settings, "north")
    scopes.remove(settings, "south")
    with pytest.raises(OperationalError, match="password authentication failed"):
        psycopg.connect(url)


def build(warehouse: Warehouse, *, full_refresh: bool = False) -> None:
    warehouse.dbt.run(CONTENTS, MEASUREMENTS, TRIPS, MART, full_refresh=full_refresh)


def customers(connection: psycopg.Connection) -> list[int]:
    rows: list[tuple[Any, ...]] = connection.execute(f"select customer_id from mobility.{MART} order by 1").fetchall()
    return [customer for (customer,) in rows]


def test_it_sees_its_customers_and_dashboards_see_all_also_after_every_kind_of_rebuild(
    warehouse: Warehouse, scoped: psycopg.Connection, database: dict[str, str]
) -> None:
    def seen() -> tuple[list[int], list[int]]:
        with psycopg.connect(database["bi"]) as all_rows:
            return customers(scoped), customers(all_rows)

    assert seen() == (NORTH, list(range(30)))
    build(warehouse)
    assert seen() == (NORTH, list(range(30)))
    build(warehouse, full_refresh=True)
    assert seen() == (NORTH, list(range(30)))
    warehouse.transform.execute(f"drop table mobility.{MART} cascade")
    build(warehouse)
    assert seen() == (NORTH, list(range(30)))
    # As a warehouse was before there were scopes, and half mended by hand.
    warehouse.transform.execute(f"alter table mobility.{MART} disable row level security")
    warehouse.transform.execute(f"drop policy all_rows on mobility.{MART}")
    build(warehouse)
    assert seen() == (NORTH, list(range(30)))


def test_other_customers_can_be_given_to_it_at_once(warehouse: Warehouse, scoped: psycopg.Connection) -> None:
    warehouse.owner.execute(
        "update access.scopes set first_customer_id = 29, last_customer_id = 29"
        " where login = 'scopehouse_bi_north' and first_customer_id = 20"
    )
    assert customers(scoped) == [*range(1, 11), 29]


def test_it_may_read_nothing_but_marts_with_a_policy(scoped: psycopg.Connection) -> None:
    rows = scoped.execute(
        "select oid::regclass::text, relrowsecurity from pg_class where relkind in ('r', 'p', 'v', 'm', 'f')"
        " and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)"
        " and has_schema_privilege(relnamespace, 'usage')"
        " and (has_table_privilege(oid, 'select') or has_any_column_privilege(oid, 'select'))"
    ).fetchall()
    assert sorted(rows) == [("access.scopes", True), (f"mobility.{MART}", True)]


def test_it_sees_no_other_scope_and_no_row_through_an_error(scoped: psycopg.Connection) -> None:
    assert scoped.execute("select distinct login from access.scopes").fetchall() == [("scopehouse_bi_north",)]
    # Would divide by zero at a row of another scope, were the condition asked before the policy.
    scoped.execute(f"select 1 / (customer_id - 15) from mobility.{MART}")
    assert scoped.execute("select from pg_stats where tablename = %s", [MART]).fetchall() == []


MAY_NOT: list[LiteralString] = [
    "select * from mobility.fct_trip_emissions",
    "select * from mobility.rejected_measurements",
    "select * from mobility.mart_bike_break_even",
    "select * from intermediate.int_mobility__measurements",
    "select * from raw.tracking_events",
    "select * from ingest.dead_letters",
    "set role scopehouse_bi",
    "set role scopehouse_scoped",
    "set role scopehouse_bi_south",
    "set session authorization scopehouse_bi",
    "update access.scopes set last_customer_id = 99",
    "insert into access.scopes values ('scopehouse_bi_north', 11, 99)",
    "delete from mobility.mart_customer_savings",
    "alter table mobility.mart_customer_savings disable row level security",
    "drop policy own_scope on mobility.mart_customer_savings",
    "create view mobility.mine as select * from mobility.mart_customer_savings",
    "create function mobility.mine() returns int language sql as 'select 1'",
    "alter role scopehouse_bi_north createrole",
]


def test_it_may_not_get_out_of_its_scope(scoped: psycopg.Connection) -> None:
    for statement in MAY_NOT:
        with pytest.raises(InsufficientPrivilege), scoped.transaction(force_rollback=True):
            scoped.execute("set transaction read write")
            scoped.execute(statement)
    # What would show an error where rows are left out: it asks for all of them, and is refused.
    scoped.execute("set row_security = off")
    with pytest.raises(InsufficientPrivilege):
        customers(scoped)


def test_for_others_the_policy_costs_nothing(scoped: psycopg.Connection, database: dict[str, str]) -> None:
    with psycopg.connect(database["bi"]) as connection:
        plan = connection.execute(f"explain (costs off) select * from mobility.{MART}").fetchall()
    assert plan == [(f"Seq Scan on {MART}",)]
