"""Superset as docker-compose.yml starts it, with its secrets from files, beside the embedded one."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from services.embedded import passwords
from services.embedded.superset import Superset
from services.settings import PROJECT_ROOT
from services.superset import environment
from tests.integration.conftest import free_ports
from tests.unit.deploy.conftest import Stack
from tests.unit.deploy.conftest import compose as compose

DEADLINE_S = 300


def test_its_web_server_starts_as_it_stands_and_is_healthy(superset: Superset, compose: Stack, tmp_path: Path) -> None:
    service = compose["services"]["superset"]
    known = passwords.read(superset.settings.state_dir)
    host = f"127.0.0.1:{superset.settings.postgres_port}"
    for name, secret in {
        "superset_database_url": f"postgresql://superset:{known['superset']}@{host}/superset",
        "superset_bi_database_url": f"postgresql://scopehouse_bi:{known['scopehouse_bi']}@{host}/scopehouse",
        "superset_secret_key": known["superset_secret_key"],
        "superset_admin": known["superset_admin"],
    }.items():
        (tmp_path / name).write_text(secret + "\n")
    (port,) = free_ports(1)

    def here(word: str) -> str:
        for there, ours in (
            ("0.0.0.0:8088", f"127.0.0.1:{port}"),
            ("127.0.0.1:8088", f"127.0.0.1:{port}"),
            ("/run/secrets", str(tmp_path)),
            ("/dev/shm", str(tmp_path)),  # noqa: S108 the container's own
        ):
            word = word.replace(there, ours)
        return word

    programs = environment.python(superset.settings.cache_dir).parent
    variables = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SUPERSET_HOME": str(tmp_path),
        "SUPERSET_CONFIG_PATH": str(PROJECT_ROOT / "services/superset/superset_config.py"),
        **{name: here(value) for name, value in service["environment"].items()},
    }
    command = [str(programs / service["command"][0]), *map(here, service["command"][1:])]
    check = [str(programs / service["healthcheck"]["test"][1]), *map(here, service["healthcheck"]["test"][2:])]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=PROJECT_ROOT, env=variables, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while subprocess.run(check, env=variables, capture_output=True, check=False).returncode != 0:
            assert server.poll() is None, (tmp_path / "log").read_text()[-4000:]
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-4000:]
            time.sleep(1)
    finally:
        server.terminate()
        server.wait(60)
