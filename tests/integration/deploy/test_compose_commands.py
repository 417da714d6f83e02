"""Each service's command line and health check as docker-compose.yml has them, run without containers.

Only what a container has of its own is put in place: the names of hosts, the folder of secrets, the ports.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import psycopg
import pytest

from services.docker.connect_image import lay_out
from services.embedded import jars
from services.embedded.java import java
from services.settings import PROJECT_ROOT, Settings
from tests.integration.conftest import CONNECTIONS, free_ports
from tests.integration.deploy.conftest import address
from tests.unit.deploy.conftest import Stack
from tests.unit.deploy.conftest import compose as compose

DEADLINE_S = 300


@dataclass(frozen=True)
class Place:
    """Puts words of the compose file into the place of this test."""

    compose: Stack
    replaced: dict[str, str]
    state: Path

    def here(self, text: str) -> str:
        """`text` with our hosts, ports and folders."""
        for there, ours in self.replaced.items():
            text = text.replace(there, ours)
        return text.replace("$$", "$")

    def environment(self, service: str) -> dict[str, str]:
        """The service's variables, and of ours only those that the image sets."""
        own = self.compose["services"][service].get("environment", {})
        unset = {*CONNECTIONS, "DAGSTER_HOME"}
        outer = {name: value for name, value in os.environ.items() if name not in unset}
        image = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "SCOPEHOUSE_STATE_DIR": str(self.state / service),
            "DAGSTER_HOME": str(self.state / "dagster"),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
        }
        return {**outer, **image, **{name: self.here(value) for name, value in own.items()}}

    def words(self, service: str, key: str = "command") -> list[str]:
        """Its command, or its health check's."""
        found = self.compose["services"][service]
        words = found["command"] if key == "command" else found["healthcheck"]["test"]
        if words[0] == "CMD-SHELL":
            words = ["sh", "-c", words[1]]
        elif words[0] == "CMD":
            words = words[1:]
        return [self.here(word) for word in words]

    def run(self, service: str, key: str = "command") -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.words(service, key),
            cwd=PROJECT_ROOT,
            env=self.environment(service),
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )

    @contextmanager
    def running(self, service: str) -> Iterator[subprocess.Popen[bytes]]:
        """It runs until the block ends."""
        (self.state / service).mkdir(parents=True, exist_ok=True)
        with self.log(service).open("wb") as output:
            process = subprocess.Popen(
                self.words(service), cwd=PROJECT_ROOT, env=self.environment(service), stdout=output, stderr=output
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def becomes_healthy(self, service: str, process: subprocess.Popen[bytes]) -> None:
        """Wait for its health check to succeed."""
        wait_until(lambda: process.poll() is not None or self.run(service, "healthcheck").returncode == 0)
        assert process.poll() is None, f"ended with {process.returncode}: {self.log(service).read_text()[-4000:]}"

    def log(self, service: str) -> Path:
        """What it said."""
        return self.state / f"{service}.log"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(1)


@pytest.fixture(scope="module")
def place(stack: Settings, secrets: Path, compose: Stack, tmp_path_factory: pytest.TempPathFactory) -> Place:
    state = tmp_path_factory.mktemp("containers")
    (state / "dagster").mkdir()
    configuration = compose["configs"]["dagster"]["file"]
    (state / "dagster" / "dagster.yaml").symlink_to(configuration)
    registry = urlsplit(stack.registry_url)
    metrics, web, connect = free_ports(3)
    replaced = {
        "@postgres:5432": f"@{address(stack)}",
        "kafka:9092": stack.bootstrap_servers,
        "registry:8080": f"{registry.hostname}:{registry.port}",
        "127.0.0.1/8080": f"127.0.0.1/{registry.port}",
        "127.0.0.1/9092": f"127.0.0.1/{stack.bootstrap_servers.rpartition(':')[2]}",
        "127.0.0.1/8083": f"127.0.0.1/{connect}",
        "0.0.0.0:8083": f"127.0.0.1:{connect}",
        "9108": str(metrics),
        "3000": str(web),
        "0.0.0.0": "127.0.0.1",  # noqa: S104 the container's own
        "/run/secrets": str(secrets),
    }
    # Where a name stands alone.
    services = {
        name: {**service, "environment": dict(service.get("environment", {}))}
        for name, service in compose["services"].items()
    }
    host, _, port = address(stack).partition(":")
    for name in ("dagster-web", "dagster-daemon"):
        services[name]["environment"] |= {"DAGSTER_POSTGRES_HOST": host, "DAGSTER_POSTGRES_PORT": port}
    return Place({**compose, "services": services}, replaced, state)


def test_one_shots_make_roles_then_bring_the_warehouse_up_to_date(place: Place) -> None:
    for service in ("roles", "migrate"):
        done = place.run(service)
        assert done.returncode == 0, done.stderr


def test_servers_are_found_healthy_and_not_where_nobody_listens(place: Place) -> None:
    for service in ("kafka", "registry"):
        wait_until(lambda service=service: place.run(service, "healthcheck").returncode == 0)
    nowhere = Place(place.compose, {"127.0.0.1/8080": "127.0.0.1/1", "127.0.0.1/9092": "127.0.0.1/1"}, place.state)
    for service in ("kafka", "registry"):
        assert nowhere.run(service, "healthcheck").returncode != 0, service


def test_postgres_knows_each_setting_that_it_is_given(stack: Settings, place: Place) -> None:
    words = place.words("postgres")
    assert words[0] == "postgres"
    assert set(words[1::2]) == {"-c"}
    with psycopg.connect(stack.url_of("migrate")) as connection:
        for word in words[2::2]:
            name, _, value = word.partition("=")
            found = connection.execute(
                "select enumvals, vartype from pg_settings where lower(name) = %s", [name]
            ).fetchone()
            assert found is not None, name
            if found[1] == "enum":
                assert value in found[0], name


def test_kafka_knows_each_property_and_can_format_its_folder(stack: Settings, place: Place, tmp_path: Path) -> None:
    variables = place.compose["services"]["kafka"]["environment"]
    properties = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in variables.items()
        if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS"
    }
    class_path = jars.class_path("kafka", stack.cache_dir)
    told = subprocess.run(
        [str(java()), "-XX:TieredStopAtLevel=1", "-cp", class_path, "kafka.server.KafkaConfig"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert 'id="brokerconfigs_log.dirs"' in told
    unknown = [name for name in properties if f'id="brokerconfigs_{name}"' not in told]
    assert not unknown
    file = tmp_path / "server.properties"
    properties["log.dirs"] = str(tmp_path / "data")
    file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    words = ["format", f"--cluster-id={variables['CLUSTER_ID']}", "-c", str(file)]
    done = subprocess.run(
        [str(java()), "-XX:TieredStopAtLevel=1", "-cp", class_path, "kafka.tools.StorageTool", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_sink_lands_records_is_healthy_and_ends_when_told(place: Place) -> None:
    with place.running("sink") as sink:
        place.becomes_healthy("sink", sink)
        sink.terminate()
        assert sink.wait(60) == 0


def test_dagster_keeps_its_runs_in_postgres_and_its_web_server_and_daemon_are_healthy(place: Place) -> None:
    done = place.run("roles")
    assert done.returncode == 0, done.stderr
    with ExitStack() as both:
        running = {name: both.enter_context(place.running(name)) for name in ("dagster-web", "dagster-daemon")}
        for name, process in running.items():
            place.becomes_healthy(name, process)
    assert not list((place.state / "dagster").glob("**/runs*.db"))


def test_connect_has_its_plugins(stack: Settings, place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "connect"
    folder.mkdir()
    lay_out(stack, folder)
    assert not [file for file in folder.rglob("*") if file.is_symlink()]
    properties = folder / "worker.properties"
    properties.write_text(place.here(properties.read_text()).replace("rest.advertised.host.name=connect\n", ""))
    script, path = "/opt/kafka/bin/connect-distributed.sh", "/opt/connect/worker.properties"
    assert f"{script} {path}" in place.words("connect")[-1]
    class_path = jars.class_path("connect", stack.cache_dir)
    flags = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx512m"
    started = f"{java()} {flags} -cp '{class_path}' org.apache.kafka.connect.cli.ConnectDistributed {properties}"
    here = Place(place.compose, {**place.replaced, f"{script} {path}": started}, place.state)
    (Path(here.replaced["/run/secrets"]) / "scopehouse_cdc").write_text("secret")
    with here.running("connect") as worker:
        here.becomes_healthy("connect", worker)
        port = here.replaced["127.0.0.1/8083"].rpartition("/")[2]
        environment = Path(f"/proc/{worker.pid}/environ")
        if environment.exists():
            assert b"ADVENTURE_PASSWORD=secret" in environment.read_bytes().split(b"\0")
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/connector-plugins") as answer:
            plugins = answer.read().decode()
    assert "io.debezium.connector.postgresql.PostgresConnector" in plugins
