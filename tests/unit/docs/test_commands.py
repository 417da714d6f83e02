"""What the pages tell readers to run exists: targets of make, commands of scopehouse and their options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from scopehouse.cli import app
from scopehouse.explanation import MEASUREMENT_KEY, TABLE
from services.settings import PROJECT_ROOT

PAGES = sorted(page for pattern in ("*.md", "dbt_project/*.md", "docs/*.md") for page in PROJECT_ROOT.glob(pattern))
# Blocks by fence or by indent, and `spans`.
CODE = re.compile(r"^```.*?^```$|^    [^\n]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
SCOPEHOUSE = re.compile(r"(?<![\w/.-])scopehouse((?: (?:--?[a-z][a-z-]*|[a-z][a-z-]*)\b)+)")
MAKE = re.compile(r"(?:^[ `]*|&& )make ([a-z][a-z0-9-]*)", re.MULTILINE)


def told(page: Path, pattern: re.Pattern[str]) -> list[str]:
    """What the page's code says that fits."""
    return [found for code in CODE.findall(page.read_text()) for found in pattern.findall(code)]


def missing(words: str) -> str | None:
    """The first of the words after `scopehouse` that is no command, or no option of its command."""
    command = typer.main.get_command(app)
    for word in words.split():
        if word.startswith("-"):
            options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
            if word not in options | {"--help"}:
                return word
        elif not isinstance(command, TyperGroup):
            return None
        elif word not in command.commands:
            return word
        else:
            command = command.commands[word]
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_what_a_page_tells_to_run_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(told(page, MAKE)) <= targets
    assert not [words for words in told(page, SCOPEHOUSE) if missing(words)]


def test_the_trip_that_the_readme_explains_has_a_key_of_today() -> None:
    (key,) = re.findall(rf"^    {TABLE} (\S+)$", (PROJECT_ROOT / "README.md").read_text(), re.MULTILINE)
    assert MEASUREMENT_KEY.fullmatch(key)


def test_what_does_not_exist_is_found() -> None:
    assert missing(" produce nothing") == "nothing"
    assert missing(" demo --nothing") == "--nothing"
    assert missing(" ingest drain tracking_events") is None
