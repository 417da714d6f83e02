"""docs/add-a-topic.md as a reader follows it: its files written, its commands run, in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from ingest.clients import make_registry
from services.embedded import passwords
from services.settings import PROJECT_ROOT, Settings

PAGE = PROJECT_ROOT / "docs" / "add-a-topic.md"
DATABASE = "docs_tests"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
FILES = ("Makefile", "pyproject.toml")
ROOMS = ("dagster_pipelines", "dbt_project", "ingest", "ml", "requirements", "scopehouse", "seeds", "services")
NOT_COPIED = shutil.ignore_patterns("target", "logs", "__pycache__")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository as it stands, with the environment that is installed for the tests."""
    folder = tmp_path / "scopehouse"
    for room in ROOMS:
        shutil.copytree(PROJECT_ROOT / room, folder / room, ignore=NOT_COPIED)
    for file in FILES:
        shutil.copy2(PROJECT_ROOT / file, folder)
    environment = folder / ".venv"
    environment.mkdir()
    for entry in Path(sys.prefix).iterdir():
        (environment / entry.name).symlink_to(entry)
    # Newer than what it is made from, and a file of its own: else `make` here would install the copy for everybody.
    (environment / ".installed").unlink(missing_ok=True)
    (environment / ".installed").touch()
    return folder


@pytest.fixture
def environment(stack: Settings, copy: Path) -> Iterator[dict[str, str]]:
    """A database of this test's own, for what it builds is nobody else's."""
    host = urlsplit(stack.url_of("migrate"))
    superuser = f"postgresql://postgres:{passwords.read(stack.state_dir)['postgres']}@{host.hostname}:{host.port}"

    def here(url: str) -> str:
        return urlsplit(url)._replace(path=f"/{DATABASE}").geturl()

    with psycopg.connect(f"{superuser}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {DATABASE} owner scopehouse_migrate")
    yield {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(copy),
        "DATABASE_URL": here(stack.url_of("transform")),
        "SCOPEHOUSE_MIGRATE_DATABASE_URL": here(stack.url_of("migrate")),
        "SCOPEHOUSE_INGEST_DATABASE_URL": here(stack.url_of("ingest")),
        "SCOPEHOUSE_BI_DATABASE_URL": here(stack.url_of("bi")),
        # What the page's commands would be asked by a `make` of the tests.
        "MAKEFLAGS": "",
        "MAKELEVEL": "",
    }
    registry = make_registry(stack)
    if "charging_sessions-value" in registry.get_subjects():
        registry.delete_subject("charging_sessions-value")
    with psycopg.connect(f"{superuser}/postgres", autocommit=True) as connection:
        connection.execute(f"drop database {DATABASE} with (force)")


def test_the_page_works_as_it_stands(copy: Path, environment: dict[str, str]) -> None:
    said = ""
    files = commands = 0
    for language, title, text in BLOCK.findall(PAGE.read_text()):
        if title:
            file = copy / title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            files += 1
        elif language == "sh":
            done = subprocess.run(
                [str(shutil.which("bash")), "-euo", "pipefail", "-c", text],
                cwd=copy,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            said = done.stdout
            commands += 1
        else:
            assert language == "text"
            missing = [line for line in text.splitlines() if line not in said.splitlines()]
            assert not missing, said
    assert files >= 7
    assert commands >= 4
