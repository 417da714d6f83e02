"""The answer for Our World in Data's file, which must be the same whatever the order of its rows."""

from __future__ import annotations

import random
from dataclasses import replace

from ml.clustering import cluster
from ml.features import CountryFeatures, fingerprint
from ml.recipes import FOUR_MEANS

SHUFFLES = 20


def members(rows: list[CountryFeatures], seed: int = FOUR_MEANS.seed) -> dict[str, int]:
    recipe = replace(FOUR_MEANS, seed=seed)
    return {country.features.country: country.cluster for country in cluster(rows, recipe).countries}


def test_164_countries_fall_into_156_5_and_3(owid_countries: list[CountryFeatures]) -> None:
    clustering = cluster(owid_countries, FOUR_MEANS)
    assert len(clustering.countries) == 164
    assert sorted(clustering.sizes) == [3, 5, 156]


def test_numbers_say_who_emits_more(owid_countries: list[CountryFeatures]) -> None:
    """Five small states that emit much a head emit little in all: they come below "everyone else"."""
    clustering = cluster(owid_countries, FOUR_MEANS)
    assert clustering.sizes == (5, 156, 3)
    codes = [
        {country.features.iso_code for country in clustering.countries if country.cluster == number}
        for number in range(3)
    ]
    assert codes[0] == {"ARE", "BHR", "KWT", "LUX", "QAT"}
    assert codes[2] == {"CHN", "IND", "USA"}


def test_a_second_run_gives_the_same_to_the_last_bit(owid_countries: list[CountryFeatures]) -> None:
    assert cluster(owid_countries, FOUR_MEANS) == cluster(owid_countries, FOUR_MEANS)


def test_shuffled_rows_give_the_same_to_the_last_bit(owid_countries: list[CountryFeatures]) -> None:
    expected, expected_hash = cluster(owid_countries, FOUR_MEANS), fingerprint(owid_countries)
    for seed in range(SHUFFLES):
        shuffled = random.Random(seed).sample(owid_countries, len(owid_countries))
        assert shuffled != owid_countries
        assert cluster(shuffled, FOUR_MEANS) == expected
        assert fingerprint(shuffled) == expected_hash


def test_the_seed_does_not_choose_the_answer(owid_countries: list[CountryFeatures]) -> None:
    """The rows are sorted before they are clustered, so that only other seeds show that the starts suffice."""
    expected = members(owid_countries)
    for seed in range(SHUFFLES):
        assert members(owid_countries, seed) == expected


def test_micro_batches_clustered_by_themselves_would_not_agree(owid_countries: list[CountryFeatures]) -> None:
    """What the original did, and why the runner always reads the whole mart."""
    whole = members(owid_countries)
    half = sorted(owid_countries, key=lambda row: row.country)[: len(owid_countries) // 2]
    alone = members(half)
    assert any(alone[row.country] != whole[row.country] for row in half)
