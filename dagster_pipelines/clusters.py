"""The clusters of countries as assets."""

from collections.abc import Iterator

import dagster as dg

from services.settings import Settings

FEATURES = dg.AssetKey(["countries", "mart_country_features"])
RUNS = dg.AssetKey(["ml", "cluster_runs"])
_TABLES = {
    RUNS: "One row a run of K-means.",
    dg.AssetKey(["ml", "co2_clusters"]): "One row a country and run: its features and its cluster.",
    dg.AssetKey(["ml", "cluster_stats"]): "One row a cluster and run: means over its countries.",
}


@dg.multi_asset(
    name="cluster_countries",
    specs=[
        dg.AssetSpec(
            key,
            deps=[FEATURES],
            group_name="countries",
            description=description,
            kinds={"scikitlearn", "postgres"},
        )
        for key, description in _TABLES.items()
    ],
)
def cluster_countries(settings: dg.ResourceParam[Settings]) -> Iterator[dg.MaterializeResult]:
    """Cluster the countries of the mart anew; all three tables get the run's rows in one transaction."""
    from ml.run import run  # scikit-learn takes seconds to import, and a graph can be shown without it

    written = run(settings)
    metadata = {
        "run_id": written.run_id,
        "recipe": written.recipe,
        "countries": written.input_row_count,
        "sizes": list(written.sizes),
        "inertia": written.inertia,
        "silhouette": written.silhouette,
        "is_sample": written.is_sample,
    }
    for key in _TABLES:
        yield dg.MaterializeResult(asset_key=key, metadata=metadata)
