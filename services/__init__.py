"""The servers Scopehouse runs on, and every setting. Knows nothing of topics or models."""
