"""A database of ml's own on the session's Postgres, so that nobody else's features are clustered."""

from __future__ import annotations

from urllib.parse import urlsplit

import psycopg
import pytest
from pydantic import SecretStr

from ingest.database.migrate import migrate
from services.embedded import passwords
from services.settings import Settings

DATABASE = "ml_tests"


@pytest.fixture(scope="session")
def empty_warehouse(stack: Settings) -> Settings:
    """Settings of a migrated database in which nothing has been built."""

    def here(url: str) -> str:
        return urlsplit(url)._replace(path=f"/{DATABASE}").geturl()

    host = urlsplit(stack.url_of("migrate"))
    superuser = f"postgresql://postgres:{passwords.read(stack.state_dir)['postgres']}@{host.hostname}:{host.port}"
    with psycopg.connect(f"{superuser}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {DATABASE} owner scopehouse_migrate")
    settings = stack.model_copy(
        update={
            "database_url": SecretStr(here(stack.url_of("transform"))),
            "migrate_database_url": SecretStr(here(stack.url_of("migrate"))),
            "ingest_database_url": SecretStr(here(stack.url_of("ingest"))),
            "bi_database_url": SecretStr(here(stack.url_of("bi"))),
        }
    )
    migrate(settings)
    return settings
