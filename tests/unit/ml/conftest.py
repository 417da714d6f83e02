"""Country features made from OWID's file by Polars: a second opinion on what dbt computes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ml.features import COLUMNS, CountryFeatures
from services.settings import PROJECT_ROOT, settings


def owid_file() -> Path:
    """SCOPEHOUSE_OWID_CO2_SOURCE where it is a path, else the copy beside the repository (may not be there)."""
    source = settings().owid_co2_source
    return Path(source or PROJECT_ROOT.parent / "shared" / "data" / "countries" / "owid_co2.csv")


def features_of(path: Path) -> list[CountryFeatures]:
    """The original's features, by its rules: an ISO code (Kosovo's is OWID's own), four means, 5 years."""
    years = pl.read_csv(path, infer_schema_length=None).filter(pl.col("year") >= 1900)
    iso_code = pl.col("iso_code")
    countries = years.filter(
        iso_code.str.contains("^[A-Z]{3}$") | (iso_code == "OWID_KOS") | (pl.col("country") == "Kosovo")
    )
    features = (
        countries.group_by("country")
        .agg(
            iso_code.first().fill_null("OWID_KOS"),
            *(pl.mean(name).alias(f"avg_{name}") for name in ("co2", "co2_per_capita", "gdp", "population")),
            pl.len().alias("data_points"),
            pl.min("year").alias("first_year"),
            pl.max("year").alias("last_year"),
            pl.col("co2").filter(pl.col("year") >= 2010).mean().alias("avg_co2_recent"),
            pl.lit(value=False).alias("is_sample"),
        )
        .filter(pl.col("data_points") >= 5)
        .drop_nulls(["avg_co2", "avg_co2_per_capita", "avg_gdp", "avg_population"])
    )
    return [CountryFeatures(**row) for row in features.select(COLUMNS).to_dicts()]


@pytest.fixture(scope="session")
def owid_countries() -> list[CountryFeatures]:
    path = owid_file()
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return features_of(path)
