"""Every client of Kafka and of the schema registry is made here: where the servers are, and how to get in.

TLS and logins come from the file that SCOPEHOUSE_KAFKA_PROPERTIES names: lines `name=value` with librdkafka's own
names, for consumers, producers and administration alike; lines `schema.registry.name=value` are the registry client's
(`ssl.ca.location`, `basic.auth.user.info` and so on). Nothing of it is logged.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.schema_registry import SchemaRegistryClient

from services.errors import MendableError
from services.settings import Settings

_REGISTRY = "schema.registry."
# Its client by itself waits for an answer for ever.
_REGISTRY_SECONDS = 10.0
# The registry's client takes these as numbers.
_REGISTRY_NUMBERS = (
    "timeout",
    "max.retries",
    "retries.wait.ms",
    "retries.max.wait.ms",
    "cache.capacity",
    "cache.latest.ttl.sec",
)


class ClientSettingsError(MendableError):
    """A client can't be made of what the properties file says; the sentence names the file, and no value of it."""


class Admin(AdminClient):  # type: ignore[misc]
    """A client for topics that can tell why a request got no answer; the request itself knows but that it timed out."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        said: deque[KafkaError] = deque(maxlen=5)

        def note(error: KafkaError) -> None:
            if error.code() != KafkaError._ALL_BROKERS_DOWN:  # that says no reason
                said.append(error)

        self._said = said
        super().__init__({**configuration, "error_cb": note, "log_level": 0})

    def words(self, error: BaseException) -> str:
        """What went wrong with a request, in words."""
        self.poll(0)
        code = error.args[0].code() if isinstance(error, KafkaException) else KafkaError._TIMED_OUT
        if code in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN) and self._said:
            return str(self._said[-1].str())
        return str(error.args[0].str()) if isinstance(error, KafkaException) else "no answer"


def make_consumer(settings: Settings, **own: Any) -> Consumer:
    """A consumer; `own` wins over the properties file. Connects to nothing yet. Raises ClientSettingsError."""
    return _make(Consumer, settings, own)


def make_producer(settings: Settings, **own: Any) -> Producer:
    """A producer; `own` wins over the properties file. Connects to nothing yet. Raises ClientSettingsError."""
    return _make(Producer, settings, own)


def make_admin(settings: Settings, **own: Any) -> Admin:
    """A client for topics; `own` wins over the properties file. Connects to nothing yet. Raises ClientSettingsError."""
    admin: Admin = _make(Admin, settings, own)
    return admin


def make_registry(settings: Settings, **own: Any) -> SchemaRegistryClient:
    """A client of the registry; `own` wins over the properties file. Asks nothing yet. Raises ClientSettingsError."""
    lines = read_properties(settings.kafka_properties)
    from_file: dict[str, Any] = {
        name.removeprefix(_REGISTRY): value for name, value in lines.items() if name.startswith(_REGISTRY)
    }
    try:
        from_file |= {name: float(from_file[name]) for name in _REGISTRY_NUMBERS if name in from_file}
        return SchemaRegistryClient({"timeout": _REGISTRY_SECONDS, **from_file, **own, "url": settings.registry_url})
    except (ValueError, TypeError, OSError) as error:
        # Their texts may quote a value.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise ClientSettingsError(
            f"The registry's client can't be made ({reason}): check SCHEMA_REGISTRY_URL and the lines {_REGISTRY}* "
            f"({', '.join(from_file) or 'none'}) of SCOPEHOUSE_KAFKA_PROPERTIES."
        ) from error


def read_properties(file: Path | None) -> dict[str, str]:
    """The lines `name=value` of a properties file; blank ones and comments (`#`, `!`) are passed over.

    Raises:
        ClientSettingsError: the file can't be read, or a line is none of these.
    """
    if file is None:
        return {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ClientSettingsError(
            f"SCOPEHOUSE_KAFKA_PROPERTIES names {file}, which can't be read: correct the path or the file."
        ) from error
    properties = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line[0] in "#!":
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise ClientSettingsError(f"Line {number} of {file} is not name=value: correct it.")
        properties[name.strip()] = value.strip()
    return properties


def _make(client: Any, settings: Settings, own: dict[str, Any]) -> Any:
    lines = read_properties(settings.kafka_properties)
    from_file = {name: value for name, value in lines.items() if not name.startswith(_REGISTRY)}
    try:
        return client({**from_file, **own, "bootstrap.servers": settings.bootstrap_servers})
    except KafkaException as error:
        raise ClientSettingsError(
            f"Kafka's client refuses its settings ({_without(from_file, error.args[0].str())}): "
            f"correct {settings.kafka_properties or 'them'}."
        ) from error


def _without(properties: dict[str, str], text: str) -> str:
    """The text without any value of the file, for one may be a password."""
    for value in sorted(filter(None, properties.values()), key=len, reverse=True):
        text = text.replace(value, "***")
    return text
