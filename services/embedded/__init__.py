"""Postgres, Kafka and the schema registry from packages, without Docker."""
