"""Every setting, read once and validated.

A setting comes from the environment, else from ``connections.env`` in the state folder (written by ``scopehouse
up`` for the embedded servers), else from its default here.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from platformdirs import user_cache_path
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.errors import MendableError

PROJECT_ROOT = Path(__file__).resolve().parents[1]

Role = Literal["admin", "migrate", "ingest", "transform", "bi"]


class SettingsError(MendableError):
    """A setting is missing or wrong; the message is one sentence that says what to do."""


class Settings(BaseSettings):
    """What the environment says. Field names are ours; the variables' names are the aliases."""

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore", populate_by_name=True, frozen=True
    )

    state_dir: Path = Field(PROJECT_ROOT / ".scopehouse", alias="SCOPEHOUSE_STATE_DIR")
    cache_dir: Path = Field(
        default_factory=lambda: user_cache_path("scopehouse"),
        alias="SCOPEHOUSE_CACHE_DIR",
        description="jars are fetched into it once",
    )

    secrets_dir: Path | None = Field(
        None,
        alias="SCOPEHOUSE_SECRETS_DIR",
        description="a folder of files: one named as a setting holds its value, one named as a login its password",
    )

    scopes_dir: Path | None = Field(
        None,
        alias="SCOPEHOUSE_SCOPES_DIR",
        description="passwords of data scopes' logins, one file each; Superset reads it too; none: in the state folder",
    )

    # Where the warehouse, the broker and the registry are. One URL does for every role; a role's own URL wins.
    database_url: SecretStr | None = Field(None, alias="DATABASE_URL", description="scopehouse_transform's")
    admin_database_url: SecretStr | None = Field(
        None, alias="SCOPEHOUSE_ADMIN_DATABASE_URL", description="a superuser's; `scopehouse roles` alone uses it"
    )
    migrate_database_url: SecretStr | None = Field(None, alias="SCOPEHOUSE_MIGRATE_DATABASE_URL")
    ingest_database_url: SecretStr | None = Field(None, alias="SCOPEHOUSE_INGEST_DATABASE_URL")
    bi_database_url: SecretStr | None = Field(None, alias="SCOPEHOUSE_BI_DATABASE_URL")
    kafka_bootstrap_servers: str | None = Field(None, alias="KAFKA_BOOTSTRAP_SERVERS")
    schema_registry_url: str | None = Field(None, alias="SCHEMA_REGISTRY_URL")
    connect_url: str | None = Field(
        None, alias="SCOPEHOUSE_CONNECT_URL", description="Kafka Connect's REST API; none: no changes are captured"
    )
    # The e-bike company's database, a source: its own login, and that of change capture, which only reads.
    adventure_database_url: SecretStr | None = Field(None, alias="SCOPEHOUSE_ADVENTURE_DATABASE_URL")
    cdc_database_url: SecretStr | None = Field(None, alias="SCOPEHOUSE_CDC_DATABASE_URL")
    kafka_properties: Path | None = Field(
        None,
        alias="SCOPEHOUSE_KAFKA_PROPERTIES",
        description="a file of librdkafka's name=value lines (TLS, SASL); schema.registry.* are the registry client's",
    )

    # What `ingest run` tells Prometheus, and where its listener is; 0 is none.
    metrics_port: int = Field(0, alias="SCOPEHOUSE_METRICS_PORT", ge=0, le=65535)
    metrics_address: str = Field("127.0.0.1", alias="SCOPEHOUSE_METRICS_ADDRESS")

    # The embedded servers' ports.
    postgres_port: int = Field(15432, alias="SCOPEHOUSE_POSTGRES_PORT", ge=1, le=65535)
    kafka_port: int = Field(19092, alias="SCOPEHOUSE_KAFKA_PORT", ge=1, le=65535)
    kafka_controller_port: int = Field(19093, alias="SCOPEHOUSE_KAFKA_CONTROLLER_PORT", ge=1, le=65535)
    registry_port: int = Field(18081, alias="SCOPEHOUSE_REGISTRY_PORT", ge=1, le=65535)
    registry_management_port: int = Field(18082, alias="SCOPEHOUSE_REGISTRY_MANAGEMENT_PORT", ge=1, le=65535)
    connect_port: int = Field(18083, alias="SCOPEHOUSE_CONNECT_PORT", ge=1, le=65535)
    superset_port: int = Field(18088, alias="SCOPEHOUSE_SUPERSET_PORT", ge=1, le=65535)

    contracts_dir: Path | None = Field(
        None, alias="SCOPEHOUSE_CONTRACTS_DIR", description="contracts of one's own instead of ingest/contracts"
    )

    # Sources.
    owid_co2_source: str | None = Field(
        None, alias="SCOPEHOUSE_OWID_CO2_SOURCE", description="path or URL of OWID's CO2 CSV"
    )
    climatiq_api_key: SecretStr | None = Field(None, alias="CLIMATIQ_API_KEY", description="none: nothing is asked")
    climatiq_url: str = Field("https://api.climatiq.io", alias="SCOPEHOUSE_CLIMATIQ_URL")
    climatiq_activity_id: str = Field(
        "passenger_vehicle-vehicle_type_motorcycle_bicycle_parts-fuel_source_na-engine_size_na-vehicle_age_na"
        "-vehicle_weight_na",
        alias="SCOPEHOUSE_CLIMATIQ_ACTIVITY_ID",
        description="what a bike is bought as",
    )
    climatiq_data_version: str = Field(
        "29", alias="SCOPEHOUSE_CLIMATIQ_DATA_VERSION", pattern=r"^\^?\d+(\.\d+)?$", description="^29 moves, 29 stays"
    )
    climatiq_monthly_calls: int = Field(
        250, alias="SCOPEHOUSE_CLIMATIQ_MONTHLY_CALLS", ge=0, description="a calendar month in UTC"
    )

    # The sink: a batch closes by whichever comes first.
    consumer_group: str = Field("scopehouse", alias="SCOPEHOUSE_CONSUMER_GROUP")
    group_protocol: Literal["consumer", "classic"] = Field(
        "consumer", alias="SCOPEHOUSE_GROUP_PROTOCOL", description="classic: for brokers before Kafka 4.0"
    )
    batch_rows: int = Field(25_000, alias="SCOPEHOUSE_BATCH_ROWS", ge=1)
    batch_bytes: int = Field(8 * 1024 * 1024, alias="SCOPEHOUSE_BATCH_BYTES", ge=1)
    batch_milliseconds: int = Field(500, alias="SCOPEHOUSE_BATCH_MILLISECONDS", ge=1)

    # Dead letters: past a share of the latest records, or so many in a row, a partition stops.
    dead_letter_share: float = Field(0.5, alias="SCOPEHOUSE_DEAD_LETTER_SHARE", gt=0, le=1, description="1: no limit")
    dead_letter_run: int = Field(1_000, alias="SCOPEHOUSE_DEAD_LETTER_RUN", ge=1)
    dead_letter_days: int = Field(90, alias="SCOPEHOUSE_DEAD_LETTER_DAYS", ge=1, description="then they are deleted")

    def url_of(self, role: Role) -> str:
        """The Postgres URL that `role` connects with, its password from the secrets where the URL has none.

        Raises:
            SettingsError: neither the role's own variable nor DATABASE_URL is set.
        """
        own = {
            "admin": self.admin_database_url,
            "migrate": self.migrate_database_url,
            "ingest": self.ingest_database_url,
            "transform": self.database_url,
            "bi": self.bi_database_url,
        }[role]
        url = own or self.database_url
        if url is None:
            raise SettingsError("No Postgres is set: run `scopehouse up`, or set DATABASE_URL to your own.")
        return self._with_password(url.get_secret_value())

    def source_url(self, role: Literal["adventure", "cdc"]) -> str:
        """The URL of the e-bike company's database for its own login, or for change capture.

        Raises:
            SettingsError: it is not set.
        """
        url = self.adventure_database_url if role == "adventure" else self.cdc_database_url
        if url is None:
            raise SettingsError(
                "The e-bike company's database is not set: run `scopehouse up --with connect`, or set "
                f"SCOPEHOUSE_{role.upper()}_DATABASE_URL."
            )
        return self._with_password(url.get_secret_value())

    @property
    def bootstrap_servers(self) -> str:
        """The broker's address list. Raises SettingsError where none is set."""
        if self.kafka_bootstrap_servers is None:
            raise SettingsError("No Kafka is set: run `scopehouse up`, or set KAFKA_BOOTSTRAP_SERVERS to your own.")
        return self.kafka_bootstrap_servers

    @property
    def registry_url(self) -> str:
        """The schema registry's Confluent-compatible API. Raises SettingsError where none is set."""
        if self.schema_registry_url is None:
            raise SettingsError(
                "No schema registry is set: run `scopehouse up`, or set SCHEMA_REGISTRY_URL to your own."
            )
        return self.schema_registry_url

    def _with_password(self, url: str) -> str:
        parts = urlsplit(url)
        if self.secrets_dir is None or parts.username is None or parts.password is not None:
            return url
        file = self.secrets_dir / unquote(parts.username)
        if not file.is_file():
            return url
        login, _, server = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}:{quote(file.read_text().strip(), safe='')}@{server}").geturl()

    @property
    def connections_file(self) -> Path:
        """What ``up`` writes: the running servers' addresses and passwords, readable by the owner only."""
        return self.state_dir / "connections.env"


