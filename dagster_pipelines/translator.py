"""How a dbt node is named and grouped as an asset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings

from ingest.contracts.contract import load_contracts


class WarehouseTranslator(DagsterDbtTranslator):
    """Keys are [schema, table], groups are domains."""

    def __init__(self) -> None:
        super().__init__(DagsterDbtTranslatorSettings(enable_source_tests_as_checks=True))

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """The schema and the name of the relation that the node makes or is."""
        return dg.AssetKey([dbt_resource_props["schema"], relation_name(dbt_resource_props)])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
        """The node's domain; None of a dbt source, whose own asset says it."""
        if dbt_resource_props["resource_type"] == "source":
            return None
        return domain_of(dbt_resource_props)

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The node's documentation, without dagster-dbt's copy of the SQL."""
        return dbt_resource_props.get("description") or ""


def relation_name(props: Mapping[str, Any]) -> str:
    """The table's or view's name in Postgres, whatever kind of node `props` describes."""
    name: str = props.get("identifier") or props.get("alias") or props["name"]
    return name


def domain_of(props: Mapping[str, Any]) -> str:
    """A model's domain by its folder: staging/<source>, any other layer/<domain>; "reference" of a seed."""
    if props["resource_type"] == "seed":
        return "reference"
    folder = str(props["fqn"][2])
    domains = {contract.source: contract.domain for contract in load_contracts().values()}
    # What is built on the clusters is about countries, like the clusters; Climatiq is asked about bikes.
    return {**domains, "ml": "countries", "climatiq": "mobility"}.get(folder, folder)
