from __future__ import annotations

import pytest
from typer.testing import CliRunner

from ingest.sink.landing import connect
from scopehouse.cli import app
from services import settings as settings_module
from services.errors import MendableError
from services.sessions import open_session
from services.settings import Settings

NOBODY = "postgresql://someone:hidden@127.0.0.1:1/nothing"


def test_a_server_that_is_away_is_named_with_the_setting_and_without_the_password() -> None:
    shared = Settings(DATABASE_URL=NOBODY, SCOPEHOUSE_INGEST_DATABASE_URL=None)
    own = Settings(SCOPEHOUSE_INGEST_DATABASE_URL=NOBODY)
    for settings, variable in ((shared, "DATABASE_URL"), (own, "SCOPEHOUSE_INGEST_DATABASE_URL")):
        with pytest.raises(MendableError, match=rf"127\.0\.0\.1.* port 1 .*correct {variable}\.$") as caught:
            open_session(settings, "ingest", connect)
        assert "hidden" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_url_that_is_none_is_named_and_not_quoted() -> None:
    with pytest.raises(MendableError, match=r"^DATABASE_URL can't be read") as caught:
        open_session(Settings(DATABASE_URL="someone hidden"), "transform")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "command", ["dead-letters list", "dead-letters show 1", "ingest resume tracking_events", "scopes remove north"]
)
def test_a_command_says_that_postgres_is_away(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DATABASE_URL", "SCOPEHOUSE_INGEST_DATABASE_URL", "SCOPEHOUSE_MIGRATE_DATABASE_URL"):
        monkeypatch.setenv(variable, NOBODY)
    monkeypatch.setenv("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1")
    settings_module.settings.cache_clear()
    outcome = CliRunner().invoke(app, command.split())
    settings_module.settings.cache_clear()
    assert isinstance(outcome.exception, MendableError)
    assert "port 1 failed" in str(outcome.exception)