def read_settings() -> Settings:
    """Read the settings as they stand now.

    Raises:
        SettingsError: a variable has a value that can't be used; the sentence names it.
    """
    state_dir = Path(os.environ.get("SCOPEHOUSE_STATE_DIR") or PROJECT_ROOT / ".scopehouse")
    # It may be missing, or lie where nobody may write: with servers of one's own nothing needs it.
    if not next(each for each in (state_dir, *state_dir.parents) if each.exists()).is_dir():
        raise SettingsError(f"SCOPEHOUSE_STATE_DIR names {state_dir}, which can't be a folder: name another.")
    try:
        return Settings(_env_file=state_dir / "connections.env", _secrets_dir=_secrets_dir())  # type: ignore[call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{first['loc'][0]} can't be used: {first['msg']}.") from error


def _secrets_dir() -> Path | None:
    name = os.environ.get("SCOPEHOUSE_SECRETS_DIR")
    if name and not Path(name).is_dir():
        raise SettingsError(f"SCOPEHOUSE_SECRETS_DIR names {name}, which is no folder: make it, or name another.")
    return Path(name) if name else None


@cache
def settings() -> Settings:
    """The process's settings, read at the first call."""
    return read_settings()


def postgres_environment(url: str) -> dict[str, str]:
    """The PG* variables of a Postgres URL, which libpq, psql and dbt's profile read; its parameters (`sslmode`,
    `sslrootcert` and so on) are among them.

    Raises:
        SettingsError: the URL is none.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import Conninfo

    variables = {option.keyword.decode(): option.envvar for option in Conninfo.get_defaults()}
    try:
        parts = {"host": "127.0.0.1", "port": "5432", "user": "", "password": "", "dbname": "", **conninfo_to_dict(url)}
    except ProgrammingError:
        raise SettingsError(
            "A database's URL can't be read: write it as postgresql://user:password@host:port/database."
        ) from None
    return {
        variable.decode(): str(value) for name, value in parts.items() if (variable := variables.get(name)) is not None
    }
