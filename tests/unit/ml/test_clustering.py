"""Laws of the clustering, on any countries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ml.clustering import cluster, numbered_by, standardise
from ml.features import CountryFeatures, FeaturesError
from ml.recipes import FOUR_MEANS, Recipe

FEW_STARTS = Recipe("four_means", 3, FOUR_MEANS.measures, starts=5)


def country(name: str, co2: float, per_capita: float = 1.0, gdp: float = 1.0) -> CountryFeatures:
    return CountryFeatures(name, name[:3].upper(), co2, per_capita, gdp, 1e6, 10, 2000, 2009, co2, False)


amounts = st.floats(0, 1e4, allow_nan=False).map(lambda value: round(value, 3))
some_countries = st.lists(
    st.builds(
        country,
        st.text("abcdefghij", min_size=3, max_size=8),
        co2=amounts,
        per_capita=amounts,
        gdp=amounts,
    ),
    min_size=5,
    max_size=30,
    unique_by=lambda row: row.country,
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(some_countries, st.randoms(use_true_random=False))
def test_cluster_numbers_rise_with_mean_co2_in_whatever_order_rows_come(rows, chance) -> None:
    assume(len({FOUR_MEANS.measures(row) for row in rows}) > 3)
    clustering = cluster(rows, FEW_STARTS)
    means = [stats.avg_co2_cluster for stats in clustering.stats]
    assert means == sorted(means)
    assert sum(clustering.sizes) == len(rows)
    assert min(clustering.sizes) > 0
    assert cluster(chance.sample(rows, len(rows)), FEW_STARTS) == clustering


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), amounts), min_size=1, max_size=40), st.permutations(range(4)))
def test_numbers_do_not_depend_on_the_labels_k_means_gave(rows, permutation) -> None:
    labels = np.array([label for label, _ in rows])
    values = np.array([value for _, value in rows])
    renamed = np.array([permutation[label] for label in labels])
    assert numbered_by(values, labels).tolist() == numbered_by(values, renamed).tolist()


def test_stats_are_means_of_the_members() -> None:
    rows = [country(f"low{n}", co2=n, per_capita=2.0, gdp=4.0) for n in range(4)]
    rows += [country("mid", co2=500, gdp=90.0), country("top", co2=9000, gdp=900.0)]
    stats = cluster(rows, FEW_STARTS).stats
    assert [(row.cluster, row.num_countries) for row in stats] == [(0, 4), (1, 1), (2, 1)]
    assert stats[0].avg_co2_cluster == pytest.approx(1.5)
    assert stats[0].avg_co2_per_capita_cluster == 2.0
    assert stats[1].avg_gdp_cluster == 90.0


def test_standardised_columns_have_mean_0_and_sample_deviation_1() -> None:
    measures = standardise(np.array([[1.0, 0.1], [2.0, 0.1], [6.0, 0.1]]))
    assert measures[:, 0].mean() == pytest.approx(0)
    assert measures[:, 0].std(ddof=1) == pytest.approx(1)
    assert measures[:, 1].tolist() == [0, 0, 0]


def test_no_countries_is_a_sentence_that_says_what_to_run() -> None:
    with pytest.raises(FeaturesError, match="is empty: run `scopehouse produce country-emissions`"):
        cluster([], FOUR_MEANS)


def test_fewer_different_countries_than_clusters_need_is_refused() -> None:
    rows = [country("one", 1), country("two", 2), country("three", 2)]
    with pytest.raises(FeaturesError, match=r"more than 3 different countries, .* has 2"):
        cluster(rows, FOUR_MEANS)
