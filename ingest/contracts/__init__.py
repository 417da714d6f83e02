"""One Avro schema a topic, and what is made from it. Never reads or writes data."""
