"""The dbt project run inside this process: its manifest, and builds of chosen nodes.

A `dbt` process for each build would import dbt anew (4 s), and dagster-dbt starts another one just to ask for its
version, which goes to the network. Here it is imported once (docs/decisions).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster_pipelines.dbt_invocation import invoke_dbt
from services.errors import MendableError
from services.settings import PROJECT_ROOT, Settings, SettingsError, postgres_environment

PROJECT_FOLDER = PROJECT_ROOT / "dbt_project"
# dbt reads its profile even to parse; where no warehouse is set, this stands for it and is never connected to.
_NO_WAREHOUSE = "postgresql://nobody@127.0.0.1:1/nowhere"


class DbtError(MendableError):
    """dbt could not do what it was asked; the message is dbt's own."""


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What became of one node of a build, in the order in which they ended.

    ``status`` is dbt's: success, error or skipped of a model or seed; pass, warn, fail, error or skipped of a test.
    ``failures`` is how many rows a test found.
    """

    unique_id: str
    name: str
    status: str
    seconds: float
    message: str
    failures: int | None

    @property
    def has_failed(self) -> bool:
        """Whether dbt counts it as an error: what depends on it was skipped."""
        return self.status in ("error", "fail", "runtime error", "partial success")


@dataclass(frozen=True, slots=True)
class DbtProject:
    """The dbt project, with a target folder of Dagster's own, so that nobody's `dbt run` is disturbed."""

    settings: Settings
    folder: Path = PROJECT_FOLDER

    @property
    def target(self) -> Path:
        """Where dbt writes its manifest and compiled SQL."""
        return self.settings.state_dir / "dbt"

    def manifest(self) -> Mapping[str, Any]:
        """The project's manifest, parsed anew when a file of the project is newer than it.

        Needs no server.

        Raises:
            DbtError: the project can't be parsed.
        """
        path = self.target / "manifest.json"
        self.target.mkdir(parents=True, exist_ok=True)
        with (self.target / "manifest.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists() or path.stat().st_mtime < self._last_change():
                try:
                    url = self.settings.url_of("transform")
                except SettingsError:
                    url = _NO_WAREHOUSE
                self._invoke(url, ["parse"])
                # A parse that found nothing changed leaves the file alone.
                path.touch()
            manifest: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return manifest

    def build(self, selection: Sequence[str]) -> list[NodeResult]:
        """`dbt build` of just the nodes selected (dbt's selectors), in order; a failed node stops what needs it.

        Raises:
            DbtError: dbt stopped before it ran a node. That nodes failed is no error here: look at the results.
            SettingsError: no Postgres is set.
        """
        words = ["build", "--no-write-json", "--indirect-selection", "empty", "--select", *selection]
        result = self._invoke(self.settings.url_of("transform"), words)
        return [
            NodeResult(
                unique_id=each.node.unique_id,
                name=each.node.name,
                status=str(each.status),
                seconds=round(each.execution_time, 3),
                message=each.message or "",
                failures=each.failures,
            )
            for each in result.results
        ]

    def _last_change(self) -> float:
        """When a file or folder of the project was last changed; a folder changes when a file goes."""
        roots = [self.folder / name for name in ("models", "macros", "snapshots", "tests")]
        paths = [self.folder / "dbt_project.yml", self.folder / "profiles.yml"]
        for root in (*roots, self.folder.parent / "seeds"):
            paths += [root, *root.rglob("*")]
        return max(path.stat().st_mtime for path in paths if path.exists())

    def _invoke(self, url: str, words: list[str]) -> Any:
        arguments = [
            *("--log-level", "none", "--log-level-file", "info"),
            *("--log-path", str(self.settings.state_dir / "logs")),
            "--no-send-anonymous-usage-stats",
            *words,
            *("--project-dir", str(self.folder)),
            *("--profiles-dir", str(self.folder)),
            *("--target-path", str(self.target)),
        ]
        with _connection_in_environment(url):
            outcome = invoke_dbt(arguments)
        if outcome.exception is not None:
            said = " ".join(str(outcome.exception).split())
            raise DbtError(f"dbt {words[0]} failed: {said}") from outcome.exception
        return outcome.result


@contextmanager
def _connection_in_environment(url: str) -> Iterator[None]:
    """The PG* variables of `url`, which dbt's profile reads, for as long as the block runs."""
    own = postgres_environment(url)
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
