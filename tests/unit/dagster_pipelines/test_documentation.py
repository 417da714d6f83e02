"""Whoever follows a number finds what each column means: nothing of the dbt project is left undescribed.

That no column is missing from the lists is shown on a real database, in tests/integration/dbt_project/test_models.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def tables(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every model, seed and source."""
    yield from (node for node in manifest["nodes"].values() if node["resource_type"] in ("model", "seed"))
    yield from manifest["sources"].values()


def test_every_model_seed_and_source_is_described_and_lists_its_columns(manifest: Mapping[str, Any]) -> None:
    assert [table["unique_id"] for table in tables(manifest) if not table["columns"]] == []
    assert [table["unique_id"] for table in tables(manifest) if not table["description"].strip()] == []


def test_every_column_is_described(manifest: Mapping[str, Any]) -> None:
    silent = [
        f"{table['unique_id']}.{name}"
        for table in tables(manifest)
        for name, column in table["columns"].items()
        if not column["description"].strip()
    ]
    assert silent == []


def test_every_mart_has_a_contract(manifest: Mapping[str, Any]) -> None:
    """So that dbt builds no mart with a column that is not listed."""
    marts = [node for node in tables(manifest) if node["resource_type"] == "model" and node["fqn"][1] == "marts"]
    assert marts
    assert [mart["unique_id"] for mart in marts if not mart["config"]["contract"]["enforced"]] == []
