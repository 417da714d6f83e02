"""Assets, checks, jobs and resources. Thin: calls ingest, dbt and ml; holds no logic of its own."""
