"""What Kafka Connect runs: one file a connector, applied as it lies here. What differs from place to place comes from
the worker's environment (${env:NAME})."""
