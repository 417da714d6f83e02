"""Servers of these tests' own that are reached by TLS on loopback, and the certificates that they show."""

from __future__ import annotations

import ipaddress
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from services.embedded import jars, passwords
from services.embedded.kafka import Kafka
from services.embedded.postgres import Postgres
from services.embedded.progress import silent
from services.embedded.registry import Registry
from services.embedded.server import Launch
from services.roles import DATABASE
from services.settings import Settings
from tests.integration.conftest import embedded_environment, free_ports

USER, PASSWORD = "scopehouse-sink", "correct-horse-battery"


@dataclass(frozen=True)
class Authority:
    """A certificate authority made for the test; `certificate` is a PEM file."""

    folder: Path
    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    certificate: Path

    @classmethod
    def make(cls, folder: Path) -> Authority:
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test authority {folder.name}")])
        certificate = _builder(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        file = folder / "ca.pem"
        file.write_bytes(certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return cls(folder, name, key, file)

    def issue(self) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 (no name besides) and its key, as PEM files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = _builder(subject, self.name, key).add_extension(address, False).sign(self.key, hashes.SHA256())
        files = self.folder / "server.pem", self.folder / "server-key.pem"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
    )


class SecureKafka(Kafka):
    """A broker with one more listener, for clients that come by TLS and with a password."""

    secure_port: int
    keystore: Path

    def _write_properties(self, data: Path) -> Path:
        file = super()._write_properties(data)
        text = file.read_text()
        for name in ("listeners=", "advertised.listeners="):
            text = text.replace(f"\n{name}", f"\n{name}SECURE://127.0.0.1:{self.secure_port},")
        text = text.replace("protocol.map=", "protocol.map=SECURE:SASL_SSL,")
        login = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        file.write_text(
            f"{text}ssl.keystore.type=PEM\nssl.keystore.location={self.keystore}\n"
            f"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256\nlistener.name.secure.plain.sasl.jaas.config={login}\n"
            "listener.name.secure.scram-sha-256.sasl.jaas.config="
            "org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
        )
        return file


class SecureRegistry(Registry):
    """A registry that listens for TLS too."""

    secure_port: int
    certificate: Path
    key: Path

    def launch(self) -> Launch:
        plain = super().launch()
        properties = {
            "quarkus.http.ssl-port": self.secure_port,
            "quarkus.http.ssl.certificate.files": self.certificate,
            "quarkus.http.ssl.certificate.key-files": self.key,
        }
        place = plain.argv.index("-jar")
        flags = tuple(f"-D{name}={value}" for name, value in properties.items())
        return replace(plain, argv=(*plain.argv[:place], *flags, *plain.argv[place:]))


@contextmanager
def postgres_behind_tls(postgres_port: int, certificate: Path, key: Path) -> Iterator[int]:
    """A TLS listener in front of a Postgres, for the embedded build has none of its own; its port.

    It answers a client's SSLRequest as a server with `ssl=on` does, and refuses whoever does not ask for TLS.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    def serve(plain: socket.socket) -> None:
        with plain:
            if plain.recv(8, socket.MSG_WAITALL) != struct.pack(">ii", 8, 80877103):
                return
            plain.sendall(b"S")
            try:
                with (
                    context.wrap_socket(plain, server_side=True) as client,
                    socket.create_connection(("127.0.0.1", postgres_port)) as server,
                ):
                    _pass_on(client, server)
            except OSError:
                pass  # the client did not like the certificate, or either side went

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[client], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def _pass_on(client: ssl.SSLSocket, server: socket.socket) -> None:
    """Carry bytes both ways until one side has said its last."""
    while True:
        ready = [client] if client.pending() else select.select([client, server], [], [])[0]
        for source in ready:
            data = source.recv(65_536)
            if not data:
                return
            (server if source is client else client).sendall(data)


@dataclass(frozen=True)
class Secure:
    """Everything by TLS; `foreign` is an authority that signed nothing here."""

    settings: Settings
    authority: Authority
    foreign: Authority
    folder: Path

    def with_properties(self, **changes: str) -> Settings:
        """The same settings with another properties file."""
        file = self.folder / f"changed-{len(list(self.folder.iterdir()))}.properties"
        lines = dict(line.split("=", 1) for line in self.settings.kafka_properties.read_text().splitlines())  # type: ignore[union-attr]
        lines |= {name.replace("__", "."): value for name, value in changes.items()}
        file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        return self.settings.model_copy(update={"kafka_properties": file})


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("transport")
    authority, foreign = Authority.make(folder / "ours"), Authority.make(folder / "foreign")
    certificate, key = authority.issue()
    own = Settings(**embedded_environment(folder / "state"))  # type: ignore[arg-type]
    (own.state_dir / "logs").mkdir(parents=True)
    own.state_dir.chmod(0o755)
    jars.ensure(("kafka", "registry"), own.cache_dir, silent)

    postgres, kafka, registry = Postgres(own), SecureKafka(own), SecureRegistry(own)
    kafka.secure_port, registry.secure_port = free_ports(2)
    kafka.keystore = folder / "kafka.pem"
    kafka.keystore.write_bytes(key.read_bytes() + certificate.read_bytes())
    registry.certificate, registry.key = certificate, key

    properties = folder / "kafka.properties"
    properties.write_text(
        f"security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username={USER}\nsasl.password={PASSWORD}\n"
        f"ssl.ca.location={authority.certificate}\nschema.registry.ssl.ca.location={authority.certificate}\n"
    )
    cancelled = threading.Event()
    try:
        with ThreadPoolExecutor(2) as pool:
            broker = pool.submit(kafka.start, cancelled)
            postgres.start(cancelled)
            registry.start(cancelled)
            broker.result()
        with postgres_behind_tls(own.postgres_port, certificate, key) as port:
            secrets = passwords.read(own.state_dir)

            def url(role: str) -> SecretStr:
                query = f"sslmode=verify-full&sslrootcert={authority.certificate}"
                return SecretStr(f"postgresql://{role}:{secrets[role]}@127.0.0.1:{port}/{DATABASE}?{query}")

            reached = {
                "database_url": url("scopehouse_transform"),
                "migrate_database_url": url("scopehouse_migrate"),
                "ingest_database_url": url("scopehouse_ingest"),
                "bi_database_url": url("scopehouse_bi"),
                "kafka_bootstrap_servers": f"127.0.0.1:{kafka.secure_port}",
                "schema_registry_url": urlsplit(registry.url)
                ._replace(scheme="https", netloc=f"127.0.0.1:{registry.secure_port}")
                .geturl(),
                "kafka_properties": properties,
            }
            yield Secure(own.model_copy(update=reached), authority, foreign, folder)
    finally:
        for server in (registry, kafka, postgres):
            server.stop()
