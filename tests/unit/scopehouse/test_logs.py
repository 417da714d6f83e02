"""What `scopehouse ingest run` says when something breaks that nobody thought of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import typer

from ingest.sink import run as sink
from scopehouse.commands import ingest
from scopehouse.logs import configure_logs
from services.settings import settings

SECRET = "a value of a record"


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    monkeypatch.setenv("SCOPEHOUSE_STATE_DIR", str(tmp_path))
    settings.cache_clear()
    configure_logs()
    yield
    structlog.reset_defaults()
    settings.cache_clear()


def test_an_error_that_nobody_expected_is_one_line_without_its_text(
    logs: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: object) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr(sink, "run_until_told", breaks)
    with pytest.raises(typer.Exit) as left_with:
        ingest.run()
    assert left_with.value.exit_code == 1
    said = capsys.readouterr().err
    line = json.loads(said)
    assert (line["level"], line["error"]) == ("critical", "ValueError")
    assert any("test_logs.py" in place and "breaks" in place for place in line["at_lines"])
    (left,) = (tmp_path / "sinks").iterdir()
    assert json.loads(left.read_text())["last_error"] == "ValueError"
    assert SECRET not in said + left.read_text()
