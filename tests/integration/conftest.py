"""Real servers, started once for the whole run, in a folder and on ports of their own."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.embedded import stack as embedded
from services.settings import Settings, read_settings, settings

PORTS = ("POSTGRES", "KAFKA", "KAFKA_CONTROLLER", "REGISTRY", "REGISTRY_MANAGEMENT", "CONNECT", "SUPERSET")
CONNECTIONS = (
    "DATABASE_URL",
    "SCOPEHOUSE_MIGRATE_DATABASE_URL",
    "SCOPEHOUSE_INGEST_DATABASE_URL",
    "SCOPEHOUSE_BI_DATABASE_URL",
    "KAFKA_BOOTSTRAP_SERVERS",
    "SCHEMA_REGISTRY_URL",
    "SCOPEHOUSE_CONNECT_URL",
    "SCOPEHOUSE_ADVENTURE_DATABASE_URL",
    "SCOPEHOUSE_CDC_DATABASE_URL",
)


def embedded_environment(state_dir: Path) -> dict[str, str]:
    """The variables for servers of one's own in `state_dir`, on ports that are free now."""
    names = [f"SCOPEHOUSE_{name}_PORT" for name in PORTS]
    ports = map(str, free_ports(len(names)))
    return {"SCOPEHOUSE_STATE_DIR": str(state_dir), **dict(zip(names, ports, strict=True))}


def free_ports(count: int) -> list[int]:
    """Ports of this machine on which nobody listens now."""
    # Below the range that outgoing connections are given theirs from: one of those could take ours meanwhile.
    candidates = random.sample(range(10_000, 32_000), 100)
    return [port for port in candidates if _is_free(port)][:count]


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Postgres (migrated), Kafka and the registry, healthy; the settings that reach them.

    The process's environment points at them, so that `settings()` and child processes find them too.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in CONNECTIONS:
            patch.delenv(name, raising=False)
        for name, value in embedded_environment(tmp_path_factory.mktemp("stack")).items():
            patch.setenv(name, value)
        settings.cache_clear()
        try:
            embedded.up(read_settings())
            from ingest.database.migrate import migrate

            migrate(settings())
            yield settings()
        finally:
            embedded.down(read_settings())
    settings.cache_clear()
