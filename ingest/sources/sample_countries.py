"""Made-up countries for a demo without the real data. Nothing of it can be taken for a real country."""

from __future__ import annotations

import random
from dataclasses import dataclass

import polars as pl

from ingest.sources.owid_co2 import COLUMNS

YEARS = range(1990, 2025)
_SEED = 42


@dataclass(frozen=True, slots=True)
class _Group:
    """Countries alike: ranges of people, tonnes of CO2 a head and $ of GDP a head in the last year."""

    countries: int
    population: tuple[float, float]
    tonnes_a_head: tuple[float, float]
    gdp_a_head: tuple[float, float]


# Three groups that a reader sees at once: many small, some that emit much a head, a few giants.
_GROUPS = (
    _Group(48, (1e6, 40e6), (0.3, 5), (2e3, 20e3)),
    _Group(8, (2e6, 10e6), (22, 30), (60e3, 90e3)),
    _Group(4, (700e6, 1_200e6), (7, 12), (15e3, 30e3)),
)


def sample_country_years() -> pl.DataFrame:
    """The same rows at every call: 60 countries, a row a year, with the columns of COLUMNS.

    They are called "Sampleland 01" and so on, with codes from XAA on, which ISO 3166-1 leaves to users for ever.
    """
    # `random()` alone is promised to draw the same in every Python.
    draw = random.Random(_SEED)  # noqa: S311  # nothing secret

    def between(bounds: tuple[float, float]) -> float:
        return bounds[0] + (bounds[1] - bounds[0]) * draw.random()

    rows = []
    for number, group in enumerate(one for one in _GROUPS for _ in range(one.countries)):
        people, tonnes, gdp = (
            between(group.population),
            between(group.tonnes_a_head),
            between(group.gdp_a_head),
        )
        for year in YEARS:
            growth = 0.985 ** (YEARS[-1] - year)
            population = round(people * growth)
            a_head = tonnes * (0.95 + 0.1 * draw.random())
            rows.append(
                {
                    "country": f"Sampleland {number + 1:02}",
                    "year": year,
                    "iso_code": f"X{chr(65 + number // 26)}{chr(65 + number % 26)}",
                    "population": population,
                    "gdp": round(gdp * growth * population, 2),
                    "co2": round(a_head * population / 1e6, 3),
                    "co2_per_capita": round(a_head, 3),
                }
            )
    return pl.DataFrame(rows, schema=COLUMNS)
