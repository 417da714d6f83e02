"""`make contracts`: write what is made from the contracts; `--check` fails where a file differs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ingest.contracts.contract import load_contracts
from ingest.contracts.dbt_sources import HEADER, source_files
from ingest.contracts.released import RELEASED_FILE, BreakingChangeError, breaks, read_released, released_text
from services.settings import PROJECT_ROOT

DBT_PROJECT = PROJECT_ROOT / "dbt_project"


def drift(project: Path = DBT_PROJECT) -> list[str]:
    """One sentence for each generated file that is missing, differs, or belongs to no contract any more, and for each
    contract that breaks what is released."""
    wanted = {project / path: text for path, text in source_files(load_contracts().values()).items()}
    sentences = [
        f"{path.relative_to(project)} is not what the contracts say: run `make contracts` and commit it."
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    sentences += [
        f"{path.relative_to(project)} belongs to no contract: delete it."
        for path in sorted(project.glob("models/staging/*/_*__sources.yml"))
        if path not in wanted and path.read_text(encoding="utf-8").startswith(HEADER)
    ]
    return sentences + _release_drift()


def _release_drift() -> list[str]:
    contracts = load_contracts().values()
    released = read_released()
    if broken := breaks(contracts, released):
        return broken
    if not RELEASED_FILE.exists() or RELEASED_FILE.read_text(encoding="utf-8") != released_text(contracts, released):
        return [f"{RELEASED_FILE.name} lacks what the contracts add: run `make contracts` and commit it."]
    return []


def write(project: Path = DBT_PROJECT) -> list[Path]:
    """Write every generated file; returns their paths.

    Raises:
        BreakingChangeError: a contract breaks what is released; nothing was written.
    """
    contracts = load_contracts().values()
    released = read_released()
    if broken := breaks(contracts, released):
        raise BreakingChangeError(" ".join(broken))
    RELEASED_FILE.write_text(released_text(contracts, released), encoding="utf-8")
    paths = [RELEASED_FILE]
    for path, text in source_files(load_contracts().values()).items():
        target = project / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        paths.append(target)
    return paths


def main() -> int:
    """Run the command; 1 where `--check` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a file differs")
    if parser.parse_args().check:
        sentences = drift()
        sys.stderr.writelines(f"{sentence}\n" for sentence in sentences)
        return 1 if sentences else 0
    try:
        sys.stdout.writelines(f"{path.relative_to(PROJECT_ROOT)}\n" for path in write())
    except BreakingChangeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
