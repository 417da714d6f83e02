"""What MkDocs is told beyond mkdocs.yml: the decisions, one page each, and dbt's own docs beside them."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

_DBT_DOCS = Path(__file__).parents[1] / "dbt_project" / "target" / "static_index.html"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every decision into the navigation."""
    decisions = sorted(Path(config.docs_dir, "decisions").glob("*.md"))
    assert config.nav is not None  # noqa: S101 mkdocs.yml has one
    config.nav.append({"Decisions": [f"decisions/{page.name}" for page in decisions]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Lay dbt's docs, one page made by `dbt docs generate --static`, at dbt/index.html."""
    if not _DBT_DOCS.exists():
        raise PluginError("dbt's docs are missing: run `make docs`, which makes them first.")
    files.append(File.generated(config, "dbt/index.html", abs_src_path=str(_DBT_DOCS)))
    return files
