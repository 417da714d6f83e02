"""What is known of a country, and the fingerprint of a set of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from itertools import pairwise

from services.errors import MendableError


class FeaturesError(MendableError):
    """The features can't be clustered; the message says why and what to run."""


@dataclass(frozen=True, slots=True)
class CountryFeatures:
    """One row of ``countries.mart_country_features``; field names are its columns' names.

    Means are over every year with a value. CO2 is in million tonnes a year, CO2 a head in tonnes a year, GDP
    in international dollars of 2011, population in people; ``avg_co2_recent`` is the mean CO2 from 2010 on.
    """

    country: str
    iso_code: str
    avg_co2: float
    avg_co2_per_capita: float
    avg_gdp: float
    avg_population: float
    data_points: int
    first_year: int
    last_year: int
    avg_co2_recent: float | None
    is_sample: bool


COLUMNS = tuple(field.name for field in fields(CountryFeatures))
MEANS = ("avg_co2", "avg_co2_per_capita", "avg_gdp", "avg_population")


def in_order(rows: Iterable[CountryFeatures]) -> list[CountryFeatures]:
    """The rows by country name: the one order in which they are clustered and fingerprinted.

    Raises:
        FeaturesError: a country is there twice, or one of its four means is missing or not finite.
    """
    ordered = sorted(rows, key=lambda row: row.country)
    for row in ordered:
        for name in MEANS:
            value = getattr(row, name)
            if value is None or not math.isfinite(value):
                raise FeaturesError(
                    f"{name} of {row.country} in countries.mart_country_features is {value}, not a number: "
                    "run `dbt build --select +mart_country_features` and mend what its tests report."
                )
    for one, other in pairwise(ordered):
        if one.country == other.country:
            raise FeaturesError(
                f"{one.country} is in countries.mart_country_features twice: "
                "run `dbt build --full-refresh --select +mart_country_features`."
            )
    return ordered


def fingerprint(rows: Iterable[CountryFeatures]) -> str:
    """SHA-256 of the rows, in hex: the same in whatever order, another when any value differs."""
    digest = hashlib.sha256()
    for row in in_order(rows):
        # repr() of a float is the shortest text that reads back as the same float.
        digest.update(repr(astuple(row)).encode())
        digest.update(b"\n")
    return digest.hexdigest()
