"""What the dashboards' files take from the dbt project, and give back: datasets, and exposures.

A dataset is a mart whose YAML has `config.meta.metrics`; its columns, descriptions and units, its metrics and its
certificate are the mart's: one definition. Exposures tell dbt which marts each dashboard and chart reads.

`python -m services.superset.from_dbt` writes the files, `--check` says where they differ and fails.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from services.errors import MendableError
from services.settings import PROJECT_ROOT
from services.superset import files
from services.superset.files import ASSETS, CERTIFIED_BY, VERSION, Tree, fixed_uuid, text_of

DBT_PROJECT = PROJECT_ROOT / "dbt_project"
EXPOSURES = Path("models") / "exposures.yml"

# A column's unit is its name's last words; where that reads badly, the column has `config.meta.label`.
_UNITS = {
    "kg_co2e_per_km": "kg CO2e/km",
    "kg_co2e": "kg CO2e",
    "million_tonnes": "million tonnes",
    "tonnes_per_capita": "tonnes a head",
    "international_usd_2011": "international $ of 2011",
    "usd": "US$",
    "km": "km",
    "kwh": "kWh",
    "percent": "%",
    "people": "people",
    "seconds": "s",
}
_TYPES = {
    "text": "TEXT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "double precision": "DOUBLE PRECISION",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
}
_SQL_STRING = re.compile(r"'[^']*'")
_SQL_NAME = re.compile(r"\b[a-z_][a-z0-9_]*\b(?!\s*\()")
_SQL_WORDS = frozenset(
    {"and", "as", "asc", "between", "by", "case", "desc", "distinct", "else", "end", "epoch", "filter", "from", "in"}
    | {"interval", "is", "not", "null", "or", "order", "then", "true", "false", "when", "where", "within", "group"}
)

# Where a chart's settings name columns and metrics.
_SEVERAL = ("groupby", "columns", "metrics", "all_columns", "groupby_b", "metrics_b")
_ONE = ("metric", "secondary_metric", "x_axis", "entity", "series", "timeseries_limit_metric", "granularity_sqla")


@dataclass(frozen=True, slots=True)
class Mart:
    """A dbt model that people read. `columns` are its contract's, `meta` is config.meta."""

    schema: str
    name: str
    description: str
    columns: tuple[Tree, ...]
    meta: Mapping[str, Any]

    @property
    def uuid(self) -> str:
        """The dataset's."""
        return fixed_uuid("dataset", f"{self.schema}.{self.name}")

    @property
    def path(self) -> str:
        """The dataset's file."""
        return f"datasets/{self.schema}.{self.name}.yaml"


class BrokenChartError(MendableError):
    """A chart or a dataset asks for what is not in the dbt project; the sentence names both."""


def marts(dbt_project: Path = DBT_PROJECT) -> list[Mart]:
    """Every mart, in order of schema and name. All of them have an enforced contract (dbt_project.yml)."""
    settings = yaml.safe_load((dbt_project / "dbt_project.yml").read_text())["models"]["scopehouse"]["marts"]
    found = [
        Mart(
            settings[file.parent.name]["+schema"],
            model["name"],
            " ".join(model["description"].split()),
            tuple(model["columns"]),
            (model.get("config") or {}).get("meta") or {},
        )
        for file in (dbt_project / "models" / "marts").glob("*/*.yml")
        for model in yaml.safe_load(file.read_text()).get("models", [])
    ]
    return sorted(found, key=lambda mart: (mart.schema, mart.name))


def datasets(all_marts: list[Mart]) -> dict[str, Tree]:
    """The datasets' files by path, of the marts that have metrics."""
    return {mart.path: _dataset(mart) for mart in all_marts if mart.meta.get("metrics")}


