"""The Java servers' jars: locked by coordinate, version and sha256, fetched once into the cache folder.

`python -m services.embedded.jars [NAME ...]` resolves the roots below (all by default) anew and writes the lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from services.embedded.progress import Report, silent
from services.errors import MendableError

LOCK = Path(__file__).with_name("jars.lock.json")

# What each server, and each plugin of Kafka Connect, is made of: coordinates
# group:artifact:version[:classifier:packaging]. One closure each: a BOM of one would change the versions of another.
ROOTS = {
    "kafka": ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36"),
    "registry": ("io.apicurio:apicurio-registry-app:3.3.3:all:tar.gz",),
    "connect": ("org.apache.kafka:connect-runtime:4.3.1", "org.slf4j:slf4j-simple:1.7.36"),
    "avro-converter": ("io.apicurio:apicurio-registry-utils-converter:2.6.13.Final",),
    "debezium-postgres": ("io.debezium:debezium-connector-postgres:3.7.0.Final:plugin:tar.gz",),
    "jdbc-sink": ("io.debezium:debezium-connector-jdbc:3.6.0.Final:plugin:tar.gz",),
}


class JarError(MendableError):
    """A jar can't be had, or isn't the one that was locked."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked file: where it comes from (`coordinate`), what it must be (`sha256`), how long it is (bytes)."""

    coordinate: str
    sha256: str
    size: int

    def path(self, cache_dir: Path) -> Path:
        """Where the file lies once fetched."""
        return cache_dir / "jars" / file_name(self.coordinate)

    def is_in(self, cache_dir: Path) -> bool:
        """Whether the cache has it, unspoilt."""
        file = self.path(cache_dir)
        return file.is_file() and file.stat().st_size == self.size and _sha256(file) == self.sha256


def file_name(coordinate: str) -> str:
    """The file's name, as its repository has it."""
    _, artifact, version, *rest = coordinate.split(":")
    classifier, packaging = rest or ("", "jar")
    return f"{artifact}-{version}{'-' if classifier else ''}{classifier}.{packaging}"


@cache
def locked(server: str) -> tuple[Jar, ...]:
    """The jars of `server`, its roots first."""
    return tuple(Jar(**jar) for jar in json.loads(LOCK.read_text())[server])


def version_of(server: str) -> str:
    """The version of the server's first root."""
    return ROOTS[server][0].split(":")[2]


def ensure(servers: tuple[str, ...], cache_dir: Path, report: Report = silent) -> None:
    """Have every jar of `servers` in the cache; no network is touched where they are there already.

    Files are checked each time (0.1 s); a spoilt one is fetched again. An archive once unpacked isn't looked at.

    Raises:
        JarError: a jar can't be fetched, or its sha256 isn't the locked one.
    """
    packed = [server for server in servers if not unpacked_folder(server, cache_dir).is_dir()]
    missing = [jar for server in packed for jar in locked(server) if not jar.is_in(cache_dir)]
    if not missing:
        return
    (cache_dir / "jars").mkdir(parents=True, exist_ok=True)
    whole, done = sum(jar.size for jar in missing), 0
    report("jars", f"fetching {len(missing)} files, {whole / 1e6:.0f} MB", 0.0)
    with ThreadPoolExecutor(4) as pool:
        for size in pool.map(lambda jar: _fetch(jar, cache_dir), missing):
            done += size
            report("jars", f"fetched {done / 1e6:.0f} of {whole / 1e6:.0f} MB", done / whole)
    report("jars", "ready", 1.0)


def class_path(server: str, cache_dir: Path) -> str:
    """The Java class path of `server`'s jars."""
    return os.pathsep.join(str(jar.path(cache_dir)) for jar in locked(server))


def unpacked_folder(server: str, cache_dir: Path) -> Path:
    """Where the archive of a server that comes as one lies unpacked, if it was."""
    return cache_dir / "unpacked" / f"{server}-{locked(server)[0].sha256[:16]}"


def unpack(server: str, cache_dir: Path) -> Path:
    """The folder of a server that comes as one archive, unpacked once; call `ensure` first."""
    (archive,) = locked(server)
    folder = unpacked_folder(server, cache_dir)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(folder.parent) as scratch:
            with tarfile.open(archive.path(cache_dir)) as tar:
                tar.extractall(scratch / "content", filter="data")
            # Another `up` may have been quicker: its folder is as good.
            with suppress(OSError):
                (scratch / "content").rename(folder)
    return folder


def _fetch(jar: Jar, cache_dir: Path) -> int:
    """Fetch one jar, check it, name it; its size in bytes."""
    target = jar.path(cache_dir)
    with _scratch(target.parent) as scratch:
        file = _resolve(jar.coordinate, scratch)
        if (found := _sha256(file)) != jar.sha256:
            raise JarError(
                f"{jar.coordinate} has sha256 {found}, not {jar.sha256} as locked in {LOCK.name}: "
                "its source serves another file, so look into why before locking it anew."
            )
        file.replace(target)
    return jar.size


def _resolve(coordinate: str, scratch: Path) -> Path:
    """A copy of the artifact in `scratch`: from jgo's own cache (M2_REPO moves it), else from its repository."""
    from jgo.constants import default_maven_repo
    from jgo.maven import MavenContext

    # jgo writes to its cache in place and trusts what lies there: ours is a scratch folder, its cache only read.
    context = MavenContext(repo_cache=scratch, local_repos=[default_maven_repo()], timeout=60)
    try:
        found = _artifact(context, coordinate).resolve()
        if not found.is_relative_to(scratch):
            found = Path(shutil.copy(found, scratch))
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
        raise JarError(
            f"{coordinate} can't be fetched ({type(error).__name__}): check the network, "
            "or set SCOPEHOUSE_CACHE_DIR to a folder that holds it."
        ) from error
    return Path(found)


def _artifact(context: Any, coordinate: str) -> Any:
    group, artifact, version, *rest = coordinate.split(":")
    classifier, packaging = rest or ("", "jar")
    return context.project(group, artifact).at_version(version).artifact(classifier, packaging)


def _closure(roots: tuple[str, ...]) -> list[str]:
    """The coordinates that `roots` need, themselves first."""
    from jgo.maven import MavenContext

    if len(roots) == 1 and roots[0].count(":") > 2:
        return list(roots)  # an archive brings its own dependencies
    context = MavenContext(timeout=60)
    _, needed = context.resolver.resolve([context.create_dependency(root) for root in roots])
    return [*roots, *sorted(f"{one.groupId}:{one.artifactId}:{one.version}" for one in needed)]


def _lock_one(coordinate: str) -> dict[str, str | int]:
    with tempfile.TemporaryDirectory() as scratch:
        file = _resolve(coordinate, Path(scratch))
        return {"coordinate": coordinate, "sha256": _sha256(file), "size": file.stat().st_size}


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=parent, prefix=".new-") as folder:
        yield Path(folder)


def _write_lock(names: Sequence[str]) -> None:
    lock = json.loads(LOCK.read_text())
    with ThreadPoolExecutor(4) as pool:
        lock.update({name: list(pool.map(_lock_one, _closure(ROOTS[name]))) for name in names})
    LOCK.write_text(json.dumps({name: lock[name] for name in ROOTS}, indent=1) + "\n")


if __name__ == "__main__":
    _write_lock(sys.argv[1:] or list(ROOTS))
