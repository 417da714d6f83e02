"""What the compose file starts, started here without containers, against the session's servers."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from services.embedded import passwords
from services.settings import Settings

# Characters that a URL, a shell and a properties file each take for something else.
DAGSTER_PASSWORD = "p@ss: /w#rd'$1%"


@pytest.fixture(scope="module")
def secrets(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of secrets as the compose file mounts it; `dagster` is new to the server."""
    folder = tmp_path_factory.mktemp("secrets")
    known = passwords.read(stack.state_dir)
    for name in ("postgres", "scopehouse_migrate", "scopehouse_ingest", "scopehouse_transform", "scopehouse_bi"):
        (folder / name).write_text(known[name] + "\n")
    (folder / "dagster").write_text(DAGSTER_PASSWORD + "\n")
    return folder


def address(stack: Settings) -> str:
    """host:port of the session's Postgres."""
    parts = urlsplit(stack.url_of("migrate"))
    return f"{parts.hostname}:{parts.port}"


def login(stack: Settings, role: str, password: str, database: str) -> str:
    """A URL."""
    return f"postgresql://{role}:{quote(password, safe='')}@{address(stack)}/{database}"
