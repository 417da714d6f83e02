"""Apicurio Registry: the schema registry, its schemas in a Postgres database of its own."""

from __future__ import annotations

from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from services.embedded import jars, passwords
from services.embedded.java import server_java
from services.embedded.server import Launch, Server


class Registry(Server):
    """The schema registry with the Confluent-compatible API."""

    name = "registry"
    port_settings = ("registry_port", "registry_management_port")
    needs = ("postgres",)

    @property
    def version(self) -> str:
        """Apicurio's own."""
        return jars.version_of(self.name)

    @property
    def url(self) -> str:
        """The Confluent-compatible API."""
        return f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def prepare(self) -> None:
        """Unpack its archive, once; its data is in Postgres."""
        self.folder.mkdir(parents=True, exist_ok=True)
        jars.unpack(self.name, self.settings.cache_dir)

    def launch(self) -> Launch:
        """One Java process; the database's password goes by its environment."""
        port, management_port = self.ports.values()
        properties = {
            "apicurio.storage.kind": "sql",
            "apicurio.storage.sql.kind": "postgresql",
            "apicurio.datasource.url": f"jdbc:postgresql://127.0.0.1:{self.settings.postgres_port}/registry",
            "apicurio.datasource.username": "registry",
            "apicurio.datasource.jdbc.initial-size": "2",  # not 20 of Postgres's 100 connections
            "apicurio.datasource.jdbc.min-size": "2",
            "apicurio.datasource.jdbc.max-size": "10",
            "quarkus.http.host": "127.0.0.1",
            "quarkus.http.port": str(port),
            "quarkus.management.host": "127.0.0.1",
            "quarkus.management.port": str(management_port),
        }
        jar = jars.unpack(self.name, self.settings.cache_dir) / "quarkus-run.jar"
        flags = (*server_java(self.mark, self.folder), "-XX:TieredStopAtLevel=1", "-Xms128m", "-Xmx384m")
        flags += tuple(f"-D{name}={value}" for name, value in properties.items())
        password = passwords.read(self.state)["registry"]
        secret = {"APICURIO_DATASOURCE_PASSWORD": password}
        return Launch((*flags, "-jar", str(jar)), self.folder, secret)

    def is_healthy(self) -> bool:
        """Whether it lists its subjects, which it reads from Postgres."""
        try:
            # Without a proxy: it is on this machine.
            with build_opener(ProxyHandler({})).open(f"{self.url}/subjects", timeout=2) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False
