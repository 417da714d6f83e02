"""K-means: pure functions from features to clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from ml.features import CountryFeatures, FeaturesError, in_order
from ml.recipes import Recipe


@dataclass(frozen=True, slots=True)
class ClusteredCountry:
    """A country and its cluster: 0 emits least on average, k - 1 most."""

    features: CountryFeatures
    cluster: int


@dataclass(frozen=True, slots=True)
class ClusterStats:
    """Means over the countries of one cluster, in the units of `CountryFeatures`."""

    cluster: int
    num_countries: int
    avg_co2_cluster: float
    avg_co2_per_capita_cluster: float
    avg_gdp_cluster: float


@dataclass(frozen=True, slots=True)
class Clustering:
    """Clusters of a set of countries.

    ``countries`` are in order of name, ``stats`` and ``sizes`` in order of cluster. ``inertia`` is the sum of
    squared distances to the clusters' centres in standardised measures; ``silhouette`` is the mean over
    countries, -1 to 1.
    """

    countries: tuple[ClusteredCountry, ...]
    stats: tuple[ClusterStats, ...]
    inertia: float
    silhouette: float

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many countries each cluster holds."""
        return tuple(stats.num_countries for stats in self.stats)


def standardise(measures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns with mean 0 and sample standard deviation 1; a column that does not vary becomes zeros.

    Takes and returns an array of shape (countries, measures). The original (Spark) does not centre; K-means
    does not see the difference, floating point does.
    """
    varies = measures.min(axis=0) < measures.max(axis=0)
    deviation = np.where(varies, measures.std(axis=0, ddof=1), 1.0)
    centred = np.where(varies, measures - measures.mean(axis=0), 0.0)
    return np.asarray(centred / deviation, dtype=np.float64)


def numbered_by(values: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels renumbered 0, 1, ... by the mean of `values` in each, so that a number keeps its meaning.

    Clusters of equal mean keep the order in which they first occur. Both arrays have shape (countries,).
    """
    found, first = np.unique(labels, return_index=True)
    means = [values[labels == label].mean() for label in found]
    order = sorted(range(len(found)), key=lambda index: (means[index], first[index]))
    rank = {int(found[index]): number for number, index in enumerate(order)}
    return np.array([rank[int(label)] for label in labels], dtype=np.int64)


def cluster(rows: Sequence[CountryFeatures], recipe: Recipe) -> Clustering:
    """Cluster countries by `recipe`; the answer does not depend on the order of the rows.

    Raises:
        FeaturesError: the rows can't be clustered: too few, repeated, or not numbers.
    """
    ordered = in_order(rows)
    if not ordered:
        raise FeaturesError(
            "countries.mart_country_features is empty: run `scopehouse produce country-emissions`, "
            "`scopehouse ingest drain` and `dbt build` first."
        )
    measures = standardise(np.array([recipe.measures(row) for row in ordered], dtype=np.float64))
    distinct = len(np.unique(measures, axis=0))
    if distinct <= recipe.k:
        raise FeaturesError(
            f"{recipe.k} clusters need more than {recipe.k} different countries, and "
            f"countries.mart_country_features has {distinct}: ingest more of them and run `dbt build`."
        )
    # Sorted rows and a seed make the answer repeatable to the last bit; the many starts make it right.
    # One thread: how sums are split over threads shows in the last bit, and threads wait for each other longer
    # than they compute (0.2 s instead of 2 s for 164 countries on two busy cores).
    with threadpool_limits(1):
        model = KMeans(n_clusters=recipe.k, n_init=recipe.starts, random_state=recipe.seed).fit(measures)
        silhouette = float(silhouette_score(measures, model.labels_))
    emissions = np.array([row.avg_co2 for row in ordered], dtype=np.float64)
    labels = numbered_by(emissions, model.labels_.astype(np.int64))
    countries = tuple(ClusteredCountry(row, int(label)) for row, label in zip(ordered, labels, strict=True))
    return Clustering(
        countries=countries,
        stats=tuple(_stats(number, countries) for number in range(recipe.k)),
        inertia=float(model.inertia_),
        silhouette=silhouette,
    )


def _stats(number: int, countries: Sequence[ClusteredCountry]) -> ClusterStats:
    members = [country.features for country in countries if country.cluster == number]
    return ClusterStats(
        cluster=number,
        num_countries=len(members),
        avg_co2_cluster=float(np.mean([member.avg_co2 for member in members])),
        avg_co2_per_capita_cluster=float(np.mean([member.avg_co2_per_capita for member in members])),
        avg_gdp_cluster=float(np.mean([member.avg_gdp for member in members])),
    )
