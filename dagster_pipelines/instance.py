"""Dagster's own folder, where runs are kept: the same for the demo, ``dagster dev`` and the tests."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from services.settings import Settings

_CONFIGURATION = """\
# Written by scopehouse when it is missing; yours to change.
telemetry:
  enabled: false
nux:
  enabled: false
"""


def dagster_home(settings: Settings) -> Path:
    """DAGSTER_HOME: the folder of the instance, made with its configuration where it is missing."""
    home = settings.state_dir.resolve() / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    configuration = home / "dagster.yaml"
    if not configuration.exists():
        configuration.write_text(_CONFIGURATION, encoding="utf-8")
    return home


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The instance in `dagster_home`; a context manager, to be closed."""
    return dg.DagsterInstance.from_config(str(dagster_home(settings)))
