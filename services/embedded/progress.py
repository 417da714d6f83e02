"""How the embedded servers tell what they are doing."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Called with a task's name ("jars", a server's name), what it does now, and how far it is (0 to 1) if known.

    May be called from several threads.
    """

    def __call__(self, task: str, doing: str, fraction: float | None = None) -> None:
        """Show it."""


def silent(task: str, doing: str, fraction: float | None = None) -> None:
    """Show nothing."""
