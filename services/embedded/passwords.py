"""The embedded servers' passwords: generated once, kept in one file that its owner alone can read."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

ROLES = (
    "postgres",
    "registry",
    "scopehouse_migrate",
    "scopehouse_ingest",
    "scopehouse_transform",
    "scopehouse_cdc",
    "scopehouse_bi",
    "adventure",
    "superset",
    # no role's, but Superset's own
    "superset_admin",
    "superset_secret_key",
)


def read(state_dir: Path) -> dict[str, str]:
    """Every role's password; those not there yet are generated and kept."""
    file = state_dir / "passwords.json"
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    new = {role: secrets.token_urlsafe(24) for role in ROLES if role not in known}
    if new:
        write_private(file, json.dumps({**known, **new}, indent=1) + "\n")
    return {**known, **new}


def write_private(file: Path, text: str) -> None:
    """Write `file` whole or not at all, readable and writable by its owner only."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(text)
    new.replace(file)
