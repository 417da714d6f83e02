import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.embedded import jars

COORDINATE = "org.example:small:1.0:all:tar.gz"
CONTENT = b"the right file"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local repository with one file, and a lock that names it; the network can't be reached."""
    folder = tmp_path / "repository/org/example/small/1.0"
    folder.mkdir(parents=True)
    file = folder / "small-1.0-all.tar.gz"
    file.write_bytes(CONTENT)
    monkeypatch.setenv("M2_REPO", str(tmp_path / "repository"))
    entry = {
        "coordinate": COORDINATE,
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "size": len(CONTENT),
    }
    lock = tmp_path / "lock.json"
    lock.write_text(json.dumps({"small": [entry]}))
    monkeypatch.setattr(jars, "LOCK", lock)

    def unreachable(*_: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    jars.locked.cache_clear()
    yield file
    jars.locked.cache_clear()


def cached(cache_dir: Path) -> list[str]:
    return sorted(file.name for file in (cache_dir / "jars").iterdir())


def test_a_jar_is_fetched_once_and_then_no_source_is_needed(repository: Path, tmp_path: Path) -> None:
    jars.ensure(("small",), tmp_path)
    repository.unlink()
    jars.ensure(("small",), tmp_path)
    assert cached(tmp_path) == ["small-1.0-all.tar.gz"]


def test_a_spoilt_jar_in_the_cache_is_fetched_again(repository: Path, tmp_path: Path) -> None:
    jars.ensure(("small",), tmp_path)
    (tmp_path / "jars" / repository.name).write_bytes(CONTENT[::-1])
    jars.ensure(("small",), tmp_path)
    assert (tmp_path / "jars" / repository.name).read_bytes() == CONTENT


def test_a_jar_with_another_sha256_is_refused_and_not_kept(repository: Path, tmp_path: Path) -> None:
    repository.write_bytes(b"something else")
    with pytest.raises(jars.JarError, match=r"small:1\.0.* has sha256 .* not .* as locked"):
        jars.ensure(("small",), tmp_path)
    assert cached(tmp_path) == []


def test_without_a_network_the_error_says_which_jar_and_what_to_do(repository: Path, tmp_path: Path) -> None:
    repository.unlink()
    with pytest.raises(jars.JarError, match=r"small:1\.0.*check the network.*SCOPEHOUSE_CACHE_DIR"):
        jars.ensure(("small",), tmp_path)


def test_the_lock_holds_each_servers_roots_and_one_version_of_each_artifact() -> None:
    for server, roots in jars.ROOTS.items():
        coordinates = [jar.coordinate for jar in jars.locked(server)]
        assert coordinates[: len(roots)] == list(roots)
        artifacts = [coordinate.rsplit(":", 1)[0] for coordinate in coordinates]
        assert len(artifacts) == len(set(artifacts))


def test_all_of_kafkas_own_jars_have_the_same_version() -> None:
    own = [jar.coordinate for jar in jars.locked("kafka") if jar.coordinate.startswith("org.apache.kafka:")]
    assert len(own) > 10
    assert {coordinate.split(":")[2] for coordinate in own} == {jars.version_of("kafka")}


def test_the_lock_names_no_host() -> None:
    assert "://" not in jars.LOCK.read_text()
