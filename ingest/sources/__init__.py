"""What brings data in, one module a source. Knows topics and contracts, never the warehouse."""
