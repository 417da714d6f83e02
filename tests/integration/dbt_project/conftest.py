"""One database for the tests of dbt, on the session's Postgres."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from ingest.contracts.contract import load_contracts
from ingest.contracts.raw_tables import apply_raw_table
from services.embedded import passwords
from services.settings import PROJECT_ROOT, Settings, postgres_environment
from tests.integration.dbt_project.warehouse import (
    BIKE_MODELS,
    CONTENTS,
    FIRST_SNAPSHOT,
    MEASUREMENTS,
    PROJECT,
    TRIPS,
    Dbt,
    Warehouse,
)

DATABASE = "dbt_tests"


@pytest.fixture(scope="session")
def database(stack: Settings) -> Iterator[dict[str, str]]:
    """A database of our own, migrated; the URLs of its roles."""
    superuser = _url_of_database(stack.url_of("migrate"), "postgres")
    superuser = superuser._replace(
        netloc=f"postgres:{passwords.read(stack.state_dir)['postgres']}@{superuser.hostname}:{superuser.port}"
    )
    with psycopg.connect(urlunsplit(superuser), autocommit=True) as connection:
        connection.execute(f"create database {DATABASE} owner scopehouse_migrate")
    urls = {role: urlunsplit(_url_of_database(stack.url_of(role), DATABASE)) for role in ("migrate", "transform", "bi")}
    with psycopg.connect(urls["migrate"]) as connection:
        connection.execute((PROJECT_ROOT / "ingest" / "database" / "schema.sql").read_bytes())
        for contract in load_contracts().values():
            apply_raw_table(connection, contract)
        connection.execute((PROJECT_ROOT / "ingest" / "database" / "grants.sql").read_bytes())
        connection.execute((PROJECT_ROOT / "ingest" / "database" / "climatiq.sql").read_bytes())
        connection.execute((PROJECT_ROOT / "ingest" / "database" / "operations.sql").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in postgres_environment(urls["transform"]).items():
            patch.setenv(name, value)
        yield urls


@pytest.fixture(scope="session")
def built(database: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """The database with every model made once (ml's apart, which needs ml's tables)."""
    dbt = Dbt(PROJECT, tmp_path_factory.mktemp("dbt"))
    dbt.manifest = dbt.attempt("parse").result
    with (
        psycopg.connect(database["migrate"], autocommit=True) as owner,
        psycopg.connect(database["transform"], autocommit=True) as transform,
    ):
        dbt("seed")
        dbt("run", "--exclude", "tag:ml")
        yield Warehouse(owner, transform, dbt)


@pytest.fixture
def warehouse(built: Warehouse) -> Warehouse:
    """The built database without any event, and with the bike models of the first snapshot."""
    built.empty()
    built.append_changes(FIRST_SNAPSHOT)
    built.dbt.run(BIKE_MODELS)
    return built


@pytest.fixture
def own_project(tmp_path: Path, warehouse: Warehouse) -> Iterator[Dbt]:
    """A copy of the dbt project whose models a test may change; what it made is made right afterwards."""
    project = tmp_path / "dbt_project"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    shutil.copytree(PROJECT_ROOT / "seeds", tmp_path / "seeds")
    yield Dbt(project, tmp_path / "target")
    warehouse.dbt("run", "--full-refresh", "--exclude", "tag:ml")
    ran = set(warehouse.dbt.run(CONTENTS, MEASUREMENTS, TRIPS))
    assert ran == {CONTENTS, MEASUREMENTS, TRIPS}


def _url_of_database(url: str, database: str):  # type: ignore[no-untyped-def]
    return urlsplit(url)._replace(path=f"/{database}")
