"""K-means: features in, clusters out. Pure functions and one runner. Never imports Dagster."""
