from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.settings import PROJECT_ROOT

COMPOSE = Path(sys.executable).with_name("docker-compose")
Stack = dict[str, Any]


def make_secrets(folder: Path) -> str:
    """Run the maker of secrets; what it says."""
    words = ["sh", str(PROJECT_ROOT / "services/docker/make-secrets.sh"), str(folder)]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The compose file as Docker Compose itself reads it, with profiles, defaults filled in, checked by its schema."""
    secrets = tmp_path_factory.mktemp("compose") / "secrets"
    make_secrets(secrets)
    environment = {"PATH": os.environ["PATH"], "HOME": str(secrets), "SCOPEHOUSE_SECRETS": str(secrets)}
    # Not the .env of whoever runs the tests.
    words = [str(COMPOSE), "--env-file", os.devnull, "--file", str(PROJECT_ROOT / "docker-compose.yml")]
    words += ["--profile", "*", "config", "--format", "json"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    for secret in secrets.iterdir():
        assert secret.read_text() not in done.stdout, f"{secret.name} is in the configuration"
    stack: Stack = json.loads(done.stdout)
    return stack
