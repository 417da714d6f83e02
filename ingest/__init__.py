"""Brings data in: Kafka and APIs to the Postgres schema raw. Never imports Dagster, dbt or ml."""
