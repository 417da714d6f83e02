"""Change capture: the connectors that Kafka Connect runs for us, and the slots that they read databases through.

Decoding what they write is the sink's.
"""
