"""Kafka to Postgres, exactly once: consume, decode, load, offsets, dead letters."""
