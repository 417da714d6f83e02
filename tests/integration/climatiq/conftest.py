"""A database of the estimates' own on the session's Postgres, and the fake API."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from pydantic import SecretStr

from ingest.database.migrate import migrate
from services.embedded import passwords
from services.settings import Settings
from tests.fakes.climatiq import KEY, FakeClimatiq, fake_climatiq

DATABASE = "climatiq_tests"


@pytest.fixture(scope="session")
def migrated(stack: Settings) -> Settings:
    """Settings of a migrated database in which nothing has been asked."""

    def here(url: str) -> SecretStr:
        return SecretStr(urlsplit(url)._replace(path=f"/{DATABASE}").geturl())

    host = urlsplit(stack.url_of("migrate"))
    superuser = f"postgresql://postgres:{passwords.read(stack.state_dir)['postgres']}@{host.hostname}:{host.port}"
    with psycopg.connect(f"{superuser}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {DATABASE} owner scopehouse_migrate")
    settings = stack.model_copy(
        update={
            "database_url": here(stack.url_of("transform")),
            "migrate_database_url": here(stack.url_of("migrate")),
            "ingest_database_url": here(stack.url_of("ingest")),
            "bi_database_url": here(stack.url_of("bi")),
        }
    )
    migrate(settings)
    return settings


@pytest.fixture
def fake() -> Iterator[FakeClimatiq]:
    with fake_climatiq() as fake:
        yield fake


@pytest.fixture
def owner(migrated: Settings) -> Iterator[psycopg.Connection]:
    """A connection of the tables' owner; they are empty."""
    with psycopg.connect(migrated.url_of("migrate"), autocommit=True) as connection:
        connection.execute("truncate raw.climatiq_estimates, raw.climatiq_releases, ingest.api_calls")
        yield connection


@pytest.fixture
def settings(migrated: Settings, fake: FakeClimatiq, owner: psycopg.Connection) -> Settings:
    """Settings with the key and the fake's address, on empty tables."""
    return migrated.model_copy(
        update={
            "climatiq_api_key": SecretStr(KEY),
            "climatiq_url": fake.url,
            "climatiq_data_version": "29",
            "climatiq_monthly_calls": 250,
        }
    )