def exposures(assets: Mapping[str, Tree]) -> Tree:
    """dbt's exposures: one a dashboard, one a chart on it."""
    models = {content["uuid"]: content["table_name"] for content in files.of_kind(assets, "datasets").values()}
    charts = {content["uuid"]: content for content in files.of_kind(assets, "charts").values()}
    entries = []
    for path, dashboard in files.of_kind(assets, "dashboards").items():
        domain = path.split("/")[0]
        shown = [charts[meta["uuid"]] for meta in files.charts_on(dashboard)]
        read = sorted({models[chart["dataset_uuid"]] for chart in shown})
        title = dashboard["dashboard_title"]
        entries.append(_exposure(f"dashboard_{domain}", "dashboard", title, dashboard["description"], read))
        for chart in sorted(shown, key=lambda one: one["slice_name"]):
            name = f"chart_{domain}_{files.slug(chart['slice_name']).replace('-', '_')}"
            label = f"{title}: {chart['slice_name']}"
            entries.append(
                _exposure(name, "analysis", label, chart["description"] or label, [models[chart["dataset_uuid"]]])
            )
    return {"exposures": entries}


def check(assets: Mapping[str, Tree]) -> None:
    """See that charts ask only for what their dataset has, and that every reference leads somewhere.

    Raises:
        BrokenChartError: at the first that does not.
    """
    known = {content["uuid"]: content for content in files.of_kind(assets, "datasets").values()}
    charts = {content["uuid"]: content for content in files.of_kind(assets, "charts").values()}
    for dataset in known.values():
        columns = {column["column_name"] for column in dataset["columns"]}
        for metric in dataset["metrics"]:
            if missing := _names(metric["expression"]) - columns:
                raise BrokenChartError(
                    f"The metric {metric['metric_name']} of {dataset['schema']}.{dataset['table_name']} reads "
                    f"{', '.join(sorted(missing))}, which that model does not have."
                )
    for chart in charts.values():
        _check_chart(chart, known)
    for path, dashboard in files.of_kind(assets, "dashboards").items():
        for meta in files.charts_on(dashboard):
            if meta["uuid"] not in charts:
                raise BrokenChartError(f"{path} shows {meta['sliceName']}, which has no file beside it.")
        for one in dashboard["metadata"].get("native_filter_configuration", []):
            for target in one.get("targets", []):
                if target:
                    _check_target(f"The filter {one['name']} of {path}", target, known)


def _check_chart(chart: Tree, known: Mapping[str, Tree]) -> None:
    name, dataset = chart["slice_name"], known.get(chart["dataset_uuid"])
    if dataset is None:
        raise BrokenChartError(f'The chart "{name}" reads a dataset that no mart with metrics makes.')
    has = {column["column_name"] for column in dataset["columns"]}
    has |= {metric["metric_name"] for metric in dataset["metrics"]}
    if missing := set(_asked_for(chart["params"])) - has:
        raise BrokenChartError(
            f'The chart "{name}" asks for {", ".join(sorted(missing))}, which '
            f"{dataset['schema']}.{dataset['table_name']} does not have."
        )


def _check_target(who: str, target: Tree, known: Mapping[str, Tree]) -> None:
    dataset = known.get(target.get("datasetUuid", ""))
    if dataset is None:
        raise BrokenChartError(f"{who} reads a dataset that no mart with metrics makes.")
    column = (target.get("column") or {}).get("name")
    if column is not None and column not in {one["column_name"] for one in dataset["columns"]}:
        raise BrokenChartError(
            f"{who} reads {column}, which {dataset['schema']}.{dataset['table_name']} does not have."
        )


def _asked_for(params: Tree) -> Iterator[str]:
    """The columns and metrics that a chart's settings name."""
    for name in _SEVERAL:
        for one in params.get(name) or []:
            yield from _asked_by(one)
    for name in _ONE:
        if params.get(name):
            yield from _asked_by(params[name])
    for one in (*(params.get("adhoc_filters") or []), *(params.get("adhoc_filters_b") or [])):
        if one.get("expressionType") == "SQL":
            yield from _names(one["sqlExpression"])
        else:
            yield one["subject"]


def _asked_by(one: Any) -> Iterator[str]:
    """A metric or column: by its name, or made in the chart of a column or of SQL."""
    if isinstance(one, str):
        yield one
    elif isinstance(one, list):
        yield from _asked_by(one[0])
    elif one.get("expressionType") == "SIMPLE":
        yield one["column"]["column_name"]
    else:
        yield from _names(one["sqlExpression"])


def _names(expression: str) -> set[str]:
    """The columns that an SQL expression reads."""
    return set(_SQL_NAME.findall(_SQL_STRING.sub("''", expression))) - _SQL_WORDS


