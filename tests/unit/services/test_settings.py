from __future__ import annotations

from pathlib import Path

import pytest

from services.settings import Settings, SettingsError, read_settings

URL = "postgresql://scopehouse_ingest@warehouse:5432/scopehouse?sslmode=require"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCOPEHOUSE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SCOPEHOUSE_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("SCOPEHOUSE_INGEST_DATABASE_URL", URL)
    monkeypatch.delenv("CLIMATIQ_API_KEY", raising=False)
    return tmp_path


def test_a_login_without_a_password_has_the_one_in_the_file_of_its_name(secrets: Path) -> None:
    (secrets / "scopehouse_ingest").write_text("p@ss/word:1\n")
    url = read_settings().url_of("ingest")
    assert url == "postgresql://scopehouse_ingest:p%40ss%2Fword%3A1@warehouse:5432/scopehouse?sslmode=require"


def test_a_url_keeps_its_own_password(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "scopehouse_ingest").write_text("other")
    own = URL.replace("scopehouse_ingest@", "scopehouse_ingest:own@")
    monkeypatch.setenv("SCOPEHOUSE_INGEST_DATABASE_URL", own)
    assert read_settings().url_of("ingest") == own


def test_a_login_without_a_file_is_left_alone(secrets: Path) -> None:
    assert read_settings().url_of("ingest") == URL


def test_a_setting_is_read_from_the_file_of_its_name_unless_the_environment_has_it(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets / "CLIMATIQ_API_KEY").write_text("from the file\n")

    def key(now: Settings) -> str:
        assert now.climatiq_api_key is not None
        return now.climatiq_api_key.get_secret_value()

    assert key(read_settings()) == "from the file"
    monkeypatch.setenv("CLIMATIQ_API_KEY", "from the environment")
    assert key(read_settings()) == "from the environment"


def test_a_folder_of_secrets_that_is_not_there_is_named(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOPEHOUSE_SECRETS_DIR", str(secrets / "gone"))
    with pytest.raises(SettingsError, match=r"SCOPEHOUSE_SECRETS_DIR names .*gone, which is no folder"):
        read_settings()


@pytest.mark.parametrize("below", ["", "/further/down"])
def test_a_state_folder_that_is_a_file_or_below_one_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCOPEHOUSE_STATE_DIR", f"{tmp_path}/file{below}")
    with pytest.raises(SettingsError, match=rf"^SCOPEHOUSE_STATE_DIR names {tmp_path}/file{below}, "):
        read_settings()


def test_a_state_folder_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (str(tmp_path / "a" / "b"), "not/there/yet"):
        monkeypatch.setenv("SCOPEHOUSE_STATE_DIR", name)
        assert read_settings().state_dir == Path(name)
