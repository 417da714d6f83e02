"""The command itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from scopehouse import cli


def test_installed_without_its_repository_it_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["scopehouse", "status"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert f"there is no dbt_project in {tmp_path}: clone it" in capsys.readouterr().err
