"""The dashboards' files: how they lie in git, what Superset's import takes and its export gives.

    assets/databases/*.yaml          where charts read
    assets/datasets/*.yaml           generated from dbt (`from_dbt`), one a model
    assets/<domain>/dashboard.yaml   a domain's dashboard
    assets/<domain>/charts/*.yaml    its charts

All is in Superset's own export format with fixed UUIDs. Superset's numbers of charts and datasets are no part of it:
they differ between servers, and are left out, or counted from 1 where a place wants one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import yaml

ASSETS = Path(__file__).with_name("assets")
# What is certified by this name is git's: it goes from Superset when it goes from git.
CERTIFIED_BY = "Scopehouse"
VERSION = "1.0.0"

_NAMESPACE = uuid5(NAMESPACE_URL, "scopehouse/superset")

Tree = dict[str, Any]


def fixed_uuid(kind: str, name: str) -> str:
    """The UUID of an object made here; one exported from Superset keeps the one it got there."""
    return str(uuid5(_NAMESPACE, f"{kind}/{name}"))


def read(folder: Path = ASSETS) -> dict[str, Tree]:
    """Every file's content by its path below `folder`."""
    return {
        file.relative_to(folder).as_posix(): yaml.safe_load(file.read_text()) for file in sorted(folder.rglob("*.yaml"))
    }


def text_of(content: Tree) -> str:
    """A file's text."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def bundle(files: Mapping[str, Tree]) -> dict[str, str]:
    """What Superset's import takes: texts by the paths that it expects."""
    texts = {"metadata.yaml": text_of({"version": VERSION, "type": "assets"})}
    for path, content in files.items():
        kind, name = _kind(path), path.removesuffix(".yaml").replace("/", "_")
        if kind is not None:
            texts[f"{kind}/{name}.yaml"] = text_of({**content, **({"query_context": None} if kind == "charts" else {})})
    return texts


def of_kind(files: Mapping[str, Tree], kind: str) -> dict[str, Tree]:
    """The files of charts, dashboards, datasets or databases."""
    return {path: content for path, content in files.items() if _kind(path) == kind}


def uuids_of(files: Mapping[str, Tree], kind: str) -> set[UUID]:
    """The UUIDs of a kind."""
    return {UUID(content["uuid"]) for content in of_kind(files, kind).values()}


def charts_on(dashboard: Tree) -> Iterator[Tree]:
    """What a dashboard's layout says of each of its charts, in the order of the layout."""
    position = dashboard.get("position") or {}

    def below(name: str) -> Iterator[Tree]:
        item = position.get(name, {})
        if item.get("type") == "CHART":
            yield item["meta"]
        for child in item.get("children", []):
            yield from below(child)

    return below("ROOT_ID")


def normal(exported: Mapping[str, Tree], known: Mapping[str, Tree] | None = None) -> dict[str, Tree]:
    """What git keeps of an export, by path: certified dashboards with their charts.

    Where charts read is not Superset's to say: databases and datasets are written here alone.

    Args:
        exported: the contents by their paths in Superset's bundle.
        known: the files of git: an object keeps its file's name.
    """
    paths = {content["uuid"]: path for path, content in (read() if known is None else known).items()}
    charts = {content["uuid"]: content for path, content in exported.items() if path.startswith("charts/")}
    files = {}
    for path, content in exported.items():
        if path.startswith("dashboards/") and content.get("certified_by") == CERTIFIED_BY:
            home = paths.get(content["uuid"], f"{slug(content['dashboard_title'])}/dashboard.yaml")
            files[home] = _normal_dashboard(content)
            for meta in charts_on(files[home]):
                chart = charts[meta["uuid"]]
                name = f"{home.split('/')[0]}/charts/{slug(chart['slice_name'])}.yaml"
                files[paths.get(chart["uuid"], name)] = _normal_chart(chart)
    return files


def slug(title: str) -> str:
    """A title as a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _kind(path: str) -> str | None:
    folder, *rest = path.split("/")
    if folder in ("databases", "datasets"):
        return folder
    return "dashboards" if rest == ["dashboard.yaml"] else "charts" if rest[:1] == ["charts"] else None


def _normal_chart(chart: Tree) -> Tree:
    kept = ("slice_name", "description", "viz_type", "params", "cache_timeout", "uuid", "version", "dataset_uuid")
    # Numbers of this server, what the explorer remembers, and the query that the browser makes from the rest.
    left_out = {"datasource", "slice_id", "dashboards", "dashboardId", "extra_form_data", "url_params", "viz_type"}
    normal = {name: chart.get(name) for name in kept}
    normal["params"] = {name: value for name, value in sorted(chart["params"].items()) if name not in left_out}
    return {**normal, "certified_by": CERTIFIED_BY, "certification_details": "Reviewed in git"}


def _normal_dashboard(dashboard: Tree) -> Tree:
    kept = ("dashboard_title", "description", "css", "slug", "certified_by", "certification_details", "published")
    numbers = {meta["chartId"]: number for number, meta in enumerate(charts_on(dashboard), 1)}
    position = {
        name: _numbered(item, numbers) if isinstance(item, dict) and item.get("type") == "CHART" else item
        for name, item in sorted(dashboard["position"].items())
    }
    # What the browser works out anew from the layout.
    derived = {"chart_configuration", "global_chart_configuration", "shared_label_colors", "map_label_colors"}
    metadata = {name: value for name, value in sorted(dashboard["metadata"].items()) if name not in derived}
    metadata["native_filter_configuration"] = [
        _normal_filter(one, numbers) for one in metadata.get("native_filter_configuration", [])
    ]
    return {
        **{name: dashboard.get(name) for name in kept},
        "uuid": dashboard["uuid"],
        "position": position,
        "metadata": metadata,
        "version": VERSION,
    }


def _numbered(item: Tree, numbers: Mapping[int, int]) -> Tree:
    return {**item, "meta": dict(sorted({**item["meta"], "chartId": numbers[item["meta"]["chartId"]]}.items()))}


def _normal_filter(one: Tree, numbers: Mapping[int, int]) -> Tree:
    kept = {name: value for name, value in sorted(one.items()) if name not in ("chartsInScope", "tabsInScope")}
    scope = kept.get("scope") or {}
    if scope.get("excluded"):
        kept["scope"] = {**scope, "excluded": [numbers[chart] for chart in scope["excluded"] if chart in numbers]}
    return kept
