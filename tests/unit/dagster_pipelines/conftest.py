"""Settings of no server, and the manifest parsed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from dagster_pipelines.dbt_project import DbtProject
from services.settings import Settings


@pytest.fixture(scope="session")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings that know of no server."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields.values():
            patch.delenv(str(name.alias), raising=False)
        return Settings(state_dir=tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def manifest(nowhere: Settings) -> Mapping[str, Any]:
    """dbt's manifest of the whole project."""
    return DbtProject(nowhere).manifest()
