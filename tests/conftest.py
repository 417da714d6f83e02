"""How `pytest --numprocesses` shares the tests out, each process with servers of its own."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class _ByServers(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps a folder of integration tests, or Superset's, which share servers, in one process; others go by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        _, level, *rest = file.split("/")
        return rest[0] if level == "integration" or rest[0] == "superset" else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    # Not `--dist loadgroup`: with this pytest it passes over the groups, and says nothing.
    return _ByServers(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest: what is short fills the gaps in the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (not {"faults", "e2e"} & set(item.path.parts), "unit" in item.path.parts))
