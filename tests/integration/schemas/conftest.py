"""The same topics with contracts of their own as the dead letters' tests."""

from tests.integration.dead_letters.conftest import world

__all__ = ["world"]
