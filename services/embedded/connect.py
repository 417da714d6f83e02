"""Kafka Connect: one distributed worker on loopback, with the plugins that it is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener
from zipfile import ZipFile

from services.embedded import jars, passwords
from services.embedded.java import server_java
from services.embedded.server import Launch, Server
from services.settings import Settings

# Plugins that come without the entry by which Connect finds them at once, and what stands in it.
_ENTRIES = {
    "avro-converter": {
        "org.apache.kafka.connect.storage.Converter": "io.apicurio.registry.utils.converter.AvroConverter",
    },
}
# What the worker has already: a second copy of its classes would not be its own.
_WORKERS_OWN = ("kafka-clients", "connect-", "lz4-", "snappy-", "zstd-", "slf4j-")

SETTINGS = {
    "group.id": "scopehouse-connect",
    "key.converter": "org.apache.kafka.connect.storage.StringConverter",
    "value.converter": "org.apache.kafka.connect.storage.StringConverter",
    **{
        f"{kind}.storage.{name}": value
        for kind in ("config", "offset", "status")
        for name, value in (("topic", f"connect_{kind}"), ("replication.factor", "1"))
    },
    "offset.storage.partitions": "4",
    "status.storage.partitions": "2",
    "offset.flush.interval.ms": "5000",
    "connector.client.config.override.policy": "All",
    "config.providers": "env",
    "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
    "exactly.once.source.support": "enabled",
    "plugin.discovery": "service_load",
    # One worker: when it was killed there is no other that its tasks could be left with, so nothing is waited for.
    "scheduled.rebalance.max.delay.ms": "0",
    "session.timeout.ms": "6000",
    "heartbeat.interval.ms": "2000",
}


class Connect(Server):
    """The worker, for change capture by default.

    `plugins` are names of `jars.ROOTS`; `variables` are those that connectors name as ${env:NAME}.
    """

    name = "connect"
    port_settings = ("connect_port",)
    # Stopped before Postgres, which waits for those who replicate.
    needs = ("postgres", "kafka", "registry")

    def __init__(
        self,
        settings: Settings,
        plugins: tuple[str, ...] = ("debezium-postgres", "avro-converter"),
        variables: Mapping[str, str] | None = None,
    ):
        super().__init__(settings)
        self.plugins = plugins
        self._variables = variables

    @property
    def version(self) -> str:
        """Kafka's."""
        return jars.version_of(self.name)

    @property
    def url(self) -> str:
        """Its REST API."""
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Lay out the plugins; what it knows is in Kafka. Fetch the jars of it and of them first."""
        folder = self.folder / "plugins"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for plugin in self.plugins:
            self._lay_out(plugin, folder / plugin)

    def launch(self) -> Launch:
        """One Java process."""
        properties = {
            **SETTINGS,
            "bootstrap.servers": f"127.0.0.1:{self.settings.kafka_port}",
            "listeners": self.url,
            "plugin.path": str(self.folder / "plugins"),
        }
        file = self.folder / "worker.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        flags = (*server_java(self.mark, self.folder), "-Xms256m", "-Xmx768m")
        flags += ("-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        class_path = jars.class_path(self.name, self.settings.cache_dir)
        main = "org.apache.kafka.connect.cli.ConnectDistributed"
        variables = self._capture_variables() if self._variables is None else dict(self._variables)
        return Launch((*flags, "-cp", class_path, main, str(file)), self.folder, variables)

    def _capture_variables(self) -> dict[str, str]:
        """What services/connect/*.json name: the embedded servers."""
        return {
            "ADVENTURE_HOST": "127.0.0.1",
            "ADVENTURE_PORT": str(self.settings.postgres_port),
            "ADVENTURE_PASSWORD": passwords.read(self.state)["scopehouse_cdc"],
            "REGISTRY_URL": f"http://127.0.0.1:{self.settings.registry_port}/apis/registry/v2",
        }

    def is_healthy(self) -> bool:
        """Whether it lists its connectors."""
        try:
            self.ask("GET", "/connectors", timeout=2)
        except (URLError, OSError):
            return False
        return True

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 30) -> Any:
        """One call of its REST API; the answer's JSON, None where it has none.

        Raises:
            HTTPError: it refuses.
            URLError: it can't be reached.
        """
        content = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, content, {"Content-Type": "application/json"}, method=method)  # noqa: S310
        with build_opener(ProxyHandler({})).open(request, timeout=timeout) as response:
            answer = response.read()
        return json.loads(answer) if answer else None

    def state_of(self, connector: str) -> tuple[list[str], str]:
        """The states of a connector and its tasks, and the trace of one that failed (empty where none did)."""
        try:
            status = self.ask("GET", f"/connectors/{connector}/status")
        except HTTPError as error:
            if error.code == 404:
                return [], ""
            raise
        parts = [status["connector"], *status["tasks"]]
        return [part["state"] for part in parts], next((part["trace"] for part in parts if part.get("trace")), "")

    def _lay_out(self, plugin: str, folder: Path) -> None:
        if len(jars.ROOTS[plugin]) == 1 and jars.ROOTS[plugin][0].endswith(":tar.gz"):
            folder.symlink_to(jars.unpack(plugin, self.settings.cache_dir), target_is_directory=True)
            return
        folder.mkdir()
        for jar in jars.locked(plugin):
            file = jar.path(self.settings.cache_dir)
            if not file.name.startswith(_WORKERS_OWN):
                (folder / file.name).symlink_to(file)
        with ZipFile(folder / "entries.jar", "w") as entries:
            for service, implementation in _ENTRIES.get(plugin, {}).items():
                entries.writestr(f"META-INF/services/{service}", implementation + "\n")
