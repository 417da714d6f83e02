"""Servers of this folder's own: its runs take in whatever the topics hold, so nobody else may write to them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ingest.database.migrate import migrate
from services.embedded import stack as embedded
from services.settings import Settings, read_settings
from tests.integration.conftest import CONNECTIONS, embedded_environment


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Postgres (migrated), Kafka and the registry, with nothing in them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CONNECTIONS:
            patch.delenv(name, raising=False)
        for name, value in embedded_environment(tmp_path_factory.mktemp("house")).items():
            patch.setenv(name, value)
        try:
            embedded.up(read_settings())
            migrate(read_settings())
            yield read_settings()
        finally:
            embedded.down(read_settings())
