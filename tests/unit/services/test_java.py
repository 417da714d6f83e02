from pathlib import Path

import pytest

from services.embedded.java import JavaError, java


def java_home(folder: Path, version: str) -> Path:
    (folder / "bin").mkdir()
    (folder / "bin/java").touch()
    (folder / "release").write_text(f'IMPLEMENTOR="X"\nJAVA_VERSION="{version}"\n')
    return folder


def test_without_java_home_the_wheels_java_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert java().is_file()


def test_java_home_is_taken_where_it_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(java_home(tmp_path, "21.0.4")))
    assert java() == tmp_path / "bin/java"


def test_a_java_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(java_home(tmp_path, "17.0.15")))
    with pytest.raises(JavaError, match="JAVA_HOME is Java 17 and 21 or newer is needed"):
        java()


def test_a_java_home_without_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(JavaError, match="no Java"):
        java()
