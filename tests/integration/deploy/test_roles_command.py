from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import OperationalError

from services.settings import Settings
from tests.integration.deploy.conftest import DAGSTER_PASSWORD, address, login


def roles_command(admin: str, secrets: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SCOPEHOUSE_ADMIN_DATABASE_URL": admin}
    if secrets is not None:
        environment["SCOPEHOUSE_SECRETS_DIR"] = str(secrets)
    words = [sys.executable, "-m", "scopehouse", "roles"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_roles_and_databases_are_made_from_files_of_passwords_and_again_without_harm(
    stack: Settings, secrets: Path
) -> None:
    admin = f"postgresql://postgres@{address(stack)}/postgres"
    for _ in range(2):
        done = roles_command(admin, secrets)
        assert done.returncode == 0, done.stderr
        assert "dagster" in done.stdout.split()
    with psycopg.connect(login(stack, "dagster", DAGSTER_PASSWORD, "dagster")) as connection:
        connection.execute("create table if not exists roles_probe (answer int)")
        connection.execute("drop table roles_probe")
    with pytest.raises(OperationalError, match="permission denied for database"):
        psycopg.connect(login(stack, "dagster", DAGSTER_PASSWORD, "scopehouse"))


def test_a_login_that_may_make_no_roles_is_told_so(stack: Settings, secrets: Path) -> None:
    done = roles_command(f"postgresql://scopehouse_ingest@{address(stack)}/scopehouse", secrets)
    assert done.returncode == 1
    assert "use a superuser's" in done.stderr


def test_without_passwords_the_folder_is_asked_for(stack: Settings) -> None:
    done = roles_command(f"postgresql://postgres@{address(stack)}/postgres", None)
    assert done.returncode == 1
    assert "SCOPEHOUSE_SECRETS_DIR" in done.stderr
