"""The manifest is parsed when it must be; results read as dbt means them."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from dbt.adapters.base import impl

from dagster_pipelines.dbt_project import PROJECT_FOLDER, DbtError, DbtProject, NodeResult
from services.settings import Settings, SettingsError

MODEL = "model.scopehouse.stg_owid__country_years"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DbtProject:
    """A copy of the project, with no server set."""
    for name in ("DATABASE_URL", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "dbt_project"
    shutil.copytree(PROJECT_FOLDER, folder, ignore=shutil.ignore_patterns("target", "logs"))
    shutil.copytree(PROJECT_FOLDER.parent / "seeds", tmp_path / "seeds")
    return DbtProject(Settings(state_dir=tmp_path / "state"), folder)


def later(path: Path) -> None:
    """As if the path had been changed in a second from now."""
    os.utime(path, (time.time() + 1, time.time() + 1))


def test_the_manifest_follows_the_files_and_is_parsed_only_when_they_change(project: DbtProject) -> None:
    written = project.target / "manifest.json"
    assert MODEL in project.manifest()["nodes"]
    assert "PGHOST" not in os.environ
    first = written.stat().st_mtime_ns
    project.manifest()
    assert written.stat().st_mtime_ns == first

    staging = project.folder / "models" / "staging" / "owid"
    for path in staging.glob("stg_owid__country_years.yml"):
        path.write_text(path.read_text().replace("description: ", "description: Looked at. ", 1))
        later(path)
    assert project.manifest()["nodes"][MODEL]["description"].startswith("Looked at. ")


def test_dbt_called_again_and_again_in_one_process_carries_no_more_each_time(project: DbtProject) -> None:
    project.manifest()
    before = list(impl.DEFAULT_BASE_BEHAVIOR_FLAGS)
    later(project.folder / "dbt_project.yml")
    project.manifest()
    assert before == impl.DEFAULT_BASE_BEHAVIOR_FLAGS


def test_a_project_that_does_not_parse_says_what_dbt_said(project: DbtProject) -> None:
    (project.folder / "models" / "broken.sql").write_text("select {{ ref('nobody') }}")
    with pytest.raises(DbtError, match=r"dbt parse failed: Compilation Error .*nobody"):
        project.manifest()


def test_a_build_needs_a_warehouse(project: DbtProject) -> None:
    with pytest.raises(SettingsError, match="No Postgres is set"):
        project.build(["fqn:scopehouse.staging"])


@pytest.mark.parametrize(
    ("status", "failed"),
    [("success", False), ("pass", False), ("warn", False), ("skipped", False), ("fail", True), ("error", True)],
)
def test_fail_and_error_are_failures(status: str, failed: bool) -> None:
    assert NodeResult("test.x.y.z", "y", status, 0.1, "", None).has_failed is failed
