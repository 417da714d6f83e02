"""Apache Kafka: one node, broker and controller in one process (KRaft), on loopback."""

from __future__ import annotations

import shutil
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from services.embedded import jars
from services.embedded.java import server_java
from services.embedded.server import Launch, Server, ServerError, is_listening

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    # One node holds the only copy of everything.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    # A producer that was killed gives up its transaction, past which nobody reads, as soon as its timeout says.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # A consumer that was killed gives its partitions back in seconds.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
    "group.consumer.heartbeat.interval.ms": "1000",
}


class Kafka(Server):
    """The broker."""

    name = "kafka"
    port_settings = ("kafka_port", "kafka_controller_port")

    @property
    def version(self) -> str:
        """Kafka's own."""
        return jars.version_of(self.name)

    def prepare(self) -> None:
        """Format the folder, once."""
        data = self.folder / "data"
        if data.exists():
            return
        new = self.folder / "new"  # renamed when whole
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        properties = self._write_properties(new)
        format_it = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(properties))
        if self._java("-Xmx128m", "-XX:TieredStopAtLevel=1", *format_it).run(self.log) != 0:
            raise ServerError(f"The folder for kafka can't be made: see {self.log}.")
        new.rename(data)

    def launch(self) -> Launch:
        """Broker and controller in one Java process."""
        properties = self._write_properties(self.folder / "data")
        return self._java("-Xms256m", "-Xmx512m", "kafka.Kafka", str(properties))

    def is_healthy(self) -> bool:
        """Whether it gives its metadata to a client."""
        if not is_listening(self.port):  # quicker to say than the client, which retries
            return False
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            AdminClient(
                {"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0, "socket.timeout.ms": 1000}
            ).list_topics(timeout=1)
        except KafkaException:
            return False
        return True

    def _java(self, *words: str) -> Launch:
        flags = (*server_java(self.mark, self.folder), "-Dorg.slf4j.simpleLogger.showDateTime=true")
        flags += ("-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",)
        class_path = jars.class_path(self.name, self.settings.cache_dir)
        return Launch((*flags, "-cp", class_path, *words), self.folder)

    def _write_properties(self, data: Path) -> Path:
        broker, controller = self.ports.values()
        settings = {
            **SETTINGS,
            "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(data),
        }
        file = self.folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        return file
