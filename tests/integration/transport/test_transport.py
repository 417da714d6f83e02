"""Postgres, Kafka and the registry by TLS: the whole path works, and what is not to be trusted is refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from pydantic import SecretStr

from ingest import clients
from ingest.contracts import topics
from ingest.database.migrate import migrate
from ingest.sink import broker
from ingest.sink.drain import drain
from ingest.sink.landing import connect
from ingest.sink.observer import Observer
from ingest.sink.offsets import Advance
from ingest.sink.run import run
from ingest.sources.tracking_events import produce_tracking_events
from scopehouse.sink_status import sink_status
from services.errors import MendableError
from services.settings import Settings, postgres_environment
from tests.integration.transport.conftest import PASSWORD, Secure

TOPIC = "tracking_events"


class UntilLanded(Observer):
    """Stops a sink when so many rows have landed."""

    def __init__(self, wanted: int) -> None:
        self.stop = threading.Event()
        self.rows = 0
        self._wanted = wanted

    def landed(self, advances: Sequence[Advance], size: int, seconds: float) -> None:
        self.rows += sum(advance.rows for advance in advances)
        if self.rows >= self._wanted:
            self.stop.set()


@pytest.fixture(scope="module")
def migrated(secure: Secure) -> Secure:
    migrate(secure.settings)
    drain(secure.settings, [TOPIC])
    return secure


@pytest.fixture
def hasty(migrated: Secure, monkeypatch: pytest.MonkeyPatch) -> Secure:
    """For what fails: no request waits long for a broker that will never be trusted."""
    for module in (broker, topics):
        monkeypatch.setattr(module, "TIMEOUT_SECONDS", 3.0)
    return migrated


def test_the_whole_path_goes_by_tls(migrated: Secure) -> None:
    settings = migrated.settings
    produce_tracking_events(settings, events=300, seed=1)
    assert drain(settings, [TOPIC])[TOPIC].rows == 300
    produce_tracking_events(settings, events=200, seed=1)
    until = UntilLanded(200)
    give_up = threading.Timer(180, until.stop.set)
    give_up.start()
    run(settings, until.stop, [TOPIC], until)
    give_up.cancel()
    assert until.rows == 200
    status = sink_status(settings)
    assert status.problems == []
    assert {each.lag for each in status.partitions} == {0}


def test_no_server_is_reached_without_tls(hasty: Secure) -> None:
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(hasty.settings.url_of("ingest"), sslmode="disable", connect_timeout=5)
    plain = hasty.settings.model_copy(update={"kafka_properties": None})
    with pytest.raises(MendableError):
        drain(plain, [TOPIC])


def test_postgres_of_another_authority_is_refused(migrated: Secure) -> None:
    def replaced(url: SecretStr | None) -> SecretStr:
        assert url is not None
        text = url.get_secret_value()
        return SecretStr(text.replace(str(migrated.authority.certificate), str(migrated.foreign.certificate)))

    settings = migrated.settings.model_copy(
        update={
            "ingest_database_url": replaced(migrated.settings.ingest_database_url),
            "migrate_database_url": replaced(migrated.settings.migrate_database_url),
        }
    )
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        connect(settings)
    for do in (migrate, lambda each: drain(each, [TOPIC])):
        with pytest.raises(MendableError, match="certificate verify failed"):
            do(settings)
    assert any("certificate verify failed" in problem for problem in sink_status(settings).problems)


def test_postgres_by_a_name_that_its_certificate_lacks_is_refused(migrated: Secure) -> None:
    url = migrated.settings.url_of("ingest").replace("@127.0.0.1:", "@localhost:")
    with pytest.raises(psycopg.OperationalError, match=r'does not match host name "localhost"'):
        psycopg.connect(url)


def test_what_dbt_connects_with_checks_the_certificate(migrated: Secure) -> None:
    # psycopg2, which dbt uses, with the variables that its profile and libpq read.
    program = (
        "import os, psycopg2; c = psycopg2.connect(host=os.environ['PGHOST'], port=os.environ['PGPORT'], "
        "user=os.environ['PGUSER'], password=os.environ['PGPASSWORD'], dbname=os.environ['PGDATABASE']); "
        "print(c.info.ssl_in_use, c.info.dsn_parameters['sslmode'])"
    )

    def answer(authority: Path) -> subprocess.CompletedProcess[str]:
        url = migrated.settings.url_of("transform").replace(str(migrated.authority.certificate), str(authority))
        environment = {**os.environ, **postgres_environment(url)}
        words = [sys.executable, "-c", program]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    assert answer(migrated.authority.certificate).stdout.split() == ["True", "verify-full"]
    assert "certificate verify failed" in answer(migrated.foreign.certificate).stderr


def test_a_broker_of_another_authority_is_refused(hasty: Secure) -> None:
    settings = hasty.with_properties(ssl__ca__location=str(hasty.foreign.certificate))
    for do in (migrate, lambda each: drain(each, [TOPIC]), lambda each: produce_tracking_events(each, events=1)):
        with pytest.raises(MendableError, match="certificate verify failed"):
            do(settings)
    assert any("certificate verify failed" in problem for problem in sink_status(settings).problems)


def test_a_wrong_password_is_said_and_not_told(hasty: Secure) -> None:
    settings = hasty.with_properties(sasl__password="not-the-password")
    with pytest.raises(MendableError, match=r"(?i)authentication") as refused:
        drain(settings, [TOPIC])
    assert "not-the-password" not in str(refused.value)


def test_a_login_by_scram_is_let_in(hasty: Secure) -> None:
    inside = AdminClient({"bootstrap.servers": f"127.0.0.1:{hasty.settings.kafka_port}"})
    credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
    user = UserScramCredentialUpsertion("scram-user", credential, PASSWORD.encode())
    for made in inside.alter_user_scram_credentials([user]).values():
        made.result(30)
    login = {"sasl__mechanism": "SCRAM-SHA-256", "sasl__username": "scram-user"}
    settings = hasty.with_properties(**login, sasl__password=PASSWORD)
    produce_tracking_events(settings, events=10, seed=1)
    assert drain(settings, [TOPIC])[TOPIC].rows == 10
    with pytest.raises(MendableError, match=r"(?i)authentication"):
        drain(hasty.with_properties(**login, sasl__password="not-the-password"), [TOPIC])


def test_a_registry_of_another_authority_is_refused(migrated: Secure) -> None:
    settings = migrated.with_properties(schema__registry__ssl__ca__location=str(migrated.foreign.certificate))
    with pytest.raises(MendableError, match=r"(?i)certificate.verify.failed"):
        migrate(settings)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("sasl.passwrod=secret-value", "sasl.passwrod"),
        ("security.protocol=SSL\nssl.ca.location=/nowhere/secret-value", "ssl.ca.location"),
        ("schema.registry.ssl.ca.location=/nowhere/secret-value", "schema.registry"),
        ("schema.registry.basic.auth.user.info=secret-value", "schema.registry"),
        ("secret-value", "Line 1"),
    ],
)
def test_a_wrong_line_of_the_properties_file_is_named_without_its_value(tmp_path: Path, line: str, named: str) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text(f"{line}\n")
    settings = Settings(
        kafka_bootstrap_servers="127.0.0.1:9", schema_registry_url="https://127.0.0.1:9", kafka_properties=file
    )
    with pytest.raises(clients.ClientSettingsError, match=named) as refused:
        clients.make_consumer(settings, **{"group.id": "x"})
        clients.make_registry(settings)
    assert "secret-value" not in str(refused.value)
    assert PASSWORD not in str(refused.value)