def _dataset(mart: Mart) -> Tree:
    time_column = mart.meta.get("time_column")
    return {
        "table_name": mart.name,
        "main_dttm_col": time_column,
        "description": mart.description,
        "default_endpoint": None,
        "offset": 0,
        "cache_timeout": None,
        "catalog": None,
        "schema": mart.schema,
        "sql": None,
        "params": None,
        "template_params": None,
        "filter_select_enabled": True,
        "fetch_values_predicate": None,
        "extra": {
            "certification": {
                "certified_by": CERTIFIED_BY,
                "details": f"The dbt model {mart.schema}.{mart.name}, its contract enforced and tested",
            }
        },
        "normalize_columns": False,
        "always_filter_main_dttm": False,
        "uuid": mart.uuid,
        "metrics": [
            {
                "metric_name": metric["name"],
                "verbose_name": metric["label"],
                "metric_type": None,
                "expression": " ".join(metric["expression"].split()),
                "description": metric["description"],
                "d3format": metric["format"],
                "extra": {"certification": {"certified_by": CERTIFIED_BY, "details": "Defined in the dbt project"}},
                "warning_text": None,
            }
            for metric in mart.meta["metrics"]
        ],
        "columns": [_column(column) for column in mart.columns],
        "version": VERSION,
        "database_uuid": _DATABASE["uuid"],
    }


def _column(column: Tree) -> Tree:
    kind = column["data_type"]
    return {
        "column_name": column["name"],
        "verbose_name": ((column.get("config") or {}).get("meta") or {}).get("label") or title_of(column["name"]),
        "is_dttm": kind in ("date", "timestamptz"),
        "is_active": True,
        "type": _TYPES.get(kind, kind.upper()),
        "advanced_data_type": None,
        "groupby": True,
        "filterable": True,
        "expression": None,
        "description": " ".join(str(column["description"]).split()),
        "python_date_format": None,
        "extra": None,
    }


def title_of(column: str) -> str:
    """A column's title: its words, and its unit where its name ends in one."""
    for words, unit in _UNITS.items():
        if column.endswith(f"_{words}"):
            return f"{_spaced(column.removesuffix(f'_{words}'))}, {unit}"
    for suffix in ("_at", "_date"):
        if column.endswith(suffix):
            return f"{_spaced(column)}{' (UTC)' if suffix == '_at' else ''}"
    return _spaced(column)


def _spaced(name: str) -> str:
    words = name.replace("co2e", "CO2e").replace("co2", "CO2").replace("gdp", "GDP").split("_")
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def _exposure(name: str, kind: str, label: str, description: str, models: list[str]) -> Tree:
    return {
        "name": name,
        "label": label,
        "type": kind,
        "maturity": "high",
        "description": description,
        "owner": {"name": CERTIFIED_BY},
        "depends_on": [f"ref('{model}')" for model in models],
    }


_DATABASE: Tree = yaml.safe_load((ASSETS / "databases" / "scopehouse.yaml").read_text())


def generated(assets: Path = ASSETS, dbt_project: Path = DBT_PROJECT) -> dict[Path, str]:
    """Every generated file's text; the charts have been checked against it. Raises BrokenChartError."""
    made = datasets(marts(dbt_project))
    written = {path: content for path, content in files.read(assets).items() if not path.startswith("datasets/")}
    whole = {**written, **made}
    check(whole)
    header = "# Generated by `make dashboards` from the dbt project.\n"
    texts = {assets / path: header + text_of(content) for path, content in made.items()}
    made_of = "# Generated by `make dashboards` from services/superset/assets.\n"
    return {**texts, dbt_project / EXPOSURES: made_of + text_of(exposures(whole))}


def main(words: list[str]) -> None:
    """Write what is generated, or with `--check` compare it."""
    texts = generated()
    stale = [file for file in (ASSETS / "datasets").glob("*.yaml") if file not in texts]
    if words == ["--check"]:
        changed = [file for file, text in texts.items() if not file.exists() or file.read_text() != text]
        if changed + stale:
            names = ", ".join(str(file.relative_to(PROJECT_ROOT)) for file in changed + stale)
            raise MendableError(f"Not what the dbt project says: {names}. Run `make dashboards`.")
        return
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for file in stale:
        file.unlink()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MendableError as error:
        sys.exit(f"error: {error}")
