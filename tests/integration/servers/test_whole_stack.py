"""All three servers, through the command as a user runs it."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from services.embedded import passwords, stack
from services.settings import Settings, read_settings
from tests.integration.servers.conftest import Scopehouse, lives, processes_of

SCHEMA = {"schema": json.dumps({"type": "record", "name": "kept", "fields": [{"name": "id", "type": "long"}]})}


def states(scopehouse: Scopehouse) -> dict[str, str]:
    return {one["name"]: one["state"] for one in json.loads(scopehouse("status", "--json").stdout)["servers"]}


def everything(state: str) -> dict[str, str]:
    return dict.fromkeys(("postgres", "kafka", "registry"), state)


def register(subject: str) -> int:
    """Register a schema, as a producer does; its id."""
    request = Request(  # noqa: S310 - http, on this machine
        f"{read_settings().registry_url}/subjects/{subject}/versions",
        data=json.dumps(SCHEMA).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urlopen(request, timeout=10) as response:  # noqa: S310
        return int(json.load(response)["id"])


def topics() -> set[str]:
    return set(admin().list_topics(timeout=10).topics)


def admin() -> AdminClient:
    return AdminClient({"bootstrap.servers": read_settings().bootstrap_servers})


def test_a_day_in_the_life_of_the_servers(own: Settings, scopehouse: Scopehouse) -> None:
    assert states(scopehouse) == everything("stopped")
    assert "run `scopehouse up`" in scopehouse("env", code=1).stderr

    up = scopehouse("up")
    assert up.stdout == ""
    assert states(scopehouse) == everything("running")
    assert "postgres" in scopehouse("status").stdout

    # Its exports reach the servers from any shell.
    code = "import os, psycopg; print(psycopg.connect().info.dbname, os.environ['SCHEMA_REGISTRY_URL'])"
    command = Path(sys.executable).with_name("scopehouse")
    script = f'''eval "$({command} env)"; cd /; python -c "{code}"; psql -AXtc "select 'by psql'"; echo $DAGSTER_HOME'''
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    dagster_home = own.state_dir / "dagster"
    assert done.stdout.splitlines() == [f"scopehouse {read_settings().registry_url}", "by psql", str(dagster_home)]
    assert dagster_home.is_dir()

    # No password is on a command line, in a log, or where others may read it.
    secrets = passwords.read(own.state_dir).values()
    lines = " ".join(" ".join(words) for words in processes_of(own))
    logs = "".join(file.read_text(errors="replace") for file in (own.state_dir / "logs").iterdir())
    assert "registry" in lines
    assert logs
    assert not [secret for secret in secrets if secret in lines + logs + up.stderr]

    # What Java unpacks for itself is there, not in the machine's folder for temporary files, where it would pile up.
    assert list((own.state_dir / "registry" / "tmp").iterdir()) != []

    schema_id = register("kept-value")
    client = admin()  # held: its answers die with it
    client.create_topics([NewTopic("kept", 3, 1)])["kept"].result(timeout=10)

    # A crash of all three is seen, and mended with nothing lost; what runs is left alone.
    for name in stack.NAMES:
        stack.kill(own, name)
    assert states(scopehouse) == everything("died")
    scopehouse("up")
    pids = [one.pid for one in stack.status(own)]
    scopehouse("up")
    assert [one.pid for one in stack.status(own)] == pids
    assert register("kept-value") == schema_id
    assert "kept" in topics()

    # The registry gets over a restart of its Postgres.
    stack.restart(own, "postgres")
    deadline = time.monotonic() + 20
    while True:
        try:
            assert register("kept-value") == schema_id
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    scopehouse("down")
    assert states(scopehouse) == everything("stopped")
    assert processes_of(own) == []
    assert not any(lives(pid) for pid in pids if pid is not None)
    scopehouse("down")  # nothing runs: nothing to do


def test_a_taken_port_is_one_sentence_and_starts_nothing(own: Settings, scopehouse: Scopehouse) -> None:
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", own.kafka_port))
        foreign.listen()
        error = scopehouse("up", code=1).stderr
    assert f"Port {own.kafka_port} for kafka is taken" in error
    assert "SCOPEHOUSE_KAFKA_PORT" in error
    assert "Traceback" not in error
    assert processes_of(own) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_up_leaves_nothing_that_down_does_not_know(
    own: Settings, scopehouse: Scopehouse, how: signal.Signals
) -> None:
    program = Path(sys.executable).with_name("scopehouse")
    with subprocess.Popen([program, "up"], stderr=subprocess.PIPE, text=True) as up:
        while not any("kafka.Kafka" in words for words in processes_of(own)):
            time.sleep(0.02)
            assert up.poll() is None
        up.send_signal(how)
        up.communicate(timeout=60)
    if how == signal.SIGINT:
        assert up.returncode == 130
        assert processes_of(own) == []
    else:
        assert processes_of(own) != []
        scopehouse("down")
        assert processes_of(own) == []
