"""K-means over countries: features in, clusters out.

Here belong: recipes (what is compared, into how many clusters), the clustering itself (pure functions) and
the one runner, which reads ``countries.mart_country_features`` and writes ``ml.*``. Not here: the making of
features (dbt), the views that people read (dbt), orchestration (Dagster, which is never imported).
"""
