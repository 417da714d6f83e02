"""The fingerprint of the input, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ml.features import CountryFeatures, FeaturesError, fingerprint, in_order

NORWAY = CountryFeatures("Norway", "NOR", 40.0, 9.0, 2e11, 4e6, 74, 1949, 2022, 43.5, False)
SWEDEN = replace(NORWAY, country="Sweden", iso_code="SWE", avg_co2_recent=None)


def test_the_fingerprint_ignores_order() -> None:
    assert fingerprint([NORWAY, SWEDEN]) == fingerprint([SWEDEN, NORWAY])


@pytest.mark.parametrize(
    "change",
    [
        {"avg_gdp": math.nextafter(2e11, 3e11)},
        {"avg_co2_recent": None},
        {"iso_code": "NO"},
        {"is_sample": True},
        {"data_points": 75},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_sees_every_column(change) -> None:
    assert fingerprint([NORWAY, SWEDEN]) != fingerprint([replace(NORWAY, **change), SWEDEN])


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_mean_that_is_no_number_is_refused_by_name(value) -> None:
    with pytest.raises(FeaturesError, match=r"avg_gdp of Sweden .* is .*, not a number"):
        in_order([NORWAY, replace(SWEDEN, avg_gdp=value)])


def test_a_country_twice_is_refused() -> None:
    with pytest.raises(FeaturesError, match=r"Norway is in .* twice"):
        in_order([NORWAY, SWEDEN, NORWAY])
