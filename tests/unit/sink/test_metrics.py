"""The alert rules speak of metrics that there are, and the runbook of every alert."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ingest.sink.metrics import Metrics
from services.settings import PROJECT_ROOT, Settings

DOCS = PROJECT_ROOT / "docs"


def test_each_alert_has_its_metric_and_its_section_in_the_runbook(tmp_path: Path) -> None:
    metrics = Metrics(Settings(state_dir=tmp_path))
    known = {family.name + end for family in metrics.registry.collect() for end in ("", "_total", "_bucket")}
    sections = set(re.findall(r"^### (\w+)$", (DOCS / "runbook.md").read_text(), re.MULTILINE))
    (group,) = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["alert"] in sections
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert set(re.findall(r"scopehouse_sink_\w+", rule["expr"])) <= known
    assert len(group["rules"]) == len(sections & {rule["alert"] for rule in group["rules"]})
