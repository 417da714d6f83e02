"""Dashboards go from files to Superset and back."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.embedded.superset import Superset
from services.superset import files
from services.superset.files import ASSETS, Tree

CHART = "countries/charts/sizes-of-the-clusters.yaml"


def exported(superset: Superset, folder: Path) -> dict[str, str]:
    """The files as an export leaves them in a folder that holds git's."""
    shutil.copytree(ASSETS, folder)
    superset.export_files(folder)
    return texts(folder)


def texts(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): file.read_text() for file in sorted(folder.rglob("*.yaml"))}


def without_a_chart(folder: Path) -> Path:
    """The files of git after a chart was taken out."""
    shutil.copytree(ASSETS, folder)
    chart, path = files.read(folder)[CHART], "countries/dashboard.yaml"
    dashboard: Tree = files.read(folder)[path]
    position = dashboard["position"]
    (tile,) = (name for name, item in position.items() if chart["uuid"] in str(item) and name.startswith("CHART"))
    del position[tile]
    for item in position.values():
        if isinstance(item, dict) and tile in item.get("children", []):
            item["children"].remove(tile)
    for number, meta in enumerate(files.charts_on(dashboard), 1):
        meta["chartId"] = number
    (folder / path).write_text(files.text_of(dashboard))
    (folder / CHART).unlink()
    return folder


def test_a_second_import_changes_nothing_and_an_export_gives_the_files_in_git(
    superset: Superset, tmp_path: Path
) -> None:
    superset.import_files()
    assert exported(superset, tmp_path / "exported") == texts(ASSETS)


def test_a_chart_that_was_taken_out_of_git_disappears(superset: Superset, tmp_path: Path) -> None:
    smaller = without_a_chart(tmp_path / "smaller")
    superset.import_files(smaller)
    assert exported(superset, tmp_path / "exported") == texts(smaller)
    superset.import_files()
    assert CHART in exported(superset, tmp_path / "again")
